"""What of a release a proxy may read, and for how long."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import releases, slots, static
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.files import link_atomic
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.static import StaticFiles

WANTED = StaticFiles({"/static": "out"}, "[.-][0-9a-f]{12,}[.]")
OLD, NEW = "site.0123456789ab.css", "site.ba9876543210.css"
Build = Callable[..., Path]


@pytest.fixture
def build(app: Layout, stage: Callable[..., None]) -> Build:
    """Stages releases with files of their own; returns the directory of their app."""

    def make(release: str, *names: str, day: int = 1) -> Path:
        stage(release, f"2026-01-0{day}T00:00:00+00:00")
        (app.release(release) / "source" / "web").mkdir(parents=True)
        (app.release(release) / "app").symlink_to("source/web")
        directory = app.release(release) / "source" / "web"
        for name in ("out/site.css", *names):
            path = directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(release, encoding="utf-8")
            path.chmod(0o600)
        return directory

    return make


def published(app: Layout, slot: str) -> list[str]:
    """Returns the files that a slot's link leads to."""
    root = app.static_link(slot)
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def shared(app: Layout) -> list[str]:
    """Returns the names of the files that all releases share."""
    return sorted(path.name for path in app.static_shared.rglob("*") if path.is_file())


def serve(app: Layout, slot: str, release: str) -> None:
    """Points a slot at a release, as a rollout does."""
    link_atomic(app.slot_link(slot), f"../releases/{release}")
    static.point(app, slot, release)


def test_each_slot_leads_to_the_files_of_its_release(app: Layout, build: Build) -> None:
    # before anything was published
    build("one")
    serve(app, "blue", "one")
    assert not app.static_link("blue").is_symlink()
    static.publish(app, "one", WANTED)
    build("two", "out/deep/er/x.js")
    static.publish(app, "two", WANTED)
    serve(app, "green", "two")
    assert published(app, "blue") == ["static/site.css"]
    assert published(app, "green") == ["static/deep/er/x.js", "static/site.css"]
    assert (app.static_link("blue") / "static/site.css").read_text() == "one"
    serve(app, "blue", "two")
    assert (app.static_link("blue") / "static/site.css").read_text() == "two"


def test_everybody_may_read_it_whatever_the_umask_and_the_modes(app: Layout, build: Build) -> None:
    build("one", "out/deep/x.js", f"out/{OLD}")
    former = os.umask(0o077)
    try:
        static.publish(app, "one", WANTED)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(former)
    for path in (app.root / "static").rglob("*"):
        if not path.is_symlink():
            assert path.stat().st_mode & 0o777 == (0o755 if path.is_dir() else 0o644), path


def test_links_and_what_is_hidden_stay_in_the_release(
    app: Layout, build: Build, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("nobody", encoding="utf-8")
    directory = build("one", "out/.env", "out/.git/config", "settings.py")
    (directory / "out" / "file").symlink_to(secret)
    (directory / "out" / "directory").symlink_to(tmp_path)
    (directory / "out" / "inside").symlink_to("../settings.py")
    os.mkfifo(directory / "out" / "pipe")
    static.publish(app, "one", WANTED)
    serve(app, "blue", "one")
    assert published(app, "blue") == ["static/site.css"]
    assert not any(path.is_symlink() for path in app.static_release("one").glob("current/**/*"))


@pytest.mark.parametrize("name", ["link", "link/below", "none", "file"])
def test_no_directory_in_the_release_is_refused(
    app: Layout, build: Build, tmp_path: Path, name: str
) -> None:
    directory = build("one", "file")
    (tmp_path / "below").mkdir()
    (directory / "link").symlink_to(tmp_path)
    with pytest.raises(DeployError, match=r"release one has no directory .* or a link"):
        static.publish(app, "one", StaticFiles({"/a": "out", "/b": name}))
    assert not static.is_published(app, "one", StaticFiles({"/a": "out", "/b": name}))
    assert not shared(app)


def test_it_is_known_what_was_published(app: Layout, build: Build) -> None:
    build("one", "more/x.js")
    assert static.is_published(app, "one", StaticFiles())
    assert not static.is_published(app, "one", WANTED)
    static.publish(app, "one", WANTED)
    assert static.is_published(app, "one", WANTED)
    serve(app, "blue", "one")
    other = StaticFiles({"/static": "out", "/more": "more"}, WANTED.hashed)
    assert not static.is_published(app, "one", other)
    static.publish(app, "one", other)
    assert published(app, "blue") == ["more/x.js", "static/site.css"]
    assert len(list(app.static_release("one").iterdir())) == 2
    static.publish(app, "one", StaticFiles())
    assert static.is_published(app, "one", StaticFiles())
    assert published(app, "blue") == []


def test_pages_of_all_releases_find_what_is_named_after_its_content(
    app: Layout, build: Build
) -> None:
    for day, (release, names) in enumerate(
        {"one": [OLD], "two": [OLD, NEW], "three": [NEW]}.items(), start=1
    ):
        build(release, *(f"out/{name}" for name in names), day=day)
        static.publish(app, release, WANTED)
    assert shared(app) == [OLD, NEW]
    # the shared one is of the release that goes, and another one still has it
    static.withdraw(app, "two")
    assert shared(app) == [OLD, NEW]
    releases.prune(app, 1, [])
    assert app.staged_releases() == ["three"]
    assert shared(app) == [NEW]
    assert [path.name for path in app.static_release("three").parent.iterdir()] == ["three"]


def test_another_rule_for_names_takes_back_what_was_shared(app: Layout, build: Build) -> None:
    build("one", f"out/{OLD}", "out/app-Dx3_k9Q1.js")
    static.publish(app, "one", WANTED)
    assert shared(app) == [OLD]
    static.publish(app, "one", StaticFiles(WANTED.directories, "-[A-Za-z0-9_]{8}[.]"))
    assert shared(app) == ["app-Dx3_k9Q1.js"]
    static.publish(app, "one", StaticFiles(WANTED.directories))
    assert shared(app) == []


def test_a_run_that_was_killed_is_finished(app: Layout, build: Build) -> None:
    build("one", f"out/{OLD}")
    leftover = app.static_release("one") / f".{WANTED.digest}" / "static"
    leftover.mkdir(parents=True)
    (leftover / "half").touch()
    (app.static_shared / "static").mkdir(parents=True)
    (app.static_shared / "static" / f".{OLD}.new").touch()
    assert not static.is_published(app, "one", WANTED)
    static.publish(app, "one", WANTED)
    serve(app, "blue", "one")
    assert published(app, "blue") == [f"static/{OLD}", "static/site.css"]
    assert shared(app) == [OLD]


def test_times_of_the_source_say_nothing(app: Layout, build: Build) -> None:
    """Sources come with times that are alike, and a proxy makes the ETag of time and size."""
    directory = build("one")
    os.utime(directory / "out" / "site.css", (0, 0))
    static.publish(app, "one", WANTED)
    assert (app.static_release("one") / "current/static/site.css").stat().st_mtime > 1


def test_a_slot_that_is_restored_leads_to_what_it_had(
    app: Layout, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots.systemd, "systemctl", lambda *_words, **_options: "")
    for release in ("one", "two"):
        build(release)
        static.publish(app, release, WANTED)
    serve(app, "green", "two")
    slots.restore(app, "green", slots.Snapshot({}, "one"))
    assert (app.static_link("green") / "static/site.css").read_text() == "one"
    slots.restore(app, "green", slots.Snapshot({}, None))
    assert not app.static_link("green").is_symlink()

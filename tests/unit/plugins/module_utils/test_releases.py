"""Releases on a host, as far as neither root nor systemd is needed."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import releases
from ansible_collections.asgi.deploy.plugins.module_utils.contained import Contained
from ansible_collections.asgi.deploy.plugins.module_utils.dependencies import Dependencies
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.files import link_atomic
from ansible_collections.asgi.deploy.plugins.module_utils.import_check import ImportCheck
from ansible_collections.asgi.deploy.plugins.module_utils.installers import (
    Build,
    Builder,
    BuildSettings,
)
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.releases import StageRequest
from ansible_collections.asgi.deploy.plugins.module_utils.static import StaticFiles, publish

#: Built in this order; the names sort in another one.
ORDER = ("d", "b", "e", "a", "c")


@pytest.fixture
def five(app: Layout, stage: Callable[..., None]) -> Layout:
    """An app with five releases."""
    for day, release in enumerate(ORDER, start=1):
        stage(release, f"2026-01-0{day}T00:00:00+00:00")
    return app


@pytest.mark.parametrize(
    ("keep", "needed", "left"),
    [
        (5, [], "dbeac"),
        (9, [], "dbeac"),
        (2, [], "ac"),
        (2, ["d"], "dac"),
        (2, ["d", "e"], "deac"),
        (2, ["a", "c"], "ac"),
        (2, ["gone"], "ac"),
        (0, ["b"], "b"),
    ],
)
def test_prune_keeps_the_newest_and_the_needed(
    five: Layout, keep: int, needed: Sequence[str], left: str
) -> None:
    removed = releases.prune(five, keep, needed)
    assert five.staged_releases() == sorted(left)
    assert sorted(removed) == sorted(set(ORDER) - set(left))
    assert sorted(path.name for path in five.releases.iterdir()) == sorted(left)


def test_prune_leaves_alone_what_is_no_whole_release(five: Layout) -> None:
    (five.releases / "no-manifest").mkdir()
    releases.prune(five, 0, [])
    assert [path.name for path in five.releases.iterdir()] == ["no-manifest"]


def test_half_a_release_is_removed_unless_a_slot_runs_it(five: Layout) -> None:
    for name in ("half", "used"):
        (five.releases / name).mkdir()
    five.slot_link("blue").symlink_to("../releases/used")
    # its directory was removed by hand
    five.manifest("gone").write_text("{}", encoding="utf-8")
    releases.remove_unfinished(five)
    assert sorted(path.name for path in five.releases.iterdir()) == sorted([*ORDER, "used"])
    assert sorted(path.stem for path in five.manifests.iterdir()) == sorted(ORDER)
    with pytest.raises(DeployError, match="no release gone on this host"):
        releases.read_manifest(five, "gone")


def test_the_manifest_of_a_release_is_read(app: Layout, stage: Callable[..., None]) -> None:
    stage("1.0.0-abc", commit="c0ffee")
    assert releases.read_manifest(app, "1.0.0-abc")["commit"] == "c0ffee"


def test_an_unknown_release_is_refused_with_the_known_ones(five: Layout) -> None:
    with pytest.raises(DeployError, match=r"no release 1\.0\.0-gone on this host") as caught:
        releases.read_manifest(five, "1.0.0-gone")
    assert caught.value.message.endswith("it has: a, b, c, d, e")


@pytest.mark.parametrize("content", ["", "{", '{"release": "1.0.0-abc"', "built"])
def test_a_broken_manifest_is_named_with_what_to_do(
    app: Layout, stage: Callable[..., None], content: str
) -> None:
    """A disk was full, or the file was edited."""
    stage("1.0.0-abc")
    app.manifest("1.0.0-abc").write_text(content, encoding="utf-8")
    with pytest.raises(DeployError, match=r"cannot be read \(.+\); remove that file") as caught:
        releases.read_manifest(app, "1.0.0-abc")
    assert str(app.manifest("1.0.0-abc")) in caught.value.message


def test_a_damaged_manifest_is_pruned_like_the_oldest(five: Layout) -> None:
    five.manifest("c").write_text("{")
    assert releases.prune(five, 4, []) == ["c"]


def test_a_host_without_releases_says_so(app: Layout) -> None:
    with pytest.raises(DeployError, match="it has: none"):
        releases.read_manifest(app, "x")


def test_a_full_file_system_is_refused(app: Layout) -> None:
    releases.refuse_without_room(app.root, 0)
    with pytest.raises(DeployError, match="asgi_app_minimum_free_mebibytes") as caught:
        releases.refuse_without_room(app.root, 2**40)
    assert str(app.root) in caught.value.message
    assert "nothing was changed" in caught.value.message


def test_a_release_without_the_server_is_refused(app: Layout, stage: Callable[..., None]) -> None:
    """The same release can be asked to be served by another server than it was built for."""
    stage("1.0.0-abc")
    releases.refuse_without_server(app, "1.0.0-abc", "uvicorn")
    with pytest.raises(DeployError, match=r"uvicorn-worker is not installed in release 1\.0\.0"):
        releases.refuse_without_server(app, "1.0.0-abc", "uvicorn_worker")


def test_a_credential_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    releases.refuse_missing({"a": str(tmp_path / "there")})
    with pytest.raises(DeployError, match="asgi_app_credentials: there is no file") as caught:
        releases.refuse_missing({"a": str(tmp_path / "there"), "b": str(tmp_path / "none")})
    assert str(tmp_path / "none") in caught.value.message
    assert str(tmp_path / "there") not in caught.value.message


def test_a_directory_that_the_app_cannot_write_to_is_refused(tmp_path: Path) -> None:
    missing = tmp_path / "none"
    with pytest.raises(DeployError, match="asgi_service_writable_paths: there is no") as caught:
        releases.refuse_unwritable([str(tmp_path), str(missing)], "root")
    assert str(missing) in caught.value.message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_who_may_write_is_asked_with_all_groups_of_the_user() -> None:
    # not below what pytest makes, which other users cannot enter
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with pytest.raises(
            DeployError, match=f"nobody may not write to {name}.*chown nobody: {name}"
        ):
            releases.refuse_unwritable([name], "nobody")
        shutil.chown(directory, "nobody")
        releases.refuse_unwritable([name], "nobody")


def test_a_link_that_the_build_has_changed_is_refused(tmp_path: Path) -> None:
    """Root would publish files of whatever it leads to."""
    link, target = tmp_path / "app", Path("source/web")
    link.symlink_to(target)
    releases.refuse_other_link(link, target)
    link.unlink()
    link.symlink_to("../../../other")
    with pytest.raises(DeployError, match="the build has changed app"):
        releases.refuse_other_link(link, target)
    link.unlink()
    link.mkdir()
    with pytest.raises(DeployError, match="the build has changed app"):
        releases.refuse_other_link(link, target)


@pytest.mark.parametrize("planted", ["source", "source/web"])
def test_a_link_that_leads_out_of_the_source_is_refused(tmp_path: Path, planted: str) -> None:
    (tmp_path / "app").symlink_to("source/web")
    (tmp_path / planted).parent.mkdir(exist_ok=True)
    (tmp_path / planted).symlink_to("/etc")
    with pytest.raises(DeployError, match="the build has changed app"):
        releases.refuse_other_link(tmp_path / "app", Path("source/web"))


def test_a_link_inside_the_source_is_taken(tmp_path: Path) -> None:
    (tmp_path / "app").symlink_to("source/web")
    (tmp_path / "source/backend").mkdir(parents=True)
    (tmp_path / "source/web").symlink_to("backend")
    releases.refuse_other_link(tmp_path / "app", Path("source/web"))


# --- building -------------------------------------------------------------------------------------


class Checked:
    """Stands for the import check, which needs systemd."""

    entrypoint = "main:app"

    def __init__(self, error: str = "", found: str = "") -> None:
        self.error = error
        self.found = found
        self.credentials: dict[str, str] = {}

    def run(self, layout: Layout, release: str) -> dict[str, str]:
        """Takes the place of ImportCheck.run: by then the release is sealed, and no release yet."""
        directory = layout.release(release)
        assert directory.stat().st_mode & 0o777 == 0o750
        assert not layout.is_staged(release)
        if self.error:
            raise DeployError(self.error)
        return {"python": "3.11", "migration_heads_unknown": self.found}


@pytest.fixture
def request_for(
    app: Layout, tmp_path: Path, uncontained: Contained, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., StageRequest]:
    """Makes requests for releases whose virtual environment is only an interpreter."""

    def installed(self: Builder, _found: Dependencies) -> None:
        self.python.parent.mkdir(parents=True)
        self.python.symlink_to(sys.executable)
        name = "python{}.{}".format(*sys.version_info)
        (self.environment.directory / "lib" / name).mkdir(parents=True)

    monkeypatch.setattr(Builder, "install", installed)
    user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
    # only root can give directories away
    monkeypatch.setattr(shutil, "chown", lambda *_arguments: None)
    scripts = iter(range(100))

    def make(release: str, script: str = "true", error: str = "", found: str = "") -> StageRequest:
        source = tmp_path / f"source-{next(scripts)}"
        source.mkdir()
        (source / "build.sh").write_text(script)
        archive = source.with_suffix(".tar.gz")
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(source, ".")
        return StageRequest(
            release=release,
            archive=archive,
            manifest={"version": "1"},
            build=Build(BuildSettings(commands=["/bin/sh build.sh"]), "main:app"),
            dependencies=Dependencies("requirements.txt", ["requirements.txt"]),
            steps=uncontained,
            user=group,
            build_user=user,
            cache=tmp_path / "cache",
            import_check=cast("ImportCheck", Checked(error, found)),
        )

    return make


def test_a_release_counts_once_all_of_it_is_there(
    app: Layout, request_for: Callable[..., StageRequest]
) -> None:
    manifest = releases.stage(app, request_for("1", "chmod 777 .. ."))
    assert app.staged_releases() == ["1"]
    assert releases.read_manifest(app, "1") == manifest
    assert (manifest["release"], manifest["python"]) == ("1", "3.11")
    # outside of what a build can write to
    assert app.release("1") not in app.manifest("1").parents
    assert (app.release("1") / "source").stat().st_mode & 0o777 == 0o750


def test_a_manifest_which_any_user_can_read_has_no_secret(
    app: Layout, request_for: Callable[..., StageRequest]
) -> None:
    """What the app has said of its migrations is in it."""
    url = "postgresql://blog:a-pass-word@db/blog"
    (app.configuration / "secrets").write_text(f'DATABASE_URL="{url}"\n', encoding="utf-8")
    releases.stage(app, request_for("1", found=f"ValueError: cannot connect to {url!r}"))
    text = app.manifest("1").read_text(encoding="utf-8")
    assert "ValueError: cannot connect to '********'" in text
    assert "a-pass-word" not in text


@pytest.mark.parametrize(
    ("script", "error", "text"),
    [
        ("exit 3", "", "code 3"),
        ("true", "cannot be imported", "cannot be imported"),
        ("rm ../app && ln -s / ../app", "", "the build has changed app"),
    ],
)
def test_a_build_that_fails_leaves_no_release(
    app: Layout, request_for: Callable[..., StageRequest], script: str, error: str, text: str
) -> None:
    releases.stage(app, request_for("1"))
    with pytest.raises(DeployError, match=text):
        releases.stage(app, request_for("2", script, error))
    assert app.staged_releases() == ["1"]
    assert [path.name for path in app.releases.iterdir()] == ["1"]


def test_a_release_that_a_slot_runs_is_checked_and_not_built_again(
    app: Layout, request_for: Callable[..., StageRequest]
) -> None:
    """Its manifest was damaged and removed, as the error says."""
    releases.stage(app, request_for("1"))
    app.slot_link("blue").symlink_to("../releases/1")
    app.manifest("1").unlink()
    built = (app.release("1") / "venv").stat().st_ino
    with pytest.raises(DeployError, match="cannot be imported"):
        releases.stage(app, request_for("1", error="cannot be imported"))
    releases.stage(app, request_for("1"))
    assert app.staged_releases() == ["1"]
    assert (app.release("1") / "venv").stat().st_ino == built


def test_a_release_whose_directory_was_removed_is_built_again_whole(
    app: Layout, request_for: Callable[..., StageRequest]
) -> None:
    """A slot still points to it, which is no reason to keep half of it."""
    releases.stage(app, request_for("1"))
    app.slot_link("blue").symlink_to("../releases/1")
    shutil.rmtree(app.release("1"))
    with pytest.raises(DeployError, match="code 3"):
        releases.stage(app, request_for("1", "exit 3"))
    assert not app.release("1").exists()
    releases.stage(app, request_for("1", "touch built"))
    assert (app.release("1") / "source" / "built").exists()
    assert app.staged_releases() == ["1"]


def test_a_build_that_was_killed_is_removed_even_if_a_slot_points_to_it(
    app: Layout, request_for: Callable[..., StageRequest]
) -> None:
    app.slot_link("blue").symlink_to("../releases/1")
    app.release("1").mkdir()
    app.unsealed("1").touch()
    releases.stage(app, request_for("1", "touch built"))
    assert (app.release("1") / "source" / "built").exists()
    assert sorted(path.name for path in app.manifests.iterdir()) == ["1.json"]


# --- a release whose Python is gone ---------------------------------------------------------------


def interpreter(path: Path) -> Path:
    """Puts a program at a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)
    return path


@pytest.mark.parametrize(
    ("links", "problem"),
    [
        # as uv and as venv make it
        ({"python": "/bin/python3", "/bin/python3": "/bin/python3.11"}, ""),
        ({"python": "python3", "python3": "/bin/python3.11"}, ""),
        # a name without a version says nothing
        ({"python": "/opt/python"}, ""),
        ({"python": "/bin/python3", "/bin/python3": "/bin/python3.13"}, "is another version"),
        ({"python": "/bin/python3.13t"}, "is another version"),
        ({"python": "/bin/python3.10"}, "where no program is"),
        ({"python": "/bin/text"}, "where no program is"),
        ({"python": "python3", "python3": "python"}, "where no program is"),
        ({}, "where no program is"),
    ],
)
def test_the_python_of_a_release_is_followed_to_its_end(
    app: Layout, tmp_path: Path, links: dict[str, str], problem: str
) -> None:
    environment = app.release("1") / "venv"
    (environment / "lib" / "python3.11").mkdir(parents=True)
    (environment / "bin").mkdir()
    for name in ("bin/python3.11", "bin/python3.13", "bin/python3.13t", "opt/python"):
        interpreter(tmp_path / name)
    (tmp_path / "bin" / "text").touch(mode=0o644)
    for name, target in links.items():
        path = tmp_path / name[1:] if name.startswith("/") else environment / "bin" / name
        path.symlink_to(tmp_path / target[1:] if target.startswith("/") else target)
    found = releases.python_problem(app, "1")
    assert problem in found
    if not problem:
        assert found == ""
        releases.require_python(app, "1")
        return
    with pytest.raises(DeployError, match=r"release 1 cannot start, as its Python is gone: .+site"):
        releases.require_python(app, "1")


def lose_python(app: Layout, release: str) -> None:
    """Has the interpreter of a release lead nowhere."""
    program = app.release(release) / "venv" / "bin" / "python"
    program.unlink()
    program.symlink_to("/nowhere/python3")


def test_a_release_whose_python_is_gone_is_built_again(
    app: Layout, request_for: Callable[..., StageRequest]
) -> None:
    releases.stage(app, request_for("1", "touch first"))
    app.slot_link("green").symlink_to("../releases/1")
    lose_python(app, "1")
    releases.stage(app, request_for("1", "touch second"))
    assert releases.python_problem(app, "1") == ""
    assert (app.release("1") / "source" / "second").exists()
    assert not (app.release("1") / "source" / "first").exists()
    assert [path.name for path in app.releases.iterdir()] == ["1"]


@pytest.mark.parametrize("script", ["exit 3", "touch second"])
def test_a_live_release_keeps_its_files_while_it_is_built_again(
    app: Layout, request_for: Callable[..., StageRequest], script: str
) -> None:
    """Whether the build succeeds or fails; its processes work in its directory."""
    releases.stage(app, request_for("1", "touch first"))
    app.slot_link("blue").symlink_to("../releases/1")
    working = (app.release("1") / "source").stat().st_ino
    lose_python(app, "1")
    with contextlib.ExitStack() as stack:
        if script == "exit 3":
            stack.enter_context(pytest.raises(DeployError, match="code 3"))
        releases.stage(app, request_for("1", script))
    aside = "1.python-gone"
    assert app.slot_release("blue") == aside
    assert (app.slot_link("blue") / "source" / "first").exists()
    assert (app.release(aside) / "source").stat().st_ino == working
    # what is known of it, as its migrations, is needed as long as it is live
    assert releases.read_manifest(app, aside)["version"] == "1"
    assert app.is_staged("1") == (script != "exit 3")
    # a second time, as the other slot may still have it
    if app.is_staged("1"):
        app.slot_link("green").symlink_to(f"../releases/{aside}")
        link_atomic(app.slot_link("blue"), "../releases/1")
        lose_python(app, "1")
        releases.stage(app, request_for("1", "touch third"))
        assert (app.slot_link("blue") / "source" / "second").exists()


def test_the_static_files_of_a_live_release_stay_while_it_is_built_again(
    app: Layout, request_for: Callable[..., StageRequest]
) -> None:
    """The new build may have other ones, whose names are in its pages."""
    wanted = StaticFiles({"/static": "static"}, r"\.[0-9]+\.css")
    releases.stage(app, request_for("1", "mkdir static && echo first > static/page.1.css"))
    app.slot_link("blue").symlink_to("../releases/1")
    publish(app, "1", wanted)
    lose_python(app, "1")
    releases.stage(app, request_for("1", "mkdir static && echo second > static/page.2.css"))
    for _time in ("before it is published", "after"):
        live = app.static_link("blue") / "static"
        assert [path.read_text() for path in live.iterdir()] == ["first\n"]
        assert (app.static_shared / "static" / "page.1.css").read_text() == "first\n"
        publish(app, "1", wanted)
    new = app.static_release("1") / "current" / "static"
    assert [path.read_text() for path in new.iterdir()] == ["second\n"]
    link_atomic(app.slot_link("blue"), "../releases/1")
    releases.prune(app, 5, ["1"])
    assert [path.name for path in app.static_release("1").parent.iterdir()] == ["1"]
    assert [path.name for path in (app.static_shared / "static").iterdir()] == ["page.2.css"]


def test_a_run_that_was_killed_while_it_moved_a_live_release_is_finished(
    app: Layout, request_for: Callable[..., StageRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a deploy of any release."""
    releases.stage(app, request_for("1", "touch first"))
    app.slot_link("blue").symlink_to("../releases/1")
    lose_python(app, "1")

    def killed(_layout: Layout) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(releases, "repoint_live_slot", killed)
        with pytest.raises(KeyboardInterrupt):
            releases.clear_path(app, "1")
    assert not app.slot_link("blue").exists()
    releases.stage(app, request_for("2"))
    assert (app.slot_link("blue") / "source" / "first").exists()
    assert app.staged_releases() == ["1.python-gone", "2"]


def test_a_half_built_release_is_not_kept_for_a_slot(
    app: Layout, request_for: Callable[..., StageRequest]
) -> None:
    """A build can still write to it."""
    app.slot_link("blue").symlink_to("../releases/1")
    app.release("1").mkdir()
    app.unsealed("1").touch()
    releases.stage(app, request_for("1"))
    assert app.slot_release("blue") == "1"
    assert app.staged_releases() == ["1"]


def test_a_release_that_was_built_again_is_kept_as_long_as_a_slot_has_it(five: Layout) -> None:
    link_atomic(five.slot_link("blue"), "../releases/c")
    releases.clear_path(five, "c")
    assert releases.prune(five, 9, ["c.python-gone"]) == []
    assert releases.prune(five, 9, []) == ["c.python-gone"]
    assert five.staged_releases() == sorted({*ORDER} - {"c"})


def test_a_clean_up_that_fails_does_not_hide_why_the_build_failed(
    app: Layout, request_for: Callable[..., StageRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_path: Path) -> None:
        raise DeployError("cannot remove it")

    monkeypatch.setattr(releases, "remove_tree", fails)
    with pytest.raises(DeployError, match="code 3"):
        releases.stage(app, request_for("2", "exit 3"))
    # the next build says so
    with pytest.raises(DeployError, match="cannot remove it"):
        releases.stage(app, request_for("2"))

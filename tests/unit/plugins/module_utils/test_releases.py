"""Releases on a host, as far as neither root nor systemd is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import releases
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout

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
    (five.releases / ".building-x").mkdir()
    (five.releases / "no-manifest").mkdir()
    releases.prune(five, 0, [])
    assert sorted(path.name for path in five.releases.iterdir()) == [".building-x", "no-manifest"]


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
    """A disk was full, or somebody edited it; the release's own directory is all to be removed."""
    stage("1.0.0-abc")
    app.manifest("1.0.0-abc").write_text(content, encoding="utf-8")
    with pytest.raises(DeployError, match=r"cannot be read \(.+\); remove that release") as caught:
        releases.read_manifest(app, "1.0.0-abc")
    assert str(app.manifest("1.0.0-abc")) in caught.value.message


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

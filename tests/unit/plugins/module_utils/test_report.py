"""What a host says of an app, as far as no systemd is needed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import report, state
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout

MEBIBYTE = b"\1" * 2**20


def test_what_releases_share_is_counted_once(app: Layout, stage: Callable[..., None]) -> None:
    for release in "ab":
        stage(release)
        (app.release(release) / "own").write_bytes(2 * MEBIBYTE)
    (app.release("a") / "shared").write_bytes(4 * MEBIBYTE)
    os.link(app.release("a") / "shared", app.release("b") / "shared")
    # a link to elsewhere is not what the releases take
    (app.root / "elsewhere").write_bytes(16 * MEBIBYTE)
    (app.release("b") / "link").symlink_to(app.root / "elsewhere")
    (app.release("b") / "directory").symlink_to(app.root)
    found = report.disk(app)
    assert found["releases"] == 2
    assert found["releases_mebibytes"] == 8
    status = os.statvfs(app.root)
    assert abs(found["free_mebibytes"] - status.f_bavail * status.f_frsize // 2**20) < 500


def test_half_a_release_takes_room_and_is_none(app: Layout, stage: Callable[..., None]) -> None:
    stage("a")
    building = app.releases / "b"
    building.mkdir()
    (building / "file").write_bytes(3 * MEBIBYTE)
    found = report.disk(app)
    assert (found["releases"], found["releases_mebibytes"]) == (1, 3)


def test_a_host_without_the_app_has_a_disk_too(tmp_path: Path) -> None:
    found = report.disk(Layout("blog", tmp_path / "srv" / "blog"))
    assert (found["releases"], found["releases_mebibytes"]) == (0, 0)
    assert found["free_mebibytes"] > 0


@pytest.mark.parametrize(("asked", "told"), [(False, False), (True, True)])
def test_the_disk_is_measured_only_when_asked(
    app: Layout, monkeypatch: pytest.MonkeyPatch, asked: bool, told: bool
) -> None:
    monkeypatch.setattr(report.slots, "connections", lambda *_given: 0)
    found = report.report(app, ask_disk=asked)
    assert (found["disk"] is not None) is told


def test_a_release_whose_python_is_gone_is_none_to_go_back_to(
    app: Layout, stage: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report.slots, "connections", lambda *_arguments: 0)
    current = state.State()
    for release in "ab":
        stage(release)
        current.record(release=release, status=state.GOOD)
    state.save(app.state_file, current)
    (app.release("a") / "venv" / "bin" / "python").unlink()
    found = report.report(app)
    assert found["good_releases"] == ["b"]
    assert [bool(one["python_problem"]) for one in found["releases"]] == [True, False]


def test_one_damaged_manifest_hides_no_other_release(
    app: Layout, stage: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither status nor a rollback needs it."""
    stage("1", version="1.0")
    stage("2", version="2.0")
    app.manifest("1").write_text("{")
    monkeypatch.setattr(report.slots, "connections", lambda *_arguments: 0)
    first, second = report.report(app)["releases"]
    assert (first["release"], second["version"]) == ("1", "2.0")
    assert "remove that file and deploy the release again" in first["error"]

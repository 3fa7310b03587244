"""Reading what systemd prints."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import systemd

#: `systemctl show --property=...` of systemd 252 for a running, a failing and an unknown unit.
SHOWN = """\
MainPID=2417
NRestarts=0
ExecMainCode=0
ExecMainStatus=0
Result=success
MemoryCurrent=45203456
MemoryMax=536870912
Id=blog-blue@1.service
ActiveState=active
SubState=running
UnitFileState=enabled
ActiveEnterTimestamp=Sun 2026-11-22 13:50:01 UTC

MainPID=0
NRestarts=7
ExecMainCode=1
ExecMainStatus=3
Result=exit-code
MemoryCurrent=[not set]
MemoryMax=infinity
Id=blog-blue@2.service
ActiveState=activating
SubState=auto-restart
UnitFileState=enabled-runtime
ActiveEnterTimestamp=

MainPID=0
NRestarts=0
ExecMainCode=0
ExecMainStatus=0
Result=success
MemoryCurrent=18446744073709551615
MemoryMax=infinity
Id=gone.service
ActiveState=inactive
SubState=dead
UnitFileState=
ActiveEnterTimestamp=
"""


def test_parse_show() -> None:
    running, failing, unknown = systemd.parse_show(SHOWN)
    assert running == systemd.UnitStatus(
        name="blog-blue@1.service",
        active_state="active",
        sub_state="running",
        result="success",
        main_pid=2417,
        restarts=0,
        exit_code=0,
        memory_bytes=45203456,
        memory_max_bytes=512 * 2**20,
        since="Sun 2026-11-22 13:50:01 UTC",
        enabled=True,
    )
    assert running.running
    assert (failing.restarts, failing.exit_code, failing.result) == (7, 3, "exit-code")
    assert (failing.memory_bytes, failing.memory_max_bytes) == (None, None)
    assert not failing.running
    # enabled until the next boot only
    assert not failing.enabled
    assert unknown.memory_bytes is None
    assert not unknown.running


def test_a_unit_that_was_started_again_tells_how_it_ended() -> None:
    """`systemctl show` tells of the process that runs now."""
    (again,) = systemd.parse_show("Id=a.service\nResult=success\nExecMainStatus=0\nNRestarts=1\n")
    ends = (
        '{"EXIT_STATUS":"9","__CURSOR":"a"}\n{"UNIT_RESULT":"oom-kill","__CURSOR":"b"}\n'
        '{"EXIT_STATUS":"3","__CURSOR":"c"}\n{"UNIT_RESULT":"exit-code","__CURSOR":"d"}\n'
    )
    ended = systemd.parse_endings(again, ends)
    assert (ended.exit_code, ended.result) == (3, "exit-code")
    assert systemd.parse_endings(again, "") == again


def test_a_unit_that_starts_is_not_running() -> None:
    (starting,) = systemd.parse_show("Id=a.service\nActiveState=active\nSubState=start-post\n")
    assert not starting.running


def test_nothing_shown_is_no_unit() -> None:
    assert systemd.parse_show("") == []
    assert systemd.parse_show("\n") == []
    # asking for no unit at all would show the manager itself
    assert systemd.show([]) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("42", 42),
        ("9223372036854775807", 2**63 - 1),
        ("18446744073709551615", None),
        ("infinity", None),
        ("[not set]", None),
        ("", None),
        ("-1", None),
    ],
)
def test_number(text: str, value: int | None) -> None:
    assert systemd.number(text) == value


def test_enabled_units_are_links_of_a_target(tmp_path: Path) -> None:
    for target, unit in (
        ("multi-user.target.wants", "blog-blue@2.service"),
        ("multi-user.target.wants", "blog-blue@1.service"),
        ("other.target.wants", "blog-blue@1.service"),
        ("sockets.target.wants", "blog-blue@1.socket"),
        ("multi-user.target.wants", "blog-green@1.service"),
        ("multi-user.target.wants", "blog-blue-eyed@1.service"),
    ):
        (tmp_path / target).mkdir(exist_ok=True)
        # the unit file may be gone: the link still says that it would be started
        (tmp_path / target / unit).symlink_to(tmp_path / "gone")
    (tmp_path / "blog-blue@.service").touch()
    assert systemd.enabled("blog-blue@*.service", tmp_path) == [
        "blog-blue@1.service",
        "blog-blue@2.service",
    ]


def test_unit_files_are_made_changed_and_taken_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setattr(systemd, "systemctl", lambda *words: calls.append(words))
    same, other, old, never = (tmp_path / name for name in ("same", "other", "old", "never"))
    for path in (same, other, old):
        path.write_text("[Unit]\n", encoding="utf-8")
    wanted = {same: "[Unit]\n", other: "[Socket]\n", old: "", never: ""}
    assert systemd.install_unit_files(wanted) == [other, old]
    assert other.read_text(encoding="utf-8") == "[Socket]\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "same"]
    # once, whatever has changed; and not at all when nothing has
    assert systemd.install_unit_files(wanted) == []
    assert calls == [("daemon-reload",)]


@pytest.mark.parametrize(("version", "left"), [(252, "a\nRestartSec=1\nb\n"), (254, None)])
def test_what_a_host_would_only_warn_of_is_left_out(
    monkeypatch: pytest.MonkeyPatch, version: int, left: str | None
) -> None:
    text = "a\nRestartSec=1\nRestartSteps=10\nRestartMaxDelaySec=5\nb\n"
    monkeypatch.setattr(systemd, "version", lambda: version)
    found = systemd.understood({Path("/a"): text, Path("/b"): "RestartSec=1\n", Path("/c"): ""})
    assert found == {Path("/a"): left or text, Path("/b"): "RestartSec=1\n", Path("/c"): ""}


@pytest.mark.parametrize(("version", "left_out"), [(247, {"PrivateIPC"}), (248, set())])
def test_keys_that_a_host_is_too_old_for(
    monkeypatch: pytest.MonkeyPatch, version: int, left_out: set[str]
) -> None:
    monkeypatch.setattr(systemd, "version", lambda: version)
    assert systemd.unknown(["User", "PrivateIPC", "PrivateMounts"]) == left_out


def test_the_version_is_not_asked_for_where_all_hosts_know_the_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(systemd, "version", lambda: pytest.fail("asked for"))
    assert systemd.unknown(["User", "MemoryMax"]) == set()


def test_links_of_enabled_units_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("multi-user.target.wants", "timers.target.wants", "blog.service.d"):
        (tmp_path / name).mkdir()
    synced: list[str] = []
    monkeypatch.setattr(systemd, "sync_directory", lambda path: synced.append(path.name))
    systemd.sync_links(tmp_path)
    assert set(synced) == {tmp_path.name, "multi-user.target.wants", "timers.target.wants"}

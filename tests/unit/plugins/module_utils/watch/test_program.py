"""How the watch looks, and how it gets onto a host."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import locks, rollout, state, systemd
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.servers import entry
from ansible_collections.asgi.deploy.plugins.module_utils.watch import install, program
from ansible_collections.asgi.deploy.plugins.module_utils.watch.rules import Rules, Seen

MEBIBYTE = 2**20


def group(tmp_path: Path, line: str, directory: str, files: dict[str, str]) -> int | None:
    """What a process uses whose group says so."""
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cgroup").write_text(line)
    (tmp_path / "cgroups" / directory).mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / "cgroups" / directory / name).write_text(text)
    return program.used_memory_bytes(7, tmp_path / "proc", tmp_path / "cgroups")


def test_the_cache_of_files_is_not_used_memory(tmp_path: Path) -> None:
    stat = "anon 60\nfile 40\nshmem 10\n"
    files = {"memory.current": "100\n", "memory.stat": stat}
    assert group(tmp_path, "0::/asgi.slice/a@1.service\n", "asgi.slice/a@1.service", files) == 70


def test_with_groups_of_version_1_too(tmp_path: Path) -> None:
    lines = "9:cpu,cpuacct:/other\n4:memory:/asgi.slice/a@1.service\n0::/else\n"
    files = {"memory.usage_in_bytes": "100\n", "memory.stat": "cache 40\nrss 60\nshmem 10\n"}
    assert group(tmp_path, lines, "memory/asgi.slice/a@1.service", files) == 70


def test_memory_of_a_process_that_has_ended_is_not_known(tmp_path: Path) -> None:
    assert program.used_memory_bytes(7, tmp_path, tmp_path) is None
    assert group(tmp_path, "0::/gone\n", "other", {}) is None


def test_requests_are_those_that_the_instance_has_counted(tmp_path: Path) -> None:
    path = tmp_path / "requests"
    assert program.counted_requests(path) is None

    async def nothing(scope: Any, receive: Any, send: Any) -> None:
        """An app that answers nobody."""

    async def some() -> None:
        app = entry.counting(nothing, str(path))
        for kind in ("lifespan", "http", "websocket", "http"):
            await app({"type": kind}, None, None)

    asyncio.run(some())
    assert program.counted_requests(path) == 3
    # a process that starts begins anew
    entry.counting(nothing, str(path))
    assert program.counted_requests(path) == 0


def test_what_is_no_count_is_not_believed_nor_waited_for(tmp_path: Path) -> None:
    """The directory is the app's."""
    other = tmp_path / "other"
    other.write_bytes(b"12345678")
    path = tmp_path / "requests"
    path.symlink_to(other)
    assert program.counted_requests(path) is None
    path.unlink()
    os.mkfifo(path)
    assert program.counted_requests(path) is None
    path.unlink()
    path.write_bytes(b"short")
    assert program.counted_requests(path) is None


def test_age_is_that_of_the_process() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        assert 0 <= program.age_seconds(process.pid) < 5
        process.kill()
    assert program.age_seconds(process.pid) == 0
    assert program.age_seconds(os.getppid()) > 0


def test_the_program_is_one_file_that_runs_alone(app: Layout, tmp_path: Path) -> None:
    """Without Ansible and this collection, with the Python of a host."""
    path = tmp_path / "watch.pyz"
    path.write_bytes(install.archive())
    settings = tmp_path / "watch.json"
    settings.write_text(json.dumps({"name": "blog", "root": str(app.root)}))
    app.state_file.write_text("broken")
    app.watch_record.parent.mkdir()
    done = subprocess.run(
        [sys.executable, "-I", path, settings],
        capture_output=True,
        encoding="utf-8",
        check=False,
        cwd=tmp_path,
    )
    # its own message for the journal, and no traceback
    assert done.stderr == ""
    assert done.stdout.startswith(f"<4>{app.state_file} cannot be read")
    assert done.returncode == 1


def test_the_same_program_is_the_same_file() -> None:
    assert install.archive() == install.archive()
    names = zipfile.ZipFile(io.BytesIO(install.archive())).namelist()
    assert "asgi_deploy/watch/program.py" in names
    assert "asgi_deploy/servers/entry.py" in names
    assert all(name.startswith("asgi_deploy/") or name == "__main__.py" for name in names)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What systemd was told; a unit runs and is enabled once it was told so."""
    found: list[tuple[str, ...]] = []

    def systemctl(*arguments: str, **_options: Any) -> str:
        if arguments[0] != "show":
            found.append(arguments)
            return ""
        running = any(call[0] == "restart" for call in found)
        enabled = any(call[0] == "enable" for call in found)
        return (
            f"Id={arguments[-1]}\nActiveState={'active' if running else 'inactive'}\n"
            f"SubState={'running' if running else 'dead'}\n"
            f"UnitFileState={'enabled' if enabled else 'disabled'}\n"
        )

    monkeypatch.setattr(systemd, "systemctl", systemctl)
    return found


def test_a_watch_is_installed_once_and_again_where_it_differs(
    app: Layout, told: list[tuple[str, ...]]
) -> None:
    settings = {"hung": True}
    first = install.install(app, "[Unit]\n", settings)
    assert first == ["watch.pyz", "watch.json", "asgi-blog-watch.service", "enabled"]
    unit = ("asgi-blog-watch.service",)
    assert told == [("daemon-reload",), ("enable", "--quiet", *unit), ("restart", *unit)]
    assert install.install(app, "[Unit]\n", settings) == []
    assert install.install(app, "[Unit]\n", {"hung": False}, check_mode=True) == ["watch.json"]
    assert len(told) == 3
    assert install.install(app, "[Unit]\n", {"hung": False}) == ["watch.json"]
    assert told[3:] == [("restart", *unit)]


def test_a_watch_that_does_not_run_is_started(app: Layout, told: list[tuple[str, ...]]) -> None:
    install.install(app, "[Unit]\n", {})
    told[:] = [call for call in told if call[0] == "enable"]
    assert install.install(app, "[Unit]\n", {}) == ["started"]
    assert told[-1] == ("restart", "asgi-blog-watch.service")


def test_a_watch_is_taken_away(app: Layout, told: list[tuple[str, ...]]) -> None:
    assert install.uninstall(app) == []
    install.install(app, "[Unit]\n", {})
    assert install.uninstall(app, check_mode=True) == ["asgi-blog-watch.service"]
    assert app.watch_unit_file.exists()
    assert install.uninstall(app) == ["asgi-blog-watch.service"]
    assert not app.watch_unit_file.exists()
    assert not app.watch_program.parent.exists()
    assert ("disable", "--quiet", "--now", "asgi-blog-watch.service") in told


def test_its_own_rollouts_do_not_push_others_out_of_the_history(app: Layout) -> None:
    current = state.State()
    current.record(release="1", status="good", by="anna")
    for number in range(20):
        current.record(release="1", status="good", by=program.BY, seconds=number)
    current.record(release="2", status="good", by="anna")
    state.save(app.state_file, current)
    program.shorten_history(app)
    history = state.load(app.state_file).history
    assert [event["by"] for event in history] == ["anna", *["watch"] * 5, "anna"]
    assert [event["seconds"] for event in history[1:-1]] == [15, 16, 17, 18, 19]


# --- what it does ---------------------------------------------------------------------------------

MEMORY = Rules(recycle_memory_bytes=100 * MEBIBYTE, hung=True, checks=2, pause_seconds=60)


class Watched(program.Watch):
    """A watch that sees what it is told."""

    def __init__(self, layout: Layout, *seen: Seen) -> None:
        layout.watch_record.parent.mkdir(exist_ok=True)
        super().__init__(layout, MEMORY)
        self.seen = list(seen)
        self.at_work: list[str] = []

    def jobs(self) -> list[str]:
        """None, or what was said."""
        return self.at_work

    def look(self) -> list[Seen]:
        """Two instances, or what was said."""
        return self.seen


LARGE = Seen(1, process=7, memory_bytes=200 * MEBIBYTE, answered=True)
SMALL = Seen(1, process=8, memory_bytes=20 * MEBIBYTE, answered=True)


def record(app: Layout) -> dict[str, Any]:
    """What the watch has written down."""
    found: dict[str, Any] = json.loads(app.watch_record.read_text())
    return found


def test_it_recycles_and_pauses(app: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    watching = Watched(app, LARGE)

    def again(layout: Layout, reason: str) -> dict[str, Any]:
        done.append(reason)
        watching.seen = [SMALL]
        return {"slot": "green", "seconds": 7.5, "cut_connections": 0}

    monkeypatch.setattr(program, "again", again)
    watching.check()
    assert done == []
    watching.check()
    assert done == [record(app)["reason"]]
    assert record(app)["action"] == "recycled"
    assert record(app)["failures"] == 0
    watching.seen = [LARGE]
    for _ in range(5):
        watching.check()
    assert len(done) == 1
    # also after a start of the program
    another = Watched(app, LARGE)
    another.last["not_before"] = 0
    another.check()
    another.check()
    assert len(done) == 2


def test_a_job_is_not_ended_by_recycling(
    app: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []

    def again(_layout: Layout, reason: str) -> dict[str, Any]:
        done.append(reason)
        return {"slot": "green", "seconds": 7.5, "cut_connections": 0}

    monkeypatch.setattr(program, "again", again)
    watching = Watched(app, LARGE)
    watching.at_work = ["blog.nightly-blue@1.service"]
    for _ in range(4):
        watching.check()
    told = "is not recycled before blog.nightly-blue@1.service has ended"
    assert (done, capsys.readouterr().out.count(told)) == ([], 1)
    watching.at_work = []
    watching.check()
    assert len(done) == 1


def test_a_balancer_keeps_a_host_that_is_recycled(
    app: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watches of two hosts may be at work at once."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(program.rollout, "recover", lambda *_arguments: "")
    monkeypatch.setattr(
        program.rollout, "rollout", lambda *_names, **options: asked.update(options)
    )
    monkeypatch.setattr(program.rollout.Settings, "read", lambda _recorded: None)
    state.save(app.state_file, state.State(settings={"instances": 1}))
    program.again(app, "too large")
    assert asked["others_serve"] is False


def test_a_limit_that_is_too_low_makes_longer_pauses(
    app: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = {"slot": "green", "seconds": 7.5, "cut_connections": 0}
    monkeypatch.setattr(program, "again", lambda *_arguments: result)
    watching = Watched(app, LARGE)
    watching.check()
    watching.check()
    assert record(app)["failures"] == 1
    assert record(app)["not_before"] > time.time() + 200
    assert "recycling did not help: the new instances use 200 MiB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cause", "failures", "pause_seconds"),
    [(DeployError("did not stay up"), 1, 300), (rollout.Ended("ended by SIGTERM"), 0, 60)],
)
def test_a_rollout_that_fails_ends_the_program_and_is_not_begun_again_at_once(
    app: Layout,
    monkeypatch: pytest.MonkeyPatch,
    cause: DeployError,
    failures: int,
    pause_seconds: float,
) -> None:
    def again(*_arguments: Any) -> None:
        raise DeployError(f"refused: {cause.message}\nand so on", step="prove") from cause

    monkeypatch.setattr(program, "again", again)
    watching = Watched(app, LARGE)
    watching.check()
    with pytest.raises(DeployError, match="refused"):
        watching.check()
    found = record(app)
    assert (found["action"], found["failures"]) == ("not recycled", failures)
    assert found["told"] == f"refused: {cause.message}"
    assert found["not_before"] == pytest.approx(time.time() + pause_seconds, abs=20)


def test_what_a_run_has_is_left_alone(
    app: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "again", lambda *_arguments: pytest.fail("it was touched"))
    owner = locks.this_run(os.getpid(), "anna")
    wanted = {"run": "1", "purpose": "deploy", "owner": owner, "lease_seconds": 60}
    watching = Watched(app, LARGE)
    watching.check()
    locks.take(app, wanted)
    for _ in range(5):
        watching.check()
    assert capsys.readouterr().out.count("is left alone while it is locked by anna") == 1
    # what was seen before the run says nothing of what it has left
    locks.give_back(app, "1")
    watching.check()
    assert not app.watch_record.exists()


def test_a_module_that_is_played_alone_is_not_disturbed(
    app: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    watching = Watched(app, LARGE)
    watching.check()
    with locks.locked(app):
        watching.check()
    assert "is not recycled now: blog is being changed on this host" in capsys.readouterr().out
    assert not app.watch_record.exists()


def test_a_hung_instance_is_killed_unless_it_is_another_process_by_now(
    app: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, ...]] = []
    process = 9

    def systemctl(*arguments: str, **_options: Any) -> str:
        told.append(arguments)
        return f"Id={arguments[-1]}\nMainPID={process}\n"

    monkeypatch.setattr(systemd, "systemctl", systemctl)
    hung = Seen(2, process=7, answered=False)
    watching = Watched(app, SMALL, hung)
    for _ in range(3):
        watching.check()
    assert [arguments[0] for arguments in told] == ["show", "show"]
    process = 7
    watching.check()
    assert told[-1] == ("kill", "--signal=SIGKILL", "blog-blue@2.service")
    assert record(app)["action"] == "killed"
    # that is no reason to recycle later
    assert record(app)["not_before"] == 0


@pytest.mark.parametrize(("by", "recovered"), [("watch", 1), ("anna", 0)])
def test_it_mends_what_it_has_left_itself(
    app: Layout, monkeypatch: pytest.MonkeyPatch, by: str, recovered: int
) -> None:
    done: list[str] = []
    monkeypatch.setattr(program.rollout, "recover", lambda *_given: done.append("") or "mended")
    state.save(app.state_file, state.State(operation={"by": by}))
    Watched(app).recover()
    assert len(done) == recovered

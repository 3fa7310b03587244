"""Processes beside the instances: which units a host gets, and in which order they change hands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import layout, processes, systemd
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.processes import Process

TEXTS = {
    "process": "# @name@ @memory_max@ @stop_seconds@\nExecStart=/usr/bin/env @command@\n",
    "job": "# job @name@ @timeout_seconds@\nExecStart=/usr/bin/env @command@\n",
    "timer": "OnCalendar=@calendar@\n",
}
WORKER = {"name": "worker", "command": "taskiq worker blog:broker --at '100% $HOME'", "count": 2}
SCHEDULER = {"name": "scheduler", "command": "taskiq scheduler blog:scheduler", "only_on": "web1"}
CLEANUP = {"name": "cleanup", "command": "python -m blog.cleanup", "calendar": "*-*-* 04:00"}


def test_a_host_gets_what_is_to_run_on_it() -> None:
    def named(host: str) -> list[str]:
        found = processes.units_of([WORKER, SCHEDULER], [CLEANUP], TEXTS, host)
        return [one["name"] for one in found]

    assert named("web1") == ["worker", "scheduler", "cleanup"]
    assert named("web2") == ["worker", "cleanup"]


def test_what_the_user_wrote_stands_in_the_units() -> None:
    worker, cleanup = (
        Process(**one) for one in processes.units_of([WORKER], [CLEANUP], TEXTS, "web1")
    )
    # as systemd needs it, and with the defaults
    assert worker.service == (
        '# worker 256M 30\nExecStart=/usr/bin/env taskiq worker blog:broker --at "100%% $$HOME"\n'
    )
    assert (worker.count, worker.timer, worker.overlap) == (2, "", False)
    assert cleanup.service.startswith("# job cleanup 3600\n")
    assert cleanup.timer == "OnCalendar=*-*-* 04:00\n"


def test_a_mark_in_a_value_is_only_text() -> None:
    strange = {"name": "a", "command": "echo @memory_max@"}
    (found,) = processes.units_of([strange], [], TEXTS, "web1")
    assert found["service"].endswith("echo @memory_max@\n")


def test_memory_counts_twice_where_two_releases_overlap() -> None:
    assert processes.memory_mebibytes([WORKER], [CLEANUP]) == 3 * 256
    both = {**WORKER, "overlap": True, "memory_max": "1G"}
    assert processes.memory_mebibytes([both], []) == 4 * 1024


def test_good_ones_have_no_problem() -> None:
    assert processes.problems([WORKER, SCHEDULER], [CLEANUP]) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "Worker"}, "asgi_service_processes: 'Worker' is not usable as a name"),
        ({"name": "my-blue"}, "asgi_service_processes: 'my-blue' is not usable"),
        ({"name": "cleanup"}, "asgi_service_timers: 'cleanup' is not usable as a name, or stands"),
        ({"command": "a | b"}, "asgi_service_processes: worker: command: it is run without"),
        ({"command": "a 'b"}, "asgi_service_processes: worker: command: No closing"),
        ({"command": ""}, "asgi_service_processes: worker: command: write one"),
        ({"memory_max": "1M"}, "asgi_service_processes: worker: memory_max: at least 16M"),
        ({"memory_max": "much"}, "asgi_service_processes: worker: memory_max: 'much' is not"),
        ({"count": 0}, "asgi_service_processes: worker: count: not less than 1"),
        ({"only_on": "web1"}, "asgi_service_processes: worker: only_on is for one"),
        ({"stop_seconds": 841}, "asgi_service_processes: worker: stop_seconds: not more than 840"),
    ],
)
def test_what_cannot_work_is_told_by_its_name(change: dict[str, Any], told: str) -> None:
    found = processes.problems([{**WORKER, **change}], [CLEANUP])
    assert any(text.startswith(told) for text in found), found


def test_a_host_that_nobody_knows_would_run_nothing() -> None:
    assert processes.problems([SCHEDULER], [], ["web1", "web2"]) == []
    (told,) = processes.problems([SCHEDULER], [], ["web2"])
    assert told.startswith("asgi_service_processes: scheduler: only_on: 'web1' is no host")


class Host:
    """A systemd that has every unit that was started, and notes what it is told."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.running: list[str] = []
        self.told: list[tuple[str, ...]] = []
        self.broken = ""
        monkeypatch.setattr(layout, "SYSTEM_UNITS", tmp_path)
        monkeypatch.setattr(systemd, "systemctl", self.systemctl)
        monkeypatch.setattr(systemd, "journal", lambda units, _since: f"of {units[0]}")
        self.boot: set[str] = set()
        monkeypatch.setattr(systemd, "enabled", self.enabled)

    def enabled(self, pattern: str) -> list[str]:
        """What starts at boot."""
        return sorted(one for one in self.boot if Path(one).match(pattern))

    def systemctl(self, *arguments: str, **_options: Any) -> str:
        """Does as it is told."""
        verb, units = arguments[0], [text for text in arguments[1:] if "@" in text]
        if verb == "list-units":
            found = [one for one in self.running if any(Path(one).match(text) for text in units)]
            return "".join(f"{one} loaded active\n" for one in found)
        if verb == "show":
            return "\n\n".join(
                f"Id={one}\nActiveState=active\nNRestarts={int(one.startswith(self.broken or '-'))}"
                for one in units
            )
        self.told.append((verb, *units))
        if verb == "stop":
            self.running = [one for one in self.running if one not in units]
        elif verb == "start":
            self.running += units
        elif verb == "enable":
            self.boot |= set(units)
        elif verb == "disable":
            self.boot -= set(units)
        return ""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host on which nothing runs."""
    return Host(tmp_path, monkeypatch)


def serve(slot: str, new: list[Process], old: list[Process]) -> None:
    """Hands over."""
    app = Layout("blog", Path("/srv/blog"))
    processes.serve(app, slot, new, old, stable_seconds=0, stop_timeout_seconds=9)


EXCLUSIVE = Process("scheduler", "text")
BOTH = Process("worker", "text", overlap=True)
TIMED = Process("cleanup", "text", timer="text")


def test_what_may_not_run_twice_has_ended_before_the_next_begins(host: Host) -> None:
    serve("blue", [EXCLUSIVE, BOTH, TIMED], [])
    blue = ["blog.scheduler-blue@1.service", "blog.worker-blue@1.service"]
    assert host.running == [*blue, "blog.cleanup-blue@1.timer"]
    assert host.boot == set(host.running)
    host.told.clear()
    serve("green", [EXCLUSIVE, BOTH, TIMED], [EXCLUSIVE, BOTH, TIMED])
    verbs = [one[0] for one in host.told]
    assert verbs.index("stop") < verbs.index("start")
    (stopped,) = [one[1:] for one in host.told if one[0] == "stop"]
    assert set(stopped) == {"blog.scheduler-blue@1.service", "blog.cleanup-blue@1.timer"}
    # the one that may overlap is stopped with its slot; none of the old starts at boot
    assert "blog.worker-blue@1.service" in host.running
    assert all("-green@" in one for one in host.boot)


def test_one_that_may_no_longer_overlap_ends_first(host: Host) -> None:
    serve("blue", [BOTH], [])
    serve("green", [Process("worker", "text")], [BOTH])
    assert host.running == ["blog.worker-green@1.service"]


def test_one_that_is_no_longer_wanted_is_gone(host: Host) -> None:
    serve("blue", [EXCLUSIVE, TIMED], [])
    serve("blue", [], [])
    serve("green", [], [EXCLUSIVE, TIMED])
    assert (host.running, host.boot) == ([], set())


def test_one_that_does_not_stay_up_is_refused_with_its_journal(host: Host) -> None:
    host.broken = "blog.scheduler"
    with pytest.raises(DeployError, match=r"blog\.scheduler-blue@1\.service did not stay up"):
        serve("blue", [BOTH, EXCLUSIVE], [])


def test_units_of_a_name_that_is_gone_are_taken_away(host: Host, tmp_path: Path) -> None:
    app = Layout("blog", Path("/srv/blog"))
    (tmp_path / "blog.former-blue@.service").touch()
    # of another app, and of the other slot
    (tmp_path / "blog-shop.former-blue@.service").touch()
    (tmp_path / "blog.former-green@.service").touch()
    found = processes.unit_files(app, "blue", [TIMED])
    assert {path.name: text for path, text in found.items()} == {
        "blog.former-blue@.service": "",
        "blog.cleanup-blue@.service": "text",
        "blog.cleanup-blue@.timer": "text",
    }


def test_how_they_fare(host: Host) -> None:
    host.broken = "blog.worker-green@2"
    app = Layout("blog", Path("/srv/blog"))
    tick = Process("tick", "text", timer="text")
    worker, timer = processes.statuses(app, "green", [Process("worker", "text", count=2), tick])
    assert (worker["kind"], worker["count"], worker["running"]) == ("process", 2, 2)
    assert (worker["restarts"], worker["result"]) == (1, "success")
    assert (timer["name"], timer["kind"], timer["running"]) == ("tick", "timer", 1)


@pytest.mark.parametrize(
    ("present", "absent", "told"),
    [
        ({"web1": [], "web2": []}, [], ""),
        # it goes on where it is, whoever else is in the run
        ({"web1": ["scheduler"], "web2": []}, ["web3"], ""),
        ({"web1": [], "web2": ["scheduler"]}, [], "begin on web1 while web2 may still"),
        ({"web1": [], "web2": []}, ["web3"], "begin on web1 in a run without web3"),
        # its host is not in the run, so nothing begins
        ({"web2": ["scheduler"]}, ["web1"], ""),
    ],
)
def test_one_that_may_still_run_elsewhere_does_not_begin(
    present: dict[str, list[str]], absent: list[str], told: str
) -> None:
    found = processes.move_problems([SCHEDULER], [], present, absent)
    assert [told in text for text in found] == ([True] if told else [])

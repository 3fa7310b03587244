"""Workers, a scheduler and a timer of the blog: releases under load, a failure, a reboot."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from sites import Site

HOME = "/var/lib/asgi/blog"
#: Writes down its life, and whether another one of its name lives: that one has the lock.
BESIDE = """
import fcntl, os, signal, sys, time
from pathlib import Path
name, number = sys.argv[1], os.environ["ASGI_INSTANCE"]
home, slot = Path(os.environ["HOME"]), os.environ["ASGI_SLOT"]

def note(word):
    with (home / "notes").open("a") as notes:
        notes.write(f"{name} {number} {slot} {word}\\n")

lock = (home / f"{name}-{number}.lock").open("w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    note("overlaps")
note("begins")
if name == "tick":
    while (home / "long").exists():
        time.sleep(0.1)
    sys.exit(3 if (home / "fail").exists() else 0)

def end(*_arguments):
    # what it is at takes a moment
    time.sleep(0.5)
    note("ends")
    sys.exit()

signal.signal(signal.SIGTERM, end)
while True:
    signal.pause()
"""
VARIABLES: dict[str, Any] = {
    "asgi_service_on_failure_unit": "alert@%n.service",
    "asgi_service_restart_seconds": 0.2,
    "asgi_service_start_limit_burst": 4,
    "asgi_service_processes": [
        {"name": "worker", "command": "python beside.py worker", "count": 2, "overlap": True},
        {"name": "scheduler", "command": "python beside.py scheduler", "memory_max": "64M"},
    ],
    "asgi_service_timers": [
        {"name": "tick", "command": "python beside.py tick", "calendar": "*-*-* *:*:0/2"}
    ],
}
UNITS = {
    "blog.worker-{slot}@1.service",
    "blog.worker-{slot}@2.service",
    "blog.scheduler-{slot}@1.service",
    "blog.tick-{slot}@1.timer",
}


@pytest.fixture(scope="module")
def blog(one_site: Site) -> Site:
    """The blog with its processes."""
    version = one_site.variant("same", "with processes")
    (version / "beside.py").write_text(BESIDE)
    one_site.variables = {**one_site.variables, **VARIABLES}
    one_site.deploy(version)
    return one_site


def running(site: Site) -> set[str]:
    """The units of processes and timers that are up."""
    told = site.run("systemctl list-units --plain --no-legend --state=active 'blog.*@*'")
    names = {line.split()[0] for line in told.splitlines()}
    # a job may be at work at this moment
    return {name for name in names if not name.startswith("blog.tick") or name.endswith("timer")}


def at_boot(site: Site) -> set[str]:
    """Those that start at boot."""
    links = site.run("ls -d /etc/systemd/system/*.wants/blog.*").split()
    return {link.rsplit("/", 1)[1] for link in links}


def notes(site: Site) -> list[str]:
    """What the processes have written down since the last time."""
    told = site.run(f"cat {HOME}/notes; rm {HOME}/notes")
    return told.splitlines()


def assert_only_of(site: Site, slot: str) -> None:
    """The processes of one slot run and start at boot, and nothing else does."""
    wanted = {unit.format(slot=slot) for unit in UNITS}
    assert running(site) == wanted
    assert at_boot(site) == wanted


def until(true: Callable[[], bool], what: str) -> None:
    """Waits for something on the host."""
    deadline = time.monotonic() + 240
    while not true():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def test_they_run_the_release_that_serves(blog: Site) -> None:
    """With its files, environment and limits, in the slice of the app."""
    slot = blog.slot()
    assert_only_of(blog, slot)
    unit = f"blog.scheduler-{slot}@1.service"
    shown = blog.run(f"systemctl show -p MemoryMax -p Slice -p User --value {unit}").split()
    assert set(shown) == {str(64 * 2**20), "asgi-blog.slice", "blog"}
    until(lambda: "tick" in blog.run(f"cat {HOME}/notes"), "the timer")
    told = notes(blog)
    assert f"worker 2 {slot} begins" in told
    assert not any("overlaps" in line for line in told)
    assert blog.deploy().changed == 0


def test_no_two_schedulers_at_once_and_no_request_fails(blog: Site) -> None:
    """A release and a rollback; the workers overlap, as they may."""
    before = blog.slot()
    with blog.load() as load:
        blog.deploy(blog.variant("same", "second"))
        assert_only_of(blog, blog.slot())
        blog.play("asgi.deploy.rollback")
        result = load.stop()
    assert result.failed == 0, result.report()
    assert blog.slot() == before
    assert_only_of(blog, before)
    told = notes(blog)
    other = {"blue": "green", "green": "blue"}[before]
    lives = [line for line in told if line.startswith("scheduler")]
    assert lives == [
        f"scheduler 1 {before} ends",
        f"scheduler 1 {other} begins",
        f"scheduler 1 {other} ends",
        f"scheduler 1 {before} begins",
    ]
    assert f"worker 1 {other} overlaps" in told


def test_one_that_does_not_stay_up_takes_the_release_back(blog: Site) -> None:
    """The old ones run again; the error says which, why, and what was put back."""
    before, serving = blog.slot(), blog.serving()
    version = blog.variant("same", "broken worker")
    (version / "beside.py").write_text(f"{BESIDE.split('def end')[0]}\nsys.exit('no broker')\n")
    source = blog.source
    with blog.load() as load:
        played = blog.deploy(version, expect=2)
        result = load.stop()
    blog.source = source
    for text in ("did not stay up: exit code 1", "no broker", "its processes run again"):
        assert text in played.output, played.output
    assert result.failed == 0, result.report()
    assert (blog.slot(), blog.serving()) == (before, serving)
    assert_only_of(blog, before)
    notes(blog)


def test_a_time_that_systemd_does_not_know_is_refused(blog: Site) -> None:
    """Before anything is stopped."""
    timers = [{**VARIABLES["asgi_service_timers"][0], "calendar": "every full moon"}]
    played = blog.deploy(expect=2, asgi_service_timers=timers)
    assert "asgi_service_timers: tick: " in played.output
    assert not any("ends" in line for line in notes(blog))
    assert_only_of(blog, blog.slot())


def test_a_host_that_is_not_there_is_refused(blog: Site) -> None:
    """A scheduler that runs nowhere would be missed late."""
    lost = [{**VARIABLES["asgi_service_processes"][1], "only_on": "web99"}]
    played = blog.deploy(expect=2, asgi_service_processes=lost)
    assert "only_on: 'web99' is no host of the inventory" in played.unwrapped
    assert played.changed == 0


def test_one_that_another_host_may_still_run_does_not_begin(blog: Site, tmp_path: Path) -> None:
    """A run that is limited to this host knows nothing of the other one."""
    (tmp_path / "more.yml").write_text("asgi:\n  hosts:\n    elsewhere:\n")
    more = dataclasses.replace(blog, inventories=[*blog.inventories, tmp_path / "more.yml"])
    beat = {"name": "beat", "command": "sleep infinity", "only_on": blog.host.name}
    played = more.deploy(expect=2, asgi_service_processes=[beat])
    told = played.unwrapped
    assert f"beat would begin on {blog.host.name} in a run without elsewhere" in told
    assert played.changed == 0
    assert_only_of(blog, blog.slot())


ALERT = "[Service]\nType=oneshot\nExecStart=/usr/bin/touch /run/alert-of-%i\n"


def alerts(site: Site) -> set[str]:
    """The units for which an alert was raised."""
    return set(site.run("cd /run; ls -d alert-of-* 2>/dev/null | cut -c10-", check=False).split())


def table(site: Site) -> str:
    """What `asgi.deploy.status` tells."""
    return site.play("asgi.deploy.status").output


def test_one_that_is_given_up_and_a_run_that_fails_raise_an_alert(blog: Site) -> None:
    """And status tells of them; a run that is ended for a release has not failed."""
    assert "worker 2 of 2, scheduler 1 of 1, tick waits  " in table(blog)
    blog.run(f"cat > /etc/systemd/system/alert@.service <<'END'\n{ALERT}END\n")
    blog.run("systemctl daemon-reload")
    slot = blog.slot()
    scheduler, job = f"blog.scheduler-{slot}@1.service", f"blog.tick-{slot}@1.service"
    state = f"systemctl show --value --property=ActiveState {job}"
    blog.run(f"touch {HOME}/long")
    until(lambda: blog.run(state).strip() == "activating", "a run that goes on")
    blog.run(f"systemctl stop {job.replace('.service', '.timer')} {job}")
    assert blog.run(state).strip() == "inactive"
    assert alerts(blog) == set()

    blog.run(f"rm {HOME}/long; touch {HOME}/fail")
    blog.run(f"systemctl start {job.replace('.service', '.timer')}")
    until(lambda: job in alerts(blog), "the alert of the job")

    def given_up() -> bool:
        blog.run(f"systemctl kill --signal=SIGKILL {scheduler}", check=False)
        return scheduler in alerts(blog)

    until(given_up, "the alert of the scheduler")
    assert alerts(blog) == {scheduler, job}
    told = re.compile(r"scheduler 0 of 1 \([a-z-]+\), tick waits \(exit-code\)")
    # while a run goes on, systemd has forgotten how the last one ended
    until(lambda: told.search(table(blog)) is not None, "what status tells of both")
    blog.run(f"rm {HOME}/fail /etc/systemd/system/alert@.service; systemctl daemon-reload")
    notes(blog)


def test_after_a_reboot_the_same_run(blog: Site) -> None:
    blog.host.reboot()
    until(lambda: {u.format(slot=blog.slot()) for u in UNITS} == running(blog), "the processes")


def test_those_that_are_no_longer_wanted_are_gone(blog: Site) -> None:
    """With their units, also in the slot that served before."""
    blog.deploy(asgi_service_processes=[], asgi_service_timers=[])
    assert running(blog) == set()
    blog.deploy(blog.variant("same", "third"), asgi_service_processes=[], asgi_service_timers=[])
    left = [path for path in blog.run("ls /etc/systemd/system").split() if path.startswith("blog.")]
    assert left == []

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an app runs beside its instances, from the same release: workers, schedulers, jobs.

Each has unit files of its own for each slot, `<app>.<name>-<slot>@.service`, so that `%j` is the
slot in them too. A job has a timer that starts it. They change hands after the new release was
confirmed through the proxy: those of the old slot end before those of the new one begin, but for
those of which the user says that both may run.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import systemd
from .commands import run
from .errors import DeployError
from .layout import SLOTS, Layout, other_slot
from .units import command_line, mebibytes

NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
#: A shell would be needed for these.
SHELL = re.compile(r"[|;&<>`]")
#: What a process or a timer has where the user says nothing.
DEFAULTS: dict[str, Any] = {
    "count": 1,
    "memory_max": "256M",
    "stop_seconds": 30,
    "overlap": False,
    "only_on": "",
    "timeout_seconds": 3600,
    "calendar": "",
}
POLL_SECONDS = 0.2
#: Less than a rollout waits for all of a slot to end (slots.STOP_TIMEOUT_SECONDS).
LONGEST_STOP_SECONDS = 840


@dataclass(frozen=True)
class Process:
    """One kind of process, as a host gets it.

    Args:
        name: How the app calls it.
        service: Text of its template unit.
        timer: Text of the timer that starts it; empty for one that always runs.
        calendar: When the timer does.
        count: How many run.
        overlap: Whether those of two releases may run at once.
        only_on: Whether it runs on this host only.
    """

    name: str
    service: str
    timer: str = ""
    calendar: str = ""
    count: int = 1
    overlap: bool = False
    only_on: bool = False


def unit(layout: Layout, slot: str, process: Process, number: int) -> str:
    """Name of what is started and enabled for one of the processes."""
    kind = "timer" if process.timer else "service"
    return f"{layout.name}.{process.name}-{slot}@{number}.{kind}"


def names(layout: Layout, slot: str, processes: Iterable[Process]) -> list[str]:
    """Names of all that is started and enabled in a slot."""
    return [
        unit(layout, slot, process, number)
        for process in processes
        for number in range(1, process.count + 1)
    ]


def patterns(layout: Layout, slot: str) -> list[str]:
    """What the units of all processes of a slot are called, timers first."""
    return [f"{layout.name}.*-{slot}@*.{kind}" for kind in ("timer", "service")]


def present(layout: Layout, slot: str) -> list[Path]:
    """The unit files that a slot has for its processes."""
    return sorted(layout.slice_file.parent.glob(f"{layout.name}.*-{slot}@.*"))


def unit_files(layout: Layout, slot: str, processes: Sequence[Process]) -> dict[Path, str]:
    """Returns which unit file of a slot has which text; empty for one that is not to be."""
    files = dict.fromkeys(present(layout, slot), "")
    for process in processes:
        path = layout.slice_file.with_name(f"{layout.name}.{process.name}-{slot}@.service")
        files[path] = process.service
        if process.timer:
            files[path.with_suffix(".timer")] = process.timer
    return files


def refuse_calendars(processes: Iterable[Process]) -> None:
    """Raises where systemd does not understand when a timer is to start its job.

    Raises:
        DeployError: Which timer, and what systemd says.
    """
    for process in processes:
        if not process.timer:
            continue
        done = run(
            ["systemd-analyze", "calendar", process.calendar],
            timeout_seconds=systemd.CALL_TIMEOUT_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise DeployError(
                f"asgi_service_timers: {process.name}: {done.stderr.strip()}; write a calendar as"
                " systemd.time(7) has it, for example 'hourly' or '*-*-* 04:00'"
            )


def enabled(layout: Layout, slot: str) -> set[str]:
    """What starts at boot."""
    return set(systemd.enabled(f"{layout.name}.*-{slot}@*"))


def enable(layout: Layout, slot: str, processes: Iterable[Process]) -> None:
    """Makes exactly these processes start at boot, and none of the other slot."""
    other = enabled(layout, other_slot(slot))
    wanted, found = set(names(layout, slot, processes)), enabled(layout, slot)
    if other | (found - wanted):
        systemd.systemctl("disable", "--quiet", *sorted(other | (found - wanted)))
    if wanted - found:
        systemd.systemctl("enable", "--quiet", *sorted(wanted - found))


def disable(layout: Layout, slot: str) -> None:
    """Makes no process of a slot start at boot."""
    found = enabled(layout, slot)
    if found:
        systemd.systemctl("disable", "--quiet", *sorted(found))


def stop(layout: Layout, slot: str, kept: Iterable[Process], timeout_seconds: float) -> None:
    """Stops the processes of a slot, each within its own time.

    Args:
        layout: The app.
        slot: The slot.
        kept: Those that go on for now.
        timeout_seconds: Longest time for all of them.
    """
    going_on = {f"{layout.name}.{process.name}-{slot}" for process in kept}
    running = systemd.loaded(*patterns(layout, slot))
    units = [one for one in running if one.partition("@")[0] not in going_on]
    if units:
        systemd.systemctl("stop", *units, timeout_seconds=timeout_seconds)
        systemd.systemctl("reset-failed", *units, check=False)


def serve(
    layout: Layout,
    slot: str,
    processes: Sequence[Process],
    former: Sequence[Process],
    *,
    stable_seconds: float,
    stop_timeout_seconds: float,
) -> None:
    """Has exactly one slot run its processes.

    Args:
        layout: The app.
        slot: The slot that serves.
        processes: Its processes.
        former: Those of the other slot; where both of a name may run at once, the old ones stay
            until their slot is stopped.
        stable_seconds: How long the new ones must stay up.
        stop_timeout_seconds: Longest time for the old ones to end.

    Raises:
        DeployError: Which one does not run, and the lines of its journal.
    """
    both = {process.name for process in processes if process.overlap}
    kept = [process for process in former if process.overlap and process.name in both]
    stop(layout, other_slot(slot), kept, stop_timeout_seconds)
    enable(layout, slot, processes)
    units = names(layout, slot, processes)
    if not units:
        return
    started = time.time()
    systemd.systemctl("start", *units, doing="start the processes of the app")
    stable = time.monotonic() + stable_seconds
    while True:
        refuse_ended(units, started)
        if time.monotonic() > stable:
            return
        time.sleep(POLL_SECONDS)


def refuse_ended(units: Sequence[str], since_seconds: float) -> None:
    """Refuses a process that does not stay up.

    Raises:
        DeployError: Which one, how it ended, and the lines of its journal.
    """
    for status in systemd.show(units):
        if status.active_state == "active" and status.restarts == 0:
            continue
        ended = systemd.as_it_ended(status, since_seconds)
        raise DeployError(
            f"{status.name} did not stay up: exit code {ended.exit_code or 0}, result"
            f" {ended.result}, started again {status.restarts} times\nlast lines of its"
            f" journal:\n{systemd.journal([status.name], since_seconds)}"
        )


def trouble(layout: Layout, slot: str, processes: Sequence[Process]) -> str:
    """Says which process of the serving slot does not run; empty where all do."""
    for status in systemd.show(names(layout, slot, processes)):
        if status.active_state != "active":
            return f"{status.name} is {status.active_state}"
    return ""


def statuses(layout: Layout, slot: str, processes: Iterable[Process]) -> list[dict[str, Any]]:
    """Returns how the processes of a slot fare, for people.

    Returns:
        For each its `name`, its `kind` (`process` or `timer`), how many there are to be (`count`)
        and how many `running`, their `restarts` and `memory_mebibytes`, and as `result` how the
        last run of a timer's job has ended, or why a process does not run: `success` where all is
        well.
    """
    return [status_of(layout, slot, process) for process in processes]


def status_of(layout: Layout, slot: str, process: Process) -> dict[str, Any]:
    """Returns how one kind of process fares; see `statuses`."""
    started = systemd.show(names(layout, slot, [process]))
    commands = started
    if process.timer:
        commands = systemd.show([f"{layout.name}.{process.name}-{slot}@1.service"])
    results = {status.result for status in (*started, *commands)} - {"", "success"}
    return {
        "name": process.name,
        "kind": "timer" if process.timer else "process",
        "count": process.count,
        "running": sum(1 for status in started if status.active_state == "active"),
        "restarts": sum(status.restarts for status in commands),
        "memory_mebibytes": sum(status.memory_bytes or 0 for status in commands) // 2**20,
        "result": ", ".join(sorted(results)) or "success",
    }


# --- on the controller ----------------------------------------------------------------------------


def filled(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the user wrote, with the defaults."""
    return {**DEFAULTS, **given}


def units_of(
    processes: Sequence[Mapping[str, Any]],
    timers: Sequence[Mapping[str, Any]],
    texts: Mapping[str, str],
    host: str,
) -> list[dict[str, Any]]:
    """Returns the processes of a host, for the module that rolls out.

    Args:
        processes: `asgi_service_processes`.
        timers: `asgi_service_timers`.
        texts: Units in which `@name@`, `@command@` and so on stand for what differs: `process`,
            `job` and `timer`.
        host: The host's name in the inventory.
    """
    found = []
    for kind, given in (("process", processes), ("job", timers)):
        for one in map(filled, given):
            if one["only_on"] not in ("", host):
                continue
            marks = {
                "@name@": one["name"],
                "@memory_max@": one["memory_max"],
                "@stop_seconds@": one["stop_seconds"],
                "@timeout_seconds@": one["timeout_seconds"],
                "@calendar@": one["calendar"],
                "@command@": command_line(one["command"]),
            }
            made = Process(
                name=one["name"],
                service=replaced(texts[kind], marks),
                timer=replaced(texts["timer"], marks) if kind == "job" else "",
                calendar=one["calendar"],
                count=int(one["count"]) if kind == "process" else 1,
                overlap=bool(one["overlap"]) and kind == "process",
                only_on=bool(one["only_on"]),
            )
            found.append(asdict(made))
    return found


def replaced(text: str, marks: Mapping[str, Any]) -> str:
    """Returns a text with values in the place of marks; what stands in a value stays."""
    pattern = re.compile("|".join(map(re.escape, marks)))
    return pattern.sub(lambda found: str(marks[found[0]]), text)


def memory_mebibytes(
    processes: Sequence[Mapping[str, Any]], timers: Sequence[Mapping[str, Any]]
) -> int:
    """Returns what all processes may take at once, while releases change too."""
    return sum(
        int(one["count"]) * mebibytes(one["memory_max"]) * (2 if one["overlap"] else 1)
        for one in map(filled, [*processes, *timers])
    )


def problems(
    processes: Sequence[Mapping[str, Any]],
    timers: Sequence[Mapping[str, Any]],
    hosts: Sequence[str] = (),
) -> list[str]:
    """Returns what is wrong with the variables of processes and timers.

    Args:
        processes: `asgi_service_processes`.
        timers: `asgi_service_timers`.
        hosts: All of the inventory; empty where they are not known.
    """
    found = []
    seen: set[str] = set()
    for variable, given in (
        ("asgi_service_processes", processes),
        ("asgi_service_timers", timers),
    ):
        for one in map(filled, given):
            name = str(one["name"])
            if not NAME.fullmatch(name) or name.split("-")[-1] in SLOTS or name in seen:
                found.append(
                    f"{variable}: {name!r} is not usable as a name, or stands there twice; write"
                    " lower case letters, digits and dashes, for example 'worker'"
                )
            seen.add(name)
            found += [f"{variable}: {name}: {text}" for text in command_problems(one["command"])]
            try:
                if mebibytes(one["memory_max"]) < 16:
                    found.append(f"{variable}: {name}: memory_max: at least 16M")
            except ValueError as error:
                found.append(f"{variable}: {name}: memory_max: {error}")
            for key, least in (("count", 1), ("stop_seconds", 0), ("timeout_seconds", 1)):
                if int(one[key]) < least:
                    found.append(f"{variable}: {name}: {key}: not less than {least}")
            if int(one["stop_seconds"]) > LONGEST_STOP_SECONDS:
                found.append(
                    f"{variable}: {name}: stop_seconds: not more than {LONGEST_STOP_SECONDS}, for"
                    " which a rollout waits; have the process put longer work back when it is told"
                    " to end"
                )
            if one["only_on"] and hosts and one["only_on"] not in hosts:
                found.append(
                    f"{variable}: {name}: only_on: {one['only_on']!r} is no host of the inventory,"
                    " so it would run nowhere"
                )
            if one["only_on"] and (int(one["count"]) != 1 or one["overlap"]):
                found.append(
                    f"{variable}: {name}: only_on is for one that must not run twice; leave out"
                    " count and overlap"
                )
            if re.search(r"[\x00-\x1f\x7f%]", str(one["calendar"])):
                found.append(f"{variable}: {name}: calendar: a line break or '%' in it")
    return found


def move_problems(
    processes: Sequence[Mapping[str, Any]],
    timers: Sequence[Mapping[str, Any]],
    present: Mapping[str, Sequence[str]],
    absent: Sequence[str],
) -> list[str]:
    """Returns what would begin on its one host while another one may still run it.

    Args:
        processes: `asgi_service_processes`.
        timers: `asgi_service_timers`.
        present: The hosts of this run, each with the names of what it has.
        absent: Other hosts of the app, of which nothing is known.
    """
    found = []
    for one in map(filled, [*processes, *timers]):
        name, host = one["name"], one["only_on"]
        if host not in present or name in present[host]:
            continue
        holders = [other for other, names in present.items() if name in names]
        if holders:
            found.append(
                f"only_on: {name} would begin on {host} while {', '.join(holders)} may still"
                f" run it; leave it out in a first run, then write it with only_on: {host}"
            )
        elif absent:
            found.append(
                f"only_on: {name} would begin on {host} in a run without {', '.join(absent)}, where"
                " it may still run; run it on all hosts, and take one that is gone out of the"
                " inventory"
            )
    return found


def command_problems(command: str) -> list[str]:
    """Returns what is wrong with a command, which no shell reads."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        return [f"command: {error}"]
    if not words:
        return ["command: write one, for example 'taskiq worker blog.tasks:broker'"]
    if SHELL.search(command):
        return [
            "command: it is run without a shell; put what needs one into a script of the app and"
            " write: sh scripts/worker.sh"
        ]
    return []

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program of the watch, which systemd keeps running: it looks, and does what the rules say.

It changes the app under the same lock as every run, and leaves it alone while a run has it. A run
that comes while it is at work ends it (see `locks`), and it puts everything back before it goes.
"""

from __future__ import annotations

import json
import os
import socket
import stat
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .. import locks, rollout, state, systemd
from ..errors import DeployError
from ..files import read_text, write_atomic
from ..health import ask_listener
from ..layout import CONFIGURATION_FILES, Layout
from ..listeners import listener
from ..servers.entry import COUNTER
from .rules import (
    KILLED,
    LATE_SECONDS,
    NOT_RECYCLED,
    RECYCLED,
    Counts,
    Rules,
    Seen,
    no_help,
    pause_seconds,
    to_kill,
    why_recycle,
)

#: Whose rollouts these are, in the history of the app.
BY = "watch"
#: The history is for people: of its own rollouts the watch keeps the last ones only.
KEPT_EVENTS = 5
CGROUPS = Path("/sys/fs/cgroup")
PROC = Path("/proc")
#: How many instances are asked at the same time.
QUESTIONS = 16


def say(text: str, warning: bool = True) -> None:
    """Writes a line to the journal."""
    print(f"<{4 if warning else 6}>{text}", flush=True)


def used_memory_bytes(process: int, proc: Path = PROC, cgroups: Path = CGROUPS) -> int | None:
    """Returns the memory that the kernel cannot take back from the cgroup of a process.

    That is all that counts for its limit, but for the files that the kernel has read ahead and
    lets go of by itself: those may grow up to the limit of any program.

    Returns:
        None where it is not known, for example as the process has ended.
    """
    try:
        lines = (proc / str(process) / "cgroup").read_text(encoding="utf-8").splitlines()
        by_controller = {
            name: path
            for line in lines
            for _number, names, path in [line.split(":", 2)]
            for name in names.split(",")
        }
        # cgroup v1 has a hierarchy for memory, v2 has one for all
        if "memory" in by_controller:
            group = cgroups / "memory" / by_controller["memory"].lstrip("/")
            usage, cache, shared = "memory.usage_in_bytes", "cache", "shmem"
        else:
            group = cgroups / by_controller[""].lstrip("/")
            usage, cache, shared = "memory.current", "file", "shmem"
        used = int((group / usage).read_text(encoding="ascii"))
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError, KeyError):
        return None
    values = {name: int(text) for name, text in (line.split() for line in lines)}
    return max(0, used - values.get(cache, 0) + values.get(shared, 0))


def counted_requests(path: Path) -> int | None:
    """Returns how many requests an instance has counted; None where it has not.

    The file is the app's, so nothing is believed of it: not that it is one, nor that it ends.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        found = file.read(COUNTER.size) or b""
    return int(COUNTER.unpack(found)[0]) if len(found) == COUNTER.size else None


def age_seconds(process: int) -> float:
    """Returns for how long a process runs; 0 where there is none."""
    ticks = locks.started_ticks(process)
    if not ticks:
        return 0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


class Watch:
    """Watches one app on this host.

    Args:
        layout: The app.
        rules: What is watched.
    """

    def __init__(self, layout: Layout, rules: Rules) -> None:
        self.layout = layout
        self.rules = rules
        self.counts = Counts()
        self.last: dict[str, Any] = json.loads(read_text(layout.watch_record) or "{}")
        self.told_busy = ""
        #: Processes that have answered: from then on they do not start any more.
        self.up: set[int] = set()

    def look(self) -> list[Seen]:
        """Returns the instances of the slot that serves, each as it is now."""
        layout = self.layout
        recorded = state.load(layout.state_file).settings
        slot = layout.serving_slot()
        if not recorded or layout.slot_release(slot) is None:
            return []
        settings = rollout.Settings.read(recorded)
        units = systemd.show(layout.units(slot, settings.instances))

        def one(number: int, unit: systemd.UnitStatus) -> Seen:
            process = unit.main_pid if unit.running else 0
            if not process:
                starting = unit.active_state in ("activating", "deactivating")
                return Seen(number, starting=starting)
            age = age_seconds(process)
            answered = None
            if self.rules.hung:
                answer = ask_listener(listener(layout, slot, number), settings.health)
                answered = not answer.timed_out
            # before a process is known to be up its silence says nothing
            young = age < settings.health.timeout_seconds and process not in self.up
            return Seen(
                number,
                process,
                age,
                starting=young and not answered if self.rules.hung else False,
                memory_bytes=used_memory_bytes(process)
                if self.rules.recycle_memory_bytes
                else None,
                requests=counted_requests(layout.count_file(slot, number)),
                answered=answered,
            )

        with ThreadPoolExecutor(min(QUESTIONS, len(units))) as threads:
            seen = list(threads.map(one, range(1, len(units) + 1), units))
        self.up = {one.process for one in seen if one.answered or one.process in self.up}
        return seen

    def jobs(self) -> list[str]:
        """Returns what timers have started and has not ended: a rollout would end it too early."""
        slot = self.layout.serving_slot()
        units = systemd.loaded(f"{self.layout.name}.*-{slot}@*.service")
        return [unit.name for unit in systemd.show(units) if unit.active_state == "activating"]

    def check(self, late_seconds: float = 0) -> None:
        """Looks once, and does what is to be done.

        Args:
            late_seconds: How much later than wanted this check began.
        """
        held = locks.read(self.layout)
        if held and not locks.free_for(held, ""):
            # what is there now may be gone in a moment
            self.counts = Counts()
            self.busy(f"is left alone while it is locked by {locks.holder(held)}")
            return
        seen = self.look()
        self.counts.take(self.rules, seen, busy_host=late_seconds > LATE_SECONDS)
        hung = to_kill(self.rules, seen, self.counts)
        if hung is not None:
            self.kill(*hung)
            return
        reason = why_recycle(self.rules, seen, self.counts, socket.gethostname())
        due = reason and time.time() >= float(self.last.get("not_before", 0))
        jobs = self.jobs() if due else []
        if jobs:
            self.busy(f"is not recycled before {', '.join(jobs)} has ended")
            return
        self.told_busy = ""
        if due:
            self.recycle(reason)

    def busy(self, why: str) -> None:
        """Says once why nothing is done."""
        if why != self.told_busy:
            say(f"{self.layout.name} {why}", warning=False)
        self.told_busy = why

    def kill(self, hung: Seen, why: str) -> None:
        """Kills an instance that hangs; systemd starts it again."""
        unit = self.layout.unit(self.layout.serving_slot(), hung.number)
        try:
            with locks.locked(self.layout):
                # what was seen is some seconds old
                if systemd.show([unit])[0].main_pid != hung.process:
                    return
                say(f"{unit} is killed and started again: {why}")
                systemd.systemctl("kill", "--signal=SIGKILL", unit)
        except DeployError as error:
            if not error.facts.keys() & {"busy", "held"}:
                raise
            self.busy(f"has a hung instance that is left alone: {error.message}")
            return
        self.counts = Counts()
        self.note(KILLED, why, failures=int(self.last.get("failures", 0)))

    def recycle(self, reason: str) -> None:
        """Rolls the release that serves out in the other slot, as it is.

        Raises:
            DeployError: It failed, and what served serves on.
        """
        layout = self.layout
        failures = int(self.last.get("failures", 0))
        try:
            with locks.locked(layout):
                say(f"{layout.name} is recycled: {reason}", warning=False)
                try:
                    done = again(layout, reason)
                finally:
                    shorten_history(layout)
        except DeployError as error:
            if "step" not in error.facts and error.facts.keys() & {"busy", "held"}:
                self.busy(f"is not recycled now: {error.message}")
                return
            if not isinstance(error.__cause__, rollout.Ended):
                failures += 1
            self.note(NOT_RECYCLED, reason, failures, told=error.message.splitlines()[0])
            raise
        self.counts = Counts()
        trouble = no_help(self.rules, self.look())
        if trouble:
            say(f"{layout.name}: recycling did not help: {trouble}")
        self.note(RECYCLED, reason, failures + 1 if trouble else 0, told=trouble)
        say(
            f"{layout.name} serves in slot {done['slot']} with new instances after"
            f" {done['seconds']} s; {done['cut_connections']} connections were cut",
            warning=False,
        )

    def note(self, action: str, reason: str, failures: int, told: str = "") -> None:
        """Writes down what was done, for the next start of this program and for `status`."""
        pause = pause_seconds(self.rules, failures)
        not_before = time.time() + pause if action != KILLED else self.last.get("not_before", 0)
        self.last = {
            "at": state.now(),
            "action": action,
            "reason": reason,
            "failures": failures,
            "told": told,
            "not_before": not_before,
        }
        write_atomic(self.layout.watch_record, json.dumps(self.last, indent=1) + "\n", mode=0o640)
        if failures and action != KILLED:
            say(f"{self.layout.name} is not recycled again for {pause:.0f} s")

    def recover(self) -> None:
        """Finishes or undoes a rollout of this program that was killed; others are not its own."""
        if state.load(self.layout.state_file).operation.get("by") != BY:
            return
        try:
            with locks.locked(self.layout):
                current = state.load(self.layout.state_file)
                if current.operation.get("by") == BY:
                    say(rollout.recover(self.layout, current))
        except DeployError as error:
            self.busy(
                f"was left in the middle of a rollout; the next run mends it: {error.message}"
            )


def again(layout: Layout, reason: str) -> dict[str, Any]:
    """Rolls out what serves with all that it has: its settings, its environment and secrets.

    Not with those that wait in the configuration of the app: nobody has proven them, they may be
    of a deploy that has failed.

    Raises:
        DeployError: It failed, and what served serves on.
    """
    current = state.load(layout.state_file)
    # what a run has left behind decides what serves, and with which settings
    found = rollout.recover(layout, current)
    if found:
        say(found)
    slot = layout.serving_slot()
    release = layout.slot_release(slot)
    recorded = current.settings
    directory = layout.slot_configuration(slot)
    own = {name: read_text(directory / name) or "" for name in CONFIGURATION_FILES}
    return rollout.rollout(
        layout,
        str(release),
        rollout.Settings.read(recorded),
        recorded=recorded,
        by=BY,
        force=reason,
        # nobody keeps the watches of two hosts from being at work at once, and a balancer needs one
        others_serve=False,
        unwritten=own,
        of_variables=False,
    )


def shorten_history(layout: Layout) -> None:
    """Forgets older rollouts of this program, so that those of people are not forgotten."""
    current = state.load(layout.state_file)
    own = [event for event in current.history if event.get("by") == BY]
    older = own[:-KEPT_EVENTS]
    if older:
        current.history = [event for event in current.history if event not in older]
        state.save(layout.state_file, current)


def watch(path: Path) -> None:
    """Watches until something fails; systemd starts this program again.

    Args:
        path: The file with `name`, `root` and the fields of `Rules`.
    """
    told = json.loads(path.read_text(encoding="utf-8"))
    layout = Layout(told.pop("name"), Path(told.pop("root")))
    rules = Rules(**told)
    watching = Watch(layout, rules)
    watching.recover()
    late = 0.0
    while True:
        watching.check(late)
        begun = time.monotonic()
        time.sleep(rules.interval_seconds)
        late = time.monotonic() - begun - rules.interval_seconds


def main() -> None:
    """Runs the program."""
    os.umask(0o022)
    try:
        watch(Path(sys.argv[1]))
    except DeployError as error:
        say(f"{error.message}")
        # in the journal that is enough, and the next start begins anew
        sys.exit(1)

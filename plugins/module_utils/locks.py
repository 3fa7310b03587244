# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may change an app on a host: one module call at a time, and one run at a time.

A call holds the app as long as its process lives; the kernel takes care of that. A run holds it
from its first step to its last, over many calls and pauses in which nothing of it is on the host,
so it leaves a file. The file of a run that has ended without removing it is taken over: at once
where the controller can prove that the run's process is gone, else when it has given no sign of
life for its lease.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import state, systemd
from .errors import DeployError
from .files import read_text, remove, write_atomic
from .layout import Layout

POLL_SECONDS = 0.1
#: How long the watch may need to put back what it has begun.
WATCH_SECONDS = 300
#: Between the moment in which the watch has the lock and the one in which that can be read.
GRACE_SECONDS = 1
#: How long the last module call of a dead run may still need on the host.
DEAD_CALL_SECONDS = 300


@contextlib.contextmanager
def locked(layout: Layout, wait_seconds: float = 0, run: str = "") -> Iterator[None]:
    """Holds the app on this host for one module call.

    Args:
        layout: The app.
        wait_seconds: How long to wait for another call to end.
        run: The run that this call belongs to, which must have the lock; empty for a call that
            belongs to none.

    Raises:
        DeployError: Another call or another run holds the app, or the run has lost its lock.
    """
    if run:
        # before the root is made: another run may have removed the app
        require(layout, run)
    with one_call(layout, wait_seconds):
        if run:
            write(layout, {**require(layout, run), "renewed": time.time()})
        else:
            held = read(layout)
            if not free_for(held, run):
                raise DeployError(refusal(layout, held), held=held)
        yield


def require(layout: Layout, run: str) -> dict[str, Any]:
    """Returns the lock of a run.

    Raises:
        DeployError: The run does not have it any more.
    """
    held = read(layout)
    if held.get("run") == run:
        return held
    if held:
        raise DeployError(f"{lost(layout)}. {refusal(layout, held)}", held=held)
    raise DeployError(
        f"{lost(layout)}, and it has ended since. Nothing was done by this step, and what that run"
        " has done stays. Look at what is live with the status playbook, then start this run again"
    )


def lost(layout: Layout) -> str:
    """Says that a run does not have its lock any more."""
    return f"this run has lost the lock of {layout.name} on this host to another run"


@contextlib.contextmanager
def one_call(layout: Layout, wait_seconds: float) -> Iterator[None]:
    """Holds the app until this process ends, at the latest.

    The watch makes way for everybody: it is ended, and waited for.
    """
    layout.root.mkdir(mode=0o755, parents=True, exist_ok=True)
    with layout.lock_file.open("a+", encoding="utf-8") as file:
        layout.lock_file.chmod(0o600)
        patience_seconds = GRACE_SECONDS if layout.watch_unit_file.exists() else 0
        deadline = time.monotonic() + max(wait_seconds, patience_seconds)
        holder = ""
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                file.seek(0)
                before, holder = holder, file.read().strip()
                if holder != before and is_watch(layout, holder):
                    # it puts back what it has begun; systemd starts it again
                    systemd.systemctl("restart", "--no-block", layout.watch_unit)
                    deadline = max(deadline, time.monotonic() + WATCH_SECONDS)
                if time.monotonic() >= deadline:
                    raise DeployError(
                        f"{layout.name} is being changed on this host by another run ({holder});"
                        " nothing was done, try again when it has ended",
                        busy=True,
                    ) from error
                time.sleep(POLL_SECONDS)
        file.truncate(0)
        file.write(f"pid {os.getpid()} since {state.now()}")
        file.flush()
        yield


def is_watch(layout: Layout, holder: str) -> bool:
    """Says whether a call is the watch's, by what it has written into the lock file."""
    if not layout.watch_unit_file.exists():
        return False
    (status,) = systemd.show([layout.watch_unit])
    return status.main_pid > 0 and holder.startswith(f"pid {status.main_pid} ")


def take(layout: Layout, wanted: Mapping[str, Any], dead: str = "") -> dict[str, Any]:
    """Gives the app to a run, until `give_back`.

    Args:
        layout: The app.
        wanted: The run: `run`, `purpose`, `owner`, `lease_seconds`; `group`, of which one run at a
            time is at work, so that the lock of another one is stale.
        dead: A run that is known to have ended; its lock does not count.

    Returns:
        The lock that was taken over, or nothing.

    Raises:
        DeployError: Another run holds the app; `held` in its facts is that run's lock.
    """

    def free() -> dict[str, Any]:
        held = read(layout)
        if not free_for(held, wanted["run"]) and not is_stale(held, wanted, dead):
            raise DeployError(refusal(layout, held), held=held)
        return held

    # asked before too: who is refused is told of the run, not of the call that it makes just now
    patience_seconds = DEAD_CALL_SECONDS if is_stale(free(), wanted, dead) else 0
    with one_call(layout, patience_seconds):
        held = free()
        write(layout, {**wanted, "since": state.now(), "renewed": time.time()})
        return held if held.get("run") != wanted["run"] else {}


def is_stale(held: Mapping[str, Any], wanted: Mapping[str, Any], dead: str) -> bool:
    """Says whether the run of a lock is known to have ended.

    Args:
        held: The lock, or nothing.
        wanted: Who asks, as for `take`.
        dead: A run that is known to have ended.
    """
    if not held:
        return False
    group = wanted.get("group", "")
    return bool(held["run"] == dead or (group and held.get("group") == group))


def give_back(layout: Layout, run: str) -> bool:
    """Removes the lock of a run; says whether it was there. Another run's is left alone."""
    if not layout.root.exists() or read(layout).get("run") != run:
        return False
    return remove(layout.run_file)


def free_for(held: Mapping[str, Any], run: str) -> bool:
    """Says whether a run may change the app: no other run holds it that may still live."""
    return not held or held["run"] == run or lease_left_seconds(held) <= 0


def lease_left_seconds(held: Mapping[str, Any]) -> float:
    """For how long a lock counts without a further sign of life from its run."""
    return float(held["renewed"]) + float(held["lease_seconds"]) - time.time()


def read(layout: Layout) -> dict[str, Any]:
    """Returns the lock of a run, or nothing.

    Raises:
        DeployError: The file is not readable as one.
    """
    text = read_text(layout.run_file)
    try:
        held: dict[str, Any] = json.loads(text) if text else {}
        if held:
            # what is asked for later is there
            holder(held), held["run"], lease_left_seconds(held)
    except (ValueError, KeyError, TypeError) as error:
        raise DeployError(
            f"{layout.run_file} cannot be read ({error!r}); remove it when no run is under way"
        ) from error
    return held


def write(layout: Layout, held: Mapping[str, Any]) -> None:
    """Writes the lock of a run."""
    write_atomic(layout.run_file, json.dumps(held, indent=1) + "\n", mode=0o640)


def holder(held: Mapping[str, Any]) -> str:
    """Says whose a lock is."""
    owner = held["owner"]
    return (
        f"{owner['user']} at {owner['controller']} (process {owner['pid']}), to {held['purpose']},"
        f" since {held['since']}"
    )


def taken_over(layout: Layout, held: Mapping[str, Any]) -> str:
    """Says whose lock was taken over."""
    return (
        f"the lock of {layout.name} was taken over from a run that has ended without giving it"
        f" back: {holder(held)}"
    )


def refusal(layout: Layout, held: Mapping[str, Any]) -> str:
    """Says who holds the app, and what to do."""
    until = datetime.fromtimestamp(time.time() + lease_left_seconds(held), timezone.utc)
    return (
        f"{layout.name} is locked on this host by {holder(held)}; nothing was done. Wait for that"
        " run with asgi_service_lock_wait_seconds. If you know that it has ended, take the lock"
        " over with asgi_service_lock_take_over: true; without a sign of life from it the lock is"
        f" free at {until.isoformat(timespec='seconds')}"
    )


def this_run(process: int, user: str) -> dict[str, Any]:
    """Describes a run's process on the controller, so that its end can be proven later.

    Args:
        process: Its process id (ansible-playbook).
        user: Who started it.
    """
    return {
        "user": user,
        "controller": socket.gethostname(),
        "machine": machine(),
        "pid": process,
        "started_ticks": started_ticks(process),
    }


def has_ended(owner: Mapping[str, Any]) -> bool:
    """Says whether a run is proven to have ended; only where its processes can be seen.

    Args:
        owner: What `this_run` said of it.
    """
    here = machine()
    if not here or owner.get("machine") != here or not owner.get("started_ticks"):
        return False
    return started_ticks(int(owner["pid"])) != int(owner["started_ticks"])


def machine() -> str:
    """Names the processes that can be seen from here: a boot of a kernel, and a namespace in it.

    Containers share the first, and every machine has the same first namespace. Empty where the
    processes of others cannot be seen (no /proc, or one mounted with hidepid).
    """
    try:
        Path("/proc/1/stat").read_text(encoding="utf-8")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def started_ticks(process: int) -> int:
    """When a process was started, in clock ticks since boot; 0 where there is none."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    # the name in parentheses may hold anything; starttime is field 22, proc_pid_stat(5)
    state_letter, *fields = stat.rpartition(")")[2].split()
    return 0 if state_letter in "ZX" else int(fields[18])

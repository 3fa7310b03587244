# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Slots: their units and files, starting, proving and stopping them."""

from __future__ import annotations

import contextlib
import inspect
import queue
import re
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import processes, static, systemd
from .errors import DeployError
from .files import link_atomic, read_text, remove, write_atomic
from .health import Answer, HealthCheck, Patience, ask_listener
from .layout import CONFIGURATION_FILES, Layout
from .listeners import PORT_MARK, installed_port, listener, slot_port, tcp_connections
from .servers import ENTRY_FILE, entry
from .units import SIZES, changed_keys

POLL_SECONDS = 0.2
STOP_TIMEOUT_SECONDS = 900
#: Text of what stands between the app and most servers.
ENTRY = inspect.getsource(entry)
UNIX_SOCKETS = Path("/proc/net/unix")
#: State of a connected socket in /proc/net/unix.
CONNECTED = "03"


@dataclass(frozen=True)
class SlotUnits:
    """Text of the unit files of a slot; `%j` in them is the slot, `%i` the instance.

    Args:
        service: Template unit of an instance.
        socket: Template unit of its listener, `@port@` in it is the slot's port; empty where the
            server makes it itself.
        slice: The app's slice.
        port: Port of slot blue, the next one is green's; 0 for unix sockets.
        processes: What runs beside the instances.
        publish: Template unit that gives the socket of an instance its name for the proxy; empty
            where the listener is systemd's.
    """

    service: str
    socket: str
    slice: str
    port: int = 0
    processes: Sequence[processes.Process] = ()
    publish: str = ""

    @staticmethod
    def read(values: Mapping[str, Any]) -> SlotUnits:
        """Reads the units from a module's option or from the recorded settings."""
        given = [processes.Process(**one) for one in values.get("processes") or ()]
        return SlotUnits(**{**values, "processes": given})


def unit_files(layout: Layout, slot: str, units: SlotUnits) -> dict[Path, str]:
    """Returns which unit file of a slot has which text; empty for one that is not to be."""
    files = {
        layout.unit_file(slot, "service"): units.service,
        layout.unit_file(slot, "socket"): units.socket.replace(
            PORT_MARK, str(slot_port(units.port, slot))
        ),
        layout.publish_unit_file(slot): units.publish,
        layout.slice_file: units.slice,
        **processes.unit_files(layout, slot, units.processes),
    }
    return systemd.understood(files)


def entry_file(layout: Layout, slot: str) -> Path:
    """Where a slot has the entry, by which most servers serve the app.

    It belongs to the units, which start it, and not to the release: a release may be older than
    it. Beside other files it would make them importable, and hide modules of the app.
    """
    return layout.root / "entry" / slot / ENTRY_FILE


def configuration_files(
    layout: Layout, slot: str, unwritten: Mapping[str, str] | None = None
) -> dict[Path, str]:
    """Returns which configuration file of a slot would have which text if it started now.

    Args:
        layout: The app.
        slot: The slot.
        unwritten: Texts that take the place of those on the host, by the names of the files.
    """
    given = unwritten or {}
    return {
        layout.slot_configuration(slot) / name: given[name]
        if name in given
        else read_text(layout.configuration / name) or ""
        for name in CONFIGURATION_FILES
    }


def enabled_instances(layout: Layout, slot: str) -> int:
    """Returns how many instances of a slot start at boot."""
    return len(systemd.enabled(f"{layout.name}-{slot}@*.service"))


def differences(
    layout: Layout,
    slot: str,
    units: SlotUnits,
    instances: int,
    unwritten: Mapping[str, str] | None = None,
) -> list[str]:
    """Says in which ways a slot is not what a fresh start would make it.

    Args:
        layout: The app.
        slot: The slot.
        units: Text of its unit files.
        instances: How many there are to be.
        unwritten: As for `configuration_files`.

    Returns:
        Words for an operator; nothing secret among them. Empty where nothing differs.
    """
    found = [
        f"unit {path.name}"
        for path, text in unit_files(layout, slot, units).items()
        if (read_text(path) or "") != text
    ]
    found += [
        path.name
        for path, text in configuration_files(layout, slot, unwritten).items()
        if read_text(path) != text
    ]
    if ENTRY_FILE in units.service and read_text(entry_file(layout, slot)) != ENTRY:
        found.append(ENTRY_FILE)
    present = enabled_instances(layout, slot)
    if present != instances:
        found.append(f"instances {present} to {instances}")
    wanted = set(processes.names(layout, slot, units.processes))
    found += sorted(f"process {one}" for one in wanted ^ processes.enabled(layout, slot))
    return found


def unit_diff(
    layout: Layout, former: str | None, slot: str, units: SlotUnits
) -> list[dict[str, str]]:
    """Returns how the unit files of a slot will differ from those of the slot that serves.

    Args:
        layout: The app.
        former: The slot that serves; None where none does.
        slot: The slot that is to serve.
        units: Text of its unit files.

    Returns:
        A diff for Ansible for each file that differs.
    """
    found = []
    for path, text in unit_files(layout, slot, units).items():
        before = path
        if former is not None:
            before = path.with_name(path.name.replace(f"-{slot}@.", f"-{former}@."))
        present = (read_text(before) or "") if former is not None else ""
        if present != text:
            found.append(
                {
                    "before_header": str(before),
                    "after_header": str(path),
                    "before": present,
                    "after": text,
                }
            )
    return found


def own_units(layout: Layout, slot: str, units: SlotUnits) -> SlotUnits:
    """Returns the units that a slot has itself; the slice, which it shares, is the given one."""
    return SlotUnits(
        service=read_text(layout.unit_file(slot, "service")) or "",
        socket=read_text(layout.unit_file(slot, "socket")) or "",
        slice=units.slice,
        processes=units.processes,
        publish=read_text(layout.publish_unit_file(slot)) or "",
    )


def configuration_changes(
    layout: Layout, former: str | None, after: Mapping[Path, str]
) -> dict[str, list[str]]:
    """Says which variables of environment and secrets differ from those of what serves.

    Args:
        layout: The app.
        former: The slot that serves; None where none does.
        after: Which text each file will have, whose names are those of the serving slot's.

    Returns:
        Names under `added`, `changed` and `removed`; never a value.
    """
    before = ""
    if former is not None:
        directory = layout.slot_configuration(former)
        before = "".join(read_text(directory / name) or "" for name in CONFIGURATION_FILES)
    return changed_keys(before, "".join(after.values()))


@dataclass(frozen=True)
class Snapshot:
    """All that a slot is started from, to be put back when it is not to be.

    Args:
        files: Text of unit and configuration files; None for one that is not there.
        release: What the slot points at.
    """

    files: Mapping[Path, str | None]
    release: str | None


def snapshot(layout: Layout, slot: str, wanted: SlotUnits) -> Snapshot:
    """Returns what a slot has now of all that it has or is to have."""
    units = unit_files(layout, slot, wanted)
    paths = [*units, *configuration_files(layout, slot), entry_file(layout, slot)]
    paths += [layout.slot_variables(slot), layout.slot_site(slot)]
    return Snapshot({path: read_text(path) for path in paths}, layout.slot_release(slot))


def restore(layout: Layout, slot: str, before: Snapshot) -> None:
    """Gives a stopped slot what it had."""
    for path, text in before.files.items():
        if text is None:
            remove(path)
        elif read_text(path) != text:
            write_atomic(path, text, mode=0o600 if layout.configuration in path.parents else 0o644)
    systemd.systemctl("daemon-reload")
    # last: with the link the slot is taken to have what belongs to that release
    if before.release is None:
        remove(layout.slot_link(slot))
    else:
        link_atomic(layout.slot_link(slot), f"../releases/{before.release}")
    static.point(layout, slot, before.release)


def prepare(
    layout: Layout,
    slot: str,
    release: str,
    units: SlotUnits,
    unwritten: Mapping[str, str] | None = None,
) -> None:
    """Points a slot that is not running at a release and gives it configuration and entry.

    Args:
        layout: The app.
        slot: The slot.
        release: A staged release.
        units: Text of its unit files.
        unwritten: As for `configuration_files`.
    """
    directory = layout.slot_configuration(slot)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    # first: what the slot had no longer belongs to its former release
    link_atomic(layout.slot_link(slot), f"../releases/{release}")
    write_atomic(layout.slot_variables(slot), f"ASGI_RELEASE={release}\n")
    static.point(layout, slot, release)
    for path, text in configuration_files(layout, slot, unwritten).items():
        write_atomic(path, text, mode=0o600)
    path = entry_file(layout, slot)
    for parent in (path.parent.parent, path.parent):
        # the app's user has to get there
        parent.mkdir(mode=0o755, exist_ok=True)
    write_atomic(path, ENTRY)
    systemd.install_unit_files(unit_files(layout, slot, units))


def listeners(layout: Layout, slot: str, instances: int) -> list[str]:
    """Returns the socket units of a slot; none where its server makes its listeners itself."""
    if not layout.unit_file(slot, "socket").exists():
        return []
    return layout.units(slot, instances, "socket")


def publishers(layout: Layout, slot: str, instances: int) -> list[str]:
    """Returns the units that give sockets their names; none where the listeners are systemd's."""
    if not layout.publish_unit_file(slot).exists():
        return []
    return [layout.publish_unit(slot, number) for number in range(1, instances + 1)]


def slice_memory_bytes(text: str) -> int:
    """Returns the MemoryMax= of a slice in bytes; 0 where it has none."""
    match = re.search(r"^MemoryMax=([0-9]+)([KMGT]?)$", text, re.MULTILINE)
    return int(match[1]) * SIZES[match[2]] if match else 0


def slice_for_both(layout: Layout, wanted: str) -> str:
    """Returns the text of the slice while both slots run: a smaller limit comes later.

    systemd applies a limit at once, and the slot that serves may need what it has.
    """
    present = read_text(layout.slice_file) or ""
    return wanted if slice_memory_bytes(wanted) >= slice_memory_bytes(present) else present


def start(
    layout: Layout,
    slot: str,
    instances: int,
    explain_exit: Callable[[int], str],
) -> None:
    """Starts the listeners, where they are systemd's, and then the instances of a slot.

    Args:
        layout: The app.
        slot: A slot that is not running.
        instances: How many it has.
        explain_exit: Says what an exit code of the server means.

    Raises:
        DeployError: systemd could not start one, with its journal.
    """
    since = time.time()
    sockets = listeners(layout, slot, instances)
    services = layout.units(slot, instances)
    try:
        if sockets:
            systemd.systemctl("start", *sockets)
        systemd.systemctl("start", *services)
    except DeployError as error:
        if any(status.result != "success" for status in systemd.show(services)):
            # says more than that the start has failed
            refuse_exited(layout, slot, instances, explain_exit, since)
        raise DeployError(
            f"{error.message}\n{systemd.journal([*services, *sockets], since)}"
        ) from error


def refusal(layout: Layout, slot: str, number: int, why: str, since_seconds: float) -> DeployError:
    """Returns the error that refuses an instance, with the lines of its journal."""
    unit = layout.unit(slot, number)
    lines = systemd.journal([unit, layout.publish_unit(slot, number)], since_seconds)
    return DeployError(f"{unit} {why}\nlast lines of its journal:\n{lines}")


def refuse_exited(
    layout: Layout,
    slot: str,
    instances: int,
    explain_exit: Callable[[int], str],
    since_seconds: float,
) -> None:
    """Refuses an instance that does not run, that systemd has started again, or whose socket is
    not for the proxy.

    Raises:
        DeployError: Which instance, how it ended, and the lines of its journal.
    """
    publishing = publishers(layout, slot, instances)
    statuses = systemd.show([*layout.units(slot, instances), *publishing])
    for number, status in enumerate(statuses[:instances], start=1):
        if status.running and status.restarts == 0:
            continue
        ended = systemd.as_it_ended(status, since_seconds)
        code = ended.exit_code or 0
        reason = explain_exit(code)
        why = (
            f"did not stay up: exit code {code}"
            f"{f' ({reason})' if reason else ''}, result {ended.result},"
            f" started again {status.restarts} times"
        )
        raise refusal(layout, slot, number, why, since_seconds)
    for number, status in enumerate(statuses[instances:], start=1):
        if status.restarts or status.result != "success":
            why = f"has no socket that the proxy may use: {status.name} has failed"
            raise refusal(layout, slot, number, why, since_seconds)


def stop(layout: Layout, slot: str) -> None:
    """Stops every instance of a slot, also those that a former setting left behind."""
    patterns = [f"{layout.name}-{slot}@*.{kind}" for kind in ("socket", "service")]
    patterns += [layout.publish_unit(slot, "*"), *processes.patterns(layout, slot)]
    # both in one call: a socket alone would start its service again
    units = systemd.loaded(*patterns)
    if units:
        systemd.systemctl("stop", *units, timeout_seconds=STOP_TIMEOUT_SECONDS)
        systemd.systemctl("reset-failed", *units, check=False)


def enable(layout: Layout, slot: str, instances: int) -> None:
    """Makes exactly these instances of a slot start at boot."""
    wanted = {*layout.units(slot, instances), *listeners(layout, slot, instances)}
    present = set(systemd.enabled(f"{layout.name}-{slot}@*"))
    if present - wanted:
        systemd.systemctl("disable", "--quiet", *sorted(present - wanted))
    if wanted - present:
        systemd.systemctl("enable", "--quiet", *sorted(wanted - present))
        # on disk before the switch: the live slot has to start after a power cut
        systemd.sync_links()


def disable(layout: Layout, slot: str) -> None:
    """Makes nothing of a slot start at boot."""
    enable(layout, slot, 0)
    processes.disable(layout, slot)


def forget(layout: Layout, slot: str) -> None:
    """Removes the unit files, entry, configuration and link of a stopped slot."""
    disable(layout, slot)
    own = [layout.unit_file(slot, kind) for kind in ("service", "socket")]
    own.append(layout.publish_unit_file(slot))
    removed = [remove(path) for path in (*own, *processes.present(layout, slot))]
    if any(removed):
        systemd.systemctl("daemon-reload")
    remove(entry_file(layout, slot))
    remove(layout.slot_variables(slot))
    if layout.slot_configuration(slot).is_dir():
        # with what a run that was killed has left there
        shutil.rmtree(layout.slot_configuration(slot))
    remove(layout.slot_link(slot))
    static.point(layout, slot, None)


def prove(
    layout: Layout,
    slot: str,
    instances: int,
    check: HealthCheck,
    explain_exit: Callable[[int], str],
    since_seconds: float,
    has_master: bool,
) -> None:
    """The gate: every instance answers as asked, and goes on doing so.

    The exit of a process ends the wait at once, and an answer that says that the question is wrong
    soon, as a path that the app has not got. A process that was started again, by systemd or
    by a master, is not healthy, however it answers now.

    Args:
        layout: The app.
        slot: A slot that was started.
        instances: How many it has.
        check: What to ask, and for how long.
        explain_exit: Says what an exit code of the server means.
        since_seconds: A time before the start, of the Unix epoch: where the journal is read from.
        has_master: Whether the server starts a worker again by itself, so that systemd does not
            learn of its end.

    Raises:
        DeployError: Which instance, why, and the lines of its journal.
    """
    deadline = time.monotonic() + check.timeout_seconds
    waiting = dict.fromkeys(range(1, instances + 1), "no answer yet")
    patience = {number: Patience() for number in waiting}

    # of each healthy instance, where a master starts them: its process and theirs
    workers: dict[int, tuple[int, set[int]]] = {}

    def still_up() -> None:
        refuse_exited(layout, slot, instances, explain_exit, since_seconds)
        for number, (master, known) in workers.items():
            if known - systemd.children(master):
                why = "did not stay up: its worker ended and the server started another one"
                raise refusal(layout, slot, number, why, since_seconds)

    answers: queue.SimpleQueue[tuple[int, Answer]] = queue.SimpleQueue()

    def question(number: int) -> None:
        answers.put((number, ask_listener(listener(layout, slot, number), check)))

    # A listener takes a question before its process is up, so it may hang for long: asked in
    # threads, so that the exit of a process is noticed meanwhile.
    asked: set[int] = set()
    while waiting:
        still_up()
        for number in set(waiting) - asked:
            threading.Thread(target=question, args=(number,), daemon=True).start()
            asked.add(number)
        with contextlib.suppress(queue.Empty):
            number, answer = answers.get(timeout=POLL_SECONDS)
            asked.discard(number)
            if answer.healthy:
                del waiting[number]
                if has_master:
                    master = systemd.show([layout.unit(slot, number)])[0].main_pid
                    workers[number] = (master, systemd.children(master))
                continue
            waiting[number] = f"{answer.text}{answer.advice(check)}"
            if patience[number].is_over(answer, time.monotonic()):
                still_up()
                why = f"is not healthy: GET {check.path}: {waiting[number]}"
                raise refusal(layout, slot, number, why, since_seconds)
            time.sleep(POLL_SECONDS)
        if time.monotonic() > deadline:
            still_up()
            number, text = next(iter(waiting.items()))
            raise refusal(
                layout,
                slot,
                number,
                f"was not healthy within {check.timeout_seconds:g} s: GET {check.path}: {text}",
                since_seconds,
            )

    stable = time.monotonic() + check.stable_seconds
    while time.monotonic() < stable:
        still_up()
        time.sleep(POLL_SECONDS)
    for number in range(1, instances + 1):
        answer = ask_listener(listener(layout, slot, number), check)
        if not answer.healthy:
            still_up()
            why = f"was healthy and is no longer: GET {check.path}: {answer.text}"
            raise refusal(layout, slot, number, why, since_seconds)
    still_up()


def connections(layout: Layout, slot: str, table: Path = UNIX_SOCKETS) -> int:
    """Counts the open connections to the instances of a slot."""
    port = installed_port(layout, slot)
    if port is not None:
        return tcp_connections(port)
    prefix = f"{layout.socket(slot, 0).parent}/"
    count = 0
    for line in table.read_text(encoding="utf-8", errors="replace").splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[5] == CONNECTED and fields[7].startswith(prefix):
            count += 1
    return count


def settle(layout: Layout, slot: str, settle_seconds: float, drain_seconds: float) -> int:
    """Waits until a slot that gets no new request has answered its last one.

    Args:
        layout: The app.
        slot: The slot that the proxy no longer asks.
        settle_seconds: At least this long: the proxy may keep idle connections that long.
        drain_seconds: At most this long.

    Returns:
        How many connections are still open and will be cut.
    """
    started = time.monotonic()
    while True:
        waited = time.monotonic() - started
        open_connections = connections(layout, slot)
        if waited >= settle_seconds and (open_connections == 0 or waited >= drain_seconds):
            return open_connections
        time.sleep(POLL_SECONDS)


def memory(layout: Layout, slot: str, instances: int) -> Mapping[str, int]:
    """Returns the memory of a slot in mebibytes: what it uses, and what one may use."""
    statuses = systemd.show(layout.units(slot, instances))
    return {
        "memory_mebibytes": sum(status.memory_bytes or 0 for status in statuses) // 2**20,
        "memory_max_mebibytes": sum(status.memory_max_bytes or 0 for status in statuses) // 2**20,
    }

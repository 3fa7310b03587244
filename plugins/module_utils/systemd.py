# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What this collection asks of systemd and of its journal."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .commands import run, tail
from .errors import DeployError
from .files import read_text, remove, sync_directory, write_atomic

#: Keys of unit files that a host may be too old for, and the first version that has them.
KEYS_SINCE = {"PrivateIPC": 248, "RestartSteps": 254, "RestartMaxDelaySec": 254}
SYSTEM_UNITS = Path("/etc/systemd/system")
CALL_TIMEOUT_SECONDS = 90
JOURNAL_LINES = 40
#: What systemd logs when a process ends and when a unit fails, of its header sd-messages.h.
ENDINGS = ("98e322203f7a4ed290d09fe03c09fe15", "d9b373ed55a64feb8242e02dbe79a49c")
UNIT_PROPERTIES = (
    "Id",
    "ActiveState",
    "SubState",
    "Result",
    "MainPID",
    "NRestarts",
    "ExecMainCode",
    "ExecMainStatus",
    "MemoryCurrent",
    "MemoryMax",
    "ActiveEnterTimestamp",
    "UnitFileState",
    "Job",
)


@dataclass(frozen=True)
class UnitStatus:
    """What systemd says of one unit.

    `queued` says whether a job of it waits or runs, such as a start that waits for another unit.
    Memory is in bytes; None where systemd does not know it or there is no limit.
    """

    name: str
    active_state: str
    sub_state: str
    result: str
    main_pid: int
    restarts: int
    exit_code: int | None
    memory_bytes: int | None
    memory_max_bytes: int | None
    since: str
    enabled: bool
    queued: bool = False

    @property
    def running(self) -> bool:
        """Its process runs now."""
        return self.active_state == "active" and self.sub_state == "running"


def number(text: str) -> int | None:
    """Reads a number of systemd, which writes unknown and unlimited as words or 2**64-1."""
    if not text.isdigit() or int(text) >= 2**63:
        return None
    return int(text)


def parse_show(text: str) -> list[UnitStatus]:
    """Reads the output of `systemctl show`: a block of Key=value lines for each unit."""
    statuses = []
    for block in text.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if "Id" not in values:
            continue
        statuses.append(
            UnitStatus(
                name=values["Id"],
                active_state=values.get("ActiveState", ""),
                sub_state=values.get("SubState", ""),
                result=values.get("Result", ""),
                main_pid=number(values.get("MainPID", "")) or 0,
                restarts=number(values.get("NRestarts", "")) or 0,
                exit_code=number(values.get("ExecMainStatus", "")),
                memory_bytes=number(values.get("MemoryCurrent", "")),
                memory_max_bytes=number(values.get("MemoryMax", "")),
                since=values.get("ActiveEnterTimestamp", ""),
                enabled=values.get("UnitFileState", "") == "enabled",
                queued=bool(number(values.get("Job", ""))),
            )
        )
    return statuses


def systemctl(
    *arguments: str,
    check: bool = True,
    timeout_seconds: float = CALL_TIMEOUT_SECONDS,
    doing: str = "",
) -> str:
    """Runs systemctl and returns what it prints."""
    done = run(
        ["systemctl", "--no-pager", *arguments],
        timeout_seconds=timeout_seconds,
        check=check,
        doing=doing,
    )
    return done.stdout


def show(units: Sequence[str]) -> list[UnitStatus]:
    """Returns the status of the given units, in their order."""
    if not units:
        return []
    return parse_show(systemctl("show", f"--property={','.join(UNIT_PROPERTIES)}", *units))


def children(pid: int) -> set[int]:
    """Returns the processes that a process has started and that have not ended."""
    text = read_text(Path(f"/proc/{pid}/task/{pid}/children"))
    return {int(word) for word in (text or "").split()}


def loaded(*patterns: str) -> list[str]:
    """Names of the units in systemd's memory that fit a pattern."""
    text = systemctl("list-units", "--all", "--plain", "--no-legend", "--full", *patterns)
    return [line.split()[0] for line in text.splitlines() if line.strip()]


def enabled(pattern: str, directory: Path = SYSTEM_UNITS) -> list[str]:
    """Names of the enabled units that fit a pattern, whether or not they are loaded."""
    return sorted({link.name for link in directory.glob(f"*.wants/{pattern}")})


def sync_links(directory: Path = SYSTEM_UNITS) -> None:
    """Makes the links of enabled units survive a power cut."""
    for path in (directory, *directory.glob("*.wants")):
        sync_directory(path)


def install_unit_files(files: dict[Path, str]) -> list[Path]:
    """Writes the unit files that differ, and reloads systemd once if any did.

    Args:
        files: Text of each file; empty for one that is not to be there.
    """
    changed = [path for path, text in files.items() if (read_text(path) or "") != text]
    for path in changed:
        if files[path]:
            write_atomic(path, files[path])
        else:
            remove(path)
    if changed:
        systemctl("daemon-reload")
    return changed


def sync_journal() -> None:
    """Waits for what was written just before, by a process at its end for one."""
    run(["journalctl", "--sync"], timeout_seconds=CALL_TIMEOUT_SECONDS, check=False)


def journal(units: Sequence[str], since_seconds: float, lines: int = JOURNAL_LINES) -> str:
    """Returns the last journal lines of units.

    Args:
        units: Unit names or patterns.
        since_seconds: Only lines after this time, in seconds of the Unix epoch.
        lines: How many at the most.
    """
    sync_journal()
    selectors = [f"--unit={unit}" for unit in units]
    done = run(
        [
            "journalctl",
            "--no-pager",
            "--quiet",
            "--output=cat",
            # no --lines: with --since older versions take the first ones, not the last
            f"--since=@{int(since_seconds)}",
            *selectors,
        ],
        timeout_seconds=CALL_TIMEOUT_SECONDS,
        check=False,
    )
    return tail(done.stdout, lines)


def as_it_ended(status: UnitStatus, since_seconds: float) -> UnitStatus:
    """Returns a status with the exit code and the result of the last process that ended.

    A unit that was started again shows those of the process that runs now, so the journal is asked.

    Args:
        status: What systemd shows now.
        since_seconds: Only ends after this time, in seconds of the Unix epoch.
    """
    if not status.restarts:
        return status
    sync_journal()
    done = run(
        [
            "journalctl",
            "--quiet",
            "--output=json",
            "--output-fields=EXIT_STATUS,UNIT_RESULT",
            f"--since=@{int(since_seconds)}",
            f"--unit={status.name}",
            *(f"MESSAGE_ID={ending}" for ending in ENDINGS),
        ],
        timeout_seconds=CALL_TIMEOUT_SECONDS,
        check=False,
    )
    return parse_endings(status, done.stdout)


def parse_endings(status: UnitStatus, text: str) -> UnitStatus:
    """Returns a status with the last of the ends that `journalctl` has written as JSON."""
    for line in text.splitlines():
        told = json.loads(line)
        if "EXIT_STATUS" in told:
            status = replace(status, exit_code=number(told["EXIT_STATUS"]))
        if "UNIT_RESULT" in told:
            status = replace(status, result=told["UNIT_RESULT"])
    return status


def version() -> int:
    """Returns the major version of systemd.

    Raises:
        DeployError: systemd does not run here.
    """
    if not Path("/run/systemd/system").is_dir():
        raise DeployError("systemd is not the init system of this host; this collection needs it")
    first = systemctl("--version").split()
    return int(first[1])


def unknown(keys: Iterable[str]) -> set[str]:
    """Returns which keys of units this host's systemd is too old for."""
    newer = [key for key in keys if key in KEYS_SINCE]
    if not newer:
        return set()
    present = version()
    return {key for key in newer if present < KEYS_SINCE[key]}


def understood(files: Mapping[Path, str]) -> dict[Path, str]:
    """Returns unit files without what this host's systemd would only warn of."""
    lines = {path: text.splitlines(keepends=True) for path, text in files.items()}
    left_out = unknown(line.partition("=")[0] for text in lines.values() for line in text)
    return {
        path: "".join(line for line in text if line.partition("=")[0] not in left_out)
        for path, text in lines.items()
    }

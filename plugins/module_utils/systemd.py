# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What this collection asks of systemd and of its journal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .commands import run, tail
from .errors import DeployError
from .files import read_text, remove, write_atomic

SYSTEM_UNITS = Path("/etc/systemd/system")
CALL_TIMEOUT_SECONDS = 90
JOURNAL_LINES = 40
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
)


@dataclass(frozen=True)
class UnitStatus:
    """What systemd says of one unit.

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


def loaded(*patterns: str) -> list[str]:
    """Names of the units in systemd's memory that fit a pattern."""
    text = systemctl("list-units", "--all", "--plain", "--no-legend", "--full", *patterns)
    return [line.split()[0] for line in text.splitlines() if line.strip()]


def enabled(pattern: str, directory: Path = SYSTEM_UNITS) -> list[str]:
    """Names of the enabled units that fit a pattern, whether or not they are loaded."""
    return sorted({link.name for link in directory.glob(f"*.wants/{pattern}")})


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


def journal(units: Sequence[str], since_seconds: float, lines: int = JOURNAL_LINES) -> str:
    """Returns the last journal lines of units.

    Args:
        units: Unit names or patterns.
        since_seconds: Only lines after this time, in seconds of the Unix epoch.
        lines: How many at the most.
    """
    # what a process wrote just before its end may still be on its way to the journal
    run(["journalctl", "--sync"], timeout_seconds=CALL_TIMEOUT_SECONDS, check=False)
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


def version() -> int:
    """Returns the major version of systemd.

    Raises:
        DeployError: systemd does not run here.
    """
    if not Path("/run/systemd/system").is_dir():
        raise DeployError("systemd is not the init system of this host; this collection needs it")
    first = systemctl("--version").split()
    return int(first[1])

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that systemd runs as transient units: each has a control group, which ends with it."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import systemd
from .commands import run, tail

#: systemd itself uses exit codes from here on, for what failed before the program ran.
FIRST_SYSTEMD_CODE = 200
#: How much longer than its own limit a unit is waited for.
GRACE_SECONDS = 30
#: Exit code of a shell whose last program was killed.
SHELL_KILLED = 128 + signal.SIGKILL
Property = tuple[str, str]

#: Why systemd could not start a program at all, by the exit codes of systemd.exec(5).
NOT_STARTED = {
    203: ": systemd could not run the program. The sandbox hides /home and /root, so an interpreter"
    " there cannot be used (asgi_app_python)",
    226: ": systemd could not set up the sandbox. A container of LXC or Proxmox needs nesting"
    " (features: nesting=1), and all directories of asgi_service_writable_paths must exist",
}


@dataclass(frozen=True)
class Ended:
    """How a transient unit ended.

    Args:
        returncode: Exit code of its program; 0 for success.
        stdout: What it wrote.
        stderr: What it wrote as errors.
        result: Result of the unit as systemd names it: `success`, `exit-code`, `signal`,
            `timeout`, `oom-kill`, ...
        signal_number: The signal that ended the program; 0 for none.
        journal: What systemd logged about the unit, where the program itself cannot say why.
    """

    returncode: int
    stdout: str
    stderr: str
    result: str = "success"
    signal_number: int = 0
    journal: str = ""

    @property
    def out_of_memory(self) -> bool:
        """The kernel has killed it; with cgroup v1 systemd does not learn why."""
        killed = self.signal_number == signal.SIGKILL or self.returncode == SHELL_KILLED
        return self.result == "oom-kill" or (self.result != "timeout" and killed)

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        if self.signal_number:
            return f"was ended by {signal.Signals(self.signal_number).name}"
        reason = NOT_STARTED.get(self.returncode, "")
        return f"ended with code {self.returncode}{reason}"

    @property
    def output(self) -> str:
        """The last lines of all that is known of a failure."""
        parts = (tail(self.stdout), tail(self.stderr), self.journal)
        return "\n".join(part for part in parts if part.strip())


def run_unit(
    unit: str,
    argv: Sequence[str],
    properties: Sequence[Property],
    timeout_seconds: float,
    input_file: Path | None = None,
) -> Ended:
    """Runs a program as a transient unit to its end; none of its processes survives it.

    Args:
        unit: Name of the unit, which must not be loaded.
        argv: Program and arguments; each arrives as it is. Never a secret among them.
        properties: Of the unit. Any user can read them: never a secret among them.
        timeout_seconds: After this systemd ends the unit.
        input_file: What the program reads as standard input; nothing by default.

    Raises:
        DeployError: systemd did not end the unit in time.
    """
    started = time.time()
    wanted = [
        *properties,
        ("TimeoutStartSec", f"{timeout_seconds:g}"),
        ("KillSignal", "SIGKILL"),
        # as in a shell
        ("IgnoreSIGPIPE", "no"),
    ]
    # systemd-run fails for a property that systemd does not know, where a unit file only warns
    left_out = systemd.unknown(key for key, _value in wanted)
    command = [
        # for another type systemd takes the end by SIGTERM, SIGHUP, SIGINT or SIGPIPE for a success
        *("systemd-run", "--quiet", "--wait", "--pipe", "--service-type=oneshot"),
        f"--unit={unit}",
        *(f"--property={key}={value}" for key, value in wanted if key not in left_out),
        "--",
        # systemd expands variables in the arguments of a transient unit
        *(word.replace("$", "$$") for word in argv),
    ]
    try:
        done = run(
            command,
            timeout_seconds=timeout_seconds + GRACE_SECONDS,
            input_file=input_file,
            check=False,
        )
    except BaseException:
        stop(unit)
        raise
    if done.returncode == 0:
        return Ended(0, done.stdout, done.stderr)
    # systemd keeps the status of a failed unit
    [status] = systemd.show([unit])
    result = status.result
    journal = ""
    if result != "exit-code" or done.returncode >= FIRST_SYSTEMD_CODE:
        journal = systemd.journal([unit], started)
    systemd.systemctl("reset-failed", unit, check=False)
    number = (status.exit_code or 0) if result == "signal" else 0
    return Ended(done.returncode, done.stdout, done.stderr, result, number, journal)


def stop(unit: str) -> None:
    """Ends a transient unit with all its processes, and lets systemd unload it."""
    systemd.systemctl("stop", unit, check=False)
    systemd.systemctl("reset-failed", unit, check=False)

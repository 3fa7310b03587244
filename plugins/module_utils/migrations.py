# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The migration of a release: one unit, run to its end, once for each release."""

from __future__ import annotations

import json
import time
from typing import Any

from . import state, systemd
from .errors import DeployError
from .files import read_text, write_atomic
from .layout import Layout
from .releases import read_manifest

#: systemd itself stops the unit at its time-out; this is for systemctl, a little later.
GRACE_SECONDS = 60
POLL_SECONDS = 0.2
#: States of a unit whose command runs, or is being stopped.
UNDER_WAY = ("activating", "deactivating")


def migrate(layout: Layout, release: str, unit: str, timeout_seconds: float) -> dict[str, Any]:
    """Runs the migration of a release to its end, unless an earlier run has begun it.

    The unit belongs to systemd and goes on where the run that started it is killed, so it is
    waited for first: two migrations of an app never run at the same time on a host. The unit
    itself notes that it has succeeded.

    Args:
        layout: The app.
        release: A staged release; its code and its environment are used.
        unit: Text of the template unit, whose instance is the release.
        timeout_seconds: The limit that the unit has.

    Returns:
        `output`, the lines of the journal; `seconds`; `waited_for`, units of an earlier run.

    Raises:
        DeployError: It failed or took too long; with its output.
    """
    read_manifest(layout, release)
    name = layout.migrate_unit(release)
    clock = time.monotonic()
    waited_for = wait_for_running(layout, timeout_seconds + GRACE_SECONDS)
    if layout.migration_record(release).exists():
        how, started = "ran here, begun by a run that was cut off", 0.0
    else:
        how, started = "ran here", time.time()
        systemd.install_unit_files({layout.migrate_unit_file: unit})
        run_unit(layout, release, timeout_seconds, started)
    record(layout, release, how)
    return {
        "output": systemd.journal([name], started),
        "seconds": round(time.monotonic() - clock, 1),
        "waited_for": waited_for,
    }


def run_unit(layout: Layout, release: str, timeout_seconds: float, started: float) -> None:
    """Starts the unit of a migration and waits for its end.

    Args:
        layout: The app.
        release: What it migrates for.
        timeout_seconds: The limit that it has.
        started: Only journal lines after this time are told, in seconds of the Unix epoch.

    Raises:
        DeployError: It failed or took too long; with its output.
    """
    name = layout.migrate_unit(release)
    # one that failed when nobody watched any more counts too
    systemd.systemctl("reset-failed", layout.migrate_unit("*"), check=False)
    try:
        systemd.systemctl("start", name, timeout_seconds=timeout_seconds + GRACE_SECONDS)
    except DeployError as error:
        output = systemd.journal([name], started)
        status = systemd.show([name])[0]
        if status.active_state in UNDER_WAY:
            systemd.systemctl("stop", name, check=False)
        # its journal is kept; a failed unit would only make the whole host look degraded
        systemd.systemctl("reset-failed", name, check=False)
        code = f"exit code {status.exit_code}" if status.result == "exit-code" else status.result
        raise DeployError(
            f"the migration of release {release} failed ({code}), so nothing of it was started"
            f" and what was serving still serves:\n{output}\n"
            "What the migration has done to the database before it failed is not undone; mend it"
            " and deploy again."
        ) from error


def wait_for_running(layout: Layout, timeout_seconds: float) -> list[str]:
    """Waits for migrations that an earlier run has begun, of whichever release.

    Returns:
        The units that were waited for.

    Raises:
        DeployError: One still runs when the time is over; it is left alone.
    """
    deadline = time.monotonic() + timeout_seconds
    found: list[str] = []
    while True:
        statuses = systemd.show(systemd.loaded(layout.migrate_unit("*")))
        running = [status.name for status in statuses if status.active_state in UNDER_WAY]
        if not running:
            return found
        found = found or running
        if time.monotonic() >= deadline:
            raise DeployError(
                f"a migration that an earlier run has begun still runs ({', '.join(running)}), so"
                f" no other was begun; wait for its end, or stop it: systemctl stop {running[0]}"
            )
        time.sleep(POLL_SECONDS)


def heads(layout: Layout, release: str) -> dict[str, list[str] | None]:
    """Returns the newest migrations of what serves and of a release.

    Returns:
        `before` and `after`; None where the release is not on the host or nobody can tell.
    """
    serving = layout.slot_release(layout.serving_slot())
    staged = layout.staged_releases()
    return {
        when: read_manifest(layout, one).get("migration_heads") if one in staged else None
        for when, one in (("before", serving), ("after", release))
    }


def unit_diff(layout: Layout, unit: str) -> list[dict[str, str]]:
    """Returns how the unit file of the migration will change, as a diff for Ansible."""
    path = layout.migrate_unit_file
    present = read_text(path)
    if present == unit:
        return []
    return [
        {
            "before_header": str(path),
            "after_header": str(path),
            "before": present or "",
            "after": unit,
        }
    ]


def record(layout: Layout, release: str, how: str) -> None:
    """Writes down that the migration of a release is done, so that it is not run again."""
    path = layout.migration_record(release)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomic(path, json.dumps({"at": state.now(), "how": how}) + "\n", mode=0o600)

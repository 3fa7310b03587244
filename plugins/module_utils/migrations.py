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


def migrate(layout: Layout, release: str, unit: str, timeout_seconds: float) -> dict[str, Any]:
    """Runs the migration of a release to its end.

    Args:
        layout: The app.
        release: A staged release; its code and its environment are used.
        unit: Text of the template unit, whose instance is the release.
        timeout_seconds: The limit that the unit has.

    Returns:
        `output`, the lines of the journal; `seconds`.

    Raises:
        DeployError: It failed or took too long; with its output.
    """
    read_manifest(layout, release)
    systemd.install_unit_files({layout.migrate_unit_file: unit})
    name = layout.migrate_unit(release)
    started, clock = time.time(), time.monotonic()
    systemd.systemctl("reset-failed", name, check=False)
    try:
        systemd.systemctl("start", name, timeout_seconds=timeout_seconds + GRACE_SECONDS)
    except DeployError as error:
        output = systemd.journal([name], started)
        status = systemd.show([name])[0]
        if status.active_state == "activating":
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
    seconds = round(time.monotonic() - clock, 1)
    record(layout, release, "ran here")
    return {"output": systemd.journal([name], started), "seconds": seconds}


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

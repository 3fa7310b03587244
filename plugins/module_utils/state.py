# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host remembers of an app: its history, and how it was last rolled out.

What serves is not remembered here but read from where it takes effect: the switch file, the
links of the slots, the enabled units.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from .errors import DeployError
from .files import read_text, write_atomic

FORMAT = 1
KEPT_EVENTS = 200
#: A release that has served and was not found wanting since.
GOOD = "good"
#: A release that failed on the way to serving.
FAILED = "failed"
#: A rollout that failed and says nothing of its release, which served before and after.
REFUSED = "refused"
#: A release that was rolled back from; a second rollback does not return to it.
LEFT = "left"


def now() -> str:
    """The time in UTC, as it is written in state and manifests."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


@dataclass
class State:
    """The state file of an app.

    Args:
        history: One event for each rollout, oldest first: release, previous, slot, status,
            reason, at, seconds, by.
        settings: How the app was last rolled out, so that a rollback needs no variables.
        former_settings: How it was rolled out before that, to undo the last rollout.
        operation: The rollout under way, or empty; left behind by a run that was killed.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    former_settings: dict[str, Any] = field(default_factory=dict)
    operation: dict[str, Any] = field(default_factory=dict)

    def status(self, release: str) -> str:
        """Returns the last known status of a release: good, failed, or nothing."""
        for event in reversed(self.history):
            if event["release"] == release and event["status"] != REFUSED:
                return str(event["status"])
        return ""

    def has_served_well(self, release: str, except_run: str | None = None) -> bool:
        """Says whether a release was good at any time.

        Args:
            release: The release.
            except_run: What this run of the fleet did does not count.
        """
        return any(
            event["release"] == release
            and event["status"] == GOOD
            and event.get("run", "") != except_run
            for event in self.history
        )

    def good_releases(self) -> list[str]:
        """Releases whose last status is good, the one that served last first."""
        found: list[str] = []
        for event in reversed(self.history):
            release = event["release"]
            served = event["status"] == GOOD
            if served and release not in found and self.status(release) == GOOD:
                found.append(release)
        return found

    def record(self, **event: Any) -> None:
        """Adds an event to the history, which does not grow for ever."""
        self.history.append({"at": now(), **event})
        del self.history[:-KEPT_EVENTS]


def load(path: Path) -> State:
    """Reads the state of an app; a host that has none has an empty one.

    Raises:
        DeployError: The file is not ours, broken, or written by a newer version.
    """
    try:
        text = read_text(path)
        if text is None:
            return State()
        values = json.loads(text)
        if values["format"] > FORMAT:
            raise DeployError(
                f"{path} was written by a newer version of asgi.deploy; update this controller"
            )
        return State(
            values["history"],
            values["settings"],
            values.get("former_settings", {}),
            values["operation"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise DeployError(
            f"{path} cannot be read ({error}); move it away: only history is lost,"
            " what serves goes on"
        ) from error


def save(path: Path, state: State) -> None:
    """Writes the state in one step."""
    values = {
        "format": FORMAT,
        "history": state.history,
        "settings": state.settings,
        "former_settings": state.former_settings,
        "operation": state.operation,
    }
    write_atomic(path, json.dumps(values, indent=1) + "\n", mode=0o640)

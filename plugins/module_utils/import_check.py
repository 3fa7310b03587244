# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The import check: a release counts as staged once its entry point was imported like an instance.

Same user, sandbox, environment, secrets and memory limit as an instance.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from . import import_program
from .errors import DeployError
from .layout import CONFIGURATION_FILES, Layout
from .sandbox import Sandbox
from .transient import NOT_STARTED, Ended, Property, run_unit

#: With cold caches an import takes longer than it will in an instance.
MINIMUM_TIMEOUT_SECONDS = 120
#: The program reports by itself what an import hangs at; systemd ends it where it cannot.
GRACE_SECONDS = 10
PROGRAM = f"{inspect.getsource(import_program)}\n\nmain(*sys.argv[1:])\n"


@dataclass(frozen=True)
class ImportCheck:
    """How the entry point of a release is imported.

    Args:
        entrypoint: `module:attribute`.
        server: Python module of the ASGI server.
        user: The app's user.
        sandbox: What the app may do.
        credentials: Files that systemd gives the app, by their names.
        memory_max: Limit of an instance, as systemd writes it; empty for none.
        health_timeout_seconds: How long an instance may take to become healthy.
    """

    entrypoint: str
    server: str
    user: str
    sandbox: Sandbox = field(default_factory=Sandbox)
    credentials: Mapping[str, str] = field(default_factory=dict)
    memory_max: str = ""
    health_timeout_seconds: float = 60

    @property
    def timeout_seconds(self) -> float:
        """How long the import may take."""
        return max(MINIMUM_TIMEOUT_SECONDS, self.health_timeout_seconds)

    def properties(self, layout: Layout, release: str) -> list[Property]:
        """Returns the properties of the unit of the check, as an instance has them."""
        directory = layout.release(release)
        return [
            ("User", self.user),
            ("Group", self.user),
            ("WorkingDirectory", str(directory / "app")),
            ("StateDirectory", f"asgi/{layout.name}"),
            ("StateDirectoryMode", "0750"),
            ("Environment", f"HOME=/var/lib/asgi/{layout.name}"),
            ("Environment", f"PATH={directory}/venv/bin:/usr/local/bin:/usr/bin:/bin"),
            ("Environment", f"ASGI_RELEASE={release}"),
            *(
                ("EnvironmentFile", f"-{layout.configuration / name}")
                for name in CONFIGURATION_FILES
            ),
            *(("LoadCredential", f"{name}:{path}") for name, path in self.credentials.items()),
            *([("MemoryMax", self.memory_max)] if self.memory_max else []),
            ("MemorySwapMax", "0"),
            *self.sandbox.directives(),
        ]

    def run(self, layout: Layout, release: str) -> dict[str, Any]:
        """Imports the entry point of a release that was built.

        Returns:
            The versions of Python and of the server, and the newest migrations.

        Raises:
            DeployError: It cannot be imported, with the traceback.
        """
        ended = run_unit(
            f"{layout.name}-import@{os.getpid()}.service",
            [
                str(layout.release(release) / "venv" / "bin" / "python"),
                *("-c", PROGRAM, self.entrypoint, self.server, f"{self.timeout_seconds:g}"),
            ],
            self.properties(layout, release),
            self.timeout_seconds + GRACE_SECONDS,
        )
        if ended.returncode == 0:
            return answer(ended, self.entrypoint)
        raise DeployError(
            f"{self.entrypoint} of release {release} cannot be imported, so the release was not"
            f" kept; the live release is unchanged{self.reason(ended)}:\n{ended.output}"
        )

    def reason(self, ended: Ended) -> str:
        """Returns why the check failed, where that is not in what it wrote; may be empty."""
        if ended.out_of_memory:
            return f"; it used more memory than asgi_service_memory_max, {self.memory_max}"
        if ended.result == "timeout" or "Timeout (" in ended.stderr:
            return (
                f"; it took longer than {self.timeout_seconds:g} s"
                " (asgi_service_health_timeout_seconds, at least"
                f" {MINIMUM_TIMEOUT_SECONDS} s)"
            )
        silent = ended.signal_number or ended.returncode in NOT_STARTED
        return f"; it {ended.ending}" if silent else ""


def answer(ended: Ended, entrypoint: str) -> dict[str, Any]:
    """Returns what the program found, whatever else the app has written.

    Raises:
        DeployError: The app ended the process before the program could report.
    """
    for line in reversed(ended.stdout.splitlines()):
        if line.startswith(import_program.MARK):
            with contextlib.suppress(ValueError):
                found: dict[str, Any] = json.loads(line.removeprefix(import_program.MARK))
                return found
    raise DeployError(
        f"{entrypoint} ended the process while it was imported, so the release was not kept; the"
        f" live release is unchanged; find the call of os._exit or os.exec:\n{ended.output}"
    )

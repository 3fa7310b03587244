# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""granian (measured with 2.8): it cannot take a listener from systemd and makes its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..units import Specified
from . import reasons

if TYPE_CHECKING:
    from . import ServerSettings

#: Its own limits of the time until it kills a worker that does not end.
GRACEFUL_SECONDS = range(1, 1801)
#: Milliseconds; the longest that it takes, and thus how long an idle connection is kept.
HEADER_TIMEOUT = "60000"


class Granian:
    """A process that supervises one worker."""

    MODULE = "granian"
    INHERITS_SOCKET = False
    HAS_MASTER = False
    REFUSED_ARGUMENTS: Mapping[str, str] = {
        "--reload": reasons.RELOAD,
        "--reload-": reasons.RELOAD,
        "--workers": reasons.WORKERS,
        "--respawn-failed-workers": "systemd starts the instance again, and counts it",
        "--env-files": reasons.ENVIRONMENT,
        "--host": reasons.OURS,
        "--port": reasons.OURS,
        "--uds": reasons.OURS,
        "--uds-permissions": reasons.OURS,
        "--interface": reasons.LIFESPAN,
        "--factory": reasons.FACTORY,
        "--no-factory": reasons.FACTORY,
        "--url-path-prefix": reasons.ROOT_PATH,
        "--log-level": reasons.LOG_LEVEL,
        "--workers-kill-timeout": reasons.GRACEFUL,
        "--http1-header-read-timeout": reasons.KEEPALIVE,
        "--no-http1-keep-alive": reasons.KEEPALIVE,
        "--working-dir": reasons.WORKING_DIRECTORY,
        "--ssl-": reasons.TLS,
        "--pid-file": reasons.SUPERVISED,
    }

    def command(self, settings: ServerSettings) -> list[str]:
        """Returns the arguments after the interpreter.

        The interface is always named, its own default is another one than ASGI. The app is
        given as a path, so that it is found in any working directory.
        """
        return [
            *settings.through_entry(),
            "granian",
            "--interface",
            "asgi" if settings.lifespan else "asginl",
            "--uds",
            Specified(settings.socket),
            "--workers",
            "1",
            "--workers-kill-timeout",
            str(settings.graceful_timeout_seconds),
            "--http1-header-read-timeout",
            HEADER_TIMEOUT,
            "--log-level",
            settings.log_level,
            "--no-access-log",
            *settings.arguments,
            Specified(f"{settings.entry}:app"),
        ]

    def problems(self, settings: ServerSettings) -> list[str]:
        """Says which settings it cannot keep."""
        if settings.graceful_timeout_seconds in GRACEFUL_SECONDS:
            return []
        return [
            "asgi_service_graceful_timeout_seconds: granian takes"
            f" {GRACEFUL_SECONDS[0]} to {GRACEFUL_SECONDS[-1]}"
        ]

    def explain_exit(self, code: int) -> str:
        """Says what an exit code means, or nothing."""
        return {
            1: "the app could not be imported, its start-up failed (lifespan), or its worker ended"
        }.get(code, "")

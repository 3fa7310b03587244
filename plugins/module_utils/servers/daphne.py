# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""daphne (measured with 4.2): no lifespan, and no time for requests once it is told to stop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..units import Specified
from . import reasons

if TYPE_CHECKING:
    from . import ServerSettings

#: Its level of verbosity for a level of the log; without a word of ours 1 logs each request.
VERBOSITY = {"info": "1", "debug": "2"}


class Daphne:
    """One process, which makes its listener itself.

    It could take one from systemd, but Twisted opens the socket's file to everybody when it starts
    and unlinks it when it ends, though it is systemd's.
    """

    MODULE = "daphne"
    INHERITS_SOCKET = False
    HAS_MASTER = False
    REFUSED_ARGUMENTS: Mapping[str, str] = {
        "-p": reasons.OURS,
        "--port": reasons.OURS,
        "-b": reasons.OURS,
        "--bind": reasons.OURS,
        "-u": reasons.OURS,
        "--unix-socket": reasons.OURS,
        "--fd": reasons.OURS,
        "-e": reasons.OURS,
        "--endpoint": reasons.OURS,
        "-v": reasons.LOG_LEVEL,
        "--verbosity": reasons.LOG_LEVEL,
        "--root-path": reasons.ROOT_PATH,
        "--proxy-headers": reasons.OURS,
        "--proxy-headers-host": reasons.OURS,
        "--proxy-headers-port": reasons.OURS,
    }

    def command(self, settings: ServerSettings) -> list[str]:
        """Returns the arguments after the interpreter."""
        return [
            *settings.through_entry(),
            "daphne",
            "--endpoint",
            Specified(f"unix:{settings.socket}:lockfile=0"),
            "--verbosity",
            VERBOSITY.get(settings.log_level, "0"),
            "--access-log",
            "/dev/null",
            "--no-server-name",
            *settings.arguments,
            settings.entry_application,
        ]

    def problems(self, settings: ServerSettings) -> list[str]:
        """Says which settings it cannot keep; nobody gets less than was asked for unawares."""
        found = []
        if settings.lifespan:
            found.append(
                "asgi_service_lifespan: daphne does not run the app's start-up and shutdown; write"
                " false if the app has none (a Django app has none), or choose another server"
            )
        if settings.graceful_timeout_seconds:
            found.append(
                "asgi_service_graceful_timeout_seconds: daphne cuts what is open as soon as it is"
                " told to stop, so nobody can promise that no request fails; write 0 if that may be"
                " (a rollout waits before it, as long as asgi_service_drain_seconds), or choose"
                " another server"
            )
        return found

    def explain_exit(self, code: int) -> str:
        """Says what an exit code means, or nothing."""
        return {1: "the app could not be imported"}.get(code, "")

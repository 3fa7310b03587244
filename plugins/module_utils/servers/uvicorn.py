# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""uvicorn (measured with 0.54)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import reasons

if TYPE_CHECKING:
    from . import ServerSettings


class Uvicorn:
    """One process, one worker; replication is a matter of instances."""

    MODULE = "uvicorn"
    INHERITS_SOCKET = True
    HAS_MASTER = False
    REFUSED_ARGUMENTS: Mapping[str, str] = {
        "--reload": reasons.RELOAD,
        "--reload-": reasons.RELOAD,
        "--workers": reasons.WORKERS,
        "--env-file": reasons.ENVIRONMENT,
        "--fd": reasons.OURS,
        "--uds": reasons.OURS,
        "--host": reasons.OURS,
        "--port": reasons.OURS,
        "--factory": reasons.FACTORY,
        "--root-path": reasons.ROOT_PATH,
        "--log-level": reasons.LOG_LEVEL,
        "--timeout-graceful-shutdown": reasons.GRACEFUL,
        "--timeout-keep-alive": reasons.KEEPALIVE,
        "--forwarded-allow-ips": reasons.OURS,
        "--no-proxy-headers": reasons.OURS,
        "--ssl-": reasons.TLS,
    }

    def command(self, settings: ServerSettings) -> list[str]:
        """Returns the arguments after the interpreter.

        The limit on the graceful stop is always set, uvicorn's own default waits for ever.
        """
        # what counts requests does for the app what uvicorn does
        counts = settings.count_file != ""
        arguments = [
            *(settings.through_entry() if counts else ["-m"]),
            "uvicorn",
            settings.entry_application if counts else settings.entrypoint,
            "--fd",
            "3",
            "--proxy-headers",
            "--forwarded-allow-ips",
            settings.trusted_proxies,
            "--timeout-keep-alive",
            str(settings.keepalive_seconds),
            "--timeout-graceful-shutdown",
            str(settings.graceful_timeout_seconds),
            "--log-level",
            settings.log_level,
            "--no-access-log",
            "--no-server-header",
        ]
        if settings.factory and not counts:
            arguments.append("--factory")
        if settings.root_path and not counts:
            arguments += ["--root-path", settings.root_path]
        if not settings.lifespan:
            arguments += ["--lifespan", "off"]
        return [*arguments, *settings.arguments]

    def problems(self, settings: ServerSettings) -> list[str]:
        """Says which settings it cannot keep."""
        return []

    def explain_exit(self, code: int) -> str:
        """Says what an exit code means (uvicorn/main.py), or nothing."""
        return {
            1: "the app could not be imported or configured",
            3: "the app's start-up failed (lifespan)",
        }.get(code, "")

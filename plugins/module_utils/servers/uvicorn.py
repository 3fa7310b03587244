# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""uvicorn (measured with 0.54)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import ServerSettings

OURS = "the role sets it, from asgi_service_* and asgi_app_*"
RELOAD = "a reloading server is for development: it restarts on any change of a file"


class Uvicorn:
    """One process, one worker; replication is a matter of instances."""

    MODULE = "uvicorn"
    REFUSED_ARGUMENTS: Mapping[str, str] = {
        "--reload": RELOAD,
        "--reload-": RELOAD,
        "--workers": "one process is one instance; set asgi_service_instances",
        "--env-file": "set asgi_app_environment and asgi_app_secrets",
        "--fd": OURS,
        "--uds": OURS,
        "--host": OURS,
        "--port": OURS,
        "--factory": "set asgi_app_factory",
        "--root-path": "set asgi_service_root_path",
        "--log-level": "set asgi_service_log_level",
        "--timeout-graceful-shutdown": "set asgi_service_graceful_timeout_seconds",
        "--timeout-keep-alive": "it must be longer than the proxy's, and is",
        "--forwarded-allow-ips": OURS,
        "--ssl-": "the proxy does HTTPS",
    }

    def command(self, settings: ServerSettings) -> list[str]:
        """Returns the arguments after the interpreter.

        `--forwarded-allow-ips *` is safe on a unix socket that only the proxy can open and
        needed there: the peer of a unix socket has no address to compare. The limit on the
        graceful stop is always set, uvicorn's own default waits for ever.
        """
        arguments = [
            "-m",
            "uvicorn",
            settings.entrypoint,
            "--fd",
            "3",
            "--proxy-headers",
            "--forwarded-allow-ips",
            "*",
            "--timeout-keep-alive",
            str(settings.keepalive_seconds),
            "--timeout-graceful-shutdown",
            str(settings.graceful_timeout_seconds),
            "--log-level",
            settings.log_level,
            "--no-access-log",
            "--no-server-header",
        ]
        if settings.factory:
            arguments.append("--factory")
        if settings.root_path:
            arguments += ["--root-path", settings.root_path]
        return [*arguments, *settings.arguments]

    def explain_exit(self, code: int) -> str:
        """Says what an exit code means (uvicorn/main.py), or nothing."""
        return {
            1: "the app could not be imported or configured",
            3: "the app's start-up failed (lifespan)",
        }.get(code, "")

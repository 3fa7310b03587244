# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""hypercorn (measured with 0.18): in one process, since with several it drops requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import reasons

if TYPE_CHECKING:
    from . import ServerSettings


class Hypercorn:
    """One process without a master (`--workers 0`).

    With a master it exits 0 when the app cannot be imported, and with two workers the first
    one to end has the others killed with their requests.
    """

    MODULE = "hypercorn"
    INHERITS_SOCKET = True
    HAS_MASTER = False
    REFUSED_ARGUMENTS: Mapping[str, str] = {
        "--reload": reasons.RELOAD,
        "--debug": "debugging is for development",
        "-w": reasons.WORKERS,
        "--workers": reasons.WORKERS,
        "-b": reasons.OURS,
        "--bind": reasons.OURS,
        "--insecure-bind": reasons.OURS,
        "--quic-bind": reasons.TLS,
        "--backlog": reasons.OURS,
        "-m": reasons.OURS,
        "--umask": reasons.OURS,
        "-u": reasons.SUPERVISED,
        "--user": reasons.SUPERVISED,
        "-g": reasons.SUPERVISED,
        "--group": reasons.SUPERVISED,
        "-D": reasons.SUPERVISED,
        "--daemon": reasons.SUPERVISED,
        "-p": reasons.SUPERVISED,
        "--pid": reasons.SUPERVISED,
        "--root-path": reasons.ROOT_PATH,
        "--log-level": reasons.LOG_LEVEL,
        "--graceful-timeout": reasons.GRACEFUL,
        "--keep-alive": reasons.KEEPALIVE,
        "--ca-certs": reasons.TLS,
        "--certfile": reasons.TLS,
        "--keyfile": reasons.TLS,
        "--keyfile-password": reasons.TLS,
        "--ciphers": reasons.TLS,
        "--cert-reqs": reasons.TLS,
        "--verify-mode": reasons.TLS,
    }

    def command(self, settings: ServerSettings) -> list[str]:
        """Returns the arguments after the interpreter.

        Its own backlog of 100 would take the place of the one that systemd has set.
        """
        return [
            *settings.through_entry(),
            "hypercorn",
            "--workers",
            "0",
            "--bind",
            "fd://3",
            "--backlog",
            str(settings.backlog),
            "--graceful-timeout",
            str(settings.graceful_timeout_seconds),
            "--keep-alive",
            str(settings.keepalive_seconds),
            "--log-level",
            settings.log_level,
            *settings.arguments,
            settings.entry_application,
        ]

    def problems(self, settings: ServerSettings) -> list[str]:
        """Says which settings it cannot keep."""
        if settings.lifespan:
            return []
        return [
            "asgi_service_lifespan: hypercorn always runs the app's start-up and shutdown, and goes"
            " on where the app has none; write true"
        ]

    def explain_exit(self, code: int) -> str:
        """Says what an exit code means, or nothing."""
        return {
            1: "the app could not be imported or its start-up failed (lifespan)",
        }.get(code, "")

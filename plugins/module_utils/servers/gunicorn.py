# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""gunicorn (measured with 27.0): its own ASGI worker, or the one of uvicorn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import reasons

if TYPE_CHECKING:
    from . import ServerSettings

#: In memory: a worker whose sign of life waits for a disk would be killed.
HEARTBEAT_DIRECTORY = "/dev/shm"  # noqa: S108


class Gunicorn:
    """A master that supervises one worker; it takes the listener of systemd by itself."""

    MODULE = "gunicorn"
    WORKER_CLASS = "asgi"
    INHERITS_SOCKET = True
    HAS_MASTER = True
    REFUSED_ARGUMENTS: Mapping[str, str] = {
        "--reload": reasons.RELOAD,
        "--reload-": reasons.RELOAD,
        "--spew": "debugging is for development",
        "--check-config": "it does not serve",
        "--print-config": "it does not serve",
        "-w": reasons.WORKERS,
        "--workers": reasons.WORKERS,
        "-k": "asgi_service_server chooses it: gunicorn or gunicorn-uvicorn",
        "--worker-class": "asgi_service_server chooses it: gunicorn or gunicorn-uvicorn",
        "-b": reasons.OURS,
        "--bind": reasons.OURS,
        "--reuse-port": reasons.OURS,
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
        "-e": reasons.ENVIRONMENT,
        "--env": reasons.ENVIRONMENT,
        "--chdir": reasons.WORKING_DIRECTORY,
        "--asgi-lifespan": reasons.LIFESPAN,
        "--root-path": reasons.ROOT_PATH,
        "--log-level": reasons.LOG_LEVEL,
        "--graceful-timeout": reasons.GRACEFUL,
        "--keep-alive": reasons.KEEPALIVE,
        "--forwarded-allow-ips": reasons.OURS,
        "--worker-tmp-dir": reasons.OURS,
        "--control-socket": reasons.OURS,
        "--control-socket-mode": reasons.OURS,
        "--no-control-socket": reasons.OURS,
        "--keyfile": reasons.TLS,
        "--certfile": reasons.TLS,
        "--ca-certs": reasons.TLS,
        "--ssl-version": reasons.TLS,
        "--cert-reqs": reasons.TLS,
        "--ciphers": reasons.TLS,
    }

    def command(self, settings: ServerSettings) -> list[str]:
        """Returns the arguments after the interpreter.

        A worker that is silent for `--timeout` is killed, also while it imports the app: it
        gets as long as the health gate waits. The control socket would be one more way in.
        """
        return [
            *settings.through_entry(),
            "gunicorn",
            "--workers",
            "1",
            "--worker-class",
            self.WORKER_CLASS,
            *([] if settings.lifespan else ["--asgi-lifespan", "off"]),
            "--graceful-timeout",
            str(settings.graceful_timeout_seconds),
            "--timeout",
            str(settings.start_timeout_seconds),
            "--keep-alive",
            str(settings.keepalive_seconds),
            "--worker-tmp-dir",
            HEARTBEAT_DIRECTORY,
            "--no-control-socket",
            "--log-level",
            settings.log_level,
            *settings.arguments,
            settings.entry_application,
        ]

    def problems(self, settings: ServerSettings) -> list[str]:
        """Says which settings it cannot keep."""
        return []

    def explain_exit(self, code: int) -> str:
        """Says what an exit code means (gunicorn/arbiter.py), or nothing."""
        return {
            1: "its configuration is wrong, or a worker could not start",
            3: "the app could not be imported or its start-up failed (lifespan)",
            4: "the app could not be imported",
        }.get(code, "")


class GunicornUvicorn(Gunicorn):
    """The same with the worker of the package uvicorn-worker."""

    MODULE = "uvicorn_worker"
    WORKER_CLASS = "uvicorn_worker.UvicornWorker"

    def problems(self, settings: ServerSettings) -> list[str]:
        """Says which settings it cannot keep."""
        if settings.lifespan:
            return []
        return [
            "asgi_service_lifespan: uvicorn's worker runs the app's start-up and shutdown where the"
            " app has them; write true, or set asgi_service_server to gunicorn or uvicorn"
        ]

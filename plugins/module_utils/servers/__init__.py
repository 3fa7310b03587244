# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ASGI servers: one file each, one interface.

A server is a module with

- `MODULE`: the Python module that must be installed in a release;
- `command(settings)`: the arguments after the interpreter;
- `refused_arguments`: its flags that are not for the user, with the reason;
- `explain_exit(code)`: what an exit code of it means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import DeployError
from . import uvicorn


@dataclass(frozen=True)
class ServerSettings:
    """What every server is told.

    Args:
        entrypoint: `module:attribute`.
        factory: The attribute is a function that returns the app.
        graceful_timeout_seconds: After SIGTERM requests may finish for this long.
        keepalive_seconds: How long an idle connection of the proxy is kept.
        root_path: Path under which the proxy serves the app.
        log_level: Level of the server's own log.
        arguments: More arguments, as the user wrote them.
    """

    entrypoint: str
    factory: bool = False
    graceful_timeout_seconds: int = 10
    keepalive_seconds: int = 75
    root_path: str = ""
    log_level: str = "info"
    arguments: Sequence[str] = ()


class Server(Protocol):
    """What a server's file offers."""

    MODULE: str
    REFUSED_ARGUMENTS: Mapping[str, str]

    def command(self, settings: ServerSettings) -> list[str]:
        """Returns the arguments after the interpreter."""

    def explain_exit(self, code: int) -> str:
        """Says what an exit code means, or nothing."""


SERVERS: dict[str, Server] = {"uvicorn": uvicorn.Uvicorn()}

#: Environment keys that servers read as flags; one with `_` at its end stands for all with
#: this beginning.
REFUSED_ENVIRONMENT = {
    "UVICORN_": "uvicorn reads it as a flag",
    "GRANIAN_": "granian reads it as a flag",
    "GUNICORN_CMD_ARGS": "gunicorn reads it as flags",
    "WEB_CONCURRENCY": "uvicorn and gunicorn read it as a number of workers; set"
    " asgi_service_instances",
    "FORWARDED_ALLOW_IPS": "servers read it as the proxies to trust; the role sets that",
    "ASGI_RELEASE": "the collection sets it",
    "ASGI_SLOT": "the collection sets it",
    "ASGI_INSTANCE": "the collection sets it",
    "LISTEN_": "systemd sets it",
}


def server(name: str) -> Server:
    """Returns a server by its name.

    Raises:
        DeployError: It is not one of ours.
    """
    if name not in SERVERS:
        raise DeployError(f"asgi_service_server: {name!r} is not one of {', '.join(SERVERS)}")
    return SERVERS[name]


def refused_arguments(name: str, arguments: Sequence[str]) -> list[str]:
    """Returns a reason for each argument that a user may not give to a server."""
    reasons = server(name).REFUSED_ARGUMENTS
    found = []
    for argument in arguments:
        flag = argument.split("=", 1)[0]
        for refused, reason in reasons.items():
            if flag == refused or (refused.endswith("-") and flag.startswith(refused)):
                found.append(f"asgi_service_server_arguments: {flag} is refused: {reason}")
                break
    return found


def refused_environment(keys: Sequence[str], variable: str) -> list[str]:
    """Returns a reason for each environment key that would change how a server runs."""
    return [
        f"{variable}: {key} is refused: {reason}"
        for key in keys
        for beginning, reason in REFUSED_ENVIRONMENT.items()
        if key == beginning or (beginning.endswith("_") and key.startswith(beginning))
    ]

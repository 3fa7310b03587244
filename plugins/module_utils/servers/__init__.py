# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ASGI servers: one file each, one interface.

A server is a module with

- `MODULE`: the Python module that must be installed in a release;
- `INHERITS_SOCKET`: it takes its listener from systemd, or else makes it itself;
- `HAS_MASTER`: a process of its own that starts a worker again;
- `REFUSED_ARGUMENTS`: its flags that are not for the user, with the reason;
- `command(settings)`: the arguments after the interpreter;
- `problems(settings)`: what it cannot do of what is asked;
- `explain_exit(code)`: what an exit code of it means.

uvicorn serves the app itself, unless requests are to be counted. The others serve it through
`entry.py`, so that an app sees the same client, scheme and root path with every server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Protocol

from ..errors import DeployError
from ..units import Specified
from . import daphne, granian, gunicorn, hypercorn, uvicorn

#: Name of the copy of `entry.py` in a slot.
ENTRY_FILE = "_asgi_deploy_entry.py"


@dataclass(frozen=True)
class ServerSettings:
    """What every server is told.

    Args:
        entrypoint: `module:attribute`.
        factory: The attribute is a function that returns the app.
        graceful_timeout_seconds: After SIGTERM requests may finish for this long.
        start_timeout_seconds: How long the app may take to start.
        keepalive_seconds: How long an idle connection of the proxy is kept.
        backlog: How many connections wait in a listener.
        lifespan: Run the app's start-up and shutdown, where it has them.
        root_path: What the proxy takes off the path; the app gets it back.
        trusted_proxies: Addresses whose forwarded headers are believed; `*` for a unix socket
            that only the proxy can open, as its peer has no address to compare.
        log_level: Level of the server's own log.
        arguments: More arguments, as the user wrote them.
        socket: For a server that makes its listener: its path, with specifiers of systemd.
        entry_directory: Where the slot finds its copy of `entry.py`, with specifiers of systemd.
        count_file: Where requests are counted, with specifiers of systemd; empty for nowhere.
    """

    entrypoint: str
    factory: bool = False
    graceful_timeout_seconds: int = 10
    start_timeout_seconds: int = 60
    keepalive_seconds: int = 75
    backlog: int = 4096
    lifespan: bool = True
    root_path: str = ""
    trusted_proxies: str = "*"
    log_level: str = "info"
    arguments: Sequence[str] = ()
    socket: str = ""
    entry_directory: str = ""
    count_file: str = ""

    #: The app as a server finds it that is started through the entry.
    entry_application = f"{PurePath(ENTRY_FILE).stem}:app"

    @property
    def entry(self) -> str:
        """The slot's copy of `entry.py`."""
        return f"{self.entry_directory}/{ENTRY_FILE}"

    def through_entry(self) -> list[str]:
        """Returns what stands before the name of a server that serves the app through the entry."""
        return [
            Specified(self.entry),
            *(["--factory"] if self.factory else []),
            *(["--root-path", self.root_path] if self.root_path else []),
            *(["--count", Specified(self.count_file)] if self.count_file else []),
            self.entrypoint,
        ]


class Server(Protocol):
    """What a server's file offers."""

    MODULE: str
    INHERITS_SOCKET: bool
    HAS_MASTER: bool
    REFUSED_ARGUMENTS: Mapping[str, str]

    def command(self, settings: ServerSettings) -> list[str]:
        """Returns the arguments after the interpreter."""

    def problems(self, settings: ServerSettings) -> list[str]:
        """Says which settings it cannot keep, and what to write instead."""

    def explain_exit(self, code: int) -> str:
        """Says what an exit code means, or nothing."""


SERVERS: dict[str, Server] = {
    "uvicorn": uvicorn.Uvicorn(),
    "granian": granian.Granian(),
    "hypercorn": hypercorn.Hypercorn(),
    "daphne": daphne.Daphne(),
    "gunicorn": gunicorn.Gunicorn(),
    "gunicorn-uvicorn": gunicorn.GunicornUvicorn(),
}

#: Environment keys that servers read as flags; one with `_` at its end stands for all with
#: this beginning.
REFUSED_ENVIRONMENT = {
    "UVICORN_": "uvicorn reads it as a flag",
    "GRANIAN_": "granian reads it as a flag",
    "GUNICORN_CMD_ARGS": "gunicorn reads it as flags",
    "WEB_CONCURRENCY": "uvicorn and gunicorn read it as a number of workers; set"
    " asgi_service_instances",
    "FORWARDED_ALLOW_IPS": "servers read it as the proxies to trust; the role sets that",
    "ASGI_DEPLOY_": "the collection sets it",
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
            if refuses(refused, flag):
                found.append(f"asgi_service_server_arguments: {flag} is refused: {reason}")
                break
    return found


def refuses(refused: str, flag: str) -> bool:
    """Says whether a flag is one that is refused.

    Args:
        refused: A flag; one with `-` at its end stands for all with this beginning.
        flag: As the user wrote it; servers take `-w4` for `-w 4`, and `--work` for `--workers`.
    """
    if not refused.startswith("--"):
        return flag.startswith(refused)
    return (
        flag == refused
        or (refused.endswith("-") and flag.startswith(refused))
        or (len(flag) > 2 and flag.startswith("--") and refused.startswith(flag))
    )


def refused_environment(keys: Sequence[str], variable: str) -> list[str]:
    """Returns a reason for each environment key that would change how a server runs."""
    return [
        f"{variable}: {key} is refused: {reason}"
        for key in keys
        for beginning, reason in REFUSED_ENVIRONMENT.items()
        if key == beginning or (beginning.endswith("_") and key.startswith(beginning))
    ]

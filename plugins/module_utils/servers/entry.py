# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands between an app and a server that does not do as uvicorn does.

Every slot has a copy of this file. Run as a program it starts a server in this process:

    python _asgi_deploy_entry.py blog.main:app [--factory] [--root-path PATH] [--count FILE] SERVER
        ARGUMENTS...

and the server serves `_asgi_deploy_entry:app`: the app, with the client's address and scheme as
the proxy tells them, and with the root path in front. The proxy alone can open the socket and
replaces what clients write into these headers, so they are believed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import mmap
import os
import runpy
import struct
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

#: For the server's own processes: what to load.
VARIABLE = "ASGI_DEPLOY_ENTRY"
#: How many requests came, in the file of `--count`.
COUNTER = struct.Struct("=Q")
Application = Callable[[Any, Any, Any], Awaitable[None]]


def as_sent(scope: dict[str, Any], root_path: str) -> dict[str, Any]:
    """Returns a scope as the client has sent the request, which the proxy has passed on.

    Args:
        scope: Of a request or a WebSocket.
        root_path: What the proxy has taken off the path.
    """
    headers = {bytes(name).lower(): bytes(value) for name, value in scope["headers"]}
    # a unix socket has no address, and what servers make of that differs
    changed = {**scope, "root_path": root_path, "server": None}
    client = headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")[0].strip()
    if client:
        changed["client"] = (client, 0)
    scheme = headers.get(b"x-forwarded-proto", b"").decode("latin-1").strip()
    # Traefik names the one of a WebSocket, Caddy that of the connection
    if scheme in ("http", "https", "ws", "wss"):
        kind = "ws" if scope["type"] == "websocket" else "http"
        changed["scheme"] = f"{kind}s" if scheme in ("https", "wss") else kind
    if root_path:
        changed["path"] = root_path + scope["path"]
        if scope.get("raw_path") is not None:
            changed["raw_path"] = root_path.encode() + scope["raw_path"]
    return changed


def behind_proxy(application: Application, root_path: str) -> Application:
    """Returns an app that is called with what the client has sent."""

    async def called(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket"):
            scope = as_sent(scope, root_path)
        await application(scope, receive, send)

    return called


def counting(application: Application, path: str) -> Application:
    """Returns an app whose requests are counted in a file, which the watch reads.

    A page of memory that both have costs a request nothing.
    """
    with Path(path).open("w+b") as file:
        file.truncate(COUNTER.size)
        counter = mmap.mmap(file.fileno(), COUNTER.size)

    async def called(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket"):
            COUNTER.pack_into(counter, 0, COUNTER.unpack_from(counter)[0] + 1)
        await application(scope, receive, send)

    return called


def load(entrypoint: str, factory: bool) -> Application:
    """Returns the app that `module:attribute` names, or that the function there makes."""
    module, _colon, attribute = entrypoint.partition(":")
    target: Any = importlib.import_module(module)
    for name in attribute.split("."):
        target = getattr(target, name)
    application: Application = target() if factory else target
    return application


def main() -> None:
    """Starts the server that the command line names, in this process."""
    parser = argparse.ArgumentParser(description="Starts an ASGI server for an app.")
    parser.add_argument("entrypoint")
    parser.add_argument("--factory", action="store_true")
    parser.add_argument("--root-path", default="")
    parser.add_argument("--count", default="")
    parser.add_argument("server")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    os.environ[VARIABLE] = json.dumps(
        {
            "entrypoint": given.entrypoint,
            "factory": given.factory,
            "root_path": given.root_path,
            "count": given.count,
        }
    )
    # as with `python -m`: the app's modules come first, this file's directory second
    sys.path.insert(0, str(Path.cwd()))
    sys.argv = [given.server, *given.arguments]
    runpy.run_module(given.server, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
elif VARIABLE in os.environ:
    # here, so that an app that cannot be imported is a server that does not start
    told = json.loads(os.environ[VARIABLE])
    app = behind_proxy(load(told["entrypoint"], told["factory"]), told["root_path"])
    if told["count"]:
        app = counting(app, told["count"])

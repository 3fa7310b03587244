"""A plain ASGI app that tells what it sees, to ask every server and every proxy the same.

`PROBE_BROKEN` in its environment makes it fail: `import`, `startup`, `health`, or `dies`, a moment
after it was asked for its health.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

BROKEN = os.environ.get("PROBE_BROKEN", "")
EVENT_SECONDS = 0.3
#: What lifespan has done so far.
lived: list[str] = []
#: What was allocated on request, and is kept.
kept: list[bytes] = []

if BROKEN == "import":
    raise RuntimeError("the probe is broken at import")


async def app(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answers."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await websocket(scope, receive, send)
    else:
        await http(scope, receive, send)


async def lifespan(receive: Receive, send: Send) -> None:
    """Notes that it was called, or fails."""
    await receive()
    if BROKEN == "startup":
        await send({"type": "lifespan.startup.failed", "message": "the probe is broken at start"})
        return
    lived.append("startup")
    await send({"type": "lifespan.startup.complete"})
    await receive()
    # for the journal: nobody can be asked any more
    print("the probe has shut down", flush=True)
    await send({"type": "lifespan.shutdown.complete"})


def described(scope: dict[str, Any]) -> str:
    """What the server says of a connection, as JSON."""
    return json.dumps(
        {
            "client": scope["client"] and scope["client"][0],
            "scheme": scope["scheme"],
            "root_path": scope["root_path"],
            "path": scope["path"],
            "lifespan": lived,
            "slot": os.environ["ASGI_SLOT"],
            "pid": os.getpid(),
        }
    )


async def websocket(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Sends what it sees, then back what comes."""
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": described(scope)})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message.get("text") or ""})


async def http(scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answers a request by its path, below the root path."""
    query = {key: values[0] for key, values in parse_qs(scope["query_string"].decode()).items()}
    path = scope["path"].removeprefix(scope["root_path"])
    if path == "/events":
        await events(int(query["count"]), send)
        return
    status, body = 200, described(scope)
    if path == "/slow":
        await asyncio.sleep(float(query["seconds"]))
    elif path == "/allocate":
        # written to: memory that nobody touches is not counted
        kept.append(b"x" * (int(query["mebibytes"]) * 2**20))
    elif path == "/posts":
        status, body = 201, json.dumps(await received(receive))
    elif path == "/long":
        body = json.dumps(["the same again"] * 1000)
    elif path == "/health" and BROKEN == "health":
        status, body = 500, "the probe is broken in its health"
    elif path == "/health" and BROKEN == "dies":
        asyncio.get_running_loop().call_later(0.1, os._exit, 70)
    await start(send, status, b"application/json")
    await send({"type": "http.response.body", "body": body.encode()})


async def received(receive: Receive) -> dict[str, float]:
    """Reads a body to its end; tells its size and how long its parts came one after another."""
    size, started, more = 0, 0.0, True
    while more:
        message = await receive()
        started = started or time.monotonic()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    return {"bytes": size, "seconds": time.monotonic() - started}


async def start(send: Send, status: int, content_type: bytes) -> None:
    """Begins an answer."""
    headers = [(b"content-type", content_type)]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def events(count: int, send: Send) -> None:
    """Sends server-sent events, one after another."""
    await start(send, 200, b"text/event-stream")
    for number in range(count):
        if number:
            await asyncio.sleep(EVENT_SECONDS)
        event = f"data: {number}\n\n".encode()
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b""})

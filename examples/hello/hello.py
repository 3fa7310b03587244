"""The smallest app that is an app: one ASGI callable, no framework."""

import os
from typing import Any

TEXT = """\
Hello from {release}, instance {instance}.

This is a plain ASGI app, one function in one file. What it takes to bring it to HTTPS is its name,
its folder, its entry point and a domain. Everything else was chosen for it:

- a release of its own, with a virtual environment that nobody writes to any more
- a process under systemd, started again when it ends, with a limit of its memory, in a sandbox
- a proxy with a certificate, a redirect to HTTPS, compression, and limits of what clients may send
- a next version that takes over without a failed request, and a way back
"""


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers `GET /` with text, and `POST /` with the number of bytes that came."""
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "http":
        status, text = await answer(scope, receive)
        body = text.encode()
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"content-length", str(len(body)).encode()),
        ]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def lifespan(receive: Any, send: Any) -> None:
    """Nothing is to be opened or closed here, but the server wants to hear so."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def answer(scope: dict[str, Any], receive: Any) -> tuple[int, str]:
    """Returns the status and the text for a request."""
    if scope["path"] != "/":
        return 404, "There is only / here.\n"
    if scope["method"] in ("GET", "HEAD"):
        release = os.environ.get("ASGI_RELEASE", "no release")
        return 200, TEXT.format(release=release, instance=os.environ.get("ASGI_INSTANCE", "1"))
    if scope["method"] == "POST":
        return 200, f"{await count_bytes(receive)} bytes\n"
    return 405, "GET or POST\n"


async def count_bytes(receive: Any) -> int:
    """Reads the body of a request, and keeps none of it."""
    total = 0
    while True:
        message = await receive()
        total += len(message.get("body", b""))
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return total

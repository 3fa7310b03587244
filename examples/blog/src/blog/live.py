"""Connections that stay open: server-sent events and a WebSocket."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

from blog.dependencies import CurrentSettings

SERVICE_RESTART = 1012

router = APIRouter()


@router.get("/events")
async def events(
    request: Request, settings: CurrentSettings, count: Annotated[int | None, Query(ge=1)] = None
) -> StreamingResponse:
    stopping: asyncio.Event = request.app.state.stopping
    return StreamingResponse(
        _ticks(settings.release, count, stopping),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store"},
    )


async def _ticks(release: str, count: int | None, stopping: asyncio.Event) -> AsyncIterator[str]:
    number = 0
    # A whole end lets the browser reconnect to the next release at once.
    while not stopping.is_set():
        number += 1
        data = json.dumps({"number": number, "release": release, "pid": os.getpid()})
        yield f"id: {number}\ndata: {data}\n\n"
        if number == count:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), 1)


@router.websocket("/ws")
async def echo(websocket: WebSocket, settings: CurrentSettings) -> None:
    stopping: asyncio.Event = websocket.app.state.stopping
    open_websockets: set[WebSocket] = websocket.app.state.websockets
    await websocket.accept()
    open_websockets.add(websocket)
    hello = {"hello": settings.title, "release": settings.release, "pid": os.getpid()}
    try:
        await websocket.send_json(hello)
        while (text := await _next_text(websocket, stopping)) is not None:
            await websocket.send_text(text)
        await websocket.close(SERVICE_RESTART)
    except WebSocketDisconnect:
        pass
    finally:
        open_websockets.discard(websocket)


async def _next_text(websocket: WebSocket, stopping: asyncio.Event) -> str | None:
    """Return what the client says, or None once the process is to end."""
    receiving = asyncio.create_task(websocket.receive_text())
    stopped = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({receiving, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return None if stopping.is_set() else receiving.result()
    finally:
        receiving.cancel()
        stopped.cancel()

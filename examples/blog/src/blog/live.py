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
    await websocket.accept()
    hello = {"hello": settings.title, "release": settings.release, "pid": os.getpid()}
    with suppress(WebSocketDisconnect):
        await websocket.send_json(hello)
        while True:
            await websocket.send_text(await websocket.receive_text())

"""The app: `blog.main:app`."""

import asyncio
import logging
import signal
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from sqlalchemy.exc import DataError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from blog import __version__, api, debug, health, live, pages
from blog.release import ReleaseHeader
from blog.settings import Settings, read_settings
from blog.store import Store, open_engine

# For clients to answer the close frame of their WebSocket.
GOODBYE_SECONDS = 2

log = logging.getLogger(__name__)


def create_app(settings: Settings | None = None) -> ReleaseHeader:
    settings = settings or read_settings()
    app = FastAPI(title=settings.title, version=__version__, lifespan=lifespan)
    app.state.settings = settings
    for part in (pages, api, health, live):
        app.include_router(part.router)
    if settings.debug_endpoints:
        app.include_router(debug.router)
    for error in (OperationalError, InterfaceError, PoolTimeoutError):
        app.add_exception_handler(error, database_unavailable)
    app.add_exception_handler(DataError, unusable_value)
    return ReleaseHeader(app, settings.release)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.stopping = asyncio.Event()
    app.state.websockets = set()
    loop = asyncio.get_running_loop()

    def stop(end_server: Callable[[], object]) -> None:
        app.state.stopping.set()
        # The server hangs up on WebSockets at once. Whatever a client has just sent would then
        # fail in the proxy, which drops the close frame with the rest of the connection.
        loop.call_later(GOODBYE_SECONDS if app.state.websockets else 0, end_server)

    at_sigterm(lambda end_server: loop.call_soon_threadsafe(stop, end_server))
    engine = open_engine(app.state.settings)
    app.state.store = Store(engine)
    try:
        yield
    finally:
        await engine.dispose()


def at_sigterm(stop: Callable[[Callable[[], object]], object]) -> None:
    """Streams and WebSockets end before the server: it would wait for the ones, and cut the others.

    `stop` is given what ends the server, and calls it when it is time.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    server_handler = signal.getsignal(signal.SIGTERM)
    if not callable(server_handler):
        return

    def handler(number: int, frame: FrameType | None) -> None:
        stop(lambda: server_handler(number, frame))

    signal.signal(signal.SIGTERM, handler)


async def database_unavailable(request: Request, error: Exception) -> JSONResponse:
    log.warning("%s %s: %s", request.method, request.url.path, type(error).__name__)
    return JSONResponse({"detail": "the database is not available"}, 503)


async def unusable_value(request: Request, error: Exception) -> JSONResponse:
    """Values that JSON allows but PostgreSQL does not, such as a NUL in text."""
    return JSONResponse({"detail": "a value cannot be stored"}, 422)


app = create_app()

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
    loop = asyncio.get_running_loop()
    tell_at_sigterm(lambda: loop.call_soon_threadsafe(app.state.stopping.set))
    engine = open_engine(app.state.settings)
    app.state.store = Store(engine)
    try:
        yield
    finally:
        await engine.dispose()


def tell_at_sigterm(callback: Callable[[], object]) -> None:
    """Endless streams must end at SIGTERM: servers wait for them before they end the lifespan."""
    if threading.current_thread() is not threading.main_thread():
        return
    server_handler = signal.getsignal(signal.SIGTERM)
    if not callable(server_handler):
        return

    def handler(number: int, frame: FrameType | None) -> None:
        callback()
        server_handler(number, frame)

    signal.signal(signal.SIGTERM, handler)


async def database_unavailable(request: Request, error: Exception) -> JSONResponse:
    log.warning("%s %s: %s", request.method, request.url.path, type(error).__name__)
    return JSONResponse({"detail": "the database is not available"}, 503)


async def unusable_value(request: Request, error: Exception) -> JSONResponse:
    """Values that JSON allows but PostgreSQL does not, such as a NUL in text."""
    return JSONResponse({"detail": "a value cannot be stored"}, 422)


app = create_app()

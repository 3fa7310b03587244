"""Whether this process can do its work."""

import asyncio
import os

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from blog import __version__
from blog.dependencies import CurrentSettings, CurrentStore
from blog.store import Store

DATABASE_SECONDS = 2

router = APIRouter()


@router.get("/healthz")
async def healthz(settings: CurrentSettings, store: CurrentStore) -> JSONResponse:
    problem = await database_problem(store)
    answer = {
        "status": "ok" if problem is None else "error",
        "release": settings.release,
        "version": __version__,
        "instance": settings.instance,
        "pid": os.getpid(),
    }
    if problem is not None:
        return JSONResponse(answer | {"problem": problem}, 503)
    return JSONResponse(answer)


async def database_problem(store: Store) -> str | None:
    probe = asyncio.create_task(store.ping())
    # wait(), not timeout(): a cancelled query is only done after the server took note,
    # and a server that hangs does not.
    done, _ = await asyncio.wait({probe}, timeout=DATABASE_SECONDS)
    if not done:
        probe.cancel()
        return f"the database did not answer in {DATABASE_SECONDS} s"
    if probe.exception() is not None:
        # The type only: the text of a driver's error names hosts and users.
        return f"the database cannot be reached ({type(probe.exception()).__name__})"
    return None

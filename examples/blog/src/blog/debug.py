"""Ways to do harm, for tests of memory limits and restarts."""

import os
from typing import Annotated

from fastapi import APIRouter, Query

router = APIRouter(prefix="/debug")
hoard: list[bytes] = []


@router.post("/allocate")
async def allocate(mebibytes: Annotated[int, Query(ge=1, le=65_536)]) -> dict[str, int]:
    # Not zeros: those would be pages that the kernel promises but never hands out.
    hoard.extend(b"\x01" * 2**20 for _ in range(mebibytes))
    return {"mebibytes": len(hoard)}


@router.post("/exit")
async def leave(code: Annotated[int, Query(ge=0, le=255)] = 70) -> None:
    # A crash: no lifespan shutdown, no answer.
    os._exit(code)

"""The JSON interface."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException, Query, Request

from blog import BUILD, __version__
from blog.dependencies import CurrentSettings, CurrentStore
from blog.schemas import CreatedPost, NewPost, Post
from blog.tokens import edit_token, is_edit_token

router = APIRouter()


@router.post("/api/posts", status_code=201)
async def create_post(post: NewPost, settings: CurrentSettings, store: CurrentStore) -> CreatedPost:
    post_id = await store.add(post)
    if post_id is None:
        raise HTTPException(409, "a post with this request_id exists")
    return CreatedPost(id=post_id, edit_token=edit_token(settings.secret_key, post_id))


@router.get("/api/posts")
async def list_posts(
    store: CurrentStore,
    limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    after: Annotated[int, Query(ge=0)] = 0,
) -> list[Post]:
    """Oldest first: with `after` set to the last id, a client walks through all posts."""
    return await store.after(after, limit)


@router.get("/api/posts/{post_id}")
async def read_post(post_id: int, store: CurrentStore) -> Post:
    post = await store.by_id(post_id)
    if post is None:
        raise HTTPException(404, "no such post")
    return post


@router.delete("/api/posts/{post_id}", status_code=204)
async def delete_post(
    post_id: int,
    x_edit_token: Annotated[str, Header()],
    settings: CurrentSettings,
    store: CurrentStore,
) -> None:
    if not is_edit_token(settings.secret_key, post_id, x_edit_token):
        raise HTTPException(403, "this edit token is not of this post")
    if not await store.remove(post_id):
        raise HTTPException(404, "no such post")


@router.get("/api/requests/{request_id}")
async def read_request(request_id: str, store: CurrentStore) -> Post:
    post = await store.by_request(request_id)
    if post is None:
        raise HTTPException(404, "no post came of this request")
    return post


@router.get("/api/ping")
async def ping() -> dict[str, bool]:
    return {"pong": True}


@router.get("/api/info")
async def info(request: Request, settings: CurrentSettings) -> dict[str, str | None]:
    """Who the app thinks asks: wrong behind a proxy whose headers are not trusted."""
    return {
        "release": settings.release,
        "version": __version__,
        "build": BUILD,
        "instance": settings.instance,
        "client": request.client.host if request.client else None,
        "scheme": request.url.scheme,
        "host": request.headers.get("host"),
    }


@router.get("/slow")
async def slow(seconds: Annotated[float, Query(ge=0, le=60)] = 5) -> dict[str, float]:
    await asyncio.sleep(seconds)
    return {"slept": seconds}

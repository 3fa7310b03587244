"""Everything the app asks of its database."""

from sqlalchemy import Executable, delete, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from blog.schemas import NewPost, Post
from blog.settings import Settings
from blog.tables import posts


class Store:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def ping(self) -> None:
        async with self._engine.connect() as connection:
            await connection.execute(select(literal(1)))

    async def add(self, post: NewPost) -> int | None:
        """Return the new id, or None where the request id is taken."""
        statement = (
            insert(posts)
            .values(post.model_dump())
            .on_conflict_do_nothing(index_elements=["request_id"])
            .returning(posts.c.id)
        )
        async with self._engine.connect() as connection:
            post_id: int | None = (await connection.execute(statement)).scalar_one_or_none()
            return post_id

    async def by_id(self, post_id: int) -> Post | None:
        return await self._one(select(posts).where(posts.c.id == post_id))

    async def by_request(self, request_id: str) -> Post | None:
        return await self._one(select(posts).where(posts.c.request_id == request_id))

    async def after(self, post_id: int, limit: int) -> list[Post]:
        newer = select(posts).where(posts.c.id > post_id)
        return await self._all(newer.order_by(posts.c.id).limit(limit))

    async def newest(self, limit: int) -> list[Post]:
        return await self._all(select(posts).order_by(posts.c.id.desc()).limit(limit))

    async def remove(self, post_id: int) -> bool:
        async with self._engine.connect() as connection:
            result = await connection.execute(delete(posts).where(posts.c.id == post_id))
            return result.rowcount == 1

    async def _one(self, statement: Executable) -> Post | None:
        found = await self._all(statement)
        return found[0] if found else None

    async def _all(self, statement: Executable) -> list[Post]:
        async with self._engine.connect() as connection:
            result = await connection.execute(statement)
            return [Post(**row) for row in result.mappings()]


def open_engine(settings: Settings) -> AsyncEngine:
    return create_async_engine(
        settings.database_url,
        # Every request is one statement, so the server's own commit saves two round trips.
        isolation_level="AUTOCOMMIT",
        pool_size=settings.pool_size,
        max_overflow=0,
        pool_timeout=10,
        # A restarted database must not cost a failed request for every old connection.
        pool_pre_ping=True,
        connect_args={"connect_timeout": 2},
    )

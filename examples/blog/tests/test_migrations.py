from collections.abc import Iterator

import pytest
from conftest import alembic
from sqlalchemy import create_engine, inspect


@pytest.fixture
def url(migrated_url: str) -> Iterator[str]:
    yield migrated_url
    alembic(migrated_url, "upgrade", "head")


def columns(url: str) -> set[str]:
    engine = create_engine(url)
    try:
        inspector = inspect(engine)
        if not inspector.has_table("posts"):
            return set()
        return {column["name"] for column in inspector.get_columns("posts")}
    finally:
        engine.dispose()


def test_down_and_up(url: str) -> None:
    first = {"id", "title", "body", "created_at"}
    assert columns(url) == first | {"request_id"}
    alembic(url, "downgrade", "0001")
    assert columns(url) == first
    alembic(url, "downgrade", "base")
    assert columns(url) == set()
    alembic(url, "upgrade", "head")
    assert columns(url) == first | {"request_id"}


def test_the_tables_of_the_code_are_those_of_the_migrations(url: str) -> None:
    alembic(url, "check")

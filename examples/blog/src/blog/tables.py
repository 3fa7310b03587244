"""The tables, as the newest migration leaves them."""

from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, MetaData, Table, Text, func

metadata = MetaData()

posts = Table(
    "posts",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("title", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("request_id", Text),
    Index("posts_request_id", "request_id", unique=True),
)

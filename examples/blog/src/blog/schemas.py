"""What clients send and get."""

from datetime import datetime

from pydantic import BaseModel, Field


class NewPost(BaseModel):
    title: str = Field(min_length=1, max_length=200)
    body: str = Field(max_length=20_000)
    # Chosen by the client: it can ask later whether a request that got no answer was done.
    request_id: str | None = Field(default=None, min_length=1, max_length=64)


class Post(BaseModel):
    id: int
    title: str
    body: str
    created_at: datetime
    request_id: str | None


class CreatedPost(BaseModel):
    id: int
    edit_token: str

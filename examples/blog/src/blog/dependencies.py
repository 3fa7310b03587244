"""What the lifespan made, for routes."""

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from blog.settings import Settings
from blog.store import Store


def _settings(connection: HTTPConnection) -> Settings:
    settings: Settings = connection.app.state.settings
    return settings


def _store(connection: HTTPConnection) -> Store:
    store: Store = connection.app.state.store
    return store


CurrentSettings = Annotated[Settings, Depends(_settings)]
CurrentStore = Annotated[Store, Depends(_store)]

"""What the environment tells the app."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

REQUIRED = ("DATABASE_URL", "BLOG_SECRET_KEY")


class ConfigurationError(RuntimeError):
    """The environment does not describe a blog that can run."""


@dataclass(frozen=True)
class Settings:
    # Both hold secrets: no repr, so neither reaches a log or a traceback.
    database_url: str = field(repr=False)
    secret_key: str = field(repr=False)
    title: str = "Blog"
    release: str = "development"
    instance: str | None = None
    pool_size: int = 10
    debug_endpoints: bool = False


def read_settings(environment: Mapping[str, str] = os.environ) -> Settings:
    missing = [name for name in REQUIRED if not environment.get(name)]
    if missing:
        raise ConfigurationError(f"not set in the environment: {', '.join(missing)}")
    return Settings(
        database_url=environment["DATABASE_URL"],
        secret_key=environment["BLOG_SECRET_KEY"],
        title=environment.get("BLOG_TITLE") or Settings.title,
        release=environment.get("ASGI_RELEASE") or Settings.release,
        instance=environment.get("ASGI_INSTANCE") or None,
        pool_size=_pool_size(environment.get("BLOG_POOL_SIZE")),
        debug_endpoints=environment.get("BLOG_DEBUG_ENDPOINTS") == "1",
    )


def _pool_size(text: str | None) -> int:
    if not text:
        return Settings.pool_size
    if not text.isdecimal() or int(text) < 1:
        raise ConfigurationError(f"BLOG_POOL_SIZE must be a whole number from 1 on, not {text!r}")
    return int(text)

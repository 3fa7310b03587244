"""A small blog: FastAPI, PostgreSQL, Alembic."""

from importlib.metadata import version

# What is really installed says its version, so a stale install cannot pass for a new one.
__version__ = version("blog")
BUILD = "v1"

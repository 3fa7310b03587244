"""For a worker, which has to set Django up: `taskiq worker wall.worker:broker`."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "wall.settings")
django.setup()

from wall.tasks import broker  # noqa: E402

__all__ = ["broker"]

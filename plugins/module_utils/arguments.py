# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules read from their options in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .layout import Layout

APP_ARGUMENTS = {
    "name": {"type": "str", "required": True},
    "root": {"type": "path"},
}


def layout_from(params: Mapping[str, Any]) -> Layout:
    """Returns the layout of the app that the options name."""
    return Layout(params["name"], Path(params["root"] or f"/srv/{params['name']}"))

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the modules read from their options in the same way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import belongings
from .errors import DeployError
from .layout import Layout
from .validation import NAME

#: `/srv/<name>` at least: all below it is removed with the app.
MINIMUM_PARTS = 3

APP_ARGUMENTS = {
    "name": {"type": "str", "required": True},
    "root": {"type": "path"},
}
#: Of the modules that change an app, with the documentation of the fragment `app.run`.
RUN_ARGUMENT = {"run": {"type": "str", "default": ""}}


def layout_from(params: Mapping[str, Any]) -> Layout:
    """Returns the layout of the app that the options name.

    Raises:
        DeployError: No usable name, or a root that is not a directory of the app alone, or not
            the one that it has on this host.
    """
    name, root = params["name"], Path(params["root"] or f"/srv/{params['name']}")
    if not NAME.fullmatch(name):
        raise DeployError(f"name: {name!r} is not the name of an app")
    if len(root.parts) < MINIMUM_PARTS or not root.is_absolute():
        raise DeployError(f"root: {root} must be a directory of the app alone, as /srv/{name}")
    layout = Layout(name, root)
    problems = belongings.root_problems(layout)
    if problems:
        raise DeployError("\n".join(problems))
    return layout

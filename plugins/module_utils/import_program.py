# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program of the import check: imports the entry point of an app and reports what it found.

The interpreter of the release runs it in the sandbox of the app, as text (import_check.py), so it
imports nothing of the collection.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import importlib.metadata
import importlib.util
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

#: Begins the line with the result; an app may print lines of its own.
MARK = "asgi-import-check: "


class Rejected(Exception):
    """The release cannot be served; its text says why, without a traceback."""


def migration_heads() -> list[str] | None:
    """Returns the newest migrations of the release, None without Alembic or Django."""
    if Path("alembic.ini").exists() and importlib.util.find_spec("alembic"):
        config = importlib.import_module("alembic.config").Config("alembic.ini")
        script = importlib.import_module("alembic.script")
        return sorted(script.ScriptDirectory.from_config(config).get_heads())
    if os.environ.get("DJANGO_SETTINGS_MODULE") and importlib.util.find_spec("django"):
        importlib.import_module("django").setup()
        loader = importlib.import_module("django.db.migrations.loader").MigrationLoader(None)
        return sorted(".".join(node) for node in loader.graph.leaf_nodes())
    return None


def imported(entrypoint: str, server: str) -> dict[str, Any]:
    """Imports an entry point and returns the versions of Python and of the server.

    Args:
        entrypoint: `module:attribute`.
        server: Python module of the ASGI server.

    Raises:
        Rejected: The server is not installed, or the entry point cannot be called.
    """
    module, _, attribute = entrypoint.partition(":")
    if importlib.util.find_spec(server) is None:
        package = server.replace("_", "-")
        raise Rejected(
            f"{package} is not installed in the release: add it to the app's dependencies, or"
            " without a source tree to asgi_app_source.requirements"
        )
    target: Any = importlib.import_module(module)
    for name in attribute.split("."):
        target = getattr(target, name)
    if not callable(target):
        raise Rejected(f"{entrypoint} is not callable, so it is no ASGI application")
    found: dict[str, Any] = {
        "python": sys.version.split()[0],
        "server": server,
        "server_version": importlib.metadata.version(server),
        "migration_heads": None,
    }
    try:
        found["migration_heads"] = migration_heads()
    except Exception as error:
        # the app can be served all the same; the manifest says why they are unknown
        found["migration_heads_unknown"] = f"{type(error).__name__}: {error}"
    return found


def advice(error: BaseException, entrypoint: str) -> str:
    """Returns what to do where the module of the app itself is not found; empty for other errors.

    Args:
        error: What the import has raised.
        entrypoint: `module:attribute`.
    """
    module = entrypoint.partition(":")[0].partition(".")[0]
    place = Path("src", module)
    if not isinstance(error, ModuleNotFoundError) or error.name != module:
        return ""
    if place.is_dir() or place.with_suffix(".py").is_file():
        return (
            f"{module} is in src, where the app does not run: set asgi_app_directory to its src\n"
        )
    return (
        f"{module} is neither installed nor in the working directory; asgi_app_directory is the"
        " folder of the source that has it\n"
    )


def main(entrypoint: str, server: str, timeout_seconds: str) -> None:
    """Runs the check and ends the process, whatever threads and exit handlers the app has."""
    # the app may replace or close its output
    answer, errors = os.dup(1), os.dup(2)
    # an import that hangs ends with the stack of each thread
    faulthandler.dump_traceback_later(float(timeout_seconds), exit=True)
    sys.path.insert(0, "")
    code = 1
    try:
        text = json.dumps(imported(entrypoint, server))
        os.write(answer, f"\n{MARK}{text}\n".encode())
        code = 0
    except Rejected as error:
        os.write(errors, f"{error}\n".encode())
    except BaseException as error:
        text = f"{traceback.format_exc()}{advice(error, entrypoint)}"
        os.write(errors, text.encode(errors="replace"))
    finally:
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(code)

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts the watch of an app on the host: one file with the program, its settings, its unit."""

from __future__ import annotations

import io
import json
import shutil
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import systemd
from ..files import write_atomic
from ..layout import Layout
from . import program

#: The modules that a program needs are those of this collection that its own module has loaded.
UTILITIES = program.__name__.rpartition(".watch.")[0]
PACKAGE = "asgi_deploy"
MAIN = f"from {PACKAGE}.watch.program import main\n\nmain()\n"
#: Zip files know no earlier time; with a fixed one the same program is the same file.
TIME = (1980, 1, 1, 0, 0, 0)


def archive() -> bytes:
    """Returns the program as a file that Python runs."""
    texts = {"__main__.py": MAIN}
    for name, module in sorted(sys.modules.items()):
        if name != UTILITIES and not name.startswith(f"{UTILITIES}."):
            continue
        spec = module.__spec__
        assert spec is not None
        path = (PACKAGE + name[len(UTILITIES) :]).replace(".", "/")
        is_package = spec.submodule_search_locations is not None
        # a package that Ansible has made up to hold others has no text
        text = getattr(spec.loader, "get_source", lambda _name: "")(name)
        texts[f"{path}/__init__.py" if is_package else f"{path}.py"] = text or ""
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w") as file:
        for path, text in sorted(texts.items()):
            file.writestr(zipfile.ZipInfo(path, TIME), text)
    return found.getvalue()


def wanted_files(layout: Layout, unit: str, settings: Mapping[str, Any]) -> dict[Path, bytes]:
    """Returns which file of the watch is to have which content."""
    told = {"name": layout.name, "root": str(layout.root), **settings}
    return {
        layout.watch_program: archive(),
        layout.watch_settings: f"{json.dumps(told, indent=1, sort_keys=True)}\n".encode(),
        layout.watch_unit_file: unit.encode(),
    }


def install(
    layout: Layout, unit: str, settings: Mapping[str, Any], check_mode: bool = False
) -> list[str]:
    """Puts the watch on the host and starts it, or starts it again with what is new.

    Args:
        layout: The app; the caller holds its lock.
        unit: Text of the unit.
        settings: The fields of `rules.Rules`.
        check_mode: Change nothing.

    Returns:
        What changed, in words.
    """
    files = wanted_files(layout, unit, settings)
    changed = [
        path for path, content in files.items() if not path.exists() or path.read_bytes() != content
    ]
    told = [path.name for path in changed]
    if check_mode:
        return told
    for path in changed:
        path.parent.mkdir(mode=0o755, exist_ok=True)
        write_atomic(path, files[path])
    if layout.watch_unit_file in changed:
        systemd.systemctl("daemon-reload")
    (status,) = systemd.show([layout.watch_unit])
    if not status.enabled:
        systemd.systemctl("enable", "--quiet", layout.watch_unit)
        told.append("enabled")
    if changed or not status.running:
        systemd.systemctl("restart", layout.watch_unit)
    if not changed and not status.running:
        told.append("started")
    return told


def uninstall(layout: Layout, check_mode: bool = False) -> list[str]:
    """Stops the watch and takes it off the host; returns what was removed, in words."""
    if not layout.watch_unit_file.exists():
        return []
    if not check_mode:
        systemd.systemctl("disable", "--quiet", "--now", layout.watch_unit)
        layout.watch_unit_file.unlink()
        systemd.systemctl("daemon-reload")
        shutil.rmtree(layout.watch_program.parent)
    return [layout.watch_unit]

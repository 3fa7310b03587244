# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment and the secrets that the next rollout takes, as files that only root reads."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import read_text, write_atomic
from .layout import Layout
from .units import changed_keys

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600


def write(layout: Layout, texts: Mapping[str, str], check_mode: bool) -> dict[str, Any]:
    """Writes the files of an app where they differ.

    Args:
        layout: The app.
        texts: Text of each file, by its name.
        check_mode: Change nothing.

    Returns:
        `changes`, the files that differed; `variables`, the names of those that were added, changed
        and removed.
    """
    directory = layout.configuration
    wanted = {directory / name: text for name, text in texts.items()}
    before = {path: read_text(path) for path in wanted}
    changes = [
        path for path in wanted if before[path] != wanted[path] or not is_own(path, FILE_MODE)
    ]
    if not check_mode:
        directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        if not is_own(directory, DIRECTORY_MODE):
            directory.chmod(DIRECTORY_MODE)
        for path in changes:
            write_atomic(path, wanted[path], mode=FILE_MODE)
    former = "".join(text or "" for text in before.values())
    return {
        "changes": list(map(str, changes)),
        "variables": changed_keys(former, "".join(wanted.values())),
    }


def is_own(path: Path, mode: int) -> bool:
    """Says whether a file is root's with the given mode."""
    found = path.stat()
    return found.st_uid == 0 and stat.S_IMODE(found.st_mode) == mode

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that are whole at every moment: written aside, flushed to disk, renamed."""

from __future__ import annotations

import contextlib
import glob
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

#: A directory, and no link to one.
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
#: A file, and no link to one; a pipe in its place must not block the open.
FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK

#: Longer than any write takes.
ABANDONED_SECONDS = 600


@contextlib.contextmanager
def opened(name: str | Path, flags: int, directory: int | None = None) -> Iterator[int]:
    """Yields the descriptor of what an open directory has under a name, or a path leads to."""
    descriptor = os.open(name, flags, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def read_text(path: Path) -> str | None:
    """Returns the text of a file, or None where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def sync_directory(path: Path) -> None:
    """Makes renames and removals in a directory survive a power cut."""
    with opened(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        os.fsync(descriptor)


def write_atomic(
    path: Path, text: str | bytes, mode: int = 0o644, owner: int = 0, group: int = 0
) -> None:
    """Replaces a file in one step; a reader sees the old text or the new one.

    Args:
        path: The file; its directory must exist.
        text: The whole new content; a text is written in UTF-8.
        mode: Permission bits, set before any content is written.
        owner: User id of the file (left alone when not root).
        group: Group id of the file (left alone when not root).
    """
    remove_abandoned(path)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        os.fchmod(descriptor, mode)
        if os.geteuid() == 0:
            os.fchown(descriptor, owner, group)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode() if isinstance(text, str) else text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def remove_abandoned(path: Path) -> None:
    """Removes what runs that were killed have left of a file, which may be secret."""
    for aside in path.parent.glob(f".{glob.escape(path.name)}.????????"):
        # one that is being written is a moment old
        with contextlib.suppress(FileNotFoundError):
            if aside.lstat().st_mtime < time.time() - ABANDONED_SECONDS:
                aside.unlink()


def link_atomic(path: Path, target: str) -> None:
    """Points a symbolic link at a target in one step, whether or not it exists."""
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    aside.replace(path)
    sync_directory(path.parent)


def remove(path: Path) -> bool:
    """Removes a file or link; says whether there was one."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    sync_directory(path.parent)
    return True

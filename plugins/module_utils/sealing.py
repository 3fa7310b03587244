# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sealing: a release that was built becomes root's, so that neither app nor builds change it.

Nothing is reached by a path below the release: a build can have planted links.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

from .files import DIRECTORY, FILE

CHUNK_BYTES = 2**20
#: Name of a shared file until it has taken the place of the copy.
ASIDE = ".asgi-shared"


def seal(directory: Path, former: Path | None = None) -> None:
    """Gives all of a release to root; its group can read it.

    What is neither a file, a directory nor a link is removed.

    Args:
        directory: The release; no step of the build runs any more.
        former: A sealed release; files that are the same become hard links to its files.
    """
    group = directory.stat().st_gid
    opened = os.open(directory, DIRECTORY)
    other = open_below(None, str(former)) if former else None
    try:
        seal_directory(opened, group, other)
    finally:
        os.close(opened)
        if other is not None:
            os.close(other)


def seal_directory(opened: int, group: int, former: int | None) -> None:
    """Seals an open directory and what is in it.

    Args:
        opened: The directory.
        group: Group that can read it.
        former: The directory of a sealed release at the same place, if there is one.
    """
    # at first the directory itself: from then on only root makes names in it
    os.fchown(opened, root(), group)
    os.fchmod(opened, 0o750)
    with os.scandir(opened) as entries:
        names = [(entry.name, entry.stat(follow_symlinks=False).st_mode) for entry in entries]
    for name, mode in names:
        if stat.S_ISDIR(mode):
            below = os.open(name, DIRECTORY, dir_fd=opened)
            other = None if former is None else open_below(former, name)
            try:
                seal_directory(below, group, other)
            finally:
                os.close(below)
                if other is not None:
                    os.close(other)
        elif stat.S_ISREG(mode):
            seal_file(opened, name, group, former)
        elif stat.S_ISLNK(mode):
            os.chown(name, root(), group, dir_fd=opened, follow_symlinks=False)
        else:
            os.unlink(name, dir_fd=opened)


def seal_file(opened: int, name: str, group: int, former: int | None) -> None:
    """Seals a file of an open directory, or takes the same file of a sealed release."""
    descriptor = os.open(name, FILE, dir_fd=opened)
    try:
        os.fchown(descriptor, root(), group)
        os.fchmod(descriptor, 0o750 if os.fstat(descriptor).st_mode & 0o100 else 0o640)
        if former is None:
            return
        with contextlib.suppress(OSError):
            other = os.open(name, FILE, dir_fd=former)
            try:
                if same(descriptor, other, name):
                    share(former, opened, name)
            finally:
                os.close(other)
    finally:
        os.close(descriptor)


def same(one: int, other: int, name: str) -> bool:
    """Says whether two open files can be one: same content, mode and, where it counts, time."""
    mine, theirs = os.fstat(one), os.fstat(other)
    if not stat.S_ISREG(theirs.st_mode) or theirs.st_uid != mine.st_uid:
        return False
    if (mine.st_mode, mine.st_size) != (theirs.st_mode, theirs.st_size):
        return False
    # bytecode begins with the time of its source
    if name.endswith(".py") and int(mine.st_mtime) != int(theirs.st_mtime):
        return False
    while chunk := os.read(one, CHUNK_BYTES):
        if chunk != os.read(other, CHUNK_BYTES):
            return False
    return True


def share(former: int, opened: int, name: str) -> None:
    """Replaces a file by a hard link to that of a sealed release."""
    os.link(name, ASIDE, src_dir_fd=former, dst_dir_fd=opened, follow_symlinks=False)
    os.rename(ASIDE, name, src_dir_fd=opened, dst_dir_fd=opened)


def open_below(directory: int | None, name: str) -> int | None:
    """Opens a directory, or returns None where there is none."""
    try:
        return os.open(name, DIRECTORY, dir_fd=directory)
    except OSError:
        return None


def root() -> int:
    """Returns the owner of sealed files: root, or for os.chown "as it is" where we are not root."""
    return 0 if os.geteuid() == 0 else -1

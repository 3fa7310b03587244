# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sealing: a release that was built becomes root's, so that neither app nor builds change it.

Nothing is reached by a path below the release: a build can have planted links.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from .errors import DeployError
from .files import DIRECTORY, FILE, opened

CHUNK_BYTES = 2**20
#: Beyond what any tool makes, and far from what a process may have open.
MAXIMUM_DEPTH = 200
SHOWN_PARENTS = 5


def seal(directory: Path, former: Path | None = None) -> None:
    """Gives all of a release to root; its group can read it.

    What is neither a file, a directory nor a link is removed.

    Args:
        directory: The release; no step of the build runs any more.
        former: A sealed release; files that are the same become hard links to its files.

    Raises:
        DeployError: Directories are nested too deep.
    """
    group = directory.stat().st_gid
    other = opened(former, DIRECTORY) if former else contextlib.nullcontext()
    with opened(directory, DIRECTORY) as release, other as sealed:
        seal_directory(release, group, sealed)


def seal_directory(
    directory: int, group: int, former: int | None, parents: tuple[str, ...] = ()
) -> None:
    """Seals an open directory and what is in it.

    Args:
        directory: The directory.
        group: Group that can read it.
        former: The directory of a sealed release at the same place, if there is one.
        parents: Its name and those of the directories that it is in, for an error text.
    """
    if len(parents) > MAXIMUM_DEPTH:
        raise DeployError(
            f"the build made directories that are nested more than {MAXIMUM_DEPTH} deep:"
            f" {'/'.join(parents[:SHOWN_PARENTS])}/...; see what asgi_app_build_commands and the"
            " packages that were built do there"
        )
    # at first the directory itself: from then on only root makes names in it
    os.fchown(directory, root(), group)
    os.fchmod(directory, 0o750)
    with os.scandir(directory) as entries:
        names = [(entry.name, entry.stat(follow_symlinks=False).st_mode) for entry in entries]
    for name, mode in names:
        if stat.S_ISDIR(mode):
            with opened(name, DIRECTORY, directory) as below, sealed_below(former, name) as other:
                seal_directory(below, group, other, (*parents, name))
        elif stat.S_ISREG(mode):
            seal_file(directory, name, group, former)
        elif stat.S_ISLNK(mode):
            os.chown(name, root(), group, dir_fd=directory, follow_symlinks=False)
        else:
            os.unlink(name, dir_fd=directory)


def seal_file(directory: int, name: str, group: int, former: int | None) -> None:
    """Seals a file of an open directory, or takes the same file of a sealed release."""
    with opened(name, FILE, directory) as file:
        os.fchown(file, root(), group)
        os.fchmod(file, 0o750 if os.fstat(file).st_mode & 0o100 else 0o640)
        if former is not None:
            # what cannot be shared stays a file of its own
            with contextlib.suppress(OSError), opened(name, FILE, former) as other:
                if same(file, other, name):
                    share(former, directory, name)
                    return
        if may_be_written(file):
            copy(file, directory, name, group)


def may_be_written(file: int) -> bool:
    """Says whether a process may have an open file open for writing, whoever owns it now.

    A process of the build can have handed it to one that outlives the build. The kernel grants a
    lease for reading only where none has (fcntl(2)); some file systems grant none.
    """
    try:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:
        return True
    return False


def copy(file: int, directory: int, name: str, group: int) -> None:
    """Replaces a file by a copy, which no process has open."""
    status = os.fstat(file)
    aside = aside_name()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(aside, flags, 0o600, dir_fd=directory), "wb") as writing:
        os.lseek(file, 0, os.SEEK_SET)
        with os.fdopen(os.dup(file), "rb") as reading:
            shutil.copyfileobj(reading, writing, CHUNK_BYTES)
        writing.flush()
        os.fchown(writing.fileno(), root(), group)
        os.fchmod(writing.fileno(), stat.S_IMODE(status.st_mode))
        os.utime(writing.fileno(), ns=(status.st_atime_ns, status.st_mtime_ns))
    os.rename(aside, name, src_dir_fd=directory, dst_dir_fd=directory)


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


def share(former: int, directory: int, name: str) -> None:
    """Replaces a file by a hard link to that of a sealed release."""
    aside = aside_name()
    os.link(name, aside, src_dir_fd=former, dst_dir_fd=directory, follow_symlinks=False)
    os.rename(aside, name, src_dir_fd=directory, dst_dir_fd=directory)


def aside_name() -> str:
    """Returns the name of a file until it takes the place of another; no build can guess it."""
    return f".asgi-{secrets.token_hex(8)}"


@contextlib.contextmanager
def sealed_below(former: int | None, name: str) -> Iterator[int | None]:
    """Yields a directory of a sealed release; None where it has none of that name."""
    with contextlib.ExitStack() as stack:
        below = None
        if former is not None:
            with contextlib.suppress(OSError):
                below = stack.enter_context(opened(name, DIRECTORY, former))
        yield below


def root() -> int:
    """Returns the owner of sealed files: root, or for os.chown "as it is" where we are not root."""
    return 0 if os.geteuid() == 0 else -1

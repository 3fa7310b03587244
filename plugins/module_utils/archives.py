# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unpacking an archive that others have made, so that nothing of it leaves its directory."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from .errors import DeployError


@dataclass(frozen=True)
class Member:
    """A file or a link in an archive.

    Args:
        name: Its path as the archive has it.
        executable: Whether its owner may execute it.
        target: Where it leads, for a link; empty for a file.
        content: What is in it, for a file.
    """

    name: str
    executable: bool = False
    target: str = ""
    content: IO[bytes] | None = None


def members(archive: Path) -> Iterator[Member]:
    """Yields files and links of a tar or zip archive; a file can be read until the next one.

    Raises:
        DeployError: It is neither, it is damaged, or it has a device or the like.
    """
    try:
        if zipfile.is_zipfile(archive):
            yield from zip_members(archive)
        else:
            yield from tar_members(archive)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, KeyError, RuntimeError) as error:
        raise DeployError(
            f"asgi_app_source.archive: it is no whole tar.gz or zip archive: {error}"
        ) from error


def tar_members(archive: Path) -> Iterator[Member]:
    """Yields what a tar archive has; a hard link is the file that it stands for."""
    with tarfile.open(archive) as tar:
        for one in tar:
            if one.isdir():
                continue
            if one.issym():
                yield Member(one.name, target=one.linkname)
                continue
            content = tar.extractfile(one) if one.isfile() or one.islnk() else None
            if content is None:
                raise refusal(one.name, "is neither a file, a directory nor a link")
            yield Member(one.name, bool(one.mode & stat.S_IXUSR), content=content)


def zip_members(archive: Path) -> Iterator[Member]:
    """Yields what a zip archive has; modes are there where it was made on Unix."""
    with zipfile.ZipFile(archive) as file:
        for one in file.infolist():
            mode = one.external_attr >> 16
            if one.is_dir():
                continue
            if stat.S_ISLNK(mode):
                yield Member(one.filename, target=os.fsdecode(file.read(one)))
                continue
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise refusal(one.filename, "is neither a file, a directory nor a link")
            with file.open(one) as content:
                yield Member(one.filename, bool(mode & stat.S_IXUSR), content=content)


def refusal(name: str, why: str) -> DeployError:
    """Returns the error for something that an archive of a source must not have."""
    return DeployError(f"asgi_app_source.archive: {name!r} in it {why}; make it without that")


def inside(root: Path, name: str) -> Path:
    """Returns where a member belongs.

    Raises:
        DeployError: Its path is absolute or leads out.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise refusal(name, "has a path that leads out of the archive")
    return root / path


def unpack(archive: Path, root: Path) -> Path:
    """Unpacks an archive into a new directory.

    Returns:
        The source: the directory, or the one directory that all of the archive is in.

    Raises:
        DeployError: Something in it is not a file or a link inside.
    """
    root.mkdir()
    root = root.resolve()
    links: list[tuple[Path, str]] = []
    try:
        for member in members(archive):
            path = inside(root, member.name)
            if member.content is None:
                links.append((path, member.target))
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                shutil.copyfileobj(member.content, file)
            path.chmod(0o755 if member.executable else 0o644)
        # after all files, so that none is written through a link
        for path, target in links:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.parent.resolve() != path.parent:
                raise refusal(str(path.relative_to(root)), "lies behind a link")
            path.symlink_to(target)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        name = Path(error.filename or "").name
        raise refusal(name, "stands there twice") from error
    # once all are there: a link may lead through another one
    for path, target in links:
        if not path.resolve().is_relative_to(root) or PurePosixPath(target).is_absolute():
            raise refusal(str(path.relative_to(root)), "is a link that leads out of the archive")
    top = list(root.iterdir())
    return top[0] if len(top) == 1 and top[0].is_dir() and not top[0].is_symlink() else root

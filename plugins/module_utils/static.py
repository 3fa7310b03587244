# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Static files of releases, where the proxy may read them.

A release is closed to the proxy. What the user names of it is copied by root, by the path that it
has in URLs: into a directory for each release, to which a link for each slot leads, and what is
named after its content also into one directory for all releases, so that pages of any release on
the host find it. Links and what is hidden are left out, so nothing else gets there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from .errors import DeployError
from .files import DIRECTORY, FILE, link_atomic, opened, remove, sync_directory
from .layout import SLOTS, Layout


@dataclass(frozen=True)
class StaticFiles:
    """What the proxy may read of a release.

    Args:
        directories: Directories in the app's directory, by their paths in URLs.
        hashed: Regular expression for the names of files that are named after their content;
            empty for none.
    """

    directories: Mapping[str, str] = field(default_factory=dict)
    hashed: str = ""

    @property
    def digest(self) -> str:
        """Changes with what is to be published of a release."""
        text = json.dumps([sorted(self.directories.items()), self.hashed])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def is_hashed(self, name: str) -> bool:
        """Says whether a file is named after its content."""
        return bool(self.hashed) and re.search(self.hashed, name) is not None


def is_published(layout: Layout, release: str, wanted: StaticFiles) -> bool:
    """Says whether the proxy may read of a release what it should, and nothing else."""
    current = layout.static_release(release) / "current"
    present = current.readlink().name if current.is_symlink() else ""
    return present == (wanted.digest if wanted.directories else "")


def publish(layout: Layout, release: str, wanted: StaticFiles) -> None:
    """Copies the static files of a staged release to where the proxy may read them.

    Raises:
        DeployError: The release has no such directory; nothing of it was published.
    """
    if not wanted.directories:
        withdraw(layout, release)
        return
    previous = os.umask(0o022)
    try:
        own = layout.static_release(release)
        own.mkdir(parents=True, exist_ok=True)
        target, aside = own / wanted.digest, own / f".{wanted.digest}"
        if not target.exists():
            # of a run that was killed
            shutil.rmtree(aside, ignore_errors=True)
            for url, directory in wanted.directories.items():
                copy_directory(layout, release, directory, aside / url.lstrip("/"))
            # a power cut must not leave empty files under a final name
            os.sync()
            aside.replace(target)
        share(layout, target, wanted)
        # last of what is needed: by this link it is known that all is there
        link_atomic(own / "current", wanted.digest)
        for other in own.iterdir():
            if other.name != wanted.digest and not other.is_symlink():
                shutil.rmtree(other)
        sweep(layout)
        for slot in SLOTS:
            point(layout, slot, layout.slot_release(slot))
    finally:
        os.umask(previous)


def withdraw(layout: Layout, release: str) -> None:
    """Removes what was published of a release, but for what another one shares with it."""
    own = layout.static_release(release)
    if own.is_dir():
        shutil.rmtree(own)
        sweep(layout, [other / "current" for other in own.parent.iterdir()])


def copy_published(layout: Layout, release: str, name: str) -> None:
    """Publishes the files of a release under another name too; the files themselves are shared."""
    own, copy = layout.static_release(release), layout.static_release(name)
    if copy.is_dir():
        shutil.rmtree(copy)
    if own.is_dir():
        shutil.copytree(own, copy, symlinks=True, copy_function=os.link)


def point(layout: Layout, slot: str, release: str | None) -> None:
    """Has a slot's link lead to the files of its release, where anything is published at all."""
    path = layout.static_link(slot)
    if release is None:
        remove(path)
    elif path.parent.is_dir():
        link_atomic(path, f"releases/{release}/current")


def copy_directory(layout: Layout, release: str, directory: str, target: Path) -> None:
    """Copies one directory of a release, following no link on the way to it or below it.

    Raises:
        DeployError: There is none, or one of its parents is a link.
    """
    # made by root as a link: source/<the app's directory>
    app = (layout.release(release) / "app").readlink()
    try:
        parts = (*app.parts, *PurePosixPath(directory).parts)
        opened = open_directory(layout.release(release), parts)
    except OSError as error:
        raise DeployError(
            f"asgi_proxy_static: release {release} has no directory {directory!r} in the app's"
            f" directory, or a link in its place ({error.strerror}); what makes it is written as"
            " asgi_app_build_commands. What was serving still serves"
        ) from error
    try:
        target.mkdir(parents=True, exist_ok=True)
        copy_tree(opened, target)
    finally:
        os.close(opened)


def open_directory(root: Path, parts: Sequence[str]) -> int:
    """Opens a directory below another one; none of the parts may be a link."""
    opened = os.open(root, DIRECTORY)
    for part in parts:
        try:
            below = os.open(part, DIRECTORY, dir_fd=opened)
        finally:
            os.close(opened)
        opened = below
    return opened


def copy_tree(source: int, target: Path) -> None:
    """Copies the files of an open directory; neither links nor what is hidden."""
    with os.scandir(source) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                (target / entry.name).mkdir()
                with opened(entry.name, DIRECTORY, source) as below:
                    copy_tree(below, target / entry.name)
            elif entry.is_file(follow_symlinks=False):
                copy_file(os.open(entry.name, FILE, dir_fd=source), target / entry.name)


def copy_file(source: int, target: Path) -> None:
    """Copies an open file, with the time of now: proxies make the ETag of time and size.

    Sources come with times that say nothing, so those of two releases could be the same.
    """
    with os.fdopen(source, "rb") as reading:
        if stat.S_ISREG(os.fstat(source).st_mode):
            with target.open("xb") as writing:
                shutil.copyfileobj(reading, writing)


def share(layout: Layout, published: Path, wanted: StaticFiles) -> None:
    """Gives the files that are named after their content to the pages of all releases."""
    for path in published.rglob("*"):
        if path.is_file() and wanted.is_hashed(path.name):
            share_file(path, layout.static_shared / path.relative_to(published))


def share_file(path: Path, shared: Path) -> None:
    """Gives a file another name, in place of what had it."""
    # to rename one name of a file to another one of it does nothing
    if shared.exists() and shared.samefile(path):
        return
    shared.parent.mkdir(parents=True, exist_ok=True)
    aside = shared.with_name(f".{shared.name}.new")
    aside.unlink(missing_ok=True)
    os.link(path, aside)
    aside.replace(shared)


def sweep(layout: Layout, others: Sequence[Path] = ()) -> None:
    """Removes of the shared files those whose release has them no more.

    Args:
        layout: The app.
        others: Static files of other releases, which may have the same file.
    """
    for directory, _directories, names in os.walk(layout.static_shared, topdown=False):
        for name in names:
            path = Path(directory) / name
            # of a run that was killed; nothing hidden is published
            if name.startswith("."):
                path.unlink()
                continue
            # its other name is in the directory of its release
            if path.lstat().st_nlink > 1:
                continue
            same = [other / path.relative_to(layout.static_shared) for other in others]
            found = [other for other in same if other.is_file()]
            if found:
                share_file(found[0], path)
            else:
                path.unlink()
        if not any(Path(directory).iterdir()):
            Path(directory).rmdir()
    if layout.static_shared.parent.is_dir():
        sync_directory(layout.static_shared.parent)

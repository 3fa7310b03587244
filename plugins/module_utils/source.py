# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An app's source: which files belong to it, what they are worth, and their archive.

The same content gives the same digest on every controller: paths are relative, and of a
file's mode only the executable bit counts; times, owners and umask do not.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BufferedReader, BytesIO
from pathlib import Path, PurePosixPath

from .errors import DeployError
from .git_source import git

VERSION_CONTROL = {".git", ".hg", ".svn", ".bzr", ".jj"}
CACHES = {"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".tox", ".nox"}
#: Stands for the files of a submodule that was not fetched.
NOT_FETCHED = ".not-fetched"
#: What a file begins with that only stands for one.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class Entry:
    """One file of a source.

    Args:
        path: Relative path, with slashes.
        kind: `file`, `executable` or `link`.
        digest: SHA-256 of a file's content; the target of a link.
        content: Of a file that the source has not got and that is made for the build.
    """

    path: str
    kind: str
    digest: str
    content: bytes | None = None


def ignored_by_rule(path: PurePosixPath) -> bool:
    """Says whether a path never belongs to a source: version control and caches."""
    return path.suffix == ".pyc" or any(
        part in VERSION_CONTROL or part in CACHES for part in path.parts
    )


def candidates(source: Path) -> Iterator[str]:
    """Yields the relative paths of a directory that its .gitignore files leave in.

    Only .gitignore files count, not a user's own excludes, so that two controllers agree.
    """
    source = source.resolve()
    inside = any((parent / ".git").exists() for parent in (source, *source.parents))
    listing = ["ls-files", "-z", "--others", "--exclude-per-directory=.gitignore"]
    if inside:
        text = git([*listing, "--cached", "--", "."], source)
    else:
        with tempfile.TemporaryDirectory(prefix="asgi-deploy-") as scratch:
            git(["init", "--quiet", "--bare", scratch], source)
            place = [f"--git-dir={scratch}", f"--work-tree={source}"]
            text = git([*place, *listing, "--", "."], source)
    for name in filter(None, text.split("\0")):
        nested = source / name
        if nested.is_dir() and not nested.is_symlink():
            # a submodule, or another repository inside this one
            fetched = (nested / ".git").exists()
            inside_of = candidates(nested) if fetched else iter([NOT_FETCHED])
            yield from (f"{name.rstrip('/')}/{inner}" for inner in inside_of)
        else:
            yield name


def matching(patterns: Sequence[str], names: Collection[str]) -> dict[str, str]:
    """Returns the paths that patterns match as in a .gitignore file, each with its pattern.

    Args:
        patterns: As in a .gitignore file in the directory of the source; the last one decides.
        names: Relative paths of files.
    """
    if not patterns or not names:
        return {}
    # in an empty directory: in that of the source git would read its .gitignore files too
    with tempfile.TemporaryDirectory(prefix="asgi-deploy-") as scratch:
        empty = Path(scratch)
        git(["init", "--quiet", "."], empty)
        with (empty / ".git" / "config").open("a", encoding="utf-8") as file:
            file.write(f"[core]\n\texcludesFile = {os.devnull}\n")
        rules = empty / ".git" / "info" / "exclude"
        rules.parent.mkdir(exist_ok=True)
        rules.write_text("".join(f"{one}\n" for one in patterns), encoding="utf-8")
        told = git(
            ["check-ignore", "--no-index", "--verbose", "--stdin", "-z"],
            empty,
            # a name may begin as a pathspec does
            given="\0".join(f"./{name}" for name in names),
            # nothing matches
            good=(0, 1),
        )
    # of each path: file and line of the pattern, the pattern, the path
    words = told.split("\0")
    found = zip(words[2::4], words[3::4], strict=True)
    return {name[2:]: pattern for pattern, name in found if not pattern.startswith("!")}


def included(source: Path, patterns: Sequence[str]) -> set[str]:
    """Returns the paths of files that are deployed whatever .gitignore files say.

    Raises:
        DeployError: A pattern matches nothing; what it stands for was not built.
    """
    names = sorted(tree(source)) if patterns else []
    found = matching(patterns, names)
    for pattern in patterns:
        if pattern.startswith(("!", "#")) or pattern in found.values():
            continue
        # a later pattern may match the same paths
        if not matching([pattern], names):
            raise DeployError(
                f"asgi_app_source.include: {pattern!r} matches no file in {source}; build what it"
                " stands for before the deploy, or correct it (a pattern as in a .gitignore file)"
            )
    return set(found)


def tree(source: Path) -> Iterator[str]:
    """Yields the relative paths of what may belong to a source, whatever .gitignore files say."""
    for directory, folders, files in os.walk(source):
        folders[:] = [
            name
            for name in folders
            if not ignored_by_rule(PurePosixPath(name))
            and not Path(directory, name, "pyvenv.cfg").is_file()
        ]
        for name in (*folders, *files):
            path = Path(directory, name)
            if (path.is_symlink() or not path.is_dir()) and not ignored_by_rule(
                PurePosixPath(name)
            ):
                yield path.relative_to(source).as_posix()


def entries(
    source: Path,
    exclude: Sequence[str] = (),
    listed: Iterable[str] | None = None,
    include: Sequence[str] = (),
) -> list[Entry]:
    """Lists what belongs to a source directory, sorted by path.

    Left out: version control, caches, virtual environments (a directory with a pyvenv.cfg),
    what .gitignore files name unless `include` names it, and what `exclude` names.

    Args:
        source: The directory.
        exclude: More patterns, as in a .gitignore file in the directory.
        listed: Relative paths to choose from in place of what .gitignore files leave in.
        include: Patterns for what is taken although .gitignore files name it.

    Raises:
        DeployError: No such directory, nothing in it, a file that Git LFS has not fetched, a name
            that is not UTF-8, or a pattern of `include` that matches nothing.
    """
    if not source.is_dir():
        raise DeployError(f"asgi_app_source.path: there is no directory {source}")
    found: list[Entry] = []
    environments: dict[Path, bool] = {}

    def in_environment(path: Path) -> bool:
        for parent in path.parents:
            if parent == source:
                return False
            if parent not in environments:
                environments[parent] = (parent / "pyvenv.cfg").is_file()
            if environments[parent]:
                return True
        return False

    names = set(candidates(source) if listed is None else listed) | included(source, include)
    for name in names - matching(exclude, sorted(names)).keys():
        relative = PurePosixPath(name)
        path = source / name
        if relative.name == NOT_FETCHED:
            raise DeployError(
                f"asgi_app_source.path: the submodule {path.parent} was not fetched; run git"
                " submodule update --init --recursive, or name it in asgi_app_source.exclude"
            )
        if ignored_by_rule(relative) or in_environment(path):
            continue
        try:
            name.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DeployError(f"file name is not UTF-8: {name!r} in {source}") from error
        if path.is_symlink():
            found.append(Entry(name, "link", str(path.readlink())))
        elif path.is_file():
            with path.open("rb") as file:
                refuse_pointer(file, path)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            executable = path.stat().st_mode & 0o100
            found.append(Entry(name, "executable" if executable else "file", digest))
    if not found:
        raise DeployError(f"asgi_app_source.path: no file to deploy in {source}")
    return sorted(found, key=lambda entry: entry.path)


def refuse_pointer(file: BufferedReader, path: Path) -> None:
    """Raises where Git LFS has not fetched a file; nothing of it is read."""
    if file.peek(len(LFS_POINTER)).startswith(LFS_POINTER):
        raise DeployError(
            f"asgi_app_source: {path} is a pointer of Git LFS in place of the file. For git,"
            " install git-lfs on the controller (git lfs install), and write checkout:"
            " controller; for path, fetch the files there (git lfs pull); an archive must have"
            " the files themselves"
        )


def refuse_pointers(directory: Path) -> None:
    """Raises where Git LFS would have to fetch a file, which it does not do on a host.

    Nothing but git has written to the directory yet.
    """
    for name in tree(directory):
        path = directory / name
        if path.is_symlink():
            continue
        with path.open("rb") as file:
            refuse_pointer(file, Path(name))


def content_digest(found: Sequence[Entry]) -> str:
    """Returns the SHA-256 over paths, kinds and contents."""
    digest = hashlib.sha256()
    for entry in found:
        digest.update(f"{entry.path}\0{entry.kind}\0{entry.digest}\n".encode())
    return digest.hexdigest()


def pack(source: Path, found: Sequence[Entry], archive: Path, planned_at: float) -> None:
    """Writes the entries to a gzipped tar archive without owners or umask.

    Args:
        source: The directory.
        found: What belongs to it.
        archive: Where it is written.
        planned_at: Time of all files, in seconds since 1970. It is later than whatever was done
            with a former release, so that ETags differ, and copies of a former file are older.
    """
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for entry in found:
            member = tarfile.TarInfo(entry.path)
            member.mtime = int(planned_at)
            if entry.kind == "link":
                member.type = tarfile.SYMTYPE
                member.linkname = entry.digest
                tar.addfile(member)
                continue
            member.mode = 0o755 if entry.kind == "executable" else 0o644
            if entry.content is not None:
                member.size = len(entry.content)
                tar.addfile(member, BytesIO(entry.content))
                continue
            with (source / entry.path).open("rb") as file:
                member.size = os.fstat(file.fileno()).st_size
                tar.addfile(member, file)

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a release: decided once for a run, from the source, and then built on every host."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .dependencies import Dependencies, find
from .git_source import GitAccess, checkout, hide_credentials, resolve_commit
from .installers.settings import Build
from .source import Entry, content_digest, entries, pack, refuse_pointers, tree
from .versions import (
    derives_version,
    fetch_history,
    metadata_entries,
    project_version,
    versioned_by_git,
)

DIGEST_LENGTH = 12
#: In place of the id of a release that only the deploy itself can name.
UNDECIDED = "undecided"


def release_id(version: str, digest: str, build: Mapping[str, Any]) -> str:
    """Returns the id of a release: a readable version and a digest of all that counts.

    Args:
        version: The app's own version; characters that a unit name cannot carry are replaced.
        digest: Digest of the content, or the commit.
        build: What else the result depends on (installer, Python, extras, indexes).
    """
    settings = "\n".join(f"{key}={build[key]!r}" for key in sorted(build))
    whole = hashlib.sha256(f"{digest}\n{settings}".encode()).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9._]+", ".", version).strip(".")[:40]
    return f"{readable or '0'}-{whole[:DIGEST_LENGTH]}"


def plan(
    release: str,
    version: str,
    digest: str,
    commit: str,
    source: str,
    archive: str,
    dependencies: Dependencies | None = None,
) -> dict[str, Any]:
    """Returns what is decided once for a run and then built on every host.

    Args:
        release: Id of the release.
        version: The app's own version.
        digest: Digest of the content.
        commit: The commit of a repository.
        source: Where it is from, without credentials.
        archive: Path of the archive on the controller; empty where a host gets the source itself.
        dependencies: What is installed; None where a host looks at the source.
    """
    return {
        "release": release,
        "version": version,
        "digest": digest,
        "commit": commit,
        "source": source,
        "archive": archive,
        "dependencies": asdict(dependencies) if dependencies else {},
    }


def directory_plan(
    source: Path,
    scratch: Path,
    build: Build,
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
) -> dict[str, Any]:
    """Plans a release of a directory on this machine and packs it.

    Args:
        source: The directory.
        scratch: Where the archive is written.
        build: How it will be built.
        exclude: Patterns to leave out.
        include: Patterns to take although .gitignore files name it.
    """
    found = entries(source, exclude, include=include)
    return packed_plan(source, found, scratch, build, "path")


def archive_plan(source: Path, origin: str, scratch: Path, build: Build) -> dict[str, Any]:
    """Plans a release of an unpacked archive; who made it has chosen what is in it.

    Args:
        source: The directory that it was unpacked into.
        origin: Where the archive is from, without credentials.
        scratch: Where the archive for the hosts is written.
        build: How it will be built.
    """
    found = entries(source, listed=tree(source))
    return packed_plan(source, found, scratch, build, origin, in_repository=False)


def packed_plan(
    source: Path,
    found: Sequence[Entry],
    scratch: Path,
    build: Build,
    origin: str,
    commit: str = "",
    in_repository: bool = True,
) -> dict[str, Any]:
    """Packs what was found in a directory; its content or its commit names the release.

    Args:
        source: The directory.
        found: What belongs to it.
        scratch: Where the archive is written.
        build: How it will be built.
        origin: Where the source is from, without credentials.
        commit: The commit that was checked out; empty where the content names the release.
        in_repository: The directory may be in a repository whose tags are those of the app.
    """
    dependencies = find(source, {entry.path for entry in found}, build.wanted())
    made, notes = metadata_entries(source, found, in_repository)
    found = sorted([*found, *made], key=lambda entry: entry.path)
    version = project_version(source, found, dependencies.member or build.directory)
    dependencies = replace(
        dependencies,
        version=version if made else "",
        notes=[*dependencies.notes, *notes],
    )
    digest = content_digest(found)
    archive = scratch / f"{commit or digest}.tar.gz"
    pack(source, found, archive, time.time())
    release = release_id(version, commit or digest, build.identity())
    return plan(release, version, digest, commit, origin, str(archive), dependencies)


def git_plan(
    url: str, version: str, scratch: Path, access: GitAccess, build: Build
) -> dict[str, Any]:
    """Plans a release of a commit, checked out on this machine, and packs it."""
    commit = resolve_commit(url, version, scratch, access)
    checked_out = scratch / commit
    checkout(url, commit, checked_out, access)
    found = entries(checked_out)
    if versioned_by_git(checked_out, found):
        fetch_history(checked_out, commit, access)
    origin = hide_credentials(url)
    return packed_plan(checked_out, found, scratch, build, origin, commit)


def host_checkout_plan(
    url: str, version: str, directory: Path, access: GitAccess, build: Build
) -> dict[str, Any]:
    """Plans a release of a commit that every host will check out itself, as the build user."""
    commit = resolve_commit(url, version, directory, access)
    release = release_id(f"git.{commit[:7]}", commit, build.identity())
    return plan(release, "", "", commit, hide_credentials(url), "")


def checkout_on_host(url: str, commit: str, target: Path, access: GitAccess) -> None:
    """Puts the files of one commit into a directory of a host, where nothing fetches those of LFS.

    The tags come along where a build derives the version from git.

    Raises:
        DeployError: git failed, or a file is a pointer of Git LFS.
    """
    checkout(url, commit, target, access)
    refuse_pointers(target)
    if derives_version(target, access):
        fetch_history(target, commit, access)


def undecided_plan(url: str) -> dict[str, Any]:
    """Returns the plan of check mode where the repository cannot be read yet."""
    return plan(UNDECIDED, "", "", "", hide_credentials(url), "")

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The version of an app: written in its pyproject.toml, or taken from the tags of its repository.

A release has no repository. A build that derives its version from git reads it from a file
PKG-INFO instead, as in every source distribution; the controller makes that file. Two kinds of
build read it from variables (installers/environment.py).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from posixpath import basename, dirname, join, normpath
from typing import Any

from .dependencies import search
from .dependencies.search import mapping
from .git_source import GitAccess, git
from .source import Entry

METADATA = "PKG-INFO"
#: What a build requires to derive its version from git.
BY_GIT = {
    "flit-scm",
    "hatch-vcs",
    "poetry-dynamic-versioning",
    "setuptools-git-versioning",
    "setuptools-scm",
    "uv-dynamic-versioning",
    "versioningit",
}
#: The same as a pattern for lines of a pyproject.toml.
LINES = "|".join(name.replace("-", "[-_]") for name in sorted(BY_GIT)) + '|source *= *"scm"'
#: Tags that are no version, and are passed over.
MOST_OTHER_TAGS = 20
NO_TAG = (
    "the version of the app is not known, as no tag of its repository is here, and {} is in its"
    " place; in CI fetch the history with its tags (fetch-depth: 0)"
)


@dataclass(frozen=True)
class Project:
    """A project of a source.

    Args:
        directory: Where its pyproject.toml is, relative to the source.
        name: Its name.
        fallback: It names a version for builds without a repository.
    """

    directory: str
    name: str
    fallback: bool


def project_version(source: Path, found: Sequence[Entry], directory: str) -> str:
    """Returns the version of the nearest project; empty where none is written.

    Args:
        source: The directory of the source.
        found: What belongs to it.
        directory: The app in it.
    """
    contents = {entry.path: entry.content for entry in found}
    files = search.Tree(source, contents.keys())
    for above in search.directories_above(directory):
        made = contents.get(normpath(join(above, METADATA)))
        if made is not None:
            return made.decode().partition("\nVersion: ")[2].split("\n", 1)[0]
        for table in own_tables(table_of(files, normpath(join(above, search.PROJECT)))):
            if isinstance(table.get("version"), str):
                return str(table["version"])
    return ""


def table_of(files: search.Tree, path: str) -> dict[str, Any]:
    """Returns the content of a pyproject.toml; empty where it is not there or not valid.

    A source may have one that is a template or a test.
    """
    try:
        return files.table(path)
    except search.Rejected:
        return {}


def own_tables(table: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Returns the tables of a pyproject.toml that can have name and version of the project."""
    return [mapping(table.get("project")), mapping(mapping(table.get("tool")).get("poetry"))]


def projects_by_git(source: Path, found: Sequence[Entry]) -> list[Project]:
    """Returns the projects whose builds derive the version from git."""
    names = {entry.path for entry in found}
    files = search.Tree(source, names)
    projects = []
    for path in sorted(names):
        directory = dirname(path)
        if basename(path) != search.PROJECT or join(directory, METADATA) in names:
            continue
        table = table_of(files, path)
        if is_by_git(table):
            name = next((one["name"] for one in own_tables(table) if "name" in one), "app")
            projects.append(Project(directory, str(name), "fallback" in files.text(path)))
    return projects


def is_by_git(table: Mapping[str, Any]) -> bool:
    """Says whether the build of a project derives the version from git."""
    requires = mapping(table.get("build-system")).get("requires", [])
    needed = {search.requirement_name(str(one)) for one in requires}
    project = mapping(table.get("project"))
    dynamic = "version" in project.get("dynamic", []) or "version" not in project
    pdm = mapping(mapping(mapping(table.get("tool")).get("pdm")).get("version"))
    return dynamic and bool(BY_GIT & needed or pdm.get("source") == "scm")


def versioned_by_git(source: Path, found: Sequence[Entry]) -> bool:
    """Says whether some build of a source derives a version from git."""
    return bool(projects_by_git(source, found))


def metadata_entries(
    source: Path, found: Sequence[Entry], in_repository: bool = True
) -> tuple[list[Entry], list[str]]:
    """Returns the files PKG-INFO that are added to a source, and notes.

    Args:
        source: Its directory.
        found: What belongs to it.
        in_repository: It is a checkout.
    """
    made, notes = [], []
    for project in projects_by_git(source, found):
        version, known = described(source, project.name) if in_repository else ("0", False)
        if not known and project.fallback:
            continue
        if not known:
            notes.append(NO_TAG.format(version))
        content = f"Metadata-Version: 2.1\nName: {project.name}\nVersion: {version}\n".encode()
        digest = hashlib.sha256(content).hexdigest()
        made.append(Entry(join(project.directory, METADATA), "file", digest, content))
    return made, [*dict.fromkeys(notes)]


def described(source: Path, name: str) -> tuple[str, bool]:
    """Returns the version that the tags of a checkout give, and whether there is one.

    Tags with the name of the project come first, as several projects of a repository have them.
    Behind the version come the number of commits since, and the commit: `1.4.2+3.g81b0d43`.

    Args:
        source: The checkout.
        name: Name of the project.
    """
    others: list[str] = []
    for pattern in (f"{name}[-_/@]*[0-9]*", "*[0-9]*"):
        for _attempt in range(MOST_OTHER_TAGS):
            words = ["describe", "--tags", "--long", f"--match={pattern}"]
            # 128: no repository, no commit, or no such tag
            text = git([*words, *(f"--exclude={tag}" for tag in others)], source, good=(0, 128))
            tag = re.fullmatch(r"(.*)-([0-9]+)-(g[0-9a-f]+)", text.strip())
            if tag is None:
                break
            version = tag_version(tag[1])
            if version:
                public = version.partition("+")[0]
                return version if tag[2] == "0" else f"{public}+{tag[2]}.{tag[3]}", True
            others.append(tag[1])
    commit = git(["rev-parse", "--short", "HEAD"], source, good=(0, 128)).strip()
    return f"0+g{commit}" if re.fullmatch(r"[0-9a-f]+", commit) else "0", False


def tag_version(tag: str) -> str:
    """Returns the version in the name of a tag, as `1.4.2` in `blog-v1.4.2`; empty for none."""
    from packaging.version import InvalidVersion, Version

    for text in (tag, *re.findall(r"(?=[-_/@]v?([0-9].*)$)", tag)):
        try:
            return str(Version(text))
        except InvalidVersion:
            continue
    return ""


def fetch_history(directory: Path, commit: str, access: GitAccess) -> None:
    """Fetches the commits and tags, without their files, into a checkout of one commit."""
    shallow = git(["rev-parse", "--is-shallow-repository"], directory, access).strip() == "true"
    words = ["--unshallow", "--filter=tree:0", "origin", commit] if shallow else ["origin"]
    git(["fetch", "--quiet", "--tags", *words], directory, access)


def derives_version(directory: Path, access: GitAccess) -> bool:
    """Says whether some build of a checkout on a host derives a version from git."""
    words = ["grep", "--files-with-matches", "--extended-regexp", "-e", LINES]
    places = ["--", search.PROJECT, f"*/{search.PROJECT}"]
    # 1: no line matches
    return bool(git([*words, *places], directory, access, good=(0, 1)))

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a uv.lock is up to date with the projects that it locks.

`uv sync --frozen` installs what is in the lock, whatever pyproject.toml names by now. `uv lock
--check` would find it, but it needs the indexes. What it compares first is in both files: the lock
repeats the requirements of each project (`requires-dist`). Read on the controller only, which has
tomllib and packaging.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import DeployError
from .search import OF_THE_SOURCE, place_of

LOCK = "uv.lock"
#: What a project requires, and for its extras.
LISTS = {"dependencies", "optional-dependencies"}
#: A requirement from elsewhere than an index; in pyproject.toml its place is in [tool.uv.sources].
PLACES = {*OF_THE_SOURCE, "git", "url", "path"}

#: The ranges of a requirement, each a set of specifiers, by its name.
Requirements = Mapping[str, set[frozenset[Any]]]


def require_current(directory: Path) -> None:
    """Raises where the uv.lock that an app is installed from does not match its pyproject.toml.

    Args:
        directory: The app.

    Raises:
        DeployError: Which requirements differ, and how to lock them.
    """
    for package, project in projects(directory, read(directory / LOCK).get("package", [])):
        differing = sorted(differences(project, package))
        if differing:
            where = os.path.normpath(f"{place_of(package)}/pyproject.toml")
            raise DeployError(
                f"asgi_app_source: {LOCK} is out of date, it was made before {where} named"
                f" {', '.join(differing)} as it does now, so another set would be installed; run uv"
                " lock, and add the file to the source"
            )


def read(path: Path) -> dict[str, Any]:
    """Reads a TOML file.

    Raises:
        DeployError: It is none.
    """
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise DeployError(f"asgi_app_source: {path} is not valid TOML: {error}") from error


def projects(
    above: Path, packages: list[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yields each package of a lock that is a project beside it, with its [project] table."""
    for package in packages:
        path = above / place_of(package) / "pyproject.toml"
        if not place_of(package) or not path.is_file():
            continue
        project = read(path).get("project", {})
        # what is dynamic is in no file, and the lock of an old uv repeats nothing
        dynamic = LISTS & {*project.get("dynamic", [])}
        old = "metadata" not in package and LISTS & package.keys()
        if project and not dynamic and not old:
            yield package, project


def differences(project: Mapping[str, Any], package: Mapping[str, Any]) -> set[str]:
    """Returns the names of the requirements that a project has otherwise than its lock.

    Args:
        project: The table of pyproject.toml.
        package: The project in the lock.
    """
    named, locked = named_requirements(project), locked_requirements(package)
    placed = {one["name"] for one in required(package) if PLACES & one.keys()}
    # a project may name its own extras
    names = (named.keys() | locked.keys()) - {package["name"]}
    return {
        name
        for name in names
        if (name in named) != (name in locked)
        or (name not in placed and named[name] != locked[name])
    }


def named_requirements(project: Mapping[str, Any]) -> Requirements:
    """Returns what a project requires, also for its extras."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.utils import canonicalize_name

    lists = [project.get("dependencies", []), *project.get("optional-dependencies", {}).values()]
    found: dict[str, set[frozenset[Any]]] = {}
    for text in (text for texts in lists for text in texts):
        try:
            one = Requirement(text)
        except InvalidRequirement as error:
            raise DeployError(f"pyproject.toml of the app: {error}") from error
        found.setdefault(canonicalize_name(one.name), set()).add(frozenset(one.specifier))
    return found


def locked_requirements(package: Mapping[str, Any]) -> Requirements:
    """Returns what a project required when it was locked."""
    from packaging.specifiers import SpecifierSet

    found: dict[str, set[frozenset[Any]]] = {}
    for one in required(package):
        ranges = found.setdefault(one["name"], set())
        ranges.add(frozenset(SpecifierSet(one.get("specifier", ""))))
    return found


def required(package: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the requirements of a project in a lock."""
    found: list[dict[str, Any]] = package.get("metadata", {}).get("requires-dist", [])
    return found

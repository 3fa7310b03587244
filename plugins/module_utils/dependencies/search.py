# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds the file that says what an app needs, and how it is installed. Nothing is run.

The controller calls it for a source that it has. For a source that is checked out on a host, the
build user runs it there as a program, as text, so it imports nothing of the collection.
"""

from __future__ import annotations

import fnmatch
import json
import os
import posixpath
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

PROJECT = "pyproject.toml"
REQUIREMENTS = "requirements.txt"
#: Files that lock all versions, the first one that is there counts; and how each becomes a file
#: that pip can read.
LOCKS = {
    "uv.lock": "uv export --no-default-groups --no-emit-project --output-file requirements.txt",
    "pylock.toml": "uv pip compile pyproject.toml --generate-hashes --output-file requirements.txt",
    "poetry.lock": "poetry export --output requirements.txt",
    "pdm.lock": "pdm export --prod --output requirements.txt",
    "Pipfile.lock": "pipenv requirements --hash > requirements.txt",
}
PYLOCK = re.compile(r"(?:.*/)?pylock(?:\.[^./]+)?\.toml")
#: Which kinds have extras, and which have groups.
WITH_EXTRAS = {"uv.lock", "pylock.toml", "poetry.lock", "pdm.lock", PROJECT, "setup.py"}
WITH_GROUPS = {"uv.lock", "pylock.toml", "poetry.lock", "pdm.lock", PROJECT}
#: Where a package in uv.lock is a project of the source.
OF_THE_SOURCE = ("virtual", "editable", "directory")
ARCHIVES = (".whl", ".tar.gz", ".zip")
COMMIT = re.compile(r"@[0-9a-f]{40}(?:$|#)")
SHOWN = 5


class Rejected(Exception):
    """The app cannot be installed as it is; the text says what to do."""


@dataclass(frozen=True)
class Wanted:
    """What is to be installed.

    Args:
        directory: Folder of the app inside the source.
        entrypoint: `module:attribute`.
        installer: `uv` or `pip`.
        package: Package of a uv workspace; empty for the one in `directory`.
        requirements_files: Paths in `directory`; empty for what is found.
        extras: Optional dependencies.
        groups: Dependency groups.
    """

    directory: str = "."
    entrypoint: str = ""
    installer: str = "uv"
    package: str = ""
    requirements_files: Sequence[str] = ()
    extras: Sequence[str] = ()
    groups: Sequence[str] = ()


@dataclass(frozen=True)
class Dependencies:
    """The file that is installed, and how. Paths are relative to the source.

    Args:
        kind: `uv.lock`, `pylock.toml`, `poetry.lock`, `pdm.lock`, `Pipfile.lock`,
            `requirements.txt`, `pyproject.toml` or `setup.py`.
        files: The files of that kind.
        directory: Where the installer runs.
        package: Package of a uv workspace; empty where there is no workspace.
        member: Directory of that package.
        project: Directory of the project that is installed itself; empty for none.
        requirements: What a project that is no package depends on, for pip.
        hashed: A requirements file has hashes.
        complete: All that is needed is in the file; nothing else is installed.
        current: A uv.lock matches the projects that it locks; False where that is not known.
        version: That of the project, where its build derives it from git.
        notes: What is not pinned, and what is there and not used.
    """

    kind: str
    files: Sequence[str]
    directory: str = "."
    package: str = ""
    member: str = ""
    project: str = ""
    requirements: Sequence[str] = field(default_factory=list)
    hashed: bool = False
    complete: bool = False
    current: bool = False
    version: str = ""
    notes: Sequence[str] = field(default_factory=list)


@dataclass(frozen=True)
class Tree:
    """The files of a source; nothing outside of it is read.

    Args:
        root: Its directory.
        names: Relative paths of the files that are deployed; None for all that are there.
    """

    root: Path
    names: Collection[str] | None = None

    def has(self, path: str) -> bool:
        """Says whether a file is part of the source."""
        return (self.names is None or path in self.names) and self.lies_there(path)

    def lies_there(self, path: str) -> bool:
        """Says whether a file is in the directory, deployed or not."""
        real = Path(os.path.realpath(self.root / path))
        return real.is_file() and real.is_relative_to(os.path.realpath(self.root))

    def text(self, path: str) -> str:
        """Returns the text of a file; empty where it is not there."""
        if not self.has(path):
            return ""
        return (self.root / path).read_text(encoding="utf-8-sig", errors="replace")

    def table(self, path: str) -> dict[str, Any]:
        """Returns the content of a TOML file; empty where it is not there.

        Raises:
            Rejected: It is not valid, or the Python of a host is too old to read it.
        """
        if not self.has(path):
            return {}
        try:
            import tomllib
        except ImportError as error:
            raise Rejected(
                f"asgi_app_source.checkout: host needs Python 3.11 on the host, to read {path};"
                " write checkout: controller"
            ) from error
        try:
            return tomllib.loads(self.text(path))
        except tomllib.TOMLDecodeError as error:
            raise Rejected(f"asgi_app_source: {path} is not valid TOML: {error}") from error

    def files(self) -> Iterator[str]:
        """Yields the paths of all files, sorted."""
        if self.names is not None:
            yield from sorted(self.names)
            return
        for directory, folders, names in os.walk(self.root):
            folders.sort()
            for name in sorted(names):
                yield Path(directory, name).relative_to(self.root).as_posix()


def find(tree: Tree, wanted: Wanted) -> Dependencies:
    """Returns what is installed for an app.

    Raises:
        Rejected: There is no such file, or the installer cannot install from it.
    """
    if wanted.requirements_files:
        found = named_files(tree, wanted)
    else:
        directory = nearest_project(tree, wanted)
        found = workspace_member(tree, wanted, directory) or in_project(tree, wanted, directory)
        found = replace(found, notes=[*unused(tree, found, directory), *found.notes])
    if wanted.extras:
        require_extras(tree, wanted, found)
    if wanted.groups:
        require_groups(tree, wanted, found)
    return found


# --- which file -----------------------------------------------------------------------------------


def join(directory: str, path: str) -> str:
    """Joins two relative paths."""
    return posixpath.normpath(posixpath.join(directory, path))


def directories_above(directory: str) -> Iterator[str]:
    """Yields a directory and those above it, up to the source."""
    current = posixpath.normpath(directory)
    while True:
        yield current
        if current == ".":
            return
        current = posixpath.dirname(current) or "."


def mapping(value: Any) -> Mapping[str, Any]:
    """Returns a table of a TOML file; an empty one in place of anything else."""
    return value if isinstance(value, Mapping) else {}


def is_project(table: Mapping[str, Any]) -> bool:
    """Says whether a pyproject.toml is more than the settings of tools."""
    own = {"project", "build-system"} & table.keys()
    return bool(own or "poetry" in mapping(table.get("tool")))


def present(tree: Tree, directory: str) -> list[str]:
    """Returns the names of the files in a directory that say what an app needs, best first."""
    found = [name for name in (*LOCKS, REQUIREMENTS) if tree.has(join(directory, name))]
    if is_project(tree.table(join(directory, PROJECT))):
        found.append(PROJECT)
    if tree.has(join(directory, "setup.py")):
        found.append("setup.py")
    return found


def nearest_project(tree: Tree, wanted: Wanted) -> str:
    """Returns the app's directory, or the nearest one above it, that says what the app needs.

    Raises:
        Rejected: None does; with what to write where one is found elsewhere.
    """
    for directory in directories_above(wanted.directory):
        require_no_lost_link(tree, directory)
        if present(tree, directory):
            return directory
    what = f"no {', '.join((*LOCKS, REQUIREMENTS))} and no pyproject.toml of a project"
    where = "" if wanted.directory == "." else f" in {wanted.directory} or above it"
    tool_only = tree.has(join(wanted.directory, PROJECT))
    more = f"; its {PROJECT} has only settings of tools" if tool_only else ""
    advice = elsewhere(tree, wanted.directory)
    raise Rejected(f"asgi_app_source: the app has {what}{where}{more}{advice}")


def require_no_lost_link(tree: Tree, directory: str) -> None:
    """Raises where a file that would say what the app needs is a link that cannot be followed."""
    for name in (*LOCKS, REQUIREMENTS, PROJECT):
        path = join(directory, name)
        deployed = tree.names is None or path in tree.names
        if deployed and (tree.root / path).is_symlink() and not tree.lies_there(path):
            raise Rejected(
                f"asgi_app_source: {path} is a link that leads out of the source, or to no file;"
                " put the file itself there"
            )


def elsewhere(tree: Tree, app: str) -> str:
    """Returns what to write where a source has files that were not looked for."""
    if files := files_by_name(tree, app):
        return f". Name the file to install in asgi_app_requirements_files, such as {some(files)}"
    names = (*LOCKS, REQUIREMENTS, PROJECT)
    splits = [posixpath.split(path) for path in tree.files()]
    projects = dict.fromkeys(place for place, name in splits if place and name in names)
    return f". Set asgi_app_directory, for example to {some([*projects])}" if projects else ""


def files_by_name(tree: Tree, app: str) -> list[str]:
    """Returns what looks like a requirements file or a pylock.toml, as paths from the app."""
    found = []
    for path in tree.files():
        directory, name = posixpath.split(path)
        named = name.endswith(".txt") and "requirements" in name + posixpath.basename(directory)
        if named or PYLOCK.fullmatch(name):
            found.append(posixpath.relpath(path, app))
    return found


def some(names: Sequence[str], shown: int = SHOWN) -> str:
    """Returns the first of some names, and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def unused(tree: Tree, found: Dependencies, directory: str) -> list[str]:
    """Returns notes on the locks and requirements files beside what is installed.

    Those above count where nothing locks the versions.
    """
    places = [directory, found.directory]
    if found.kind not in (*LOCKS, REQUIREMENTS):
        places += directories_above(directory)
    paths = [join(place, name) for place in places for name in (*LOCKS, REQUIREMENTS)]
    notes = []
    for path in dict.fromkeys(paths):
        if path in found.files:
            continue
        if tree.has(path):
            notes.append(f"{path} is not used, {found.files[0]} is")
        elif tree.lies_there(path):
            notes.append(
                f"{path} is not part of the source, as .gitignore or asgi_app_source.exclude"
                " names it"
            )
    return notes


# --- extras and groups ----------------------------------------------------------------------------


def require_extras(tree: Tree, wanted: Wanted, found: Dependencies) -> None:
    """Raises where what is installed has not got an extra; most installers ignore it."""
    if found.kind not in WITH_EXTRAS:
        raise Rejected(
            f"asgi_app_extras: {found.kind} has no extras; leave them out, or write them into the"
            " file, as in name[extra]"
        )
    known = None
    project = mapping(tree.table(join(found.directory, PROJECT)).get("project"))
    if found.kind in ("pylock.toml", "pdm.lock"):
        known = locked_names(tree.table(found.files[0]), "extras")
    elif found.kind in (PROJECT, "setup.py") and project:
        dynamic = "optional-dependencies" in project.get("dynamic", [])
        known = None if dynamic else [*mapping(project.get("optional-dependencies"))]
    require_known("asgi_app_extras", wanted.extras, known, found.files[0])


def require_groups(tree: Tree, wanted: Wanted, found: Dependencies) -> None:
    """Raises where what is installed has not got a dependency group."""
    if found.kind not in WITH_GROUPS or wanted.installer == "pip":
        raise Rejected(
            f"asgi_app_groups: {wanted.installer} installs no groups from {found.kind}; leave them"
            " out"
        )
    known = None
    if found.kind in ("pylock.toml", "pdm.lock"):
        known = locked_names(tree.table(found.files[0]), "dependency-groups")
    elif found.kind == PROJECT:
        known = [*mapping(tree.table(found.files[0]).get("dependency-groups"))]
    require_known("asgi_app_groups", wanted.groups, known, found.files[0])


def locked_names(lock: Mapping[str, Any], key: str) -> list[str]:
    """Returns the extras or groups of a pylock.toml, or extras and groups of a pdm.lock."""
    return [*lock.get(key, []), *mapping(lock.get("metadata")).get("groups", [])]


def require_known(
    variable: str, names: Sequence[str], known: Sequence[str] | None, path: str
) -> None:
    """Raises where a name is none of the known ones.

    Args:
        variable: That has the names.
        names: Extras or groups.
        known: Those that there are; None where the installer itself rejects others.
        path: The file that has them.
    """
    if known is None:
        return
    there = {normalized(name) for name in known}
    missing = [name for name in names if normalized(name) not in there]
    if missing:
        raise Rejected(f"{variable}: {path} has no {some(missing)}; it has {some(known) or 'none'}")


def normalized(name: str) -> str:
    """Returns a name of a package, an extra or a group as all its spellings have it."""
    # also in downloads.py, which each run sends to the hosts, without this file
    return re.sub(r"[-_.]+", "-", name).lower()


# --- workspaces of uv -----------------------------------------------------------------------------


def workspace_member(tree: Tree, wanted: Wanted, directory: str) -> Dependencies | None:
    """Returns what is installed from the lock of a uv workspace; None without a workspace.

    Raises:
        Rejected: asgi_app_package is none of its packages, or pip is to read the lock.
    """
    root = workspace_root(tree, directory)
    if root is None:
        if wanted.package:
            raise Rejected(
                "asgi_app_package: is for a uv workspace, and there is none with a uv.lock in"
                f" {wanted.directory!r} of the source or above it; leave it out"
            )
        return None
    lock = join(root, "uv.lock")
    if wanted.installer == "pip":
        if tree.has(join(directory, REQUIREMENTS)) and not wanted.package:
            return None
        raise Rejected(
            f"asgi_app_installer: pip does not read {lock} of the workspace, and other versions"
            " than it names would be installed; use uv"
        )
    members = {
        one["name"]: join(root, place)
        for one in tree.table(lock).get("package", [])
        for place in [place_of(one)]
        if place
    }
    package = wanted.package or next(
        (name for name, place in members.items() if place == directory), ""
    )
    if package in members:
        return Dependencies("uv.lock", [lock], root, package=package, member=members[package])
    if package:
        raise Rejected(
            f"asgi_app_package: {package!r} is no package of the workspace of {lock}, which has"
            f" {some(sorted(members))}"
        )
    if directory == root:
        raise Rejected(
            f"asgi_app_source: {join(root, PROJECT)} is a uv workspace and no project of its own;"
            f" write the package to install as asgi_app_package: {some(sorted(members))}"
        )
    raise Rejected(
        f"asgi_app_source: {lock} is out of date, it has no package in {directory}; run uv lock,"
        " and add the file to the source"
    )


def place_of(package: Mapping[str, Any]) -> str:
    """Returns the path of a project from a uv.lock; empty for a package from elsewhere."""
    source = mapping(package.get("source"))
    return next((str(source[kind]) for kind in OF_THE_SOURCE if kind in source), "")


def workspace_root(tree: Tree, directory: str) -> str | None:
    """Returns the directory of the locked uv workspace that a project belongs to; None without."""
    for above in directories_above(directory):
        tools = mapping(tree.table(join(above, PROJECT)).get("tool"))
        workspace = mapping(tools.get("uv")).get("workspace")
        if not isinstance(workspace, Mapping):
            continue
        locked = tree.has(join(above, "uv.lock"))
        inside = above == directory or is_member(posixpath.relpath(directory, above), workspace)
        return above if locked and inside else None
    return None


def is_member(directory: str, workspace: Mapping[str, Any]) -> bool:
    """Says whether a directory, relative to the root of a uv workspace, is a member of it."""

    def matched(patterns: Sequence[str]) -> bool:
        return any(
            fnmatch.fnmatchcase(directory, pattern)
            for pattern in (posixpath.normpath(str(one)) for one in patterns)
            # a star is for one part of a path, two are for any number
            if "**" in pattern or pattern.count("/") == directory.count("/")
        )

    return matched(workspace.get("members", [])) and not matched(workspace.get("exclude", []))


# --- projects -------------------------------------------------------------------------------------


def in_project(tree: Tree, wanted: Wanted, directory: str) -> Dependencies:
    """Returns what is installed from the files in one directory.

    Raises:
        Rejected: pip cannot read the lock.
    """
    names = present(tree, directory)
    locks = [name for name in names if name in LOCKS]
    if wanted.installer == "pip":
        names = [name for name in names if name not in LOCKS]
        if locks and REQUIREMENTS not in names:
            raise Rejected(
                f"asgi_app_installer: pip does not read {locks[0]}, and other versions than it"
                " names would be installed; use uv, or make a file that pip reads and add it to"
                f" the source: {LOCKS[locks[0]]}"
            )
    kind, path = names[0], join(directory, names[0])
    if kind == REQUIREMENTS:
        return from_requirements(tree, wanted, [path], directory)
    if kind not in LOCKS:
        return from_project(tree, wanted, kind, directory)
    if kind in ("uv.lock", "pylock.toml"):
        # uv.lock has the project; a pylock.toml has it where it was made so
        project = "" if kind == "uv.lock" else project_to_install(tree, wanted, directory)
        return Dependencies(kind, [path], directory, project=project)
    # installed by its own tool it would be installed, too, where it has commands
    commands = is_package(tree, directory) and has_commands(tree.table(join(directory, PROJECT)))
    project = directory if commands else project_to_install(tree, wanted, directory)
    return Dependencies(kind, [path], directory, project=project)


def from_project(tree: Tree, wanted: Wanted, kind: str, directory: str) -> Dependencies:
    """Returns what is installed for a project without a lock.

    Raises:
        Rejected: It is managed by Poetry and is no package, so only a lock can be installed.
    """
    table = tree.table(join(directory, PROJECT))
    path = join(directory, kind)
    package = is_package(tree, directory)
    if not package and "project" not in table:
        raise Rejected(
            f"asgi_app_source: {path} is no package and has no [project]; lock it, and add the file"
            " to the source: poetry lock"
        )
    return Dependencies(
        kind,
        [path],
        directory,
        project=directory if package else "",
        requirements=[] if package else required(mapping(table.get("project")), wanted.extras),
        notes=[f"{path} without a lock: versions are not pinned"],
    )


def required(project: Mapping[str, Any], extras: Sequence[str]) -> list[str]:
    """Returns what a project depends on.

    Args:
        project: Its table [project].
        extras: Of its extras; one may have others, by the name of the project itself.
    """
    optional = {
        normalized(name): lines
        for name, lines in mapping(project.get("optional-dependencies")).items()
    }
    name = normalized(str(project.get("name", "")))
    lines, wanted, done = [*project.get("dependencies", [])], [*extras], set()
    while wanted:
        extra = normalized(wanted.pop(0))
        if extra in done:
            continue
        done.add(extra)
        for line in optional.get(extra, []):
            own = re.match(r"([A-Za-z0-9._-]+)\s*\[([^\]]*)\]", line)
            if own and normalized(own[1]) == name:
                wanted += [one.strip() for one in own[2].split(",")]
            else:
                lines.append(line)
    return lines


def is_package(tree: Tree, directory: str) -> bool:
    """Says whether a project can be built and installed itself."""
    table = tree.table(join(directory, PROJECT))
    tools = mapping(table.get("tool"))
    for tool, key in (("uv", "package"), ("poetry", "package-mode"), ("pdm", "distribution")):
        if key in mapping(tools.get(tool)):
            return bool(tools[tool][key])
    return "build-system" in table or tree.has(join(directory, "setup.py"))


def has_commands(table: Mapping[str, Any]) -> bool:
    """Says whether a project brings commands or plugins, which only its installation makes."""
    names = {"scripts", "gui-scripts", "entry-points", "plugins"}
    poetry = mapping(mapping(table.get("tool")).get("poetry"))
    return bool(names & {*mapping(table.get("project")), *poetry})


def project_to_install(tree: Tree, wanted: Wanted, directory: str) -> str:
    """Returns the directory of a project that has to be installed to be found; empty for none.

    That is one in src, whose module is not in the directory in which the app runs.
    """
    module = wanted.entrypoint.partition(":")[0].partition(".")[0]
    place = join(wanted.directory, module)
    # a directory alone may be one that only this controller has
    found = tree.has(f"{place}.py") or any(
        path.startswith(f"{place}/") and path.endswith(".py") for path in tree.files()
    )
    return "" if found or not is_package(tree, directory) else directory


# --- requirements files ---------------------------------------------------------------------------


@dataclass
class Requirements:
    """What is in requirements files.

    Args:
        hashed: One has a hash.
        editable: What is to be editable.
        local: Directories, relative to the source.
        unhashed: What can have no hash: directories and repositories.
        unpinned: Names without an exact version, or without a commit.
        constrained: Names whose version a constraints file has.
    """

    hashed: bool = False
    editable: list[str] = field(default_factory=list)
    local: list[str] = field(default_factory=list)
    unhashed: list[str] = field(default_factory=list)
    unpinned: list[str] = field(default_factory=list)
    constrained: set[str] = field(default_factory=set)


def named_files(tree: Tree, wanted: Wanted) -> Dependencies:
    """Returns what is installed from the files that are named.

    Raises:
        Rejected: One is not there, or is of another kind.
    """
    paths = [join(wanted.directory, name) for name in wanted.requirements_files]
    missing = [path for path in paths if not tree.has(path)]
    if missing:
        known = files_by_name(tree, wanted.directory)
        there = f"; it has {some(known)}" if known else ""
        raise Rejected(
            f"asgi_app_requirements_files: the source has no file {some(missing)}{there}"
        )
    locks = [path for path in paths if PYLOCK.fullmatch(path)]
    other = [path for path in paths if path.endswith((".toml", ".py")) and path not in locks]
    if other:
        raise Rejected(
            f"asgi_app_requirements_files: {some(other)} is no requirements file and no"
            " pylock.toml; a project is found by asgi_app_directory"
        )
    if not locks:
        return from_requirements(tree, wanted, paths, wanted.directory)
    if len(paths) > 1 or wanted.installer == "pip":
        raise Rejected(
            "asgi_app_requirements_files: a pylock.toml is installed by uv, and alone; name no"
            " other file"
        )
    project = project_to_install(tree, wanted, wanted.directory)
    return Dependencies("pylock.toml", paths, wanted.directory, project=project)


def from_requirements(
    tree: Tree, wanted: Wanted, paths: Sequence[str], directory: str
) -> Dependencies:
    """Returns what is installed from requirements files.

    Raises:
        Rejected: pip would leave something editable, or has hashes beside what can have none.
    """
    found = Requirements()
    for path in paths:
        read_requirements(tree, path, directory, found, seen=set())
    if wanted.installer == "pip" and found.hashed and found.unhashed:
        raise Rejected(
            f"asgi_app_installer: pip does not install {some(found.unhashed)} beside requirements"
            " with hashes; use uv"
        )
    if wanted.installer == "pip" and found.editable:
        raise Rejected(
            f"asgi_app_installer: pip would install {some(found.editable)} of {some(paths)} as"
            " editable; use uv, or write it without -e"
        )
    unpinned = [name for name in dict.fromkeys(found.unpinned) if name not in found.constrained]
    return Dependencies(
        REQUIREMENTS,
        paths,
        directory,
        project="" if directory in found.local else project_to_install(tree, wanted, directory),
        hashed=found.hashed and not found.unhashed,
        # what is listed has hashes where it can, so nothing else may be installed
        complete=found.hashed and bool(found.unhashed),
        notes=[f"not pinned in {some(paths)}: {some(unpinned)}"] if unpinned else [],
    )


def read_requirements(
    tree: Tree, path: str, directory: str, found: Requirements, seen: set[str]
) -> None:
    """Reads a requirements file, and those that it names.

    Args:
        tree: The source.
        path: The file.
        directory: What local paths in it are relative to.
        found: Where what is found goes.
        seen: Files that were read.

    Raises:
        Rejected: A file that it names is not in the source.
    """
    if path in seen:
        return
    seen.add(path)
    text = re.sub(r"\\\r?\n", " ", tree.text(path))
    for line in text.splitlines():
        words = re.sub(r"(?:^|\s)#.*", "", line).strip()
        option = re.match(r"(-[a-z]|--[a-z-]+)[\s=]*(.*)", words)
        key, value = (option[1], option[2].strip("\"' ")) if option else ("", words)
        if key in ("-r", "--requirement", "-c", "--constraint"):
            other = join(posixpath.dirname(path), value)
            if "://" in value:
                continue
            if not tree.has(other):
                raise Rejected(f"asgi_app_source: {path} names {value}, which is not in the source")
            if key in ("-r", "--requirement"):
                read_requirements(tree, other, directory, found, seen)
            else:
                found.constrained |= pinned_names(tree.text(other))
        elif key in ("-e", "--editable"):
            found.editable.append(value)
            read_requirement(value, directory, found, editable=True)
        elif value and not key:
            read_requirement(value, directory, found)


def read_requirement(
    text: str, directory: str, found: Requirements, editable: bool = False
) -> None:
    """Reads one requirement: a name, a URL or a path."""
    hashed = "--hash" in text
    found.hashed = found.hashed or hashed
    name = requirement_name(text)
    place = re.match(r"(?:[^\s;@/]+@\s*|[^\s;@/]+\s+@\s*)?([a-z+]+:[^\s;]*)", text)
    # without a scheme it is a path where it has a slash, and -e has nothing else
    place = place or re.match(r"(?:[^\s;@/]+\s*@\s*)?(\.[^\s;]*|[^\s;@=<>~!]*/[^\s;]*)", text)
    place = place or (re.match(r"([^\s;]+)", text) if editable else None)
    if place is None:
        version = re.search(r"={2,3}\s*([^\s,]+)", text.partition(";")[0])
        if name and not hashed and (version is None or "*" in version[1]):
            found.unpinned.append(name)
        return
    url = place[1]
    if url.startswith("git+"):
        # a user or token in it is not shown
        shown = name if place.start(1) else re.sub(r"//[^/]*@", "//", url)
        found.unhashed.append(shown)
        if not COMMIT.search(url):
            found.unpinned.append(shown)
    path = re.sub(r"^file:(?://)?|\[[^\]]*\]$|#.*$", "", url)
    if not re.match(r"[a-z+]+:", path) and not path.endswith(ARCHIVES):
        found.local.append(join(directory, path))
        found.unhashed.append(path)


def requirement_name(text: str) -> str:
    """Returns the normalized name of a requirement; empty for none."""
    name = re.match(r"[A-Za-z0-9][A-Za-z0-9._-]*", text)
    return normalized(name[0]) if name else ""


def pinned_names(text: str) -> set[str]:
    """Returns the names that a constraints file pins."""
    found = Requirements()
    lines = [line.strip() for line in text.splitlines()]
    for line in lines:
        read_requirement(line, ".", found)
    return {*filter(None, map(requirement_name, lines))} - {*found.unpinned}


# --- as a program ---------------------------------------------------------------------------------


def main(root: str, wanted: str) -> None:
    """Finds what an app in a directory needs, and writes it as JSON."""
    try:
        answer = asdict(find(Tree(Path(root)), Wanted(**json.loads(wanted))))
    except Rejected as error:
        answer = {"rejected": str(error)}
    except Exception as error:
        # odd but valid TOML; without this the text of the program would be in the error
        answer = {"rejected": f"asgi_app_source: {type(error).__name__}: {error}"}
    sys.stdout.write(json.dumps(answer))

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Building a virtual environment for a release, by uv or by pip.

Each step is contained (contained.py). Credentials go through a netrc file that only the steps
that install packages can read: never through argv, the environment or a log.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .commands import run
from .contained import Contained, private_files, proxy_variables
from .errors import DeployError

TOOL_DIRECTORY = Path("/opt/asgi")
SHOWN_FILES = 3

#: Locks that neither installer reads, and the command that makes a file from them that is read.
UNREAD_LOCKS = {
    "poetry.lock": "poetry export --output requirements.txt",
    "pdm.lock": "pdm export --output requirements.txt",
    "pylock.toml": "uv lock, or uv pip compile pyproject.toml --generate-hashes"
    " --output-file requirements.txt",
    "Pipfile.lock": "pipenv requirements > requirements.txt",
}
#: What makes the root of a uv workspace of a pyproject.toml.
WORKSPACE = re.compile(r"^\[tool\.uv\.workspace\]", re.MULTILINE)


@dataclass(frozen=True)
class BuildSettings:
    """How a release is built; all of it counts for the release id but the time-out.

    Args:
        installer: `uv` or `pip`.
        uv_version: Version of uv that is installed where it is missing.
        python: An interpreter: a name on PATH, a path, or for uv a version.
        extras: Optional dependencies of the project to install.
        groups: Dependency groups to install (uv.lock only).
        index: The package index in place of PyPI: url and perhaps username, password.
        extra_indexes: More indexes of that form.
        commands: What is run in the app's directory when all is installed, without a shell.
        ca_file: Bundle of the authorities to trust, a path on the host.
        compile_bytecode: Compile at build time; a service cannot write into its release.
        timeout_seconds: For each step of the build.
    """

    installer: str = "uv"
    uv_version: str = ""
    python: str = "python3"
    extras: Sequence[str] = ()
    groups: Sequence[str] = ()
    index: Mapping[str, str] = field(default_factory=dict)
    extra_indexes: Sequence[Mapping[str, str]] = ()
    commands: Sequence[str] = ()
    ca_file: str = ""
    compile_bytecode: bool = True
    timeout_seconds: float = 900

    def indexes(self) -> list[Mapping[str, str]]:
        """All indexes that are named."""
        return [*([self.index] if self.index else []), *self.extra_indexes]

    def identity(self, entrypoint: str, directory: str) -> dict[str, Any]:
        """What makes another release of the same source: not credentials or time-outs.

        Args:
            entrypoint: What is imported to prove the release.
            directory: The folder of the source that is built.
        """
        return {
            "entrypoint": entrypoint,
            "directory": directory,
            "installer": self.installer,
            "python": self.python,
            "extras": sorted(self.extras),
            "groups": sorted(self.groups),
            "indexes": [index["url"] for index in self.indexes()],
            "commands": list(self.commands),
        }


@dataclass(frozen=True)
class Builder:
    """Builds a release in its directory.

    Args:
        settings: How.
        steps: What runs the steps.
        directory: The release; the app's files lie in `source`.
        source: Where pyproject.toml or requirements.txt is.
        cache: Cache of the app's packages.
        former: A release whose times are taken for files of packages that are the same.
    """

    settings: BuildSettings
    steps: Contained
    directory: Path
    source: Path
    cache: Path
    former: Path | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def environment_directory(self) -> Path:
        """The virtual environment of the release."""
        return self.directory / "venv"

    @property
    def python(self) -> Path:
        """The interpreter of the virtual environment."""
        return self.environment_directory / "bin" / "python"

    def build(self) -> None:
        """Makes the virtual environment with everything that the app's files ask for."""
        root = self.directory / "source"
        kind = dependency_file(self.source, self.settings.installer, root)
        if self.settings.installer == "uv":
            self._with_uv(kind)
        else:
            self._with_pip(kind)
        if self.settings.compile_bytecode:
            self._compile_packages()
        for command in self.settings.commands:
            # none of what opens the indexes, and nothing of the app's environment and secrets
            self.steps.run(
                ["/usr/bin/env", *shlex.split(command)],
                purpose="build what asgi_app_build_commands names",
                environment={
                    "HOME": str(self.cache),
                    "PATH": f"{self.python.parent}:/usr/local/bin:/usr/bin:/bin",
                },
                directory=self.source,
            )

    def compile_source(self, source: Path) -> None:
        """Compiles the app's own files; one that does not compile may be a template or a test."""
        if not self.settings.compile_bytecode:
            return
        ended = self.steps.run(
            [str(self.python), *("-I", "-S", "-m", "compileall", "-q", "-j", "0"), str(source)],
            purpose="compile the app",
            directory=source,
            check=False,
        )
        if ended.returncode:
            files = re.findall(r"^\*\*\* Error compiling '(.+)'\.\.\.$", ended.stdout, re.MULTILINE)
            names = [os.path.relpath(name, source) for name in sorted(files)]
            shown = ", ".join(names[:SHOWN_FILES])
            more = f" and {len(names) - SHOWN_FILES} more" if len(names) > SHOWN_FILES else ""
            self.notes.append(f"not compiled, as they are no valid Python: {shown}{more}")

    def install(self, argv: Sequence[str], variables: Mapping[str, str], purpose: str) -> None:
        """Runs a step that reads the package indexes."""
        self.steps.run(
            argv,
            purpose=purpose,
            environment=variables,
            secret_files=index_credentials(self.settings),
            directory=self.source,
        )

    def _compile_packages(self) -> None:
        former = [self.former / "venv"] if self.former else []
        self.steps.run(
            [
                str(self.python),
                *("-I", "-S", "-c", COMPILE_PACKAGES),
                *map(str, (self.environment_directory, *former)),
            ],
            purpose="compile the packages",
            directory=self.source,
        )

    def _requirements(self) -> list[str]:
        """Returns the arguments for requirements.txt; once it has a hash, all must have one."""
        path = str(self.source / "requirements.txt")
        # root reads nothing of a source, which may have a link to what only root can read
        hashed = self.steps.run(
            ["grep", "--quiet", "--extended-regexp", "-e", "--hash[=[:space:]]", path],
            purpose="look for hashes in requirements.txt",
            check=False,
        )
        return [f"--requirement={path}", *([] if hashed.returncode else ["--require-hashes"])]

    def _with_uv(self, kind: str) -> None:
        settings = self.settings
        uv = str(ensure_uv(settings))
        variables = {
            **index_variables(settings),
            "HOME": str(self.cache),
            "UV_CACHE_DIR": str(self.cache / "uv"),
            "UV_PROJECT_ENVIRONMENT": str(self.environment_directory),
            "UV_NO_PROGRESS": "1",
            "UV_PYTHON_DOWNLOADS": "never",
            # a build can write to the cache, so no release may have files in common with it
            "UV_LINK_MODE": "copy",
            "UV_COMPILE_BYTECODE": "0",
        }
        if settings.index:
            variables["UV_DEFAULT_INDEX"] = settings.index["url"]
        if settings.extra_indexes:
            variables["UV_INDEX"] = " ".join(index["url"] for index in settings.extra_indexes)
        extras = [f"--extra={extra}" for extra in settings.extras]
        self.install(
            [uv, "venv", "--quiet", f"--python={settings.python}", str(self.environment_directory)],
            variables,
            "make the virtual environment",
        )
        into = [uv, "pip", "install", "--quiet", f"--python={self.python}"]
        if kind == "uv.lock":
            groups = [f"--group={group}" for group in settings.groups]
            wanted = [
                *("--quiet", "--frozen", "--no-default-groups", "--no-editable"),
                *(f"--python={self.python}", *extras, *groups),
            ]
            if settings.index:
                self._sync_from_index(uv, wanted, variables)
            else:
                self.install([uv, "sync", *wanted], variables, "install what uv.lock names")
        elif kind == "requirements.txt":
            self.install(
                [*into, *self._requirements()],
                variables,
                "install what requirements.txt names",
            )
        else:
            self.notes.append("pyproject.toml without uv.lock: versions are not pinned")
            self.install(
                [
                    *into,
                    *extras,
                    f"--requirements={self.source / 'pyproject.toml'}",
                    str(self.source),
                ],
                variables,
                "install what pyproject.toml names",
            )

    def _sync_from_index(
        self, uv: str, wanted: Sequence[str], variables: Mapping[str, str]
    ) -> None:
        """Installs what uv.lock names from asgi_app_index.

        `uv sync` downloads from the URLs in the lock, whatever the index is. Of the lock the
        versions and hashes are taken; uv rejects a file that has another hash.
        """
        exported = self.environment_directory / "uv-export.txt"
        self.steps.run(
            [
                *(uv, "export", *wanted, "--no-header", "--no-annotate"),
                f"--output-file={exported}",
            ],
            purpose="list what uv.lock names",
            environment=variables,
            directory=self.source,
        )
        self.install(
            [uv, "pip", "sync", "--quiet", f"--python={self.python}", str(exported)],
            variables,
            "install what uv.lock names from asgi_app_index",
        )

    def _with_pip(self, kind: str) -> None:
        settings = self.settings
        variables = {
            **index_variables(settings),
            "HOME": str(self.cache),
            "PIP_CACHE_DIR": str(self.cache / "pip"),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            "PIP_PROGRESS_BAR": "off",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_COMPILE": "1",
        }
        self.install(
            [settings.python, "-m", "venv", str(self.environment_directory)],
            variables,
            "make the virtual environment",
        )
        into = [str(self.python), "-m", "pip", "install", "--quiet"]
        if kind == "requirements.txt":
            self.install(
                [*into, *self._requirements()],
                variables,
                "install what requirements.txt names",
            )
        else:
            self.notes.append("pyproject.toml without a lock: versions are not pinned")
            extras = f"[{','.join(settings.extras)}]" if settings.extras else ""
            self.install(
                [*into, f"{self.source}{extras}"], variables, "install what pyproject.toml names"
            )


def index_variables(settings: BuildSettings) -> dict[str, str]:
    """Returns the environment for package indexes, without their credentials."""
    variables = {}
    if settings.index:
        variables["PIP_INDEX_URL"] = settings.index["url"]
    if settings.extra_indexes:
        variables["PIP_EXTRA_INDEX_URL"] = " ".join(
            index["url"] for index in settings.extra_indexes
        )
    if settings.ca_file:
        variables.update(
            dict.fromkeys(
                ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO"),
                settings.ca_file,
            )
        )
    return variables


def index_credentials(settings: BuildSettings) -> dict[str, str]:
    """Returns the text of the file that the variable NETRC names, if an index has credentials."""
    lines = netrc_lines(settings.indexes())
    return {"NETRC": "".join(f"{line}\n" for line in lines)} if lines else {}


def netrc_lines(indexes: Sequence[Mapping[str, str]]) -> list[str]:
    """Returns a netrc line for each index that has credentials.

    Raises:
        DeployError: A user name or password that netrc cannot carry; it is not shown.
    """
    lines = []
    for index in indexes:
        if not index.get("username") and not index.get("password"):
            continue
        host = urlsplit(index["url"]).hostname
        login, password = index.get("username") or "", index.get("password") or ""
        if not host or not login or not password or re.search(r"[\s\"\\#]", login + password):
            raise DeployError(
                f"asgi_app_index, asgi_app_extra_indexes: the credentials for {host or 'an index'}"
                " need a username and a password without white space, quotes, backslash and #"
            )
        lines.append(f"machine {host} login {login} password {password}")
    return lines


def dependency_file(directory: Path, installer: str, root: Path) -> str:
    """Returns which file says what to install: uv.lock, requirements.txt or pyproject.toml.

    Args:
        directory: The app.
        installer: uv or pip.
        root: The source that it is in.

    Raises:
        DeployError: There is none, one that the installer cannot read, or a lock that neither
            installer reads: other versions than it names would be installed.
    """
    present = [
        name
        for name in ("uv.lock", "requirements.txt", "pyproject.toml")
        if (directory / name).is_file()
    ]
    if installer == "pip" and "uv.lock" in present:
        present.remove("uv.lock")
        if "requirements.txt" not in present:
            raise DeployError(
                "asgi_app_installer: pip cannot read uv.lock and would install other versions"
                " than it names; use uv, or add a requirements.txt (uv export)"
            )
    if not present:
        raise DeployError(
            "asgi_app_source: the app has neither uv.lock, requirements.txt nor pyproject.toml"
            f" in {directory.name!r}; asgi_app_directory names the folder that has one"
        )
    if present[0] == "pyproject.toml":
        reject_unread_lock(directory, root)
    return present[0]


def reject_unread_lock(directory: Path, root: Path) -> None:
    """Raises where the versions of an app are locked in a file that is not read.

    Args:
        directory: The app, which has a pyproject.toml and no other file that is read.
        root: The source that it is in.

    Raises:
        DeployError: Which file, and how to make one that is read.
    """
    for name, command in UNREAD_LOCKS.items():
        if (directory / name).is_file():
            raise DeployError(
                f"asgi_app_source: {name} is not read, and other versions than it names would be"
                f" installed; make a file that is read and add it to the source: {command}"
            )
    for parent in directory.parents:
        if not parent.is_relative_to(root):
            return
        project = parent / "pyproject.toml"
        if not ((parent / "uv.lock").is_file() and project.is_file()):
            continue
        if WORKSPACE.search(project.read_text(encoding="utf-8", errors="replace")):
            where = "/".join(directory.relative_to(parent).parts)
            raise DeployError(
                f"asgi_app_directory: the versions of {where} are in the uv.lock of its workspace,"
                " which is not read, and others would be installed; make a file that is read and"
                f" add it to the source: uv export --package {directory.name} --output-file"
                f" {where}/requirements.txt"
            )


def ensure_uv(settings: BuildSettings) -> Path:
    """Returns the path of uv in the wanted version, installed by pip where it is missing.

    Root installs it, as all apps use it: from a wheel, whose installation runs no code of it.
    """
    directory = TOOL_DIRECTORY / f"uv-{settings.uv_version}"
    program = directory / "bin" / "uv"
    if program.is_file():
        return program
    TOOL_DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
    # apps are deployed at the same time; each makes its own and the first one stays
    aside = Path(tempfile.mkdtemp(dir=TOOL_DIRECTORY, prefix=".uv-"))
    aside.chmod(0o755)
    # root reads no configuration and no cache of the build user
    own = {"HOME": os.devnull, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
    pip = [str(aside / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    try:
        run(
            ["python3", "-m", "venv", str(aside)],
            timeout_seconds=settings.timeout_seconds,
            doing="make an environment for uv",
        )
        with private_files(f"uv@{os.getpid()}-0", index_credentials(settings)) as files:
            run(
                [
                    *pip,
                    "--disable-pip-version-check",
                    "--only-binary=:all:",
                    "--no-deps",
                    f"uv=={settings.uv_version}",
                ],
                timeout_seconds=settings.timeout_seconds,
                environment={
                    **proxy_variables(),
                    **index_variables(settings),
                    **{name: str(path) for name, path in files.items()},
                    **own,
                },
                umask=0o022,
                doing="install uv",
            )
        if not directory.exists():
            aside.replace(directory)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return program


#: Run by the virtual environment's interpreter. A file that a former release has as well gets its
#: time, by which bytecode begins, so that the two releases can share the bytecode too. It is
#: compiled anew nevertheless: a package of the former release may have forged it. A package may
#: have files that are no Python: they are left. Arguments: the virtual environment, and that of
#: another release.
COMPILE_PACKAGES = """
import compileall, filecmp, os, sys
from pathlib import Path
new, *others = map(Path, sys.argv[1:])
for packages in new.glob("lib/python*/site-packages"):
    for other in others:
        former = other / packages.relative_to(new)
        for source in packages.rglob("*.py"):
            same = former / source.relative_to(packages)
            try:
                if filecmp.cmp(source, same, shallow=False):
                    time = same.stat().st_mtime_ns
                    os.utime(source, ns=(time, time))
            except OSError:
                continue
    # without the path of the release: an import puts the real one in
    # (Python 3.9 takes it only as text)
    compileall.compile_dir(packages, quiet=2, workers=0, force=True, stripdir=str(new))
"""

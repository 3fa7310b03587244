# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Building a virtual environment for a release, by uv or by pip.

Programs run as the app's build user. Credentials go through a netrc file that only this
user reads and that is gone after the build: never through argv, the environment or a log.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .commands import run
from .errors import DeployError

TOOL_DIRECTORY = Path("/opt/asgi")
#: Prefix of a release in the making.
BUILDING = ".building-"


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
    """Builds into one directory that is not yet a release.

    Args:
        settings: How.
        user: The build user, owner of all that is built.
        directory: The release in the making; the app's files lie in `source`.
        final: Its path once it is built.
        source: Where pyproject.toml or requirements.txt is.
        cache: Cache of the app's packages, on the same file system for hard links.
        former: A release whose bytecode is taken where a package's file is the same one.
    """

    settings: BuildSettings
    user: str
    directory: Path
    final: Path
    source: Path
    cache: Path
    former: Path | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def environment_directory(self) -> Path:
        """The virtual environment in the making."""
        return self.directory / "venv"

    @property
    def python(self) -> Path:
        """The interpreter of the virtual environment."""
        return self.environment_directory / "bin" / "python"

    def build(self) -> None:
        """Makes the virtual environment with everything that the app's files ask for."""
        kind = dependency_file(self.source, self.settings.installer)
        with self.credentials() as variables:
            if self.settings.installer == "uv":
                self._with_uv(kind, variables)
            else:
                self._with_pip(kind, variables)
        if self.settings.compile_bytecode:
            self._compile_packages()
        for command in self.settings.commands:
            # none of what opens the indexes, and nothing of the app's environment and secrets
            self.call(
                ["/usr/bin/env", *shlex.split(command)],
                {
                    "HOME": str(self.cache),
                    "PATH": f"{self.python.parent}:/usr/local/bin:/usr/bin:/bin",
                },
                "build what asgi_app_build_commands names",
            )
        relocate(self.environment_directory, self.directory, self.final, self.user)

    def call(self, argv: Sequence[str], variables: Mapping[str, str], doing: str) -> None:
        """Runs one step of the build as the build user."""
        run(
            argv,
            timeout_seconds=self.settings.timeout_seconds,
            user=self.user,
            environment=variables,
            directory=self.source,
            umask=0o027,
            doing=doing,
        )

    def _compile_packages(self) -> None:
        former = [self.former / "venv"] if self.former else []
        self.call(
            [
                str(self.python),
                *("-I", "-S", "-c", COMPILE_PACKAGES),
                *map(str, (self.environment_directory, *former)),
            ],
            {},
            "compile the packages",
        )

    def _with_uv(self, kind: str, variables: dict[str, str]) -> None:
        uv = str(ensure_uv(self.settings, variables))
        settings = self.settings
        variables.update(
            {
                "UV_CACHE_DIR": str(self.cache / "uv"),
                "UV_PROJECT_ENVIRONMENT": str(self.environment_directory),
                "UV_NO_PROGRESS": "1",
                "UV_PYTHON_DOWNLOADS": "never",
                "UV_LINK_MODE": "hardlink",
                "UV_COMPILE_BYTECODE": "0",
            }
        )
        if settings.index:
            variables["UV_DEFAULT_INDEX"] = settings.index["url"]
        if settings.extra_indexes:
            variables["UV_INDEX"] = " ".join(index["url"] for index in settings.extra_indexes)
        extras = [f"--extra={extra}" for extra in settings.extras]
        self.call(
            [uv, "venv", "--quiet", f"--python={settings.python}", str(self.environment_directory)],
            variables,
            "make the virtual environment",
        )
        into = [uv, "pip", "install", "--quiet", f"--python={self.python}"]
        if kind == "uv.lock":
            groups = [f"--group={group}" for group in settings.groups]
            self.call(
                [
                    uv,
                    "sync",
                    "--quiet",
                    "--frozen",
                    "--no-default-groups",
                    "--no-editable",
                    f"--python={self.python}",
                    *extras,
                    *groups,
                ],
                variables,
                "install what uv.lock names",
            )
        elif kind == "requirements.txt":
            self.call(
                [*into, *requirements_arguments(self.source)],
                variables,
                "install what requirements.txt names",
            )
        else:
            self.notes.append("pyproject.toml without uv.lock: versions are not pinned")
            self.call(
                [
                    *into,
                    *extras,
                    f"--requirements={self.source / 'pyproject.toml'}",
                    str(self.source),
                ],
                variables,
                "install what pyproject.toml names",
            )

    def _with_pip(self, kind: str, variables: dict[str, str]) -> None:
        settings = self.settings
        variables.update(
            {
                "PIP_CACHE_DIR": str(self.cache / "pip"),
                "PIP_DISABLE_PIP_VERSION_CHECK": "1",
                "PIP_NO_INPUT": "1",
                "PIP_PROGRESS_BAR": "off",
                "PIP_CONFIG_FILE": os.devnull,
                "PIP_NO_COMPILE": "1",
            }
        )
        self.call(
            [settings.python, "-m", "venv", str(self.environment_directory)],
            variables,
            "make the virtual environment",
        )
        into = [str(self.python), "-m", "pip", "install", "--quiet"]
        if kind == "requirements.txt":
            self.call(
                [*into, *requirements_arguments(self.source)],
                variables,
                "install what requirements.txt names",
            )
        else:
            self.notes.append("pyproject.toml without a lock: versions are not pinned")
            extras = f"[{','.join(settings.extras)}]" if settings.extras else ""
            self.call(
                [*into, f"{self.source}{extras}"], variables, "install what pyproject.toml names"
            )

    @contextlib.contextmanager
    def credentials(self) -> Iterator[dict[str, str]]:
        """Yields the environment for package indexes; their passwords last one build."""
        settings = self.settings
        variables = {"HOME": str(self.cache)}
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
        lines = netrc_lines(settings.indexes())
        if not lines:
            yield variables
            return
        path = self.directory / ".netrc"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write("".join(f"{line}\n" for line in lines))
            shutil.chown(path, user=self.user)
            yield {**variables, "NETRC": str(path)}
        finally:
            path.unlink()


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


def dependency_file(source: Path, installer: str) -> str:
    """Returns which file says what to install: uv.lock, requirements.txt or pyproject.toml.

    Raises:
        DeployError: There is none, or one that the installer cannot read.
    """
    present = [
        name
        for name in ("uv.lock", "requirements.txt", "pyproject.toml")
        if (source / name).is_file()
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
            f" in {source.name!r}; asgi_app_directory names the folder that has one"
        )
    return present[0]


def requirements_arguments(source: Path) -> list[str]:
    """Returns the arguments for requirements.txt; once it has a hash, all must have one."""
    path = source / "requirements.txt"
    arguments = [f"--requirement={path}"]
    if re.search(r"--hash[=\s]", path.read_text(encoding="utf-8")):
        arguments.append("--require-hashes")
    return arguments


def ensure_uv(settings: BuildSettings, variables: Mapping[str, str]) -> Path:
    """Returns the path of uv in the wanted version, installed by pip where it is missing.

    Args:
        settings: Which version, from which index.
        variables: Environment with the access to the indexes.
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
        run(
            [*pip, "--disable-pip-version-check", f"uv=={settings.uv_version}"],
            timeout_seconds=settings.timeout_seconds,
            environment={**variables, **own},
            umask=0o022,
            doing="install uv",
        )
        if not directory.exists():
            aside.replace(directory)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return program


#: Run by the virtual environment's interpreter, as the build user. uv installs by hard links, so a
#: package that two releases have is the same file in both; its bytecode is then the same as well:
#: linked, it costs neither seconds of all cores nor most of a release's room on the disk. What is
#: compiled already compileall passes over, by the time and the interpreter that bytecode begins
#: with. A package may have files that are no Python: they are left. Arguments: the virtual
#: environment, and that of another release.
COMPILE_PACKAGES = """
import compileall, os, sys
from importlib.util import cache_from_source
from pathlib import Path
new, *others = map(Path, sys.argv[1:])
for packages in new.glob("lib/python*/site-packages"):
    for other in others:
        former = other / packages.relative_to(new)
        for source in packages.rglob("*.py"):
            same = former / source.relative_to(packages)
            bytecode = Path(cache_from_source(source))
            try:
                if os.path.samefile(source, same) and not bytecode.exists():
                    bytecode.parent.mkdir(exist_ok=True)
                    os.link(cache_from_source(same), bytecode)
            except OSError:
                continue
    compileall.compile_dir(packages, quiet=2, workers=0)
"""

#: Run as the build user, whose files they are: each is written anew, so that the other names
#: of a hard link keep their content. Arguments: directory of the scripts, old path, new path.
RELOCATE = """
import os, sys
from pathlib import Path
scripts, old, new = Path(sys.argv[1]), sys.argv[2].encode(), sys.argv[3].encode()
for script in scripts.iterdir():
    if script.is_symlink() or not script.is_file():
        continue
    content = script.read_bytes()
    if old in content and b"\\0" not in content:
        mode = script.stat().st_mode
        script.unlink()
        script.write_bytes(content.replace(old, new))
        script.chmod(mode)
"""


def relocate(environment: Path, directory: Path, final: Path, user: str | None = None) -> None:
    """Makes the scripts of a virtual environment name the release's final path.

    A release is built under another name and renamed after; scripts carry the interpreter's
    path in their first line.

    Args:
        environment: The virtual environment.
        directory: The release in the making.
        final: Its path once it is built.
        user: Who owns it; root itself must not write where that user can plant links.
    """
    run(
        [sys.executable, "-I", "-c", RELOCATE, *map(str, (environment / "bin", directory, final))],
        timeout_seconds=60,
        user=user,
        umask=0o027,
        doing="make the scripts name the release",
    )

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installing with uv: the virtual environment, and what each kind of file names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..dependencies import Dependencies
from ..errors import DeployError
from .environment import Environment
from .exports import EXPORTS, Export
from .uv_program import ensure_uv

#: Runs a program with its standard output in a file.
TO_FILE = ["sh", "-c", 'exec "$@" >"$0"']


@dataclass(frozen=True)
class Uv:
    """Installs into the virtual environment of a release.

    Args:
        environment: The release.
        program: Path of uv.
    """

    environment: Environment
    program: str

    @classmethod
    def on_this_host(cls, environment: Environment) -> Uv:
        """Returns the installer, with the uv that is on the host or is installed."""
        return cls(environment, str(ensure_uv(environment.settings)))

    def create(self) -> None:
        """Makes the virtual environment."""
        python = f"--python={self.environment.settings.python}"
        self._run(
            ["venv", "--quiet", python, str(self.environment.directory)],
            "make the virtual environment",
            self.environment.app,
        )

    def install(self, found: Dependencies) -> None:
        """Installs what the files name."""
        if found.kind == "uv.lock":
            self._sync(found)
        elif found.kind in EXPORTS:
            self._export(found, EXPORTS[found.kind])
        else:
            self._install(found)
        if found.project and found.kind not in ("pyproject.toml", "setup.py"):
            self._pip(
                ["--no-deps", str(self.environment.path(found.project))],
                f"install the project in {found.project!r}",
                found,
            )

    def _sync(self, found: Dependencies) -> None:
        """Installs what uv.lock names.

        `uv sync` downloads from the URLs in the lock, whatever the index is. With asgi_app_index
        the versions and hashes of the lock are taken; uv rejects a file that has another hash.
        """
        settings = self.environment.settings
        # a lock that a host has checked out was not compared before; with another index uv would
        # say that it is out of date
        elsewhere = settings.index or settings.extra_indexes
        wanted = [
            *("--quiet", "--frozen" if found.current or elsewhere else "--locked"),
            *("--no-default-groups", "--no-editable"),
            f"--python={self.environment.python}",
            *([f"--package={found.package}"] if found.package else []),
            *(f"--extra={extra}" for extra in settings.extras),
            *(f"--group={group}" for group in settings.groups),
        ]
        if not settings.index:
            self._run(["sync", *wanted], f"install what {found.files[0]} names", self._at(found))
            return
        exported = self.environment.directory / "uv-export.txt"
        self.environment.steps.run(
            [
                *(self.program, "export", *wanted, "--no-header", "--no-annotate"),
                f"--output-file={exported}",
            ],
            purpose=f"list what {found.files[0]} names",
            environment=self._variables(),
            directory=self._at(found),
        )
        self._run(
            ["pip", "sync", "--quiet", f"--python={self.environment.python}", str(exported)],
            f"install what {found.files[0]} names from asgi_app_index",
            self._at(found),
        )

    def _export(self, found: Dependencies, export: Export) -> None:
        """Installs what a lock of another tool names."""
        settings, (lock,) = self.environment.settings, found.files
        listed = self.environment.directory / "exported.txt"
        tool = ["tool", "run", "--quiet", f"--python={self.environment.python}"]
        first, *others = export.packages
        tool += [f"--from={first}", *(f"--with={one}" for one in others)]
        variables = {
            **self._variables(),
            # without it PDM makes one in the source
            "VIRTUAL_ENV": str(self.environment.directory),
            "PDM_CHECK_UPDATE": "0",
        }
        directory = self._at(found)
        try:
            if export.check:
                check = [self.program, *tool, export.program, *export.check]
                self.environment.install(check, variables, f"check {lock}", directory)
            words = export.words(settings.extras, settings.groups, bool(settings.index))
            listing = [self.program, *tool, *words]
            self.environment.install(
                [*TO_FILE, str(listed), *listing], variables, f"list what {lock} names", directory
            )
        except DeployError as error:
            if export.stale not in error.message:
                raise
            raise DeployError(
                f"asgi_app_source: {lock} is out of date; run {export.update}, and add the file to"
                f" the source:\n{error.message}"
            ) from error
        # with hashes for all but directories, so nothing else may be installed
        self._pip(["--no-deps", f"--requirement={listed}"], f"install what {lock} names", found)

    def _install(self, found: Dependencies) -> None:
        """Installs what requirements files, a pylock.toml or a project without a lock name."""
        settings = self.environment.settings
        paths = [str(self.environment.path(name)) for name in found.files]
        words = [f"--requirement={path}" for path in paths]
        if found.kind == "setup.py":
            words = [f"{self._at(found)}{settings.extras_suffix}"]
        elif found.kind == "pylock.toml":
            words += [f"--extra={extra}" for extra in settings.extras]
            words += [f"--group={group}" for group in settings.groups]
        elif found.kind == "pyproject.toml":
            words += [f"--extra={extra}" for extra in settings.extras]
            words += [f"--group={paths[0]}:{group}" for group in settings.groups]
            words += [str(self.environment.path(found.project))] if found.project else []
        if found.hashed:
            words.append("--require-hashes")
        if found.complete:
            words.append("--no-deps")
        self._pip(words, f"install what {', '.join(found.files)} names", found)

    def _pip(self, words: Sequence[str], purpose: str, found: Dependencies) -> None:
        """Installs by `uv pip install`; nothing stays editable."""
        python = f"--python={self.environment.python}"
        command = ["pip", "install", "--quiet", "--no-editable", python, *words]
        self._run(command, purpose, self._at(found))

    def _run(self, words: Sequence[str], purpose: str, directory: Path) -> None:
        """Runs uv in a step that reads the package indexes."""
        self.environment.install([self.program, *words], self._variables(), purpose, directory)

    def _at(self, found: Dependencies) -> Path:
        """Returns the directory where uv runs."""
        return self.environment.path(found.directory)

    def _variables(self) -> dict[str, str]:
        """Returns the environment of uv."""
        settings, cache = self.environment.settings, self.environment.cache
        variables = {
            "UV_CACHE_DIR": str(cache / "uv"),
            "UV_PROJECT_ENVIRONMENT": str(self.environment.directory),
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
        return variables

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Building a release: its virtual environment, what the app needs, the build commands, bytecode.

Each step is contained (contained.py). An installer is a class with two methods, in a file of its
own: `create()` makes the virtual environment, `install(found)` installs what a file of the app
names (dependencies/). uv and pip are the installers.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..contained import Contained
from ..dependencies import Dependencies, find_on_host
from ..dependencies.search import some
from .bytecode import COMPILE_PACKAGES
from .environment import Environment
from .package_data import LEFT_OUT
from .pip import Pip
from .settings import Build, BuildSettings
from .uv import Uv

__all__ = ["Build", "BuildSettings", "Builder"]

SHOWN_FILES = 3


@dataclass(frozen=True)
class Builder:
    """Builds a release in its directory.

    Args:
        build: What is built, and how.
        steps: What runs the steps.
        directory: The release; its source is in `source`.
        cache: Cache of the app's packages.
        dependencies: What is installed; None where the source is looked at on this host.
        former: A release whose times are taken for files of packages that are the same.
    """

    build: Build
    steps: Contained
    directory: Path
    cache: Path
    dependencies: Dependencies | None = None
    former: Path | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def settings(self) -> BuildSettings:
        """How the release is built."""
        return self.build.settings

    @property
    def app(self) -> Path:
        """The app's directory in the source."""
        return self.source / self.build.directory

    @property
    def source(self) -> Path:
        """The source of the app."""
        return self.directory / "source"

    @property
    def environment(self) -> Environment:
        """The virtual environment of the release."""
        return Environment(
            self.settings, self.steps, self.directory / "venv", self.source, self.app, self.cache
        )

    @property
    def python(self) -> Path:
        """The interpreter of the virtual environment."""
        return self.environment.python

    def run(self) -> None:
        """Makes the virtual environment with everything that the app needs."""
        found = self.dependencies
        if found is None:
            found = find_on_host(self.source, self.build.wanted(), self.steps)
            if found.kind == "uv.lock" and self.settings.indexes():
                self.notes.append(
                    "with checkout: host and a package index it is not known whether uv.lock is up"
                    " to date"
                )
        self.notes.extend(found.notes)
        self.install(found)
        self.look_for_package_data()
        if self.settings.compile_bytecode:
            self.compile_packages()
        for command in self.settings.commands:
            # none of what opens the indexes, and nothing of the app's environment and secrets
            self.steps.run(
                ["/usr/bin/env", *shlex.split(command)],
                purpose="build what asgi_app_build_commands names",
                environment={
                    "HOME": str(self.cache),
                    "PATH": f"{self.python.parent}:/usr/local/bin:/usr/bin:/bin",
                },
                directory=self.app,
            )

    def install(self, found: Dependencies) -> None:
        """Makes the virtual environment and installs what the app needs."""
        environment = replace(self.environment, version=found.version)
        by_uv = self.settings.installer == "uv"
        installer = Uv.on_this_host(environment) if by_uv else Pip(environment)
        installer.create()
        installer.install(found)

    def look_for_package_data(self) -> None:
        """Notes files in `src` that are not in what was installed from it."""
        source = self.app / "src"
        if not source.is_dir():
            return
        ended = self.steps.run(
            [
                str(self.python),
                *("-I", "-S", "-c", LEFT_OUT),
                *map(str, (self.environment.directory, source)),
            ],
            purpose="look for package data",
            directory=self.app,
        )
        if ended.stdout:
            files = some(sorted(ended.stdout.splitlines()), SHOWN_FILES)
            self.notes.append(
                f"not installed, as the build of the package leaves it out: {files};"
                " add it to the package data of the project"
            )

    def compile_packages(self) -> None:
        """Compiles what was installed."""
        former = [self.former / "venv"] if self.former else []
        self.steps.run(
            [
                str(self.python),
                *("-I", "-S", "-c", COMPILE_PACKAGES),
                *map(str, (self.environment.directory, *former)),
            ],
            purpose="compile the packages",
            directory=self.app,
        )

    def compile_source(self) -> None:
        """Compiles the app's own files; one that does not compile may be a template or a test."""
        if not self.settings.compile_bytecode:
            return
        source = self.source
        ended = self.steps.run(
            [str(self.python), *("-I", "-S", "-m", "compileall", "-q", "-j", "0"), str(source)],
            purpose="compile the app",
            directory=source,
            check=False,
        )
        if ended.returncode:
            files = re.findall(r"^\*\*\* Error compiling '(.+)'\.\.\.$", ended.stdout, re.MULTILINE)
            names = [os.path.relpath(name, source) for name in sorted(files)]
            listed = some(names, SHOWN_FILES)
            self.notes.append(f"not compiled, as they are no valid Python: {listed}")

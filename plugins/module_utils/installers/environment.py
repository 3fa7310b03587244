# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The virtual environment of a release, which uv or pip installs into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..contained import Contained
from .indexes import index_credentials, index_variables
from .settings import BuildSettings

#: For builds that derive the version from git and read no PKG-INFO: those of PDM and of
#: poetry-dynamic-versioning.
VERSION_VARIABLES = ("PDM_BUILD_SCM_VERSION", "POETRY_DYNAMIC_VERSIONING_BYPASS")


@dataclass(frozen=True)
class Environment:
    """A virtual environment, and what is needed to install into it.

    Args:
        settings: How the release is built.
        steps: What runs the steps.
        directory: The virtual environment.
        source: The source of the app.
        app: The app's directory in it.
        cache: Cache of the app's packages.
        version: Of the app, where its build derives it from git.
    """

    settings: BuildSettings
    steps: Contained
    directory: Path
    source: Path
    app: Path
    cache: Path
    version: str = ""

    @property
    def python(self) -> Path:
        """The interpreter."""
        return self.directory / "bin" / "python"

    def path(self, name: str) -> Path:
        """Returns the path of a file or directory of the source."""
        return self.source / name

    def install(
        self, argv: Sequence[str], variables: Mapping[str, str], purpose: str, directory: Path
    ) -> None:
        """Runs a step that reads the package indexes.

        Args:
            argv: Program and arguments.
            variables: The environment of the installer.
            purpose: What the step is for, for an error text.
            directory: Working directory.
        """
        self.steps.run(
            argv,
            purpose=purpose,
            environment={
                **index_variables(self.settings),
                "HOME": str(self.cache),
                **(dict.fromkeys(VERSION_VARIABLES, self.version) if self.version else {}),
                **variables,
            },
            secret_files=index_credentials(self.settings),
            directory=directory,
        )

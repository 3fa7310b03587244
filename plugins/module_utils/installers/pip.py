# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Installing with pip: the virtual environment, and what each kind of file names."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from ..dependencies import Dependencies
from .environment import Environment


@dataclass(frozen=True)
class Pip:
    """Installs into the virtual environment of a release.

    Args:
        environment: The release.
    """

    environment: Environment

    def create(self) -> None:
        """Makes the virtual environment."""
        self.environment.install(
            [self.environment.settings.python, "-m", "venv", str(self.environment.directory)],
            self._variables(),
            "make the virtual environment",
            self.environment.app,
        )

    def install(self, found: Dependencies) -> None:
        """Installs what the files name."""
        names = ", ".join(found.files)
        if found.kind == "requirements.txt":
            words = [f"--requirement={self.environment.path(name)}" for name in found.files]
            words += ["--require-hashes"] if found.hashed else []
            self._pip(words, f"install what {names} names", found)
            words = ["--no-deps", str(self.environment.path(found.project))]
        elif found.project:
            extras = self.environment.settings.extras_suffix
            words = [f"{self.environment.path(found.project)}{extras}"]
        else:
            words = [*found.requirements]
        if found.project or found.requirements:
            self._pip(words, f"install what {names} names", found)

    def _pip(self, words: Sequence[str], purpose: str, found: Dependencies) -> None:
        self.environment.install(
            [str(self.environment.python), "-m", "pip", "install", "--quiet", *words],
            self._variables(),
            purpose,
            self.environment.path(found.directory),
        )

    def _variables(self) -> dict[str, str]:
        """Returns the environment of pip."""
        return {
            "PIP_CACHE_DIR": str(self.environment.cache / "pip"),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_INPUT": "1",
            "PIP_PROGRESS_BAR": "off",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_NO_COMPILE": "1",
        }

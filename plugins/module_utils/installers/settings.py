# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a release is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..dependencies import Wanted


@dataclass(frozen=True)
class BuildSettings:
    """How a release is built; all of it counts for the release id but the time-out.

    Args:
        installer: `uv` or `pip`.
        uv_version: Version of uv that is installed where it is missing.
        python: An interpreter: a name on PATH, a path, or for uv a version.
        extras: Optional dependencies of the project to install.
        groups: Dependency groups to install.
        package: Package of a uv workspace; empty for that of the app's directory.
        requirements_files: What to install, paths in the app's directory; empty for what is found.
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
    package: str = ""
    requirements_files: Sequence[str] = ()
    index: Mapping[str, str] = field(default_factory=dict)
    extra_indexes: Sequence[Mapping[str, str]] = ()
    commands: Sequence[str] = ()
    ca_file: str = ""
    compile_bytecode: bool = True
    timeout_seconds: float = 900

    @property
    def extras_suffix(self) -> str:
        """The extras as behind a name or a directory in a requirement; empty for none."""
        return f"[{','.join(sorted(self.extras))}]" if self.extras else ""

    def indexes(self) -> list[Mapping[str, str]]:
        """All indexes that are named."""
        return [*([self.index] if self.index else []), *self.extra_indexes]


@dataclass(frozen=True)
class Build:
    """A build of one app.

    Args:
        settings: How a release is built.
        entrypoint: `module:attribute`, which is imported before the release is staged.
        directory: The folder of the source that has the app.
    """

    settings: BuildSettings
    entrypoint: str
    directory: str = "."

    def identity(self) -> dict[str, Any]:
        """Returns what makes another release of the same source: no credentials, no time-outs."""
        settings = self.settings
        return {
            "entrypoint": self.entrypoint,
            "directory": self.directory,
            "installer": settings.installer,
            "python": settings.python,
            "extras": sorted(settings.extras),
            "groups": sorted(settings.groups),
            "package": settings.package,
            "requirements_files": [*settings.requirements_files],
            "indexes": [index["url"] for index in settings.indexes()],
            "commands": list(settings.commands),
        }

    def wanted(self) -> Wanted:
        """Returns what is looked for in the source."""
        settings = self.settings
        return Wanted(
            directory=self.directory,
            entrypoint=self.entrypoint,
            installer=settings.installer,
            package=settings.package,
            requirements_files=[*settings.requirements_files],
            extras=[*settings.extras],
            groups=[*settings.groups],
        )

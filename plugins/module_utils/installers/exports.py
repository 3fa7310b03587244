# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Locks that uv does not read: the tool that wrote one lists what is in it, and uv installs that.

The tool runs as a step of the build, in an environment that uv makes in the cache of the app.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Export:
    """How a tool writes what is in its lock as a requirements file, to its standard output.

    Args:
        packages: What is installed to have the tool; its own package is the first.
        check: Arguments that fail where the lock is out of date; empty where `command` does.
        command: Arguments that write the requirements.
        extra: Option for the name of an extra; empty where it has none.
        group: Option for the name of a group; empty where it has none.
        other_index: Option where another index is in place of those of the lock; empty where the
            installer sees to that.
        stale: What it says of a lock that is out of date.
        update: What brings the lock up to date.
    """

    packages: Sequence[str]
    check: Sequence[str]
    command: Sequence[str]
    extra: str
    group: str
    other_index: str
    stale: str
    update: str

    @property
    def program(self) -> str:
        """Name of the tool."""
        return self.packages[0].partition("==")[0]

    def words(
        self, extras: Sequence[str], groups: Sequence[str], other_index: bool = False
    ) -> list[str]:
        """Returns the program and the arguments that write the requirements."""
        return [
            *(self.program, *self.command),
            *([self.other_index] if other_index and self.other_index else []),
            *(f"{self.extra}={extra}" for extra in extras),
            *(f"{self.group}={group}" for group in groups),
        ]


#: By the names of the locks. Each tool also reads the locks of its older versions.
EXPORTS = {
    "poetry.lock": Export(
        packages=["poetry==2.5.1", "poetry-plugin-export==1.10.1"],
        check=[],
        command=["export", "--no-interaction"],
        extra="--extras",
        group="--with",
        # it names all indexes of the project, also those that only the mirror reaches
        other_index="--without-urls",
        stale="changed significantly since poetry.lock",
        update="poetry lock",
    ),
    "pdm.lock": Export(
        # this version does not start with the hishel after
        packages=["pdm==2.29.4", "hishel<2"],
        check=["lock", "--check"],
        command=["export", "--no-default", "--group=default"],
        extra="--group",
        group="--group",
        other_index="",
        stale="Lockfile doesn't satisfy",
        update="pdm lock",
    ),
    "Pipfile.lock": Export(
        packages=["pipenv==2026.10.3"],
        check=["verify"],
        command=["requirements", "--hash"],
        extra="",
        group="",
        other_index="",
        stale="is out-of-date",
        update="pipenv lock",
    ),
}

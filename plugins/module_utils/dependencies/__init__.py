# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an app needs: which file of its source says so, decided before anything is built.

The controller decides it with the plan, so that a source that cannot be installed is rejected
before anything is touched. A source that only a host has is looked at there.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..contained import Contained
from ..errors import DeployError
from . import search, uv_lock
from .search import Dependencies, Rejected, Tree, Wanted

__all__ = ["Dependencies", "Wanted", "describe", "find", "find_on_host"]

PROGRAM = f"{inspect.getsource(search)}\n\nmain(*sys.argv[1:])\n"


def find(source: Path, names: Collection[str], wanted: Wanted) -> Dependencies:
    """Returns what is installed for an app whose source is on this machine.

    Args:
        source: Its directory.
        names: Relative paths of the files that are deployed.
        wanted: What is to be installed.

    Raises:
        DeployError: It cannot be installed as it is, or its uv.lock is out of date.
    """
    try:
        found = search.find(Tree(source, {*names}), wanted)
    except Rejected as error:
        raise DeployError(str(error)) from error
    if found.kind != uv_lock.LOCK:
        return found
    uv_lock.require_current(source / found.directory)
    return replace(found, current=True)


def find_on_host(source: Path, wanted: Wanted, steps: Contained) -> Dependencies:
    """Returns what is installed for an app that was checked out on this host.

    A step of the build reads it: root reads nothing that a build user has written.

    Args:
        source: Its directory.
        wanted: What is to be installed.
        steps: What runs the step.

    Raises:
        DeployError: It cannot be installed as it is.
    """
    ended = steps.run(
        [sys.executable, "-I", "-c", PROGRAM, str(source), json.dumps(asdict(wanted))],
        purpose="find what the app needs",
        directory=source,
    )
    answer = json.loads(ended.stdout)
    if "rejected" in answer:
        raise DeployError(str(answer["rejected"]))
    return Dependencies(**answer)


def describe(planned: Mapping[str, Any]) -> str:
    """Returns what is installed, for a person.

    Args:
        planned: What is in the plan of a release.
    """
    package = f", package {planned['package']}" if planned.get("package") else ""
    project = ", and the project itself" if planned.get("project") else ""
    return f"{', '.join(planned['files'])}{package}{project}"

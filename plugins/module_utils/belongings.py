# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What of a host belongs to one app: its root, its user, its cache.

Recorded with the app's configuration, so that neither a changed variable nor another app takes
away what runs.
"""

from __future__ import annotations

import grp
import json
import pwd
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .errors import DeployError
from .files import read_text, write_atomic
from .layout import Layout

#: How an app is moved; what runs cannot be moved below it.
MOVE = (
    "take the app away with asgi.deploy.remove and the former value (its data in"
    " /var/lib/asgi/{name} stays), then deploy it with the new one; it does not answer in between"
)


@dataclass(frozen=True)
class Belongings:
    """What belongs to an app on this host.

    Args:
        root: Directory of its releases and state.
        user: Its user.
        cache: Cache of its builds.
    """

    root: str
    user: str
    cache: str


def read(layout: Layout) -> Belongings | None:
    """Returns what is recorded of an app, None where it was never deployed.

    Raises:
        DeployError: The record cannot be read.
    """
    return read_record(layout.record_file)


def read_record(path: Path) -> Belongings | None:
    """Returns what a file records of an app, None where there is none.

    Raises:
        DeployError: It cannot be read.
    """
    text = read_text(path)
    if text is None:
        return None
    try:
        values = json.loads(text)
        return Belongings(values["root"], values["user"], values["cache"])
    except (ValueError, KeyError, TypeError) as error:
        raise DeployError(
            f"{path} cannot be read ({error!r}); write the root, the user and the cache directory"
            ' of the app into it: {"root": "...", "user": "...", "cache": "..."}'
        ) from error


def others(layout: Layout) -> Iterator[tuple[str, Belongings]]:
    """Yields the other apps on this host with what belongs to them."""
    record = layout.record_file
    for path in sorted(record.parent.parent.glob(f"*/{record.name}")):
        found = read_record(path)
        if path != record and found:
            yield path.parent.name, found


def record(layout: Layout, user: str, cache: Path) -> None:
    """Records what belongs to an app that is about to be built.

    Raises:
        DeployError: It belongs to another app, or the app has others.
    """
    problems = [*root_problems(layout), *own_problems(layout, user, cache)]
    if problems:
        raise DeployError("\n".join(problems))
    belongings = Belongings(str(layout.root), user, str(cache))
    if read(layout) != belongings:
        layout.record_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        text = json.dumps(asdict(belongings), indent=1) + "\n"
        write_atomic(layout.record_file, text, mode=0o600)


def root_problems(layout: Layout) -> list[str]:
    """Returns why a directory is not the root of an app on this host; empty where it may be."""
    own = read(layout)
    if own and Path(own.root) != layout.root:
        return [
            f"asgi_app_root: {layout.name} is in {own.root} on this host, not in {layout.root};"
            f" write {own.root}, or to move it, {MOVE.format(name=layout.name)}"
        ]
    found = overlaps(layout, "asgi_app_root", layout.root)
    if found or own:
        return found
    built = {app_of(path) for path in layout.manifests.glob("*.json")} - {"", layout.name}
    if built:
        return [
            f"asgi_app_root: {layout.root} has releases of another app, {', '.join(sorted(built))};"
            f" give each app a directory of its own, for example /srv/{layout.name}"
        ]
    return []


def own_problems(layout: Layout, user: str, cache: Path | None) -> list[str]:
    """Returns why an app cannot have a user or a cache on this host; empty where it can.

    Args:
        layout: The app.
        user: Its user.
        cache: Cache of its builds; None where it is not known.
    """
    problems = overlaps(layout, "asgi_app_cache_dir", cache) if cache else []
    own = read(layout)
    if own and own.user != user:
        problems.append(
            f"asgi_app_user: {layout.name} runs as {own.user} on this host, not as {user}; write"
            f" {own.user}, or to change it, {MOVE.format(name=layout.name)}"
        )
    problems += [
        f"asgi_app_user: {user} is the user of another app on this host, {name}, whose data and"
        " secrets it could read; give each app a user of its own"
        for name, theirs in others(layout)
        if theirs.user == user
    ]
    return problems


def overlaps(layout: Layout, variable: str, path: Path) -> list[str]:
    """Returns which other apps have a directory that is, has or is in one of this app."""
    return [
        f"{variable}: {path} is not of {layout.name} alone, {their_variable} of {name} is"
        f" {directory}; give each app directories of its own, which are not in one another"
        for name, theirs in others(layout)
        for their_variable, directory in (
            ("asgi_app_root", Path(theirs.root)),
            ("asgi_app_cache_dir", Path(theirs.cache)),
        )
        if path == directory or path in directory.parents or directory in path.parents
    ]


def app_of(manifest: Path) -> str:
    """Returns the app that a release was built for, empty where that cannot be read."""
    try:
        values = json.loads(read_text(manifest) or "{}")
    except ValueError:
        return ""
    return str(values.get("app", "")) if isinstance(values, Mapping) else ""


def account_problems(layout: Layout, user: str) -> list[str]:
    """Returns whether a user of the app would be a person, another service or a system group."""
    own = read(layout)
    problems = []
    for name in (user, f"{layout.name}-build"):
        account = find(pwd.getpwnam, name)
        if account is None:
            kind = "a group" if find(grp.getgrnam, name) else ""
        elif name == user:
            recorded = own is not None and own.user == user
            of_app = recorded or account.pw_dir == f"/var/lib/asgi/{layout.name}"
            kind = "" if of_app else "an account"
        else:
            kind = "" if account.pw_gecos == f"{layout.name} build" else "an account"
        if kind:
            problems.append(
                f"asgi_app_user: {name} is {kind} that this host already has for something else;"
                " choose another user or another asgi_app_name"
            )
    return problems


def find(ask: Callable[[str], Any], name: str) -> Any:
    """Returns the entry of an account or a group, None where there is none."""
    try:
        return ask(name)
    except KeyError:
        return None

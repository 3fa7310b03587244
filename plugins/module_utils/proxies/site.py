# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the proxy is configured with for a release, which a rollout brings and a revert restores.

Like environment and secrets it is written beside the app's configuration first, and a slot keeps
what it was rolled out with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ..errors import DeployError
from ..files import read_text, remove, write_atomic
from ..layout import SLOTS, Layout
from . import driver


@dataclass(frozen=True)
class Site:
    """All files of the proxy for one app: the site, and what is shared with other sites.

    Args:
        provider: The proxy.
        files: Text of each file, by its path.
        absent: Files that are not to be there.
        program: Path of the proxy's program.
    """

    provider: str
    files: Mapping[str, str]
    absent: Sequence[str]
    program: str


def read(path: Path) -> Site | None:
    """Returns a site; nothing where there is none.

    Raises:
        DeployError: The file cannot be read.
    """
    text = read_text(path)
    if text is None:
        return None
    try:
        return Site(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise DeployError(
            f"{path} cannot be read ({error!r}); remove it and deploy again"
        ) from error


def write(path: Path, site: Site | None) -> None:
    """Writes a site for root alone: there may be hashes of passwords in it."""
    if site is None:
        remove(path)
    elif read(path) != site:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, json.dumps(asdict(site), indent=1) + "\n", mode=0o600)


def of_slot(layout: Layout, slot: str, provider: str) -> Site | None:
    """Returns what a slot was rolled out with, where that is of a proxy."""
    return of_provider(read(layout.slot_site(slot)), provider)


def staged(layout: Layout, provider: str) -> Site | None:
    """Returns what the next rollout takes, where that is of a proxy."""
    return of_provider(read(layout.staged_site), provider)


def of_provider(site: Site | None, provider: str) -> Site | None:
    """Returns a site only where it is of a proxy: the app may have moved to another one since."""
    return site if site and site.provider == provider else None


def waits(layout: Layout, wanted: Site) -> bool:
    """Says whether a site is for the next rollout to install.

    So it is where another one belongs to the release that serves; what that has is only made so
    again.
    """
    live = live_site(layout)
    return live is not None and live != wanted


def live_site(layout: Layout) -> Site | None:
    """Returns what the serving slot was rolled out with; nothing where none serves."""
    slot = layout.serving_slot()
    return read(layout.slot_site(slot)) if layout.slot_release(slot) else None


def record(layout: Layout, wanted: Site, waiting: bool) -> None:
    """Writes down what the next rollout takes, and what serves already.

    Args:
        layout: The app.
        wanted: What was staged or installed; without files it was taken away.
        waiting: It was staged.
    """
    slot = layout.serving_slot()
    if not wanted.files:
        for path in (layout.staged_site, *map(layout.slot_site, SLOTS)):
            if of_provider(read(path), wanted.provider):
                remove(path)
        return
    write(layout.staged_site, wanted)
    if not waiting and layout.slot_release(slot):
        write(layout.slot_site(slot), wanted)


def install(layout: Layout, site: Site) -> bool:
    """Has the proxy run with a site.

    Returns:
        Whether it had to change.

    Raises:
        DeployError: It does not; it runs with what it had.
    """
    result = driver(site.provider).configure(
        {Path(path): text for path, text in site.files.items()},
        [Path(path) for path in site.absent],
        {"program": site.program, "layout": layout},
        check_mode=False,
    )
    return bool(result["changed"])


def add(layout: Layout, wanted: Site, live: Site | None) -> None:
    """Installs a site beside the addresses that only the one before it has.

    Args:
        layout: The app.
        wanted: What the new release is rolled out with.
        live: What the serving one was rolled out with.

    Raises:
        DeployError: As for `install`.
    """
    if live and live.provider == wanted.provider:
        files = driver(wanted.provider).with_addresses(wanted.files, live.files)
        wanted = replace(wanted, files=files)
    install(layout, wanted)


def restorable(site: Site, failed: Site | None) -> Site:
    """Returns a site as it can be installed again, after another one.

    Args:
        site: What is to be live.
        failed: What came with the release that is not to be live any more. Files that are shared
            with other sites stay as they are where somebody else has changed them since.
    """
    files = dict(site.files)
    for path in driver(site.provider).SHARED_FILES:
        present, name = read_text(path), str(path)
        came_with = failed.files.get(name) if failed else None
        if present is not None and name in files and present != came_with:
            files[name] = present
    return replace(site, files=files)

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the proxy is configured with for a release, which a rollout brings and a revert restores.

Like environment and secrets it is written beside the app's configuration first, and a slot keeps
what it was rolled out with.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ..errors import DeployError
from ..files import read_text, remove, write_atomic
from ..layout import SLOTS, Layout
from . import driver
from .handover import SITES

#: The program in a unit file.
STARTED = re.compile(r"^ExecStart=(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Site:
    """All files of the proxy for one app: the site, and what is shared with other sites.

    Args:
        provider: The proxy.
        files: Text of each file, by its path.
        absent: Files that are not to be there.
        program: Path of the proxy's program.
        secrets: Texts in the files that are never shown.
    """

    provider: str
    files: Mapping[str, str]
    absent: Sequence[str]
    program: str
    secrets: Sequence[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of the file that the proxy reads for it; empty where nothing is configured."""
        return driver(self.provider).site_name(self.files)


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


def refuse_renamed(layout: Layout, wanted: Site) -> None:
    """Raises where the live release has its site under another name.

    Both files would be there, for the same addresses.

    Raises:
        DeployError: Which name to write, and how to get to another one.
    """
    live = live_site(layout)
    if live is None or live.provider != wanted.provider or not (live.name and wanted.name):
        return
    if live.name != wanted.name:
        raise DeployError(
            f"asgi_proxy_site: {wanted.name!r} is not the site of the live release, {live.name!r},"
            " and a site cannot be renamed while it is live. Write asgi_proxy_site:"
            f" {live.name}. To rename it, remove it first (the role proxy with tasks_from: remove"
            f" and asgi_proxy_site: {live.name}) and deploy again; until then the app cannot be"
            " reached. Nothing was changed."
        )


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


def install(layout: Layout, site: Site, validate_only: bool = False) -> bool:
    """Has the proxy run with a site.

    Args:
        layout: The app.
        site: All its files.
        validate_only: Have the proxy read a candidate, and change nothing.

    Returns:
        Whether it had to change.

    Raises:
        DeployError: It does not; it runs with what it had.
    """
    result = driver(site.provider).configure(
        {Path(path): text for path, text in site.files.items()},
        [Path(path) for path in site.absent],
        {"program": site.program, "layout": layout, "validate_only": validate_only},
        check_mode=False,
    )
    return bool(result["changed"])


def merged(wanted: Site, live: Site | None) -> Site:
    """Returns a site that has the addresses of the live one as well."""
    if live is None or live.provider != wanted.provider:
        return wanted
    files = driver(wanted.provider).with_addresses(wanted.files, live.files)
    return replace(wanted, files=files)


def shared_files(provider: str) -> dict[str, str]:
    """Returns the files that the sites of the host share, as they are now."""
    texts = {str(path): read_text(path) for path in driver(provider).SHARED_FILES}
    return {path: text for path, text in texts.items() if text is not None}


def with_shared(site: Site, present: Mapping[str, str]) -> Site:
    """Returns a site with other texts of the files that all sites share, and with their program."""
    kept = {path: text for path, text in present.items() if path in site.files}
    started = [found[1] for text in kept.values() for found in STARTED.finditer(text)]
    return replace(
        site, files={**site.files, **kept}, program=started[0] if started else site.program
    )


def restorable(site: Site) -> Site:
    """Returns a site of a former release as it can be installed today.

    The files that all sites share stay as they are where there are other sites: those may need
    what is in them, whoever has written it.
    """
    own = {Path(path).stem for path in site.files}
    directory = SITES.get(site.provider)
    found = directory.iterdir() if directory and directory.is_dir() else ()
    if all(path.stem in own for path in found):
        return site
    return with_shared(site, shared_files(site.provider))

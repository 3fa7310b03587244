# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host says of an app, in one report."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import belongings, processes, slots, state, systemd
from .commands import run
from .files import read_text
from .health import certificate_days, tls_context
from .layout import SLOTS, Layout
from .proxies import access_from
from .releases import manifest_or_error, python_problem
from .rollout import Settings, stands_as_it_was

MINIMUM_SYSTEMD = 247
#: The unit of st_blocks, whatever the file system's own blocks are.
BLOCK_BYTES = 512
PASSWD = Path("/etc/passwd")


def instances(layout: Layout, slot: str) -> list[dict[str, Any]]:
    """Returns the instances of a slot that systemd knows or starts at boot."""
    pattern = f"{layout.name}-{slot}@*.service"
    names = sorted({*systemd.loaded(pattern), *systemd.enabled(pattern)})
    return [asdict(status) for status in systemd.show(names)]


def report(layout: Layout, ask_proxy: bool = False, ask_disk: bool = False) -> dict[str, Any]:
    """Returns releases, slots, instances and history of an app on this host.

    Args:
        layout: The app.
        ask_proxy: Look at the certificate of its site, too.
        ask_disk: Measure what its releases take, too.
    """
    current = state.load(layout.state_file)
    serving = layout.serving_slot()
    active = layout.slot_release(serving)
    staged = layout.staged_releases()
    gone = {release: python_problem(layout, release) for release in staged}
    found = instances(layout, serving) if active else []
    return {
        "name": layout.name,
        "release": active,
        "slot": serving if active else None,
        "releases": [
            {
                **manifest_or_error(layout, release),
                "release": release,
                "python_problem": gone[release],
                "status": current.status(release),
                "migrated": layout.migration_record(release).exists(),
                "only_on": only_here(layout, release, current),
            }
            for release in staged
        ],
        "good_releases": [
            release
            for release in current.good_releases()
            if release in staged and not gone[release]
        ],
        "instances": found,
        "instances_running": sum(1 for one in found if one["active_state"] == "active"),
        "restarts": sum(one["restarts"] for one in found),
        "memory_mebibytes": sum(one["memory_bytes"] or 0 for one in found) // 2**20,
        "memory_max_mebibytes": sum(one["memory_max_bytes"] or 0 for one in found) // 2**20,
        "open_connections": {slot: slots.connections(layout, slot) for slot in SLOTS},
        "processes": beside(layout, serving, current) if active else [],
        "since": min((one["since"] for one in found if one["since"]), default=""),
        "certificate_days": site_certificate_days(current) if ask_proxy else None,
        "disk": disk(layout) if ask_disk else None,
        "limits": Settings.read(current.settings).limits() if current.settings else {},
        "history": current.history,
        "operation": current.operation,
        "watch": json.loads(read_text(layout.watch_record) or "{}"),
    }


def only_here(layout: Layout, release: str, current: state.State) -> list[str]:
    """Returns what this host alone is to run beside the instances, if it goes back to a release."""
    former = stands_as_it_was(layout, release, current)
    recorded = current.former_settings if former else current.settings
    if not recorded:
        return []
    return [one.name for one in Settings.read(recorded).units.processes if one.only_on]


def beside(layout: Layout, slot: str, current: state.State) -> list[dict[str, Any]]:
    """Returns how what runs beside the instances of a slot fares (processes.statuses)."""
    if not current.settings:
        return []
    wanted = Settings.read(current.settings).units.processes
    return processes.statuses(layout, slot, wanted)


def disk(layout: Layout) -> dict[str, int]:
    """Returns what the app's releases take on this host.

    Returns:
        `releases`, how many; `releases_mebibytes`, what they take together, files with several
        names counted once; `free_mebibytes` of their file system.
    """
    taken: dict[tuple[int, int], int] = {}
    for directory, _directories, files in os.walk(layout.releases):
        for name in (".", *files):
            # a build that ends meanwhile takes its files away
            with contextlib.suppress(FileNotFoundError):
                found = (Path(directory) / name).lstat()
                taken[found.st_dev, found.st_ino] = found.st_blocks * BLOCK_BYTES
    existing = next(path for path in (layout.root, *layout.root.parents) if path.exists())
    return {
        "releases": len(layout.staged_releases()),
        "releases_mebibytes": sum(taken.values()) // 2**20,
        "free_mebibytes": shutil.disk_usage(existing).free // 2**20,
    }


def site_certificate_days(current: state.State) -> float | None:
    """Returns for how many days the certificate of the app's site is good, if there is one."""
    access = access_from(current.settings.get("proxy", {}))
    if access.provider == "none":
        return None
    context = tls_context(access.ca_file)
    return certificate_days(access.address, access.port, context, access.domain)


def host_problems(
    layout: Layout, user: str, cache: Path | None, os_release: Path = Path("/etc/os-release")
) -> list[str]:
    """Returns why an app cannot be deployed on this host; empty where it can.

    Nothing is touched.

    Args:
        layout: The app.
        user: Its user.
        cache: Cache of its builds; None where it is not known.
        os_release: What names the system.
    """
    problems = []
    values = dict(
        line.split("=", 1)
        for line in os_release.read_text(encoding="utf-8").splitlines()
        if "=" in line
    )
    families = f"{values.get('ID', '')} {values.get('ID_LIKE', '')}".replace('"', "").split()
    if "debian" not in families:
        problems.append(
            f"this host runs {values.get('PRETTY_NAME', 'an unknown system')}; the"
            " roles install packages of Debian and its descendants"
        )
    if systemd.version() < MINIMUM_SYSTEMD:
        problems.append(f"systemd {systemd.version()} is too old, {MINIMUM_SYSTEMD} is needed")
    if tuple(map(int, platform.python_version_tuple()[:2])) < (3, 9):
        problems.append("Python 3.9 or newer is needed on the host")
    problems += belongings.own_problems(layout, user, cache)
    problems += belongings.account_problems(layout, user)
    for slot in SLOTS:
        for kind in ("service", "socket"):
            path = layout.unit_file(slot, kind)
            if path.exists() and "asgi.deploy" not in path.read_text(encoding="utf-8"):
                problems.append(
                    f"asgi_app_name: {path} exists and is not ours; choose another name for the app"
                )
    return problems


def missing_packages(packages: Sequence[str]) -> list[str]:
    """Returns which Debian packages are not installed; apt itself would take a second to say."""
    if not packages:
        return []
    done = run(
        ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\\n", *packages],
        timeout_seconds=60,
        check=False,
    )
    present = {line.split()[0] for line in done.stdout.splitlines() if line.endswith(" installed")}
    return [package for package in packages if package not in present]


def missing_users(users: Sequence[str], passwd: Path = PASSWD) -> list[str]:
    """Returns which users the host does not have."""
    present = {line.split(":")[0] for line in passwd.read_text(encoding="utf-8").splitlines()}
    return [user for user in users if user not in present]

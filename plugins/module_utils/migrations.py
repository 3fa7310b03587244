# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The migration of a release: one unit, run to its end, once for each release, command and
database."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from . import state, systemd
from .errors import DeployError
from .files import read_text, remove, write_atomic
from .layout import CONFIGURATION_FILES, Layout
from .releases import read_manifest
from .units import environment_file_values

#: systemd itself stops the unit at its time-out; this is for systemctl, a little later.
GRACE_SECONDS = 60
POLL_SECONDS = 0.2
#: States of a unit whose command runs, or is being stopped.
UNDER_WAY = ("activating", "deactivating")
#: So that a URL with a port and one without lead to the same database.
DEFAULT_PORTS = {
    **dict.fromkeys(("postgresql", "postgres", "psql", "pgsql", "postgis"), "5432"),
    **dict.fromkeys(("mysql", "mariadb"), "3306"),
}
#: What of the query of a URL says where the database is.
LOCATION_OPTIONS = ("host", "port", "dbname", "unix_socket")


@dataclass(frozen=True)
class Target:
    """What a migration runs and where, as digests; one that is not known is empty.

    Args:
        command: Of the command.
        database: Of the address of the database (database_digest).
    """

    command: str = ""
    database: str = ""


def digest(value: Any) -> str:
    """Returns a digest of a value."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def command_digest(command: str) -> str:
    """Returns a digest of a command, however its words are spaced and quoted."""
    return digest(shlex.split(command)) if command else ""


def database_digest(url: str) -> str:
    """Returns a digest of host, port and name in the URL of a database; empty where it has none.

    User, password and driver are no part of it: another one leads to the same database.
    """
    scheme, found, _rest = url.partition("://")
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    # written wrongly, a part of the password would be taken for the host
    if not found or parts.fragment or "@" in parts.path + parts.query:
        return ""
    host, port = parts.netloc.rpartition("@")[2].lower(), DEFAULT_PORTS.get(scheme.split("+")[0])
    with_port = re.fullmatch(r"(.*):([0-9]+)", host)
    if with_port:
        host, port = with_port[1], with_port[2]
    options = {k: v for k, v in parse_qs(parts.query).items() if k in LOCATION_OPTIONS}
    address = {"host": [host], "port": [port], "dbname": [unquote(parts.path)[1:]], **options}
    return digest(sorted(address.items())) if any((host, parts.path, options)) else ""


def environment_database(values: Mapping[str, Any], variable: str) -> str:
    """Returns the digest of the database that a variable of an environment names."""
    return database_digest(str(values.get(variable, "")))


def host_database(layout: Layout, variable: str) -> str:
    """Returns the digest of the database that the next migration on this host connects to."""
    values: dict[str, str] = {}
    for name in CONFIGURATION_FILES:
        values.update(environment_file_values(read_text(layout.configuration / name) or ""))
    return environment_database(values, variable)


def pending(layout: Layout, release: str, target: Target, force: bool = False) -> str:
    """Says why the migration of a release is to run.

    Args:
        layout: The app.
        release: What it migrates for.
        target: What it runs and where.
        force: Run it whatever is recorded.

    Returns:
        `new`; `command` or `database`, where it has run with another one; `forced`; empty where
        it has run. A record without a target, as a former version wrote it, counts for every one.
    """
    text = read_text(layout.migration_record(release))
    if text is None:
        return "new"
    recorded = json.loads(text or "{}")
    for part, value in (("command", target.command), ("database", target.database)):
        if value and recorded.get(part, value) != value:
            return part
    return "forced" if force else ""


def migrate(
    layout: Layout,
    release: str,
    unit: str,
    record_unit: str,
    timeout_seconds: float,
    target: Target,
    force: bool = False,
) -> dict[str, Any]:
    """Runs the migration of a release to its end, unless an earlier run has begun it.

    The unit belongs to systemd and goes on where the run that started it is killed, so it is
    waited for first: two migrations of an app never run at the same time on a host. The unit
    that follows it records that it has succeeded.

    Args:
        layout: The app.
        release: A staged release; its code and its environment are used.
        unit: Text of the template unit, whose instance is the release.
        record_unit: Text of the template unit that runs it and records its success.
        timeout_seconds: The limit that the unit has.
        target: What it runs and where.
        force: Run it whatever is recorded.

    Returns:
        `output`, the lines of the journal; `seconds`; `waited_for`, units of an earlier run.

    Raises:
        DeployError: It failed or took too long; with its output.
    """
    read_manifest(layout, release)
    name = layout.migrate_unit(release)
    clock = time.monotonic()
    waited_for = wait_for_running(layout, timeout_seconds + GRACE_SECONDS)
    if not pending(layout, release, target, force):
        how, started = "ran here, begun by a run that was cut off", 0.0
    else:
        how, started = "ran here", time.time()
        systemd.install_unit_files(unit_files(layout, unit, record_unit))
        how_if_killed = "ran here, begun by a run that was cut off"
        write_record(layout, release, how_if_killed, target, begun=True)
        run_unit(layout, release, timeout_seconds, started)
    write_record(layout, release, how, target)
    remove(layout.migration_begun(release))
    return {
        "output": systemd.journal([name], started),
        "seconds": round(time.monotonic() - clock, 1),
        "waited_for": waited_for,
    }


def run_unit(layout: Layout, release: str, timeout_seconds: float, started: float) -> None:
    """Starts the unit that records a migration, and with it the migration; waits for both.

    Args:
        layout: The app.
        release: What it migrates for.
        timeout_seconds: The limit that it has.
        started: Only journal lines after this time are told, in seconds of the Unix epoch.

    Raises:
        DeployError: It failed or took too long; with its output.
    """
    name, record = layout.migrate_unit(release), layout.migrated_unit(release)
    # one that failed when nobody watched any more counts too
    systemd.systemctl("reset-failed", layout.migrate_unit("*"), check=False)
    try:
        systemd.systemctl("start", record, timeout_seconds=timeout_seconds + GRACE_SECONDS)
    except DeployError as error:
        output = systemd.journal([name], started)
        status = systemd.show([name])[0]
        if status.active_state in UNDER_WAY:
            systemd.systemctl("stop", name, record, check=False)
        # its journal is kept; a failed unit would only make the whole host look degraded
        systemd.systemctl("reset-failed", name, check=False)
        code = f"exit code {status.exit_code}" if status.result == "exit-code" else status.result
        raise DeployError(
            f"the migration of release {release} failed ({code}), so nothing of it was started"
            f" and what was serving still serves:\n{output}\n"
            "What the migration has done to the database before it failed is not undone; mend it"
            " and deploy again."
        ) from error


def wait_for_running(layout: Layout, timeout_seconds: float) -> list[str]:
    """Waits for migrations that an earlier run has begun, of whichever release.

    Returns:
        The units that were waited for.

    Raises:
        DeployError: One still runs when the time is over; it is left alone.
    """
    deadline = time.monotonic() + timeout_seconds
    found: list[str] = []
    while True:
        units = systemd.loaded(layout.migrate_unit("*"), layout.migrated_unit("*"))
        under_way = [
            status.name.partition("@")[2].removesuffix(".service")
            for status in systemd.show(units)
            # between its end and its record neither unit is active, but the record's job is there
            if status.queued or status.active_state in UNDER_WAY
        ]
        running = [layout.migrate_unit(one) for one in sorted({*under_way})]
        if not running:
            return found
        found = found or running
        if time.monotonic() >= deadline:
            raise DeployError(
                f"a migration that an earlier run has begun still runs ({', '.join(running)}), so"
                f" no other was begun; wait for its end, or stop it: systemctl stop {running[0]}"
            )
        time.sleep(POLL_SECONDS)


def heads(layout: Layout, release: str) -> dict[str, list[str] | None]:
    """Returns the newest migrations of what serves and of a release.

    Returns:
        `before` and `after`; None where the release is not on the host or nobody can tell.
    """
    serving = layout.slot_release(layout.serving_slot())
    staged = layout.staged_releases()
    return {
        when: read_manifest(layout, one).get("migration_heads") if one in staged else None
        for when, one in (("before", serving), ("after", release))
    }


def unit_files(layout: Layout, unit: str, record_unit: str) -> dict[Path, str]:
    """Returns which unit file of the migration has which text."""
    return systemd.understood(
        {layout.migrate_unit_file: unit, layout.migrated_unit_file: record_unit}
    )


def unit_diff(layout: Layout, unit: str, record_unit: str) -> list[dict[str, str]]:
    """Returns how the unit files of the migration will change, as a diff for Ansible."""
    return [
        {
            "before_header": str(path),
            "after_header": str(path),
            "before": read_text(path) or "",
            "after": text,
        }
        for path, text in unit_files(layout, unit, record_unit).items()
        if read_text(path) != text
    ]


def write_record(
    layout: Layout, release: str, how: str, target: Target, begun: bool = False
) -> None:
    """Writes down that the migration of a release is done, so that it is not run again.

    Args:
        layout: The app.
        release: What it was run for.
        how: Where it ran.
        target: What was run and where.
        begun: It is only begun: the record counts when a unit has renamed it.
    """
    path = layout.migration_begun(release) if begun else layout.migration_record(release)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = {key: value for key, value in vars(target).items() if value}
    text = json.dumps({"at": state.now(), "how": how, **known})
    write_atomic(path, f"{text}\n", mode=0o600)

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run would do on a host, for a person; and what its steps wait for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from .dependencies import describe
from .layout import other_slot
from .proxies.handover import TAKE_OVER
from .source_plans import UNDECIDED

SHOWN_DIGITS = 12
#: Why a migration runs for a release for which it has run.
AGAIN = {
    "command": ", again: asgi_migrate_command has changed",
    "database": ", again: the database is another one",
    "forced": ", again: asgi_migrate_force",
}


def waits(limits: Mapping[str, Any]) -> str:
    """Returns what a rollout waits for, and how long it may.

    Args:
        limits: `instances`, `health_timeout_seconds`, `stable_seconds`,
            `proxy_timeout_seconds`, `settle_seconds`, `drain_seconds`,
            `balancer_drain_seconds`; empty where the host knows none.
    """
    if not limits:
        return "limits are not known, nothing was rolled out here"
    count = int(limits["instances"])
    seconds = {key: f"{float(value):g} s" for key, value in limits.items() if key != "instances"}
    drains = float(limits.get("balancer_drain_seconds", 0)) > 0
    balancer = f"{seconds['balancer_drain_seconds']} for the balancer, " if drains else ""
    return (
        f"{balancer}{count} instance{'s' if count != 1 else ''},"
        f" at most {seconds['health_timeout_seconds']} until healthy,"
        f" {seconds['stable_seconds']} stable,"
        f" at most {seconds['proxy_timeout_seconds']} until the proxy confirms,"
        f" {seconds['settle_seconds']} to {seconds['drain_seconds']} for open requests"
    )


def plan(facts: Mapping[str, Any]) -> list[str]:
    """Returns what a run in check mode would do on a host, a line for each part.

    Args:
        facts: `host`, `mode` (site, rollback, restart), `rollout` (what the module returned), and
            for site: `plan` and `staged` (module release), `source_path`, `missing_packages`,
            `migrate_command`, `migrate_host`, `migration` (module migration, on that host),
            `proxy` (module proxy_config), and `instances_reason`, where their number was decided.
    """
    lines = [headline(facts)]
    if facts["rollout"]["recovered"]:
        lines.append(f"left behind: {facts['rollout']['recovered']}")
    if facts["mode"] == "site":
        lines += [packages_line(facts), build_line(facts), dependencies_line(facts)]
        lines.append(migration_line(facts))
    else:
        lines += ["build: nothing", f"migration: none, a {facts['mode']} runs none"]
    if facts.get("instances_reason"):
        lines.append(f"instances: {facts['instances_reason']}")
    lines += [variables_line(facts), units_line(facts), proxy_line(facts), services_line(facts)]
    return [line for line in lines if line]


def headline(facts: Mapping[str, Any]) -> str:
    """Says from which release to which a host goes, and why."""
    result, host = facts["rollout"], facts["host"]
    release, previous, slot = result["release"], result["previous"], result["slot"]
    if not result["reasons"]:
        return f"{host}: {release} serves in slot {slot} and stays"
    if previous is None:
        return f"{host}: first deploy, {release} in slot {slot}"
    return (
        f"{host}: {previous} in slot {other_slot(slot)} -> {release} in slot {slot}"
        f" ({'; '.join(result['reasons'])})"
    )


def packages_line(facts: Mapping[str, Any]) -> str:
    """Says which packages are installed for the build."""
    missing = facts.get("missing_packages")
    return f"packages: install {', '.join(missing)}" if missing else ""


def build_line(facts: Mapping[str, Any]) -> str:
    """Says what is built, from where."""
    found, staged = facts.get("plan") or {}, facts.get("staged") or {}
    release = found.get("release")
    # what an app before this one has left in the run is not of this one
    if release != facts["rollout"]["release"]:
        return "build: nothing"
    if not staged.get("changed"):
        built = (staged.get("manifest") or {}).get("built_at", "")
        return f"build: nothing, {release} is on the host" + (f" since {built}" if built else "")
    if release == UNDECIDED:
        return f"build: {found['source']}; the host cannot ask it for the commit yet"
    if found["commit"]:
        content = f"commit {found['commit'][:SHOWN_DIGITS]}"
    else:
        content = f"content {found['digest'][:SHOWN_DIGITS]}"
    source = found["source"] if found["source"] != "path" else facts.get("source_path", "")
    version = f"version {found['version']}, " if found["version"] else ""
    return f"build: {release}, {version}{content} of {source}"


def dependencies_line(facts: Mapping[str, Any]) -> str:
    """Says from which files a release is built, and what of them is not pinned or not used."""
    found, staged = facts.get("plan") or {}, facts.get("staged") or {}
    if found.get("release") != facts["rollout"]["release"] or not staged.get("changed"):
        return ""
    planned = found["dependencies"]
    if not planned:
        return "dependencies: not known before a host has checked out the source"
    return f"dependencies: {'; '.join([describe(planned), *planned['notes']])}"


def migration_line(facts: Mapping[str, Any]) -> str:
    """Says whether a migration is pending, and where it runs."""
    command, done = facts.get("migrate_command"), facts.get("migration") or {}
    if not command:
        return "migration: none, asgi_migrate_command is empty"
    if not done.get("changed"):
        return f"migration: none, it has run for {facts['rollout']['release']}"
    again = AGAIN.get(done.get("reason", ""), "")
    heads = done["heads"]
    before, after = (
        "not known" if heads[when] is None else ", ".join(heads[when]) or "none"
        for when in ("before", "after")
    )
    # the migrations of a release are read from its code, so it has to be built
    if heads["after"] is None and facts["staged"].get("changed"):
        after = "not known before it is built"
    return (
        f"migration: pending, {command} on {facts['migrate_host']}{again}"
        f" (newest migration {before} -> {after})"
    )


def variables_line(facts: Mapping[str, Any]) -> str:
    """Says which variables of environment and secrets change; never a value."""
    if not facts["rollout"]["reasons"]:
        return ""
    variables = facts["rollout"]["variables"]
    told = [f"{how} {', '.join(names)}" for how, names in variables.items() if names]
    return f"environment and secrets: {'; '.join(told) or 'no variable changes'}"


def units_line(facts: Mapping[str, Any]) -> str:
    """Says which unit files change; how, is in the diff of their tasks."""
    differ = [*facts["rollout"]["diff"], *(facts.get("migration") or {}).get("diff", [])]
    if not differ:
        return "units: no change"
    names = dict.fromkeys(
        f"{PurePosixPath(one['after_header']).name}{'' if one['before'] else ' (new)'}"
        for one in differ
    )
    return f"units: {', '.join(names)}"


def proxy_line(facts: Mapping[str, Any]) -> str:
    """Says what the proxy takes up, and how."""
    proxy = facts.get("proxy") or {}
    if facts["mode"] != "site" or not proxy.get("action"):
        return "proxy: no change, no reload"
    if proxy["action"] == TAKE_OVER:
        # also where its files are there since a run that failed
        return "proxy: another one, it takes over the ports of this host when it is turned"
    return f"proxy: {proxy['action']}, for {', '.join(proxy['changes']) or 'what is on disk'}"


def services_line(facts: Mapping[str, Any]) -> str:
    """Says what is started and stopped, and how long that may take."""
    result = facts["rollout"]
    if not result["reasons"]:
        return "services: nothing is started or stopped"
    then = "" if result["previous"] is None else f", then stop slot {other_slot(result['slot'])}"
    return f"services: start slot {result['slot']}{then}: {waits(result['limits'])}"

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Decisions over all hosts of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from .errors import DeployError
from .rollout import DRAIN_OLD, PROVE, START
from .watch.rules import RECYCLED

#: A pattern that matches no host.
NO_HOST = "!all"
#: Steps whose time an operator wants to know.
TOLD_STEPS = {START: "started in", PROVE: "healthy after", DRAIN_OLD: "drained in"}


class Inventory(Protocol):
    """The hosts and groups of a run; what patterns match is Ansible's to say."""

    groups: Mapping[str, Sequence[str]]
    limit: str

    def hosts(self, pattern: str | Sequence[str], limited: bool = True) -> Sequence[str]:
        """Returns the names of the hosts that a pattern matches."""

    def unknown(self, pattern: str | Sequence[str]) -> Sequence[str]:
        """Returns the parts of a pattern that name no host and no group."""


def app_hosts(inventory: Inventory, wanted: str | Sequence[str] | None = None) -> Any:
    """Returns the hosts of a playbook: what `asgi_hosts` names, else the group `asgi`.

    Raises:
        DeployError: There is no such host. Ansible would do nothing, and call it a success.
    """
    if not wanted and "asgi" not in inventory.groups:
        raise DeployError(
            "the inventory has no group asgi: put the hosts of the app into it, or name their group"
            " in asgi_hosts ('!all' if there is nothing but balancers)"
        )
    pattern = wanted or "asgi"
    require_known(inventory, "asgi_hosts", pattern)
    if leaves_out_all(pattern) or inventory.hosts(pattern):
        return pattern
    hosts = inventory.hosts(pattern, limited=False)
    if hosts:
        raise DeployError(
            f"--limit {inventory.limit}: leaves no host of the app, whose hosts are"
            f" {', '.join(hosts)} (asgi_hosts: {text_of(pattern)}); limit the run to some of them,"
            " or set asgi_hosts: '!all' for the balancers alone"
        )
    raise DeployError(
        f"asgi_hosts: {text_of(pattern)} matches no host of the inventory; put the hosts of the"
        f" app into a group of it, and name that. {groups_text(inventory)}"
    )


def balancer_hosts(
    inventory: Inventory,
    wanted: str | Sequence[str] | None = None,
    apps: str | Sequence[str] | None = None,
) -> Any:
    """Returns the load balancers: what `asgi_balancers` names, else the group of that name.

    There may be none, but for a run without hosts of the app.

    Args:
        inventory: The hosts and groups.
        wanted: The variable `asgi_balancers`.
        apps: The variable `asgi_hosts`.

    Raises:
        DeployError: The variable names what there is not, or the run would have no host at all.
    """
    group = "asgi_balancers" if "asgi_balancers" in inventory.groups else NO_HOST
    pattern = wanted or group
    require_known(inventory, "asgi_balancers", pattern)
    if leaves_out_all(apps) and not inventory.hosts(pattern):
        raise DeployError(
            "asgi_hosts: '!all' is for the balancers alone, and asgi_balancers matches no host of"
            f" this run; name the hosts of the app or the balancers. {groups_text(inventory)}"
        )
    return pattern


def require_known(inventory: Inventory, variable: str, pattern: str | Sequence[str]) -> None:
    """Raises where a variable or `--limit` names what the inventory does not have."""
    for name, value in ((variable, pattern), ("--limit", inventory.limit)):
        unknown = inventory.unknown(value)
        if unknown:
            raise DeployError(
                f"{name}: the inventory has no host and no group {', '.join(unknown)}; correct the"
                f" name. {groups_text(inventory)}"
            )


def leaves_out_all(pattern: str | Sequence[str] | None) -> bool:
    """Whether a pattern is the one for no host."""
    return pattern in (NO_HOST, [NO_HOST])


def text_of(pattern: str | Sequence[str]) -> str:
    """Returns a pattern as it may be written."""
    return pattern if isinstance(pattern, str) else ",".join(pattern)


def groups_text(inventory: Inventory) -> str:
    """Returns which groups have hosts."""
    names = sorted(name for name, hosts in inventory.groups.items() if hosts)
    named = [name for name in names if name not in ("all", "ungrouped")]
    return f"Groups with hosts: {', '.join(named) or 'none'}"


def rollback_target(
    reports: Sequence[Mapping[str, Any]], wanted: str = "", across_migration: bool = False
) -> str:
    """Returns the release to which a fleet goes back.

    Args:
        reports: What each host says of the app (module release_info, `app`).
        wanted: A release by name; empty for the last good one that all hosts have and that
            none of them serves alone with all the others.
        across_migration: Go back although the database was migrated since.

    Raises:
        DeployError: There is nothing to go back to, or a migration lies between.
    """
    if not reports:
        raise DeployError("no host was reached, so there is nothing to roll back")
    target = wanted_release(reports, wanted) if wanted else last_good_release(reports)
    refuse_two(reports, target)
    crossed = {
        release: heads
        for report in reports
        for release, heads in crossed_migration(report, target).items()
    }
    if crossed and not across_migration:
        known = "; ".join(f"{release} has {', '.join(heads)}" for release, heads in crossed.items())
        raise DeployError(
            f"between {target} and what serves now the database was migrated ({known}). A rollback"
            " runs no migration: the former code would run on the newer schema. Where that is"
            " right (columns were only added), say asgi_rollback_across_migration: true; else"
            " deploy a version that mends the cause"
        )
    return target


def refuse_two(reports: Sequence[Mapping[str, Any]], target: str) -> None:
    """Raises where two hosts would run what may run on one only.

    A host goes back to what it ran with the release, though that has moved to another one since.
    """
    found = [
        name
        for report in reports
        for release in report["releases"]
        if release["release"] == target
        for name in release.get("only_on", [])
    ]
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise DeployError(
            f"with {target} more than one host would run {', '.join(twice)}, which only_on has"
            " moved to another host since. Deploy the former source by asgi.deploy.site instead:"
            " then each runs where the variables say now"
        )


def wanted_release(reports: Sequence[Mapping[str, Any]], wanted: str) -> str:
    """Returns the named release if all hosts have it."""
    on_all = releases_on_all(reports)
    if wanted not in on_all:
        known = ", ".join(sorted(on_all)) or "none"
        raise DeployError(f"asgi_release: {wanted} is not on every host; all of them have: {known}")
    for report in reports:
        problem = python_problem(report, wanted)
        if problem:
            raise DeployError(
                f"asgi_release: {wanted} cannot start, as its Python is gone: {problem}. Deploy"
                " that version with the site playbook, which builds it again"
            )
    return wanted


def last_good_release(reports: Sequence[Mapping[str, Any]]) -> str:
    """Returns the last release that was good on all hosts and is not what all serve."""
    on_all = releases_on_all(reports)
    serving = {report["release"] for report in reports}
    # the order is that of the first host; what all serve is what is to be left
    for release in reports[0]["good_releases"]:
        good_everywhere = all(release in report["good_releases"] for report in reports)
        if release in on_all and good_everywhere and serving != {release}:
            return str(release)
    raise DeployError(
        "there is nothing to go back to: no other release that all hosts have, with its Python, has"
        " served well on all of them; deploy a former version with the site playbook instead"
    )


def python_problem(report: Mapping[str, Any], release: str | None) -> str:
    """Returns why the Python of a release cannot start on a host; empty where it can."""
    problems = (
        one.get("python_problem", "") for one in report["releases"] if one["release"] == release
    )
    return next(problems, "")


def releases_on_all(reports: Sequence[Mapping[str, Any]]) -> set[str]:
    """Returns the releases that every host has."""
    return set.intersection(
        *({release["release"] for release in report["releases"]} for report in reports)
    )


def crossed_migration(report: Mapping[str, Any], target: str) -> dict[str, list[str]]:
    """Returns the newest migrations of what serves and of the target, where they differ.

    Only where both are known: of an app without a tool that can tell nothing is said.
    """
    heads = {release["release"]: release.get("migration_heads") for release in report["releases"]}
    served = report["release"]
    if heads.get(served) is None or heads.get(target) is None or heads[served] == heads[target]:
        return {}
    return {release: list(heads[release] or ["none"]) for release in (served, target)}


def summary(result: Mapping[str, Any], domains: Sequence[str] = ()) -> str:
    """Returns where a host stands after a rollout, in one line for a person.

    Args:
        result: What the module rollout returned.
        domains: Host names of the app, for its URL.
    """
    release, previous = result["release"], result.get("previous")
    parts = []
    if not result.get("reasons"):
        parts.append(f"{release} serves in slot {result['slot']} as before, nothing changed")
    else:
        from_text = "nothing" if previous is None else previous
        parts.append(
            f"{from_text} -> {release} in slot {result['slot']} ({'; '.join(result['reasons'])})"
        )
    if "seconds" in result:
        parts.append(f"{result['seconds']} s")
    took = {step["name"]: step["seconds"] for step in result.get("steps", [])}
    parts += [f"{words} {took[step]:g} s" for step, words in TOLD_STEPS.items() if step in took]
    if result.get("instances_reason"):
        parts.append(result["instances_reason"])
    if "memory_mebibytes" in result:
        parts.append(f"memory {result['memory_mebibytes']} of {result['memory_max_mebibytes']} MiB")
    if result.get("cut_connections"):
        parts.append(f"{result['cut_connections']} connections to the old slot were cut")
    if result.get("proxy_gap_seconds"):
        parts.append(
            f"the ports moved to another proxy and were nobody's for"
            f" {result['proxy_gap_seconds']} s"
        )
    if result.get("recovered"):
        parts.append(result["recovered"])
    if result.get("pruned"):
        parts.append(f"removed {', '.join(result['pruned'])}")
    parts += [f"https://{domain}" for domain in list(domains)[:1]]
    return ", ".join(parts)


def status_row(report: Mapping[str, Any]) -> dict[str, str]:
    """Returns what serves on a host as the cells of a table, by their headings."""
    version = next(
        (
            one.get("version", one.get("error", ""))
            for one in report["releases"]
            if one["release"] == report["release"]
        ),
        "",
    )
    days = report["certificate_days"]
    return {
        "release": report["release"] or "nothing serves",
        "version": version,
        "slot": report["slot"] or "",
        "up": f"{report['instances_running']} of {len(report['instances'])}",
        "memory MiB": f"{report['memory_mebibytes']} of {report['memory_max_mebibytes']}",
        "restarts": str(report["restarts"]),
        "processes": processes_text(report["processes"]),
        "since": report["since"],
        "certificate": "" if days is None else f"{days:g} days",
        "releases": disk_text(report["disk"]),
        "last rollout": last_event(report),
    }


def processes_text(processes: Sequence[Mapping[str, Any]]) -> str:
    """Returns how what runs beside the instances fares: as `worker 2 of 2, cleanup failed`."""
    told = []
    for one in processes:
        text = f"{one['name']} {one['running']} of {one['count']}"
        if one["kind"] == "timer":
            text = f"{one['name']} {'waits' if one['running'] else 'stopped'}"
        if one["result"] != "success":
            text += f" ({one['result']})"
        told.append(text)
    return ", ".join(told)


def disk_text(disk: Mapping[str, Any] | None) -> str:
    """Returns how many releases a host has, what they take and what is free."""
    if disk is None:
        return ""
    return (
        f"{disk['releases']} in {disk['releases_mebibytes']} MiB, {disk['free_mebibytes']} MiB free"
    )


def last_event(report: Mapping[str, Any]) -> str:
    """Returns the last event of a host's history, and what else a person should know.

    That is what the watch did last, unless it is in the history, and a run that was cut off.
    """
    told = []
    if report["history"]:
        last = report["history"][-1]
        by = f" by {last['by']}" if last.get("by") else ""
        told.append(f"{last['status']} {last['at']}{by}")
    if report["watch"].get("action", RECYCLED) != RECYCLED:
        told.append(f"watch: {report['watch']['action']} {report['watch']['at']}")
    if python_problem(report, report["release"]):
        told.append("its Python is gone: deploy it again")
    if report["operation"]:
        told.append("a run was cut off: the next deploy mends it")
    return ", ".join(told)


def status_table(reports: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Returns what serves on each host as the lines of a table.

    Args:
        reports: What each host says of the app (module release_info, `app`), by its name;
            nothing for a host that was not reached.
    """
    found = {host: status_row(report) for host, report in reports.items() if report}
    headings = list(next(iter(found.values()), {}))
    rows = [["host", *headings]]
    rows += [[host, *found.get(host, {"release": "not reached"}).values()] for host in reports]
    filled = [[*row, *[""] * (len(rows[0]) - len(row))] for row in rows]
    widths = [max(map(len, column)) for column in zip(*filled)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in filled
    ]


def failures(hosts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Returns why which hosts failed in this run.

    Args:
        hosts: The variables of each host (hostvars).
    """
    return {
        host: str(values["asgi_service_failure"])
        for host, values in hosts.items()
        if values.get("asgi_service_failure")
    }


def rollout_failure(hosts: Mapping[str, Mapping[str, Any]], host: str) -> str:
    """Returns why a host has failed in its batch, or nothing where only another one has.

    Ansible counts all hosts of a batch as failed when one of them is.

    Args:
        hosts: The variables of each host (hostvars).
        host: Name of the host.
    """
    known = {name: own_failure(values) for name, values in hosts.items()}
    if any(known.values()):
        return known[host]
    # no host has a result of its own, so it is not known which of the batch it was
    values = hosts[host]
    hook = hook_file(values)
    if hook:
        return (
            f"{hook}: a task could not reach its host, or the file cannot be read, here or for"
            " another host of the batch; the error is above (UNREACHABLE or FAILED)"
        )
    return str((values.get("ansible_failed_result") or {}).get("msg") or "see above")


def own_failure(values: Mapping[str, Any]) -> str:
    """Returns why a host has failed, where Ansible keeps the result.

    It keeps none of a task of a hook that could not reach its host.
    """
    for name in ("__asgi_service_rollout", "__asgi_service_watch"):
        result = values.get(name) or {}
        if result.get("failed") or result.get("unreachable"):
            return str(result.get("msg") or "see above")
    failed = values.get("ansible_failed_result") or {}
    hook = hook_file(values)
    if hook and failed and failed != values["__asgi_service_hook"]["before"]:
        return f"{hook}: {failed.get('msg') or 'see above'}"
    return ""


def hook_file(values: Mapping[str, Any]) -> str:
    """Returns the hook that a host has begun and not ended: its variable and its file."""
    return str((values.get("__asgi_service_hook") or {}).get("file", ""))


def outcome(hosts: Mapping[str, Mapping[str, Any]], release: str) -> str:
    """Returns where each host of a fleet stands after a rollout that failed on one of them.

    Args:
        hosts: The variables of each host, with what the last play has registered.
        release: What was to serve.
    """
    lines = [f"release {release} does not serve; it failed on {', '.join(failures(hosts))}."]
    for host, values in hosts.items():
        undone = values.get("__asgi_service_undone") or {}
        if undone.get("unreachable"):
            lines.append(
                f"{host}: cannot be reached, what serves there is not known; run the status"
                " playbook when it is back, the next deploy brings it along"
            )
        elif "release" not in undone:
            lines.append(f"{host}: the way back failed: {undone.get('msg', 'unknown cause')}")
        else:
            serves = undone["release"] or "nothing"
            how = "after it had moved, taken back" if undone["changed"] else "not moved"
            lines.append(f"{host}: {serves} serves in slot {undone['slot']} ({how})")
    for host, cause in failures(hosts).items():
        lines.append(f"cause on {host}: {cause}")
    # those of the rollout are causes
    unended = {hook_file(values) for values in hosts.values()}
    lines += [
        f"{hook}: failed, or could not reach a host; the error is above (UNREACHABLE or FAILED)"
        for hook in sorted(unended)
        if hook.startswith("asgi_service_on_failure:")
    ]
    return "\n".join(lines)

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Traefik: one dynamic file for each app, made anew for the slot that is to be asked.

Traefik reads all files of a directory as one configuration: a file of any app that it cannot
read keeps every other one from changing, and after a restart all sites are gone. So a file
comes there by one rename only, and only after a throw-away Traefik has read it aside.

What the site is, without slot and instances, lies in `sites/<app>.json`, so that a rollback
or a recovery needs no controller. All files are JSON, which is YAML, because a host has no
Python module that reads YAML.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import slots, systemd
from ..commands import BASE_ENVIRONMENT, identity, tail
from ..errors import DeployError
from ..files import read_text, remove, write_atomic
from ..health import Answer, HealthCheck, ask_tls, tls_context
from ..layout import Layout
from ..listeners import listener
from .exclusive import one_change
from .handover import (
    ANNOUNCED,
    TAKE_OVER,
    UNITS,
    ours,
    refuse_metrics_address,
    refuse_on_balancer,
    refuse_other_sites,
    refuse_take_over,
    refuse_taken_ports,
    rival,
    take_over,
)
from .shared import Address, require_free_addresses, told_of_shared, undone
from .switch import turn_switch

if TYPE_CHECKING:
    from . import ProxyAccess

SERVICE = "traefik.service"
OWN_UNITS = UNITS["traefik"]
#: systemd holds the ports, so that Traefik needs no right to open them.
SOCKETS = OWN_UNITS[:-1]
USER = "traefik"
CONFIGURATION = Path("/etc/traefik")
MAIN_FILE = CONFIGURATION / "traefik.yml"
#: What a DNS provider reads.
ENVIRONMENT_FILE = CONFIGURATION / "environment"
SITES = CONFIGURATION / "sites"
DYNAMIC = CONFIGURATION / "dynamic"
#: There while Traefik has not taken up what is on disk.
PENDING = CONFIGURATION / ".pending"
#: In the first line of every file of ours.
MARKER = "Managed by asgi.deploy"
HEADER = f"# {MARKER}: changes here are lost at the next deploy.\n"
#: Stand in a site for what differs from slot to slot.
SERVICE_MARK = "@service@"
SLOT_MARK = "@slot@"
#: Nobody listens there: a throw-away Traefik must not ask for certificates.
NO_AUTHORITY = "https://127.0.0.1:1/directory"
#: Files of any name and depth that Traefik reads there.
DYNAMIC_SUFFIXES = (".yml", ".yaml", ".toml")
#: A rule in such a file, whoever has written it, and a part of one.
RULE = re.compile(
    r"""^\s*["']?rule["']?\s*[:=]\s*(?P<quote>["']?)(?P<rule>.+?)["']?,?$""", re.MULTILINE
)
MATCHER = re.compile(r"""(\w+)\([`"]([^`"]*)[`"]\)""")
#: The rule of a wildcard (templates/etc/traefik/sites/app.yml.j2).
WILDCARD = re.compile(r"\^\[\^\.\]\+(.+)\$")
VALIDATE_TIMEOUT_SECONDS = 30
TAKE_UP_TIMEOUT_SECONDS = 30
ASK_TIMEOUT_SECONDS = 5
POLL_SECONDS = 0.05
#: The first release that knows every option of our main file; others do not start with it.
OLDEST_VERSION = "3.7.12"


def site_file(name: str) -> Path:
    """Where the site of an app lies, without slot and instances."""
    return SITES / f"{name}.json"


def parse(text: str) -> dict[str, Any]:
    """Reads a file of ours: a comment, then JSON."""
    lines = text.splitlines()
    found: dict[str, Any] = json.loads(
        "\n".join(line for line in lines if not line.startswith("#"))
    )
    return found


def format_file(values: Mapping[str, Any]) -> str:
    """Returns the text of a file of ours."""
    return f"{HEADER}{json.dumps(values, indent=1, sort_keys=True)}\n"


def urls(site: Mapping[str, Any], layout: Layout, slot: str) -> list[str]:
    """Returns where Traefik asks: on a balancer the app hosts, whatever the slot is; else all
    instances of the slot that start at boot."""
    if "servers" in site:
        return list(site["servers"])
    count = slots.enabled_instances(layout, slot)
    found = [listener(layout, slot, number) for number in range(1, count + 1)]
    # Traefik cannot ask unix sockets, which a slot has that another proxy was to ask
    return [f"http://{one[0]}:{one[1]}" for one in found if not isinstance(one, Path)]


def certificate_note(site: Mapping[str, Any]) -> Path:
    """Where it is noted which certificate the site was given as files, if it was."""
    return SITES / f"{site['name']}.certificate"


def users_file(site: Mapping[str, Any]) -> Path:
    """Where the passwords of the site are, as hashes."""
    return SITES / f"{site['name']}.users"


def read_beside(site: Mapping[str, Any], files: Mapping[Path, str]) -> str:
    """Returns what Traefik reads beside the dynamic file of a site, or a digest of it.

    Args:
        site: The site.
        files: Texts that take the place of those on disk.
    """
    paths = (certificate_note(site), users_file(site))
    texts = (files[path] if path in files else read_text(path) for path in paths)
    return "".join(text or "" for text in texts)


def render(
    site: Mapping[str, Any],
    slot: str,
    servers: Sequence[str],
    beside: str = "",
    draining: bool = False,
) -> tuple[str, str]:
    """Returns the name of the service and the text of the dynamic file for a slot.

    The name holds a digest of all of it, so that the API tells which one is in use, and so
    that a renewed certificate or another password makes another file, for which Traefik reads it.

    Args:
        site: The site.
        slot: Which slot is asked.
        servers: Where it is asked.
        beside: What Traefik reads beside it (read_beside).
        draining: A balancer is told that the host is not ready.
    """
    text = json.dumps(site["configuration"], sort_keys=True).replace(SLOT_MARK, slot)
    digest = hashlib.sha256(f"{text}{list(servers)}{beside}{draining}".encode()).hexdigest()[:12]
    service = f"{site['name']}-{slot}-{digest}"
    configuration = json.loads(text.replace(SERVICE_MARK, service))
    services = configuration["http"]["services"]
    for one in services.values():
        one["loadBalancer"]["servers"] = [{"url": url} for url in servers]
    if draining:
        # Traefik answers 503 for a service without servers
        services[f"{service}-draining"] = {"loadBalancer": {"servers": []}}
        configuration["http"]["routers"][f"{site['name']}.ready"]["service"] = f"{service}-draining"
    return service, format_file(configuration)


def render_for(layout: Layout, site: Mapping[str, Any], slot: str) -> tuple[str, str]:
    """Returns the service and the dynamic file of the app's site as it is to be now."""
    return render(
        site, slot, urls(site, layout, slot), read_beside(site, {}), layout.draining_file.exists()
    )


class Traefik:
    """Traefik 3."""

    SHARED_FILES: Sequence[Path] = (
        MAIN_FILE,
        ENVIRONMENT_FILE,
        *(systemd.SYSTEM_UNITS / one for one in OWN_UNITS),
    )

    def with_addresses(
        self, files: Mapping[str, str], former: Mapping[str, str]
    ) -> Mapping[str, str]:
        """Returns a configuration that has the addresses of a former one as well."""
        return {
            path: with_former_addresses(text, former[path])
            if is_site(Path(path)) and path in former
            else text
            for path, text in files.items()
        }

    def site_name(self, files: Mapping[str, str]) -> str:
        """Returns the name of the file that Traefik reads, which is made of that of the app."""
        sites = (parse(text) for path, text in files.items() if is_site(Path(path)))
        return next((Path(site["file"]).stem for site in sites), "")

    def refuse_switch(self, layout: Layout, own: Sequence[str] = ()) -> None:
        """Raises where another proxy would have to give way that serves other apps too."""
        # it may not be there yet: a rollout brings it, and check mode writes nothing
        text = read_text(site_file(layout.name))
        refuse_take_over("traefik", [parse(text)["name"] if text else layout.name, *own])

    @one_change()
    def switch(self, layout: Layout, slot: str) -> float:
        """Puts the app's file for a slot in place and waits until it is in use.

        A run that is killed between the two leaves the switch where it was, and both slots
        running and enabled: whichever Traefik asks is whole, and the next run turns it to
        the slot that the switch names.
        """
        text = read_text(site_file(layout.name))
        if text is None:
            raise DeployError(
                f"Traefik has no site of {layout.name} ({site_file(layout.name)}); deploy with"
                " the site playbook, which sets it up"
            )
        site = parse(text)
        service, dynamic = render_for(layout, site, slot)
        write_files({Path(site["file"]): dynamic})
        # before the switch, which a Caddy that still has the ports would follow
        gap_seconds = take_over("traefik", ports)
        turn_switch(layout, slot)
        if systemd.show([SERVICE])[0].running:
            wait_until_in_use(site["name"], service)
        return gap_seconds

    @one_change()
    def tell_balancer(self, layout: Layout) -> None:
        """Puts the app's file in place anew, for what it says to a balancer."""
        text = read_text(site_file(layout.name))
        site = parse(text) if text else {}
        # an app that has moved to another proxy has a site here, but no file
        if not site or not Path(site["file"]).exists():
            return
        service, dynamic = render_for(layout, site, layout.serving_slot())
        if read_text(Path(site["file"])) == dynamic:
            return
        write_files({Path(site["file"]): dynamic})
        if systemd.show([SERVICE])[0].running:
            wait_until_in_use(site["name"], service)

    def ask(self, layout: Layout, access: ProxyAccess, check: HealthCheck) -> Answer:
        """Asks over TLS on this host; only there the site says which slot answered."""
        return ask_tls(access.address, access.port, tls_context(access.ca_file), check)

    @one_change()
    def configure(
        self,
        files: Mapping[Path, str],
        absent: Sequence[Path],
        settings: Mapping[str, Any],
        check_mode: bool,
    ) -> dict[str, Any]:
        """Makes the configuration so.

        Args:
            files: Text of each file: main file, the app's site, the units.
            absent: Files that are not to be there; somebody's own are left alone.
            settings: `program`, the path of Traefik; `layout`, the app; `balancer`, whether no
                rollout follows; `validate_only`, to change nothing, but to have Traefik read the
                candidate.
            check_mode: Say what would change and change nothing.

        Returns:
            `changed`, `changes` (paths), `diff`, `action` (start, restart, reload,
            take over or nothing).

        Raises:
            DeployError: The candidate is not valid, or Traefik did not take it up. The files
                are then what they were and Traefik runs with them.
        """
        own = [path.stem for path in files if path.parent == SITES]
        others = [path.stem for path in DYNAMIC.glob("*.yml") if path.stem not in own]
        gone = [
            path
            for path in absent
            # what DNS providers read may be another site's
            if ours(path, read_text(path)) and not (path == ENVIRONMENT_FILE and others)
        ]
        after: dict[Path, str | None] = {**files, **dict.fromkeys(gone)}
        site, service = {}, ""
        if files:
            layout: Layout = settings["layout"]
            site = parse(files[site_file(layout.name)])
            slot = layout.serving_slot()
            beside = read_beside(site, {**dict.fromkeys(gone, ""), **files})
            dynamic = Path(site["file"])
            draining = layout.draining_file.exists()
            service, after[dynamic] = render(site, slot, urls(site, layout, slot), beside, draining)
        before = {path: read_text(path) for path in after}
        changed = {path: text for path, text in after.items() if before[path] != text}
        warnings: list[str] = []
        result: dict[str, Any] = {
            "warnings": warnings,
            "changed": bool(changed),
            "changes": [str(path) for path in changed],
            "diff": [difference(path, before[path], text) for path, text in changed.items()],
            "action": "",
        }
        if not files:
            # Traefik finds by itself that files are gone
            if changed and not check_mode:
                write_files(changed)
            return result
        refuse_foreign(before[MAIN_FILE])
        other = rival("traefik")
        if other:
            if settings.get("balancer"):
                refuse_on_balancer(other)
            result["action"] = TAKE_OVER
            refuse_other_sites(other, [site["name"]])
            warnings.append(ANNOUNCED.format(own="Traefik", other=other))
        else:
            result["changed"] = bool(changed) or PENDING.exists() or not ready()
            result["action"] = action_for(changed) if result["changed"] else ""
        warnings += of_other_sites(before, files, site_file(layout.name))
        shared = [path for path in (MAIN_FILE, ENVIRONMENT_FILE) if path in changed]
        foreign = [name for name in others if not site_file(name).exists()]
        warnings += told_of_shared([path for path in shared if before[path]], foreign)
        if check_mode or not result["changed"]:
            return result
        if not other:
            refuse_taken_ports(
                OWN_UNITS,
                main_ports(before[MAIN_FILE]).values(),
                main_ports(files[MAIN_FILE]).values(),
            )
        refuse_metrics_address("traefik", before[MAIN_FILE], files[MAIN_FILE])
        if any(CONFIGURATION in path.parents for path in changed):
            validate(str(settings["program"]), after, site)
        if settings.get("validate_only"):
            return result
        if other:
            # it reads them when it gets the ports
            write_files(changed)
            systemd.systemctl("daemon-reload")
        else:
            install(before, changed, lambda: wait_until_in_use(site["name"], service))
        return result


def rule_addresses(rule: str) -> set[Address]:
    """Returns the addresses that a rule is for, each with all that is below it.

    None where it has other conditions too: Traefik then knows which requests are whose.
    """
    matchers = MATCHER.findall(rule)
    if re.search(r"[^()|&\s]", MATCHER.sub("", rule)):
        return set()
    values: dict[str, list[str]] = {}
    for name, value in matchers:
        values.setdefault(name, []).append(value)
    if set(values) - {"Host", "HostRegexp", "Path", "PathPrefix"}:
        return set()
    domains = [domain.lower() for domain in values.get("Host", [])]
    for pattern in values.get("HostRegexp", []):
        wildcard = WILDCARD.fullmatch(pattern)
        domains.append("*" + re.sub(r"\\(.)", r"\1", wildcard[1]) if wildcard else pattern)
    below = [path.rstrip("/") for path in values.get("PathPrefix", [])]
    paths = below or ([] if "Path" in values else [""])
    return {(domain, path) for domain in domains for path in paths}


def file_addresses(text: str) -> set[Address]:
    """Returns the addresses in a dynamic file, whoever wrote it: a host cannot read YAML."""
    found: set[Address] = set()
    for match in RULE.finditer(text):
        escaped = match["quote"] == '"'
        found |= rule_addresses(match["rule"].replace("\\\\", "\\") if escaped else match["rule"])
    return found


def site_addresses(site: Mapping[str, Any]) -> dict[Address, str]:
    """Returns the addresses of a site, and for each the variable that it is from."""
    routers = site["configuration"]["http"]["routers"]
    sent_on = routers.get(f"{site['name']}.redirect", {}).get("rule", "")
    found = {
        address: "asgi_proxy_domains"
        for router in routers.values()
        for address in rule_addresses(router.get("rule", ""))
    }
    return {**found, **dict.fromkeys(rule_addresses(sent_on), "asgi_proxy_redirect_domains")}


def is_site(path: Path) -> bool:
    """Says whether a file is the site of an app."""
    return path.parent == SITES and path.suffix == ".json"


def with_former_addresses(text: str, former_text: str) -> str:
    """Returns a site with those addresses of a former one that it has not, answered as they were.

    Args:
        text: Text of the site.
        former_text: Text of the former one.
    """
    site, former = parse(text), parse(former_text)
    name, http = site["name"], former["configuration"]["http"]
    if former["name"] != name or not {*site_addresses(former)} - {*site_addresses(site)}:
        return text

    def renamed(one: str) -> str:
        # a slash is in no name of a site, so it is nobody else's
        return f"{name}/former{one[len(name) :]}" if one.split(".")[0] == name else one

    merged = site["configuration"]
    for router_name, router in http["routers"].items():
        kept = {**router}
        for key in ("middlewares", "parentRefs"):
            if key in router:
                kept[key] = [renamed(one) for one in router[key]]
        if "priority" in router:
            # where both have an address it is for the new one
            kept["priority"] = router["priority"] - 1
        merged["http"]["routers"][renamed(router_name)] = kept
    for kind in ("middlewares", "serversTransports"):
        for one, values in http.get(kind, {}).items():
            merged["http"].setdefault(kind, {})[renamed(one)] = values
    certificates = former["configuration"].get("tls", {}).get("certificates", [])
    if certificates:
        own = merged.setdefault("tls", {}).setdefault("certificates", [])
        own += [one for one in certificates if one not in own]
    header = "".join(line for line in text.splitlines(True) if line.startswith("#"))
    return f"{header}{json.dumps(site, indent=1, sort_keys=True)}\n"


def of_other_sites(
    before: Mapping[Path, str | None], files: Mapping[Path, str], own: Path
) -> list[str]:
    """Checks what a deploy would change for the other sites of the host.

    Returns:
        A warning for each variable that has yet to be set alike for other sites.

    Raises:
        DeployError: It would undo what another site has set, or has an address of it.
    """
    site = parse(files[own])
    require_free_addresses(
        site_addresses(site),
        {
            path: file_addresses(read_text(path) or "")
            for path in DYNAMIC.rglob("*")
            if path.suffix in DYNAMIC_SUFFIXES and path != Path(site["file"])
        },
    )
    texts = {path.stem: read_text(path) or "" for path in SITES.glob("*.json") if path != own}
    # an app that has moved to another proxy has a site here, but no file
    others = {name: text for name, text in texts.items() if Path(parse(text)["file"]).exists()}
    return undone((before[MAIN_FILE], files[MAIN_FILE]), (before[own], files[own]), others)


def action_for(changed: Iterable[Path]) -> str:
    """Says how Traefik takes up changed files; dynamic ones it reads while it runs."""
    if not systemd.show([SERVICE])[0].running:
        return "start"
    return "restart" if PENDING.exists() or needs_restart(changed) else "reload"


def ready() -> bool:
    """Says whether Traefik runs, and comes up at boot."""
    return all(one.active_state == "active" and one.enabled for one in systemd.show(OWN_UNITS))


def install(
    before: Mapping[Path, str | None], changed: Mapping[Path, str | None], prove: Callable[[], None]
) -> None:
    """Writes files and has Traefik take them up; puts everything back where that fails.

    Args:
        before: What each file was.
        changed: What is to be written.
        prove: Raises where Traefik did not take them up.

    Raises:
        DeployError: What failed, what was put back, and lines of the journal.
    """
    # a run that is killed before Traefik has taken the files up leaves it behind
    restart = PENDING.exists() or needs_restart(changed)
    started = time.time()
    status = systemd.show([SERVICE])[0]
    try:
        write_files({PENDING: ""})
        write_files(changed)
        apply(changed, restart)
        prove()
        remove(PENDING)
    except (DeployError, OSError) as error:
        lines = systemd.journal([*OWN_UNITS], started)
        told = "the former configuration is back"
        if not status.running:
            systemd.systemctl("stop", *OWN_UNITS, check=False)
        if not status.enabled:
            # it would try again at boot, and take ports of somebody who has them by then
            systemd.systemctl("disable", "--quiet", *OWN_UNITS, check=False)
        write_files({path: before[path] for path in changed})
        systemd.systemctl("daemon-reload")
        if status.running:
            with contextlib.suppress(DeployError):
                apply(changed, restart)
            if not systemd.show([SERVICE])[0].running:
                told += ", but Traefik does not run with it: systemctl status traefik"
        remove(PENDING)
        raise DeployError(
            f"Traefik did not take up the new configuration; {told}.\n{error}\n"
            f"last lines of its journal:\n{lines}"
        ) from error


def difference(path: Path, before: str | None, after: str | None) -> dict[str, str]:
    """Returns one change as Ansible shows it."""
    return {
        "before_header": str(path),
        "after_header": str(path),
        "before": before or "",
        "after": after or "",
    }


def refuse_foreign(main_file: str | None) -> None:
    """Raises where the main file was written by somebody else."""
    if main_file is None or MARKER in main_file:
        return
    raise DeployError(
        f"{MAIN_FILE} was not written by asgi.deploy and would be lost. Move its dynamic files to"
        f" {DYNAMIC}/<name>.yml, where they are left alone, and remove it; or set"
        " asgi_proxy_provider: none and point your own proxy at the app's sockets"
    )


def needs_restart(changed: Iterable[Path]) -> bool:
    """Says whether changed files are read at a start only."""
    return any(
        path in (MAIN_FILE, ENVIRONMENT_FILE) or path.parent == systemd.SYSTEM_UNITS
        for path in changed
    )


def write_files(texts: Mapping[Path, str | None]) -> None:
    """Installs files that Traefik reads but others do not, each in one step."""
    group = pwd.getpwnam(USER).pw_gid
    for path, text in texts.items():
        if text is None:
            remove(path)
            continue
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        secret = CONFIGURATION in path.parents
        write_atomic(path, text, mode=0o640 if secret else 0o644, group=group if secret else 0)


def apply(changed: Iterable[Path], restart: bool) -> None:
    """Has Traefik run with the installed configuration; dynamic files it finds by itself."""
    systemd.systemctl("daemon-reload")
    systemd.systemctl("enable", "--quiet", *OWN_UNITS)
    if any(path.name in SOCKETS for path in changed):
        # a listener moves to another port only when nobody holds it
        systemd.systemctl("stop", *OWN_UNITS)
    systemd.systemctl("reset-failed", *OWN_UNITS, check=False)
    systemd.systemctl("start", *SOCKETS, doing="open the ports of Traefik")
    if restart and systemd.show([SERVICE])[0].running:
        systemd.systemctl("restart", SERVICE, doing="restart Traefik")
    else:
        systemd.systemctl("start", SERVICE, doing="start Traefik")


# --- the API --------------------------------------------------------------------------------------


def main_ports(text: str | None) -> dict[str, int]:
    """Returns the port of each entry point in a main file; nothing where there is none."""
    return {
        name: int(entry_point["address"].rsplit(":", 1)[1])
        for name, entry_point in parse(text or "{}").get("entryPoints", {}).items()
    }


def entry_port(name: str) -> int:
    """Returns the port of an entry point, as the installed main file has it."""
    return main_ports(read_text(MAIN_FILE))[name]


def ports() -> list[int]:
    """Returns the ports in the installed main file that are open to all."""
    return [entry_port(name) for name in ("web", "websecure")]


def ask_api(port: int, path: str) -> Any:
    """Returns what the API answers; None where it does not, or does not know the thing."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ASK_TIMEOUT_SECONDS)
    try:
        connection.request("GET", f"/api/{path}")
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    return json.loads(body) if response.status == 200 else None


def wait_until_in_use(site: str, service: str) -> None:
    """Waits until routers ask the service of the file that was put in place.

    Raises:
        DeployError: It does not within the time for it, with what Traefik says of it.
    """
    port = entry_port("traefik")
    deadline = time.monotonic() + TAKE_UP_TIMEOUT_SECONDS
    while True:
        found = ask_api(port, f"http/services/{service}@file")
        if found and found["status"] == "enabled" and found.get("usedBy"):
            return
        if time.monotonic() > deadline:
            raise DeployError(
                f"Traefik did not take up the file of {site} within {TAKE_UP_TIMEOUT_SECONDS} s;"
                f" its API on 127.0.0.1:{port} says: {json.dumps(found)}. A file of anybody in"
                f" {DYNAMIC} that it cannot read keeps all others from changing: journalctl -u"
                " traefik"
            )
        time.sleep(POLL_SECONDS)


# --- the candidate --------------------------------------------------------------------------------


def free_port() -> int:
    """Returns a port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def candidate(after: Mapping[Path, str | None], port: int) -> Iterator[Path]:
    """Yields the main file of a throw-away Traefik: the dynamic files with the changes in them,
    ports that nobody else has, and no authority to ask for certificates."""
    with tempfile.TemporaryDirectory(prefix="asgi-deploy-") as name:
        copy = Path(name) / "dynamic"
        if DYNAMIC.is_dir():
            shutil.copytree(DYNAMIC, copy)
        copy.mkdir(exist_ok=True)
        for path, text in after.items():
            if path.parent == DYNAMIC and text is None:
                (copy / path.name).unlink(missing_ok=True)
            elif path.parent == DYNAMIC:
                # passwords are read from where those that are to come lie
                aside = str(text).replace(f"{SITES}/", f"{name}/")
                (copy / path.name).write_text(aside, encoding="utf-8")
            elif path.suffix == ".users":
                (Path(name) / path.name).write_text(str(text), encoding="utf-8")
        main = parse(str(after[MAIN_FILE]))
        for entry_point in main["entryPoints"].values():
            entry_point["address"] = "127.0.0.1:0"
        main["entryPoints"]["traefik"]["address"] = f"127.0.0.1:{port}"
        main["providers"]["file"] = {"directory": str(copy), "watch": False}
        for resolver in main.get("certificatesResolvers", {}).values():
            resolver["acme"]["caServer"] = NO_AUTHORITY
            resolver["acme"]["storage"] = str(Path(name) / "acme.json")
        main_file = Path(name) / MAIN_FILE.name
        main_file.write_text(json.dumps(main), encoding="utf-8")
        # children first: once a directory is theirs, the user could put links in it
        for path in (*copy.rglob("*"), *Path(name).glob("*"), Path(name)):
            shutil.chown(path, USER, USER)
        yield main_file


def validate(program: str, after: Mapping[Path, str | None], site: Mapping[str, Any]) -> None:
    """Has a throw-away Traefik read the candidate as its own user, who may read less than root.

    Raises:
        DeployError: With what Traefik says is wrong.
    """
    port = free_port()
    # without a name: the directory of the candidate is its user's, who could put a link there
    with candidate(after, port) as main_file, tempfile.TemporaryFile() as output:

        def log() -> str:
            size = os.fstat(output.fileno()).st_size
            # the process writes where this file stands, so it must not be moved
            return os.pread(output.fileno(), size, 0).decode(errors="replace")

        process = subprocess.Popen(
            [program, f"--configFile={main_file}"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**BASE_ENVIRONMENT, "HOME": str(main_file.parent)},
            cwd=main_file.parent,
            **identity(USER),
        )
        try:
            trouble = judged(process, port, log, site)
            ended = process.poll() is not None
        finally:
            process.kill()
            process.wait()
        errors = log_errors(log(), site, ended)
    if trouble or errors:
        # only the main file ends it, and that one has no option of the operator's
        old = ended and any("field not found" in line for line in errors)
        needed = f"asgi_proxy_traefik_source: needs Traefik {OLDEST_VERSION} or newer"
        reasons = "\n".join([*trouble, *errors, *([needed] if old else [])])
        raise DeployError(
            f"Traefik refuses the new configuration; nothing was changed:\n{tail(reasons, 5)}"
        )


def judged(
    process: subprocess.Popen[bytes],
    port: int,
    log: Callable[[], str],
    site: Mapping[str, Any],
) -> list[str]:
    """Waits until the throw-away Traefik has read the site; says what it finds wrong with it."""
    deadline = time.monotonic() + VALIDATE_TIMEOUT_SECONDS
    wanted = {f"{name}@file" for name in site["configuration"]["http"]["routers"]}
    while process.poll() is None and time.monotonic() < deadline:
        if log_errors(log(), site, ended=False):
            return []
        found = ask_api(port, "rawdata") or {}
        routers = found.get("routers", {})
        if wanted <= set(routers):
            own = {f"{name}@file" for name in site["configuration"]["http"]["middlewares"]}
            parts = {**{name: routers[name] for name in wanted}}
            parts.update((n, v) for n, v in found.get("middlewares", {}).items() if n in own)
            return [
                f"{name}: {', '.join(part.get('error') or [part['status']])}"
                for name, part in sorted(parts.items())
                if part["status"] != "enabled"
            ]
        time.sleep(POLL_SECONDS)
    if process.poll() is None:
        return [f"it did not read the site within {VALIDATE_TIMEOUT_SECONDS} s"]
    return [f"it ended with code {process.returncode}"]


def log_errors(log: str, site: Mapping[str, Any], ended: bool) -> list[str]:
    """Returns the errors in the log of the throw-away Traefik that keep the site from working:
    why it ended, files that it cannot read, certificates that do not fit."""
    found = []
    certificates = site["configuration"].get("tls", {}).get("certificates", [])
    paths = [str(path) for one in certificates for path in one.values()]
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            # what ends Traefik at its start is said in plain text
            if "error" in line.lower():
                found.append(line)
            continue
        words = f"{entry.get('message', '')}: {entry.get('error', '')}"
        matters = ended or "file.Provider" in words or any(path in line for path in paths)
        if entry.get("level") in ("error", "fatal", "panic") and matters:
            found.append(words)
    return found

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Caddy: one site file for each app, the slot chosen for each request by a file matcher.

No release reloads Caddy: a reload closes connections of clients (measured: 185 failed
requests in 8 reloads under load), the matcher loses none.
"""

from __future__ import annotations

import contextlib
import pwd
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import slots, systemd
from ..commands import run, tail
from ..errors import DeployError
from ..files import read_text, remove, write_atomic
from ..health import Answer, HealthCheck, ask_tls, tls_context
from ..layout import Layout
from .exclusive import one_change
from .handover import (
    ANNOUNCED,
    SITES,
    TAKE_OVER,
    ours,
    refuse_metrics_address,
    refuse_on_balancer,
    refuse_other_sites,
    refuse_take_over,
    refuse_taken_ports,
    rival,
    take_over,
)
from .shared import Address, refuse_other_certificate, require_free_addresses, undone
from .switch import turn_switch

if TYPE_CHECKING:
    from . import ProxyAccess

SERVICE = "caddy.service"
USER = "caddy"
HOME = Path("/var/lib/caddy")
CONFIGURATION = Path("/etc/caddy")
MAIN_FILE = CONFIGURATION / "Caddyfile"
#: There while Caddy has not taken up what is on disk.
PENDING = CONFIGURATION / ".pending"
UNIT_FILE = systemd.SYSTEM_UNITS / SERVICE
#: In the first line of every file of ours.
MARKER = "Managed by asgi.deploy"
#: First line of the welcome page that packages of Caddy bring.
PACKAGED = "# The Caddyfile is an easy way to configure your Caddy web server."
#: Where a site asks the instances of a slot; the setting is not there for a single one.
UPSTREAMS = re.compile(
    r"reverse_proxy(?P<matcher> @\w+)?"
    r"(?: unix/(?P<directory>/run/asgi/[^/ ]+/(?P<slot>blue|green))/[0-9]+\.sock)+ {\n"
    r"(?:\t*# [^\n]*\n\t*fail_duration [^\n]*\n)?(?P<tabs>\t*)"
)
#: What a site has for several instances.
BESIDE = (
    "# another one is asked meanwhile; where there is no other, requests wait for this one",
    "fail_duration 1s",
)
#: Older ones lose the body of a request when its first try finds no listener. The second fails too,
#: and takes an upstream out that is up (caddyserver/caddy#7547).
KEEPS_BODIES = (2, 11, 2)
#: Where a site with several upstreams asks what cannot be asked twice, and how often it tries.
ONCE = re.compile(
    r"(?P<before>reverse_proxy @once\w* \S+ [^{\s][^{]*{\n(?:(?!\t*}\n).*\n)*?)"
    r"\t*lb_try_duration [^\n]+\n\t*lb_try_interval [^\n]+\n"
)
#: The addresses of a site; it imports the app where they are not only sent on.
ADDRESSES = re.compile(r"^(?P<all>[^\s#({@}][^\n]*?)\s*{\n(?P<app>\timport asgi-)?", re.MULTILINE)
#: A snippet, or addresses and what is answered there.
BLOCK = re.compile(r"^(?P<head>[^\s#{}][^\n]*?) {\n(?P<body>(?:\t[^\n]*\n|\n)*)}\n", re.MULTILINE)
SNIPPET = re.compile(r"\((?P<name>asgi-[^)]+)\)")
SITE_SUFFIX = ".caddy"
#: What Caddy says of an address that two files have.
AMBIGUOUS = re.compile(r"ambiguous site definition: (?P<domain>(?:https?://)?[^\s/\"]+)")
VALIDATE_TIMEOUT_SECONDS = 60
NO_DNS_PROVIDER = (
    "\nasgi_proxy_acme_dns_provider: {program} list-modules tells which providers were built in;"
    " packages have none. Give a Caddy that has it with asgi_proxy_caddy_install: binary, take"
    " asgi_proxy_provider: traefik, or asgi_proxy_certificate: files"
)
RESTARTED = (
    "Caddy starts again, as its program or its unit is another one: it ends what it is answering,"
    " for at most 30 s, and until it is back connections are refused"
)


class Caddy:
    """Caddy 2.6 (Debian) and newer."""

    SHARED_FILES: Sequence[Path] = (MAIN_FILE, UNIT_FILE)

    def with_addresses(
        self, files: Mapping[str, str], former: Mapping[str, str]
    ) -> Mapping[str, str]:
        """Returns a configuration that has the addresses of a former one as well."""
        return {
            path: with_former_addresses(text, former[path])
            if Path(path).suffix == SITE_SUFFIX and path in former
            else text
            for path, text in files.items()
        }

    def site_name(self, files: Mapping[str, str]) -> str:
        """Returns the name of the file that Caddy reads for the site of an app."""
        paths = map(Path, files)
        return next((path.stem for path in paths if path.suffix == SITE_SUFFIX), "")

    def refuse_switch(self, layout: Layout, own: Sequence[str] = ()) -> None:
        """Raises where another proxy would have to give way that serves other apps too."""
        refuse_take_over("caddy", [*own_sites(layout), *own])

    @one_change()
    def switch(self, layout: Layout, slot: str) -> float:
        """Creates or removes the file that the matcher of the site looks for.

        First Caddy is told of all instances of the slot, where there were others before; only
        then it is reloaded.
        """
        know_instances(layout, slot)
        # first: a Caddy that takes the ports over must not look for the former slot
        turn_switch(layout, slot)
        return take_over("caddy", lambda: ports(read_text(MAIN_FILE)))

    def tell_balancer(self, layout: Layout) -> None:
        """The matcher of the site looks for the file itself."""

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
            files: Text of each file: main file, site files, the unit.
            absent: Files that are not to be there; somebody's own are left alone.
            settings: `program`, the path of Caddy; `balancer`, whether no rollout follows;
                `validate_only`, to change nothing, but to have Caddy read the candidate.
            check_mode: Say what would change and change nothing.

        Returns:
            `changed`, `changes` (paths), `diff`, `action` (start, restart, reload,
            take over or nothing).

        Raises:
            DeployError: The candidate is not valid, or Caddy did not take it up. The files
                are then what they were and Caddy runs with them.
        """
        before = {path: read_text(path) for path in [*files, *absent]}
        # how many instances a slot has is what its last rollout has told, not the next one
        present = version(str(settings["program"])) if files else ()
        files = {
            path: with_instances(with_tries(text, present), instances(before[path]))
            for path, text in files.items()
        }
        gone = [path for path in absent if ours(path, before[path])]
        after: dict[Path, str | None] = {**files, **dict.fromkeys(gone)}
        changed = [path for path in after if before[path] != after[path]]
        diff = [
            {
                "before_header": str(path),
                "after_header": str(path),
                "before": before[path] or "",
                "after": after[path] or "",
            }
            for path in changed
        ]
        if not files and not changed:
            # what was to be taken away is not there
            return {"changed": False, "changes": [], "diff": [], "action": ""}
        running = systemd.show([SERVICE])[0]
        program = str(settings["program"])
        replaced = bool(files) and runs_another_program(running, program)
        restart = replaced or UNIT_FILE in changed
        if not files and not running.running:
            # nobody reads them; another proxy may have the ports
            if not check_mode:
                write_files(dict.fromkeys(changed))
            return {
                "changed": True,
                "changes": [str(path) for path in changed],
                "diff": diff,
                "action": "",
            }
        other = rival("caddy") if files else ""
        result = {
            "changed": bool(changed)
            or replaced
            or (not other and (PENDING.exists() or not (running.running and running.enabled))),
            "changes": [str(path) for path in changed],
            "diff": diff,
            "action": "",
        }
        if result["changed"]:
            result["action"] = action_for(running, restart=restart)
        refuse_foreign(before.get(MAIN_FILE))
        warnings: list[str] = []
        if other:
            if settings.get("balancer"):
                refuse_on_balancer(other)
            result["action"] = TAKE_OVER
            refuse_other_sites(other, [path.stem for path in files])
            warnings.append(ANNOUNCED.format(own="Caddy", other=other))
        elif result["action"] == "restart":
            warnings.append(RESTARTED)
        warnings += of_other_sites(before, files)
        result["warnings"] = warnings
        if check_mode or not result["changed"]:
            return result
        if files and not other:
            refuse_taken_ports([SERVICE], ports(before.get(MAIN_FILE)), ports(files.get(MAIN_FILE)))
        refuse_metrics_address("caddy", before.get(MAIN_FILE), files.get(MAIN_FILE))
        # what is only taken away is read by the Caddy that runs, whatever program that is
        if files and (replaced or any(CONFIGURATION in path.parents for path in changed)):
            validate(program, after)
        if settings.get("validate_only"):
            return result
        if other:
            # it reads them when it gets the ports
            write_files({path: after[path] for path in changed})
            systemd.systemctl("daemon-reload")
            return result
        started = time.time()
        try:
            # a run that is killed before Caddy has taken the files up leaves it behind
            write_files({PENDING: ""})
            write_files({path: after[path] for path in changed})
            apply(restart=restart)
            remove(PENDING)
        except (DeployError, OSError) as error:
            lines = systemd.journal([SERVICE], started)
            write_files({path: before[path] for path in changed})
            told = "the former configuration is back"
            if not running.running:
                systemd.systemctl("stop", SERVICE, check=False)
            if not running.enabled:
                # it would try again at boot, and take ports of somebody who has them by then
                systemd.systemctl("disable", "--quiet", SERVICE, check=False)
            if running.running:
                with contextlib.suppress(DeployError):
                    apply(restart=not systemd.show([SERVICE])[0].running)
                if not systemd.show([SERVICE])[0].running:
                    told += ", but Caddy does not run with it: systemctl status caddy"
            remove(PENDING)
            raise DeployError(
                f"Caddy did not take up the new configuration; {told}.\n{error}\n"
                f"last lines of its journal:\n{lines}"
            ) from error
        return result


def action_for(caddy: systemd.UnitStatus, restart: bool) -> str:
    """Says how Caddy takes up what is on disk.

    Args:
        caddy: Its unit.
        restart: Its unit file has changed.
    """
    if not caddy.running:
        return "start"
    return "restart" if restart else "reload"


def runs_another_program(caddy: systemd.UnitStatus, program: str) -> bool:
    """Says whether Caddy still runs with what was there before its package was changed."""
    if not caddy.running:
        return False
    try:
        running = Path(f"/proc/{caddy.main_pid}/exe").readlink()
    except OSError:
        # it has just ended
        return False
    return running != Path(program).resolve()


def version(program: str) -> tuple[int, ...]:
    """Returns the version of a Caddy; that of nothing where it is not there yet, in check mode."""
    if not Path(program).is_file():
        return ()
    done = run(
        [program, "version"],
        timeout_seconds=VALIDATE_TIMEOUT_SECONDS,
        user=USER,
        environment={"HOME": str(HOME)},
    )
    return tuple(int(part) for part in re.findall(r"[0-9]+", done.stdout)[:3])


def ports(text: str | None) -> list[int]:
    """Returns the ports in a main file; nothing where there is none."""
    found = re.findall(r"^\s+https?_port ([0-9]+)$", text or "", re.MULTILINE)
    if text and not found:
        # the one of a package
        return [80, 443]
    return [int(port) for port in found]


def own_sites(layout: Layout) -> list[str]:
    """Returns the names of the sites that ask an app; a site may be called otherwise than it."""
    sockets = f"{layout.socket('', 0).parent.parent}/"
    files = SITES["caddy"].glob("*.caddy")
    return [layout.name, *(path.stem for path in files if sockets in (read_text(path) or ""))]


def instances(site: str | None) -> dict[str, int]:
    """Returns how many instances of each slot a site asks; nothing where there is no site."""
    found = UPSTREAMS.finditer(site or "")
    return {match["slot"]: match[0].count(" unix/") for match in found}


def with_instances(site: str, counts: Mapping[str, int]) -> str:
    """Returns a site that asks so many instances of the slots; of others as many as it did."""

    def block(match: re.Match[str]) -> str:
        count = counts.get(match["slot"], match[0].count(" unix/"))
        sockets = "".join(f" unix/{match['directory']}/{n}.sock" for n in range(1, count + 1))
        settings = BESIDE if count > 1 else ()
        lines = "".join(f"{match['tabs']}{line}\n" for line in settings)
        return f"reverse_proxy{match['matcher'] or ''}{sockets} {{\n{lines}{match['tabs']}"

    return UPSTREAMS.sub(block, site)


def with_tries(site: str, present: tuple[int, ...]) -> str:
    """Returns a site that asks once what this version of Caddy cannot send again.

    Where there is one upstream, all requests wait for that.
    """
    return site if present >= KEEPS_BODIES else ONCE.sub(r"\g<before>", site)


def know_instances(layout: Layout, slot: str) -> None:
    """Has Caddy ask exactly the instances of a slot that start at boot.

    One that is not there would cost requests: Caddy 2.6 asks another one, but not again what has a
    body.

    Raises:
        DeployError: Caddy did not take it up; it runs with what it had.
    """
    count = slots.enabled_instances(layout, slot)
    paths = [SITES["caddy"] / f"{name}.caddy" for name in own_sites(layout)] if count else []
    before = {path: read_text(path) or "" for path in dict.fromkeys(paths)}
    after = {path: with_instances(text, {slot: count}) for path, text in before.items()}
    changed = {path: text for path, text in after.items() if text != before[path]}
    if not changed:
        return
    try:
        write_files({PENDING: "", **changed})
        if systemd.show([SERVICE])[0].running:
            systemd.systemctl("reload", SERVICE, doing="reload Caddy")
        remove(PENDING)
    except (DeployError, OSError):
        write_files({path: before[path] for path in changed})
        remove(PENDING)
        raise


def addresses(site: str | None) -> dict[Address, str]:
    """Returns the addresses in a file of sites, and for each the variable that it is from."""
    found: dict[Address, str] = {}
    for match in ADDRESSES.finditer(site or ""):
        variable = "asgi_proxy_domains" if match["app"] else "asgi_proxy_redirect_domains"
        for one in match["all"].split(","):
            domain, slash, path = one.strip().removesuffix("/*").partition("/")
            found[domain.lower(), slash + path] = variable
    return found


def with_former_addresses(site: str, former: str) -> str:
    """Returns a site with those addresses of a former one that it has not, answered as they were.

    Args:
        site: Text of the site.
        former: Text of the former one.
    """
    present = addresses(site)
    snippets: list[str] = []
    kept: list[str] = []
    snippet = ""
    for block in BLOCK.finditer(former):
        head, body = block["head"], block["body"]
        named = SNIPPET.fullmatch(head)
        if named:
            # a dot is in no name of a site, so it is nobody else's
            snippet = named["name"]
            snippets.append(f"({snippet}.former) {{\n{body}}}\n")
            continue
        own = [one for one in head.split(", ") if not {*addresses(f"{one} {{\n")} & {*present}]
        if own:
            body = body.replace(f"import {snippet}\n", f"import {snippet}.former\n")
            kept.append(f"{', '.join(own)} {{\n{body}}}\n")
    if not kept:
        return site
    return "\n".join([site, "# Of the release before, until this one is good.", *snippets, *kept])


def of_other_sites(before: Mapping[Path, str | None], files: Mapping[Path, str]) -> list[str]:
    """Returns warnings of what other sites of the host are to be told; raises where a deploy
    would undo what they have set, or contradicts it."""
    own = next((path for path in files if path.suffix == ".caddy"), None)
    if own is None or MAIN_FILE not in files:
        return []
    others = {
        path.stem: read_text(path) or "" for path in SITES["caddy"].glob("*.caddy") if path != own
    }
    sites = {path: addresses(read_text(path)) for path in SITES["caddy"].glob("*.caddy")}
    require_free_addresses(addresses(files[own]), {p: one for p, one in sites.items() if p != own})
    refuse_other_certificate(files[own], others)
    return undone((before[MAIN_FILE], files[MAIN_FILE]), (before[own], files[own]), others)


def refuse_foreign(main_file: str | None) -> None:
    """Raises where the main file was written by somebody else."""
    if main_file is None or MARKER in main_file or main_file.startswith(PACKAGED):
        return
    raise DeployError(
        f"{MAIN_FILE} was not written by asgi.deploy and would be lost. Move its sites to"
        f" {CONFIGURATION}/sites/<name>.caddy, where they are left alone, and remove it;"
        " or set asgi_proxy_provider: none and point your own proxy at the app's sockets"
    )


@contextlib.contextmanager
def candidate(after: Mapping[Path, str | None]) -> Iterator[Path]:
    """Yields a copy of the configuration directory with the changes in it."""
    with tempfile.TemporaryDirectory(prefix="asgi-deploy-") as name:
        copy = Path(name) / "caddy"
        if CONFIGURATION.is_dir():
            shutil.copytree(CONFIGURATION, copy)
        for path, text in after.items():
            if CONFIGURATION not in path.parents:
                continue
            inside = copy / path.relative_to(CONFIGURATION)
            inside.parent.mkdir(parents=True, exist_ok=True)
            if text is None:
                inside.unlink(missing_ok=True)
            else:
                inside.write_text(text, encoding="utf-8")
        # children first: once a directory is theirs, the user could put links in it
        for path in (*copy.rglob("*"), copy, Path(name)):
            shutil.chown(path, USER, USER)
        yield copy / MAIN_FILE.name


def validate(program: str, after: Mapping[Path, str | None]) -> None:
    """Has Caddy read the candidate as its own user, who may read less than root.

    Raises:
        DeployError: With what Caddy says is wrong.
    """
    with candidate(after) as main_file:
        done = run(
            [program, "validate", "--adapter", "caddyfile", "--config", str(main_file)],
            timeout_seconds=VALIDATE_TIMEOUT_SECONDS,
            user=USER,
            environment={"HOME": str(HOME)},
            check=False,
        )
    if done.returncode != 0:
        # the last line says what is wrong, the ones before are progress as JSON
        told = tail(done.stderr, 3)
        if "module not registered: dns.providers." in told:
            told += NO_DNS_PROVIDER.format(program=program)
        ambiguous = AMBIGUOUS.search(told)
        if ambiguous:
            told += (
                f"\nasgi_proxy_domains, asgi_proxy_redirect_domains: {ambiguous['domain']} is"
                f" in another file of {SITES['caddy']} too (grep -l {ambiguous['domain']}"
                f" {SITES['caddy']}/*.caddy); leave it out of one of them"
            )
        raise DeployError(f"Caddy refuses the new configuration; nothing was changed:\n{told}")


def write_files(texts: Mapping[Path, str | None]) -> None:
    """Installs files that Caddy reads but others do not, each in one step."""
    group = pwd.getpwnam(USER).pw_gid
    for path, text in texts.items():
        if text is None:
            remove(path)
            continue
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        secret = CONFIGURATION in path.parents
        write_atomic(path, text, mode=0o640 if secret else 0o644, group=group if secret else 0)


def apply(restart: bool) -> None:
    """Has Caddy run with the installed configuration, without a gap where that can be."""
    systemd.systemctl("daemon-reload")
    systemd.systemctl("enable", "--quiet", SERVICE)
    action = action_for(systemd.show([SERVICE])[0], restart)
    if action == "start":
        systemd.systemctl("reset-failed", SERVICE, check=False)
    systemd.systemctl(action, SERVICE, doing=f"{action} Caddy")

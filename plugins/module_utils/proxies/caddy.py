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

from .. import systemd
from ..commands import run, tail
from ..errors import DeployError
from ..files import read_text, remove, write_atomic
from ..health import Answer, HealthCheck, ask_tls, tls_context
from ..layout import Layout
from .handover import (
    ANNOUNCED,
    SITES,
    TAKE_OVER,
    ours,
    refuse_other_sites,
    refuse_take_over,
    rival,
    take_over,
)
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
VALIDATE_TIMEOUT_SECONDS = 60


class Caddy:
    """Caddy 2.6 (Debian) and newer."""

    def refuse_switch(self, layout: Layout) -> None:
        """Raises where another proxy would have to give way that serves other apps too."""
        refuse_take_over("caddy", own_sites(layout))

    def switch(self, layout: Layout, slot: str) -> float:
        """Creates or removes the file that the matcher of the site looks for."""
        # first: a Caddy that takes the ports over must not look for the former slot
        turn_switch(layout, slot)
        return take_over("caddy", ports)

    def ask(self, layout: Layout, access: ProxyAccess, check: HealthCheck) -> Answer:
        """Asks over TLS on this host; only there the site says which slot answered."""
        return ask_tls(access.address, access.port, tls_context(access.ca_file), check)

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
            settings: `program`, the path of Caddy.
            check_mode: Say what would change and change nothing.

        Returns:
            `changed`, `changes` (paths), `diff`, `action` (start, restart, reload,
            take over or nothing).

        Raises:
            DeployError: The candidate is not valid, or Caddy did not take it up. The files
                are then what they were and Caddy runs with them.
        """
        before = {path: read_text(path) for path in [*files, *absent]}
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
            or (not other and (PENDING.exists() or not (running.running and running.enabled))),
            "changes": [str(path) for path in changed],
            "diff": diff,
            "action": "",
        }
        if result["changed"]:
            result["action"] = action_for(running, restart=UNIT_FILE in changed)
        refuse_foreign(before.get(MAIN_FILE))
        if other:
            result["action"] = TAKE_OVER
            refuse_other_sites(other, [path.stem for path in files])
            result["warnings"] = [ANNOUNCED.format(own="Caddy", other=other)]
        if check_mode or not result["changed"]:
            return result
        program = str(settings["program"])
        # what is only taken away is read by the Caddy that runs, whatever program that is
        if files and any(CONFIGURATION in path.parents for path in changed):
            validate(program, after)
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
            apply(restart=UNIT_FILE in changed)
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


def ports() -> list[int]:
    """Returns the ports in the installed main file."""
    text = read_text(MAIN_FILE) or ""
    return [int(port) for port in re.findall(r"^\s+https?_port ([0-9]+)$", text, re.MULTILINE)]


def own_sites(layout: Layout) -> list[str]:
    """Returns the names of the sites that ask an app; a site may be called otherwise than it."""
    sockets = f"{layout.socket('', 0).parent.parent}/"
    files = SITES["caddy"].glob("*.caddy")
    return [layout.name, *(path.stem for path in files if sockets in (read_text(path) or ""))]


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
        raise DeployError(
            f"Caddy refuses the new configuration; nothing was changed:\n{tail(done.stderr, 3)}"
        )


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

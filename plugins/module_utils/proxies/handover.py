# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From one proxy of ours to another: both want the same ports of the host.

The new one is set up while the old one serves. It gets the ports at the switch of a rollout,
when the new slot, which listens where it can ask, has passed its gate.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from .. import systemd
from ..errors import DeployError
from ..files import read_text
from ..listeners import LISTENING, TCP_TABLES, tcp_rows

#: Units of each proxy, those that hold its ports first.
UNITS = {
    "caddy": ("caddy.service",),
    "traefik": ("traefik-web.socket", "traefik-websecure.socket", "traefik.service"),
}
#: Where each has a file for each of its sites.
SITES = {"caddy": Path("/etc/caddy/sites"), "traefik": Path("/etc/traefik/dynamic")}
ANNOUNCED = (
    "{own} is set up, and gets the ports of this host from {other} when the release is rolled out;"
    " for a moment then, which the rollout tells, nobody has them"
)
#: What a driver says it does where another proxy of ours has the ports.
TAKE_OVER = "take over"
#: In every unit of ours.
MARKER = "Managed by asgi.deploy"
#: Where metrics are, in the main file of Caddy and of Traefik.
METRICS = re.compile(r'(?:^http://|"metrics": \{\s+"address": ")([^\s"]+)', re.MULTILINE)
PORTS_TIMEOUT_SECONDS = 30
POLL_SECONDS = 0.01


def ours(path: Path, text: str | None) -> bool:
    """Says whether a file may be taken away: it is ours, or not there."""
    # a note of a certificate is one line, and only we have files called so
    return text is None or MARKER in text or path.suffix == ".certificate"


def rivals(own: str) -> dict[str, tuple[str, ...]]:
    """Returns the units of the other proxies of ours; somebody's own Caddy is none of them."""
    return {
        name: units
        for name, units in UNITS.items()
        if name != own and MARKER in (read_text(systemd.SYSTEM_UNITS / f"{name}.service") or "")
    }


def rival(own: str) -> str:
    """Returns which other proxy of ours has the ports of this host; empty where none has.

    One that has failed has them too, as long as it comes up at boot and the own one is not up. One
    that a package has just enabled has not.
    """
    for name, units in rivals(own).items():
        statuses = systemd.show(units)
        if not all(at_rest(one) for one in statuses):
            return name
        if any(one.enabled for one in statuses) and not up(systemd.show(UNITS[own])):
            return name
    return ""


def up(units: Sequence[systemd.UnitStatus]) -> bool:
    """Says whether all of these units are active."""
    return all(one.active_state == "active" for one in units)


def at_rest(unit: systemd.UnitStatus) -> bool:
    """Says whether a unit does nothing and is about to do nothing: one that systemd is about to
    start again, or that has not ended yet, is not."""
    return unit.active_state in ("inactive", "failed")


def refuse_on_balancer(other: str) -> None:
    """Raises: a balancer has no rollout, at whose switch the ports would move."""
    raise DeployError(
        f"asgi_proxy_provider: {other} has the ports of this balancer, which does not move from one"
        " proxy to another while it serves. Set up another balancer beside it, or take its sites"
        f" away (the role proxy with tasks_from: remove) and stop it: systemctl disable --now"
        f" {' '.join(UNITS[other])}. Nothing was changed"
    )


def refuse_other_sites(other: str, own_sites: Sequence[str]) -> None:
    """Raises where the proxy that is to give way serves somebody else too.

    Args:
        other: That proxy.
        own_sites: Names of the sites that come along.
    """
    found = [path for path in sorted(SITES[other].glob("*.*")) if path.stem not in own_sites]
    if found:
        raise DeployError(
            f"{other} has the ports of this host and serves other sites too:"
            f" {', '.join(map(str, found))}. They would be gone: leave asgi_proxy_provider as it"
            " is, or take them away first (the role proxy with tasks_from: remove)"
        )


def refuse_take_over(own: str, own_sites: Sequence[str]) -> None:
    """Raises where a proxy would take the ports from another one that serves somebody else too.

    Not part of `take_over`: a way back must not be refused.

    Args:
        own: The proxy that is to have the ports.
        own_sites: Names of the sites that come along.
    """
    other = rival(own)
    if other:
        refuse_other_sites(other, own_sites)


def take_over(own: str, ports_of: Callable[[], Sequence[int]]) -> float:
    """Gives the ports of the host to a proxy, if another one of ours has them.

    Args:
        own: Which proxy.
        ports_of: Reads its ports.

    Returns:
        For how many seconds nobody had them; 0 where nothing was to be done.

    Raises:
        DeployError: The other one did not give them up, or the new one does not start.
    """
    others = [unit for units in rivals(own).values() for unit in units]
    if not others:
        return 0
    statuses, mine = systemd.show(others), systemd.show(UNITS[own])
    enabled = [one.name for one in statuses if one.enabled]
    busy = [one.name for one in statuses if not at_rest(one)]
    if enabled or busy:
        # before the ports move: a reboot at any moment comes up with one of them
        systemd.systemctl("enable", "--quiet", *UNITS[own])
        if enabled:
            systemd.systemctl("disable", "--quiet", *enabled)
    elif not all(one.enabled for one in mine):
        # none of the two is to run: somebody has stopped it
        return 0
    started = time.monotonic()
    if busy:
        # it closes its ports at once, and then finishes what it is answering
        systemd.systemctl("stop", "--no-block", *busy)
    # a run that was killed in here has stopped the one and not started the other
    if up(mine):
        return 0
    if busy and all(at_rest(one) for one in mine):
        ports = ports_of()
        wait_until(lambda: not listening(ports), f"free the ports {', '.join(map(str, ports))}")
    # it may have tried too often while it could not have the ports
    systemd.systemctl("reset-failed", *UNITS[own], check=False)
    systemd.systemctl("start", *UNITS[own], doing=f"start {own}")
    return round(time.monotonic() - started, 2)


def listening(ports: Sequence[int]) -> bool:
    """Says whether anybody listens on one of the ports."""
    return any(port in ports for _a, port, state in tcp_rows(TCP_TABLES) if state == LISTENING)


def refuse_taken_ports(
    units: Sequence[str], before: Collection[int], after: Collection[int]
) -> None:
    """Raises where another program has a port that a proxy is to have.

    Asked before anything is touched: a proxy that finds out by itself has given up its own ports
    by then, or needs minutes to go on as before.

    Args:
        units: Those that hold the ports of the proxy.
        before: Ports in its installed configuration.
        after: Ports in the configuration that is to come.

    Raises:
        DeployError: Which port, and how to find out whose it is.
    """
    running = any(not at_rest(one) for one in systemd.show(units))
    for port in after:
        if listening([port]) and not (running and port in before):
            raise DeployError(
                f"port {port} of the proxy: address already in use, by another program (ss -ltnp"
                f" 'sport = :{port}'); nothing was changed. End it, or give the proxy another port"
                " (asgi_proxy_https_port, asgi_proxy_http_port, asgi_proxy_traefik_api_port)"
            )


def metrics_address(text: str | None) -> str:
    """Returns where a main file has metrics, as host:port; empty for nowhere."""
    found = METRICS.search(text or "")
    return found.group(1) if found else ""


def refuse_metrics_address(own: str, before: str | None, after: str | None) -> None:
    """Raises where a proxy could not open the address of its metrics, without which it ends.

    Args:
        own: The proxy.
        before: Its installed main file.
        after: The main file that is to come.

    Raises:
        DeployError: What the kernel says of that address.
    """
    address = metrics_address(after)
    if not address:
        return
    host, _colon, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            # as the proxies do: connections that have ended do not count
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, int(port)))
            probe.listen()
    except OSError as error:
        running = any(not at_rest(one) for one in systemd.show(UNITS[own]))
        its_own = running and metrics_address(before) == address
        if error.errno == errno.EADDRINUSE and (its_own or rival(own)):
            return
        raise DeployError(
            f"asgi_proxy_metrics_address: {address} cannot be opened on this host:"
            f" {error.strerror}; nothing was changed. Write an address of this host (ip address)"
            " and a port that is free (ss -ltn)"
        ) from error


def wait_until(condition: Callable[[], bool], doing: str) -> None:
    """Waits until something is so.

    Raises:
        DeployError: It is not within the time for it.
    """
    deadline = time.monotonic() + PORTS_TIMEOUT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise DeployError(f"the former proxy did not {doing} within {PORTS_TIMEOUT_SECONDS} s")
        time.sleep(POLL_SECONDS)

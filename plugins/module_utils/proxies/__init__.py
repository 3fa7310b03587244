# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proxies: one file each, one interface.

A driver does two things. For a release it turns the proxy to a slot and asks through it. For
its own configuration it validates a candidate aside, installs it, has it taken up, and puts
the last good one back when that fails.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ..errors import DeployError
from ..health import Answer, HealthCheck
from ..layout import Layout
from ..units import environment_values
from . import caddy, external, traefik

#: The key of an ACME account in a file of Caddy, and in one of Traefik; hashes of passwords, which
#: Caddy 2.6 has as base64.
SECRET = re.compile(
    r"""(^\s*eab\ \S+\ |"hmacEncoded":\ ")[^\s"]+
    |\$2[aby]\$[./$A-Za-z0-9]+
    |JDJ[5hi]JD[A-Za-z0-9+/=]+""",
    re.MULTILINE | re.VERBOSE,
)
#: What Caddy tells a DNS provider.
DNS_OPTIONS = re.compile(r"(^\s*dns \S+ {\n)(?:.*\n)*?(?=\s*}$)", re.MULTILINE)
MASK = "********"
#: Name of the file with what a proxy reads from its environment; all in it is secret.
ENVIRONMENT = traefik.ENVIRONMENT_FILE.name


@dataclass(frozen=True)
class ProxyAccess:
    """How a rollout asks through the proxy.

    Args:
        provider: Which driver.
        domain: Name in the certificate and the Host header.
        address: Where the proxy listens on this host.
        port: Its HTTPS port.
        ca_file: The authority that signed the certificate; empty for the system's.
        timeout_seconds: How long the proxy may take to answer with the new slot.
        path: Where the app is below its domain; empty for all of it.
    """

    provider: str = "none"
    domain: str = "localhost"
    address: str = "127.0.0.1"
    port: int = 443
    ca_file: str = ""
    timeout_seconds: float = 30
    path: str = ""

    def check(self, of_instance: HealthCheck) -> HealthCheck:
        """Returns the health check of an instance as it is asked through the proxy."""
        return replace(of_instance, host=self.domain, path=f"{self.path}{of_instance.path}")


class Driver(Protocol):
    """What a proxy's file offers."""

    #: Files of its configuration that all sites of the host share.
    SHARED_FILES: Sequence[Path]

    def refuse_switch(self, layout: Layout, own: Sequence[str] = ()) -> None:
        """Raises where a rollout may not turn the proxy to the app.

        Asked before anything is touched; a way back is never refused.

        Args:
            layout: The app.
            own: Names of sites that the rollout brings.
        """

    def switch(self, layout: Layout, slot: str) -> float:
        """Turns the proxy to a slot, in one step, so that new requests go there.

        Where another proxy of ours has the ports of the host, it takes them over.

        Returns:
            For how many seconds nobody had the ports.
        """

    def tell_balancer(self, layout: Layout) -> None:
        """Has the proxy tell a balancer whether this host is ready.

        It is not while `layout.draining_file` exists.
        """

    def ask(self, layout: Layout, access: ProxyAccess, check: HealthCheck) -> Answer:
        """Asks the app through the proxy; the answer names the slot that gave it."""

    def configure(
        self,
        files: Mapping[Path, str],
        absent: Sequence[Path],
        settings: Mapping[str, Any],
        check_mode: bool,
    ) -> dict[str, Any]:
        """Makes the configuration so, or leaves it as it was and raises."""

    def with_addresses(
        self, files: Mapping[str, str], former: Mapping[str, str]
    ) -> Mapping[str, str]:
        """Returns a configuration that has the addresses of a former one as well.

        Those that both have are answered as the new one says.

        Args:
            files: Text of each file of the new one, by its path.
            former: Those of the former one.
        """

    def site_name(self, files: Mapping[str, str]) -> str:
        """Returns the name of the file that the proxy reads for the site of an app.

        Args:
            files: Text of each file of a configuration, by its path; without a site the name is
                empty.
        """


DRIVERS: dict[str, Driver] = {
    "caddy": caddy.Caddy(),
    "traefik": traefik.Traefik(),
    "none": external.External(),
}


def driver(provider: str) -> Driver:
    """Returns the driver of a proxy.

    Raises:
        DeployError: It is not one of ours.
    """
    if provider not in DRIVERS:
        raise DeployError(f"asgi_proxy_provider: {provider!r} is not one of {', '.join(DRIVERS)}")
    return DRIVERS[provider]


def access_from(values: Mapping[str, Any]) -> ProxyAccess:
    """Reads the access from a module's option or from the recorded settings."""
    known = {key: values[key] for key in ProxyAccess.__dataclass_fields__ if key in values}
    return replace(ProxyAccess(), **known)


def masked(diff: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """Returns a diff without the keys in it, also those that are on their way out."""

    def shown(text: str, path: str) -> str:
        if Path(path).name == ENVIRONMENT:
            return "".join(f"{name}={MASK}\n" for name in environment_values(text))
        return DNS_OPTIONS.sub(rf"\g<1>{MASK}\n", SECRET.sub(rf"\g<1>{MASK}", text))

    return [
        {
            key: shown(text, one["before_header"]) if key in ("before", "after") else text
            for key, text in one.items()
        }
        for one in diff
    ]

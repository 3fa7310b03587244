# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What apps on one host share: the proxy as a whole, and the certificate of a domain.

The main file and each site tell in comments which of it they were made with, so that a deploy of
one app can be told from what another one has set.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DeployError

#: Before what is the host's, in the main file and in each site.
OF_HOST = "# of the host: "
#: Before what is the domains', in each site.
OF_DOMAINS = "# of its domains: "
#: A domain and the path below it, which is empty for all of it.
Address = tuple[str, str]


def record(text: str | None, mark: str) -> dict[str, Any]:
    """Returns what a file tells after a mark; nothing where it is somebody else's, or not there."""
    for line in (text or "").splitlines():
        if line.startswith(mark):
            found: dict[str, Any] = json.loads(line[len(mark) :])
            return found
    return {}


def undone(
    main: tuple[str | None, str], own: tuple[str | None, str], others: Mapping[str, str]
) -> list[str]:
    """Looks for what a deploy would change for other sites of the host.

    Args:
        main: Main file, before and after.
        own: The site that is deployed, before and after.
        others: Text of each other site, by its name.

    Returns:
        A warning for each variable that was changed for this site, and has yet to be for others.

    Raises:
        DeployError: The site has not changed the variable, or is new, and would undo what
            another one has set.
    """
    before, after = (record(text, OF_HOST) for text in main)
    former, wanted = (record(text, OF_HOST) for text in own)
    told, refused = [], []
    for variable, value in after.items():
        if variable not in before or before[variable] == value:
            continue
        differing = sorted(
            name
            for name, text in others.items()
            if record(text, OF_HOST).get(variable, value) != value
        )
        if not differing:
            continue
        words = f"{variable}: {json.dumps(value)} is for all sites of this host"
        if former and former.get(variable) != wanted.get(variable):
            told.append(f"{words}; set it alike for {', '.join(differing)}, and deploy it")
        else:
            refused.append(
                f"{words}, which has {json.dumps(before[variable])}; it would be undone for"
                f" {', '.join(differing)}. Set it alike"
            )
    if refused:
        raise DeployError("\n".join([*refused, "Nothing was changed."]))
    return told


def refuse_other_certificate(own: str, others: Mapping[str, str]) -> None:
    """Raises where another site of a domain has its certificate from elsewhere.

    Args:
        own: The site that is deployed.
        others: Text of each other site, by its name.

    Raises:
        DeployError: Which variable, which site and which domain.
    """
    wanted = record(own, OF_DOMAINS)
    for name, text in sorted(others.items()):
        found = record(text, OF_DOMAINS)
        common = set(found.pop("domains", [])) & set(wanted.get("domains", []))
        for variable, value in found.items():
            if common and wanted.get(variable) != value:
                raise DeployError(
                    f"{variable}: {json.dumps(wanted.get(variable))} differs from"
                    f" {json.dumps(value)} of the site {name}, which has {min(common)} too, and"
                    " Caddy gets one certificate for a domain in one way. Set it alike; to change"
                    f" it, take {name} away first (the role proxy with tasks_from: remove) and"
                    " deploy both. Nothing was changed."
                )


def require_free_addresses(
    own: Mapping[Address, str], others: Mapping[Path, Collection[Address]]
) -> None:
    """Raises where another site of the host has an address of the one that is deployed.

    Args:
        own: The variable that each address of the site is from.
        others: Addresses in each other file of the proxy.

    Raises:
        DeployError: Which variable, which domain and which site.
    """
    taken = [
        (path, f"{variable}: {''.join(address)} belongs to the site {path.stem} too ({path})")
        for address, variable in sorted(own.items())
        for path in sorted(others)
        if address in others[path]
    ]
    if taken:
        names = ", ".join(sorted({path.stem for path, _words in taken}))
        raise DeployError(
            "\n".join(words for _path, words in taken)
            + "\nA request goes to one app only. Leave the domain out of one of them and deploy"
            " that one first, give each of them an asgi_proxy_path of its own, or take away"
            f" {names} (the role proxy with tasks_from: remove). Nothing was changed."
        )


def told_of_shared(changed: Sequence[Path], others: Sequence[str]) -> list[str]:
    """Returns a warning where files of the proxy as a whole change, which serves others too.

    Args:
        changed: Those files.
        others: Names of the other sites.
    """
    if not changed or not others:
        return []
    return [
        f"{', '.join(map(str, changed))} changes for all sites of this proxy, also for"
        f" {', '.join(sorted(others))}: give their apps the same variables of the proxy as a whole"
        " (README of the role proxy), or their next deploy changes it back"
    ]

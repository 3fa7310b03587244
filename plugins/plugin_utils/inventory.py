# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The hosts and groups of a run, as Ansible reads patterns of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ansible.inventory.manager import InventoryManager, split_host_pattern
from ansible.parsing.dataloader import DataLoader


class Inventory:
    """The hosts and groups, and the limit of the run.

    Args:
        groups: The hosts of each group (the variable `groups`).
        limit: The option `--limit`; empty for none.
    """

    def __init__(self, groups: Mapping[str, Sequence[str]], limit: str = "") -> None:
        self.groups = groups
        self.limit = limit
        self._manager = InventoryManager(DataLoader(), parse=False)
        for group, hosts in groups.items():
            self._manager.add_group(group)
            for host in hosts:
                self._manager.add_host(host, group=group)
        self._manager.subset(limit or None)

    def hosts(self, pattern: str | Sequence[str], limited: bool = True) -> list[str]:
        """Returns the names of the hosts that a pattern matches."""
        found = self._manager.get_hosts(pattern, ignore_limits=not limited)
        return [str(host.name) for host in found]

    def unknown(self, pattern: str | Sequence[str]) -> list[str]:
        """Returns the parts of a pattern that name no host and no group; a group may be empty."""
        parts = [part.lstrip("!&") for part in split_host_pattern(pattern)]
        # a file of --limit has lines of its own
        names = [part for part in parts if not part.startswith("@")]
        return [
            name
            for name in names
            if name not in self.groups and not self.hosts(name, limited=False)
        ]

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many instances a host carries."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .units import mebibytes

#: What the app may take of the host; the rest is for the proxy, a database, and the kernel.
MEMORY_SHARE = 0.75
#: Each has an address of its own, 127.0.1.<instance>.
MOST_INSTANCES = 250
MEMINFO = Path("/proc/meminfo")


def resources(meminfo: Path = MEMINFO) -> dict[str, int]:
    """Returns what this host has: `cores` that may be used, and `memory_mebibytes`."""
    found = re.search(r"^MemTotal: +([0-9]+) kB$", meminfo.read_text(encoding="ascii"), re.M)
    assert found is not None
    return {"cores": len(os.sched_getaffinity(0)), "memory_mebibytes": int(found[1]) // 1024}


def auto_instances(
    host: Mapping[str, Any], memory_max: str, processes_mebibytes: int = 0
) -> dict[str, Any]:
    """Returns how many instances a host carries, and why.

    One for each core: an event loop uses one. Less where the memory does not hold two slots and a
    migration at their limits.

    Args:
        host: What `resources` returned.
        memory_max: Memory of one instance, like `512M`.
        processes_mebibytes: What the other processes of the app need beside them.

    Returns:
        `instances`, and `reason` in words.
    """
    cores, memory, each = host["cores"], host["memory_mebibytes"], mebibytes(memory_max)
    held = int(((memory * MEMORY_SHARE - processes_mebibytes) / max(each, 1) - 1) / 2)
    instances = max(1, min(cores, held, MOST_INSTANCES))
    counted = f"{instances} instance{'s' if instances != 1 else ''}"
    beside = (
        f", beside {processes_mebibytes} MiB for other processes" if processes_mebibytes else ""
    )
    room = (
        f"three quarters of {memory} MiB hold two slots of {max(held, 0)} with {memory_max} each"
        f"{beside}"
    )
    return {
        "instances": instances,
        "reason": f"{counted} (auto): {cores} core{'s' if cores != 1 else ''}, {room}",
    }

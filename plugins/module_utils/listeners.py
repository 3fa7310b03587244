# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the instances of a slot listen: on unix sockets, or on ports of the host itself.

A slot listens where its socket unit says. So what is asked is what is there, also while an
app moves from one kind to the other, slot by slot.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Union

from . import systemd
from .files import read_text
from .layout import SLOTS, Layout

#: A unix socket, or address and port.
Listener = Union[Path, tuple[str, int]]
#: Stands in the text of a socket unit for the port of its slot.
PORT_MARK = "@port@"
#: Each instance has an address of its own, so that a slot needs one port.
TCP_STREAM = re.compile(r"^ListenStream=(127\.0\.1\.%i):([0-9]+)$", re.MULTILINE)
TCP_TABLE = Path("/proc/net/tcp")
TCP_TABLES = (TCP_TABLE, Path("/proc/net/tcp6"))
ESTABLISHED = "01"
LISTENING = "0A"


def slot_port(first: int, slot: str) -> int:
    """Returns the port of a slot; each has one."""
    return first + SLOTS.index(slot)


def unit_port(text: str) -> int | None:
    """Returns the port in the text of a socket unit of ours; None for a unix socket."""
    match = TCP_STREAM.search(text)
    return int(match[2]) if match else None


def installed_port(layout: Layout, slot: str) -> int | None:
    """Returns the port on which a slot listens; None where it has unix sockets or no unit."""
    return unit_port(read_text(layout.unit_file(slot, "socket")) or "")


def listener(layout: Layout, slot: str, instance: int) -> Listener:
    """Returns where one instance of a slot listens."""
    port = installed_port(layout, slot)
    return layout.socket(slot, instance) if port is None else (f"127.0.1.{instance}", port)


def tcp_rows(tables: Sequence[Path]) -> list[tuple[str, int, str]]:
    """Returns local address (as the kernel writes it), port and state of all TCP sockets."""
    rows = []
    for table in tables:
        # a kernel without IPv6 has no table of it
        for line in (read_text(table) or "").splitlines()[1:]:
            fields = line.split()
            address, port = fields[1].rsplit(":", 1)
            rows.append((address, int(port, 16), fields[3]))
    return rows


def tcp_connections(port: int, table: Path = TCP_TABLE) -> int:
    """Counts the open connections to all instances at a port."""
    # 127.0.1.x in the byte order of the machine: the proxy's own ends have other addresses
    return sum(
        1
        for address, local_port, state in tcp_rows([table])
        if local_port == port and state == ESTABLISHED and address.endswith("01007F")
    )


def port_problems(
    layout: Layout, port: int, tables: Sequence[Path] = TCP_TABLES, units: Path | None = None
) -> list[str]:
    """Returns why an app cannot listen on a port and the next one.

    Args:
        layout: The app; what it has itself is no problem.
        port: The first of its two ports.
        tables: The kernel's sockets.
        units: Directory of the unit files.
    """
    wanted = {slot_port(port, slot): slot for slot in SLOTS}
    own = {layout.unit_file(slot, "socket").name for slot in SLOTS}
    directory = units or systemd.SYSTEM_UNITS
    others = {
        found: path.name
        for path in sorted(directory.glob("*@.socket"))
        if path.name not in own
        for found in [unit_port(read_text(path) or "")]
        if found in wanted
    }
    ours = {installed_port(layout, slot) for slot in SLOTS}
    listening = {found for _address, found, state in tcp_rows(tables) if state == LISTENING}
    problems = []
    for number, slot in wanted.items():
        holder = others.get(number) or ("another program" if number in listening - ours else "")
        if holder:
            problems.append(
                f"asgi_service_port: port {number}, for slot {slot}, is taken by {holder} (ss -ltnp"
                f" 'sport = :{number}'); write a number that is free with the next one on this"
                " host, and below 32768"
            )
    return problems

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the action plugins set for their connection to a host."""

from __future__ import annotations

import hashlib
from typing import Any

#: A host that says nothing for 30 s is lost. Not over a shared connection, which has the settings
#: of whoever opened it.
OPTIONS = "-o ServerAliveInterval=10 -o ServerAliveCountMax=3"
#: Of the name of a shared connection; as short as Ansible's own, for a path of at most 108 bytes.
DIGEST_LENGTH = 10


def notice_loss(connection: Any) -> None:
    """Has a task over SSH end as unreachable when its host is lost while a module works there.

    A module says nothing until its end, so ssh would wait for what the kernel does about a
    silent connection: two hours, in which the rest of a fleet is held up. Where the user has
    set the same options, the user's count: of an option ssh takes the first.

    Args:
        connection: The connection of an action plugin.
    """
    if connection.transport == "ssh":
        # whichever of them is the first opens the connection that all share
        for program in ("ssh", "sftp", "scp"):
            own = connection.get_option(f"{program}_extra_args") or ""
            connection.set_option(f"{program}_extra_args", f"{own} {OPTIONS}")
        shared = connection.get_option("control_path") or default_path(connection)
        connection.set_option("control_path", f"{shared}-a")


def default_path(connection: Any) -> str:
    """Returns where a connection is kept open that other tasks may use.

    Ansible's own is another one: it may be open already, without the options.
    """
    words = [str(connection.get_option(name)) for name in ("host", "port", "remote_user")]
    digest = hashlib.sha256("-".join(words).encode()).hexdigest()
    return f"%(directory)s/{digest[:DIGEST_LENGTH]}"

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One change of the proxies of a host at a time: apps share their files and their ports."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from ..errors import DeployError

LOCK_FILE = Path("/run/asgi-deploy/proxy.lock")
#: Longer than a proxy may take to check a configuration and to load it, and to get its ports.
TIMEOUT_SECONDS = 300
POLL_SECONDS = 0.1


@contextlib.contextmanager
def one_change() -> Iterator[None]:
    """Keeps changes for other apps away until this one is done; the kernel ends it with us.

    Raises:
        DeployError: Another change did not end in time.
    """
    LOCK_FILE.parent.mkdir(mode=0o755, exist_ok=True)
    with LOCK_FILE.open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    raise DeployError(
                        f"the proxy is being changed for another app ({file.read().strip()}) for"
                        f" more than {TIMEOUT_SECONDS} s; nothing was changed. Try again when that"
                        " has ended"
                    ) from error
                time.sleep(POLL_SECONDS)
        file.truncate(0)
        file.write(f"pid {os.getpid()}")
        file.flush()
        yield

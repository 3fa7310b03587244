# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action plugin `lock`: says who runs, and proves on the controller that another run has ended."""

from __future__ import annotations

import getpass
import os
import time
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.asgi.deploy.plugins.module_utils.locks import has_ended, this_run
from ansible_collections.asgi.deploy.plugins.plugin_utils.connections import notice_loss

MODULE = "asgi.deploy.lock"
POLL_SECONDS = 2


def user_name() -> str:
    """Who runs this; a container may have a user without a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


class ActionModule(ActionBase):
    """Asks until the lock is there, or the time to wait for it is over."""

    _supports_check_mode = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Runs the action."""
        super().run(tmp, task_vars)
        if self._task.args.get("state") == "absent":
            # a host that was lost meanwhile must not hold up the end of the run
            notice_loss(self._connection)
        # this is a worker of ansible-playbook
        arguments = {**self._task.args, "owner": this_run(os.getppid(), user_name())}
        deadline = time.monotonic() + float(arguments.get("wait_seconds") or 0)
        told = False
        while True:
            result: dict[str, Any] = self._execute_module(MODULE, arguments, task_vars=task_vars)
            held = result.get("held") or {}
            if not held and not result.get("busy"):
                return result
            if held and arguments.get("dead") != held["run"] and has_ended(held["owner"]):
                arguments["dead"] = held["run"]
            elif time.monotonic() < deadline:
                if not told:
                    Display().display(
                        f"waiting at most {arguments['wait_seconds']} s: {result['msg']}"
                    )
                    told = True
                time.sleep(POLL_SECONDS)
            else:
                return result

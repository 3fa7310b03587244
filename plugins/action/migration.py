# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action plugin `migration`: runs the module, which works for minutes, and notices a lost host."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action.normal import ActionModule as ModuleAction
from ansible_collections.asgi.deploy.plugins.plugin_utils.connections import notice_loss


class ActionModule(ModuleAction):
    """Runs the module."""

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Runs the action."""
        notice_loss(self._connection)
        result: dict[str, Any] = super().run(tmp, task_vars)
        return result

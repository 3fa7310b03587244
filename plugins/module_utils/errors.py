# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one error of this collection: what is wrong, and what to do about it."""

from __future__ import annotations

from typing import Any


class DeployError(Exception):
    """A refusal or a failure that an operator is to read.

    Args:
        message: What happened, what was put back, and what to do.
        facts: Values that a module returns beside the message (journal lines, release ids).
    """

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts

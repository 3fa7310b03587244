# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The switch that every driver turns, and that the layout reads."""

from __future__ import annotations

from ..files import remove, write_atomic
from ..layout import SLOTS, Layout


def turn_switch(layout: Layout, slot: str) -> None:
    """Makes the switch file exist for green, and not exist for blue."""
    if slot == SLOTS[1]:
        write_atomic(layout.switch_file, "")
    else:
        remove(layout.switch_file)

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A proxy that somebody else runs: it finds the serving slot under a stable path.

`<root>/serving/sockets` is a link to the sockets of the serving slot, so that a foreign
nginx can name `unix:<root>/serving/sockets/1.sock`. It is weaker than a proxy of ours: what
that proxy keeps open to the old slot is not known here, and nothing is asked through it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import link_atomic
from ..health import Answer, HealthCheck, ask_listener
from ..layout import Layout
from .switch import turn_switch

if TYPE_CHECKING:
    from . import ProxyAccess


class External:
    """No proxy of ours."""

    SHARED_FILES: Sequence[Path] = ()

    def refuse_switch(self, layout: Layout, own: Sequence[str] = ()) -> None:
        """Nobody has to give way."""

    def switch(self, layout: Layout, slot: str) -> float:
        """Points the stable path at the sockets of a slot."""
        turn_switch(layout, slot)
        link_atomic(layout.switch_file.parent / "sockets", str(layout.socket(slot, 1).parent))
        return 0

    def tell_balancer(self, layout: Layout) -> None:
        """The foreign proxy is asked itself."""

    def ask(self, layout: Layout, access: ProxyAccess, check: HealthCheck) -> Answer:
        """Asks over the stable path, as the foreign proxy does."""
        slot = layout.serving_slot()
        answer = ask_listener(layout.switch_file.parent / "sockets" / "1.sock", check)
        return Answer(answer.healthy, answer.text, slot)

    def configure(
        self,
        files: Mapping[Path, str],
        absent: Sequence[Path],
        settings: Mapping[str, Any],
        check_mode: bool,
    ) -> dict[str, Any]:
        """Nothing here is ours to configure."""
        return {"changed": False, "changes": [], "diff": [], "action": ""}

    def with_addresses(
        self, files: Mapping[str, str], former: Mapping[str, str]
    ) -> Mapping[str, str]:
        """There are none."""
        return files

    def site_name(self, files: Mapping[str, str]) -> str:
        """There is none."""
        return ""

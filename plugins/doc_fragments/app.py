# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Options and attributes that several modules share."""

from __future__ import annotations


class ModuleDocFragment:
    """Fragments of module documentation."""

    DOCUMENTATION = r"""
options:
  name:
    description: Name of the app; its units and users carry it.
    type: str
    required: true
  root:
    description:
      - Directory of the app's releases, slots and state.
      - C(/srv/<name>) by default.
    type: path
"""

    RUN = r"""
options:
  run:
    description:
      - Names the run that this call belongs to. Refused where that run does not have the lock of
        the app (module M(asgi.deploy.lock)), or where it is empty and another run has it.
    type: str
    default: ""
"""

    ATTRIBUTES = r"""
options: {}
attributes:
  check_mode:
    description: Can run in check mode and tells what it would do.
    support: full
  diff_mode:
    description: Returns what changed in diff mode.
    support: none
  platform:
    description: Where it runs.
    support: full
    platforms: linux with systemd
"""

#!/usr/bin/python
# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module `watch`: thin; the logic is in module_utils."""

from __future__ import annotations

DOCUMENTATION = r"""
module: watch
short_description: Keeps a watch on a host that replaces instances which grow, age or hang
version_added: 1.0.0
description:
  - Installs a program on the host, as one file that belongs to root, and the unit that keeps it
    running.
  - The program looks at the instances of the slot that serves. Where one of them is too large or
    too old, it rolls the same release out in the other slot, with the same settings, environment
    and secrets, in the steps of the playbook restart. An instance that no longer answers is killed,
    and systemd starts it again.
  - It leaves the app alone while a run has it locked, and makes way for a run that begins.
author:
  - The asgi.deploy maintainers
extends_documentation_fragment:
  - asgi.deploy.app
  - asgi.deploy.app.run
  - asgi.deploy.app.attributes
options:
  state:
    description: V(present) installs the watch, V(absent) takes it away.
    type: str
    choices: [present, absent]
    default: present
  unit:
    description: Text of the unit of the watch; required with O(state=present).
    type: str
  recycle_memory:
    description: An instance that uses more in O(checks) checks is replaced, for example V(400M);
      empty for none.
    type: str
    default: ""
  recycle_age_seconds:
    description: Instances that are older, and up to a tenth more, are replaced; 0 for none.
    type: int
    default: 0
  recycle_requests:
    description: Instances that have got more requests, and up to a tenth more, are replaced; 0 for
      none. The unit of the instances must count them.
    type: int
    default: 0
  hung:
    description: Kill an instance that does not answer in O(checks) checks.
    type: bool
    default: false
  interval_seconds:
    description: Time between two checks.
    type: float
    default: 10
  checks:
    description: In how many checks one after the other something must be so.
    type: int
    default: 3
  pause_seconds:
    description: Shortest time between two rollouts of the watch.
    type: float
    default: 60
"""

EXAMPLES = r"""
- name: Watch no longer
  asgi.deploy.watch:
    name: blog
    state: absent
  become: true
"""

RETURN = r"""
changes:
  description: What changed, in words.
  returned: success
  type: list
  elements: str
  sample: [watch.json]
"""

import os
from dataclasses import asdict
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.asgi.deploy.plugins.module_utils import locks
from ansible_collections.asgi.deploy.plugins.module_utils.arguments import (
    APP_ARGUMENTS,
    RUN_ARGUMENT,
    layout_from,
)
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.results import finish
from ansible_collections.asgi.deploy.plugins.module_utils.units import mebibytes
from ansible_collections.asgi.deploy.plugins.module_utils.watch import install
from ansible_collections.asgi.deploy.plugins.module_utils.watch.rules import MEBIBYTE, Rules

ARGUMENTS = {
    **APP_ARGUMENTS,
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "unit": {"type": "str"},
    "recycle_memory": {"type": "str", "default": ""},
    "recycle_age_seconds": {"type": "int", "default": 0},
    "recycle_requests": {"type": "int", "default": 0},
    "hung": {"type": "bool", "default": False},
    "interval_seconds": {"type": "float", "default": 10},
    "checks": {"type": "int", "default": 3},
    "pause_seconds": {"type": "float", "default": 60},
    **RUN_ARGUMENT,
}


def memory_bytes(size: str) -> int:
    """Reads a limit.

    Raises:
        DeployError: It is no size.
    """
    try:
        return mebibytes(size) * MEBIBYTE if size else 0
    except ValueError as error:
        raise DeployError(f"recycle_memory: {error}") from error


def changes(params: dict[str, Any], layout: Layout, check_mode: bool) -> list[str]:
    """Makes the watch so; returns what changed."""
    if params["state"] == "absent":
        return install.uninstall(layout, check_mode)
    rules = Rules(
        recycle_memory_bytes=memory_bytes(params["recycle_memory"]),
        recycle_age_seconds=params["recycle_age_seconds"],
        recycle_requests=params["recycle_requests"],
        hung=params["hung"],
        interval_seconds=params["interval_seconds"],
        checks=params["checks"],
        pause_seconds=params["pause_seconds"],
    )
    return install.install(layout, params["unit"], asdict(rules), check_mode)


def called(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Makes the watch so, alone on the host unless nothing is to change."""
    layout = layout_from(params)
    if check_mode:
        changed = changes(params, layout, True)
    else:
        with locks.locked(layout, run=params["run"]):
            changed = changes(params, layout, False)
    return {"changed": bool(changed), "changes": changed}


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        required_if=[("state", "present", ["unit"])],
        supports_check_mode=True,
    )
    os.umask(0o022)
    finish(module, lambda: called(module.params, module.check_mode))


if __name__ == "__main__":
    main()

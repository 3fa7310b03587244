#!/usr/bin/python
# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module `lock`: thin; the logic is in module_utils, the owner comes from the action plugin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: lock
short_description: Lets one run at a time change an ASGI app on a host
version_added: 1.0.0
description:
  - Notes who changes the app, since when and for what. The other modules then refuse the calls of
    another run.
  - The lock of a run that has ended without removing it is taken over at once where it ran on the
    same controller and its process is gone, else when O(lease_seconds) have passed without a call.
author:
  - The asgi.deploy maintainers
extends_documentation_fragment:
  - asgi.deploy.app
  - asgi.deploy.app.attributes
options:
  state:
    description:
      - V(present) takes the lock, V(absent) gives it back; that of another run is left alone.
    type: str
    choices: [present, absent]
    default: present
  run:
    description: Names the run; the same name in the calls of the other modules.
    type: str
    required: true
  create:
    description: Make O(root) where it is missing; without it there is nothing to lock.
    type: bool
    default: true
  purpose:
    description: What the run is to do, for whoever is refused.
    type: str
    default: change the app
  wait_seconds:
    description: How long to wait for another run to end.
    type: int
    default: 0
  lease_seconds:
    description: How long the lock counts after the last call of its run on this host.
    type: int
    default: 3600
  group:
    description:
      - Names a group of runs of which somebody else, such as a CI system, lets one at a time be at
        work. The lock of another run of the group is taken over at once.
    type: str
    default: ""
  take_over:
    description: Take the lock from another run, of which you know that it has ended.
    type: bool
    default: false
  owner:
    description: Who runs; filled in on the controller.
    type: dict
    default: {}
  dead:
    description: A run that has been proven to have ended; filled in on the controller.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Keep deploys away
  asgi.deploy.lock:
    name: blog
    run: "{{ move_database_run }}"
    purpose: move the database
  become: true

- name: Let deploys go on
  asgi.deploy.lock:
    name: blog
    run: "{{ move_database_run }}"
    state: absent
  become: true
"""

RETURN = r"""
run:
  description: The run.
  returned: success
  type: str
  sample: 7d3e8c5a
taken_over:
  description: The lock of the run that has ended without removing it, if there was one.
  returned: O(state=present)
  type: dict
  sample: {}
busy:
  description: A call of another module is at work just now.
  returned: that refused this one
  type: bool
  sample: true
held:
  description: The lock that refused this one.
  returned: another run holds the app
  type: dict
  sample: {"run": "2026-01-31T12:00:00", "purpose": "deploy", "since": "2026-01-31T12:00:00+00:00"}
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.asgi.deploy.plugins.module_utils import locks
from ansible_collections.asgi.deploy.plugins.module_utils.arguments import (
    APP_ARGUMENTS,
    layout_from,
)
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.results import finish

ARGUMENTS = {
    **APP_ARGUMENTS,
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "run": {"type": "str", "required": True},
    "create": {"type": "bool", "default": True},
    "purpose": {"type": "str", "default": "change the app"},
    "wait_seconds": {"type": "int", "default": 0},
    "lease_seconds": {"type": "int", "default": 3600},
    "group": {"type": "str", "default": ""},
    "take_over": {"type": "bool", "default": False},
    "owner": {"type": "dict", "default": {}},
    "dead": {"type": "str", "default": ""},
}


def present(params: dict[str, Any], layout: Layout, check_mode: bool) -> dict[str, Any]:
    """Takes the lock."""
    if not params["create"] and not layout.root.exists():
        return {"changed": False, "taken_over": {}}
    held = locks.read(layout)
    if check_mode:
        stale = locks.is_stale(held, params, params["dead"])
        busy = not locks.free_for(held, params["run"]) and not stale
        return {"changed": False, "warnings": [locks.refusal(layout, held)] if busy else []}
    wanted = {key: params[key] for key in ("run", "purpose", "owner", "lease_seconds", "group")}
    dead = held.get("run", "") if params["take_over"] else params["dead"]
    former = locks.take(layout, wanted, dead)
    told = [locks.taken_over(layout, former)] if former else []
    # not a change of the host: the run leaves it as it found it
    return {"changed": False, "taken_over": former, "warnings": told}


def absent(params: dict[str, Any], layout: Layout, check_mode: bool) -> dict[str, Any]:
    """Gives the lock back."""
    if not check_mode:
        locks.give_back(layout, params["run"])
    return {"changed": False}


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    os.umask(0o022)
    act = present if module.params["state"] == "present" else absent

    def call() -> dict[str, Any]:
        params = module.params
        return {"run": params["run"], **act(params, layout_from(params), module.check_mode)}

    finish(module, call)


if __name__ == "__main__":
    main()

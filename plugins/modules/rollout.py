#!/usr/bin/python
# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module `rollout`: thin; the logic is in module_utils."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout
short_description: Brings a staged release of an ASGI app to serve on a host
version_added: 1.0.0
description:
  - Starts the release in the idle slot, proves the health of every instance, turns the proxy,
    confirms through the proxy that the new slot answers, waits until the old slot has
    answered its last request and stops it.
  - Whatever fails, the release that served goes on serving, and the module says why, with the
    lines of the journal.
  - Does nothing where the release serves already with the same units and configuration.
author:
  - The asgi.deploy maintainers
extends_documentation_fragment:
  - asgi.deploy.app
  - asgi.deploy.app.attributes
attributes:
  diff_mode:
    description: Returns how the unit files differ from those of the slot that serves.
    support: full
options:
  state:
    description:
      - V(serving) rolls out.
      - V(undone) takes back what the last rollout of O(release) did on this host, and notes that
        the release has failed; for the hosts of a fleet that moved before another one failed.
      - V(concluded) removes from the proxy the addresses that only the release before has, after a
        rollout that was good on all hosts of O(run).
      - V(absent) stops both slots and removes their units.
    type: str
    choices: [serving, concluded, undone, absent]
    default: serving
  release:
    description: Id of a staged release; by default the one that serves.
    type: str
  units:
    description:
      - Text of the unit files; C(%j) in them is the slot, C(%i) the instance.
      - Without it the host uses all settings of its last rollout, and the other options of
        this module that describe the service are ignored.
    type: dict
    suboptions:
      service:
        description: Template unit of an instance.
        type: str
        required: true
      socket:
        description: Template unit of the listener of an instance; C(@port@) in it is O(units.port)
          in slot blue, and the next one in slot green. Empty where the server makes its listener
          itself.
        type: str
        required: true
      publish:
        description: Template unit that gives the socket of an instance its name for the proxy;
          empty where the listener is systemd's.
        type: str
        default: ""
      slice:
        description: The slice of the app.
        type: str
        required: true
      port:
        description: First of the two ports of the app; 0 where it listens on unix sockets.
        type: int
        default: 0
      processes:
        description:
          - What runs beside the instances, as the filter P(asgi.deploy.process_units#filter) makes
            it, with the keys C(name), C(service), C(timer), C(calendar), C(count) and C(overlap).
        type: list
        elements: dict
        default: []
  user:
    description:
      - User of O(units.service); O(name) by default. Another one than the app has on this host is
        rejected.
    type: str
  instances:
    description: Processes of a slot.
    type: int
    default: 1
  server:
    description: The ASGI server; its exit codes are explained.
    type: str
    choices: [uvicorn, granian, hypercorn, daphne, gunicorn, gunicorn-uvicorn]
    default: uvicorn
  health:
    description:
      - What counts as healthy, with the keys C(path), C(statuses), C(body), C(host),
        C(request_timeout_seconds), C(timeout_seconds) and C(stable_seconds).
    type: dict
    default: {}
  proxy:
    description:
      - How to turn the proxy and to ask through it, with the keys C(provider), C(domain),
        C(address), C(port), C(ca_file), C(timeout_seconds) and C(path).
    type: dict
    default: {}
  settle_seconds:
    description: Shortest time between the switch and the stop of the old slot.
    type: float
    default: 3
  drain_seconds:
    description: Longest time that open connections to the old slot are waited for.
    type: float
    default: 30
  keep_releases:
    description: How many releases stay on the host.
    type: int
    default: 5
  balancer_drain_seconds:
    description:
      - How long a balancer has to notice that this host is not ready, before anything is done here.
      - With 0 it is not told.
    type: float
    default: 0
  others_serve:
    description: A balancer has other hosts to ask meanwhile; without them it is not told either.
    type: bool
    default: true
  configuration:
    description:
      - What environment and secrets are going to be, for check mode, where nobody has written
        them to the host. Without it, and without check mode, the files on the host count.
    type: dict
    suboptions:
      environment:
        description: Text of the environment file.
        type: str
      secrets:
        description: Text of the file of secrets.
        type: str
  site_changes:
    description:
      - Module M(asgi.deploy.proxy_config) would have staged another site, for check mode.
    type: bool
    default: false
  restart:
    description: Roll out even where nothing differs.
    type: bool
    default: false
  leave:
    description: The release that serves now is not to be gone back to later (rollback).
    type: bool
    default: false
  reason:
    description: Why a rollout is undone, for the history.
    type: str
    default: ""
  by:
    description: Who asked for it, for the history.
    type: str
    default: ""
  run:
    description:
      - Names the run of a fleet; V(undone) leaves alone what another run did.
      - Refused where another run has locked the app (module M(asgi.deploy.lock)).
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Go back to a release with the settings that the host remembers
  asgi.deploy.rollout:
    name: blog
    release: 1.0.0-3f2a9c81b0d4
  become: true

- name: Take up a changed environment without a failed request
  asgi.deploy.rollout:
    name: blog
    restart: true
  become: true
"""

RETURN = r"""
release:
  description: The release that serves.
  returned: success
  type: str
  sample: 1.1.0-b81b0d43f2a9
previous:
  description: The release that served before.
  returned: success
  type: str
  sample: 1.0.0-3f2a9c81b0d4
slot:
  description: The slot that serves; in check mode the one that would.
  returned: success
  type: str
  sample: green
reasons:
  description: Why a rollout was needed.
  returned: success
  type: list
  elements: str
  sample: [release 1.0.0-3f2a9c81b0d4 to 1.1.0-b81b0d43f2a9]
diff:
  description: How the unit files differ from those of the slot that served before.
  returned: success, with O(state=serving)
  type: list
  elements: dict
  sample: []
variables:
  description:
    - Names of the variables of environment and secrets that differ from those of the slot that
      served before, in the lists C(added), C(changed) and C(removed); empty where no rollout was
      needed. Values are never returned.
  returned: success, with O(state=serving)
  type: dict
  sample: {"added": ["BLOG_TITLE"], "changed": ["DATABASE_URL"], "removed": []}
limits:
  description:
    - What the rollout would wait for, and how long, as C(app.limits) of
      M(asgi.deploy.release_info).
  returned: success, in check mode
  type: dict
  sample: {"instances": 2, "health_timeout_seconds": 60, "drain_seconds": 30}
steps:
  description: The steps that were done, in their order.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The step, in words.
      type: str
      returned: always
      sample: prove its health
    seconds:
      description: How long it took.
      type: float
      returned: always
      sample: 4.1
recovered:
  description: What an earlier run left behind, and what was done with it.
  returned: success
  type: str
  sample: ""
to_conclude:
  description:
    - The proxy has addresses that only the release before has, until O(state=concluded).
  returned: success
  type: bool
  sample: false
cut_connections:
  description: Connections to the old slot that were still open when it was stopped.
  returned: success
  type: int
  sample: 0
proxy_gap_seconds:
  description: For how long nobody had the ports of the host, where another proxy took them over.
  returned: success
  type: float
  sample: 0
watched:
  description: The host has a watch of the app (module M(asgi.deploy.watch)).
  returned: success, with O(state=serving)
  type: bool
  sample: false
pruned:
  description: Removed releases.
  returned: success
  type: list
  elements: str
  sample: []
seconds:
  description: How long it took.
  returned: success
  type: float
  sample: 9.4
memory_mebibytes:
  description: Memory that the serving slot uses.
  returned: success and not in check mode
  type: int
  sample: 96
memory_max_mebibytes:
  description: Memory that the serving slot may use.
  returned: success and not in check mode
  type: int
  sample: 512
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.asgi.deploy.plugins.module_utils import locks, rollout, state
from ansible_collections.asgi.deploy.plugins.module_utils.arguments import (
    APP_ARGUMENTS,
    layout_from,
)
from ansible_collections.asgi.deploy.plugins.module_utils.belongings import own_problems
from ansible_collections.asgi.deploy.plugins.module_utils.contained import clear
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.layout import (
    CONFIGURATION_FILES,
    SLOTS,
    Layout,
)
from ansible_collections.asgi.deploy.plugins.module_utils.releases import require_python
from ansible_collections.asgi.deploy.plugins.module_utils.results import finish
from ansible_collections.asgi.deploy.plugins.module_utils.servers import SERVERS

SETTINGS = (
    "units",
    "instances",
    "server",
    "health",
    "proxy",
    "settle_seconds",
    "drain_seconds",
    "keep_releases",
    "balancer_drain_seconds",
)
ARGUMENTS = {
    **APP_ARGUMENTS,
    "state": {
        "type": "str",
        "choices": ["serving", "concluded", "undone", "absent"],
        "default": "serving",
    },
    "release": {"type": "str"},
    "units": {
        "type": "dict",
        "options": {
            **{key: {"type": "str", "required": True} for key in ("service", "socket", "slice")},
            "publish": {"type": "str", "default": ""},
            "port": {"type": "int", "default": 0},
            "processes": {"type": "list", "elements": "dict", "default": []},
        },
    },
    "user": {"type": "str"},
    "instances": {"type": "int", "default": 1},
    "server": {"type": "str", "choices": [*SERVERS], "default": "uvicorn"},
    "health": {"type": "dict", "default": {}},
    "proxy": {"type": "dict", "default": {}},
    "settle_seconds": {"type": "float", "default": 3},
    "drain_seconds": {"type": "float", "default": 30},
    "keep_releases": {"type": "int", "default": 5},
    "balancer_drain_seconds": {"type": "float", "default": 0},
    "others_serve": {"type": "bool", "default": True},
    "configuration": {
        "type": "dict",
        # as a whole: the text of an option is not known again where its lines are escaped
        "no_log": True,
        "options": {name: {"type": "str", "no_log": True} for name in CONFIGURATION_FILES},
    },
    "site_changes": {"type": "bool", "default": False},
    "restart": {"type": "bool", "default": False},
    "leave": {"type": "bool", "default": False},
    "reason": {"type": "str", "default": ""},
    "by": {"type": "str", "default": ""},
    "run": {"type": "str", "default": ""},
}


def serve(params: dict[str, Any], layout: Layout, check_mode: bool) -> dict[str, Any]:
    """Rolls out as the options say, or as the host did the last time."""
    if params["units"]:
        problems = own_problems(layout, params["user"] or layout.name, None)
        if problems:
            raise DeployError("\n".join(problems))
        recorded = {key: params[key] for key in SETTINGS}
    else:
        recorded = state.load(layout.state_file).settings
        if not recorded:
            raise DeployError(
                f"{layout.name} was never rolled out on this host ({layout.state_file}); deploy"
                " it first with the site playbook"
            )
    release = params["release"] or layout.slot_release(layout.serving_slot())
    if not release:
        raise DeployError(f"{layout.name} serves no release on this host: name one in release")
    if not params["units"]:
        # nothing builds it again in this run, so check mode rejects it too
        require_python(layout, release)
    return rollout.rollout(
        layout,
        release,
        rollout.Settings.read(recorded),
        recorded=recorded,
        by=params["by"],
        leave=params["leave"],
        others_serve=params["others_serve"],
        run=params["run"],
        force="restart" if params["restart"] else "",
        check_mode=check_mode,
        unwritten=unwritten(params) if check_mode else None,
        of_variables=bool(params["units"]),
        site_changes=params["site_changes"] and check_mode,
    )


def unwritten(params: dict[str, Any]) -> dict[str, str]:
    """Returns what environment and secrets are going to be, by the names of their files."""
    given = params["configuration"] or {}
    return {name: text for name, text in given.items() if text is not None}


def undone(layout: Layout, params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Takes a rollout back."""
    if check_mode:
        return {"changed": layout.slot_release(layout.serving_slot()) == params["release"]}
    # a module of the same run may still be at work, after its connection was lost
    with locks.locked(layout, rollout.remaining_seconds(layout), params["run"]):
        return rollout.undo(
            layout, params["release"], params["reason"], params["by"], params["run"]
        )


def concluded(layout: Layout, run: str, check_mode: bool) -> dict[str, Any]:
    """Removes what only the release before has needed of the proxy."""
    if check_mode:
        return {"changed": False}
    with locks.locked(layout, run=run):
        return rollout.conclude(layout)


def absent(layout: Layout, run: str, check_mode: bool) -> dict[str, Any]:
    """Removes what runs, where anything is there."""
    if not layout.root.exists():
        return {"changed": False}
    if check_mode:
        return {"changed": any(layout.slot_release(slot) for slot in SLOTS)}
    with locks.locked(layout, run=run):
        # whose user is removed next
        clear(layout.name)
        return {"changed": rollout.remove(layout)}


def called(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Does what the options say."""
    layout = layout_from(params)
    if params["state"] == "absent":
        return absent(layout, params["run"], check_mode)
    if params["state"] == "concluded":
        return concluded(layout, params["run"], check_mode)
    if params["state"] == "undone":
        return undone(layout, params, check_mode)
    if check_mode:
        return serve(params, layout, True)
    with locks.locked(layout, run=params["run"]):
        return serve(params, layout, False)


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        required_if=[("state", "undone", ["release"])],
        supports_check_mode=True,
    )
    os.umask(0o022)
    finish(module, lambda: called(module.params, module.check_mode))


if __name__ == "__main__":
    main()

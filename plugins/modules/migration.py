#!/usr/bin/python
# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module `migration`: thin; the logic is in module_utils."""

from __future__ import annotations

DOCUMENTATION = r"""
module: migration
short_description: Runs the migration of a release of an ASGI app once
version_added: 1.0.0
description:
  - Runs the command of a template unit for one release and waits for its end.
  - A release that was migrated is not migrated again, unless its command or its database is
    another one.
  - A migration that was begun by a run which was killed goes on under systemd. It is waited for,
    and is not run a second time where it has succeeded.
author:
  - The asgi.deploy maintainers
extends_documentation_fragment:
  - asgi.deploy.app
  - asgi.deploy.app.run
  - asgi.deploy.app.attributes
attributes:
  diff_mode:
    description: Returns how the unit files change.
    support: full
options:
  state:
    description:
      - V(applied) runs the migration. V(recorded) only notes that another host ran it.
      - V(gathered) only returns whether it is to run, in RV(reason).
    type: str
    choices: [applied, recorded, gathered]
    default: applied
  release:
    description: Id of a staged release.
    type: str
    required: true
  unit:
    description: Text of the template unit; C(%i) in it is the release.
    type: str
  record_unit:
    description:
      - Text of the template unit that requires O(unit), has nothing of the environment of the app,
        and records as root that the migration has succeeded.
    type: str
  timeout_seconds:
    description: The limit that the unit has.
    type: int
    default: 600
  command:
    description:
      - The command that O(unit) runs, of which a digest is recorded. Where another one has run for
        the release, it runs again. Where it is empty, commands are not compared.
    type: str
    default: ""
  database_url_variable:
    description:
      - Variable in the environment of the app on this host with the URL of the database. A digest
        of host, port and name is recorded, and nothing of user and password. Where the migration
        has run for the release in another database, it runs again. Where there is no such variable,
        databases are not compared.
    type: str
    default: DATABASE_URL
  planned_database:
    description:
      - In check mode, the digest of the database that the environment would name by then, see the
        filter P(asgi.deploy.database_digest#filter).
    type: str
    default: ""
  force:
    description: Run it although it has run.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Note on the other hosts that the release is migrated
  asgi.deploy.migration:
    name: blog
    release: 1.1.0-b81b0d43f2a9
    state: recorded
  become: true
"""

RETURN = r"""
name:
  description: The app.
  returned: success
  type: str
  sample: blog
release:
  description: The release.
  returned: success
  type: str
  sample: 1.1.0-b81b0d43f2a9
reason:
  description:
    - Why the migration is to run, or was run, V(new), V(forced), or V(command) or V(database),
      where it has run with another one. Empty where it has run before.
  returned: success
  type: str
  sample: new
output:
  description: What the migration printed.
  returned: it ran
  type: str
  sample: "Running upgrade 0001 -> 0002, request id"
seconds:
  description: How long it took.
  returned: it ran
  type: float
  sample: 1.3
waited_for:
  description: Units of migrations that a run which was killed had begun, and that were waited for.
  returned: it ran
  type: list
  elements: str
  sample: []
heads:
  description:
    - The newest migrations of what serves and of O(release), in the lists C(before) and
      C(after); none where nobody can tell, or the release is not built yet.
  returned: success
  type: dict
  sample: {"before": ["0001"], "after": ["0002"]}
diff:
  description: How the unit files change.
  returned: success, and the migration is pending on this host
  type: list
  elements: dict
  sample: []
"""

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.asgi.deploy.plugins.module_utils.arguments import (
    APP_ARGUMENTS,
    RUN_ARGUMENT,
    layout_from,
)
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.locks import locked
from ansible_collections.asgi.deploy.plugins.module_utils.migrations import (
    Target,
    command_digest,
    heads,
    host_database,
    migrate,
    pending,
    unit_diff,
    write_record,
)
from ansible_collections.asgi.deploy.plugins.module_utils.results import finish

ARGUMENTS = {
    **APP_ARGUMENTS,
    "state": {"type": "str", "choices": ["applied", "recorded", "gathered"], "default": "applied"},
    "release": {"type": "str", "required": True},
    "unit": {"type": "str"},
    "record_unit": {"type": "str"},
    "timeout_seconds": {"type": "int", "default": 600},
    "command": {"type": "str", "default": ""},
    "database_url_variable": {"type": "str", "default": "DATABASE_URL"},
    "planned_database": {"type": "str", "default": ""},
    "force": {"type": "bool", "default": False},
    **RUN_ARGUMENT,
}


def target_of(layout: Layout, params: dict[str, Any], check_mode: bool) -> Target:
    """Returns what the migration runs and where."""
    # in check mode the environment has not been written
    planned = params["planned_database"] if check_mode else ""
    database = planned or host_database(layout, params["database_url_variable"])
    return Target(command_digest(params["command"]), database)


def migrated(layout: Layout, params: dict[str, Any], target: Target) -> dict[str, Any]:
    """Runs the migration, or notes that it has run, where neither was done."""
    release = params["release"]
    if not pending(layout, release, target, params["force"]):
        return {"changed": False}
    if params["state"] == "recorded":
        write_record(layout, release, "ran on another host", target)
        return {"changed": True}
    texts, seconds = (params["unit"], params["record_unit"]), params["timeout_seconds"]
    return {"changed": True, **migrate(layout, release, *texts, seconds, target, params["force"])}


def called(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Does what the options say, and returns the newest migrations too."""
    layout, release = layout_from(params), params["release"]
    target = target_of(layout, params, check_mode)
    reason = pending(layout, release, target, params["force"])
    result: dict[str, Any] = {
        "name": layout.name,
        "release": release,
        "reason": reason,
        "heads": heads(layout, release),
    }
    if reason and params["state"] == "applied":
        result["diff"] = unit_diff(layout, params["unit"], params["record_unit"])
    if params["state"] == "gathered":
        return {**result, "changed": False}
    if check_mode or not reason:
        return {**result, "changed": bool(reason)}
    with locked(layout, run=params["run"]):
        return {**result, **migrated(layout, params, target)}


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        required_if=[("state", "applied", ["unit", "record_unit"])],
        supports_check_mode=True,
    )
    os.umask(0o022)
    finish(module, lambda: called(module.params, module.check_mode))


if __name__ == "__main__":
    main()

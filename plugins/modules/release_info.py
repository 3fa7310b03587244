#!/usr/bin/python
# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module `release_info`: thin; the logic is in module_utils."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_info
short_description: Tells which release of an ASGI app serves on a host, and how
version_added: 1.0.0
description:
  - Returns releases, slots, instances, memory and history of an app.
  - Tells what on this host would keep the app from being deployed.
author:
  - The asgi.deploy maintainers
extends_documentation_fragment:
  - asgi.deploy.app
  - asgi.deploy.app.attributes
options:
  user:
    description: The app's user; O(name) by default.
    type: str
  cache_dir:
    description: Cache of the app's builds, to be compared with those of other apps.
    type: path
  ask_proxy:
    description: Look at the certificate of the app's site, too.
    type: bool
    default: false
  ask_disk:
    description: Measure what the app's releases take on the disk, too.
    type: bool
    default: false
  port:
    description: First of the two ports that the app is to listen on; 0 where it needs none.
    type: int
    default: 0
  packages:
    description: Debian packages to look for.
    type: list
    elements: str
    default: []
  requirement:
    description:
      - A package with its version (C(package==version)) that a package index must have; asked of
        O(indexes), and nothing is wrong where one does not answer.
    type: str
    default: ""
  indexes:
    description: The package indexes of the app; without any it is PyPI.
    type: list
    elements: dict
    default: []
    suboptions:
      url:
        description: URL without credentials.
        type: str
        required: true
      username:
        description: User of the index.
        type: str
      password:
        description: Password or token of the index.
        type: str
  ca_file:
    description: Bundle of trusted authorities for O(indexes), a path on the host.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Ask what serves
  asgi.deploy.release_info:
    name: blog
  become: true
  register: blog
"""

RETURN = r"""
app:
  description:
    - What the host says of the app. RV(app.release) serves in RV(app.slot);
      RV(app.good_releases) are those that a rollback can go to, the newest first.
  returned: success
  type: dict
  contains:
    release:
      description: The release that serves, or none.
      type: str
      returned: always
      sample: 1.1.0-b81b0d43f2a9
    slot:
      description: The slot that serves, or none.
      type: str
      returned: always
      sample: green
    good_releases:
      description:
        - Releases on this host whose last rollout was good, but for those whose Python is gone.
      type: list
      returned: always
      sample: [1.1.0-b81b0d43f2a9, 1.0.0-3f2a9c81b0d4]
    instances:
      description: The instances of the serving slot.
      type: list
      returned: always
      sample: [{"name": "blog-green@1.service", "active_state": "active", "restarts": 0}]
    processes:
      description: What runs beside the instances of the serving slot.
      type: list
      elements: dict
      returned: always
      contains:
        name:
          description: Its name.
          type: str
          returned: always
          sample: worker
        kind:
          description: C(process) or C(timer).
          type: str
          returned: always
          sample: process
        count:
          description: How many there are to be.
          type: int
          returned: always
          sample: 2
        running:
          description: How many run; of a timer, whether it waits for its time.
          type: int
          returned: always
          sample: 2
        restarts:
          description: How often they were started again.
          type: int
          returned: always
          sample: 0
        memory_mebibytes:
          description: What they use, in MiB.
          type: int
          returned: always
          sample: 96
        result:
          description:
            - How the last run of a timer has ended, or why a process does not run; C(success)
              where all is well, else a word of systemd, as C(exit-code).
          type: str
          returned: always
          sample: success
    disk:
      description: What the releases take, with O(ask_disk); none without it.
      type: dict
      returned: always
      contains:
        releases:
          description: How many releases are on the host.
          type: int
          returned: with O(ask_disk)
          sample: 5
        releases_mebibytes:
          description: What they take together in MiB; files with several names count once.
          type: int
          returned: with O(ask_disk)
          sample: 130
        free_mebibytes:
          description: What is free on their file system, in MiB.
          type: int
          returned: with O(ask_disk)
          sample: 20480
    watch:
      description: What the watch of the app did last on this host; empty where it did nothing yet.
      type: dict
      returned: always
      sample: {"at": "2026-11-22T13:00:00+00:00", "action": "killed"}
    limits:
      description:
        - What a rollout with the settings that the host remembers waits for, and how long;
          empty where the app was never rolled out.
      type: dict
      returned: always
      sample: {"instances": 2, "health_timeout_seconds": 60, "drain_seconds": 30}
host:
  description: What the host has.
  returned: success
  type: dict
  contains:
    cores:
      description: Cores that may be used.
      type: int
      returned: always
      sample: 4
    memory_mebibytes:
      description: Memory, in MiB.
      type: int
      returned: always
      sample: 7951
missing_packages:
  description: Those of O(packages) that are not installed.
  returned: success
  type: list
  elements: str
  sample: [caddy]
missing_users:
  description: Those of the app's users that the host does not have.
  returned: success
  type: list
  elements: str
  sample: [blog, blog-build]
problems:
  description: Why the app cannot be deployed on this host; empty where it can.
  returned: success
  type: list
  elements: str
  sample: []
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.asgi.deploy.plugins.module_utils.arguments import (
    APP_ARGUMENTS,
    layout_from,
)
from ansible_collections.asgi.deploy.plugins.module_utils.downloads import index_problems
from ansible_collections.asgi.deploy.plugins.module_utils.listeners import port_problems
from ansible_collections.asgi.deploy.plugins.module_utils.report import (
    host_problems,
    missing_packages,
    missing_users,
    report,
)
from ansible_collections.asgi.deploy.plugins.module_utils.results import finish
from ansible_collections.asgi.deploy.plugins.module_utils.sizing import resources

ARGUMENTS = {
    **APP_ARGUMENTS,
    "user": {"type": "str"},
    "cache_dir": {"type": "path"},
    "ask_proxy": {"type": "bool", "default": False},
    "ask_disk": {"type": "bool", "default": False},
    "port": {"type": "int", "default": 0},
    "packages": {"type": "list", "elements": "str", "default": []},
    "requirement": {"type": "str", "default": ""},
    "indexes": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "url": {"type": "str", "required": True},
            "username": {"type": "str"},
            "password": {"type": "str", "no_log": True},
        },
    },
    "ca_file": {"type": "str", "default": ""},
}


def found(params: dict[str, Any]) -> dict[str, Any]:
    """Returns what the options ask for."""
    layout = layout_from(params)
    user = params["user"] or layout.name
    cache = Path(params["cache_dir"]) if params["cache_dir"] else None
    problems = host_problems(layout, user, cache)
    if params["port"]:
        problems += port_problems(layout, params["port"])
    if params["requirement"]:
        package, _, version = params["requirement"].partition("==")
        problems += index_problems(package, version, params["indexes"], params["ca_file"])
    return {
        "changed": False,
        "app": report(layout, params["ask_proxy"], params["ask_disk"]),
        "host": resources(),
        "missing_packages": missing_packages(params["packages"]),
        "missing_users": missing_users([user, f"{layout.name}-build"]),
        "problems": problems,
    }


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    finish(module, lambda: found(module.params))


if __name__ == "__main__":
    main()

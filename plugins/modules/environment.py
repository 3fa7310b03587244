#!/usr/bin/python
# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module `environment`: thin; the logic is in module_utils."""

from __future__ import annotations

DOCUMENTATION = r"""
module: environment
short_description: Write the environment and the secrets of an ASGI app
version_added: 1.0.0
description:
  - Writes the two environment files in C(/etc/asgi/<name>), which only root can read. An instance
    gets them at the next rollout.
  - Returns names of variables only, never a value.
author:
  - The asgi.deploy maintainers
extends_documentation_fragment:
  - asgi.deploy.app
  - asgi.deploy.app.run
  - asgi.deploy.app.attributes
options:
  environment:
    description:
      - Environment variables, as text of an C(EnvironmentFile=) of systemd
        (filter P(asgi.deploy.environment_file#filter)).
    type: str
    required: true
  secrets:
    description: Secret environment variables, as O(environment).
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Write environment and secrets
  asgi.deploy.environment:
    name: blog
    environment: "{{ {'LOG_LEVEL': 'info'} | asgi.deploy.environment_file }}"
    secrets: "{{ {'DATABASE_URL': vault_database_url} | asgi.deploy.environment_file }}"
  become: true
"""

RETURN = r"""
changes:
  description: Files that changed.
  returned: success
  type: list
  elements: str
  sample: [/etc/asgi/blog/environment]
variables:
  description: Names of the variables that were added, changed and removed.
  returned: success
  type: dict
  sample: {"added": ["LOG_LEVEL"], "changed": [], "removed": []}
"""

import os
from contextlib import nullcontext
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.asgi.deploy.plugins.module_utils.arguments import (
    APP_ARGUMENTS,
    RUN_ARGUMENT,
    layout_from,
)
from ansible_collections.asgi.deploy.plugins.module_utils.environment import write
from ansible_collections.asgi.deploy.plugins.module_utils.layout import CONFIGURATION_FILES
from ansible_collections.asgi.deploy.plugins.module_utils.locks import locked
from ansible_collections.asgi.deploy.plugins.module_utils.results import finish

ARGUMENTS = {
    **APP_ARGUMENTS,
    # the text of an option is masked as a whole: short values would mask parts of other words
    **{name: {"type": "str", "required": True, "no_log": True} for name in CONFIGURATION_FILES},
    **RUN_ARGUMENT,
}


def written(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Writes the files, alone on the host unless nothing is to change."""
    layout = layout_from(params)
    texts = {name: params[name] for name in CONFIGURATION_FILES}
    with nullcontext() if check_mode else locked(layout, run=params["run"]):
        result = write(layout, texts, check_mode)
    return {**result, "changed": bool(result["changes"])}


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    os.umask(0o022)
    finish(module, lambda: written(module.params, module.check_mode))


if __name__ == "__main__":
    main()

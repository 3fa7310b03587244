#!/usr/bin/python
# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module `proxy_config`: thin; the logic is in module_utils."""

from __future__ import annotations

DOCUMENTATION = r"""
module: proxy_config
short_description: Makes the configuration of the HTTPS proxy so, or leaves it as it was
version_added: 1.0.0
description:
  - Has the proxy read a candidate of its whole configuration aside, as its own user, installs
    it file by file, has the proxy take it up, and puts the last good one back when it does not.
  - Starts the proxy and enables it at boot.
author:
  - The asgi.deploy maintainers
extends_documentation_fragment:
  - asgi.deploy.app.attributes
attributes:
  diff_mode:
    description: Returns what changed in diff mode.
    support: full
options:
  provider:
    description: The proxy.
    type: str
    choices: [caddy, none]
    default: caddy
  files:
    description: Files of the configuration, with the keys C(path) and C(content).
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Path on the host.
        type: path
        required: true
      content:
        description: The whole text.
        type: str
        required: true
  absent:
    description: Files that are not to be there.
    type: list
    elements: path
    default: []
  program:
    description: Path of the proxy's program.
    type: path
    default: /usr/bin/caddy
  secrets:
    description: Texts in the files that are never shown.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Take the site of an app out of Caddy
  asgi.deploy.proxy_config:
    absent:
      - /etc/caddy/sites/blog.caddy
  become: true
"""

RETURN = r"""
changes:
  description: Files that changed.
  returned: success
  type: list
  elements: str
  sample: [/etc/caddy/sites/blog.caddy]
action:
  description: How the proxy takes it up, C(start), C(restart) or C(reload); empty for not at all.
  returned: success
  type: str
  sample: reload
"""

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.proxies import driver

ARGUMENTS = {
    "provider": {"type": "str", "choices": ["caddy", "none"], "default": "caddy"},
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "path": {"type": "path", "required": True},
            "content": {"type": "str", "required": True},
        },
    },
    "absent": {"type": "list", "elements": "path", "default": []},
    "program": {"type": "path", "default": "/usr/bin/caddy"},
    "secrets": {"type": "list", "elements": "str", "default": [], "no_log": True},
}


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    os.umask(0o022)
    params = module.params
    try:
        result = driver(params["provider"]).configure(
            {Path(file["path"]): file["content"] for file in params["files"]},
            [Path(path) for path in params["absent"]],
            {"program": params["program"]},
            module.check_mode,
        )
    except DeployError as error:
        module.fail_json(msg=error.message, **error.facts)
    except OSError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()

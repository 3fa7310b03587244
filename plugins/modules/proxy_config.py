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
  - asgi.deploy.app.run
  - asgi.deploy.app.attributes
attributes:
  diff_mode:
    description: Returns what changed in diff mode.
    support: full
options:
  provider:
    description: The proxy.
    type: str
    choices: [caddy, traefik, none]
    default: caddy
  name:
    description:
      - The app, no other change of which is then under way meanwhile.
      - Traefik needs it, as the file of its site depends on the slot that serves.
    type: str
    default: ""
  root:
    description: Root of the app; C(/srv/<name>) by default.
    type: path
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
    description: Files that are not to be there; those that this collection has not written stay.
    type: list
    elements: path
    default: []
  program:
    description: Path of the proxy's program.
    type: path
    default: /usr/bin/caddy
  balancer:
    description:
      - This host is a balancer. No rollout follows, at whose switch this proxy could get the ports
        from another one, so that is refused.
    type: bool
    default: false
  with_rollout:
    description:
      - A rollout of the app follows. Where the app is live, the configuration is checked and
        staged, and the rollout installs it before it switches the proxy, or restores the former
        one.
    type: bool
    default: false
  certificate:
    description:
      - A certificate that the configuration names; it is looked at before anything is touched.
    type: dict
    suboptions:
      file:
        description: The chain, PEM, the app's own certificate first.
        type: path
        required: true
      key_file:
        description: Its key, PEM.
        type: path
        required: true
      domains:
        description: Names that browsers will ask for.
        type: list
        elements: str
        required: true
      note:
        description:
          - File that keeps which certificate the proxy has taken up, so that another one under the
            same name is taken up too.
        type: path
        required: true
  environment:
    description:
      - Variables of the environment that the proxy reads at its start, in the file C(environment)
        of its configuration directory. Their values are never shown.
    type: dict
    default: {}
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
staged:
  description: The configuration waits for the next rollout of the app.
  returned: success
  type: bool
  sample: false
action:
  description:
    - How the proxy takes it up, C(start), C(restart) or C(reload); empty for not at all.
    - C(take over) where another proxy has the ports of the host until the next rollout.
  returned: success
  type: str
  sample: reload
"""

import os
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.asgi.deploy.plugins.module_utils import certificates, units
from ansible_collections.asgi.deploy.plugins.module_utils.arguments import (
    RUN_ARGUMENT,
    layout_from,
)
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.locks import locked
from ansible_collections.asgi.deploy.plugins.module_utils.proxies import (
    ENVIRONMENT,
    driver,
    masked,
    site,
)
from ansible_collections.asgi.deploy.plugins.module_utils.proxies.handover import MARKER
from ansible_collections.asgi.deploy.plugins.module_utils.proxies.site import Site
from ansible_collections.asgi.deploy.plugins.module_utils.results import finish

ARGUMENTS = {
    "provider": {"type": "str", "choices": ["caddy", "traefik", "none"], "default": "caddy"},
    "name": {"type": "str", "default": ""},
    "root": {"type": "path"},
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
    "balancer": {"type": "bool", "default": False},
    "with_rollout": {"type": "bool", "default": False},
    "certificate": {
        "type": "dict",
        "options": {
            "file": {"type": "path", "required": True},
            "key_file": {"type": "path", "required": True, "no_log": False},
            "domains": {"type": "list", "elements": "str", "required": True},
            "note": {"type": "path", "required": True},
        },
    },
    "environment": {"type": "dict", "default": {}, "no_log": True},
    "secrets": {"type": "list", "elements": "str", "default": [], "no_log": True},
    **RUN_ARGUMENT,
}


def certificate_note(certificate: dict[str, Any], check_mode: bool) -> dict[Path, str]:
    """Looks at a certificate; returns the file that notes it.

    Raises:
        DeployError: Browsers would refuse it, or the proxy could not use it.
    """
    file, key_file = Path(certificate["file"]), Path(certificate["key_file"])
    if check_mode and not (file.is_file() and key_file.is_file()):
        # a task before this one may be about to bring them
        return {}
    problems = certificates.file_problems(file, key_file, certificate["domains"])
    if problems:
        raise DeployError("\n".join([*problems, "Nothing was changed."]))
    return {Path(certificate["note"]): f"sha256 {certificates.fingerprint(file, key_file)}\n"}


def environment_file(provider: str, values: dict[str, Any]) -> dict[Path, str]:
    """Returns the file of the environment; none where there is nothing in it."""
    if not values:
        return {}
    text = f"# {MARKER}: changes here are lost at the next deploy.\n"
    return {Path("/etc") / provider / ENVIRONMENT: text + units.environment_file(values)}


def configured(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Makes the configuration so, or leaves it as it was."""
    layout = layout_from(params) if params["name"] else None
    # a balancer has nothing of the app but its site; a run that removes it may find nothing at all
    of_app = layout and (layout.root.exists() or (params["files"] and params["run"]))
    if not layout or not of_app or check_mode:
        return changed(params, layout, check_mode)
    with locked(layout, run=params["run"]):
        return changed(params, layout, check_mode)


def changed(params: dict[str, Any], layout: Layout | None, check_mode: bool) -> dict[str, Any]:
    """Has the driver make the configuration so, or stages it."""
    certificate = params["certificate"]
    noted = certificate_note(certificate, check_mode) if certificate else {}
    files = {
        **{Path(file["path"]): file["content"] for file in params["files"]},
        **environment_file(params["provider"], params["environment"]),
        **noted,
    }
    wanted = Site(
        provider=params["provider"],
        files={str(path): text for path, text in files.items()},
        absent=params["absent"],
        program=params["program"],
        secrets=[*params["secrets"], *map(str, params["environment"].values())],
    )
    # on a balancer nothing is rolled out
    of_app = layout if layout and not params["balancer"] else None
    if of_app:
        site.refuse_renamed(of_app, wanted)
    waits = bool(of_app and params["with_rollout"] and site.waits(of_app, wanted))
    if waits and of_app and not check_mode:
        # what the rollout is going to load
        files = {
            Path(path): text
            for path, text in site.merged(wanted, site.live_site(of_app)).files.items()
        }
    result = driver(params["provider"]).configure(
        files,
        [Path(path) for path in params["absent"]],
        {
            "program": params["program"],
            "layout": layout,
            "balancer": params["balancer"],
            "validate_only": waits,
        },
        check_mode,
    )
    if of_app and not check_mode:
        site.record(of_app, wanted, waits)
    # what a file had before is in none of the options
    return {**result, "staged": waits, "diff": masked(result["diff"])}


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        required_if=[("provider", "traefik", ["name"])],
        supports_check_mode=True,
    )
    os.umask(0o022)
    finish(module, lambda: configured(module.params, module.check_mode))


if __name__ == "__main__":
    main()

#!/usr/bin/python
# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Module `release`: thin; the logic is in module_utils."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release
short_description: Builds a release of an ASGI app on a host
version_added: 1.0.0
description:
  - Builds the app and its virtual environment in a directory of their own. Nothing that runs
    is touched.
  - The id of a release comes from its content, so the same content is built once.
  - Works in two steps, so that a run decides once for all hosts. Without O(plan) it reads the
    source and returns RV(plan); with O(plan) it builds what the plan says, where it is not
    there yet.
  - What is built is imported in the sandbox and with the environment of the app before it
    counts as staged.
author:
  - The asgi.deploy maintainers
extends_documentation_fragment:
  - asgi.deploy.app
  - asgi.deploy.app.attributes
options:
  source:
    description: Where the app comes from; O(source.path) or O(source.git).
    type: dict
    suboptions:
      path:
        description:
          - A directory on the controller. What its C(.gitignore) files name, version control,
            caches and virtual environments are left out.
        type: path
      exclude:
        description: More patterns to leave out of O(source.path).
        type: list
        elements: str
        default: []
      git:
        description: URL of a Git repository.
        type: str
      version:
        description: Tag, branch or whole commit of O(source.git); the commit is what counts.
        type: str
      checkout:
        description: Where O(source.git) is checked out; V(host) needs git there.
        type: str
        choices: [controller, host]
        default: controller
      username:
        description: User for O(source.git) over HTTPS.
        type: str
      password:
        description: Password or token for O(source.git) over HTTPS.
        type: str
  plan:
    description: What a call without it returned; the release in it is built.
    type: dict
  archive:
    description: The source on the host; set by the action plugin.
    type: path
  directory:
    description: Folder inside the source that has the app; also its working directory.
    type: str
    default: "."
  entrypoint:
    description: The application as C(module:attribute).
    type: str
    required: true
  server:
    description: ASGI server that the release must contain.
    type: str
    choices: [uvicorn, granian, hypercorn, daphne, gunicorn, gunicorn-uvicorn]
    default: uvicorn
  user:
    description: The app's user; O(name) by default.
    type: str
  build_user:
    description: Owner of the release; C(<name>-build) by default.
    type: str
  cache_dir:
    description: Directory of the installer's cache for this app.
    type: path
    required: true
  installer:
    description: What installs the dependencies.
    type: str
    choices: [uv, pip]
    default: uv
  uv_version:
    description: Version of uv; installed where it is missing.
    type: str
    default: ""
  python:
    description: The interpreter of the release.
    type: str
    default: python3
  extras:
    description: Optional dependencies of the project to install.
    type: list
    elements: str
    default: []
  groups:
    description: Dependency groups to install from C(uv.lock).
    type: list
    elements: str
    default: []
  index:
    description: Package index in place of PyPI.
    type: dict
    suboptions: &index
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
  extra_indexes:
    description: More package indexes.
    type: list
    elements: dict
    default: []
    suboptions: *index
  ca_file:
    description: Bundle of trusted authorities for downloads, a path on the host.
    type: str
    default: ""
  compile_bytecode:
    description: Compile at build time; the service cannot write to its release.
    type: bool
    default: true
  build_timeout_seconds:
    description: Limit for each step of the build.
    type: int
    default: 900
  minimum_free_mebibytes:
    description: Refuse to build with less room.
    type: int
    default: 512
  sandbox:
    description: What the app may do beyond the fixed sandbox, for the import check.
    type: dict
    default: {}
  run:
    description:
      - Names the run that this call belongs to. Refused where another run has locked the app
        (module M(asgi.deploy.lock)).
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Decide the release once
  asgi.deploy.release:
    name: blog
    source:
      path: "{{ playbook_dir }}/../blog"
    entrypoint: blog.main:app
    cache_dir: /var/cache/asgi/blog
  run_once: true
  register: blog_plan

- name: Build it on every host
  asgi.deploy.release:
    name: blog
    plan: "{{ blog_plan.plan }}"
    entrypoint: blog.main:app
    cache_dir: /var/cache/asgi/blog
  become: true
"""

RETURN = r"""
plan:
  description: What is to be built.
  returned: without O(plan)
  type: dict
  sample: {"release": "1.0.0-3f2a9c81b0d4", "version": "1.0.0", "commit": ""}
release:
  description: Id of the release.
  returned: with O(plan)
  type: str
  sample: 1.0.0-3f2a9c81b0d4
manifest:
  description: What the release was built from.
  returned: with O(plan), and the release is on the host
  type: dict
  sample: {"python": "3.11.2", "server_version": "0.54.0", "build_seconds": 3.1}
migrated:
  description: Whether the migration of this release has already run.
  returned: with O(plan)
  type: bool
  sample: false
"""

import os
import re
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.asgi.deploy.plugins.module_utils.arguments import layout_from
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.installers import BuildSettings
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.locks import locked
from ansible_collections.asgi.deploy.plugins.module_utils.releases import (
    StageRequest,
    read_manifest,
    refuse_without_server,
    stage,
)
from ansible_collections.asgi.deploy.plugins.module_utils.report import missing_users
from ansible_collections.asgi.deploy.plugins.module_utils.sandbox import Sandbox
from ansible_collections.asgi.deploy.plugins.module_utils.servers import SERVERS, server
from ansible_collections.asgi.deploy.plugins.module_utils.source import (
    checkout,
    git_access,
    host_checkout_plan,
    undecided_plan,
)

INDEX_OPTIONS = {
    "url": {"type": "str", "required": True},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
}
SOURCE_OPTIONS = {
    "path": {"type": "path"},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "git": {"type": "str"},
    "version": {"type": "str"},
    "checkout": {"type": "str", "choices": ["controller", "host"], "default": "controller"},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
}
ARGUMENTS = {
    "name": {"type": "str", "required": True},
    "root": {"type": "path"},
    "source": {
        "type": "dict",
        "options": SOURCE_OPTIONS,
        "mutually_exclusive": [("path", "git")],
        "required_together": [("git", "version")],
    },
    "plan": {"type": "dict"},
    "archive": {"type": "path"},
    "directory": {"type": "str", "default": "."},
    "entrypoint": {"type": "str", "required": True},
    "server": {"type": "str", "choices": [*SERVERS], "default": "uvicorn"},
    "user": {"type": "str"},
    "build_user": {"type": "str"},
    "cache_dir": {"type": "path", "required": True},
    "installer": {"type": "str", "choices": ["uv", "pip"], "default": "uv"},
    "uv_version": {"type": "str", "default": ""},
    "python": {"type": "str", "default": "python3"},
    "extras": {"type": "list", "elements": "str", "default": []},
    "groups": {"type": "list", "elements": "str", "default": []},
    "index": {"type": "dict", "options": INDEX_OPTIONS},
    "extra_indexes": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": INDEX_OPTIONS,
    },
    "ca_file": {"type": "str", "default": ""},
    "compile_bytecode": {"type": "bool", "default": True},
    "build_timeout_seconds": {"type": "int", "default": 900},
    "minimum_free_mebibytes": {"type": "int", "default": 512},
    "sandbox": {"type": "dict", "default": {}},
    "run": {"type": "str", "default": ""},
}


def build_settings(params: dict[str, Any]) -> BuildSettings:
    """Reads how to build from the options."""
    return BuildSettings(
        installer=params["installer"],
        uv_version=params["uv_version"],
        python=params["python"],
        extras=params["extras"],
        groups=params["groups"],
        index=params["index"] or {},
        extra_indexes=params["extra_indexes"],
        ca_file=params["ca_file"],
        compile_bytecode=params["compile_bytecode"],
        timeout_seconds=params["build_timeout_seconds"],
    )


def planned(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Plans a release whose source is checked out on the host.

    In check mode a new host has neither git nor the user who would call it.
    """
    source = params["source"]
    missing = missing_users([build_user(params)]) or shutil.which("git") is None
    if check_mode and missing:
        return {"changed": False, "plan": undecided_plan(source["git"])}
    access = git_access(source["git"], source["username"] or "", source["password"] or "")
    build = build_settings(params).identity(params["entrypoint"], params["directory"])
    plan = host_checkout_plan(
        source["git"], source["version"], Path("/"), access, build, build_user(params)
    )
    return {"changed": False, "plan": plan}


def build_user(params: dict[str, Any]) -> str:
    """Returns the owner of the release."""
    return str(params["build_user"] or f"{params['name']}-build")


def staged(params: dict[str, Any], layout: Layout, check_mode: bool) -> dict[str, Any]:
    """Builds the release of the plan where it is not there yet."""
    plan = params["plan"]
    release = plan["release"]
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", release):
        raise DeployError(f"plan: {release!r} is not the id of a release")
    if not re.fullmatch(r"(?:[0-9a-f]{40})?", plan["commit"]):
        raise DeployError(f"plan: {plan['commit']!r} is not a commit")
    result = {"release": release, "migrated": layout.migration_record(release).exists()}
    if layout.manifest(release).exists():
        refuse_without_server(layout, release, server(params["server"]).MODULE)
        return {**result, "changed": False, "manifest": read_manifest(layout, release)}
    if check_mode:
        return {**result, "changed": True}
    if plan["archive"] and not params["archive"]:
        return {**result, "changed": True, "needs_archive": True}
    source = params["source"] or {}
    access = git_access(
        source.get("git") or "", source.get("username") or "", source.get("password") or ""
    )
    user = params["user"] or layout.name
    owner = build_user(params)
    request = StageRequest(
        release=release,
        archive=Path(params["archive"]) if params["archive"] else None,
        checkout=lambda target: checkout(source["git"], plan["commit"], target, access, owner),
        manifest={key: plan[key] for key in ("version", "digest", "commit", "source")},
        build=build_settings(params),
        user=user,
        build_user=owner,
        cache=Path(params["cache_dir"]),
        entrypoint=params["entrypoint"],
        directory=params["directory"],
        server=server(params["server"]).MODULE,
        sandbox=Sandbox(**params["sandbox"]),
        minimum_free_mebibytes=params["minimum_free_mebibytes"],
    )
    with locked(layout, run=params["run"]):
        return {**result, "changed": True, "manifest": stage(layout, request)}


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        required_one_of=[("source", "plan")],
        supports_check_mode=True,
    )
    os.umask(0o022)
    try:
        if module.params["plan"]:
            result = staged(module.params, layout_from(module.params), module.check_mode)
        else:
            result = planned(module.params, module.check_mode)
    except DeployError as error:
        module.fail_json(msg=error.message, **error.facts)
    except OSError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()

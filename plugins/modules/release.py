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
  - The id of a release comes from its content, so the same content is built once, and again
    only where the host has no longer the Python that it was built with.
  - Works in two steps, so that a run decides once for all hosts. Without O(plan) it reads the
    source and returns RV(plan); with O(plan) it builds what the plan says, where it is not
    there yet.
  - What is built is imported in the sandbox and with the environment of the app before it
    counts as staged.
author:
  - The asgi.deploy maintainers
extends_documentation_fragment:
  - asgi.deploy.app
  - asgi.deploy.app.run
  - asgi.deploy.app.attributes
options:
  source:
    description:
      - Where the app comes from; one of O(source.path), O(source.git), O(source.archive),
        O(source.wheel) and O(source.index).
    type: dict
    suboptions:
      path:
        description:
          - A directory on the controller. What its C(.gitignore) files name, version control,
            caches and virtual environments are left out.
        type: path
      include:
        description:
          - Patterns as in a C(.gitignore) file, for files of O(source.path) that are taken although
            its C(.gitignore) files name them; one that matches nothing is an error.
        type: list
        elements: str
        default: []
      exclude:
        description: >-
          Patterns as in a C(.gitignore) file, for more to leave out of O(source.path). They come
          after O(source.include).
        type: list
        elements: str
        default: []
      git:
        description: URL of a Git repository.
        type: str
      version:
        description:
          - Tag, branch or whole commit of O(source.git); the commit is what counts.
          - Exact version of O(source.index).
        type: str
      checkout:
        description: Where O(source.git) is checked out; V(host) needs git there.
        type: str
        choices: [controller, host]
        default: controller
      username:
        description: User for O(source.git), O(source.archive) or O(source.wheel) over HTTPS.
        type: str
      password:
        description:
          - Password or token for O(source.git), O(source.archive) or O(source.wheel) over HTTPS.
        type: str
      ssh_key:
        description:
          - Private key for O(source.git) over SSH, without a passphrase, such as a deploy key. By
            default the controller uses the keys and the agent of the user who deploys.
        type: str
      ssh_known_hosts:
        description:
          - Lines of a known_hosts file with the server of O(source.git). By default the controller
            uses that of the user who deploys.
        type: str
      archive:
        description: A tar.gz or zip archive, a path on the controller or a URL.
        type: str
      wheel:
        description: A wheel, a path on the controller or a URL.
        type: str
      checksum:
        description: C(sha256:) and the digest of O(source.archive) or O(source.wheel).
        type: str
      index:
        description: A package of the package index.
        type: str
      requirements:
        description: More to install beside O(source.wheel) or O(source.index).
        type: list
        elements: str
        default: []
      lock:
        description:
          - Requirements file with the versions of all that is installed for O(source.wheel) or
            O(source.index), a path on the controller.
        type: path
      files:
        description:
          - Small text files beside O(source.wheel) or O(source.index), their contents by their
            paths.
        type: dict
        default: {}
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
    description: Dependency groups to install.
    type: list
    elements: str
    default: []
  package:
    description: Package of a uv workspace to install; by default the one in O(directory).
    type: str
    default: ""
  requirements_files:
    description:
      - Requirements files to install, or one C(pylock.toml) under another name; paths in
        O(directory). By default what is found.
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
  commands:
    description:
      - Commands that are run in the app's directory when all is installed, as O(build_user) and
        without a shell.
    type: list
    elements: str
    default: []
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
  build_memory_max:
    description:
      - Limit for each step of the build, as C(MemoryMax=) of systemd has it, for example V(2G) or
        V(75%) of the host's memory.
    type: str
    default: 75%
  minimum_free_mebibytes:
    description: Refuse to build with less room.
    type: int
    default: 512
  sandbox:
    description: What the app may do beyond the fixed sandbox, for the import check.
    type: dict
    default: {}
  memory_max:
    description: Limit for the import check, that of an instance; empty for none.
    type: str
    default: ""
  health_timeout_seconds:
    description: How long an instance may take to become healthy; the import check gets as long.
    type: float
    default: 60
  credentials:
    description:
      - Files on the host that systemd gives the app, by names of its own. Refused where one is
        missing.
    type: dict
    default: {}
  static:
    description:
      - Directories in the app's directory that the proxy may read, by their paths in URLs. Root
        copies them, but for links and hidden files, to where the proxy finds them.
    type: dict
    default: {}
  static_hashed:
    description:
      - Regular expression for names of files in O(static) that are named after their content;
        pages of all releases find them.
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
"""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.asgi.deploy.plugins.module_utils.arguments import (
    RUN_ARGUMENT,
    layout_from,
)
from ansible_collections.asgi.deploy.plugins.module_utils.belongings import record
from ansible_collections.asgi.deploy.plugins.module_utils.contained import Contained, clear
from ansible_collections.asgi.deploy.plugins.module_utils.dependencies import Dependencies
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.git_source import (
    GitAccess,
    git_access,
)
from ansible_collections.asgi.deploy.plugins.module_utils.import_check import ImportCheck
from ansible_collections.asgi.deploy.plugins.module_utils.installers import (
    Build,
    BuildSettings,
)
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.locks import locked
from ansible_collections.asgi.deploy.plugins.module_utils.releases import (
    StageRequest,
    python_problem,
    read_manifest,
    refuse_missing,
    refuse_unwritable,
    refuse_without_server,
    stage,
)
from ansible_collections.asgi.deploy.plugins.module_utils.report import missing_users
from ansible_collections.asgi.deploy.plugins.module_utils.results import finish
from ansible_collections.asgi.deploy.plugins.module_utils.sandbox import Sandbox
from ansible_collections.asgi.deploy.plugins.module_utils.servers import SERVERS, server
from ansible_collections.asgi.deploy.plugins.module_utils.source_plans import (
    checkout_on_host,
    host_checkout_plan,
    undecided_plan,
)
from ansible_collections.asgi.deploy.plugins.module_utils.static import (
    StaticFiles,
    is_published,
    publish,
)
from ansible_collections.asgi.deploy.plugins.module_utils.validation import SOURCE_KINDS

INDEX_OPTIONS = {
    "url": {"type": "str", "required": True},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
}
SOURCE_OPTIONS = {
    "path": {"type": "path"},
    "include": {"type": "list", "elements": "str", "default": []},
    "exclude": {"type": "list", "elements": "str", "default": []},
    "git": {"type": "str"},
    "version": {"type": "str"},
    "checkout": {"type": "str", "choices": ["controller", "host"], "default": "controller"},
    "username": {"type": "str"},
    "password": {"type": "str", "no_log": True},
    "ssh_key": {"type": "str", "no_log": True},
    "ssh_known_hosts": {"type": "str"},
    "archive": {"type": "str"},
    "wheel": {"type": "str"},
    "checksum": {"type": "str"},
    "index": {"type": "str"},
    "requirements": {"type": "list", "elements": "str", "default": []},
    "lock": {"type": "path"},
    "files": {"type": "dict", "default": {}},
}
ARGUMENTS = {
    "name": {"type": "str", "required": True},
    "root": {"type": "path"},
    "source": {
        "type": "dict",
        "options": SOURCE_OPTIONS,
        "mutually_exclusive": [SOURCE_KINDS],
        "required_by": {"git": ("version",), "index": ("version",)},
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
    "package": {"type": "str", "default": ""},
    "requirements_files": {"type": "list", "elements": "str", "default": []},
    "index": {"type": "dict", "options": INDEX_OPTIONS},
    "extra_indexes": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": INDEX_OPTIONS,
    },
    "commands": {"type": "list", "elements": "str", "default": []},
    "ca_file": {"type": "str", "default": ""},
    "compile_bytecode": {"type": "bool", "default": True},
    "build_timeout_seconds": {"type": "int", "default": 900},
    "build_memory_max": {"type": "str", "default": "75%"},
    "minimum_free_mebibytes": {"type": "int", "default": 512},
    "sandbox": {"type": "dict", "default": {}},
    "memory_max": {"type": "str", "default": ""},
    "health_timeout_seconds": {"type": "float", "default": 60},
    "credentials": {"type": "dict", "default": {}},
    "static": {"type": "dict", "default": {}},
    "static_hashed": {"type": "str", "default": ""},
    **RUN_ARGUMENT,
}


def build_from(params: dict[str, Any]) -> Build:
    """Reads what to build from the options."""
    settings = BuildSettings(
        installer=params["installer"],
        uv_version=params["uv_version"],
        python=params["python"],
        extras=params["extras"],
        groups=params["groups"],
        package=params["package"],
        requirements_files=params["requirements_files"],
        index=params["index"] or {},
        extra_indexes=params["extra_indexes"],
        commands=params["commands"],
        ca_file=params["ca_file"],
        compile_bytecode=params["compile_bytecode"],
        timeout_seconds=params["build_timeout_seconds"],
    )
    return Build(settings, params["entrypoint"], params["directory"])


def build_steps(params: dict[str, Any], *writable_paths: Path) -> Contained:
    """Returns what runs the steps of the build.

    Args:
        params: Options of the module.
        writable_paths: Directories that a step can write to.
    """
    name = params["name"]
    return Contained(
        app=name,
        user=build_user(params),
        writable_paths=writable_paths,
        # data and sockets of the app, whose group the build user has
        hidden_paths=[Path("/var/lib/asgi", name), Path("/run/asgi", name)],
        timeout_seconds=params["build_timeout_seconds"],
        memory_max=params["build_memory_max"],
    )


def access_from(params: dict[str, Any], steps: Contained) -> GitAccess:
    """Returns the access of this host to the repository of the source."""
    return git_access(params["source"], steps, params["ca_file"])


def planned(params: dict[str, Any], check_mode: bool) -> dict[str, Any]:
    """Plans a release whose source is checked out on the host.

    In check mode a new host has neither git nor the user who would call it.
    """
    source = params["source"]
    missing = missing_users([build_user(params)]) or shutil.which("git") is None
    if check_mode and missing:
        return {"changed": False, "plan": undecided_plan(source["git"])}
    access = access_from(params, build_steps(params))
    build = build_from(params)
    plan = host_checkout_plan(source["git"], source["version"], Path("/"), access, build)
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
    static = StaticFiles(params["static"], params["static_hashed"])
    user = params["user"] or layout.name
    result = {"release": release}
    if not check_mode:
        # a plan may come before the task that puts them there
        refuse_missing(params["credentials"])
        refuse_unwritable(params["sandbox"].get("writable_paths") or [], user)
    if layout.is_staged(release) and not python_problem(layout, release):
        refuse_without_server(layout, release, server(params["server"]).MODULE)
        changed = not is_published(layout, release, static)
        if changed and not check_mode:
            with locked(layout, run=params["run"]):
                publish(layout, release, static)
        return {**result, "changed": changed, "manifest": read_manifest(layout, release)}
    if check_mode:
        return {**result, "changed": True}
    if plan["archive"] and not params["archive"]:
        return {**result, "changed": True, "needs_archive": True}
    cache = Path(params["cache_dir"])
    steps = build_steps(params, layout.release(release), cache)
    request = StageRequest(
        release=release,
        archive=Path(params["archive"]) if params["archive"] else None,
        checkout=None if params["archive"] else checkout_from(params, plan, steps),
        manifest={key: plan[key] for key in ("version", "digest", "commit", "source")},
        dependencies=Dependencies(**plan["dependencies"]) if plan["dependencies"] else None,
        build=build_from(params),
        steps=steps,
        user=user,
        build_user=build_user(params),
        cache=cache,
        import_check=ImportCheck(
            entrypoint=params["entrypoint"],
            server=server(params["server"]).MODULE,
            user=user,
            sandbox=Sandbox(**params["sandbox"]),
            credentials=params["credentials"],
            memory_max=params["memory_max"],
            health_timeout_seconds=params["health_timeout_seconds"],
        ),
        minimum_free_mebibytes=params["minimum_free_mebibytes"],
    )
    with locked(layout, run=params["run"]):
        record(layout, user, cache)
        clear(layout.name)
        manifest = stage(layout, request)
        publish(layout, release, static)
    return {**result, "changed": True, "manifest": manifest, "warnings": manifest["notes"]}


def checkout_from(
    params: dict[str, Any], plan: dict[str, Any], steps: Contained
) -> Callable[[Path], None]:
    """Returns a function that fills a directory with the commit of the plan."""
    access = access_from(params, steps)
    return lambda target: checkout_on_host(params["source"]["git"], plan["commit"], target, access)


def main() -> None:
    """Runs the module."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        required_one_of=[("source", "plan")],
        supports_check_mode=True,
    )
    os.umask(0o022)

    def call() -> dict[str, Any]:
        params = module.params
        if params["plan"]:
            return staged(params, layout_from(params), module.check_mode)
        return planned(params, module.check_mode)

    finish(module, call)


if __name__ == "__main__":
    main()

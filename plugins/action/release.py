# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action plugin `release`: the part that runs on the controller, where the source lies."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible.plugins.action import ActionBase
from ansible_collections.asgi.deploy.plugins.module_utils import archives
from ansible_collections.asgi.deploy.plugins.module_utils.downloads import obtain
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.git_source import (
    git_access,
    hide_credentials,
)
from ansible_collections.asgi.deploy.plugins.module_utils.installers import (
    Build,
    BuildSettings,
)
from ansible_collections.asgi.deploy.plugins.module_utils.masking import Mask
from ansible_collections.asgi.deploy.plugins.module_utils.packaged import package_plan
from ansible_collections.asgi.deploy.plugins.module_utils.source_plans import (
    archive_plan,
    directory_plan,
    git_plan,
)
from ansible_collections.asgi.deploy.plugins.plugin_utils.connections import notice_loss

MODULE = "asgi.deploy.release"
COMMIT = re.compile(r"[0-9a-f]{40}")


class ActionModule(ActionBase):
    """Plans on the controller; brings the archive to the host when the host asks for it."""

    TRANSFERS_FILES = True
    _supports_check_mode = True

    def run(
        self, tmp: str | None = None, task_vars: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Runs the action."""
        super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        found: dict[str, Any] = Mask(passwords(arguments)).all(
            self._released(arguments, task_vars or {})
        )
        return found

    def _released(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Plans, or has the host plan or build; returns the result or the error."""
        source = arguments.get("source") or {}
        on_host = source.get("checkout") == "host"
        try:
            if not arguments.get("plan") and not on_host:
                return {"changed": False, "plan": plan_here(arguments, source)}
            return self._on_host(arguments, task_vars, on_host)
        except DeployError as error:
            return {"failed": True, "msg": error.message, **error.facts}
        except OSError as error:
            return {"failed": True, "msg": str(error)}

    def _on_host(
        self, arguments: dict[str, Any], task_vars: dict[str, Any], on_host: bool
    ) -> dict[str, Any]:
        """Runs the module, a second time with the archive where the host has not got it."""
        if on_host:
            notice_loss(self._connection)
        else:
            # with it the credentials of a repository that no host asks
            arguments = {key: value for key, value in arguments.items() if key != "source"}
        result: dict[str, Any] = self._execute_module(MODULE, arguments, task_vars=task_vars)
        if on_host and not arguments.get("plan"):
            require_commit(arguments["source"], result)
        # a plan that was made on a host names no file of this machine
        if not result.pop("needs_archive", False) or on_host:
            return result
        archive = Path(arguments["plan"]["archive"])
        notice_loss(self._connection)
        try:
            if not self._connection._shell.tmpdir:
                self._make_tmp_path()
            target = self._connection._shell.join_path(self._connection._shell.tmpdir, archive.name)
            self._transfer_file(str(archive), target)
            self._fixup_perms2((self._connection._shell.tmpdir, target))
            arguments["archive"] = target
            result = self._execute_module(MODULE, arguments, task_vars=task_vars)
        finally:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result


def passwords(arguments: dict[str, Any]) -> list[str]:
    """Returns the passwords of a source and of package indexes, which Ansible masks on hosts."""
    places = [arguments.get("source"), arguments.get("index")]
    places += arguments.get("extra_indexes") or []
    given = [one for one in places if isinstance(one, dict)]
    return [str(one[key]) for one in given for key in ("password", "ssh_key") if one.get(key)]


def require_commit(source: dict[str, Any], result: dict[str, Any]) -> None:
    """Raises where a host has planned another commit than the one that was written.

    It decides for all hosts.
    """
    version, found = str(source.get("version")), result.get("plan", {}).get("commit")
    if found and COMMIT.fullmatch(version) and found != version:
        raise DeployError(
            f"asgi_app_source.version: the first host planned commit {found}, not"
            f" {version}; nothing was changed. Find out who controls that host"
        )


def plan_here(arguments: dict[str, Any], source: dict[str, Any]) -> dict[str, Any]:
    """Decides the release from a source that the controller can read."""
    directory = arguments.get("directory") or "."
    settings = BuildSettings(
        installer=arguments.get("installer", "uv"),
        python=arguments.get("python", "python3"),
        extras=arguments.get("extras") or [],
        groups=arguments.get("groups") or [],
        package=arguments.get("package") or "",
        requirements_files=arguments.get("requirements_files") or [],
        index=arguments.get("index") or {},
        extra_indexes=arguments.get("extra_indexes") or [],
        commands=arguments.get("commands") or [],
    )
    build = Build(settings, arguments["entrypoint"], directory)
    # removed by Ansible when the run ends, shared by its worker processes until then
    scratch = Path(tempfile.mkdtemp(prefix="asgi-release-", dir=C.DEFAULT_LOCAL_TMP))
    if source.get("path"):
        path = Path(source["path"]).expanduser()
        exclude, include = source.get("exclude") or [], source.get("include") or []
        return directory_plan(path, scratch, build, exclude, include)
    if source.get("archive"):
        unpacked = archives.unpack(obtain("archive", source, scratch), scratch / "source")
        origin = hide_credentials(source["archive"])
        return archive_plan(unpacked, origin, scratch, build)
    if source.get("wheel") or source.get("index"):
        return package_plan(source, scratch, build)
    version = str(source["version"])
    return git_plan(source["git"], version, scratch, git_access(source), build)

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filters of asgi.deploy: one line each, the logic is in module_utils."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible import context
from ansible.errors import AnsibleFilterError
from ansible.release import __version__ as ansible_version
from ansible_collections.asgi.deploy.plugins.module_utils import (
    fleet,
    migrations,
    plan,
    processes,
    sizing,
    units,
    validation,
)
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.sandbox import Sandbox
from ansible_collections.asgi.deploy.plugins.module_utils.servers import ServerSettings, server
from ansible_collections.asgi.deploy.plugins.plugin_utils.inventory import Inventory


def server_command(settings: Mapping[str, Any], name: str) -> str:
    """Returns the command of a server after the interpreter, for ExecStart=."""
    return units.exec_line(server(name).command(ServerSettings(**settings)))


def server_traits(name: str) -> dict[str, bool]:
    """Returns what the unit of a server must know of it."""
    chosen = server(name)
    return {"inherits_socket": chosen.INHERITS_SOCKET, "has_master": chosen.HAS_MASTER}


def sandbox_directives(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the directives of the sandbox."""
    return Sandbox(**settings).directives()


def run_inventory(groups: Mapping[str, Any]) -> Inventory:
    """Returns the inventory of this run."""
    return Inventory(groups, context.CLIARGS.get("subset") or "")


def app_hosts(groups: Mapping[str, Any], wanted: Any = None) -> Any:
    """Returns the hosts of a playbook; a syntax check need not have any."""
    if context.CLIARGS.get("syntax"):
        return wanted or "asgi"
    return fleet.app_hosts(run_inventory(groups), wanted)


def balancer_hosts(groups: Mapping[str, Any], wanted: Any = None, apps: Any = None) -> Any:
    """Returns the load balancers of a playbook."""
    if context.CLIARGS.get("syntax"):
        return wanted or fleet.NO_HOST
    return fleet.balancer_hosts(run_inventory(groups), wanted, apps)


def told(function: Callable[..., Any]) -> Callable[..., Any]:
    """Lets Ansible show the errors of a function as those of a filter.

    Every playbook and every role calls a filter before it touches a host, so all of them reject a
    controller that is too old.
    """

    def call(*arguments: Any, **options: Any) -> Any:
        try:
            validation.require_ansible(ansible_version)
            return function(*arguments, **options)
        except (DeployError, ValueError) as error:
            raise AnsibleFilterError(str(error)) from error

    return call


class FilterModule:
    """The filters."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Returns the filters by name."""
        functions: dict[str, Callable[..., Any]] = {
            "app_hosts": app_hosts,
            "app_problems": validation.app_problems,
            "auto_instances": sizing.auto_instances,
            "balancer_hosts": balancer_hosts,
            "balancer_problems": validation.balancer_problems,
            "certificate_kind": validation.certificate_kind,
            "command_line": units.command_line,
            "configuration_problems": validation.configuration_problems,
            "database_digest": migrations.environment_database,
            "environment_file": units.environment_file,
            "fleet_failures": fleet.failures,
            "fleet_outcome": fleet.outcome,
            "mebibytes": units.mebibytes,
            "migrate_problems": validation.migrate_problems,
            "move_problems": processes.move_problems,
            "plan": plan.plan,
            "process_problems": processes.problems,
            "process_units": processes.units_of,
            "processes_mebibytes": processes.memory_mebibytes,
            "proxy_problems": validation.proxy_problems,
            "rollback_target": fleet.rollback_target,
            "rollout_failure": fleet.rollout_failure,
            "rollout_waits": plan.waits,
            "sandbox_directives": sandbox_directives,
            "server_command": server_command,
            "server_traits": server_traits,
            "status_table": fleet.status_table,
            "summary": fleet.summary,
            "service_problems": validation.service_problems,
        }
        return {name: told(function) for name, function in functions.items()}

"""Renders a role's templates as the role does, without a host.

Ansible's own loader reads defaults and variables of the role, and its own template lookup renders
with the collection's filters, so what comes out is what a module would get.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

ROLES = Path(__file__).resolve().parents[2] / "roles"
#: As an inventory would give them.
SPECIAL = {"inventory_hostname": "web1", "ansible_managed": "Ansible managed"}

_loader = DataLoader()


def role_file(role: str, kind: str) -> dict[str, Any]:
    """Returns the variables in `defaults` or `vars` of a role; templates in them are trusted."""
    path = ROLES / role / kind / "main.yml"
    found: dict[str, Any] = _loader.load_from_file(str(path), trusted_as_template=True)
    return found


def templar(role: str, given: Mapping[str, Any]) -> Templar:
    """Returns a templar with the variables of a role, in their order: defaults, given, vars."""
    path = str(ROLES / role)
    variables = {
        **SPECIAL,
        **role_file(role, "defaults"),
        **given,
        **role_file(role, "vars"),
        "role_path": path,
        "ansible_search_path": [path],
    }
    return Templar(_loader, variables)


def render(role: str, template: str, given: Mapping[str, Any]) -> str:
    """Renders a template of a role.

    Args:
        role: Name of the role.
        template: Path below its `templates`, without `.j2`.
        given: What a user has set.
    """
    text: str = value(role, f"lookup('ansible.builtin.template', '{template}.j2')", given)
    return text


def fill(role: str, text: str, given: Mapping[str, Any]) -> Any:
    """Returns what a text with templates in it becomes with the variables of a role."""
    return templar(role, given).template(trust_as_template(text))


def value(role: str, expression: str, given: Mapping[str, Any]) -> Any:
    """Returns the value of an expression with the variables of a role."""
    return fill(role, f"{{{{ {expression} }}}}", given)


def templates() -> list[tuple[str, str]]:
    """Returns all templates as role and path, without `.j2`."""
    return sorted(
        (path.relative_to(ROLES).parts[0], "/".join(path.relative_to(ROLES).parts[2:])[:-3])
        for path in ROLES.glob("*/templates/**/*.j2")
    )


def role_tasks_of(role: str, name: str) -> list[dict[str, Any]]:
    """Returns the tasks in a file of a role, untemplated."""
    path = ROLES / role / "tasks" / f"{name}.yml"
    found: list[dict[str, Any]] = _loader.load_from_file(str(path), trusted_as_template=True)
    return found


def proxy_task(provider: str) -> dict[str, Any]:
    """Returns the task that configures a proxy, untemplated."""
    file = {"caddy": "caddy_configure", "traefik": "traefik"}[provider]
    (task,) = [t for t in role_tasks_of("proxy", file) if "asgi.deploy.proxy_config" in t]
    return task

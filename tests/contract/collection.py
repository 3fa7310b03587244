"""Reads roles and plugins as they are written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (REPOSITORY / "roles").iterdir() if path.is_dir())
MODULES = sorted(path.stem for path in (REPOSITORY / "plugins" / "modules").glob("[!_]*.py"))
PLAYBOOKS = sorted(path.name for path in (REPOSITORY / "playbooks").glob("*.yml"))
#: Keys of a task that are not its module.
KEYWORDS = {
    "always",
    "args",
    "any_errors_fatal",
    "become",
    "become_user",
    "block",
    "changed_when",
    "check_mode",
    "delay",
    "delegate_to",
    "diff",
    "environment",
    "failed_when",
    "ignore_errors",
    "ignore_unreachable",
    "listen",
    "loop",
    "loop_control",
    "module_defaults",
    "name",
    "no_log",
    "notify",
    "poll",
    "register",
    "rescue",
    "retries",
    "run_once",
    "tags",
    "throttle",
    "until",
    "vars",
    "when",
}


class Loader(yaml.SafeLoader):
    """Reads Ansible's own tags as text."""


Loader.add_multi_constructor("!", lambda loader, _suffix, node: loader.construct_scalar(node))


@cache
def load(path: str) -> Any:
    """Returns what a YAML file below the repository says; nothing where there is none."""
    file = REPOSITORY / path
    if not file.is_file():
        return None
    return yaml.load(file.read_text(encoding="utf-8"), Loader)


def role_files(role: str, directory: str) -> list[str]:
    """Returns the YAML files of a directory of a role, from the repository."""
    found = (REPOSITORY / "roles" / role / directory).glob("**/*.yml")
    return sorted(str(path.relative_to(REPOSITORY)) for path in found)


def flatten(tasks: Any) -> Iterator[dict[str, Any]]:
    """Yields tasks, those of blocks too."""
    for task in tasks or []:
        inner = [key for key in ("block", "rescue", "always") if key in task]
        if not inner:
            yield task
        for key in inner:
            yield from flatten(task[key])


def role_tasks(role: str) -> list[tuple[str, dict[str, Any]]]:
    """Returns all tasks and handlers of a role with the file that they are in."""
    return [
        (path, task)
        for directory in ("tasks", "handlers")
        for path in role_files(role, directory)
        for task in flatten(load(path))
    ]


def playbook_tasks(name: str) -> list[tuple[str, dict[str, Any]]]:
    """Returns all tasks of a playbook."""
    path = f"playbooks/{name}"
    return [
        (path, task)
        for play in load(path)
        for key in ("pre_tasks", "tasks", "post_tasks", "handlers")
        for task in flatten(play.get(key))
    ]


def module_of(task: dict[str, Any]) -> str:
    """Returns the module of a task."""
    (found,) = [key for key in task if key not in KEYWORDS and not key.startswith("with_")]
    return found


def is_template(value: Any) -> bool:
    """Says whether a default is computed, as a whole or in a part."""
    if isinstance(value, dict):
        return any(is_template(inner) for inner in value.values())
    if isinstance(value, list):
        return any(is_template(inner) for inner in value)
    return isinstance(value, str) and bool(re.search(r"\{\{|\{%", value))

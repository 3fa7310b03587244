"""What is documented of a plugin is what it does, and the collection's own files agree."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible_collections.asgi.deploy.plugins.module_utils import validation
from contract.collection import KEYWORDS, MODULES, REPOSITORY, load, module_of
from templates.render import fill
from templates.scenarios import MINIMAL

PLUGINS = "ansible_collections.asgi.deploy.plugins"
FILTERS = sorted(importlib.import_module(f"{PLUGINS}.filter.deploy").FilterModule().filters())
DOCUMENTED = sorted(path.stem for path in (REPOSITORY / "plugins" / "filter").glob("*.yml"))


def module(name: str) -> ModuleType:
    """Returns a module."""
    return importlib.import_module(f"{PLUGINS}.modules.{name}")


@cache
def shown(kind: str, *names: str) -> dict[str, Any]:
    """Returns what ansible-doc shows of plugins, by their short names."""
    done = subprocess.run(
        [sys.executable, "-m", "ansible.cli.doc", "--json", f"--type={kind}"]
        + [f"asgi.deploy.{name}" for name in names],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / ".cache")},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {name: found.get(f"asgi.deploy.{name}") for name in names}


def documentation(name: str) -> dict[str, Any]:
    """Returns the documentation of a module with its fragments."""
    found: dict[str, Any] = shown("module", *MODULES)[name]["doc"]
    return found


def plain(options: dict[str, Any], inner: str) -> dict[str, Any]:
    """Returns of options what documentation and code both say."""
    return {
        name: {
            "type": option.get("type", "str"),
            "elements": option.get("elements"),
            "required": bool(option.get("required", False)),
            "default": option.get("default"),
            "choices": list(option["choices"]) if "choices" in option else None,
            "options": plain(option.get(inner) or {}, inner),
        }
        for name, option in options.items()
    }


@pytest.mark.parametrize("name", MODULES)
def test_the_documented_options_are_those_of_the_module(name: str) -> None:
    told = plain(documentation(name)["options"], "suboptions")
    assert told == plain(module(name).ARGUMENTS, "options")


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_documented(name: str) -> None:
    found = documentation(name)
    assert found["module"] == name
    assert re.fullmatch(r"\d+\.\d+\.\d+", found["version_added"])
    assert not found["short_description"].endswith(".")
    assert {"check_mode", "diff_mode", "platform"} <= set(found["attributes"])
    check_mode = found["attributes"]["check_mode"]["support"] == "full"
    source = (REPOSITORY / "plugins" / "modules" / f"{name}.py").read_text()
    assert check_mode is ("supports_check_mode=True" in source)

    def undescribed(options: dict[str, Any]) -> list[str]:
        return [
            key
            for key, option in options.items()
            if not option.get("description") or undescribed(option.get("suboptions", {}))
        ]

    assert undescribed(found["options"]) == []


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_would_run(name: str) -> None:
    tasks = yaml.safe_load(module(name).EXAMPLES)
    assert tasks
    assert [task["name"] for task in tasks if set(task) - KEYWORDS != {module_of(task)}] == []
    own = [task[f"asgi.deploy.{name}"] for task in tasks if f"asgi.deploy.{name}" in task]
    assert own
    arguments = module(name).ARGUMENTS
    required = {key for key, option in arguments.items() if option.get("required")}
    for given in own:
        assert set(given) <= set(arguments)
        assert required <= set(given)
    assert [task for task in tasks if "." not in module_of(task)] == []


@pytest.mark.parametrize("name", MODULES)
def test_what_a_module_returns_is_described(name: str) -> None:
    found = yaml.safe_load(module(name).RETURN)
    assert found
    for key, told in found.items():
        assert {"description", "returned", "type"} <= set(told), key
        assert told["type"] != "list" or "elements" in told or "contains" in told, key


def secret_options(options: dict[str, Any]) -> list[str]:
    """Returns options whose names say that they are secret and that a log may show."""
    return [
        name
        for name, option in options.items()
        if (re.search(r"password|token|secret", name) and not option.get("no_log"))
        or secret_options(option.get("options", {}))
    ]


@pytest.mark.parametrize("name", MODULES)
def test_secrets_of_a_module_are_never_logged(name: str) -> None:
    assert secret_options(module(name).ARGUMENTS) == []


@pytest.mark.parametrize("name", MODULES)
def test_a_module_returns_by_the_one_way_that_masks_secrets(name: str) -> None:
    source = (REPOSITORY / "plugins" / "modules" / f"{name}.py").read_text()
    assert "    finish(module, " in source
    assert not re.search(r"\b(exit_json|fail_json|warn)\(", source)


# --- filters --------------------------------------------------------------------------------------


def test_every_filter_is_documented_and_nothing_else_is() -> None:
    assert DOCUMENTED == FILTERS


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_documentation_of_a_filter(name: str) -> None:
    found = load(f"plugins/filter/{name}.yml")
    told = found["DOCUMENTATION"]
    assert told["name"] == name
    assert re.fullmatch(r"\d+\.\d+\.\d+", told["version_added"])
    assert told["author"]
    assert told["options"]["_input"]["required"] is True
    others = [key for key in told["options"] if key != "_input"]
    assert told.get("positional", "").replace(",", " ").split() == others
    assert [key for key, option in told["options"].items() if not option["description"]] == []
    assert {"description", "type"} <= set(found["RETURN"]["_value"])
    tasks = yaml.safe_load(found["EXAMPLES"])
    assert f"asgi.deploy.{name}" in found["EXAMPLES"]
    assert [task for task in tasks if not module_of(task).startswith("ansible.builtin.")] == []


@pytest.mark.parametrize("name", FILTERS)
def test_ansible_doc_shows_the_filter(name: str) -> None:
    found = shown("filter", *FILTERS)[name]
    assert found is not None
    assert found["doc"]["name"] == name
    assert found["return"]


@pytest.mark.parametrize("name", ["certificate_kind", "command_line", "mebibytes"])
def test_the_example_of_a_filter_gives_what_it_says(name: str) -> None:
    """The comment before the text has the result."""
    text = load(f"plugins/filter/{name}.yml")["EXAMPLES"]
    (task,) = yaml.safe_load(text)
    told = re.search(r"# (.+)\n", text)
    assert told is not None
    assert fill("service", task["ansible.builtin.debug"]["msg"], MINIMAL) == told[1]


# --- the collection -------------------------------------------------------------------------------


def test_all_modules_are_in_the_action_group() -> None:
    assert load("meta/runtime.yml")["action_groups"]["all"] == MODULES


def test_an_action_plugin_belongs_to_a_module() -> None:
    actions = {path.stem for path in (REPOSITORY / "plugins" / "action").glob("[!_]*.py")}
    assert actions <= set(MODULES)


def test_galaxy_yml_describes_the_collection() -> None:
    galaxy = load("galaxy.yml")
    assert (galaxy["namespace"], galaxy["name"]) == ("asgi", "deploy")
    assert re.fullmatch(r"\d+\.\d+\.\d+", galaxy["version"])
    # no other collection is needed
    assert galaxy["dependencies"] == {}
    assert galaxy["license"] == ["GPL-3.0-or-later"]
    assert (REPOSITORY / "LICENSE").is_file()
    assert (REPOSITORY / galaxy["readme"]).is_file()
    assert all(re.fullmatch(r"[a-z][a-z0-9]*", tag) for tag in galaxy["tags"])
    # one of those that Galaxy asks for
    assert {"application", "infrastructure", "linux", "tools"} & set(galaxy["tags"])


def test_only_what_users_need_is_shipped() -> None:
    ignored = load("galaxy.yml")["build_ignore"]
    shipped = {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "README.md", "changelogs", "docs"}
    shipped |= {"galaxy.yml", "meta", "playbooks", "plugins", "roles"}
    if not (REPOSITORY / ".git").exists():
        pytest.skip("this is no checkout of git, so what belongs to it is not known")
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"],
        cwd=REPOSITORY,
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    tracked = {path.split("/")[0] for path in listed.stdout.split("\0") if path}
    assert tracked - shipped - set(ignored) == set()


def test_the_oldest_ansible_is_the_same_everywhere() -> None:
    assert load("meta/runtime.yml")["requires_ansible"] == f">={validation.MINIMUM_ANSIBLE}"
    floor = validation.MINIMUM_ANSIBLE.rpartition(".")[0]
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert f"ansible-core {validation.MINIMUM_ANSIBLE} or newer" in readme
    assert f'"ansible-core>={floor}"' in (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    for path in sorted((REPOSITORY / "roles").glob("*/meta/main.yml")):
        meta = load(str(path.relative_to(REPOSITORY)))
        assert meta["galaxy_info"]["min_ansible_version"] == floor
        assert meta["dependencies"] == []


@pytest.mark.parametrize(
    "path", sorted(str(p.relative_to(REPOSITORY)) for p in REPOSITORY.glob("plugins/**/*.py"))
)
def test_every_plugin_names_its_licence(path: str) -> None:
    head = (REPOSITORY / path).read_text(encoding="utf-8")[:400]
    assert "SPDX-License-Identifier: GPL-3.0-or-later" in head
    assert "GNU General Public License v3.0+" in head

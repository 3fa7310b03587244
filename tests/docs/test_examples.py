"""What the documents say can be typed: playbooks, variables, commands, names and links."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / "roles" / role / "README.md" for role in ROLES),
]
#: Variables of the playbooks themselves; the table in README.md has them.
PLAYBOOK_VARIABLES = {
    "asgi_hosts",
    "asgi_balancers",
    "asgi_serial",
    "asgi_release",
    "asgi_rollback_across_migration",
    "asgi_remove_data",
    "asgi_status_json",
}
NAME = re.compile(r"\basgi_[a-z0-9_]*[a-z0-9](?![a-z0-9_*<])")


def option_specs() -> dict[str, dict[str, Any]]:
    """The options of all roles by their names; app, which describes the app, goes first."""
    found: dict[str, dict[str, Any]] = {}
    for role in ["app", *ROLES]:
        text = (ROOT / "roles" / role / "meta" / "argument_specs.yml").read_text()
        entries = yaml.safe_load(text)["argument_specs"].values()
        for name, option in (pair for entry in entries for pair in entry["options"].items()):
            found.setdefault(name, option)
    return found


def set_by_us(value: Any) -> Iterator[str]:
    """Yields the variables that tasks and plays set themselves (set_fact, vars)."""
    if isinstance(value, list):
        for one in value:
            yield from set_by_us(one)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if str(key).startswith("asgi_"):
                yield key
            yield from set_by_us(inner)


SPECS = option_specs()
FACTS = {
    name
    for pattern in ("playbooks/*.yml", "roles/*/tasks/*.yml")
    for path in ROOT.glob(pattern)
    for name in set_by_us(yaml.safe_load(path.read_text()))
}
PLAYBOOKS = {path.stem for path in (ROOT / "playbooks").glob("*.yml")}
MODULES = {path.stem for path in (ROOT / "plugins" / "modules").glob("*.py")}


@dataclass(frozen=True)
class Block:
    """A block of code in a document."""

    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks(language: str) -> list[Block]:
    """The blocks of all documents in one language."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(document, line, match[1], match[2]))
    return [block for block in found if block.language == language]


def kind(value: Any) -> str:
    """Says what a YAML block is: a playbook, variables, an inventory, or nothing known."""
    if isinstance(value, list) and value:
        plays = [isinstance(one, dict) and {"hosts", "import_playbook"} & set(one) for one in value]
        return "playbook" if all(plays) else ""
    if not isinstance(value, dict) or not value:
        return ""
    if all(str(key).startswith("asgi_") for key in value):
        return "variables"
    groups = [isinstance(group, dict) and "hosts" in group for group in value.values()]
    return "inventory" if all(groups) else ""


def variables(value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the variables of this collection that a value sets, at any depth."""
    if isinstance(value, list):
        for one in value:
            yield from variables(one)
    elif isinstance(value, dict):
        for key, inner in value.items():
            if str(key).startswith("asgi_"):
                yield key, inner
            else:
                yield from variables(inner)


def problems(name: str, value: Any) -> list[str]:
    """Returns what is wrong with a variable: its name, or its value by the role's own spec."""
    if name in PLAYBOOK_VARIABLES:
        return []
    if name not in SPECS:
        return [f"{name}: no role has such a variable"]
    checked = ArgumentSpecValidator({name: plain(SPECS[name])}).validate({name: value})
    return list(checked.error_messages)


def plain(option: dict[str, Any]) -> dict[str, Any]:
    """An option as the validator takes it: without the documentation."""
    kept = {key: value for key, value in option.items() if key != "description"}
    if "options" in kept:
        kept["options"] = {name: plain(inner) for name, inner in kept["options"].items()}
    return kept


YAML_BLOCKS = blocks("yaml")


def test_blocks_are_found() -> None:
    """A change of the Markdown must not leave the tests below without anything to test."""
    kinds = [kind(yaml.safe_load(block.text)) for block in YAML_BLOCKS]
    assert kinds.count("playbook") >= 4
    assert kinds.count("variables") >= 8
    assert len(blocks("shell")) >= 10


@pytest.mark.parametrize("block", YAML_BLOCKS, ids=str)
def test_yaml_block(block: Block) -> None:
    """It is a playbook, variables or an inventory, with variables that exist and fit."""
    value = yaml.safe_load(block.text)
    assert kind(value), "neither playbook, variables nor inventory"
    found = [text for name, inner in variables(value) for text in problems(name, inner)]
    assert found == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("asgi_app_sauce", "."),
        ("asgi_app_source", {"hg": "https://example.com/"}),
        ("asgi_app_source", {"git": "https://example.com/"}),
        ("asgi_app_keep_releases", "many"),
        ("asgi_proxy_certificate", "free"),
    ],
)
def test_wrong_variables_would_be_noticed(name: str, value: Any) -> None:
    """The check of the blocks refuses what a role would refuse."""
    assert problems(name, value)


def syntax_check(directory: Path, playbooks: list[Path]) -> subprocess.CompletedProcess[str]:
    """Has Ansible read playbooks, with this checkout as the collection."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    return subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "--syntax-check", *playbooks],
        cwd=directory,
        env={**inherited, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".cache"), "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_playbooks_have_no_syntax_error(tmp_path: Path) -> None:
    """Ansible reads them all, in one call, which costs more than a second."""
    playbooks = []
    for block in YAML_BLOCKS:
        if kind(yaml.safe_load(block.text)) == "playbook":
            name = str(block).replace("/", "-").replace(":", "-")
            playbooks.append(tmp_path / f"{name}.yml")
            playbooks[-1].write_text(block.text)
    done = syntax_check(tmp_path, playbooks)
    assert done.returncode == 0, done.stdout + done.stderr


def test_wrong_playbook_would_be_noticed(tmp_path: Path) -> None:
    """A role that is not there fails the syntax check."""
    playbook = tmp_path / "wrong.yml"
    playbook.write_text("- hosts: web\n  roles:\n    - role: asgi.deploy.rocket\n")
    assert syntax_check(tmp_path, [playbook]).returncode != 0


@pytest.mark.parametrize("block", blocks("shell"), ids=str)
def test_shell_block(block: Block) -> None:
    """The shell reads it; targets of make, playbooks and programs of this checkout are there."""
    checked = subprocess.run(["bash", "-n"], input=block.text, text=True, check=False)
    assert checked.returncode == 0
    for playbook in re.findall(r"ansible-playbook\b.*?\basgi\.deploy\.(\w+)", block.text):
        assert playbook in PLAYBOOKS
    for path in re.findall(r"(?:^|\s)(tools/[\w.]+)", block.text):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
class TestDocument:
    """What is the same for every document."""

    def test_targets_of_make(self, document: Path) -> None:
        """The Makefile has every target that is named in code."""
        makefile = (ROOT / "Makefile").read_text()
        targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.M))
        assert set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", document.read_text(), re.M)) <= targets

    def test_names_of_the_collection(self, document: Path) -> None:
        """Every asgi.deploy.<name> is a playbook, a role or a module."""
        names = set(re.findall(r"\basgi\.deploy\.([a-z_]+)", document.read_text()))
        assert names <= PLAYBOOKS | MODULES | set(ROLES)

    def test_variables(self, document: Path) -> None:
        """Every variable that is named exists."""
        names = set(NAME.findall(document.read_text()))
        assert names <= set(SPECS) | PLAYBOOK_VARIABLES | FACTS

    def test_links(self, document: Path) -> None:
        """Every link inside the repository leads to a file, and to a heading of it."""
        for target, anchor in re.findall(
            r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)", document.read_text()
        ):
            path = (document.parent / target).resolve() if target else document
            assert path.exists(), target
            if anchor:
                assert anchor in anchors(path.read_text()), f"{target}#{anchor}"


def anchors(text: str) -> set[str]:
    """The anchors that the headings of a document get."""
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_names_everything() -> None:
    """The tables of README.md have every playbook, role, module and playbook variable."""
    text = (ROOT / "README.md").read_text()
    for name in PLAYBOOKS | MODULES:
        assert f"| `asgi.deploy.{name}` |" in text
    for role in ROLES:
        assert f"[{role}](roles/{role}/README.md)" in text
    for variable in PLAYBOOK_VARIABLES:
        assert f"| `{variable}` |" in text


def test_playbook_variables_are_those_of_the_playbooks() -> None:
    """What the playbooks read beside the roles' variables is documented, and nothing else is."""
    read = {name for path in (ROOT / "playbooks").glob("*.yml") for name in code_names(path)}
    assert read - set(SPECS) - FACTS == PLAYBOOK_VARIABLES


def code_names(path: Path) -> set[str]:
    """The variables that a YAML file names outside its comments."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    return {name for line in lines for name in re.findall(r"(?<!_)\b" + NAME.pattern[2:], line)}

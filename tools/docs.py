#!/usr/bin/env python3
"""The tables in the documents that are made from code: of each role's variables, from its
meta/argument_specs.yml, and of what servers are refused.

.venv/bin/python tools/docs.py            write them
.venv/bin/python tools/docs.py --check    show what is out of date; exit 1 if anything is
"""

from __future__ import annotations

import argparse
import difflib
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
ROLES = ROOT / "roles"
BEGIN = "<!-- begin of what tools/docs.py makes from meta/argument_specs.yml -->"
END = "<!-- end of what tools/docs.py makes -->"
REFUSED = ("<!-- begin of what tools/docs.py makes from the servers -->", END)
#: Around what the scenario `servers` has seen (molecule/servers).
SEEN = ("<!-- begin of what molecule/servers has seen -->", "<!-- end of what it has seen -->")
#: Around what the scenarios of the proxies have seen (molecule/resources/proxy).
SEEN_PROXIES = (
    "<!-- begin of what molecule/resources/proxy has seen -->",
    "<!-- end of what it has seen -->",
)
#: A longer expression is told better by defaults/main.yml itself.
LONGEST_EXPRESSION = 60


class DocsError(Exception):
    """A README without a place for its table."""


def read_yaml(path: Path) -> Any:
    """What a YAML file holds."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def code(text: str) -> str:
    """A text in a code span of a table cell."""
    return f"`{text.replace('|', chr(92) + '|')}`"


def prose(text: str) -> str:
    """A description in a table cell: Ansible's C(x) is a code span, nothing is HTML."""
    text = re.sub(r"\s+", " ", text).strip()
    for character, escaped in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", r"\|")):
        text = text.replace(character, escaped)
    return re.sub(r"[COV]\(([^)]*)\)", r"`\1`", text)


def default_cell(option: Mapping[str, Any], name: str, defaults: Mapping[str, Any]) -> str:
    """What a variable has if nobody sets it."""
    if option.get("required"):
        return "**required**"
    if "default" in option:
        return code(json.dumps(option["default"], ensure_ascii=False))
    if name not in defaults:
        return ""
    expression = defaults[name]
    if isinstance(expression, str) and len(expression.strip()) <= LONGEST_EXPRESSION:
        return code(expression.strip())
    return "computed: see [defaults](defaults/main.yml)"


def type_cell(option: Mapping[str, Any]) -> str:
    """The type, with that of the elements of a list."""
    kind = str(option.get("type", "str"))
    return f"{kind} of {option['elements']}" if "elements" in option else kind


def rows(
    options: Mapping[str, Any], defaults: Mapping[str, Any], parent: str = ""
) -> Iterator[tuple[str, str, str, str, str]]:
    """The rows of a table; keys of a dictionary follow it under its name."""
    for key, option in options.items():
        name = f"{parent}{key}"
        description = option["description"]
        text = description if isinstance(description, str) else " ".join(description)
        choices = ", ".join(code(str(choice)) for choice in option.get("choices", []))
        yield (
            code(name),
            type_cell(option),
            default_cell(option, name, defaults),
            choices,
            prose(text),
        )
        mark = "[]." if "elements" in option else "."
        yield from rows(option.get("options", {}), defaults, f"{name}{mark}")


def table(role: Path) -> str:
    """The table of a role's variables, and its entry points if there is more than one."""
    specs = read_yaml(role / "meta" / "argument_specs.yml")["argument_specs"]
    defaults = read_yaml(role / "defaults" / "main.yml") or {}
    lines = ["| Variable | Type | Default | Choices | Description |", "|---|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows(specs["main"]["options"], defaults)]
    others = {name: spec for name, spec in specs.items() if name != "main"}
    if others:
        lines += ["", "| `tasks_from` | What it does |", "|---|---|"]
        lines += [
            f"| {code(name)} | {prose(spec['short_description'])} |"
            for name, spec in others.items()
        ]
    return "\n".join(re.sub(r" +\|", " |", line) for line in lines)


def refused_table() -> str:
    """The table of the flags that are not for the user, those with one reason together."""
    # as in an installed collection (tools/bootstrap.sh makes the link)
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / ".cache"))
    from ansible_collections.asgi.deploy.plugins.module_utils.servers import SERVERS

    lines = ["| Server | Flags | Why, or what instead |", "|---|---|---|"]
    names: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name, server in SERVERS.items():
        names.setdefault(tuple(server.REFUSED_ARGUMENTS.items()), []).append(code(name))
    for refused, same in names.items():
        flags: dict[str, list[str]] = {}
        for flag, reason in refused:
            flags.setdefault(reason, []).append(code(flag))
        lines += [
            f"| {', '.join(same)} | {', '.join(these)} | {prose(reason)} |"
            for reason, these in flags.items()
        ]
    return "\n".join(lines)


def documents() -> Iterator[tuple[Path, str, str]]:
    """All documents with tables of ours: the path, the text as it is, and as it is to be."""
    for role in sorted(path.parent.parent for path in ROLES.glob("*/meta/argument_specs.yml")):
        readme = role / "README.md"
        former = readme.read_text(encoding="utf-8")
        yield readme, former, filled(former, table(role), str(readme.relative_to(ROOT)))
    servers = ROOT / "docs" / "servers.md"
    former = servers.read_text(encoding="utf-8")
    yield servers, former, filled(former, refused_table(), servers.name, REFUSED)


def column(text: str, name: str, found: Mapping[str, str]) -> str:
    """A document with one column of the table between the markers SEEN made anew.

    Args:
        text: The document; its table has the features as rows and the scenarios as columns.
        name: Head of the column.
        found: What was seen in each row.
    """
    first, last = SEEN_PROXIES
    made = text.partition(first)[2].partition(last)[0].strip().splitlines()
    head, *rows_before = [[c.strip() for c in line.strip("|").split("|")] for line in made]
    number = head.index(code(name))
    former = {row[0]: row for row in rows_before[1:]}
    lines = [head, rows_before[0]]
    for row, value in found.items():
        cells = former.get(row, [row, *([""] * (len(head) - 1))])
        lines.append([*cells[:number], value, *cells[number + 1 :]])
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return filled(text, re.sub(r" +\|", " |", table), "proxies.md", SEEN_PROXIES)


def filled(text: str, made: str, name: str, markers: tuple[str, str] = (BEGIN, END)) -> str:
    """A document with a table in place of the one between the markers."""
    first, last = markers
    before, begin, rest = text.partition(first)
    _former, end, after = rest.partition(last)
    if not begin or not end:
        raise DocsError(f"{name} has no lines with these two markers:\n{first}\n{last}")
    return f"{before}{first}\n\n{made}\n\n{last}{after}"


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    check = parser.parse_args().check
    stale = 0
    try:
        for path, former, now in documents():
            name = str(path.relative_to(ROOT))
            if now == former:
                continue
            stale += 1
            if check:
                lines = difflib.unified_diff(
                    former.splitlines(keepends=True), now.splitlines(keepends=True), name, name
                )
                sys.stdout.writelines(lines)
            else:
                path.write_text(now, encoding="utf-8")
                print(f"docs: wrote {name}")
    except (DocsError, OSError) as error:
        print(f"docs: {error}", file=sys.stderr)
        return 1
    if check and stale:
        print("docs: out of date, run .venv/bin/python tools/docs.py", file=sys.stderr)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What unit files and environment files look like in systemd's own syntax."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

#: One variable; its value may go over several lines.
ENVIRONMENT_LINE = re.compile(r'^(\w+)="((?:\\.|[^"\\])*)"$', re.MULTILINE | re.DOTALL)
SIZES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def environment_file(values: Mapping[str, Any]) -> str:
    """Returns the text of an EnvironmentFile= with the given variables, sorted.

    Inside double quotes systemd takes everything literally but backslash, double quote,
    dollar and backtick, which a backslash escapes (systemd.exec(5), env-file.c).
    """
    lines = []
    for key in sorted(values):
        escaped = re.sub(r'([\\"$`])', r"\\\1", str(values[key]))
        lines.append(f'{key}="{escaped}"\n')
    return "".join(lines)


def environment_values(text: str) -> dict[str, str]:
    """Returns the variables of a text of `environment_file`, still escaped, by their names."""
    return dict(ENVIRONMENT_LINE.findall(text))


def environment_file_values(text: str) -> dict[str, str]:
    """Returns the variables of a text of `environment_file`, as processes get them."""
    values = environment_values(text)
    return {key: re.sub(r'\\([\\"$`])', r"\1", value) for key, value in values.items()}


def changed_keys(before: str, after: str) -> dict[str, list[str]]:
    """Says which variables differ between two environment files: names, never values.

    Returns:
        The names under `added`, `changed` and `removed`, sorted.
    """
    old, new = environment_values(before), environment_values(after)
    return {
        "added": sorted(new.keys() - old.keys()),
        "changed": sorted(key for key in new.keys() & old.keys() if new[key] != old[key]),
        "removed": sorted(old.keys() - new.keys()),
    }


class Specified(str):
    """Text in which systemd is to expand specifiers, as in `/srv/blog/slots/%j`."""

    __slots__ = ()


def exec_line(arguments: Sequence[str]) -> str:
    """Returns arguments as they are written after ExecStart=, so that each arrives as it is.

    systemd would expand `%` and `$`, and splits at white space outside quotes.
    """
    return " ".join(exec_word(argument) for argument in arguments)


def exec_word(argument: str) -> str:
    """Returns one argument for ExecStart=."""
    doubled = argument.replace("$", "$$")
    if not isinstance(argument, Specified):
        doubled = doubled.replace("%", "%%")
    if re.fullmatch(r"[A-Za-z0-9_@%+=:,./*$-]+", doubled):
        return doubled
    escaped = doubled.replace("\\", "\\\\").replace('"', '\\"')
    escaped = escaped.replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def command_line(command: str) -> str:
    """Returns a command, as a person writes it, for ExecStart=; there is no shell."""
    return exec_line(shlex.split(command))


def mebibytes(size: str) -> int:
    """Returns a size like `512M` in MiB.

    Raises:
        ValueError: It is not a number with K, M, G or T.
    """
    match = re.fullmatch(r"([0-9]+)([KMGT]?)", str(size))
    if match is None:
        raise ValueError(f"{size!r} is not a size; write a number with K, M, G or T, as in 512M")
    return int(match[1]) * SIZES[match[2]] // 2**20

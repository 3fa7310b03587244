"""Reads unit files by what systemd makes of them."""

from __future__ import annotations

from collections.abc import Mapping

#: Keys whose values add up; every other key has its last value.
LISTS = {
    "After",
    "DeviceAllow",
    "Environment",
    "EnvironmentFile",
    "ExecStartPre",
    "LoadCredential",
    "ReadWritePaths",
    "SystemCallFilter",
}
SPANS = {"": 1, "s": 1, "min": 60, "h": 3600}
SIZES = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

Unit = Mapping[str, Mapping[str, list[str]]]


def read_unit(text: str) -> Unit:
    """Returns the values of each key of each section, in their order.

    Raises:
        ValueError: A line that systemd would ignore with a warning.
    """
    sections: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line[0] in "#;":
            continue
        if line.startswith("[") and line.endswith("]"):
            section = sections.setdefault(line[1:-1], {})
            continue
        key, equals, value = line.partition("=")
        if section is None or not equals or key != key.strip() or line.endswith("\\"):
            raise ValueError(f"line {number} is no line of a unit file: {line!r}")
        section.setdefault(key, []).append(value.strip())
        if len(section[key]) > 1 and key not in LISTS:
            raise ValueError(f"line {number}: {key} stands twice, the first is without effect")
    return sections


def seconds(span: str) -> float:
    """Returns a time span like `90`, `5s` or `2min` in seconds."""
    digits = span.rstrip("sminh")
    return float(digits) * SPANS[span[len(digits) :]]


def size_bytes(size: str) -> int:
    """Returns a size like `512M` in bytes."""
    return int(size[:-1]) * SIZES[size[-1]] if size[-1] in SIZES else int(size)

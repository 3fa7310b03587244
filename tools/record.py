"""Which steps of tools/check.py have passed, and for which content of the checkout."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import steps

FILE = steps.CACHE / "check" / "passed.json"


def checksums(root: Path = steps.ROOT) -> dict[str, str]:
    """The checksum of each file that belongs to the checkout, by its path; {} without git."""
    # Whoever owns the checkout: its code is run anyway.
    words = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    options = ["--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run([*words, *options], cwd=root, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    found = {}
    for path in sorted({os.fsdecode(name) for name in listed.stdout.split(b"\0") if name}):
        file = root / path
        if file.is_symlink():
            found[path] = f"-> {file.readlink()}"
        elif file.is_file():
            found[path] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def digest(sums: Mapping[str, str], inputs: Sequence[str]) -> str:
    """One checksum for the files whose paths begin with one of the inputs.

    Documents count only for a step that reads the whole checkout, whose input is "".
    """
    everything = "" in inputs
    chosen = [
        (path, checksum)
        for path, checksum in sums.items()
        if everything or (path.startswith(tuple(inputs)) and not path.endswith(".md"))
    ]
    return hashlib.sha256(json.dumps(chosen).encode()).hexdigest()[:16]


def read(file: Path = FILE) -> dict[str, dict[str, Any]]:
    """What has passed so far, by step; nothing where that cannot be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write(step: str, entry: Mapping[str, Any], file: Path = FILE) -> None:
    """Record that a step has passed; two runs may do so at the same time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        text = json.dumps({**read(file), step: dict(entry)}, indent=2, sort_keys=True)
        temporary = file.with_suffix(".new")
        temporary.write_text(f"{text}\n", encoding="utf-8")
        temporary.replace(file)


def due(
    wanted: Iterable[tuple[str, Sequence[str]]],
    sums: Mapping[str, str],
    passed: Mapping[str, Mapping[str, Any]],
) -> dict[str, str]:
    """The steps that have not passed for these files, each with the reason.

    Args:
        wanted: Names of steps, each with its inputs.
        sums: Checksums of the files, by path.
        passed: What read() gives.
    """
    found = {}
    for name, inputs in wanted:
        entry = passed.get(name)
        if entry is None:
            found[name] = "has not passed here"
        elif entry.get("digest") != digest(sums, inputs):
            found[name] = f"its files changed since it passed on {entry.get('date')}"
    return found

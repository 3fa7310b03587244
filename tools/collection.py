#!/usr/bin/env python3
"""The collection as its users get it: built into an artefact, and installed from that.

    tools/collection.py .cache/demo/collections

What is there already with the same content stays.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import steps

CONTENT_FILES = ("MANIFEST.json", "FILES.json")


def content(manifest: str, files: str) -> tuple[Any, Any]:
    """What a collection consists of, from its two lists; their order says nothing."""
    checksums = {
        entry["name"]: entry["chksum_sha256"]
        for entry in json.loads(files)["files"]
        if entry["ftype"] == "file"
    }
    return json.loads(manifest)["collection_info"], checksums


def content_of_artefact(artefact: Path) -> tuple[Any, Any]:
    """What is in a built artefact."""
    texts = []
    with tarfile.open(artefact) as archive:
        for name in CONTENT_FILES:
            file = archive.extractfile(name)
            texts.append(file.read().decode() if file else "")
    return content(*texts)


def content_of_directory(directory: Path) -> tuple[Any, Any] | None:
    """What is installed in a directory, None for nothing."""
    files = [directory / name for name in CONTENT_FILES]
    if not all(file.is_file() for file in files):
        return None
    return content(*(file.read_text() for file in files))


def build(target: Path, log: Path) -> Path:
    """Build the artefact into an empty directory."""
    galaxy = steps.BIN / "ansible-galaxy"
    steps.demand([galaxy, "collection", "build", steps.ROOT, "--output-path", target], log)
    (artefact,) = target.glob("*.tar.gz")
    return artefact


def install(target: Path, log: Path) -> bool:
    """Install the artefact below a collections path; returns whether that changed anything."""
    target.mkdir(parents=True, exist_ok=True)
    # Two scenarios of Molecule may ask for the same at once.
    with (
        (target / ".lock").open("w") as lock,
        tempfile.TemporaryDirectory(dir=target, prefix=".build-") as scratch,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        artefact = build(Path(scratch), log)
        installed = target / "ansible_collections" / "asgi" / "deploy"
        if content_of_directory(installed) == content_of_artefact(artefact):
            return False
        galaxy = steps.BIN / "ansible-galaxy"
        options = [f"--collections-path={target}", "--force", "--offline", "--no-deps"]
        paths = {"ANSIBLE_COLLECTIONS_PATH": str(target)}
        command = [galaxy, "collection", "install", artefact, *options]
        steps.demand(command, log, changes=paths, append=True)
    return True


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("target", type=Path, help="collections path to install into")
    target = parser.parse_args().target.resolve()
    try:
        changed = install(target, target / "install.log")
    except steps.StepFailed as error:
        print(f"collection: {error}", file=sys.stderr)
        return 1
    print("collection: installed" if changed else "collection: is installed already")
    return 0


if __name__ == "__main__":
    sys.exit(main())

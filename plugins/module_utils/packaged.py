# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A source without a source tree: a wheel, or a package of an index.

From it a small tree is made, with a requirements.txt and the files that the operator gives. It is
built, named and kept as any other source.
"""

from __future__ import annotations

import re
import time
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .dependencies import Dependencies
from .downloads import file_name, file_version, is_url, normalized, obtain, plain
from .errors import DeployError
from .git_source import hide_credentials
from .installers.settings import Build
from .source import content_digest, entries, pack, tree
from .source_plans import plan, release_id

REQUIREMENTS = "requirements.txt"
NOT_LOCKED = "no asgi_app_source.lock: versions of what the package needs are not pinned"


def package_plan(source: Mapping[str, Any], scratch: Path, build: Build) -> dict[str, Any]:
    """Plans a release of a wheel or of a package in an index, and packs it.

    Args:
        source: asgi_app_source with `wheel` or `index`.
        scratch: Where the archive is written.
        build: How it will be built.

    Raises:
        DeployError: A file is not there, is none of its kind, or does not fit the others.
    """
    root = scratch / "package"
    root.mkdir()
    for name, content in (source.get("files") or {}).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    wanted = build.settings.extras_suffix
    if source.get("wheel"):
        name = file_name(source["wheel"])
        package, version = wheel_identity(obtain("wheel", source, scratch), name, root)
        first = f"./{name}{wanted}"
        origin = hide_credentials(source["wheel"]) if is_url(source["wheel"]) else name
    else:
        package, version = source["index"], str(source["version"])
        first = f"{package}{wanted}=={version}"
        origin = f"{package}=={version}"
    requirements = [first, *(source.get("requirements") or [])]
    if source.get("lock"):
        requirements = locked(source, first, package, version, root)
    (root / REQUIREMENTS).write_text("".join(f"{line}\n" for line in requirements))
    found = entries(root, listed=tree(root))
    digest = content_digest(found)
    archive = scratch / f"{digest}.tar.gz"
    pack(root, found, archive, time.time())
    dependencies = Dependencies(
        REQUIREMENTS,
        [REQUIREMENTS],
        hashed=any("--hash" in line for line in requirements),
        notes=[] if source.get("lock") else [NOT_LOCKED],
    )
    release = release_id(version, digest, build.identity())
    return plan(release, version, digest, "", origin, str(archive), dependencies)


def wheel_identity(wheel: Path, name: str, root: Path) -> tuple[str, str]:
    """Puts a wheel into the tree and returns its package and version.

    Raises:
        DeployError: Its name or its content is not that of a wheel.
    """
    package = normalized(name.split("-")[0])
    version = file_version(name, package)
    if version is None or len(name.split("-")) not in (5, 6) or not zipfile.is_zipfile(wheel):
        raise DeployError(
            f"asgi_app_source.wheel: {name!r} is no wheel; write the file that uv build or"
            " pip wheel has made, under its own name, for example blog-1.4.2-py3-none-any.whl"
        )
    (root / name).write_bytes(wheel.read_bytes())
    return package, version


def locked(
    source: Mapping[str, Any], first: str, package: str, version: str, root: Path
) -> list[str]:
    """Returns the lines of a lock, with the package in the version that is asked for.

    Args:
        source: asgi_app_source with `lock`.
        first: The requirement of the package itself.
        package: Its name.
        version: Its version.
        root: The tree that a wheel was put into.

    Raises:
        DeployError: The lock is not there, or is for something else.
    """
    path = Path(source["lock"]).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DeployError(
            f"asgi_app_source.lock: there is no file {path} on the controller"
        ) from error
    pins = {
        normalized(match[1]): match[2]
        for match in (
            re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*==\s*([^\s;\\]+)", line) for line in lines
        )
        if match
    }
    pinned = pins.get(normalized(package))
    if source.get("wheel"):
        if pinned is not None:
            raise DeployError(
                f"asgi_app_source.lock: {path} has {package} itself, which the wheel is; make it"
                f" with uv pip compile --no-emit-package {package}"
            )
        return [f"{first}{wheel_hash(root, lines)}", *lines]
    if pinned is None or plain(pinned) != plain(version):
        has = f"{package} {pinned}" if pinned else f"no {package}"
        raise DeployError(
            f"asgi_app_source.lock: {path} has {has}, asgi_app_source.version is {version!r}; make"
            f" it again: echo {first} | uv pip compile --generate-hashes - -o {path}"
        )
    return lines


def wheel_hash(root: Path, lines: Sequence[str]) -> str:
    """Returns the hash of the wheel, which it needs where the lock has hashes."""
    if not any("--hash" in line for line in lines):
        return ""
    [digest] = [one.digest for one in entries(root, listed=tree(root)) if one.path.endswith(".whl")]
    return f" --hash=sha256:{digest}"

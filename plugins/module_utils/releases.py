# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases on a host: built aside, proven by an import, renamed into place, pruned.

A release in the making has another name; what stands under its final name is whole.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import static
from .commands import run, tail
from .errors import DeployError
from .files import read_text, sync_directory, write_atomic
from .installers import BUILDING, Builder, BuildSettings
from .layout import CONFIGURATION_FILES, Layout
from .sandbox import Sandbox

IMPORT_TIMEOUT_SECONDS = 120

#: Run by the release's interpreter, in the app's sandbox. Prints what was found as JSON.
IMPORT_CHECK = """
import importlib, importlib.metadata, importlib.util, json, os, sys

def migration_heads():
    # what the newest migrations of this release are, where the tool that has them can tell
    if os.path.exists("alembic.ini") and importlib.util.find_spec("alembic"):
        from alembic.config import Config
        from alembic.script import ScriptDirectory
        return sorted(ScriptDirectory.from_config(Config("alembic.ini")).get_heads())
    if os.environ.get("DJANGO_SETTINGS_MODULE") and importlib.util.find_spec("django"):
        import django
        from django.db.migrations.loader import MigrationLoader
        django.setup()
        return sorted(".".join(node) for node in MigrationLoader(None).graph.leaf_nodes())
    return None

entrypoint, server = sys.argv[1:]
module_name, _, attribute = entrypoint.partition(":")
sys.path.insert(0, "")
if importlib.util.find_spec(server) is None:
    package = server.replace("_", "-")
    sys.exit(
        f"{package} is not installed in the release: add it to the app's dependencies, or without"
        " a source tree to asgi_app_source.requirements"
    )
target = importlib.import_module(module_name)
for name in attribute.split("."):
    target = getattr(target, name)
if not callable(target):
    sys.exit(f"{entrypoint} is not callable, so it is no ASGI application")
found = {"python": sys.version.split()[0], "server": server}
found["server_version"] = importlib.metadata.version(server)
try:
    found["migration_heads"] = migration_heads()
except Exception as error:
    found["migration_heads"] = None
    found["migration_heads_unknown"] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


@dataclass(frozen=True)
class StageRequest:
    """A release to be built.

    Args:
        release: Its id.
        archive: The source as a tar archive, on this host; None where `checkout` is given.
        checkout: Called with a directory that it fills with the source.
        manifest: What is known of the source (version, digest, commit).
        build: How to build.
        user: The app's user.
        build_user: Owner of the release's files.
        cache: Cache of the installer for this app.
        directory: The folder inside the source that is the working directory.
        entrypoint: `module:attribute`.
        server: Python module of the ASGI server.
        credentials: Files that systemd gives the app, by their names; for the import check.
        sandbox: For the import check.
        minimum_free_mebibytes: Refuse to build with less free space.
        notes: What is to be known of the source, for the manifest.
    """

    release: str
    archive: Path | None
    manifest: Mapping[str, Any]
    build: BuildSettings
    user: str
    build_user: str
    cache: Path
    entrypoint: str
    directory: str = "."
    server: str = "uvicorn"
    credentials: Mapping[str, str] = field(default_factory=dict)
    sandbox: Sandbox = field(default_factory=Sandbox)
    minimum_free_mebibytes: int = 0
    checkout: Callable[[Path], None] | None = None
    notes: Sequence[str] = ()


def prepare_directories(layout: Layout, request: StageRequest) -> None:
    """Makes the app's directories with the owners and modes that keep others out."""
    for path, mode in (
        (layout.root, 0o755),
        (layout.root / "slots", 0o755),
        (layout.switch_file.parent, 0o755),
        (layout.root / "migrations", 0o700),
    ):
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        path.chmod(mode)
    layout.releases.mkdir(mode=0o750, exist_ok=True)
    shutil.chown(layout.releases, "root", request.user)
    layout.releases.chmod(0o750)
    request.cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    shutil.chown(request.cache, request.build_user, request.user)


def stage(layout: Layout, request: StageRequest) -> dict[str, Any]:
    """Builds a release; nothing that runs is touched.

    Returns:
        The manifest of the release.

    Raises:
        DeployError: No room, a step of the build failed, or the app cannot be imported. The
            half-built release is removed.
    """
    started = time.monotonic()
    prepare_directories(layout, request)
    refuse_without_room(layout.root, request.minimum_free_mebibytes)
    for leftover in layout.releases.glob(f"{BUILDING}*"):
        # an installer may outlive a run that was killed, and still write there
        shutil.rmtree(leftover, ignore_errors=True)
    # so its name is never used again
    aside = Path(tempfile.mkdtemp(prefix=f"{BUILDING}{request.release}.", dir=layout.releases))
    aside.chmod(0o750)
    shutil.chown(aside, request.build_user, request.user)
    try:
        source = aside / "source"
        source.mkdir(mode=0o750)
        shutil.chown(source, request.build_user, request.user)
        if request.archive is not None:
            unpack(request.archive, source, request.build_user)
        elif request.checkout is not None:
            request.checkout(source)
        working = source / request.directory
        if not working.is_dir():
            raise DeployError(
                f"asgi_app_directory: the source has no directory {request.directory!r}"
            )
        # what runs is always `app`, wherever in the source it lies
        (aside / "app").symlink_to(Path("source") / request.directory)
        final = layout.release(request.release)
        builder = Builder(
            settings=request.build,
            user=request.build_user,
            directory=aside,
            final=final,
            source=working,
            cache=request.cache,
            former=newest(layout),
        )
        builder.build()
        if request.build.compile_bytecode:
            builder.call(
                [str(builder.python), "-m", "compileall", "-q", "-j", "0", str(source)],
                {},
                "compile the app",
            )
        # from here on only root makes names in it; systemd reads this file as root
        os.chown(aside, 0, aside.stat().st_gid)
        refuse_other_link(aside / "app", Path("source") / request.directory)
        write_atomic(aside / "release.env", f"ASGI_RELEASE={request.release}\n", 0o644)
        found = import_check(layout, request, aside)
        manifest = {
            **found,
            "format": 1,
            "app": layout.name,
            "release": request.release,
            **request.manifest,
            "entrypoint": request.entrypoint,
            "notes": [*request.notes, *builder.notes],
            "built_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "build_seconds": round(time.monotonic() - started, 1),
        }
        write_atomic(aside / "release.json", json.dumps(manifest, indent=2) + "\n", 0o644)
        # a power cut must not leave empty files under a final name
        os.sync()
        aside.replace(final)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    sync_directory(layout.releases)
    return manifest


def newest(layout: Layout) -> Path | None:
    """Returns the directory of the release that was built last, None if there is none."""
    staged = map(layout.release, layout.staged_releases())
    return max(staged, key=lambda path: path.stat().st_mtime, default=None)


def refuse_other_link(path: Path, target: Path) -> None:
    """Raises where what was built has put something else in the place of a link of ours.

    Root reads through it later, so it must lead to where it did.
    """
    if not path.is_symlink() or path.readlink() != target:
        raise DeployError(
            f"the build has changed {path.name} of the release, which is to be a link to {target};"
            " see what asgi_app_build_commands and the packages that were built do there"
        )


def refuse_without_server(layout: Layout, release: str, module: str) -> None:
    """Raises where a staged release has not got a server.

    The id of a release says nothing of the server: the same release can be asked to be served by
    another one than it was built for.
    """
    found = (layout.release(release) / "venv").glob(f"lib/python*/site-packages/{module}")
    if not any(found):
        package = module.replace("_", "-")
        raise DeployError(
            f"{package} is not installed in release {release}: add it to the app's dependencies,"
            " or without a source tree to asgi_app_source.requirements"
        )


def refuse_missing(credentials: Mapping[str, str]) -> None:
    """Raises where a file that systemd is to give the app is not there."""
    missing = [path for path in credentials.values() if not Path(path).is_file()]
    if missing:
        raise DeployError(
            f"asgi_app_credentials: there is no file {', '.join(missing)} on this host, so nothing"
            " of the app would start; put it there, for example by asgi_app_before_stage"
        )


def refuse_without_room(path: Path, minimum_mebibytes: int) -> None:
    """Raises where a file system has less free space than asked for."""
    free = shutil.disk_usage(path).free // 2**20
    if free < minimum_mebibytes:
        raise DeployError(
            f"{path} has {free} MiB free, a build needs {minimum_mebibytes} MiB"
            " (asgi_app_minimum_free_mebibytes); nothing was changed"
        )


def unpack(archive: Path, target: Path, user: str) -> None:
    """Unpacks the source as the build user, who can write nowhere else."""
    run(
        ["tar", "--extract", "--gzip", "--no-same-owner", "--directory", str(target)],
        timeout_seconds=600,
        user=user,
        umask=0o027,
        input_file=archive,
        doing="unpack the source",
    )


def import_check(layout: Layout, request: StageRequest, release: Path) -> dict[str, Any]:
    """Imports the entry point as the service will: its user, sandbox and environment.

    Returns:
        The versions of Python and of the server.

    Raises:
        DeployError: With the traceback.
    """
    properties = [
        f"User={request.user}",
        f"Group={request.user}",
        f"WorkingDirectory={release / 'app'}",
        # as an instance has them
        f"StateDirectory=asgi/{layout.name}",
        "StateDirectoryMode=0750",
        f"Environment=HOME=/var/lib/asgi/{layout.name}",
        f"Environment=PATH={release / 'venv' / 'bin'}:/usr/local/bin:/usr/bin:/bin",
        f"RuntimeMaxSec={IMPORT_TIMEOUT_SECONDS}",
        f"EnvironmentFile={release / 'release.env'}",
    ]
    properties += [
        f"EnvironmentFile=-{layout.configuration / name}" for name in CONFIGURATION_FILES
    ]
    properties += [f"LoadCredential={name}:{path}" for name, path in request.credentials.items()]
    properties += [f"{key}={value}" for key, value in request.sandbox.directives()]
    done = run(
        [
            "systemd-run",
            "--quiet",
            "--wait",
            "--collect",
            "--pipe",
            "--service-type=exec",
            *(f"--property={text}" for text in properties),
            str(release / "venv" / "bin" / "python"),
            "-c",
            IMPORT_CHECK,
            request.entrypoint,
            request.server,
        ],
        timeout_seconds=IMPORT_TIMEOUT_SECONDS + 30,
        check=False,
    )
    if done.returncode != 0:
        raise DeployError(
            f"{request.entrypoint} of release {request.release} cannot be imported, so the"
            " release was not kept and what was serving still serves:\n"
            f"{tail(done.stderr or done.stdout)}"
        )
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def read_manifest(layout: Layout, release: str) -> dict[str, Any]:
    """Returns the manifest of a release.

    Raises:
        DeployError: There is no such release on this host.
    """
    text = read_text(layout.manifest(release))
    if text is None:
        known = ", ".join(layout.staged_releases()) or "none"
        raise DeployError(f"there is no release {release} on this host; it has: {known}")
    try:
        manifest: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise DeployError(
            f"{layout.manifest(release)} cannot be read ({error}); remove that release's directory"
            " and deploy it again"
        ) from error
    return manifest


def prune(layout: Layout, keep: int, needed: Sequence[str]) -> list[str]:
    """Removes old releases but for the newest and the needed ones.

    Args:
        layout: The app.
        keep: How many to keep, newest first by the time in their manifests.
        needed: Never removed: what a slot runs, the last good release.

    Returns:
        The removed releases.
    """
    staged = sorted(
        layout.staged_releases(),
        reverse=True,
        key=lambda release: read_manifest(layout, release)["built_at"],
    )
    removed = [release for release in staged[keep:] if release not in needed]
    for release in removed:
        static.withdraw(layout, release)
        # under another name first, so that half a release never has a final name
        aside = layout.releases / f"{BUILDING}{release}"
        layout.release(release).replace(aside)
        shutil.rmtree(aside)
    return removed

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Releases on a host: built, checked by an import, and pruned.

A directory is a release once it has a manifest, which lies where no build can write.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import static
from .commands import remove_tree, run
from .contained import Contained
from .dependencies import Dependencies
from .errors import DeployError
from .files import link_atomic, read_text, remove, write_atomic
from .import_check import ImportCheck
from .installers import Build, Builder
from .layout import SLOTS, Layout
from .masking import mask_of
from .sealing import seal

#: Ends the name of a release that is live without its Python, while it is built again.
PYTHON_GONE = ".python-gone"
CHECK_SECONDS = 30


@dataclass(frozen=True)
class StageRequest:
    """A release to be built.

    Args:
        release: Its id.
        archive: The source as a tar archive, on this host; None where `checkout` is given.
        manifest: What is known of the source (version, digest, commit).
        build: What to build, and how.
        steps: What runs the steps of the build.
        user: The app's user.
        build_user: Owner of the release's files.
        cache: Cache of the installer for this app.
        import_check: How the entry point is imported.
        minimum_free_mebibytes: Refuse to build with less free space.
        checkout: Called with a directory that it fills with the source.
        dependencies: What is installed; None where the source is looked at on this host.
    """

    release: str
    archive: Path | None
    manifest: Mapping[str, Any]
    build: Build
    steps: Contained
    user: str
    build_user: str
    cache: Path
    import_check: ImportCheck
    minimum_free_mebibytes: int = 0
    checkout: Callable[[Path], None] | None = None
    dependencies: Dependencies | None = None


def prepare_directories(layout: Layout, request: StageRequest) -> None:
    """Makes the app's directories with the owners and modes that keep others out."""
    for path, mode in (
        (layout.root, 0o755),
        (layout.root / "slots", 0o755),
        (layout.switch_file.parent, 0o755),
        (layout.manifests, 0o755),
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

    It counts as a release once it has a manifest, which is written last.

    Returns:
        The manifest of the release.

    Raises:
        DeployError: No room, a step of the build failed, or the app cannot be imported. The
            half-built release is removed.
    """
    started = time.monotonic()
    prepare_directories(layout, request)
    refuse_without_room(layout.root, request.minimum_free_mebibytes)
    repoint_live_slot(layout)
    directory = layout.release(request.release)
    built = directory.exists() and not layout.unsealed(request.release).exists()
    if built and python_problem(layout, request.release):
        clear_path(layout, request.release)
    remove_unfinished(layout)
    notes: list[str] = []
    try:
        # one without a manifest that is still there is what a slot runs
        if not directory.exists():
            former = newest(layout)
            write_atomic(layout.unsealed(request.release), "")
            notes = build(directory, request, former)
            seal(directory, former)
            refuse_other_link(directory / "app", Path("source") / request.build.directory)
            # a power cut must not leave empty files in a release
            os.sync()
            remove(layout.unsealed(request.release))
        found = request.import_check.run(layout, request.release)
        manifest = {
            # any user can read it, and the app itself has a say in what was found
            **mask_of(layout, credentials=request.import_check.credentials.values()).all(found),
            "format": 1,
            "app": layout.name,
            "release": request.release,
            **request.manifest,
            "entrypoint": request.import_check.entrypoint,
            "notes": notes,
            "built_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "build_seconds": round(time.monotonic() - started, 1),
        }
        write_atomic(layout.manifest(request.release), json.dumps(manifest, indent=2) + "\n")
    except BaseException:
        # the next build tries again, and says what cannot be removed
        with contextlib.suppress(DeployError, OSError):
            remove_unfinished(layout)
        raise
    return manifest


def build(directory: Path, request: StageRequest, former: Path | None) -> list[str]:
    """Builds a release.

    Args:
        directory: Its directory, which is not there yet.
        request: What to build.
        former: Directory of the release before it, if there is one.

    Returns:
        Notes for the manifest.
    """
    directory.mkdir(mode=0o750)
    source = directory / "source"
    source.mkdir(mode=0o750)
    # what runs is always `app`, wherever in the source it lies
    (directory / "app").symlink_to(Path("source") / request.build.directory)
    # the directory last: in what belongs to the build user root changes no owner by a name
    for path in (source, directory):
        shutil.chown(path, request.build_user, request.user)
    if request.archive is not None:
        request.steps.run(
            ["tar", "--extract", "--gzip", "--no-same-owner", f"--directory={source}"],
            purpose="unpack the source",
            input_file=request.archive,
        )
    elif request.checkout is not None:
        request.checkout(source)
    if not (source / request.build.directory).is_dir():
        raise DeployError(
            f"asgi_app_directory: the source has no directory {request.build.directory!r}"
        )
    builder = Builder(
        build=request.build,
        steps=request.steps,
        directory=directory,
        cache=request.cache,
        dependencies=request.dependencies,
        former=former,
    )
    builder.run()
    builder.compile_source()
    if request.checkout is not None:
        # nothing needs the history any more, and it may name the server
        request.steps.run(
            ["find", str(source), *("-name", ".git", "-prune", "-exec", "rm", "-rf", "{}", "+")],
            purpose="remove the history of the repository",
        )
    return builder.notes


def python_problem(layout: Layout, release: str) -> str:
    """Says why the Python of a release cannot start; empty where it can.

    An upgrade of the system, or whoever manages the interpreters, can take it away. Nothing of the
    release is run or read: a build can have put anything there.
    """
    environment = layout.release(release) / "venv"
    program = environment / "bin" / "python"
    found = Path(os.path.realpath(program))
    if not (found.is_file() and os.access(found, os.X_OK)):
        return f"{program} leads to {found}, where no program is"
    # python3 can be another version now, which does not find the packages
    version = re.match(r"python3\.[0-9]+t?", found.name)
    if version and not (environment / "lib" / version[0]).is_dir():
        return f"{program} leads to {found}, which is another version than it was built with"
    return ""


def require_python(layout: Layout, release: str) -> None:
    """Raises where the Python of a release is gone."""
    problem = python_problem(layout, release) if layout.release(release).exists() else ""
    if problem:
        raise DeployError(
            f"release {release} cannot start, as its Python is gone: {problem}. Deploy that version"
            " with the site playbook, which builds it again"
        )


def clear_path(layout: Layout, release: str) -> None:
    """Clears the path of a release whose Python is gone, so that it can be built again.

    Where it is live, its processes go on with all of its files, under another name.
    """
    if layout.slot_release(layout.serving_slot()) != release:
        static.withdraw(layout, release)
        # first: without a manifest it is no release any more
        remove(layout.manifest(release))
        remove_tree(layout.release(release))
        return
    aside = f"{release}{PYTHON_GONE}"
    if layout.release(aside).exists():
        remove_tree(layout.release(aside))
    static.copy_published(layout, release, aside)
    manifest = read_text(layout.manifest(release))
    if manifest is not None:
        write_atomic(layout.manifest(aside), manifest)
    layout.release(release).rename(layout.release(aside))
    repoint_live_slot(layout)
    static.withdraw(layout, release)


def repoint_live_slot(layout: Layout) -> None:
    """Has the live slot follow its release to another name, also after a run that was killed."""
    slot = layout.serving_slot()
    release = layout.slot_release(slot)
    aside = f"{release}{PYTHON_GONE}"
    if release and not layout.release(release).exists() and layout.release(aside).exists():
        link_atomic(layout.slot_link(slot), f"../releases/{aside}")
        static.point(layout, slot, aside)


def remove_unfinished(layout: Layout) -> None:
    """Removes what is only half a release: its build or its removal failed or was killed."""
    used = {layout.slot_release(slot) for slot in SLOTS}
    for path in layout.releases.iterdir():
        whole = path.name in used or layout.is_staged(path.name)
        if layout.unsealed(path.name).exists() or not whole:
            remove_tree(path)
    for path in layout.manifests.iterdir():
        if not layout.release(path.stem).exists():
            path.unlink()


def newest(layout: Layout) -> Path | None:
    """Returns the directory of the release that was built last, None if there is none."""
    staged = layout.staged_releases()
    if not staged:
        return None
    return layout.release(max(staged, key=lambda one: layout.manifest(one).stat().st_mtime))


def refuse_other_link(path: Path, target: Path) -> None:
    """Raises where what was built has put something else in the place of a link of ours.

    Root reads through it later, so it must lead to where it did, by whatever links are on the way.
    """
    ours = path.is_symlink() and path.readlink() == target
    source = Path(os.path.realpath(path.parent)) / "source"
    if not ours or not Path(os.path.realpath(path)).is_relative_to(source):
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


def refuse_unwritable(paths: Sequence[str], user: str) -> None:
    """Raises where the app could not write to a directory that it is to write to.

    Raises:
        DeployError: It is not there, or its user may not write to it.
    """
    for path in paths:
        if not Path(path).exists():
            raise DeployError(
                f"asgi_service_writable_paths: there is no {path} on this host, so nothing of the"
                " app would start; make it, for example by asgi_app_before_stage, and give it to"
                f" the user {user}"
            )
        # with all groups of the user, as systemd starts the app
        question = ["runuser", "-u", user, "--", "test", "-w", path]
        if run(question, timeout_seconds=CHECK_SECONDS, check=False).returncode:
            raise DeployError(
                f"asgi_service_writable_paths: the user {user} may not write to {path} on this"
                f" host: chown {user}: {path}, or set asgi_app_user to who may"
            )


def refuse_without_room(path: Path, minimum_mebibytes: int) -> None:
    """Raises where a file system has less free space than asked for."""
    free = shutil.disk_usage(path).free // 2**20
    if free < minimum_mebibytes:
        raise DeployError(
            f"{path} has {free} MiB free, a build needs {minimum_mebibytes} MiB"
            " (asgi_app_minimum_free_mebibytes); nothing was changed"
        )


def read_manifest(layout: Layout, release: str) -> dict[str, Any]:
    """Returns the manifest of a release.

    Raises:
        DeployError: There is no such release on this host.
    """
    text = read_text(layout.manifest(release))
    if text is None or not layout.is_staged(release):
        known = ", ".join(layout.staged_releases()) or "none"
        raise DeployError(f"there is no release {release} on this host; it has: {known}")
    try:
        manifest: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise DeployError(
            f"{layout.manifest(release)} cannot be read ({error}); remove that file and deploy the"
            " release again"
        ) from error
    return manifest


def manifest_or_error(layout: Layout, release: str) -> dict[str, Any]:
    """Returns the manifest of a release; where it is damaged only `release` and `error`."""
    try:
        return read_manifest(layout, release)
    except DeployError as error:
        return {"release": release, "error": error.message}


def prune(layout: Layout, keep: int, needed: Sequence[str]) -> list[str]:
    """Removes old releases but for the newest and the needed ones.

    Args:
        layout: The app.
        keep: How many to keep, newest first by the time in their manifests; none whose Python was
            gone and that was built again.
        needed: Never removed: what a slot runs, the last good release.

    Returns:
        The removed releases.
    """
    staged = sorted(
        layout.staged_releases(),
        reverse=True,
        key=lambda release: manifest_or_error(layout, release).get("built_at", ""),
    )
    kept = [release for release in staged if not release.endswith(PYTHON_GONE)][:keep]
    removed = [release for release in staged if release not in (*kept, *needed)]
    for release in removed:
        static.withdraw(layout, release)
        # first: without a manifest it is no release any more
        remove(layout.manifest(release))
        remove_tree(layout.release(release))
    return removed

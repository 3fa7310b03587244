# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An app's source: which files belong to it, what they are worth, and their archive.

The same content gives the same digest on every controller: paths are relative, and of a
file's mode only the executable bit counts; times, owners and umask do not.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from .contained import Contained
from .errors import DeployError
from .uv_lock import require_current

VERSION_CONTROL = {".git", ".hg", ".svn", ".bzr", ".jj"}
CACHES = {"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".tox", ".nox"}
DIGEST_LENGTH = 12
#: What a file begins with that only stands for one.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
GIT_TIMEOUT_SECONDS = 600
#: The first one that reads GIT_CONFIG_GLOBAL; those before 2.31 ignore GIT_CONFIG_COUNT, too.
MINIMUM_GIT = "2.32"
#: Stands for a release that only the deploy itself can name.
UNDECIDED = "undecided"
GIT_COUNT = "GIT_CONFIG_COUNT"
#: No code of the repository runs.
GIT_SETTINGS = {
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "advice.detachedHead": "false",
}
#: Set for the hooks of git, from which a deploy may be started: they name another repository.
GIT_REPOSITORY = {
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
    "GIT_WORK_TREE",
}


@dataclass(frozen=True)
class Entry:
    """One file of a source.

    Args:
        path: Relative path, with slashes.
        kind: `file`, `executable` or `link`.
        digest: SHA-256 of a file's content; the target of a link.
    """

    path: str
    kind: str
    digest: str


@dataclass(frozen=True)
class GitAccess:
    """How git reaches a repository.

    Args:
        configuration: Text of a configuration file with what is secret; empty for nothing.
        steps: What runs git on a host; None on the controller.
        ca_file: Bundle of the authorities to trust, a path on the host; empty for the system's.
    """

    configuration: str = ""
    steps: Contained | None = None
    ca_file: str = ""


def git(
    arguments: Sequence[str],
    directory: Path,
    access: GitAccess = GitAccess(),
    given: str = "",
    good: Sequence[int] = (0,),
) -> str:
    """Runs git and returns its output; it never asks for a password.

    Neither hooks nor a monitor of the file system run: a repository may be of others.

    Args:
        arguments: Words after `git`.
        directory: Where it runs.
        access: How it reaches a repository.
        given: Its standard input, on the controller.
        good: Exit statuses that are no failure, on the controller.

    Raises:
        DeployError: git is missing, too old or failed.
    """
    if shutil.which("git") is None:
        raise DeployError("git is needed to read this source; install it where it is read")
    require_git(git_version(), on_host=access.steps is not None)
    if access.steps is not None:
        return git_on_host(arguments, directory, access, access.steps)
    inherited = {key: value for key, value in os.environ.items() if key not in GIT_REPOSITORY}
    with tempfile.TemporaryDirectory(prefix="asgi-deploy-") as private:
        settings = dict(GIT_SETTINGS)
        if access.configuration:
            path = Path(private, "config")
            path.touch(mode=0o600)
            path.write_text(access.configuration, encoding="utf-8")
            settings["include.path"] = str(path)
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=directory,
                env={
                    **inherited,
                    "GIT_TERMINAL_PROMPT": "0",
                    # its errors are read
                    "LC_ALL": "C",
                    **git_configuration(settings, int(os.environ.get(GIT_COUNT) or 0)),
                },
                input=given.encode(errors="surrogateescape"),
                capture_output=True,
                timeout=GIT_TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            command = git_command(arguments)
            raise DeployError(f"git {command} took over {GIT_TIMEOUT_SECONDS} s") from error
    if done.returncode not in good:
        raise git_failure(arguments, directory, done.stderr.decode(errors="replace"))
    output: bytes = done.stdout
    return output.decode(errors="surrogateescape")


@cache
def git_version() -> str:
    """Returns the version of git."""
    done = subprocess.run(["git", "version"], capture_output=True, text=True, check=True)
    return done.stdout.split()[2]


def require_git(version: str, on_host: bool) -> None:
    """Rejects a git that ignores what is set for it: credentials, and that no hook runs.

    Args:
        version: Its version, as in `2.39.5` or `2.50.1.windows.1`.
        on_host: It is that of a host, else of the controller.

    Raises:
        DeployError: It is too old.
    """
    present, minimum = (
        [int(number) for number in re.findall(r"[0-9]+", one)[:2]] for one in (version, MINIMUM_GIT)
    )
    if present < minimum:
        other = "write checkout: controller, or " if on_host else ""
        raise DeployError(
            f"asgi_app_source: git {version} {'of this host' if on_host else 'of the controller'}"
            f" is too old; {other}install git {MINIMUM_GIT} or newer there"
        )


def git_on_host(
    arguments: Sequence[str], directory: Path, access: GitAccess, steps: Contained
) -> str:
    """Runs git as a step of a build, with the variables of the play, but no files of a user."""
    given = {
        key: value
        for key, value in os.environ.items()
        if key.startswith("GIT_") and key not in GIT_REPOSITORY
    }
    secret = {"GIT_CONFIG_GLOBAL": access.configuration} if access.configuration else {}
    ended = steps.run(
        ["git", *arguments],
        purpose="read the repository",
        environment={
            **({"GIT_SSL_CAINFO": access.ca_file} if access.ca_file else {}),
            **given,
            "GIT_TERMINAL_PROMPT": "0",
            "HOME": os.devnull,
            **git_configuration(GIT_SETTINGS, int(given.get(GIT_COUNT) or 0)),
        },
        secret_files=secret,
        directory=directory,
        check=False,
    )
    if ended.returncode:
        raise git_failure(arguments, directory, ended.output)
    return ended.stdout


def git_command(arguments: Sequence[str]) -> str:
    """Returns the command among the arguments of git."""
    return next(word for word in arguments if not word.startswith("-"))


def git_failure(arguments: Sequence[str], directory: Path, text: str) -> DeployError:
    """Returns the error for a git command that failed, without credentials."""
    owned = re.search(r"dubious ownership in repository at '(.+)'", text)
    if owned:
        return DeployError(
            f"asgi_app_source: the Git repository {owned[1]}, to which {directory} belongs, has"
            " another owner than the user who deploys, and its settings could run commands. If you"
            f" trust it: git config --global --add safe.directory {owned[1]}"
        )
    return DeployError(f"git {git_command(arguments)} failed: {hide_credentials(text.strip())}")


def git_configuration(settings: Mapping[str, str], first: int = 0) -> dict[str, str]:
    """Returns the environment that gives git some settings.

    Args:
        settings: Values by their names; none of them secret.
        first: How many settings the environment has already, which stay.
    """
    variables = {GIT_COUNT: str(first + len(settings))}
    for number, (key, value) in enumerate(settings.items(), start=first):
        variables[f"GIT_CONFIG_KEY_{number}"] = key
        variables[f"GIT_CONFIG_VALUE_{number}"] = value
    return variables


def git_access(
    url: str, username: str, password: str, steps: Contained | None = None, ca_file: str = ""
) -> GitAccess:
    """Returns the access to a repository over HTTPS with the given credentials, if any.

    They go to the server of the repository only, not to those of its submodules.
    """
    if not password:
        return GitAccess("", steps, ca_file)
    parts = urlsplit(url)
    token = base64.b64encode(f"{username}:{password}".encode()).decode()
    server = re.sub(r'(["\\])', r"\\\1", f"{parts.scheme}://{parts.netloc}/")
    header = f'[http "{server}"]\n\textraHeader = "Authorization: Basic {token}"\n'
    return GitAccess(header, steps, ca_file)


def hide_credentials(text: str) -> str:
    """Replaces user and password in every URL of a text."""
    return re.sub(r"([a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s]+@", r"\1***@", text)


def ignored_by_rule(path: PurePosixPath) -> bool:
    """Says whether a path never belongs to a source: version control and caches."""
    return path.suffix == ".pyc" or any(
        part in VERSION_CONTROL or part in CACHES for part in path.parts
    )


def candidates(source: Path) -> Iterator[str]:
    """Yields the relative paths of a directory that its .gitignore files leave in.

    Only .gitignore files count, not a user's own excludes, so that two controllers agree.
    """
    source = source.resolve()
    inside = any((parent / ".git").exists() for parent in (source, *source.parents))
    listing = ["ls-files", "-z", "--others", "--exclude-per-directory=.gitignore"]
    if inside:
        text = git([*listing, "--cached", "--", "."], source)
    else:
        with tempfile.TemporaryDirectory(prefix="asgi-deploy-") as scratch:
            git(["init", "--quiet", "--bare", scratch], source)
            place = [f"--git-dir={scratch}", f"--work-tree={source}"]
            text = git([*place, *listing, "--", "."], source)
    for name in filter(None, text.split("\0")):
        nested = source / name
        if nested.is_dir() and not nested.is_symlink():
            # a submodule, or another repository inside this one
            if not (nested / ".git").exists():
                raise DeployError(
                    f"asgi_app_source.path: the submodule {nested} was not fetched;"
                    " run git submodule update --init --recursive"
                )
            yield from (f"{name.rstrip('/')}/{inner}" for inner in candidates(nested))
        else:
            yield name


def matching(patterns: Sequence[str], names: Collection[str]) -> dict[str, str]:
    """Returns the paths that patterns match as in a .gitignore file, each with its pattern.

    Args:
        patterns: As in a .gitignore file in the directory of the source; the last one decides.
        names: Relative paths of files.
    """
    if not patterns or not names:
        return {}
    # in an empty directory: in that of the source git would read its .gitignore files too
    with tempfile.TemporaryDirectory(prefix="asgi-deploy-") as scratch:
        empty = Path(scratch)
        git(["init", "--quiet", "."], empty)
        with (empty / ".git" / "config").open("a", encoding="utf-8") as file:
            file.write(f"[core]\n\texcludesFile = {os.devnull}\n")
        rules = empty / ".git" / "info" / "exclude"
        rules.parent.mkdir(exist_ok=True)
        rules.write_text("".join(f"{one}\n" for one in patterns), encoding="utf-8")
        told = git(
            ["check-ignore", "--no-index", "--verbose", "--stdin", "-z"],
            empty,
            given="\0".join(names),
            # nothing matches
            good=(0, 1),
        )
    # of each path: file and line of the pattern, the pattern, the path
    words = told.split("\0")
    found = zip(words[2::4], words[3::4], strict=True)
    return {name: pattern for pattern, name in found if not pattern.startswith("!")}


def included(source: Path, patterns: Sequence[str]) -> set[str]:
    """Returns the paths of files that are deployed whatever .gitignore files say.

    Raises:
        DeployError: A pattern matches nothing; what it stands for was not built.
    """
    names = sorted(tree(source)) if patterns else []
    found = matching(patterns, names)
    for pattern in patterns:
        if pattern.startswith(("!", "#")) or pattern in found.values():
            continue
        # a later pattern may match the same paths
        if not matching([pattern], names):
            raise DeployError(
                f"asgi_app_source.include: {pattern!r} matches no file in {source}; build what it"
                " stands for before the deploy, or correct it (a pattern as in a .gitignore file)"
            )
    return set(found)


def tree(source: Path) -> Iterator[str]:
    """Yields the relative paths of all that a directory has, whatever .gitignore files say."""
    for directory, folders, files in os.walk(source):
        folders[:] = [name for name in folders if not ignored_by_rule(PurePosixPath(name))]
        for name in (*folders, *files):
            path = Path(directory, name)
            if path.is_symlink() or not path.is_dir():
                yield path.relative_to(source).as_posix()


def entries(
    source: Path,
    exclude: Sequence[str] = (),
    listed: Iterable[str] | None = None,
    include: Sequence[str] = (),
) -> list[Entry]:
    """Lists what belongs to a source directory, sorted by path.

    Left out: version control, caches, virtual environments (a directory with a pyvenv.cfg),
    what .gitignore files name unless `include` names it, and what `exclude` names.

    Args:
        source: The directory.
        exclude: More patterns, as in a .gitignore file in the directory.
        listed: Relative paths to choose from in place of what .gitignore files leave in.
        include: Patterns for what is taken although .gitignore files name it.

    Raises:
        DeployError: No such directory, nothing in it, a file that Git LFS has not fetched, a name
            that is not UTF-8, or a pattern of `include` that matches nothing.
    """
    if not source.is_dir():
        raise DeployError(f"asgi_app_source.path: there is no directory {source}")
    found: list[Entry] = []
    environments: dict[Path, bool] = {}

    def in_environment(path: Path) -> bool:
        for parent in path.parents:
            if parent == source:
                return False
            if parent not in environments:
                environments[parent] = (parent / "pyvenv.cfg").is_file()
            if environments[parent]:
                return True
        return False

    names = set(candidates(source) if listed is None else listed) | included(source, include)
    for name in names - matching(exclude, sorted(names)).keys():
        relative = PurePosixPath(name)
        path = source / name
        if ignored_by_rule(relative) or in_environment(path):
            continue
        try:
            name.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DeployError(f"file name is not UTF-8: {name!r} in {source}") from error
        if path.is_symlink():
            found.append(Entry(name, "link", str(path.readlink())))
        elif path.is_file():
            with path.open("rb") as file:
                if file.peek(len(LFS_POINTER)).startswith(LFS_POINTER):
                    raise pointer_of_lfs(path)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            executable = path.stat().st_mode & 0o100
            found.append(Entry(name, "executable" if executable else "file", digest))
    if not found:
        raise DeployError(f"asgi_app_source.path: no file to deploy in {source}")
    return sorted(found, key=lambda entry: entry.path)


def pointer_of_lfs(path: Path) -> DeployError:
    """Returns the error for a file that Git LFS has not fetched."""
    return DeployError(
        f"asgi_app_source: {path} is a pointer of Git LFS in place of the file. Install git-lfs on"
        " the controller (git lfs install), and fetch the files of a working directory (git lfs"
        " pull); with checkout: host they cannot be fetched, write checkout: controller"
    )


def refuse_pointers(directory: Path) -> None:
    """Raises where Git LFS would have to fetch a file, which it does not do on a host.

    Nothing but git has written to the directory yet.
    """
    for name in tree(directory):
        path = directory / name
        if path.is_symlink():
            continue
        with path.open("rb") as file:
            if file.read(len(LFS_POINTER)) == LFS_POINTER:
                raise pointer_of_lfs(Path(name))


def content_digest(found: Sequence[Entry]) -> str:
    """Returns the SHA-256 over paths, kinds and contents."""
    digest = hashlib.sha256()
    for entry in found:
        digest.update(f"{entry.path}\0{entry.kind}\0{entry.digest}\n".encode())
    return digest.hexdigest()


def pack(source: Path, found: Sequence[Entry], archive: Path, planned_at: float) -> None:
    """Writes the entries to a gzipped tar archive without owners or umask.

    Args:
        source: The directory.
        found: What belongs to it.
        archive: Where it is written.
        planned_at: Time of all files, in seconds since 1970. It is later than whatever was done
            with a former release, so that ETags differ, and copies of a former file are older.
    """
    with (
        archive.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0, compresslevel=6) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for entry in found:
            member = tarfile.TarInfo(entry.path)
            member.mtime = int(planned_at)
            if entry.kind == "link":
                member.type = tarfile.SYMTYPE
                member.linkname = entry.digest
                tar.addfile(member)
                continue
            member.mode = 0o755 if entry.kind == "executable" else 0o644
            with (source / entry.path).open("rb") as file:
                member.size = os.fstat(file.fileno()).st_size
                tar.addfile(member, file)


def resolve_commit(
    url: str,
    version: str,
    directory: Path,
    access: GitAccess = GitAccess(),
) -> str:
    """Returns the commit that a tag, branch or commit of a repository stands for now.

    Raises:
        DeployError: The repository does not answer, or has no such version.
    """
    if re.fullmatch(r"[0-9a-f]{40}", version):
        return version
    listing = git(["ls-remote", "--", url], directory, access)
    refs = {
        name: commit
        for commit, name in (line.split("\t", 1) for line in listing.splitlines() if "\t" in line)
    }
    # a peeled tag (^{}) is the commit that an annotated tag stands for
    for name in (
        f"refs/tags/{version}^{{}}",
        f"refs/tags/{version}",
        f"refs/heads/{version}",
        version,
    ):
        if name in refs:
            return refs[name]
    raise DeployError(
        f"asgi_app_source.version: {hide_credentials(url)} has no tag, branch or commit"
        f" {version!r}; a commit is given with all its 40 digits"
    )


def checkout(
    url: str,
    commit: str,
    target: Path,
    access: GitAccess = GitAccess(),
) -> None:
    """Puts the files of one commit, submodules included, into a directory, made if need be."""
    target.mkdir(exist_ok=True)
    git(["init", "--quiet", "."], target, access)
    git(["remote", "add", "origin", url], target, access)
    try:
        git(["fetch", "--quiet", "--depth=1", "origin", commit], target, access)
    except DeployError:
        # an old server gives out only the tips of branches: take all, then pick
        everything = ["fetch", "--quiet", "--tags", "origin", "+refs/heads/*:refs/remotes/origin/*"]
        git(everything, target, access)
    git(["checkout", "--quiet", "--force", commit], target, access)
    if (target / ".gitmodules").exists():
        submodules = ["submodule", "--quiet", "update", "--init", "--recursive"]
        git(submodules, target, access)
    if access.steps is not None:
        refuse_pointers(target)


def project_version(source: Path) -> str:
    """Returns the version in pyproject.toml, or an empty text where none is written."""
    # controllers run Python 3.11 or newer, hosts may not have tomllib
    import tomllib

    try:
        with (source / "pyproject.toml").open("rb") as file:
            project: dict[str, Any] = tomllib.load(file).get("project", {})
    except FileNotFoundError:
        return ""
    except tomllib.TOMLDecodeError as error:
        raise DeployError(f"pyproject.toml of the app is not valid TOML: {error}") from error
    version = project.get("version", "")
    return version if isinstance(version, str) else ""


def release_id(version: str, digest: str, build: Mapping[str, Any]) -> str:
    """Returns the id of a release: a readable version and a digest of all that counts.

    Args:
        version: The app's own version; characters that a unit name cannot carry are replaced.
        digest: Digest of the content, or the commit.
        build: What else the result depends on (installer, Python, extras, indexes).
    """
    settings = "\n".join(f"{key}={build[key]!r}" for key in sorted(build))
    whole = hashlib.sha256(f"{digest}\n{settings}".encode()).hexdigest()
    readable = re.sub(r"[^A-Za-z0-9._]+", ".", version).strip(".")[:40]
    return f"{readable or '0'}-{whole[:DIGEST_LENGTH]}"


def plan(
    release: str, version: str, digest: str, commit: str, source: str, archive: str
) -> dict[str, str]:
    """Returns what is decided once for a run and then built on every host."""
    return {
        "release": release,
        "version": version,
        "digest": digest,
        "commit": commit,
        "source": source,
        "archive": archive,
    }


def directory_plan(
    source: Path,
    scratch: Path,
    build: Mapping[str, Any],
    directory: str,
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
) -> dict[str, str]:
    """Plans a release of a directory on this machine and packs it.

    Args:
        source: The directory.
        scratch: Where the archive is written.
        build: How it will be built (BuildSettings.identity).
        directory: Folder inside the source with the project.
        exclude: Patterns to leave out.
        include: Patterns to take although .gitignore files name it.
    """
    found = entries(source, exclude, include=include)
    return packed_plan(source, found, scratch, build, directory, "path")


def archive_plan(
    source: Path, origin: str, scratch: Path, build: Mapping[str, Any], directory: str
) -> dict[str, str]:
    """Plans a release of an unpacked archive; who made it has chosen what is in it.

    Args:
        source: The directory that it was unpacked into.
        origin: Where the archive is from, without credentials.
        scratch: Where the archive for the hosts is written.
        build: How it will be built (BuildSettings.identity).
        directory: Folder inside the source with the project.
    """
    found = entries(source, listed=tree(source))
    return packed_plan(source, found, scratch, build, directory, origin)


def packed_plan(
    source: Path,
    found: Sequence[Entry],
    scratch: Path,
    build: Mapping[str, Any],
    directory: str,
    origin: str,
) -> dict[str, str]:
    """Packs what was found in a directory; its content names the release."""
    version = project_version(source / directory)
    require_current(source, directory)
    digest = content_digest(found)
    archive = scratch / f"{digest}.tar.gz"
    pack(source, found, archive, time.time())
    return plan(release_id(version, digest, build), version, digest, "", origin, str(archive))


def git_plan(
    url: str,
    version: str,
    scratch: Path,
    access: GitAccess,
    build: Mapping[str, Any],
    directory: str,
) -> dict[str, str]:
    """Plans a release of a commit, checked out on this machine, and packs it."""
    commit = resolve_commit(url, version, scratch, access)
    tree = scratch / commit
    checkout(url, commit, tree, access)
    readable = project_version(tree / directory)
    require_current(tree, directory)
    found = entries(tree)
    archive = scratch / f"{commit}.tar.gz"
    pack(tree, found, archive, time.time())
    return plan(
        release_id(readable, commit, build),
        readable,
        content_digest(found),
        commit,
        hide_credentials(url),
        str(archive),
    )


def host_checkout_plan(
    url: str,
    version: str,
    directory: Path,
    access: GitAccess,
    build: Mapping[str, Any],
) -> dict[str, str]:
    """Plans a release of a commit that every host will check out itself, as the build user."""
    commit = resolve_commit(url, version, directory, access)
    release = release_id(f"git.{commit[:7]}", commit, build)
    return plan(release, "", "", commit, hide_credentials(url), "")


def undecided_plan(url: str) -> dict[str, str]:
    """Returns the plan of check mode where nobody can ask the repository yet."""
    return plan(UNDECIDED, "", "", "", hide_credentials(url), "")

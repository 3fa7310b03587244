# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Git repository as a source: how git runs and reaches it, on the controller or on a host."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

from .contained import Contained
from .errors import DeployError

GIT_TIMEOUT_SECONDS = 600
#: The first one that reads GIT_CONFIG_GLOBAL; those before 2.31 ignore GIT_CONFIG_COUNT, too.
MINIMUM_GIT = "2.32"
GIT_COUNT = "GIT_CONFIG_COUNT"
#: What to do where ssh says this.
SSH_ADVICE = {
    "Load key ": "ssh cannot read asgi_app_source.ssh_key: write all lines of a private key"
    " without a passphrase, as a block of YAML with |",
    "Host key verification failed": "ssh does not know the key of that server: write the line that"
    " ssh-keyscan prints, once it is verified, as asgi_app_source.ssh_known_hosts",
    "Permission denied (publickey": "the server does not accept the key: write a deploy key that it"
    " knows as asgi_app_source.ssh_key, or load one into the agent of the controller",
}
#: Variables with the paths of files for ssh.
SSH_KEY = "ASGI_SSH_KEY"
SSH_KNOWN_HOSTS = "ASGI_SSH_KNOWN_HOSTS"
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
    "GIT_GLOB_PATHSPECS",
    "GIT_ICASE_PATHSPECS",
    "GIT_LITERAL_PATHSPECS",
    "GIT_NOGLOB_PATHSPECS",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
    "GIT_WORK_TREE",
}


@dataclass(frozen=True)
class GitAccess:
    """How git reaches a repository.

    Args:
        configuration: Text of a configuration file with what is secret; empty for nothing.
        steps: What runs git on a host; None on the controller.
        ca_file: Bundle of the authorities to trust, a path on the host; empty for the system's.
        ssh_key: A private key; empty for those of the user on the controller, and none on a host.
        ssh_known_hosts: Lines of a known_hosts file; empty for that of the user on the controller.
    """

    configuration: str = ""
    steps: Contained | None = None
    ca_file: str = ""
    ssh_key: str = ""
    ssh_known_hosts: str = ""

    def files(self) -> dict[str, str]:
        """Returns what git and ssh read from files of their own, by the variables for their paths.

        A command of git is run by a shell, which puts the paths of the others in.
        """
        given = {
            "GIT_CONFIG_GLOBAL": self.configuration,
            SSH_KEY: self.ssh_key,
            SSH_KNOWN_HOSTS: self.ssh_known_hosts,
        }
        # ssh reads no key whose last line has no end, or that has those of Windows
        return {
            variable: "".join(f"{line}\n" for line in text.strip().splitlines())
            for variable, text in given.items()
            if text
        }

    def ssh_variables(self) -> dict[str, str]:
        """Returns the environment that has git call ssh with the key and the hosts."""
        options = ["-o BatchMode=yes"]
        if self.ssh_key:
            options += [f'-i "${SSH_KEY}"', "-o IdentitiesOnly=yes", "-o IdentityAgent=none"]
        if self.ssh_known_hosts:
            options += [
                f'-o "UserKnownHostsFile=${SSH_KNOWN_HOSTS}"',
                "-o StrictHostKeyChecking=yes",
            ]
        return {"GIT_SSH_COMMAND": " ".join(["ssh", *options])} if len(options) > 1 else {}


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
        good: Exit statuses that are no failure.

    Raises:
        DeployError: git is missing, too old or failed.
    """
    if shutil.which("git") is None:
        raise DeployError("git is needed to read this source; install it where it is read")
    require_git(git_version(), on_host=access.steps is not None)
    if access.steps is not None:
        return git_on_host(arguments, directory, access, access.steps, good)
    inherited = {key: value for key, value in os.environ.items() if key not in GIT_REPOSITORY}
    with tempfile.TemporaryDirectory(prefix="asgi-deploy-") as private:
        settings, paths = dict(GIT_SETTINGS), {}
        for variable, text in access.files().items():
            path = Path(private, variable)
            path.touch(mode=0o600)
            path.write_text(text, encoding="utf-8")
            paths[variable] = str(path)
        if "GIT_CONFIG_GLOBAL" in paths:
            # beside that of the user
            settings["include.path"] = paths.pop("GIT_CONFIG_GLOBAL")
        try:
            done = subprocess.run(
                ["git", *arguments],
                cwd=directory,
                env={
                    **inherited,
                    **paths,
                    **access.ssh_variables(),
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
    arguments: Sequence[str],
    directory: Path,
    access: GitAccess,
    steps: Contained,
    good: Sequence[int] = (0,),
) -> str:
    """Runs git as a step of a build, with the variables of the play, but no files of a user."""
    given = {
        key: value
        for key, value in os.environ.items()
        if key.startswith("GIT_") and key not in GIT_REPOSITORY
    }
    ended = steps.run(
        ["git", *arguments],
        purpose="read the repository",
        environment={
            **({"GIT_SSL_CAINFO": access.ca_file} if access.ca_file else {}),
            **given,
            **access.ssh_variables(),
            "GIT_TERMINAL_PROMPT": "0",
            "HOME": os.devnull,
            **git_configuration(GIT_SETTINGS, int(given.get(GIT_COUNT) or 0)),
        },
        secret_files=access.files(),
        directory=directory,
        check=False,
    )
    if ended.returncode not in good:
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
    failure = f"git {git_command(arguments)} failed: {hide_credentials(text.strip())}"
    advice = [words for sign, words in SSH_ADVICE.items() if sign in text]
    return DeployError("\n".join([failure, *advice[:1]]))


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
    source: Mapping[str, str | None], steps: Contained | None = None, ca_file: str = ""
) -> GitAccess:
    """Returns the access to a repository with the credentials for HTTPS or SSH, if any.

    Those for HTTPS go to the server of the repository only, not to those of its submodules.

    Args:
        source: asgi_app_source with `git`.
        steps: What runs git on a host; None on the controller.
        ca_file: Bundle of the authorities to trust, a path on the host.
    """
    url, username, password = (source.get(key) or "" for key in ("git", "username", "password"))
    key, known_hosts = (source.get(key) or "" for key in ("ssh_key", "ssh_known_hosts"))
    access = GitAccess("", steps, ca_file, key, known_hosts)
    if not password:
        return access
    parts = urlsplit(url)
    token = base64.b64encode(f"{username}:{password}".encode()).decode()
    server = re.sub(r'(["\\])', r"\\\1", f"{parts.scheme}://{parts.netloc}/")
    header = f'[http "{server}"]\n\textraHeader = "Authorization: Basic {token}"\n'
    return replace(access, configuration=header)


def hide_credentials(text: str) -> str:
    """Replaces user and password in every URL of a text."""
    return re.sub(r"([a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s]+@", r"\1***@", text)


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

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules between variables, checked before anything is touched.

Each function takes the variables of a role by their names and returns what is wrong: which
variable, why, and what to write instead. Values of secrets are never among it.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from . import downloads, servers
from .errors import DeployError
from .sizing import MOST_INSTANCES
from .units import mebibytes

#: The first ansible-core that keeps values of a vault as text, and in templates does not evaluate
#: what a condition leaves out. For an older one Ansible only warns (`requires_ansible`).
MINIMUM_ANSIBLE = "2.19.1"
#: Hidden from a service, or not there any more after a reboot.
HIDDEN = re.compile(r"/+(?:home|root|run|tmp|var/run|var/tmp|dev|proc|sys)(?:/|$)")
NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
#: `<name>-build` is a user as well, and Linux ends at 32 characters.
NAME_LENGTH = 26
ENTRYPOINT = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
ENVIRONMENT_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
HOST = rf"{LABEL}(?:\.{LABEL})*"
DOMAIN = re.compile(rf"(?:\*\.)?{HOST}")
UPSTREAM = re.compile(rf"(?:{HOST}|\[[0-9A-Fa-f:.]+\])(?::([0-9]{{1,5}}))?")
#: A name that RFC 6265 lets a cookie have.
COOKIE = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
URL_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)+")
USER = re.compile(r"[A-Za-z0-9._@-]+")
BCRYPT = re.compile(r"\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}")
HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
METRICS_ADDRESS = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+)):(?P<port>[1-9][0-9]{0,4})"
)
#: Stands for all private networks where Caddy reads networks.
CADDY_PRIVATE = "private_ranges"
#: Of a user with Traefik; ours have the names of the middlewares in the site.
MIDDLEWARE = re.compile(
    r"(?!(?:allow|auth|rate|concurrency|hsts|headers|compress|path|https|slot|redirect|ready"
    r"|retry)$)"
    r"[a-z][a-z0-9]*"
)
#: Where an app can come from; one of them is written.
SOURCE_KINDS = ("path", "git", "archive", "wheel", "index")
COMPANIONS = {"requirements", "lock", "files"}
#: A shell would be needed for these.
SHELL = re.compile(r"[|;&<>`]")
#: What can be written beside each.
SOURCE_KEYS = {
    "path": {"path", "include", "exclude"},
    "git": {"git", "version", "checkout", "username", "password", "ssh_key", "ssh_known_hosts"},
    "archive": {"archive", "checksum", "username", "password"},
    "wheel": {"wheel", "checksum", "username", "password", *COMPANIONS},
    "index": {"index", "version", *COMPANIONS},
}
PACKAGE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
VERSION = re.compile(r"[0-9][A-Za-z0-9.!+_-]*")
REQUIREMENT = re.compile(rf"{PACKAGE.pattern}(?:\[[A-Za-z0-9,._ -]+\])?=={VERSION.pattern}")
#: Made for a source without a tree, or read in place of it.
OWN_FILES = ("requirements.txt", "pyproject.toml", "uv.lock")
#: What an app has of its own in the sandbox, or not at all.
HIDDEN_FROM_APP = re.compile(r"/+(home|root|run/user|tmp|var/tmp|dev|proc|sys)(?:/|$)")
DEVICE = re.compile(r"/dev/[A-Za-z0-9/_.:-]+|(?:char|block)-[A-Za-z0-9_.*-]+")
#: With a scheme, or as scp has it.
PRIVATE_KEY = re.compile(r"\s*-----BEGIN [A-Z ]*PRIVATE KEY-----[ \t]*\r?\n")
SSH_URL = re.compile(r"(?:git\+)?ssh(?:\+git)?://|(?:[^/:@]+@)?[^/:@]+:(?!//)", re.IGNORECASE)
#: A share of the host's memory.
PERCENTAGE = re.compile(r"(?:[1-9][0-9]?|100)%")
LOCK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: Those that all servers know.
LOG_LEVELS = ("critical", "error", "warning", "info", "debug")
#: Instances must get older than it takes to replace them.
MINIMUM_AGE_SECONDS = 300
MINIMUM_REQUESTS = 1000
#: With specifiers, as `%n` for the unit that has failed.
UNIT_NAME = re.compile(r"[A-Za-z0-9:_.@%\\-]+\.(?:service|target)")
STATUS = re.compile(r"[1-5][0-9][0-9](?:-[1-5][0-9][0-9])?")
RESERVED_NAMES = {"root", "caddy", "traefik", "nobody", "systemd", "asgi", "postgres", "www-data"}
#: Traefik looks once a minute at the most whether a certificate is to be renewed.
SHORTEST_LIFETIME_MINUTES = 2
DAY_MINUTES = 24 * 60
#: What each proxy can compress with.
ENCODINGS = {"caddy": ("zstd", "gzip"), "traefik": ("zstd", "br", "gzip")}
#: No public authority certifies a name under these (RFC 2606, RFC 6761, RFC 6762, RFC 9476).
PRIVATE_SUFFIXES = (
    "localhost",
    "test",
    "example",
    "invalid",
    "local",
    "internal",
    "home.arpa",
    "alt",
)


def require_ansible(version: str) -> None:
    """Rejects a controller that is too old.

    Args:
        version: Its version of ansible-core.

    Raises:
        DeployError: It is older than the collection needs.
    """
    present, minimum = (
        [int(number) for number in re.findall(r"[0-9]+", one)[:3]]
        for one in (version, MINIMUM_ANSIBLE)
    )
    if present < minimum:
        raise DeployError(
            f"asgi.deploy needs ansible-core {MINIMUM_ANSIBLE} or newer on the controller, and this"
            f" is {version}; nothing was done. Install a newer one, for example with"
            f" pip install 'ansible-core>={MINIMUM_ANSIBLE}'"
        )


def app_problems(values: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with the variables of the role `app`."""
    problems = []
    name = values["asgi_app_name"]
    if (
        not NAME.fullmatch(name)
        or len(name) > NAME_LENGTH
        or name in RESERVED_NAMES
        or name.endswith("-build")
    ):
        problems.append(
            f"asgi_app_name: {name!r} is not usable; write lower case letters, digits and single"
            f" dashes, at most {NAME_LENGTH}, no -build at its end, for example 'blog'"
        )
    if not ENTRYPOINT.fullmatch(values["asgi_app_entrypoint"]):
        problems.append(
            f"asgi_app_entrypoint: {values['asgi_app_entrypoint']!r} is not module:attribute,"
            " for example 'blog.main:app'"
        )
    problems += source_problems(values["asgi_app_source"])
    directory = values["asgi_app_directory"]
    if directory.startswith("/") or ".." in directory.split("/"):
        problems.append("asgi_app_directory: write a folder inside the source, without '..'")
    if {"wheel", "index"} & set(mapping(values["asgi_app_source"])):
        if directory != ".":
            problems.append(
                "asgi_app_directory: a wheel and a package have no folders; leave it out"
            )
        problems += [
            f"{variable}: is for a source tree; a wheel and a package of the index have"
            " asgi_app_source.requirements and lock"
            for variable in ("asgi_app_package", "asgi_app_requirements_files", "asgi_app_groups")
            if values[variable]
        ]
    problems += dependency_problems(
        values["asgi_app_package"], values["asgi_app_requirements_files"]
    )
    for variable, example in (("asgi_app_root", "/srv"), ("asgi_app_cache_dir", "/var/cache/asgi")):
        path = values[variable]
        problems += path_problems(variable, [path])
        if HIDDEN.match(path):
            problems.append(
                f"{variable}: {path} is out of reach for the services of the app, by ProtectHome="
                f" and PrivateTmp=, or gone after a reboot; write for example {example}/{name}"
            )
    if int(values["asgi_app_keep_releases"]) < 2:
        problems.append("asgi_app_keep_releases: keep at least 2, or there is no way back")
    if HIDDEN_FROM_APP.match(str(values["asgi_app_python"])):
        problems.append(
            f"asgi_app_python: {values['asgi_app_python']!r} is not seen by the app, whose sandbox"
            " hides it; write an interpreter elsewhere, for example below /opt or /usr/local"
        )
    problems += credential_problems(values["asgi_app_credentials"])
    problems += build_problems(values["asgi_app_build_commands"])
    memory_max = str(values["asgi_app_build_memory_max"])
    if not PERCENTAGE.fullmatch(memory_max):
        problems += size_problems("asgi_app_build_memory_max", memory_max)
    extra = values["asgi_app_extra_indexes"]
    for index in [values["asgi_app_index"], *([extra] if isinstance(extra, str) else extra)]:
        if index and not mapping(index).get("url"):
            problems.append("asgi_app_index, asgi_app_extra_indexes: write {url: https://...}")
            continue
        if index and "@" in index.get("url", "").split("//")[-1].split("/")[0]:
            problems.append(
                "asgi_app_index, asgi_app_extra_indexes: a URL must not have credentials in it;"
                " write them as username and password of the index"
            )
    return problems + configuration_problems(
        values["asgi_app_environment"], values["asgi_app_secrets"]
    )


def dependency_problems(package: str, files: Any) -> list[str]:
    """Returns what is wrong with what is to be installed."""
    problems = []
    if package and not PACKAGE.fullmatch(package):
        problems.append(f"asgi_app_package: {package!r} is no name of a package")
    if isinstance(files, str):
        example = "[requirements/production.txt]"
        return [*problems, f"asgi_app_requirements_files: write a list, for example {example}"]
    if package and files:
        problems.append(
            "asgi_app_requirements_files: is in place of the lock of a workspace; write it or"
            " asgi_app_package"
        )
    return problems + [
        f"asgi_app_requirements_files: {path!r} is no path inside the source"
        for path in map(str, files)
        if not path or path.startswith(("/", "-"))
    ]


def credential_problems(credentials: Any) -> list[str]:
    """Returns what is wrong with the files that systemd gives the app."""
    if not isinstance(credentials, Mapping):
        return ["asgi_app_credentials: write a dictionary of names and paths of files on the host"]
    problems = [
        f"asgi_app_credentials: {name!r} is not usable; write letters, digits, dots and dashes, for"
        " example 'signing.pem'"
        for name in map(str, credentials)
        if not LOCK_NAME.fullmatch(name)
    ]
    return problems + path_problems("asgi_app_credentials", [*map(str, credentials.values())])


def build_problems(commands: Any) -> list[str]:
    """Returns what is wrong with the commands of a build."""
    if isinstance(commands, str):
        return ["asgi_app_build_commands: write a list, for example [python manage.py compress]"]
    problems = []
    for command in map(str, commands):
        if SHELL.search(command):
            problems.append(
                f"asgi_app_build_commands: {command!r} is run without a shell; put what needs one"
                " into a script of the app and write: sh scripts/build.sh"
            )
            continue
        try:
            words = shlex.split(command)
        except ValueError as error:
            problems.append(f"asgi_app_build_commands: {command!r}: {error}")
        else:
            if not words:
                problems.append("asgi_app_build_commands: an empty command; leave it out")
    return problems


def configuration_problems(environment: Any, secrets: Any) -> list[str]:
    """Returns what is wrong with the app's environment and secrets; never their values."""
    problems = environment_problems("asgi_app_environment", environment)
    problems += environment_problems("asgi_app_secrets", secrets)
    both = {*mapping(environment)} & {*mapping(secrets)}
    return problems + [
        f"asgi_app_secrets: {key} is in asgi_app_environment too; keep one of them"
        for key in sorted(both)
    ]


def path_problems(variable: str, paths: Sequence[str]) -> list[str]:
    """Returns what is wrong with paths that are written into unit files."""
    return [
        f"{variable}: {path!r} is not usable; write an absolute path without white space,"
        " quotes, backslash, % and $"
        for path in paths
        if not path.startswith("/") or re.search(r"[\s%\"'\\$]", path)
    ]


def writable_problems(paths: Sequence[str]) -> list[str]:
    """Returns what is wrong with asgi_service_writable_paths."""
    variable = "asgi_service_writable_paths"
    found = ((path, HIDDEN_FROM_APP.match(path)) for path in paths)
    return path_problems(variable, paths) + [
        f"{variable}: {path!r} is not seen by the app, whose sandbox has no /{hidden[1]} of the"
        " host; write a directory elsewhere, for example below /srv"
        for path, hidden in found
        if hidden
    ]


def size_problems(variable: str, size: str) -> list[str]:
    """Returns what is wrong with a size."""
    try:
        mebibytes(size)
    except ValueError as error:
        return [f"{variable}: {error}"]
    return []


def mapping(value: Any) -> Mapping[str, Any]:
    """Returns the value if it is a dictionary, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def source_problems(source: Any) -> list[str]:
    """Returns what is wrong with asgi_app_source."""
    given = [kind for kind in SOURCE_KINDS if mapping(source).get(kind)]
    if len(given) != 1:
        return [
            "asgi_app_source: write exactly one of path, git, archive, wheel and index, for example"
            " {path: ../blog} or {git: https://git.example.com/blog.git, version: v1.4.2}"
        ]
    kind = given[0]
    known = SOURCE_KEYS[kind]
    problems = [
        f"asgi_app_source.{key}: is not known beside {kind}; known are {', '.join(sorted(known))}"
        for key in sorted(set(source) - known)
    ]
    if kind != "path" and not isinstance(source[kind], str):
        return [*problems, f"asgi_app_source.{kind}: write text"]
    if kind != "path" and carries_credentials(source[kind]):
        problems.append(
            f"asgi_app_source.{kind}: a URL must not have credentials in it; write"
            " them as asgi_app_source.username and password"
        )
    if kind == "git":
        if not source.get("version"):
            problems.append("asgi_app_source.version: write a tag, a branch or a commit")
        if source.get("checkout", "controller") not in ("controller", "host"):
            problems.append("asgi_app_source.checkout: write controller or host")
        problems += ssh_problems(source)
    if kind == "path":
        problems += pattern_problems(source)
    if kind in ("archive", "wheel"):
        problems += download_problems(source, kind)
    if kind == "index":
        problems += package_problems(source)
    if kind in ("wheel", "index"):
        problems += companion_problems(source)
    return problems


def ssh_problems(source: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with the access to a repository over SSH; never the key."""
    key = source.get("ssh_key") or ""
    over_ssh = SSH_URL.match(source["git"])
    problems = [
        f"asgi_app_source.{name}: is for a URL of SSH, such as git@git.example.com:blog.git"
        for name in ("ssh_key", "ssh_known_hosts")
        if source.get(name) and not over_ssh
    ]
    if key and not PRIVATE_KEY.match(str(key)):
        problems.append(
            "asgi_app_source.ssh_key: write the text of a private key, from -----BEGIN to its last"
            " line, with its line breaks (a block with |, or a lookup of the file)"
        )
    missing = [name for name in ("ssh_key", "ssh_known_hosts") if not source.get(name)]
    if over_ssh and source.get("checkout") == "host" and missing:
        problems.append(
            f"asgi_app_source.{', '.join(missing)}: with checkout: host write the text of the file,"
            " as the host has none"
        )
    return problems


def pattern_problems(source: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with patterns for the files of a directory."""
    return [
        f"asgi_app_source.{key}: write a list of patterns as in a .gitignore file, for example"
        " [dist/, '*.mo']"
        for key in ("include", "exclude")
        if not isinstance(source.get(key) or [], list)
        or not all(
            isinstance(one, str) and re.fullmatch(r"\S|\S.*\S", one)
            for one in source.get(key) or []
        )
    ]


def carries_credentials(url: str) -> bool:
    """Says whether a URL has a user or password in it; for SSH the user is no secret."""
    return (
        "://" in url and "@" in url.split("//")[-1].split("/")[0] and not url.startswith("ssh://")
    )


def download_problems(source: Mapping[str, Any], kind: str) -> list[str]:
    """Returns what is wrong with an archive or a wheel from a path or a URL."""
    problems = []
    checksum = source.get("checksum") or ""
    remote = downloads.is_url(source[kind])
    if (remote or checksum) and not downloads.CHECKSUM.fullmatch(str(checksum)):
        problems.append(
            "asgi_app_source.checksum: write sha256: and 64 hexadecimal digits, which sha256sum"
            " tells; from a URL it is required"
        )
    if "://" in source[kind] and not remote:
        problems.append(f"asgi_app_source.{kind}: write a path on the controller or an HTTPS URL")
    return problems


def package_problems(source: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with a package of an index and its version."""
    problems = []
    if not PACKAGE.fullmatch(source["index"]):
        problems.append(
            f"asgi_app_source.index: {source['index']!r} is not the name of a package; write it"
            " alone, its version as asgi_app_source.version, extras as asgi_app_extras"
        )
    version = source.get("version")
    if not isinstance(version, str) or not VERSION.fullmatch(version):
        problems.append(
            f"asgi_app_source.version: {version!r} is not an exact version in quotes; write one"
            " that the index has, for example '0.65.1', without operators"
        )
    return problems


def companion_problems(source: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with what goes beside a wheel or a package."""
    problems = []
    requirements, files = source.get("requirements") or [], source.get("files") or {}
    if isinstance(requirements, str) or not all(
        isinstance(one, str) and REQUIREMENT.fullmatch(one) for one in requirements
    ):
        problems.append(
            "asgi_app_source.requirements: write a list of packages with exact versions, for"
            " example ['uvicorn==0.54.0']"
        )
    if requirements and source.get("lock"):
        problems.append(
            "asgi_app_source.requirements: the lock names all that is installed; put them into"
            " what the lock is made from, and keep asgi_app_source.lock alone"
        )
    if not isinstance(files, Mapping):
        return [*problems, "asgi_app_source.files: write a dictionary of paths and contents"]
    for name, content in files.items():
        path = PurePosixPath(str(name))
        usable = re.fullmatch(r"[^\\\0\s]+", str(name)) and path.as_posix() == str(name)
        nested = any(str(parent) in files for parent in path.parents)
        if not usable or nested or not path.name or path.is_absolute() or ".." in path.parts:
            problems.append(
                f"asgi_app_source.files: {name!r} is not usable; write the relative path of"
                " a file, without '..' and white space, for example 'main.py'"
            )
        elif path.name in OWN_FILES or path.suffix == ".whl":
            problems.append(
                f"asgi_app_source.files: {name!r} is made from the source; what is to be installed"
                " is written as asgi_app_source.requirements or lock"
            )
        if not isinstance(content, str):
            problems.append(f"asgi_app_source.files: the content of {name!r} must be text")
    return problems


def environment_problems(variable: str, values: Any) -> list[str]:
    """Returns what is wrong with variables for the app's environment; never their values."""
    if not isinstance(values, Mapping):
        return [f"{variable}: write a dictionary of names and values"]
    keys = [str(key) for key in values]
    problems = [
        f"{variable}: {key!r} is not a name for an environment variable"
        for key in keys
        if not ENVIRONMENT_KEY.fullmatch(key)
    ]
    problems += [
        f"{variable}: {key} must be text, a number or a boolean in quotes"
        for key, value in values.items()
        if not isinstance(value, (str, int, float)) or isinstance(value, bool)
    ]
    problems += [
        f"{variable}: {key} has a character that an environment cannot carry (NUL)"
        for key, value in values.items()
        if "\0" in str(value)
    ]
    return problems + servers.refused_environment(keys, variable)


def service_problems(values: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with the variables of the role `service`."""
    problems = []
    text = str(values["asgi_service_instances"])
    instances = int(text) if re.fullmatch("[0-9]{1,3}", text) else 0
    if not 1 <= instances <= MOST_INSTANCES:
        problems.append(
            f"asgi_service_instances: {text} is not usable; write a number, at least 1, at most"
            f" {MOST_INSTANCES}, or auto"
        )
    if not 1024 <= int(values["asgi_service_port"]) <= 32766:
        problems.append(
            "asgi_service_port: write a number from 1024 to 32766; higher ones the kernel gives to"
            " outgoing connections"
        )
    sizes = ("asgi_service_memory_max", "asgi_service_memory_total")
    wrong = [problem for size in sizes for problem in size_problems(size, values[size])]
    problems += wrong
    if instances and not wrong:
        each, total = (mebibytes(values[size]) for size in sizes)
        needed = (2 * instances + 1) * each + int(values.get("processes_mebibytes", 0))
        if total < needed:
            problems.append(
                f"asgi_service_memory_total: {total} MiB cannot hold two slots of"
                f" {instances} instances with {each} MiB, a migration and other processes;"
                f" write at least {needed}M"
            )
        if each < 16:
            problems.append("asgi_service_memory_max: no Python server starts with less than 16M")
    problems += watch_problems(values)
    if not re.fullmatch(r"/[!-~]*", values["asgi_service_health_path"]):
        problems.append(
            "asgi_service_health_path: write a path with a leading slash, without white space and"
            " with other characters than ASCII escaped"
        )
    if values["asgi_service_health_host"].startswith("*"):
        problems.append(
            "asgi_service_health_host: a wildcard cannot be asked; write the name of a host, or"
            " put one first in asgi_proxy_domains"
        )
    problems += [
        f"asgi_service_health_statuses: {status!r} is neither a status like '200' nor a"
        " range like '200-399'"
        for status in map(str, values["asgi_service_health_statuses"])
        if not STATUS.fullmatch(status) or status[:3] > status[-3:]
    ]
    for variable in (
        "asgi_service_health_timeout_seconds",
        "asgi_service_drain_seconds",
        "asgi_service_balancer_drain_seconds",
        "asgi_service_graceful_timeout_seconds",
        "asgi_service_restart_seconds",
        "asgi_service_restart_max_seconds",
        "asgi_service_start_limit_interval_seconds",
    ):
        if float(values[variable]) < 0:
            problems.append(f"{variable}: not less than 0")
    problems += start_limit_problems(values)
    if float(values["asgi_service_settle_seconds"]) < 3:
        problems.append(
            "asgi_service_settle_seconds: at least 3, the proxy keeps idle"
            " connections to the old slot for 2"
        )
    problems += writable_problems(values["asgi_service_writable_paths"])
    problems += [
        f"asgi_service_devices: {one!r} is no device; write a path below /dev, or a kind of"
        " /proc/devices such as char-nvidia or char-drm"
        for one in values["asgi_service_devices"]
        if not DEVICE.fullmatch(str(one))
    ]
    if values["asgi_proxy_upstreams"]:
        problems.append(
            "asgi_proxy_upstreams: this host runs the app, and its proxy would ask itself; set it"
            " for the balancers only, for example in group_vars/asgi_balancers.yml"
        )
    return problems + server_problems(values)


def watch_problems(values: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with recycling, the watch, and the unit for alerts."""
    problems = []
    memory = str(values["asgi_service_recycle_memory"])
    wrong = size_problems("asgi_service_recycle_memory", memory) if memory else []
    problems += wrong
    limit = str(values["asgi_service_memory_max"])
    # a limit that is refused itself is nothing to compare with
    usable = not size_problems("asgi_service_memory_max", limit) and mebibytes(limit) >= 16
    if memory and not wrong and usable and mebibytes(memory) >= mebibytes(limit):
        problems.append(
            f"asgi_service_recycle_memory: {memory} is not below asgi_service_memory_max ({limit}),"
            " at which an instance is killed; leave room for what it takes while it is replaced"
        )
    age = int(values["asgi_service_recycle_age_seconds"])
    if age and age < MINIMUM_AGE_SECONDS:
        problems.append(
            f"asgi_service_recycle_age_seconds: 0 for never, or at least {MINIMUM_AGE_SECONDS}"
        )
    requests = int(values["asgi_service_recycle_requests"])
    if requests and requests < MINIMUM_REQUESTS:
        problems.append(
            f"asgi_service_recycle_requests: 0 for never, or at least {MINIMUM_REQUESTS}"
        )
    if float(values["asgi_service_recycle_pause_seconds"]) < 0:
        problems.append("asgi_service_recycle_pause_seconds: not less than 0")
    if float(values["asgi_service_watch_interval_seconds"]) < 1:
        problems.append("asgi_service_watch_interval_seconds: at least 1")
    if int(values["asgi_service_watch_checks"]) < 1:
        problems.append("asgi_service_watch_checks: at least 1")
    unit = values["asgi_service_on_failure_unit"]
    if unit and not UNIT_NAME.fullmatch(unit):
        problems.append(
            f"asgi_service_on_failure_unit: {unit!r} is not the name of a unit; write one with its"
            " kind, for example alert@%n.service"
        )
    return problems


def start_limit_problems(values: Mapping[str, Any]) -> list[str]:
    """Returns whether an instance that never stays up would never be given up."""
    burst = int(values["asgi_service_start_limit_burst"])
    interval = float(values["asgi_service_start_limit_interval_seconds"])
    if burst < 1:
        return ["asgi_service_start_limit_burst: at least 1"]
    delays = ("asgi_service_restart_seconds", "asgi_service_restart_max_seconds")
    longest = burst * max(float(values[variable]) for variable in delays)
    if interval <= 0 or longest < interval:
        return []
    return [
        f"asgi_service_start_limit_interval_seconds: {burst} starts with the pauses between them"
        f" can take {longest:g} s, so in {interval:g} s the limit would not be reached; write more"
        f" than {longest:g}, or 0 where an instance is never to be given up"
    ]


def server_problems(values: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with how the server is to run the app."""
    name, root_path = values["asgi_service_server"], values["asgi_service_root_path"]
    arguments = list(map(str, values["asgi_service_server_arguments"]))
    problems = servers.refused_arguments(name, arguments)
    if root_path and not re.fullmatch(r"(?:/[A-Za-z0-9._~-]+)+", root_path):
        problems.append(
            f"asgi_service_root_path: {root_path!r} is not usable; write a path with a leading"
            " slash and none at its end, for example '/blog'"
        )
    if values["asgi_service_log_level"] not in LOG_LEVELS:
        problems.append(f"asgi_service_log_level: write one of {', '.join(LOG_LEVELS)}")
    settings = servers.ServerSettings(
        entrypoint="",
        graceful_timeout_seconds=int(values["asgi_service_graceful_timeout_seconds"]),
        lifespan=values["asgi_service_lifespan"],
    )
    chosen = servers.server(name)
    if values["asgi_proxy_provider"] == "traefik" and not chosen.INHERITS_SOCKET:
        able = [other for other, one in servers.SERVERS.items() if one.INHERITS_SOCKET]
        problems.append(
            f"asgi_service_server: {name} makes a unix socket itself, and Traefik asks ports only;"
            f" choose {', '.join(able)}, or asgi_proxy_provider: caddy"
        )
    return problems + chosen.problems(settings)


def proxy_problems(values: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with the variables of the role `proxy`."""
    if values["asgi_proxy_provider"] == "none":
        return [
            "asgi_proxy_static: there is no proxy of ours; let the app serve its files"
            for _ in values["asgi_proxy_static"]
        ][:1]
    problems = []
    if int(values["__asgi_proxy_instances"]) == 0:
        problems.append(
            "asgi_service_instances: auto is not decided yet; play the role service with"
            " tasks_from: validate first, or write a number"
        )
    if isinstance(values["asgi_proxy_domains"], str):
        return ["asgi_proxy_domains: write a list, for example [blog.example.com]"]
    domains: Sequence[str] = values["asgi_proxy_domains"]
    if not domains:
        problems.append("asgi_proxy_domains: write at least one, for example [blog.example.com]")
    problems += [
        f"asgi_proxy_domains: {domain!r} is not a host name"
        for domain in domains
        if not DOMAIN.fullmatch(domain) or len(domain) > 253
    ]
    problems += [
        f"asgi_proxy_domains: {domain} stands there twice"
        for domain, count in sorted(Counter(map(str.lower, domains)).items())
        if count > 1
    ]
    wrong = traffic_problems(values)
    problems += wrong
    # those that are sent on need a certificate too
    names = [*domains, *([] if wrong else values["asgi_proxy_redirect_domains"])]
    kind = certificate_kind(names, values["asgi_proxy_certificate"])
    private = sum(map(private_name, names))
    if values["asgi_proxy_certificate"] == "auto" and 0 < private < len(names):
        problems.append(
            "asgi_proxy_certificate: auto cannot choose, some of asgi_proxy_domains are certified"
            " by public authorities and some by none; write acme, internal or files"
        )
    given = [bool(values[f"asgi_proxy_certificate_{part}"]) for part in ("file", "key_file")]
    if kind == "files" and not all(given):
        problems.append(
            "asgi_proxy_certificate: files needs asgi_proxy_certificate_file and"
            " asgi_proxy_certificate_key_file"
        )
    provider = values["asgi_proxy_provider"]
    if provider == "traefik" and kind == "internal":
        problems.append(
            "asgi_proxy_certificate: Traefik has no authority of its own, as internal (and auto"
            " for names that no public authority certifies) would need; write files, or acme"
            " with asgi_proxy_acme_directory_url"
        )
    if kind != "files" and any(given):
        problems.append(
            "asgi_proxy_certificate_file, asgi_proxy_certificate_key_file: they are"
            " used with asgi_proxy_certificate: files only"
        )
    eab = [bool(values[f"asgi_proxy_acme_eab_{part}"]) for part in ("key_id", "mac_key")]
    if any(eab) and not all(eab):
        problems.append("asgi_proxy_acme_eab_key_id, asgi_proxy_acme_eab_mac_key: both or none")
    by_dns = values["asgi_proxy_acme_challenge"] == "dns-01"
    if kind == "acme" and not by_dns and any(name.startswith("*.") for name in names):
        problems.append(
            "asgi_proxy_domains: a wildcard needs a DNS challenge; set"
            " asgi_proxy_acme_challenge: dns-01, or give its certificate with"
            " asgi_proxy_certificate: files"
        )
    problems += dns_problems(provider, values)
    if kind == "acme":
        problems += authority_problems(values)
    problems += program_problems(provider, values)
    return problems + upstream_problems(values) + provider_problems(provider, values)


def program_problems(provider: str, values: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with where the program of a proxy comes from."""
    install = values[f"asgi_proxy_{provider}_install"]
    if install == "package":
        return []
    if install == "repository":
        return repository_problems(values)
    given = [values[f"asgi_proxy_{provider}_{part}"] for part in ("source", "checksum")]
    if provider == "traefik" and install == "archive" and not any(given):
        # upstream's own
        return []
    problems = [
        f"asgi_proxy_{provider}_{part}: is needed with asgi_proxy_{provider}_install: {install}"
        for part in ("source", "checksum")
        if not values[f"asgi_proxy_{provider}_{part}"]
    ]
    checksum = values[f"asgi_proxy_{provider}_checksum"]
    if checksum and not re.fullmatch(r"sha256:[0-9a-f]{64}", checksum):
        problems.append(f"asgi_proxy_{provider}_checksum: write sha256: and 64 hexadecimal digits")
    return problems


def repository_problems(values: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with the repository that the package of Caddy comes from."""
    problems = []
    version = values["asgi_proxy_caddy_version"]
    if not isinstance(version, str):
        problems.append(
            f"asgi_proxy_caddy_version: {version!r} is a number in YAML; write it in quotes"
        )
    elif version:
        numbers = re.fullmatch(r"([0-9]+)[.]([0-9]+)[.][0-9][0-9A-Za-z.+~-]*", version)
        if numbers is None:
            problems.append(
                "asgi_proxy_caddy_version: write a version as apt has it, for example '2.11.7'"
            )
        elif (int(numbers[1]), int(numbers[2])) < (2, 8):
            problems.append(
                f"asgi_proxy_caddy_version: {version} is too old; write 2.8 or newer, or set"
                " asgi_proxy_caddy_install: package for Debian's 2.6"
            )
    if not re.fullmatch(r"https?://[^\s@]+", values["asgi_proxy_caddy_repository_url"]):
        problems.append(
            "asgi_proxy_caddy_repository_url: write a URL that begins with https:// or http://,"
            " without credentials, which belong into /etc/apt/auth.conf.d"
        )
    key = values["asgi_proxy_caddy_repository_key"]
    if not re.fullmatch(r"\S+", key) or "@" in key:
        problems.append(
            "asgi_proxy_caddy_repository_key: write the URL of the key that signs the repository,"
            " without credentials, or its path on the controller"
        )
    if not re.fullmatch(r"[0-9A-Fa-f]{40}", str(values["asgi_proxy_caddy_repository_fingerprint"])):
        problems.append(
            "asgi_proxy_caddy_repository_fingerprint: write the 40 hexadecimal digits that"
            " gpg --show-keys tells of the key"
        )
    return problems


def upstream_problems(values: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with how a balancer asks the app hosts."""
    upstreams = values["asgi_proxy_upstreams"]
    if isinstance(upstreams, str):
        return ["asgi_proxy_upstreams: write a list, for example [web1.example.com, 10.0.0.2:8443]"]
    if not upstreams:
        return []
    matches = {str(one): UPSTREAM.fullmatch(str(one)) for one in upstreams}
    problems = [
        f"asgi_proxy_upstreams: {one!r} is neither host nor host:port, for example"
        " web1.example.com, 10.0.0.2:8443 or [2001:db8::1]; they are always asked over HTTPS"
        for one, match in matches.items()
        if match is None or int(match[1] or 443) not in range(1, 65536)
    ]
    if len(matches) < len(upstreams):
        problems.append("asgi_proxy_upstreams: a host stands there twice")
    name = values["asgi_proxy_upstream_server_name"]
    asked = name or next(iter(values["asgi_proxy_domains"]), "")
    if "*" in asked or not DOMAIN.fullmatch(asked):
        problems.append(
            f"asgi_proxy_upstream_server_name: {asked!r} cannot be asked for; write a name in the"
            " certificates of the app hosts"
        )
    problems += path_problems(
        "asgi_proxy_upstream_ca_file", [values["asgi_proxy_upstream_ca_file"] or "/"]
    )
    path = values["asgi_proxy_upstream_health_path"]
    if not re.fullmatch(r"/[!-~]*", path) or re.search(r"[\"'`{}\\]", path):
        problems.append(
            "asgi_proxy_upstream_health_path: write a path with a leading slash, without white"
            " space, quotes, braces and backslash"
        )
    cookie = values["asgi_proxy_upstream_cookie"]
    if cookie and (not COOKIE.fullmatch(cookie) or re.search(r"['`{}#]", cookie)):
        problems.append(
            f"asgi_proxy_upstream_cookie: {cookie!r} is not the name of a cookie, for example"
            " 'host'"
        )
    traefik = values["asgi_proxy_provider"] == "traefik"
    for part in ("health_interval", "health_timeout", *([] if traefik else ["eject"])):
        variable = f"asgi_proxy_upstream_{part}_seconds"
        if float(values[variable]) < 1:
            problems.append(f"{variable}: at least 1")
    if traefik and float(values["asgi_proxy_upstream_eject_seconds"]):
        problems.append(
            "asgi_proxy_upstream_eject_seconds: Traefik takes a status 500 of the app for a failed"
            " connection, so one page could take all hosts out; leave it out"
        )
    return problems


def balancer_problems(values: Mapping[str, Any]) -> list[str]:
    """Returns why a host cannot be a balancer.

    Args:
        values: Variables of the role `proxy` by their names, `host` (its name in the inventory)
            and `app_hosts` (names of the hosts that the app is deployed on).
    """
    problems = []
    if values["asgi_proxy_provider"] == "none":
        problems.append("asgi_proxy_provider: a balancer has caddy or traefik")
    if not values["asgi_proxy_upstreams"]:
        problems.append(
            "asgi_proxy_upstreams: a balancer needs the app hosts, for example"
            " \"{{ groups['asgi'] }}\" in group_vars/asgi_balancers.yml"
        )
    if values["host"] in values["app_hosts"]:
        problems.append(
            f"asgi_balancers: {values['host']} runs the app, and its proxy has the ports of HTTPS;"
            " a balancer is a host of its own"
        )
    return problems


def dns_problems(provider: str, values: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with the proof by a record in the DNS; no value of a secret."""
    environment = values["asgi_proxy_acme_dns_environment"]
    given = [
        variable
        for variable in (
            "asgi_proxy_acme_dns_provider",
            "asgi_proxy_acme_dns_environment",
            "asgi_proxy_acme_dns_options",
            "asgi_proxy_acme_dns_resolvers",
        )
        if values[variable]
    ]
    if values["asgi_proxy_acme_challenge"] != "dns-01":
        told = f"{', '.join(given)}: used with asgi_proxy_acme_challenge: dns-01 only"
        return [told] if given else []
    problems = environment_problems("asgi_proxy_acme_dns_environment", environment)
    if not re.fullmatch(r"[a-z0-9_-]+", values["asgi_proxy_acme_dns_provider"]):
        problems.append(
            "asgi_proxy_acme_dns_provider: is needed with asgi_proxy_acme_challenge: dns-01, as the"
            " proxy calls it, for example cloudflare"
        )
    problems += [
        f"asgi_proxy_acme_dns_resolvers: {one!r} is not a name server with a port, for example"
        " 192.0.2.1:53"
        for one in values["asgi_proxy_acme_dns_resolvers"]
        if not re.fullmatch(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]):[0-9]+", one)
    ]
    options = values["asgi_proxy_acme_dns_options"]
    if provider == "traefik" and options:
        problems.append(
            "asgi_proxy_acme_dns_options: Traefik's providers read the environment; write"
            " asgi_proxy_acme_dns_environment"
        )
    if provider == "caddy" and environment:
        problems.append(
            "asgi_proxy_acme_dns_environment: Caddy's providers have options; write"
            " asgi_proxy_acme_dns_options"
        )
    if not isinstance(options, Mapping):
        return [*problems, "asgi_proxy_acme_dns_options: write a dictionary of names and values"]
    return problems + [
        f"asgi_proxy_acme_dns_options: {name!r} must be the name of an option, with a text of one"
        " line, without quotes, backticks and backslashes"
        for name, value in options.items()
        if not re.fullmatch(r"[a-z0-9_]+", str(name))
        or isinstance(value, (bool, list, dict))
        or not re.fullmatch(r"[^\x00-\x1f\"`\\]+", str(value))
    ]


def authority_problems(values: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with how an ACME authority is described."""
    problems = []
    if values["asgi_proxy_acme_staging"]:
        if values["asgi_proxy_acme_directory_url"]:
            problems.append(
                "asgi_proxy_acme_staging: is Let's Encrypt's, asgi_proxy_acme_directory_url names"
                " another authority; write one of them"
            )
        if not values["asgi_proxy_trusted_ca_file"]:
            problems.append(
                "asgi_proxy_acme_staging: nobody trusts its certificates, and a rollout would not"
                " be confirmed; put its root on the host and name it in asgi_proxy_trusted_ca_file"
            )
    lifetime_minutes = int(values["asgi_proxy_acme_lifetime_minutes"])
    if lifetime_minutes and not SHORTEST_LIFETIME_MINUTES <= lifetime_minutes <= DAY_MINUTES:
        problems.append(
            f"asgi_proxy_acme_lifetime_minutes: {lifetime_minutes} is not one of"
            f" {SHORTEST_LIFETIME_MINUTES} to {DAY_MINUTES}; leave it out for certificates that"
            " live longer than a day"
        )
    return problems


def provider_problems(provider: str, values: Mapping[str, Any]) -> list[str]:
    """Returns what is asked of a proxy that it cannot do; nothing is ignored."""
    problems = [
        f"asgi_proxy_compression: {provider} does not have {encoding!r}; it has"
        f" {', '.join(ENCODINGS[provider])}"
        for encoding in values["asgi_proxy_compression"]
        if encoding not in ENCODINGS[provider]
    ]
    body, header_seconds = (
        values["asgi_proxy_request_body_max"],
        int(values["asgi_proxy_header_timeout_seconds"]),
    )
    if provider == "traefik" and body:
        problems.append(
            "asgi_proxy_request_body_max: Traefik limits a body only by holding requests and"
            " answers back until they are whole, which breaks streams; leave it out, and let the"
            " app limit what it reads"
        )
    if provider == "traefik" and header_seconds:
        problems.append(
            "asgi_proxy_header_timeout_seconds: Traefik has one limit for headers and body"
            " together; leave it out and set asgi_proxy_body_timeout_seconds"
        )
    if provider == "caddy" and (not body or header_seconds < 1):
        problems.append(
            "asgi_proxy_request_body_max, asgi_proxy_header_timeout_seconds: Caddy needs both, for"
            " example 10MB and 10"
        )
    if provider == "traefik":
        problems += traefik_problems(values)
    else:
        problems += caddy_problems(values)
    return problems


def caddy_problems(values: Mapping[str, Any]) -> list[str]:
    """Returns what is asked of Caddy, or of Debian's old one, that it cannot do."""
    problems = [
        f"asgi_proxy_{name}: Caddy has none without a plugin; leave it out, or choose"
        " asgi_proxy_provider: traefik"
        for name in ("rate_limit", "concurrency_limit")
        if int(values[f"asgi_proxy_{name}"])
    ]
    for name in ("security_headers", "response_headers"):
        problems += [
            f"asgi_proxy_{name}: the value of {header!r} has both a backslash and a backtick, which"
            " Caddy's files cannot hold; let the app set it"
            for header, text in mapping(values[f"asgi_proxy_{name}"]).items()
            if "\\" in str(text) and "`" in str(text)
        ]
    if values["asgi_proxy_trusted_proxies"] and values["asgi_proxy_caddy_install"] == "package":
        problems.append(
            "asgi_proxy_trusted_proxies: Debian's Caddy 2.6 hands on what clients have put in"
            " front; set asgi_proxy_caddy_install: repository, or archive with 2.8 or newer"
        )
    return problems


def traefik_problems(values: Mapping[str, Any]) -> list[str]:
    """Returns what is asked of Traefik that it cannot do."""
    problems = []
    if values["asgi_proxy_static"]:
        problems.append(
            "asgi_proxy_static: Traefik serves no files; let the app serve them (whitenoise, or"
            " StaticFiles of Starlette), or choose asgi_proxy_provider: caddy"
        )
    if values["asgi_proxy_trusted_proxies"]:
        problems.append(
            "asgi_proxy_trusted_proxies: Traefik hands on what clients have put in front; choose"
            " asgi_proxy_provider: caddy with asgi_proxy_caddy_install: repository"
        )
    middlewares = values["asgi_proxy_snippet"]
    if not isinstance(middlewares, Mapping) or not all(
        MIDDLEWARE.fullmatch(str(name)) and mapping(one) for name, one in middlewares.items()
    ):
        problems.append(
            "asgi_proxy_snippet: with Traefik write middlewares as YAML, by name in lower case"
            " letters and digits, for example 'robots: {headers: {...}}'"
        )
    return problems


def traffic_problems(values: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with how requests are let in, sent on and answered."""
    problems = []
    others = values["asgi_proxy_redirect_domains"]
    if isinstance(others, str):
        return ["asgi_proxy_redirect_domains: write a list, for example [www.blog.example.com]"]
    # upper and lower case are one name
    named = Counter(map(str.lower, [*others, *values["asgi_proxy_domains"]]))
    problems += [
        f"asgi_proxy_redirect_domains: {domain!r} is not a host name, or stands in"
        " asgi_proxy_domains or here twice"
        for domain in sorted(set(others))
        if not DOMAIN.fullmatch(domain) or named[domain.lower()] > 1
    ]
    if others and str(values["asgi_proxy_domains"][:1]).find("*") >= 0:
        problems.append(
            "asgi_proxy_redirect_domains: nobody can be sent to a wildcard; put the name of a host"
            " first in asgi_proxy_domains"
        )
    path = values["asgi_proxy_path"]
    if path and not URL_PATH.fullmatch(path):
        problems.append(
            f"asgi_proxy_path: {path!r} is not usable; write a path with a leading slash and none"
            " at its end, for example '/shop'"
        )
    problems += static_problems(values["asgi_proxy_static"], values["asgi_proxy_static_hashed"])
    for name in ("allow", "trusted_proxies", "maintenance_allow"):
        networks = values[f"asgi_proxy_{name}"]
        if values["asgi_proxy_provider"] == "caddy" and not isinstance(networks, str):
            networks = [network for network in networks if network != CADDY_PRIVATE]
        problems += network_problems(f"asgi_proxy_{name}", networks)
    problems += [
        f"asgi_proxy_basic_auth: {user!r} needs a name of letters, digits and ._@- and a bcrypt"
        " hash, never a password; caddy hash-password and htpasswd -nB make one"
        for user, digest in mapping(values["asgi_proxy_basic_auth"]).items()
        if not USER.fullmatch(str(user)) or not BCRYPT.fullmatch(str(digest))
    ]
    problems += [
        f"asgi_proxy_{name}: not less than 0"
        for name in ("rate_limit", "rate_limit_burst", "concurrency_limit")
        if int(values[f"asgi_proxy_{name}"]) < 0
    ]
    for name in ("security_headers", "response_headers"):
        problems += [
            f"asgi_proxy_{name}: {header!r} is not the name of a header, or its value has a line"
            " break or braces"
            for header, text in mapping(values[f"asgi_proxy_{name}"]).items()
            if not HEADER_NAME.fullmatch(str(header)) or re.search(r"[\x00-\x1f\x7f{}]", str(text))
        ]
    return problems + metrics_problems(values["asgi_proxy_metrics_address"])


def static_problems(directories: Any, hashed: str) -> list[str]:
    """Returns what is wrong with the directories that a proxy serves."""
    if not isinstance(directories, Mapping):
        return ["asgi_proxy_static: write a dictionary, for example {/static: staticfiles}"]
    problems = []
    for url, directory in directories.items():
        if not URL_PATH.fullmatch(str(url)) or {".", ".."} & {*str(url).split("/")}:
            problems.append(
                f"asgi_proxy_static: {url!r} is not usable; write a path with a leading slash and"
                " none at its end, for example '/static'"
            )
        path = PurePosixPath(str(directory))
        hidden = any(part.startswith(".") for part in path.parts)
        if not path.parts or hidden or path.is_absolute() or path.as_posix() != str(directory):
            problems.append(
                f"asgi_proxy_static: {directory!r} is not usable; write a directory below the"
                " app's, without dots in front of a name, for example 'staticfiles'"
            )
        if any(str(url).startswith(f"{other}/") for other in directories):
            problems.append(
                f"asgi_proxy_static: {url!r} is below another one; have both in one directory"
            )
    try:
        re.compile(hashed)
    except re.error as error:
        problems.append(f"asgi_proxy_static_hashed: {hashed!r} is no regular expression: {error}")
    return problems


def network_problems(variable: str, networks: Any) -> list[str]:
    """Returns what is wrong with a list of addresses and networks."""
    if isinstance(networks, str):
        return [f"{variable}: write a list, for example [10.0.0.0/8]"]
    problems = []
    for network in networks:
        try:
            # the proxies take an address of a network for the network too
            ipaddress.ip_network(network, strict=False)
        except ValueError:
            problems.append(
                f"{variable}: {network!r} is neither an address nor a network like 10.0.0.0/8"
            )
    return problems


def metrics_problems(address: str) -> list[str]:
    """Returns what is wrong with the address of metrics, which are not for the public."""
    if not address:
        return []
    parts = METRICS_ADDRESS.fullmatch(address)
    if parts and int(parts["port"]) < 65536:
        try:
            number = ipaddress.ip_address(parts["six"] or parts["four"])
            bracketed = number.version == (6 if parts["six"] else 4)
            if bracketed and number.is_private and not number.is_unspecified:
                return []
        except ValueError:
            pass
    return [
        f"asgi_proxy_metrics_address: {address!r} is not a private address and a port, for example"
        " 127.0.0.1:9100 or [::1]:9100; anybody could read them on another one"
    ]


def certificate_kind(domains: Sequence[str], chosen: str) -> str:
    """Returns where the certificate comes from: internal, acme or files.

    Args:
        domains: The names in it.
        chosen: What the user wrote; `auto` takes `internal` where no public authority
            certifies the names, and `acme` otherwise.
    """
    if chosen != "auto":
        return chosen
    return "internal" if all(private_name(domain) for domain in domains) else "acme"


def private_name(domain: str) -> bool:
    """Says whether no public authority certifies a name."""
    domain = domain.lower()
    try:
        ipaddress.ip_address(domain)
        return True
    except ValueError:
        pass
    return "." not in domain or any(
        domain == suffix or domain.endswith(f".{suffix}") for suffix in PRIVATE_SUFFIXES
    )


def migrate_problems(values: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with the variables of the role `migrate`."""
    problems = []
    if int(values["asgi_migrate_timeout_seconds"]) < 1:
        problems.append("asgi_migrate_timeout_seconds: at least 1")
    wrong = size_problems("asgi_migrate_memory_max", values["asgi_migrate_memory_max"])
    if not wrong and mebibytes(values["asgi_migrate_memory_max"]) < 16:
        wrong = ["asgi_migrate_memory_max: no Python starts with less than 16M"]
    problems += wrong
    try:
        shlex.split(values["asgi_migrate_command"])
    except ValueError as error:
        problems.append(f"asgi_migrate_command: {error}")
    if SHELL.search(values["asgi_migrate_command"]):
        problems.append(
            "asgi_migrate_command: it is run without a shell; put what needs one into"
            " a script of the app and write: sh scripts/migrate.sh"
        )
    return problems + lock_problems(values)


def lock_problems(values: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with the lock of a migration in a database."""
    name = values["asgi_migrate_advisory_lock"]
    variable = values["asgi_migrate_database_url_variable"]
    problems = []
    if name and not LOCK_NAME.fullmatch(name):
        problems.append(
            f"asgi_migrate_advisory_lock: {name!r} is not usable; write letters, digits, dots and"
            " dashes, at most 64, for example 'shop-database'"
        )
    if not ENVIRONMENT_KEY.fullmatch(variable):
        problems.append(
            f"asgi_migrate_database_url_variable: {variable!r} is not a name for an environment"
            " variable"
        )
    # with the role alone they may have been written by another play
    given = {**mapping(values["asgi_app_environment"]), **mapping(values["asgi_app_secrets"])}
    if name and given and variable not in given:
        problems.append(
            f"asgi_migrate_database_url_variable: {variable} is neither in asgi_app_environment nor"
            " in asgi_app_secrets; name the one that has the URL of the database"
        )
    return problems

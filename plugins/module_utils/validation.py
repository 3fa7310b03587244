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
from collections.abc import Mapping, Sequence
from typing import Any

from . import servers
from .units import mebibytes

NAME = re.compile(r"[a-z][a-z0-9]*(?:[-_][a-z0-9]+)*")
#: `<name>-build` is a user as well, and Linux ends at 32 characters.
NAME_LENGTH = 26
ENTRYPOINT = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
ENVIRONMENT_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
DOMAIN = re.compile(rf"(?:\*\.)?{LABEL}(?:\.{LABEL})*")
LOCK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: Those that all servers know.
LOG_LEVELS = ("critical", "error", "warning", "info", "debug")
STATUS = re.compile(r"[1-5][0-9][0-9](?:-[1-5][0-9][0-9])?")
RESERVED_NAMES = {"root", "caddy", "traefik", "nobody", "systemd", "asgi", "postgres", "www-data"}
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
    problems += path_problems("asgi_app_root", [values["asgi_app_root"]])
    if int(values["asgi_app_keep_releases"]) < 2:
        problems.append("asgi_app_keep_releases: keep at least 2, or there is no way back")
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
    kinds = ("path", "git")
    given = [kind for kind in kinds if mapping(source).get(kind)]
    if len(given) != 1:
        return [
            "asgi_app_source: write exactly one of path and git, for example"
            " {path: ../blog} or {git: https://git.example.com/blog.git, version: v1.4.2}"
        ]
    known = {
        "path": {"path", "exclude"},
        "git": {"git", "version", "checkout", "username", "password"},
    }[given[0]]
    problems = [
        f"asgi_app_source.{key}: is not known beside {given[0]}; known are"
        f" {', '.join(sorted(known))}"
        for key in sorted(set(source) - known)
    ]
    if given == ["git"]:
        if not source.get("version"):
            problems.append("asgi_app_source.version: write a tag, a branch or a commit")
        if (
            "@" in source["git"].split("//")[-1].split("/")[0]
            and "://" in source["git"]
            and not source["git"].startswith("ssh://")
        ):
            problems.append(
                "asgi_app_source.git: a URL must not have credentials in it; write"
                " them as asgi_app_source.username and password"
            )
        if source.get("checkout", "controller") not in ("controller", "host"):
            problems.append("asgi_app_source.checkout: write controller or host")
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
    # 127.0.1.<instance> is an address
    if not 1 <= int(values["asgi_service_instances"]) <= 250:
        problems.append("asgi_service_instances: at least 1, at most 250")
    if not 1024 <= int(values["asgi_service_port"]) <= 32766:
        problems.append(
            "asgi_service_port: write a number from 1024 to 32766; higher ones the kernel gives to"
            " outgoing connections"
        )
    sizes = ("asgi_service_memory_max", "asgi_service_memory_total")
    wrong = [problem for size in sizes for problem in size_problems(size, values[size])]
    problems += wrong
    if not wrong:
        each, total = (mebibytes(values[size]) for size in sizes)
        needed = (2 * int(values["asgi_service_instances"]) + 1) * each
        if total < needed:
            problems.append(
                f"asgi_service_memory_total: {total} MiB cannot hold two slots of"
                f" {values['asgi_service_instances']} instances with {each} MiB and a migration;"
                f" write at least {needed}M"
            )
        if each < 16:
            problems.append("asgi_service_memory_max: no Python server starts with less than 16M")
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
        "asgi_service_graceful_timeout_seconds",
        "asgi_service_restart_seconds",
    ):
        if float(values[variable]) < 0:
            problems.append(f"{variable}: not less than 0")
    if float(values["asgi_service_settle_seconds"]) < 3:
        problems.append(
            "asgi_service_settle_seconds: at least 3, the proxy keeps idle"
            " connections to the old slot for 2"
        )
    problems += path_problems("asgi_service_writable_paths", values["asgi_service_writable_paths"])
    return problems + server_problems(values)


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
        return []
    problems = []
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
        for domain in sorted({one for one in domains if list(domains).count(one) > 1})
    ]
    kind = certificate_kind(domains, values["asgi_proxy_certificate"])
    if values["asgi_proxy_certificate"] == "auto" and 0 < sum(map(private_name, domains)) < len(
        domains
    ):
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
    if kind == "acme" and any(domain.startswith("*.") for domain in domains):
        problems.append(
            "asgi_proxy_domains: a wildcard needs a DNS challenge; give its"
            " certificate with asgi_proxy_certificate: files"
        )
    if values[f"asgi_proxy_{provider}_install"] != "package":
        for part in ("source", "checksum"):
            if not values[f"asgi_proxy_{provider}_{part}"]:
                problems.append(
                    f"asgi_proxy_{provider}_{part}: is needed with"
                    f" asgi_proxy_{provider}_install:"
                    f" {values[f'asgi_proxy_{provider}_install']}"
                )
        checksum = values[f"asgi_proxy_{provider}_checksum"]
        if checksum and not re.fullmatch(r"sha256:[0-9a-f]{64}", checksum):
            problems.append(
                f"asgi_proxy_{provider}_checksum: write sha256: and 64 hexadecimal digits"
            )
    return problems + provider_problems(provider, values)


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
    return problems


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
    if re.search(r"[|;&<>`]", values["asgi_migrate_command"]):
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

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files from elsewhere: fetched over HTTPS with a checksum, and asked of package indexes."""

from __future__ import annotations

import base64
import hashlib
import html
import re
import shutil
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from .errors import DeployError
from .git_source import hide_credentials

FETCH_TIMEOUT_SECONDS = 60
INDEX_TIMEOUT_SECONDS = 20
CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}")
URL = re.compile(r"https?://", re.IGNORECASE)
SHOWN_VERSIONS = 5
FILE_ENDINGS = re.compile(r"\.(?:whl|tar\.gz|tar\.bz2|tgz|zip)$")


def is_url(place: str) -> bool:
    """Says whether a place is a URL, not a path."""
    return URL.match(place) is not None


def file_name(place: str) -> str:
    """Returns the name of the file at a URL or a path."""
    return PurePosixPath(unquote(urlsplit(place).path) if is_url(place) else place).name


def ask(
    url: str, username: str = "", password: str = "", ca_file: str = "", timeout_seconds: float = 60
) -> Any:
    """Opens an HTTP or HTTPS URL; credentials go to its server only, not to where it redirects to.

    Raises:
        OSError: It does not answer, or not with 200 (urllib.error.HTTPError has the status).
    """
    request = urllib.request.Request(url)  # noqa: S310
    if password:
        token = base64.b64encode(f"{username}:{password}".encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    trusted = ssl.create_default_context(cafile=ca_file or None)
    return urllib.request.urlopen(request, timeout=timeout_seconds, context=trusted)  # noqa: S310


def obtain(variable: str, source: Mapping[str, Any], scratch: Path) -> Path:
    """Returns the file that a source names, fetched if need be, with the checksum it must have.

    Args:
        variable: Which key of the source: `archive` or `wheel`.
        source: asgi_app_source.
        scratch: Where it is put if it is fetched.

    Raises:
        DeployError: There is no such file, or it is another one than was meant.
    """
    place, checksum = str(source[variable]), str(source.get("checksum") or "")
    shown = hide_credentials(place)
    path = Path(place).expanduser()
    if is_url(place):
        path = scratch / "fetched"
        credentials = source.get("username") or "", source.get("password") or ""
        try:
            with (
                ask(place, *credentials, timeout_seconds=FETCH_TIMEOUT_SECONDS) as answer,
                path.open("wb") as file,
            ):
                shutil.copyfileobj(answer, file)
        except OSError as error:
            raise DeployError(
                f"asgi_app_source.{variable}: {shown} cannot be fetched: {error}"
            ) from error
    elif not path.is_file():
        raise DeployError(f"asgi_app_source.{variable}: there is no file {path} on the controller")
    with path.open("rb") as file:
        found = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    if checksum and found != checksum:
        raise DeployError(
            f"asgi_app_source.checksum: {shown} has {found}, not {checksum};"
            " find out why it is another file, then write the checksum that you trust"
        )
    return path


def normalized(package: str) -> str:
    """Returns the name by which indexes know a package."""
    return re.sub(r"[-_.]+", "-", package).lower()


def file_version(name: str, package: str) -> str | None:
    """Returns the version in the name of a wheel or source archive of a package, if it is one."""
    stem, endings = FILE_ENDINGS.subn("", name)
    if not endings:
        return None
    if name.endswith(".whl"):
        parts = stem.split("-")
        return parts[1] if len(parts) > 1 and normalized(parts[0]) == package else None
    start, _, version = stem.rpartition("-")
    return version if normalized(start) == package else None


def published(index: Mapping[str, str], package: str, ca_file: str) -> list[str] | None:
    """Returns the versions of a package that an index has, as it lists them.

    Args:
        index: url and perhaps username, password.
        package: Its normalized name.
        ca_file: Bundle of trusted authorities, or empty.

    Returns:
        None where the index cannot be asked: a build may still do without it.
    """
    if not is_url(index["url"]):
        return None
    url = f"{index['url'].rstrip('/')}/{package}/"
    credentials = index.get("username") or "", index.get("password") or ""
    try:
        with ask(url, *credentials, ca_file, INDEX_TIMEOUT_SECONDS) as answer:
            page = answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return [] if error.code == 404 else None
    except OSError:
        return None
    names = (html.unescape(text).strip() for text in re.findall(r"<a\b[^>]*>([^<]+)</a>", page))
    versions = (file_version(name, package) for name in names)
    return list(dict.fromkeys(version for version in versions if version))


def plain(version: str) -> str:
    """Returns a version without what does not tell it from others: `1.0` is `1.0.0`."""
    return re.sub(r"(?:\.0)+$", "", version.lower())


def newest(versions: Sequence[str]) -> list[str]:
    """Returns the newest of some versions, final ones where there are any, the newest first."""
    finals = [version for version in versions if re.fullmatch(r"[0-9.]+", version)]

    def by_number(version: str) -> list[tuple[int, str]]:
        return [(int(part or 0), word) for part, word in re.findall(r"(\d*)([^\d]*)", version)]

    return sorted(finals or versions, key=by_number, reverse=True)[:SHOWN_VERSIONS]


def index_problems(
    package: str, version: str, indexes: Sequence[Mapping[str, str]], ca_file: str
) -> list[str]:
    """Returns what is wrong with a package and version, asked of its indexes.

    Nothing is wrong where an index does not answer: the release may be on the host already.
    """
    found: list[str] = []
    for index in indexes:
        versions = published(index, normalized(package), ca_file)
        if versions is None:
            return []
        found += versions
    if plain(version) in map(plain, found):
        return []
    asked = ", ".join(index["url"] for index in indexes)
    if not found:
        return [
            f"asgi_app_source.index: {asked} has no package {package!r}; write its name as the"
            " index has it, or name the index that has it in asgi_app_index"
        ]
    return [
        f"asgi_app_source.version: {asked} has no version {version!r} of {package}; write one that"
        f" it has, for example one of {', '.join(newest(found))}"
    ]

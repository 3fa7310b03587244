# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Package indexes, for uv and for pip.

Credentials go through a netrc file that only the steps that install packages can read: never
through argv, the environment or a log.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from ..errors import DeployError
from .settings import BuildSettings


def index_variables(settings: BuildSettings) -> dict[str, str]:
    """Returns the environment for package indexes, without their credentials."""
    variables = {}
    if settings.index:
        variables["PIP_INDEX_URL"] = settings.index["url"]
    if settings.extra_indexes:
        variables["PIP_EXTRA_INDEX_URL"] = " ".join(
            index["url"] for index in settings.extra_indexes
        )
    if settings.ca_file:
        variables.update(
            dict.fromkeys(
                ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO"),
                settings.ca_file,
            )
        )
    return variables


def index_credentials(settings: BuildSettings) -> dict[str, str]:
    """Returns the text of the file that the variable NETRC names, if an index has credentials."""
    lines = netrc_lines(settings.indexes())
    return {"NETRC": "".join(f"{line}\n" for line in lines)} if lines else {}


def netrc_lines(indexes: Sequence[Mapping[str, str]]) -> list[str]:
    """Returns a netrc line for each index that has credentials.

    Raises:
        DeployError: A user name or password that netrc cannot carry; it is not shown.
    """
    lines = []
    for index in indexes:
        if not index.get("username") and not index.get("password"):
            continue
        host = urlsplit(index["url"]).hostname
        login, password = index.get("username") or "", index.get("password") or ""
        if not host or not login or not password or re.search(r"[\s\"\\#]", login + password):
            raise DeployError(
                f"asgi_app_index, asgi_app_extra_indexes: the credentials for {host or 'an index'}"
                " need a username and a password without white space, quotes, backslash and #"
            )
        lines.append(f"machine {host} login {login} password {password}")
    return lines

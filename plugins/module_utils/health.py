# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP asked the way the proxy asks: over an instance's socket, or over TLS from outside."""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .errors import DeployError
from .listeners import Listener

READ_BYTES = 1_000_000
SHOWN_BODY_CHARACTERS = 300
#: An app that has started says the same of a wrong question however long it is asked.
FINAL_SECONDS = 5
#: Errors of the client that may pass: Request Timeout, Too Early, Too Many Requests.
PASSING = (408, 425, 429)
#: What is to be set for a final status.
ADVICE = {
    400: "the app may not know the Host {host}: set asgi_service_health_host, or add it to what the"
    " app allows",
    401: "the path needs a login: set asgi_service_health_path to one that needs none, or accept it"
    " with asgi_service_health_statuses",
    403: "the app does not allow the path, or the Host {host}: set asgi_service_health_path or"
    " asgi_service_health_host",
    404: "the app has no such path: set asgi_service_health_path to one that it has",
    405: "the path does not answer GET: set asgi_service_health_path to one that does",
}
OTHER_ADVICE = "set asgi_service_health_path, or accept it with asgi_service_health_statuses"


@dataclass(frozen=True)
class HealthCheck:
    """What counts as healthy.

    Args:
        path: Path to ask, with a leading slash.
        statuses: Accepted status codes and ranges, for example `200` or `200-399`.
        body: Text that the answer must contain; empty for any.
        host: Host header, since apps refuse hosts they do not know.
        request_timeout_seconds: For one question.
        timeout_seconds: For all instances together, from start to healthy.
        stable_seconds: How long they must stay up and healthy after that.
    """

    path: str = "/"
    statuses: Sequence[str] = ("200-399",)
    body: str = ""
    host: str = "localhost"
    request_timeout_seconds: float = 5
    timeout_seconds: float = 60
    stable_seconds: float = 3


@dataclass(frozen=True)
class Answer:
    """An answer, or why there was none.

    Args:
        healthy: It is what the check accepts.
        text: What was answered, in a few words.
        slot: The slot that the proxy says it asked, if it says so.
        timed_out: Nobody answered within the time for one question.
        status: Status that is not accepted; 0 for none.
    """

    healthy: bool
    text: str
    slot: str = ""
    timed_out: bool = False
    status: int = 0

    @property
    def is_final(self) -> bool:
        """The app has started, and does not accept the question."""
        return 400 <= self.status < 500 and self.status not in PASSING

    def advice(self, check: HealthCheck) -> str:
        """Says which variable to set, where the question is wrong; empty where it may not be."""
        if not self.is_final:
            return ""
        return f"; {ADVICE.get(self.status, OTHER_ADVICE).format(host=check.host)}"


@dataclass
class Patience:
    """For how long an instance has given the same final answer."""

    status: int = 0
    since: float = 0

    def is_over(self, answer: Answer, now: float) -> bool:
        """Takes the next answer, at a time in seconds; says whether to wait no longer."""
        if not answer.is_final:
            self.status = 0
        elif answer.status != self.status:
            self.status, self.since = answer.status, now
        return answer.is_final and now - self.since >= FINAL_SECONDS


class SocketConnection(http.client.HTTPConnection):
    """HTTP over any connected socket."""

    def __init__(self, connect: Callable[[], socket.socket], host: str) -> None:
        super().__init__(host)
        self._connect = connect

    def connect(self) -> None:
        """Opens the connection."""
        self.sock = self._connect()


def accepts(statuses: Sequence[str], status: int) -> bool:
    """Says whether a status code is among codes and ranges like `200-399`."""
    for text in statuses:
        low, _, high = text.partition("-")
        if int(low) <= status <= int(high or low):
            return True
    return False


def ask(connect: Callable[[], socket.socket], check: HealthCheck) -> Answer:
    """Asks once.

    Args:
        connect: Opens a socket to the one that is asked.
        check: What to ask and what to accept.
    """
    connection = SocketConnection(connect, check.host)
    try:
        # those that the proxy sets: an app behind TLS may redirect what it believes to be plain
        # HTTP, and one that reads the address of its client has none on a unix socket
        connection.request(
            "GET",
            check.path,
            headers={
                "User-Agent": "asgi.deploy",
                "X-Forwarded-For": "127.0.0.1",
                "X-Forwarded-Host": check.host,
                "X-Forwarded-Proto": "https",
                "Connection": "close",
            },
        )
        response = connection.getresponse()
        content = response.read(READ_BYTES)
        if response.length and len(content) < READ_BYTES:
            raise http.client.IncompleteRead(content, response.length)
        body = content.decode("utf-8", errors="replace")
    # a name or path that cannot be sent is a ValueError (UnicodeError is one)
    except (OSError, ValueError, http.client.HTTPException) as error:
        # with all places in its queue taken a listener says at once what would take long
        timed_out = isinstance(error, (socket.timeout, BlockingIOError))
        return Answer(False, f"no answer: {error or type(error).__name__}", timed_out=timed_out)
    finally:
        connection.close()
    slot = response.headers.get("X-Asgi-Slot", "")
    shown = re.sub(r"\s+", " ", body).strip()
    if len(shown) > SHOWN_BODY_CHARACTERS:
        # the dots also say that the last word may be half of a secret (masking)
        shown = f"{shown[:SHOWN_BODY_CHARACTERS]}..."
    status = response.status
    if not accepts(check.statuses, status):
        return Answer(False, f"status {status}: {shown}", slot, status=status)
    if check.body not in body:
        text = f"status {status} without {check.body!r}: {shown}"
        return Answer(False, text, slot)
    return Answer(True, f"status {status}", slot)


def ask_listener(listener: Listener, check: HealthCheck) -> Answer:
    """Asks one instance over its unix socket or its port."""
    unix = isinstance(listener, Path)
    address: str | tuple[str, int] = str(listener) if isinstance(listener, Path) else listener

    def connect() -> socket.socket:
        opened = socket.socket(socket.AF_UNIX if unix else socket.AF_INET, socket.SOCK_STREAM)
        opened.settimeout(check.request_timeout_seconds)
        try:
            opened.connect(address)
        except OSError:
            opened.close()
            raise
        return opened

    return ask(connect, check)


def ask_tls(address: str, port: int, context: ssl.SSLContext, check: HealthCheck) -> Answer:
    """Asks through the proxy over TLS; the certificate must be right for the host name."""

    def connect() -> socket.socket:
        plain = socket.create_connection((address, port), check.request_timeout_seconds)
        try:
            return context.wrap_socket(plain, server_hostname=check.host)
        except (OSError, ValueError):
            plain.close()
            raise

    return ask(connect, check)


def tls_context(ca_file: str) -> ssl.SSLContext:
    """Returns a context that trusts the given authority, or the system's.

    Raises:
        DeployError: The file is missing or holds no certificate.
    """
    try:
        return ssl.create_default_context(cafile=ca_file or None)
    except OSError as error:
        raise DeployError(f"the certificate authority {ca_file} cannot be read: {error}") from error


def certificate_days(address: str, port: int, context: ssl.SSLContext, host: str) -> float | None:
    """Returns for how many days the certificate of a site is still good.

    None where the site does not answer with a certificate that is good for the host.
    """
    try:
        plain = socket.create_connection((address, port), timeout=5)
        with plain, context.wrap_socket(plain, server_hostname=host) as connection:
            certificate = connection.getpeercert() or {}
    except (OSError, ValueError):
        return None
    ends = ssl.cert_time_to_seconds(str(certificate["notAfter"]))
    return round((ends - time.time()) / 86400, 1)

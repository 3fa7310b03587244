# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a command while a PostgreSQL database holds an advisory lock for it.

Run by the interpreter of a release, with the driver that the release has:

    python -I advisory_lock.py --name=shop --variable=DATABASE_URL --seconds=600 \
        --holder=blog -- alembic upgrade head

The lock belongs to the connection, so the database frees it however this program ends. The
command holds the same connection open: where this program is killed and the command is not, the
lock stays until the command has ended too.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

#: Names of PostgreSQL before `://`; a driver may follow after a plus.
SCHEMES = {"postgresql", "postgres", "psql", "pgsql", "postgis"}
#: What says where the database is and how it is reached. The rest of a query is meant for the
#: app's own driver or pool, and other drivers refuse it.
KEPT_OPTIONS = {
    "host",
    "port",
    "user",
    "password",
    "passfile",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
}
CONNECT_SECONDS = 20
ESCAPE = "write special characters in its user and password as %xx, for example %40 for @"
#: The error code of a wait for a lock that took longer than lock_timeout.
LOCK_NOT_AVAILABLE = "55P03"
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
#: The longest name of a session; PostgreSQL cuts longer ones.
NAME_LENGTH = 63


class Refused(Exception):
    """Why the command was not run, or was ended; in words, without a secret."""


@dataclass(frozen=True)
class Session:
    """A connection to the database, outside of a transaction.

    Args:
        rows: Runs a statement and returns its rows.
        descriptor: Its socket.
    """

    rows: Callable[[str], Sequence[Sequence[Any]]]
    descriptor: int


@dataclass(frozen=True)
class Address:
    """Where the database is.

    Args:
        url: As libpq and asyncpg read it.
        driver: The driver that the app's URL names; empty where it names none.
        password: To be kept out of every text.
    """

    url: str
    driver: str
    password: str


def address(variable: str, text: str | None) -> Address:
    """Reads a URL as SQLAlchemy, Django's helpers and libpq write it.

    Raises:
        Refused: It is none of PostgreSQL. What is wrong is said without a part of it, as a
            password may be in any part of a URL that is written wrongly.
    """
    if not text:
        raise Refused(f"{variable} is not set in the environment of the migration")
    scheme, found, _rest = text.partition("://")
    name, _plus, driver = scheme.partition("+")
    if not found or name not in SCHEMES:
        raise Refused(f"{variable} is not the URL of a PostgreSQL database (postgresql://...)")
    try:
        parts = urlsplit(text)
        # a port that is none is an error only when it is asked for
        _port = parts.port
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
    except ValueError:
        raise Refused(f"{variable} cannot be read; {ESCAPE}") from None
    if parts.fragment or "@" in parts.path + parts.query:
        raise Refused(f"{variable} cannot be read; {ESCAPE}")
    host = parts.netloc.rpartition("@")[2]
    if "," in host + options.get("host", "") or parts.query.count("host=") > 1:
        raise Refused(
            f"{variable} names several hosts, and a lock is held on one: name another variable in"
            " asgi_migrate_database_url_variable, with the URL of the primary"
        )
    if "ssl" in options:
        # asyncpg's own name for it in SQLAlchemy
        options["sslmode"] = {"true": "require"}.get(options["ssl"].lower(), options["ssl"])
    kept = {key: value for key, value in options.items() if key in KEPT_OPTIONS}
    user, password = (unquote(part or "") for part in (parts.username, parts.password))
    login = quote(user, safe="") + (f":{quote(password, safe='')}" if password else "")
    query = urlencode(kept, quote_via=quote, safe="/")
    url = (
        f"postgresql://{login}{'@' if login else ''}{host}{quote(unquote(parts.path))}"
        f"{'?' if query else ''}{query}"
    )
    return Address(url, driver, password or options.get("password", ""))


def psycopg_session(url: str) -> Session:
    """Connects with psycopg 3."""
    driver = importlib.import_module("psycopg")
    connection = driver.connect(url, autocommit=True, connect_timeout=CONNECT_SECONDS)
    return Session(lambda text: list(connection.execute(text)), connection.fileno())


def psycopg2_session(url: str) -> Session:
    """Connects with psycopg2."""
    driver = importlib.import_module("psycopg2")
    connection = driver.connect(url, connect_timeout=CONNECT_SECONDS)
    connection.autocommit = True

    def rows(text: str) -> list[Sequence[Any]]:
        with connection.cursor() as cursor:
            cursor.execute(text)
            return list(cursor.fetchall())

    return Session(rows, connection.fileno())


def asyncpg_session(url: str) -> Session:
    """Connects with asyncpg."""
    driver = importlib.import_module("asyncpg")
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(driver.connect(url, timeout=CONNECT_SECONDS))
    plain = connection._transport.get_extra_info("socket")
    return Session(
        lambda text: [tuple(row) for row in loop.run_until_complete(connection.fetch(text))],
        plain.fileno(),
    )


DRIVERS: dict[str, Callable[[str], Session]] = {
    "psycopg": psycopg_session,
    "psycopg2": psycopg2_session,
    "asyncpg": asyncpg_session,
}


def connect(where: Address) -> Session:
    """Connects with the driver that the URL names, or with any that is there.

    Raises:
        Refused: The release has none, or the database cannot be reached.
    """
    for name in sorted(DRIVERS, key=lambda name: name != where.driver):
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        try:
            return DRIVERS[name](where.url)
        except Exception as error:
            # each driver has errors of its own
            raise Refused(
                f"cannot connect to the database with {name}: {without(where.password, error)}"
            ) from None
    raise Refused(
        f"the release has no driver for PostgreSQL that is known here: {', '.join(DRIVERS)}"
    )


def without(password: str, error: BaseException) -> str:
    """Returns the text of an error with the password taken out, however it is written."""
    text = str(error).strip() or type(error).__name__
    for form in (password, quote(password, safe=""), quote(password)):
        text = text.replace(form, "***") if form else text
    return text


def key_of(name: str) -> int:
    """Returns the number of a lock, 64 bits with a sign; the same for all who use the name."""
    digest = hashlib.sha256(f"asgi.deploy:{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


def error_code(error: BaseException) -> str:
    """Returns the code that PostgreSQL has given an error."""
    return str(getattr(error, "sqlstate", None) or getattr(error, "pgcode", None) or "")


def holders(session: Session, key: int) -> str:
    """Says who holds a lock, as far as the database tells this user."""
    found = session.rows(
        "SELECT a.application_name, a.pid, a.usename, a.client_addr"
        " FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid"
        " JOIN pg_database d ON d.oid = l.database AND d.datname = current_database()"
        " WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1"
        f" AND l.classid::bigint = {(key >> 32) & 0xFFFFFFFF}"
        f" AND l.objid::bigint = {key & 0xFFFFFFFF}"
    )
    told = [
        f"{name or 'a session without a name'} (process {process} of the database, user {user}"
        f"{f', from {origin}' if origin else ''})"
        for name, process, user, origin in found
    ]
    return ", ".join(told) or "a session that has just ended"


def prepare(session: Session, holder: str, seconds: float) -> None:
    """Names the session, and takes away what would end it while the command runs."""
    name = re.sub(r"[^A-Za-z0-9 ._-]", "_", f"migration of {holder}")[:NAME_LENGTH]
    # older servers do not know all of them
    settings = {
        "application_name": name,
        "lock_timeout": str(int(seconds * 1000)),
        "statement_timeout": "0",
        "idle_session_timeout": "0",
        "tcp_keepalives_idle": "30",
    }
    for setting, value in settings.items():
        session.rows(
            f"SELECT set_config(name, '{value}', false) FROM pg_settings WHERE name = '{setting}'"
        )


def take(session: Session, name: str, seconds: float) -> None:
    """Takes the lock, after whoever has it and whoever waits already.

    Raises:
        Refused: It was not free within the time.
    """
    key = key_of(name)
    if session.rows(f"SELECT pg_try_advisory_lock({key})")[0][0]:
        return
    held_by = holders(session, key)
    tell(f"waits for the lock {name!r}, at most {seconds:g} s; it is held by {held_by}")
    started = time.monotonic()
    try:
        session.rows(f"SELECT pg_advisory_lock({key})")
    except Exception as error:
        # each driver has errors of its own
        if error_code(error) != LOCK_NOT_AVAILABLE:
            raise
        raise Refused(
            f"the lock {name!r} was not free within {seconds:g} s, so nothing was run; it is held"
            f" by {holders(session, key)}"
        ) from None
    tell(f"has the lock {name!r} after {time.monotonic() - started:.1f} s")


def accept_signals() -> None:
    """Gives a new process the signals as a service of systemd has them: not ignored, not blocked.

    What ignores SIGINT, such as a command that a shell runs in the background, hands that down, and
    a shell cannot set a trap for it then.
    """
    for number in FORWARDED:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)


def run(command: Sequence[str], session: Session, seconds: float) -> int:
    """Runs the command and returns its exit code; 128 and the number of a signal.

    Raises:
        Refused: It took too long; it was ended.
    """
    # none may end this program between the start of the command and the handlers
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    child = subprocess.Popen(command, pass_fds=[session.descriptor], preexec_fn=accept_signals)
    for number in FORWARDED:
        signal.signal(number, lambda number, _frame: child.send_signal(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    try:
        code = child.wait(seconds)
    except subprocess.TimeoutExpired:
        # what it has started is ended by systemd, with the unit
        child.terminate()
        raise Refused(f"the command took longer than {seconds:g} s and was ended") from None
    return code if code >= 0 else 128 - code


def tell(text: str) -> None:
    """Says something at once, between the lines of the command."""
    print(f"advisory lock: {text}", flush=True)


def locked_run(options: argparse.Namespace) -> int:
    """Takes the lock, runs the command, and returns its exit code."""
    where = address(options.variable, os.environ.get(options.variable))
    session = connect(where)
    try:
        prepare(session, options.holder, options.seconds)
        take(session, options.name, options.seconds)
    except Refused:
        raise
    except Exception as error:
        # each driver has errors of its own
        raise Refused(
            f"cannot take the lock {options.name!r}: {without(where.password, error)}"
        ) from None
    code = run(options.command, session, options.seconds)
    try:
        session.rows(f"SELECT pg_advisory_unlock({key_of(options.name)})")
    except Exception as error:
        # each driver has errors of its own; what the command has done stays done
        tell(f"was lost while the command ran: {without(where.password, error)}")
    return code


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description="Run a command under a lock of a database.")
    parser.add_argument("--name", required=True, help="name of the lock")
    parser.add_argument("--variable", required=True, help="environment variable with the URL")
    parser.add_argument("--holder", required=True, help="what others are told who wait")
    parser.add_argument(
        "--seconds", type=float, required=True, help="longest wait, and longest run after it"
    )
    parser.add_argument("command", nargs="+", help="program and arguments, after --")
    return parser


def main() -> int:
    """Runs the command line."""
    try:
        return locked_run(arguments().parse_args())
    except Refused as error:
        print(f"advisory lock: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

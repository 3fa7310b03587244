"""The lock of a migration in a database: with a real PostgreSQL, and each driver."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest

ROOT = Path(__file__).resolve().parents[4]
PROGRAM = ROOT / "roles" / "migrate" / "files" / "advisory_lock.py"
PASSWORD = "p@ss/w#rd?"
ESCAPED = "p%40ss%2Fw%23rd%3F"
DRIVERS = ("psycopg", "psycopg2", "asyncpg")

#: A migration that counts in the database who runs at the same time. Arguments: URL, seconds.
COUNTING = """
import sys, psycopg
with psycopg.connect(sys.argv[1], autocommit=True) as connection:
    (number,) = connection.execute(
        "INSERT INTO runs (beside) SELECT count(*) FROM runs WHERE NOT ended RETURNING number"
    ).fetchone()
    print("began", flush=True)
    connection.execute("SELECT pg_sleep(%s)", [sys.argv[2]])
    connection.execute("UPDATE runs SET ended = true WHERE number = %s", [number])
"""


def load_module(name: str, path: Path) -> ModuleType:
    """Imports a file that belongs to no package."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


advisory_lock = load_module("advisory_lock", PROGRAM)
postgres = load_module("blog_postgres", ROOT / "examples" / "blog" / "tests" / "postgres.py")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """Where a PostgreSQL listens, with a user who has a password."""
    with postgres.throwaway_cluster() as cluster:
        rules = cluster.folder / "data" / "pg_hba.conf"
        rules.write_text(f"local all guarded scram-sha-256\n{rules.read_text()}")
        with psycopg.connect(plain(cluster.folder), autocommit=True) as connection:
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(f"CREATE ROLE guarded LOGIN PASSWORD '{PASSWORD}'")
            connection.execute(
                "CREATE TABLE runs (number serial, beside int, ended bool DEFAULT false)"
            )
        yield cluster.folder


def plain(folder: Path) -> str:
    """The URL of the database as libpq reads it."""
    return f"postgresql://blog@/postgres?host={folder}"


def start(
    url: str | None, *command: str, name: str = "shop", holder: str = "blog", seconds: float = 20
) -> subprocess.Popen[str]:
    """Starts the program as a unit does, with the URL in its environment."""
    return subprocess.Popen(
        [
            sys.executable,
            "-I",
            str(PROGRAM),
            f"--name={name}",
            "--variable=SHOP_URL",
            f"--seconds={seconds}",
            f"--holder={holder}",
            "--",
            *command,
        ],
        env={"PATH": os.environ["PATH"], **({} if url is None else {"SHOP_URL": url})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # as a shell does that starts it in the background: the program must not depend on it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Waits for the end of the program and returns its code and what it printed."""
    output, _nothing = process.communicate(timeout=60)
    return process.returncode, output


def counting(folder: Path, seconds: float = 0) -> tuple[str, ...]:
    """The command of a migration that counts."""
    return (sys.executable, "-c", COUNTING, plain(folder), str(seconds))


def line(process: subprocess.Popen[str]) -> str:
    """Returns the next line that the program prints."""
    assert process.stdout is not None
    return process.stdout.readline()


def runs(folder: Path) -> list[tuple[int, bool]]:
    """Every migration that has begun: how many ran beside it, and whether it has ended."""
    with psycopg.connect(plain(folder)) as connection:
        rows: list[Any] = connection.execute(
            "SELECT beside, ended FROM runs ORDER BY number"
        ).fetchall()
        return rows


def is_free(folder: Path, name: str = "shop") -> bool:
    """Says whether nobody holds the lock now; it is not taken for it."""
    low = advisory_lock.key_of(name) & 0xFFFFFFFF
    with psycopg.connect(plain(folder), autocommit=True) as connection:
        row = connection.execute(
            "SELECT count(*) FROM pg_locks"
            " WHERE locktype = 'advisory' AND granted AND objid::bigint = %s",
            [low],
        ).fetchone()
        assert row is not None
        return bool(row[0] == 0)


def wait_until_free(folder: Path) -> None:
    """The server notices a connection that is gone a moment later."""
    deadline = time.monotonic() + 60
    while not is_free(folder):
        assert time.monotonic() < deadline, "the lock is still held"
        time.sleep(0.05)


# --- with a database ------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_command_runs_with_its_environment_and_its_code(folder: Path, driver: str) -> None:
    url = f"postgresql+{driver}://blog@/postgres?host={folder}&pool_size=5"
    code, output = ended(start(url, "sh", "-c", 'test -n "$SHOP_URL" && echo ran; exit 7'))
    assert (code, output) == (7, "ran\n")
    wait_until_free(folder)


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_second_one_waits_and_then_runs(folder: Path, driver: str) -> None:
    """It says for whom it waits; both have run, never at the same time."""
    before = len(runs(folder))
    first = start(plain(folder), *counting(folder, 2), holder="blog 1.0.0-abc on web1")
    assert line(first) == "began\n"
    url = plain(folder).replace("postgresql:", f"postgresql+{driver}:")
    second = start(url, *counting(folder), holder="shop")
    told = line(second)
    assert "waits for the lock 'shop', at most 20 s" in told
    assert "held by migration of blog 1.0.0-abc on web1 (process " in told
    assert is_free(folder, "another")
    code, output = ended(second)
    assert code == 0, output
    assert "has the lock 'shop' after" in output
    assert ended(first)[0] == 0
    assert runs(folder)[before:] == [(0, True), (0, True)]


def test_of_many_at_the_same_time_one_runs_after_the_other(folder: Path) -> None:
    before = len(runs(folder))
    started = [
        start(plain(folder), *counting(folder, 0.2), holder=f"app {number}") for number in range(6)
    ]
    assert [ended(process)[0] for process in started] == [0] * 6
    assert runs(folder)[before:] == [(0, True)] * 6


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_wait_has_an_end(folder: Path, driver: str) -> None:
    """Nothing is run, and who holds the lock is told."""
    first = start(plain(folder), "sleep", "30", holder="blog")
    try:
        deadline = time.monotonic() + 60
        while is_free(folder):
            assert time.monotonic() < deadline
        url = plain(folder).replace("postgresql:", f"postgresql+{driver}:")
        code, output = ended(start(url, "echo", "ran", seconds=0.5))
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()
    assert code == 1
    assert (
        "was not free within 0.5 s, so nothing was run; it is held by migration of blog" in output
    )
    assert "ran\n" not in output
    wait_until_free(folder)


def test_a_command_that_takes_too_long_is_ended(folder: Path) -> None:
    code, output = ended(start(plain(folder), "sleep", "60", seconds=0.5))
    assert code == 1
    assert "took longer than 0.5 s and was ended" in output
    wait_until_free(folder)


def test_the_lock_lasts_until_the_command_has_ended_even_after_a_kill(folder: Path) -> None:
    """SIGKILL of the program only: the command goes on under the lock, and nobody beside it."""
    process = start(plain(folder), "sh", "-c", "echo began; sleep 1.5; echo done")
    assert line(process) == "began\n"
    process.kill()
    process.wait()
    assert not is_free(folder)
    assert line(process) == "done\n"
    wait_until_free(folder)


def test_a_kill_of_all_frees_the_lock(folder: Path) -> None:
    process = start(plain(folder), "sh", "-c", "echo began; sleep 60")
    assert line(process) == "began\n"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    wait_until_free(folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_reaches_the_command(folder: Path, number: signal.Signals) -> None:
    """The command may clean up, and its code is the one that counts."""
    script = f"trap 'echo told; exit 3' {number.name[3:]}; echo began; while :; do sleep 0.1; done"
    process = start(plain(folder), "sh", "-c", script)
    assert line(process) == "began\n"
    process.send_signal(number)
    assert ended(process) == (3, "told\n")


def test_a_command_that_is_killed_has_failed(folder: Path) -> None:
    code, _output = ended(start(plain(folder), "sh", "-c", "kill -KILL $$"))
    assert code == 128 + signal.SIGKILL


def test_a_lost_lock_is_told(folder: Path) -> None:
    """The database was started again while the command ran: what it did stays done."""
    process = start(plain(folder), "sh", "-c", "echo began; read -r _ < /dev/null; sleep 1")
    assert line(process) == "began\n"
    with psycopg.connect(plain(folder), autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'migration of%'"
        )
    code, output = ended(process)
    assert code == 0
    assert "was lost while the command ran" in output


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_password_with_special_characters_is_given_and_never_told(
    folder: Path, driver: str
) -> None:
    url = f"postgresql+{driver}://guarded:{{}}@/postgres?host={folder}"
    assert ended(start(url.format(ESCAPED), "echo", "ran")) == (0, "ran\n")
    code, output = ended(start(url.format(f"not-{ESCAPED}"), "echo", "ran"))
    assert code == 1
    assert f"cannot connect to the database with {driver}" in output
    assert "guarded" in output
    assert PASSWORD not in output
    assert ESCAPED not in output


# --- without one ----------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_database_that_is_not_there_is_told_without_the_password(
    tmp_path: Path, driver: str
) -> None:
    url = f"postgresql+{driver}://blog:{ESCAPED}@127.0.0.1:1/postgres"
    code, output = ended(start(url, "echo", "ran"))
    assert code == 1
    assert f"cannot connect to the database with {driver}" in output
    assert "ran\n" not in output
    assert PASSWORD not in output
    assert ESCAPED not in output
    gone = f"postgresql+{driver}://blog@/postgres?host={tmp_path}"
    assert "cannot connect" in ended(start(gone, "echo", "ran"))[1]


REFUSED = {
    "not set": (None, "SHOP_URL is not set in the environment of the migration"),
    "empty": ("", "SHOP_URL is not set"),
    "another database": ("mysql://u:secret@db/shop", "is not the URL of a PostgreSQL database"),
    "a file": ("sqlite:///secret.db", "is not the URL of a PostgreSQL database"),
    "no URL": ("host=db password=secret", "is not the URL of a PostgreSQL database"),
    "slash in the password": ("postgresql://u:se/secret@db/shop", "%40 for @"),
    "number sign in the password": ("postgresql://u:12#secret@db/shop", "%40 for @"),
    "question mark in the password": ("postgresql://u:12?secret@db/shop", "%40 for @"),
    "port that is none": ("postgresql://u:x@db:secret/shop", "%40 for @"),
    "broken brackets": ("postgresql://u:x@[secret/shop", "%40 for @"),
    "several hosts": ("postgresql://u:secret@a,b/shop", "names several hosts"),
    "several hosts as options": ("postgresql://u:secret@/shop?host=a&host=b", "several hosts"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_url_that_cannot_be_used_is_refused_without_a_part_of_it(case: str) -> None:
    url, told = REFUSED[case]
    code, output = ended(start(url, "echo", "ran"))
    assert code == 1
    assert told in output
    assert "secret" not in output
    assert "Traceback" not in output
    assert "ran\n" not in output


def test_a_release_without_a_driver_is_refused(tmp_path: Path) -> None:
    """A Python of its own, with nothing installed."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    done = subprocess.run(
        [
            *(tmp_path / "venv" / "bin" / "python", "-I", PROGRAM, "--name=shop"),
            *("--variable=SHOP_URL", "--seconds=5", "--holder=blog", "--", "echo", "ran"),
        ],
        env={"SHOP_URL": "postgresql://blog:secret@/shop"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "has no driver for PostgreSQL that is known here: psycopg, psycopg2, asyncpg" in (
        done.stderr
    )
    assert "secret" not in done.stderr


READ = {
    "postgresql://u:p@db:5433/shop": "postgresql://u:p@db:5433/shop",
    "postgresql+psycopg://u@/shop?host=/run/postgresql": (
        "postgresql://u@/shop?host=/run/postgresql"
    ),
    "postgresql+asyncpg://u:a%40b@db/shop?ssl=require&prepared_statement_cache_size=0": (
        "postgresql://u:a%40b@db/shop?sslmode=require"
    ),
    "postgres://u:p@[::1]:5432/shop": "postgresql://u:p@[::1]:5432/shop",
    "postgis://u:p@db/shop?sslmode=verify-full&sslrootcert=/etc/ssl/db.pem": (
        "postgresql://u:p@db/shop?sslmode=verify-full&sslrootcert=/etc/ssl/db.pem"
    ),
    "postgresql://u@%2Frun%2FDb/shop": "postgresql://u@%2Frun%2FDb/shop",
    "postgresql:///shop": "postgresql:///shop",
}


@pytest.mark.parametrize("text", READ)
def test_every_way_to_write_a_url_is_read(text: str) -> None:
    assert advisory_lock.address("DATABASE_URL", text).url == READ[text]


def test_the_driver_of_the_url_goes_first() -> None:
    assert advisory_lock.address("X", "postgresql+asyncpg://u@/shop").driver == "asyncpg"
    assert advisory_lock.address("X", "postgresql://u@/shop").driver == ""


def test_a_lock_has_the_same_number_for_all_who_name_it() -> None:
    """Two versions of this collection may wait for each other, so it must never change."""
    assert advisory_lock.key_of("shop-database") == EXPECTED_KEY
    assert -(2**63) <= advisory_lock.key_of("shop") < 2**63
    assert advisory_lock.key_of("shop") != advisory_lock.key_of("blog")


EXPECTED_KEY = -3531982441649684248

"""Steps of the commands in this directory: named, timed, quiet unless they fail."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import BinaryIO

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
BIN = ROOT / ".venv" / "bin"
#: Names the directory of SSH connections that Ansible holds open; set by who ends them later.
CONNECTIONS = "ANSIBLE_SSH_CONTROL_PATH_DIR"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")

#: Time for what runs to clean up after itself. A run that is interrupted ends within 10 seconds,
#: removal of its hosts included.
GRACE_SECONDS = 3


#: What ends a run.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Process = subprocess.Popen[bytes]
#: What a command line consists of: texts and paths, in one list.
Words = Sequence[object]

#: What runs now; no more is started once `stopping` is set.
running: set[Process] = set()
stopping = threading.Event()
lock = threading.Lock()


class StepFailed(Exception):
    """A command did not do what it is there for; the text says all there is to say."""


def environment(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment for our tools: of Ansible's own variables only those given here."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("ANSIBLE_") or name == CONNECTIONS
    }
    # As images for containers set it: each run of Ansible would compile the collection again.
    kept.pop("PYTHONDONTWRITEBYTECODE", None)
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    # Programs that bring certificate authorities of their own would not know a company's.
    if "SSL_CERT_FILE" not in kept and AUTHORITIES.exists():
        kept["SSL_CERT_FILE"] = str(AUTHORITIES)
    # Ansible wants UTF-8; a fresh machine has no locale at all.
    return {**kept, "PATH": path, "LC_ALL": "C.UTF-8", "PYTHONUNBUFFERED": "1", **(changes or {})}


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGINT, SIGTERM and SIGHUP, whatever the caller did with them.

    Only the first one counts: clean-up is short, and another signal must not cut it off. A caller
    that ignores SIGHUP (`nohup`) wants to be left alone by it. Signals with a handler have their
    default again in each program that is started, so no program inherits an ignored one.
    """
    interrupted = False

    def interrupt(number: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        if not interrupted and number not in ignored:
            interrupted = True
            raise KeyboardInterrupt

    previous = {number: signal.getsignal(number) for number in SIGNALS}
    ignored = {signal.SIGHUP} if previous[signal.SIGHUP] == signal.SIG_IGN else set()
    for number in SIGNALS:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def shield() -> None:
    """From now on let no signal interrupt this program: it cleans up, which is short."""
    for number in SIGNALS:
        signal.signal(number, lambda _number, _frame: None)


def marked_processes() -> list[int]:
    """The processes of this run that left its process groups, such as SSH's shared connections.

    They have the directory of connections in their environment, which no other run has. Not among
    them are the monitors of hosts: a host is removed as a whole.
    """
    directory = os.environ.get(CONNECTIONS)
    if directory is None:
        return []
    mark = f"{CONNECTIONS}={directory}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            # it has ended meanwhile, or belongs to another user
            with contextlib.suppress(OSError):
                marked = mark in (entry / "environ").read_bytes().split(b"\0")
                if marked and (entry / "comm").read_text().strip() != "conmon":
                    found.append(int(entry.name))
    return found


def stop(processes: Iterable[Process], others: Callable[[], Iterable[int]] = tuple) -> None:
    """End processes with their groups, and other processes, at once.

    What does not end within GRACE_SECONDS is killed.
    """

    def signal_all(number: signal.Signals) -> None:
        for end, pids in (
            (os.killpg, [process.pid for process in processes]),
            (os.kill, others()),
        ):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    end(pid, number)

    signal_all(signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    while any(others()) and time.monotonic() < deadline:
        time.sleep(0.1)
    signal_all(signal.SIGKILL)


def stop_all() -> None:
    """End all that runs in other threads, and let them start nothing more."""
    with lock:
        stopping.set()
        processes = list(running)
    stop(processes, marked_processes)


def start(command: Words, file: BinaryIO, env: dict[str, str], directory: Path) -> Process:
    """Start a command in a group of its own: Ctrl-C reaches us, and we pass it on, once."""
    with lock:
        if stopping.is_set():
            raise StepFailed("interrupted")
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=directory,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        running.add(process)
    return process


def run(
    command: Words,
    log: Path,
    *,
    changes: Mapping[str, str] | None = None,
    directory: Path = ROOT,
    timeout_seconds: float = 3000,
    append: bool = False,
) -> tuple[int, str]:
    """Run a command with its output in a log file; returns its exit code and that output."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab" if append else "wb") as file:
        begin = file.tell()
        process = start(command, file, environment(changes), directory)
        try:
            code = process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            stop([process])
            file.write(f"\nno end after {timeout_seconds:.0f} s\n".encode())
            code = 124
        except BaseException:
            stop([process])
            raise
        finally:
            with lock:
                running.discard(process)
    with log.open("rb") as file:
        file.seek(begin)
        return code, file.read().decode(errors="replace")


def demand(
    command: Words,
    log: Path,
    *,
    changes: Mapping[str, str] | None = None,
    append: bool = False,
) -> str:
    """Run a command that must succeed; returns its output, which is the error if it fails."""
    code, output = run(command, log, changes=changes, append=append)
    if code != 0:
        raise StepFailed(f"{output.rstrip()}\n\nexit {code}; this output is kept in {shown(log)}")
    return output


def shown(path: Path) -> str:
    """A path as the user would type it."""
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


@contextlib.contextmanager
def timed(name: str, note: str = "") -> Iterator[None]:
    """Show that a step has begun, and at its end how long it took."""
    started = time.monotonic()
    sys.stdout.write(f"{name:<12}{f'{note} ... ' if note else ''}")
    sys.stdout.flush()
    try:
        yield
    except BaseException:
        print(f"failed after {time.monotonic() - started:.1f} s", flush=True)
        raise
    print(f"{time.monotonic() - started:.1f} s", flush=True)

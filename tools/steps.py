"""Steps of the commands in this directory: named, timed, quiet unless they fail."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import BinaryIO

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"
BIN = ROOT / ".venv" / "bin"
#: Names the directory of SSH connections that Ansible holds open; set by who ends them later.
CONNECTIONS = "ANSIBLE_SSH_CONTROL_PATH_DIR"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")

#: Time for a process to clean up after itself, then to end at all.
INTERRUPT_SECONDS = 40
TERMINATE_SECONDS = 10


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
def stopped_by_sigterm() -> Iterator[None]:
    """Treat SIGTERM and SIGHUP like Ctrl-C, so that everything that was started is ended too."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    former = {name: signal.signal(name, interrupt) for name in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for name, handler in former.items():
            signal.signal(name, handler)


def stop(process: Process) -> None:
    """End a process and what it has started, which may clean up first."""
    for number, seconds in (
        (signal.SIGINT, INTERRUPT_SECONDS),
        (signal.SIGTERM, TERMINATE_SECONDS),
        (signal.SIGKILL, None),
    ):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
            break
    # The leader is gone; what it left behind in its group goes too.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def stop_all() -> None:
    """End all that runs in other threads, and let them start nothing more."""
    with lock:
        stopping.set()
        processes = list(running)
    for process in processes:
        stop(process)


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
            stop(process)
            file.write(f"\nno end after {timeout_seconds:.0f} s\n".encode())
            code = 124
        except BaseException:
            stop(process)
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

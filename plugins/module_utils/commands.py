# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Other programs, run without a shell, their failures told in full."""

from __future__ import annotations

import os
import pwd
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from .errors import DeployError

#: A program that we start sees this and what is given to it, not the caller's environment.
BASE_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
SHOWN_LINES = 40
SHOWN_CHARACTERS = 20_000
#: Of what a program writes this much is kept, the last of it.
OUTPUT_BYTES = 2**24
CHUNK_BYTES = 2**16
REMOVE_SECONDS = 600


def tail(text: str, lines: int = SHOWN_LINES) -> str:
    """Returns the last lines of a text."""
    return "\n".join(text.strip()[-SHOWN_CHARACTERS:].splitlines()[-lines:])


def read_end(stream: IO[bytes], kept: bytearray) -> None:
    """Reads a stream to its end and keeps the last of it: a program may write without end."""
    with stream:
        while chunk := stream.read(CHUNK_BYTES):
            kept += chunk
            if len(kept) > 2 * OUTPUT_BYTES:
                del kept[:-OUTPUT_BYTES]


def finished(
    process: subprocess.Popen[bytes], timeout_seconds: float
) -> subprocess.CompletedProcess[str]:
    """Waits for the end of a program and returns how it ended, with the last of what it wrote.

    Raises:
        subprocess.TimeoutExpired: It took too long and was killed.
    """
    deadline = time.monotonic() + timeout_seconds
    streams = [stream for stream in (process.stdout, process.stderr) if stream]
    kept = [bytearray() for _stream in streams]
    threads = [
        threading.Thread(target=read_end, args=pair, daemon=True) for pair in zip(streams, kept)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0, deadline - time.monotonic()))
        process.wait(max(0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in threads):
            raise subprocess.TimeoutExpired(process.args, timeout_seconds)
    except BaseException:
        process.kill()
        process.wait()
        raise
    stdout, stderr = (bytes(part).decode(errors="replace") for part in kept)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def identity(user: str | None) -> dict[str, Any]:
    """Returns the arguments for subprocess to be a user with its primary group and no other."""
    if user is None or os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def remove_tree(path: Path) -> None:
    """Removes a directory with all that is in it, however deep a build has made it.

    Raises:
        DeployError: Something of it is left.
    """
    run(["rm", "-rf", "--one-file-system", "--", str(path)], timeout_seconds=REMOVE_SECONDS)


def run(
    argv: Sequence[str],
    *,
    timeout_seconds: float,
    user: str | None = None,
    environment: Mapping[str, str] | None = None,
    directory: Path | None = None,
    umask: int = -1,
    input_file: Path | None = None,
    check: bool = True,
    doing: str = "",
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end.

    Args:
        argv: Program and arguments; never a secret among them, argv is public on a host.
        timeout_seconds: After this the program is killed and the call fails.
        user: Run as this user with its primary group and nothing else of ours.
        environment: Added to the small base environment.
        directory: Working directory.
        umask: File mode mask for the program; -1 leaves ours.
        input_file: What the program reads as standard input; nothing by default.
        check: Raise where the program ends with another code than 0.
        doing: What this is for, in the words of an error text ("install packages").

    Raises:
        DeployError: The program is missing, failed (with check), or took too long.
    """
    purpose = f" to {doing}" if doing else ""
    try:
        with Path(input_file or os.devnull).open("rb") as standard_input:
            process = subprocess.Popen(
                list(argv),
                stdin=standard_input,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                env={**BASE_ENVIRONMENT, **(environment or {})},
                cwd=directory,
                umask=umask,
                **identity(user),
            )
            done = finished(process, timeout_seconds)
    except FileNotFoundError as error:
        raise DeployError(f"cannot run {argv[0]}{purpose}: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise DeployError(
            f"{argv[0]}{purpose} took longer than {timeout_seconds:g} s and was stopped"
        ) from error
    if check and done.returncode != 0:
        output = tail(f"{done.stdout}\n{done.stderr}")
        raise DeployError(f"{' '.join(argv)}{purpose} ended with code {done.returncode}:\n{output}")
    return done

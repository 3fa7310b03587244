# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The steps of a build, which run third-party code: each contained in a unit of its own.

No process of a step is left when it ends. It runs as the build user, can write only to the
release that is built and to the cache, and yields CPU and disk to the app that is live.
"""

from __future__ import annotations

import itertools
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from . import systemd, transient
from .commands import BASE_ENVIRONMENT
from .errors import DeployError
from .sandbox import BUILD
from .transient import Ended, Property
from .units import environment_file

#: Root's own; files of a step are in it while the step runs.
PRIVATE_FILES = Path("/run/asgi-deploy/build")
CREDENTIALS = Path("/run/credentials")
#: Characters of an argument in an error text.
LONGEST_WORD = 400
#: Variables for HTTP proxies, in lower or upper case.
PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy")


@dataclass(frozen=True)
class Contained:
    """Runs each step of a build as a transient unit.

    Args:
        app: Name of the app.
        user: The build user.
        writable_paths: Directories that a step can write to; everything else is read-only.
        hidden_paths: Directories that a step cannot read.
        timeout_seconds: Limit for each step.
        memory_max: Limit for each step: bytes, perhaps with K, M, G or T, or a percentage of the
            host's memory.
    """

    app: str
    user: str
    writable_paths: Sequence[Path] = ()
    hidden_paths: Sequence[Path] = ()
    timeout_seconds: float = 900
    memory_max: str = "75%"
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def run(
        self,
        argv: Sequence[str],
        *,
        purpose: str,
        environment: Mapping[str, str] | None = None,
        secret_files: Mapping[str, str] | None = None,
        directory: Path | None = None,
        input_file: Path | None = None,
        check: bool = True,
    ) -> Ended:
        """Runs a program as a step, to its end.

        Args:
            argv: Program and arguments; never a secret among them.
            purpose: What the step is for, for an error text ("install the packages").
            environment: Added to the small base environment; only root and the step read it.
            secret_files: Contents of files that only this step can read, by the names of the
                variables that have their paths.
            directory: Working directory.
            input_file: What the program reads as standard input; nothing by default.
            check: Raise where it fails.

        Raises:
            DeployError: It failed (with check), took too long or used too much memory.
        """
        step = f"{os.getpid()}-{next(self.numbers)}"
        unit = f"{self.app}-build@{step}.service"
        secrets = secret_files or {}
        variables = {
            **BASE_ENVIRONMENT,
            **proxy_variables(),
            **(environment or {}),
            **{name: str(CREDENTIALS / unit / name) for name in secrets},
        }
        texts = {**secrets, "environment": environment_file(variables)}
        with private_files(f"{self.app}@{step}", texts) as files:
            ended = transient.run_unit(
                unit,
                argv,
                [
                    *self.properties(directory or Path("/")),
                    ("EnvironmentFile", str(files["environment"])),
                    *(("LoadCredential", f"{name}:{files[name]}") for name in secrets),
                ],
                self.timeout_seconds,
                input_file,
            )
        if ended.result == "timeout" or ended.out_of_memory or (check and ended.returncode):
            raise self.failure(argv, purpose, ended)
        return ended

    def properties(self, directory: Path) -> list[Property]:
        """Returns the properties of the unit of a step."""
        return [
            ("User", self.user),
            ("WorkingDirectory", str(directory)),
            ("MemoryMax", self.memory_max),
            *BUILD,
            *(("ReadWritePaths", str(path)) for path in self.writable_paths),
            *(("InaccessiblePaths", f"-{path}") for path in self.hidden_paths),
        ]

    def failure(self, argv: Sequence[str], purpose: str, ended: Ended) -> DeployError:
        """Returns the error for a step that failed."""
        # some have a whole program among their arguments
        words = [word if len(word) < LONGEST_WORD else "..." for word in argv]
        step = f"{shlex.join(words)} to {purpose}"
        if ended.result == "timeout":
            why = (
                f"took longer than {self.timeout_seconds:g} s (asgi_app_build_timeout_seconds)"
                " and was stopped"
            )
        elif ended.out_of_memory:
            why = (
                f"used more memory than {self.memory_max} (asgi_app_build_memory_max) or than the"
                " host had, and was killed"
            )
        else:
            why = ended.ending
        return DeployError(f"{step} {why}:\n{ended.output}")


def clear(app: str) -> None:
    """Ends the steps and the import checks of runs that were killed, and removes their files."""
    for unit in systemd.loaded(f"{app}-build@*.service", f"{app}-import@*.service"):
        if not is_running(unit):
            transient.stop(unit)
    if PRIVATE_FILES.is_dir():
        for path in PRIVATE_FILES.iterdir():
            if not is_running(path.name):
                # a run of another app may be removing it too
                shutil.rmtree(path, ignore_errors=True)


def proxy_variables() -> dict[str, str]:
    """Returns the variables for HTTP proxies that the module was given (`environment:`)."""
    return {key: value for key, value in os.environ.items() if key.lower() in PROXIES}


def is_running(name: str) -> bool:
    """Says whether the run that a unit or directory is named after is still there."""
    match = re.search(r"@([0-9]+)[-.]", name)
    return match is not None and Path("/proc", match[1]).exists()


@contextmanager
def private_files(name: str, texts: Mapping[str, str]) -> Iterator[dict[str, Path]]:
    """Yields paths of files that only root can read, by their names, and removes them after."""
    PRIVATE_FILES.parent.mkdir(mode=0o755, exist_ok=True)
    PRIVATE_FILES.mkdir(mode=0o700, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=PRIVATE_FILES))
    try:
        paths = {}
        for key, text in texts.items():
            paths[key] = directory / key
            descriptor = os.open(paths[key], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
        yield paths
    finally:
        shutil.rmtree(directory)

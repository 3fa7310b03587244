"""A PostgreSQL of the tests' own, in a temporary folder, reached by a Unix socket only."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cluster:
    programs: Path
    folder: Path
    # PostgreSQL refuses to run as root; None means the user of the tests will do.
    user: str | None

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://blog@/postgres?host={self.folder}"

    def initialise(self) -> None:
        self._run("initdb", "--username=blog", "--auth=trust", "--no-sync", "--encoding=UTF8")

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses='' -c fsync=off"
        self._run("pg_ctl", "start", "--wait", f"--log={self.folder}/log", "-o", options)

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "--mode=fast")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """A server that accepts connections but never answers."""
        postmaster = (self.folder / "data/postmaster.pid").read_text().split()[0]
        backends = subprocess.run(["pgrep", "-P", postmaster], capture_output=True, text=True)
        processes = [int(number) for number in (postmaster, *backends.stdout.split())]
        try:
            for process in processes:
                os.kill(process, signal.SIGSTOP)
            yield
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self.programs / program, *arguments],
            env={"PGDATA": f"{self.folder}/data", "LC_ALL": "C", "PATH": os.environ["PATH"]},
            cwd=self.folder,
            user=self.user,
            extra_groups=[] if self.user else None,
            check=True,
            stdout=subprocess.DEVNULL,
        )


@contextmanager
def throwaway_cluster() -> Iterator[Cluster]:
    # Short and directly under /tmp: a socket's path is limited, and another user must get in.
    folder = Path(tempfile.mkdtemp(prefix="blog-pg-", dir="/tmp"))
    user = _unprivileged_user()
    if user is not None:
        shutil.chown(folder, user)
    cluster = Cluster(_programs(), folder, user)
    try:
        cluster.initialise()
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder)


def _programs() -> Path:
    # Debian keeps them out of PATH, one folder a version.
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parts[-2]))
    if found:
        return found[-1]
    if pg_ctl := shutil.which("pg_ctl"):
        return Path(pg_ctl).parent
    raise FileNotFoundError("no PostgreSQL server here: apt-get install postgresql")


def _unprivileged_user() -> str | None:
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"

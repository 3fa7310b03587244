"""The real app in a real server, on a real database."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from postgres import Cluster, throwaway_cluster
from sqlalchemy import create_engine, make_url, text

ROOT = Path(__file__).parent.parent
SECRET = "a secret of the tests"


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[bytes]
    socket: Path
    log: Path

    def client(self) -> httpx.Client:
        transport = httpx.HTTPTransport(uds=str(self.socket))
        return httpx.Client(transport=transport, base_url="http://blog.test", timeout=10)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster | None]:
    """None where DATABASE_URL names a server, which is not ours to stop."""
    if url := os.environ.get("DATABASE_URL"):
        if "test" not in (make_url(url).database or ""):
            pytest.exit("the tests empty the database: DATABASE_URL must name one called *test*")
        yield None
        return
    with throwaway_cluster() as cluster:
        yield cluster


@pytest.fixture
def own_cluster(cluster: Cluster | None) -> Cluster:
    if cluster is None:
        pytest.skip("the server of DATABASE_URL is not ours to stop")
    return cluster


@pytest.fixture(scope="session")
def database_url(cluster: Cluster | None) -> str:
    return cluster.url if cluster else os.environ["DATABASE_URL"]


@pytest.fixture(scope="session")
def migrated_url(database_url: str) -> str:
    alembic(database_url, "upgrade", "head")
    return database_url


@pytest.fixture(scope="session")
def server(migrated_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(migrated_url, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def client(server: Server, migrated_url: str) -> Iterator[httpx.Client]:
    engine = create_engine(migrated_url)
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE posts RESTART IDENTITY"))
    engine.dispose()
    with server.client() as client:
        yield client


def environment(database_url: str, **more: str) -> dict[str, str]:
    """Not the tests' own: it may say things that the app reads."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return kept | {"DATABASE_URL": database_url, "BLOG_SECRET_KEY": SECRET} | more


def alembic(
    database_url: str, *arguments: str, folder: Path = ROOT, check: bool = True
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=folder,
        env=environment(database_url),
        capture_output=True,
        text=True,
        check=check,
    )


@contextmanager
def serving(database_url: str, folder: Path, **more: str) -> Iterator[Server]:
    socket = folder / "app.sock"
    command = [sys.executable, "-m", "uvicorn", "blog.main:app", "--uds", str(socket)]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--forwarded-allow-ips", "*", "--timeout-graceful-shutdown", "8"],
            env=environment(database_url, ASGI_RELEASE="test-1", **more),
            stdout=output,
            stderr=output,
        )
    server = Server(process, socket, log)
    try:
        _wait_until_it_listens(server)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait_until_it_listens(server: Server) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            with server.client() as client:
                client.get("/api/ping").raise_for_status()
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise RuntimeError(f"the server did not start:\n{server.log.read_text()}")

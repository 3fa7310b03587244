"""The app as a process: health, headers, streams, its end."""

import json
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest
from conftest import SECRET, Server, environment, serving
from postgres import Cluster
from websockets.sync.client import unix_connect


def test_healthy(client: httpx.Client, server: Server) -> None:
    answer = client.get("/healthz")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "release": "test-1",
        "version": version("blog"),
        "instance": None,
        "pid": server.process.pid,
    }


def test_unhealthy_while_the_database_is_stopped(
    client: httpx.Client, own_cluster: Cluster
) -> None:
    assert client.get("/healthz").status_code == 200
    own_cluster.stop()
    try:
        answer = client.get("/healthz")
        assert (answer.status_code, answer.json()["status"]) == (503, "error")
        assert client.get("/api/posts").status_code == 503
        assert client.get("/api/ping").status_code == 200
    finally:
        own_cluster.start()
    assert client.get("/healthz").status_code == 200
    assert client.get("/api/posts").status_code == 200


def test_unhealthy_in_time_while_the_database_hangs(
    client: httpx.Client, own_cluster: Cluster
) -> None:
    client.get("/healthz")
    with own_cluster.frozen():
        start = time.monotonic()
        answer = client.get("/healthz")
        assert answer.status_code == 503
        assert time.monotonic() - start < 3
    assert client.get("/healthz").status_code == 200


def test_every_response_names_the_release(client: httpx.Client) -> None:
    for path in ("/", "/api/ping", "/nowhere", "/slow?seconds=x"):
        assert client.get(path).headers["x-release"] == "test-1"


def test_proxy_headers_count(client: httpx.Client) -> None:
    headers = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
    answer = client.get("/api/info", headers=headers).json()
    assert (answer["client"], answer["scheme"], answer["host"]) == (
        "192.0.2.7",
        "https",
        "blog.test",
    )


def test_events_come_one_by_one(client: httpx.Client) -> None:
    arrivals, events = [], []
    with client.stream("GET", "/events?count=3") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("data: "):
                arrivals.append(time.monotonic())
                events.append(json.loads(line.removeprefix("data: ")))
    assert [(event["number"], event["release"]) for event in events] == [
        (1, "test-1"),
        (2, "test-1"),
        (3, "test-1"),
    ]
    assert 1.5 < arrivals[-1] - arrivals[0] < 4


def test_websocket(server: Server) -> None:
    with unix_connect(str(server.socket), "ws://blog.test/ws") as websocket:
        assert websocket.response is not None
        assert websocket.response.headers["x-release"] == "test-1"
        assert json.loads(websocket.recv())["release"] == "test-1"
        websocket.send("Hé")
        assert websocket.recv() == "Hé"


def test_sigterm_ends_streams_whole_and_finishes_requests(
    migrated_url: str, tmp_path: Path
) -> None:
    with (
        serving(migrated_url, tmp_path) as server,
        server.client() as client,
        ThreadPoolExecutor(1) as pool,
    ):
        with client.stream("GET", "/events") as answer:
            lines = answer.iter_lines()
            next(lines)
            request = pool.submit(client.get, "/slow?seconds=1.5")
            time.sleep(0.5)
            start = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            # A stream that is cut raises here.
            assert list(lines)
        assert request.result().status_code == 200
        server.process.wait(timeout=5)
        assert time.monotonic() - start < 3
    assert "Application shutdown complete" in server.log.read_text()


def test_sigterm_lets_websockets_say_goodbye(migrated_url: str, tmp_path: Path) -> None:
    """A client that is slow to answer the close frame may still send: nobody has hung up on it."""
    with serving(migrated_url, tmp_path) as server, socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(server.socket))
        client.sendall(
            b"GET /ws HTTP/1.1\r\nHost: blog.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OTAxMjM0NQ==\r\n\r\n"
        )
        received = b""
        while b"hello" not in received:
            received += client.recv(4096)
        server.process.send_signal(signal.SIGTERM)
        restart = b"\x88\x02" + (1012).to_bytes(2, "big")
        while not received.endswith(restart):
            received += client.recv(4096)
        time.sleep(0.5)
        no_mask = bytes(4)
        client.sendall(b"\x81\x82" + no_mask + b"hi")
        client.sendall(b"\x88\x82" + no_mask + (1012).to_bytes(2, "big"))
        assert client.recv(4096) == b""
        server.process.wait(timeout=5)
    assert "Application shutdown complete" in server.log.read_text()


def test_debug_endpoints_are_off(client: httpx.Client) -> None:
    assert client.post("/debug/allocate?mebibytes=1").status_code == 404
    assert client.post("/debug/exit").status_code == 404


def test_debug_endpoints(migrated_url: str, tmp_path: Path) -> None:
    with serving(migrated_url, tmp_path, BLOG_DEBUG_ENDPOINTS="1") as server:
        with server.client() as client:
            before = resident_mebibytes(server)
            assert client.post("/debug/allocate?mebibytes=64").json() == {"mebibytes": 64}
            assert resident_mebibytes(server) - before > 60
            with pytest.raises(httpx.TransportError):
                client.post("/debug/exit?code=71")
        assert server.process.wait(timeout=5) == 71


@pytest.mark.parametrize("name", ["DATABASE_URL", "BLOG_SECRET_KEY"])
def test_a_missing_variable_is_named(name: str) -> None:
    variables = environment("postgresql+psycopg://blog@/blog") | {name: ""}
    result = import_app(variables)
    assert result.returncode != 0
    assert result.stderr.rstrip().endswith(f"not set in the environment: {name}")
    assert SECRET not in result.stderr


def test_a_wrong_pool_size_is_refused() -> None:
    variables = environment("postgresql+psycopg://blog@/blog", BLOG_POOL_SIZE="many")
    assert "BLOG_POOL_SIZE must be" in import_app(variables).stderr


def import_app(variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "import blog.main"]
    return subprocess.run(command, env=variables, capture_output=True, text=True)


def resident_mebibytes(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) // 1024

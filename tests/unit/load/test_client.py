"""The load client must count what goes wrong, to the single request.

A small TLS server in this process goes wrong on purpose and keeps books about it.  Each test
compares both sides: the failures the client counted are those the server caused, and the requests
the server read are those the client says it sent, so that a silent retry would be found out.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import importlib.util
import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CLIENT = Path(__file__).resolve().parents[2] / "load" / "client.py"


def _load_module() -> ModuleType:
    # By path, since tests of a collection have no common package to import from.
    spec = importlib.util.spec_from_file_location("asgi_deploy_load_client", CLIENT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


client = _load_module()


# --- The server ---------------------------------------------------------------------------------


@dataclass
class Exchange:
    """One request as the server read it, and the means to answer it well or badly."""

    site: Site
    number: int  # of all requests, from 1
    connection: int  # of all connections, from 1
    on_connection: int  # of the requests on this connection, from 1
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, status: int = 200, body: bytes = b"{}", *headers: str) -> None:
        lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    def reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    def harm(self) -> None:
        """Note that this request is being failed on purpose."""
        self.site.harmed += 1

    def will_hang_up(self) -> None:
        """Hold a calm client back, once it has its answer, until this connection is closed."""
        self.site.hanging_up.add(self.connection)


# Answers one request; True keeps the connection open.
Behaviour = Callable[[Exchange], Awaitable[bool]]


@dataclass
class Site:
    behaviour: Behaviour
    ca_file: Path
    port: int = 0
    connections: int = 0
    open: int = 0
    requests: int = 0
    harmed: int = 0
    hanging_up: set[int] = field(default_factory=set)
    stored: list[str] = field(default_factory=list)
    notes: list[Any] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open += 1
        connection, on_connection = self.connections, 0
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                first, *lines = head.decode().split("\r\n")[:-2]
                method, path, _ = first.split(" ")
                pairs = (line.split(":", 1) for line in lines)
                headers = {name.lower(): value.strip() for name, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                self.requests += 1
                on_connection += 1
                exchange = Exchange(
                    site=self,
                    number=self.requests,
                    connection=connection,
                    on_connection=on_connection,
                    method=method,
                    path=path,
                    headers=headers,
                    body=body,
                    reader=reader,
                    writer=writer,
                )
                if not await self.behaviour(exchange):
                    break
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()
            self.hanging_up.discard(connection)
            self.open -= 1

    def run(
        self,
        requests: int = 0,
        seconds: float = 0.0,
        calm: bool = False,
        **options: Any,
    ) -> Any:
        """Load from this thread until the server has read so many requests, or so long.

        A calm client sends nothing while a close is on its way, however busy the machine is.
        """

        async def calm_down() -> None:
            while self.hanging_up:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.003)  # for the client's own loop to see what has arrived

        async def go() -> Any:
            engine = client.Engine(self.settings(**options))
            if calm:
                engine._pace.take = calm_down
            running = asyncio.create_task(engine.run())
            limit = time.monotonic() + 60
            end = time.monotonic() + seconds
            while time.monotonic() < limit and not running.done():
                if self.requests >= requests and time.monotonic() >= end:
                    break
                await asyncio.sleep(0.002)
            else:
                pytest.fail("the server never saw that many requests")
            engine.stop()
            return await running

        result = asyncio.run(go())
        limit = time.monotonic() + 60
        while self.open and time.monotonic() < limit:
            time.sleep(0.002)  # the server's books are closed once its connections are
        assert_books_balance(result)
        return result

    def settings(self, **options: Any) -> Any:
        return client.Settings(**self.options(**options))

    def options(self, **options: Any) -> dict[str, Any]:
        defaults = {
            "address": "127.0.0.1",
            "port": self.port,
            "domain": "blog.test",
            "ca_file": str(self.ca_file),
            "new_connections_per_second": 2000.0,
            "timeout": 5.0,
        }
        return {**defaults, **options}


def assert_books_balance(result: Any) -> None:
    for kind in result.kinds.values():
        assert kind.sent == kind.ok + kind.failed + kind.closed_cleanly
    assert sum(result.causes.values()) == result.failed
    assert len(result.failures) == min(result.failed, 20)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA that signed blog.test, and another CA that did not."""
    folder = tmp_path_factory.mktemp("pki")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other"):
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
        openssl("req", "-x509", *key, *files, "-subj", f"/CN={name}", "-days", "2")
    (folder / "extensions").write_text("subjectAltName=DNS:blog.test\n")
    openssl("req", *key, "-keyout", "site.key", "-out", "site.csr", "-subj", "/CN=blog.test")
    signer = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions"]
    openssl("x509", "-req", "-in", "site.csr", "-out", "site.pem", "-days", "2", *signer)
    return folder


@pytest.fixture(scope="module")
def server_loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


@pytest.fixture
def start_site(
    pki: Path, server_loop: asyncio.AbstractEventLoop
) -> Iterator[Callable[[Behaviour], Site]]:
    servers: list[asyncio.Server] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki / "site.pem", pki / "site.key")

    def start(behaviour: Behaviour) -> Site:
        site = Site(behaviour, pki / "ca.pem")
        starting = asyncio.start_server(
            site.serve, "127.0.0.1", 0, ssl=context, ssl_shutdown_timeout=0.2
        )
        server = asyncio.run_coroutine_threadsafe(starting, server_loop).result(5)
        servers.append(server)
        site.port = server.sockets[0].getsockname()[1]
        return site

    yield start
    for server in servers:
        server_loop.call_soon_threadsafe(server.close)


StartSite = Callable[[Behaviour], Site]


async def fine(exchange: Exchange) -> bool:
    exchange.send(201 if exchange.method == "POST" else 200)
    return exchange.headers.get("connection") != "close"


# --- Good answers -------------------------------------------------------------------------------


def test_good_answers_are_ok(start_site: StartSite) -> None:
    site = start_site(fine)
    result = site.run(200, keepalive_get=2, new_get=1, keepalive_post=1, new_post=1)
    assert (result.failed, result.reconnects) == (0, 0)
    assert result.sent == result.ok == site.requests
    kinds = result.kinds
    assert site.connections == 3 + kinds["new_get"].sent + kinds["new_post"].sent
    for kind in kinds.values():
        assert kind.ok > 0
        times = kind.latency
        assert 0 < times.min <= times.median <= times.p99 <= times.max < 5


def test_chunked_answers_in_small_pieces_are_ok(start_site: StartSite) -> None:
    async def chunked(exchange: Exchange) -> bool:
        exchange.writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
        exchange.writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for piece in (
            b"5;a=b\r\nhel",
            b"lo\r",
            b"\nA\r\n0123456789\r\n",
            b"0\r\nT: t\r\n",
            b"\r\n",
        ):
            exchange.writer.write(piece)
            await exchange.writer.drain()
            await asyncio.sleep(0)
        return True

    site = start_site(chunked)
    result = site.run(50, keepalive_get=2)
    assert result.failed == 0
    assert (site.requests, site.connections) == (result.ok, 2)


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_parser_takes_any_split(step: int) -> None:
    parser = client.ResponseParser()
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    pieces = [answer[i : i + step] for i in range(0, len(answer), step)]
    assert [parser.feed(piece) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
    assert (parser.status, parser.body_bytes, parser.leftover) == (200, 3, b"")


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nno way to tell where this ends",
    ],
)
def test_parser_refuses_what_it_cannot_be_sure_of(answer: bytes) -> None:
    with pytest.raises(client.RequestFailed):
        client.ResponseParser().feed(answer)


# --- Failures, counted --------------------------------------------------------------------------


def test_resets_after_the_request_are_counted_exactly(start_site: StartSite) -> None:
    async def reset_every_tenth(exchange: Exchange) -> bool:
        if exchange.connection % 10 == 0:
            exchange.harm()
            exchange.reset()
            return False
        return await fine(exchange)

    site = start_site(reset_every_tenth)
    result = site.run(105, new_get=2)
    assert site.harmed >= 10
    assert result.failed == site.harmed
    assert result.sent == site.requests == site.connections
    assert result.causes == {"new_get: connection reset": site.harmed}


def test_resets_of_kept_alive_connections_are_no_reconnects(start_site: StartSite) -> None:
    async def reset_every_tenth(exchange: Exchange) -> bool:
        if exchange.number % 10 == 0:
            exchange.harm()
            exchange.reset()
            return False
        return await fine(exchange)

    site = start_site(reset_every_tenth)
    result = site.run(105, keepalive_get=2)
    assert result.failed == site.harmed >= 10
    assert result.sent == site.requests
    assert result.reconnects == 0


def test_eof_after_the_request_is_a_failure_not_a_reconnect(start_site: StartSite) -> None:
    # The keep-alive race: the client had begun to send, so it may not ask again.
    async def hang_up_on_the_fifth(exchange: Exchange) -> bool:
        if exchange.on_connection == 5:
            exchange.harm()
            return False
        return await fine(exchange)

    site = start_site(hang_up_on_the_fifth)
    result = site.run(60, keepalive_get=2)
    assert result.failed == site.harmed >= 10
    assert result.sent == site.requests
    assert result.reconnects == 0
    assert set(result.causes) == {"keepalive_get: connection closed"}
    assert "before any answer" in result.failures[0].what


@pytest.mark.parametrize("status", [302, 404, 500, 502, 503])
def test_other_statuses_are_failures(start_site: StartSite, status: int) -> None:
    async def sometimes(exchange: Exchange) -> bool:
        if exchange.number % 7 == 0:
            exchange.harm()
            exchange.send(status, b"<h1>sorry</h1>")
            return True
        return await fine(exchange)

    site = start_site(sometimes)
    result = site.run(50, keepalive_get=2)
    assert result.failed == site.harmed >= 7
    assert result.sent == site.requests
    assert result.causes == {f"keepalive_get: status {status}": site.harmed}
    assert "sorry" in result.failures[0].what


CUTS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 99,
    "head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    "last chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n",
    "no length": b"HTTP/1.1 200 OK\r\n\r\nthe end of which is anybody's guess",
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
def test_cut_answers_are_failures(start_site: StartSite, cut: bytes) -> None:
    async def cut_every_fourth(exchange: Exchange) -> bool:
        if exchange.number % 4 == 0:
            exchange.harm()
            exchange.writer.write(cut)
            return False
        return await fine(exchange)

    site = start_site(cut_every_fourth)
    result = site.run(30, keepalive_get=1, new_get=1)
    assert result.failed == site.harmed >= 7
    assert result.sent == site.requests


def test_silence_is_a_failure_after_the_timeout(start_site: StartSite) -> None:
    async def silent_at_first(exchange: Exchange) -> bool:
        if exchange.number in (3, 4):
            exchange.harm()
            await asyncio.sleep(0.6)
            return False
        return await fine(exchange)

    site = start_site(silent_at_first)
    result = site.run(20, keepalive_get=2, timeout=0.3)
    assert result.failed == site.harmed == 2
    assert result.sent == site.requests
    assert result.causes == {"keepalive_get: timeout": 2}


def test_refused_connections_are_failures(pki: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        site = Site(fine, pki / "ca.pem", port=unused.getsockname()[1])
        result = site.run(seconds=0.1, keepalive_get=1, rate_per_second=100)
    assert result.failed == result.sent >= 5
    assert result.longest_gap_seconds == pytest.approx(result.seconds)
    assert set(result.causes) == {"keepalive_get: connection refused"}


# --- Connections closed while nothing was asked -------------------------------------------------


def test_a_close_between_requests_is_a_reconnect(start_site: StartSite) -> None:
    async def close_when_idle(exchange: Exchange) -> bool:
        if exchange.on_connection < 3:
            return await fine(exchange)
        exchange.will_hang_up()
        await fine(exchange)
        return False

    site = start_site(close_when_idle)
    result = site.run(30, calm=True, keepalive_get=2)
    assert result.failed == 0
    assert result.sent == site.requests
    assert result.reconnects == site.connections - 2 >= 8
    assert result.kinds["keepalive_get"].idle_resets == 0


def test_an_announced_close_is_a_reconnect(start_site: StartSite) -> None:
    async def announce(exchange: Exchange) -> bool:
        last = exchange.on_connection == 3
        exchange.send(200, b"{}", *(["Connection: close"] if last else []))
        return not last

    site = start_site(announce)
    result = site.run(30, keepalive_get=2)
    assert result.failed == 0
    assert result.sent == site.requests
    assert result.reconnects == site.connections - 2 >= 8


def test_a_reset_between_requests_is_told_apart(start_site: StartSite) -> None:
    async def reset_when_idle(exchange: Exchange) -> bool:
        if exchange.on_connection < 3:
            return await fine(exchange)
        exchange.will_hang_up()
        await fine(exchange)
        await asyncio.sleep(0.02)  # a reset would take back an answer that is not read yet
        exchange.reset()
        return False

    site = start_site(reset_when_idle)
    result = site.run(15, calm=True, keepalive_get=1)
    assert result.failed == 0
    assert result.sent == site.requests
    assert result.kinds["keepalive_get"].idle_resets == result.reconnects >= 3


def test_bytes_nobody_asked_for_are_a_failure(start_site: StartSite) -> None:
    async def chatty(exchange: Exchange) -> bool:
        if exchange.on_connection < 3:
            return await fine(exchange)
        exchange.harm()
        exchange.will_hang_up()
        await fine(exchange)
        await asyncio.sleep(0.002)
        exchange.send(408, b"too late")
        return False

    site = start_site(chatty)
    result = site.run(13, calm=True, keepalive_get=1)
    assert result.failed == site.harmed == 4
    assert set(result.causes) == {"keepalive_get: bytes nobody asked for"}


# --- POSTs --------------------------------------------------------------------------------------


def test_post_ids_show_what_was_lost_and_what_was_done_anyway(start_site: StartSite) -> None:
    lost: list[str] = []
    done_anyway: list[str] = []

    async def unreliable(exchange: Exchange) -> bool:
        post = json.loads(exchange.body)
        assert (exchange.method, exchange.path) == ("POST", "/api/posts")
        assert set(post) == {"title", "body", "request_id"}
        exchange.site.notes.append(post["request_id"])
        if exchange.number % 11 == 0:
            lost.append(post["request_id"])
        else:
            exchange.site.stored.append(post["request_id"])
        if exchange.number % 7 == 0 and exchange.number % 11:
            done_anyway.append(post["request_id"])
            if exchange.number % 2:
                exchange.reset()
                return False
            exchange.send(502)
            return True
        exchange.send(201)
        return exchange.headers.get("connection") != "close"

    site = start_site(unreliable)
    result = site.run(70, keepalive_post=1, new_post=1)
    received = site.notes
    assert len(set(received)) == len(received) == result.sent == site.requests  # none sent twice
    assert all(len(request_id) == 32 for request_id in received)
    assert sorted(result.acknowledged + result.failed_ids) == sorted(received)
    assert result.failed == len(done_anyway) >= 8
    ledger = result.ledger([*site.stored, "somebody else's"])
    assert sorted(ledger.lost) == sorted(lost)
    assert sorted(ledger.failed_but_stored) == sorted(done_anyway)
    assert ledger.doubled == []
    twice = result.acknowledged[0]
    assert result.ledger([*site.stored, twice]).doubled == [twice]


def test_a_post_must_be_answered_with_201(start_site: StartSite) -> None:
    async def merely_ok(exchange: Exchange) -> bool:
        exchange.send(200)
        return True

    site = start_site(merely_ok)
    result = site.run(5, keepalive_post=1)
    assert (result.ok, result.acknowledged) == (0, [])
    assert result.failed == len(result.failed_ids) == site.requests


def test_acknowledged_ids_keep_their_order(start_site: StartSite) -> None:
    async def store(exchange: Exchange) -> bool:
        exchange.site.stored.append(json.loads(exchange.body)["request_id"])
        return await fine(exchange)

    site = start_site(store)
    result = site.run(30, keepalive_post=1)
    assert result.acknowledged == site.stored


# --- Slow requests, event streams, WebSockets ---------------------------------------------------


def test_stop_waits_for_requests_in_flight_and_starts_no_more(start_site: StartSite) -> None:
    async def slow(exchange: Exchange) -> bool:
        assert exchange.path == "/slow?seconds=0.3"
        await asyncio.sleep(0.3)
        return await fine(exchange)

    site = start_site(slow)
    result = site.run(3, slow=3, slow_seconds=0.3)
    assert result.sent == result.ok == site.requests == 3
    assert 0.1 < result.drain_seconds < 1


def test_event_streams_must_bring_all_events(start_site: StartSite) -> None:
    async def events(exchange: Exchange) -> bool:
        assert exchange.path == "/events?count=4"
        writer = exchange.writer
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        count = 4
        if exchange.number % 3 == 0:
            exchange.harm()
            count = 3 if exchange.number % 2 else 5
        for number in range(count):
            event = f": comment\n\nid: {number}\ndata: tick\ndata: tock\n\n".encode()
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
        if exchange.number % 5 == 0 and exchange.number % 3:
            exchange.harm()
            return False  # all events came, but the stream never said that it was over
        writer.write(b"0\r\n\r\n")
        return False

    site = start_site(events)
    result = site.run(20, sse=2, sse_count=4)
    assert result.failed == site.harmed >= 7
    assert result.sent == site.requests == site.connections
    assert result.kinds["sse"].messages == 4 * result.ok
    assert result.causes["sse: connection closed"] >= 2


async def upgrade(exchange: Exchange) -> None:
    key = exchange.headers["sec-websocket-key"].encode()
    guid = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key + guid).digest()).decode()
    exchange.writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept.encode() + b"\r\n\r\n"
    )


async def read_masked(exchange: Exchange) -> tuple[int, bytes]:
    first, second = await exchange.reader.readexactly(2)
    assert first & second & 0x80, "frames of a client are final and masked"
    size = second & 0x7F
    assert size < 126
    mask = await exchange.reader.readexactly(4)
    data = await exchange.reader.readexactly(size)
    return first & 0x0F, bytes(byte ^ mask[i % 4] for i, byte in enumerate(data))


def frame(opcode: int, payload: bytes, final: bool = True) -> bytes:
    return bytes([(0x80 if final else 0) | opcode, len(payload)]) + payload


def echo_until(last: Callable[[Exchange], Awaitable[None]], echoes: int = 3) -> Behaviour:
    async def behaviour(exchange: Exchange) -> bool:
        await upgrade(exchange)
        for _ in range(echoes):
            opcode, payload = await read_masked(exchange)
            if opcode == 8:
                exchange.site.notes.append("closed by the client")  # first, or the test may win
                exchange.writer.write(frame(8, payload))
                return False
            # In two fragments with a ping between them, as servers may.
            exchange.writer.write(
                frame(1, payload[:5], final=False) + frame(9, b"?") + frame(0, payload[5:])
            )
            assert await read_masked(exchange) == (0xA, b"?")
        exchange.harm()
        await last(exchange)
        return False

    return behaviour


async def close_with(exchange: Exchange, code: int) -> None:
    exchange.writer.write(frame(8, struct.pack("!H", code) + b"bye"))
    # A message may have crossed the close frame; the close in answer comes after it.
    answer = None
    while answer is None or answer[0] != 8:
        answer = await read_masked(exchange)
    if code == 1000 and answer[1] == struct.pack("!H", 1000):
        # The client refuses an unasked 1000 without an answer, so this is its own close, sent as
        # the load stopped: the two have crossed, and no harm is done.
        exchange.site.harmed -= 1


async def bare_eof(exchange: Exchange) -> None:
    await asyncio.sleep(0)


async def bare_reset(exchange: Exchange) -> None:
    exchange.reset()


async def wrong_echo(exchange: Exchange) -> None:
    await read_masked(exchange)
    exchange.writer.write(frame(1, b"something else"))


@pytest.mark.parametrize("code", [1001, 1012])
def test_websockets_closed_for_a_restart_are_clean(start_site: StartSite, code: int) -> None:
    site = start_site(echo_until(lambda exchange: close_with(exchange, code)))
    result = site.run(10, websocket=2, websocket_interval=0.002)
    counts = result.kinds["websocket"]
    assert counts.failed == 0
    assert counts.closed_cleanly == site.harmed >= 8
    assert counts.reconnects >= counts.closed_cleanly - 2
    assert counts.sent == site.connections
    assert counts.ok == site.notes.count("closed by the client") == counts.sent - site.harmed
    assert counts.messages >= 3 * counts.closed_cleanly


@pytest.mark.parametrize(
    "last",
    [
        bare_eof,
        bare_reset,
        wrong_echo,
        lambda exchange: close_with(exchange, 1000),
        lambda exchange: close_with(exchange, 1006),
        lambda exchange: close_with(exchange, 1011),
    ],
    ids=["eof", "reset", "wrong echo", "1000", "1006", "1011"],
)
def test_websockets_that_end_otherwise_have_failed(
    start_site: StartSite, last: Callable[[Exchange], Awaitable[None]]
) -> None:
    site = start_site(echo_until(last))
    result = site.run(8, websocket=2, websocket_interval=0.002)
    counts = result.kinds["websocket"]
    assert counts.failed == site.harmed >= 6
    assert counts.closed_cleanly == counts.reconnects == 0
    assert counts.sent == site.connections


def test_a_websocket_that_stays_is_ok_once_closed_by_us(start_site: StartSite) -> None:
    site = start_site(echo_until(bare_eof, echoes=100000))
    result = site.run(1, seconds=0.1, websocket=1, websocket_interval=0.005)
    counts = result.kinds["websocket"]
    assert (counts.sent, counts.ok, counts.messages_unanswered) == (1, 1, 0)
    assert counts.messages >= 3
    assert site.notes == ["closed by the client"]


# --- Figures ------------------------------------------------------------------------------------


def test_the_rate_is_not_exceeded(start_site: StartSite) -> None:
    """On average: what a busy machine has fallen behind may be made up for."""
    site = start_site(fine)
    result = site.run(
        100,
        seconds=0.5,
        keepalive_get=3,
        new_get=2,
        rate_per_second=200,
        new_connections_per_second=20,
    )
    # each worker may have begun one more
    assert 100 <= result.sent <= 200 * result.seconds + 5
    assert 0 < result.kinds["new_get"].sent <= 20 * result.seconds + 2


def test_the_longest_gap_is_not_hidden_by_websockets(start_site: StartSite) -> None:
    stall = threading.Event()
    echo = echo_until(bare_eof, echoes=100000)

    async def stalls(exchange: Exchange) -> bool:
        if exchange.path == "/ws":
            return await echo(exchange)
        if exchange.number >= 20:
            if not stall.is_set():
                stall.set()
                exchange.site.notes.append(time.monotonic() + 0.4)
            await asyncio.sleep(exchange.site.notes[0] - time.monotonic())
        return await fine(exchange)

    site = start_site(stalls)
    result = site.run(
        40, keepalive_get=2, websocket=1, websocket_interval=0.01, rate_per_second=400
    )
    assert result.failed == 0
    assert result.longest_gap_seconds >= 0.38
    assert result.kinds["keepalive_get"].latency.max >= 0.38
    assert result.kinds["websocket"].longest_gap_seconds < result.longest_gap_seconds


def test_releases_show_the_switch(start_site: StartSite) -> None:
    async def switch(exchange: Exchange) -> bool:
        exchange.send(200, b"{}", f"X-Release: {'old' if exchange.number <= 20 else 'new'}")
        return True

    site = start_site(switch)
    result = site.run(50, keepalive_get=1)
    old, new = result.releases["old"], result.releases["new"]
    assert (old.count, new.count) == (20, result.ok - 20)
    assert 0 < old.first_seen < old.last_seen < new.first_seen < new.last_seen
    assert "release old: 20 answers" in result.report()


def test_a_lap_holds_what_happened_since_the_last_one(start_site: StartSite) -> None:
    """Two laps and the whole: nothing is counted twice and nothing is left out."""

    first_is_over = threading.Event()

    async def changing(exchange: Exchange) -> bool:
        late = exchange.number > 20
        if late:
            while not first_is_over.is_set():
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.02)
        if exchange.number == 25:
            exchange.harm()
            exchange.send(503)
            return True
        exchange.send(200, b"{}", f"X-Release: {'new' if late else 'old'}")
        return True

    site = start_site(changing)

    async def go() -> tuple[Any, Any, Any]:
        engine = client.Engine(site.settings(keepalive_get=1))
        running = asyncio.create_task(engine.run())
        laps = []
        for requests in (21, 40):
            while site.requests < requests:
                await asyncio.sleep(0.001)
            laps.append(engine.recorder.lap())
            first_is_over.set()
        engine.stop()
        result = await running
        return laps[0], laps[1], (result, engine.recorder.lap())

    first, second, (result, last) = asyncio.run(go())
    assert (first.failed, second.failed, last.failed) == (0, site.harmed, 0)
    assert (set(first.releases), set(second.releases)) == ({"old"}, {"new"})
    for name in ("sent", "ok", "failed"):
        parts = (first, second, last)
        assert sum(getattr(part, name) for part in parts) == getattr(result, name)
    assert (
        sum(part.releases.get("new", 0) for part in (second, last)) == result.releases["new"].count
    )
    slow = second.kinds["keepalive_get"].latency
    assert 0.02 <= slow.min <= slow.max <= result.kinds["keepalive_get"].latency.max
    assert first.seconds < slow.max_at <= first.seconds + second.seconds


# --- What it refuses ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "100.64.0.1",
        "169.254.169.254",
        "0.0.0.0",
        "224.0.0.1",
        "2001:4860:4860::8888",
        "::ffff:8.8.8.8",
        "blog.test",
        "localhost",
        "",
    ],
)
def test_only_own_machines_may_be_loaded(pki: Path, address: str) -> None:
    with pytest.raises(ValueError, match=r"address|neither"):
        client.Load(address=address, domain="blog.test", ca_file=pki / "ca.pem", new_get=1)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.89.0.5", "192.168.1.2", "::1", "fd00::5"])
def test_own_machines_may_be_loaded(address: str) -> None:
    assert client.check_address(address) == address


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"ca_file": "other.pem"}, "certificate refused"),
        ({"domain": "other.test"}, "certificate refused"),
    ],
    ids=["wrong CA", "wrong name"],
)
def test_certificates_are_verified(
    start_site: StartSite, pki: Path, change: dict[str, str], reason: str
) -> None:
    site = start_site(fine)
    if "ca_file" in change:
        change = {"ca_file": str(pki / change["ca_file"])}
    with pytest.raises(client.LoadError, match=reason):
        client.Load(**site.options(keepalive_get=1, **change)).start()
    assert site.requests == 0


# --- The process of its own ---------------------------------------------------------------------


def test_load_runs_beside_the_caller(start_site: StartSite) -> None:
    site = start_site(fine)
    with client.Load(**site.options(keepalive_get=2, new_post=1, rate_per_second=300)) as load:
        assert site.requests >= 2  # start() came back after the first answers
        pid = load.pid
        time.sleep(0.2)
        before = load.snapshot()
        first = load.lap()
        time.sleep(0.1)
        second = load.lap()
        result = load.stop()
    assert_books_balance(result)
    assert result is load.stop() is load.result
    assert 0 < before.ok < result.ok == result.sent == site.requests
    assert len(result.acknowledged) == result.kinds["new_post"].ok > 0
    assert before.ok <= first.ok < first.ok + second.ok <= result.ok
    assert second.seconds >= 0.09
    assert second.kinds["keepalive_get"].latency.max > 0
    with pytest.raises(client.LoadError):
        load.lap()
    assert_gone(pid)


def test_start_raises_when_the_first_request_fails(start_site: StartSite) -> None:
    async def down(exchange: Exchange) -> bool:
        exchange.send(503, b"not yet")
        return True

    load = client.Load(**start_site(down).options(keepalive_get=1))
    with pytest.raises(client.LoadError, match=r"first keepalive_get .* status 503: not yet"):
        load.start()
    assert_gone(load.pid)


def test_a_load_that_was_killed_gives_no_result(start_site: StartSite) -> None:
    load = client.Load(**start_site(fine).options(keepalive_get=1, rate_per_second=50))
    load.start()
    os.kill(load.pid, signal.SIGKILL)
    with pytest.raises(client.LoadError, match="without a result"):
        load.stop()


def test_no_process_outlives_a_killed_caller(start_site: StartSite, tmp_path: Path) -> None:
    site = start_site(fine)
    caller = tmp_path / "caller.py"
    options = site.options(keepalive_get=1, rate_per_second=50)
    caller.write_text(
        f"import sys, time\nsys.path.insert(0, {str(CLIENT.parent)!r})\nimport client\n"
        f"load = client.Load(**{options!r}).start()\n"
        "print(load.pid, flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-B", str(caller)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.kill(pid, 0)
        process.kill()
    assert_gone(pid)


def assert_gone(pid: int) -> None:
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            # Where nobody reaps orphans a dead process stays listed, as a zombie.
            state = Path(f"/proc/{pid}/stat")
            if state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return
            time.sleep(0.01)
            continue
        return
    pytest.fail(f"process {pid} is still there")


def test_command_line_reports_failures(start_site: StartSite, tmp_path: Path) -> None:
    async def fail_once(exchange: Exchange) -> bool:
        exchange.send(502 if exchange.number == 5 else 200)
        return True

    site = start_site(fail_once)
    command = [sys.executable, str(CLIENT), "--address", "127.0.0.1", "--port", str(site.port)]
    command += ["--domain", "blog.test", "--ca-file", str(site.ca_file), "--keepalive-get", "1"]
    command += ["--rate-per-second", "100", "--duration", "0.2"]
    command += ["--json", str(tmp_path / "result.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    assert done.returncode == 1, done.stderr
    assert "failed 1 x keepalive_get: status 502" in done.stdout
    result = client.Result.from_json(json.loads((tmp_path / "result.json").read_text()))
    assert_books_balance(result)
    assert (result.failed, result.sent) == (1, site.requests)
    assert result.report() == done.stdout.rstrip("\n")

    public = [*command, "--address", "8.8.8.8"]
    done = subprocess.run(public, capture_output=True, text=True, timeout=10)
    assert (done.returncode, done.stdout) == (2, "")
    assert "neither loopback nor private" in done.stderr

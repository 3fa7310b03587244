"""Load for one HTTPS site, from a client that never retries and never hides a failure.

Every attempt ends in exactly one of three counters: ``ok``, ``failed`` or, for WebSockets that the
server ended politely, ``closed_cleanly``.  An attempt is counted before its first byte is written,
and whatever happens after that other than a complete answer of the wanted status is a failure.
That includes the keep-alive race, where a server closes an idle connection while a request is
already under way: a browser would ask again, this client counts it.

From a test::

    with Load(address="127.0.0.1", domain="blog.test", ca_file=ca, keepalive_get=4) as load:
        deploy()
        lap = load.lap()  # what the deploy alone met, while the load goes on
        result = load.stop()
    assert result.failed == 0, result.report()

From a shell: ``python client.py --address 127.0.0.1 --domain blog.test --ca-file ca.pem
--keepalive-get 4 --duration 10 --json result.json``.  It exits with 0 when nothing failed, with 1
when something did, and with 2 when the load could not start.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import ipaddress
import json
import math
import os
import queue
import signal
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

SHORT_KINDS = ("keepalive_get", "new_get", "keepalive_post", "new_post")
LONG_KINDS = ("slow", "sse", "websocket")
KINDS = SHORT_KINDS + LONG_KINDS
# What start() waits for; a slow request or an event stream would hold the caller up for seconds.
QUICK_KINDS = (*SHORT_KINDS, "websocket")

NOTED_FAILURES = 20
HEAD_LIMIT = 65536
LINE_LIMIT = 4096
MESSAGE_LIMIT = 1 << 20
BODY_PREFIX = 200
CLEAN_CLOSE_CODES = (1001, 1012)  # "going away" and "service restart": the client should reconnect
WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TLS_SHUTDOWN_SECONDS = 2.0


class LoadError(Exception):
    """The load could not start, or its process ended without a result."""


class RequestFailed(Exception):
    """One attempt failed; ``cause`` is worded so that like failures can be counted together."""

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(f"{cause}: {detail}" if detail else cause)
        self.cause = cause


# --- Settings -----------------------------------------------------------------------------------


def _option(help_text: str, parse: Callable[[str], Any], default: Any = dataclasses.MISSING) -> Any:
    metadata = {"help": help_text, "parse": parse}
    return field(default=default, metadata=metadata)


def check_address(address: str) -> str:
    """Return the address, or raise ValueError unless it can only be a machine of one's own."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        raise ValueError(f"{address!r} is not an IP address; names are not looked up") from None
    plain: ipaddress.IPv4Address | ipaddress.IPv6Address = parsed
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        plain = parsed.ipv4_mapped  # some Pythons call every mapped address private
    unusable = plain.is_unspecified or plain.is_multicast or plain.is_link_local
    if unusable or not (plain.is_loopback or plain.is_private):
        raise ValueError(f"{address} is neither loopback nor private: load goes to test hosts only")
    return address


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to send where.  Each kind of traffic is on when it has at least one worker."""

    address: str = _option("IP address of the test host, loopback or private", str)
    domain: str = _option("name for SNI, certificate check and Host header", str)
    ca_file: str = _option("PEM file of the CA that must have signed the certificate", str)
    port: int = _option("TCP port", int, 443)
    rate_per_second: float | None = _option(
        "target for GETs and POSTs together; as fast as answers come when left out", float, None
    )
    new_connections_per_second: float = _option(
        "cap for the kinds that open a connection for each request", float, 20.0
    )
    keepalive_get: int = _option("workers, each with one connection for its GETs", int, 0)
    new_get: int = _option("workers with a new connection for each GET", int, 0)
    keepalive_post: int = _option("workers, each with one connection for its POSTs", int, 0)
    new_post: int = _option("workers with a new connection for each POST", int, 0)
    slow: int = _option("workers with one slow request after another", int, 0)
    sse: int = _option("workers with one event stream after another", int, 0)
    websocket: int = _option("workers, each holding one WebSocket open", int, 0)
    get_path: str = _option("path of the GETs", str, "/")
    post_path: str = _option("path of the POSTs", str, "/api/posts")
    slow_path: str = _option("path of slow requests", str, "/slow?seconds={seconds}")
    slow_seconds: float = _option("how slow they are", float, 5.0)
    sse_path: str = _option("path of event streams", str, "/events?count={count}")
    sse_count: int = _option("events that each stream must bring", int, 5)
    sse_timeout: float = _option("longest whole stream, in seconds", float, 300.0)
    websocket_path: str = _option("path of the WebSocket echo", str, "/ws")
    websocket_greeting: int = _option("messages of the app before the first echo", int, 0)
    websocket_interval: float = _option("seconds between messages", float, 0.25)
    timeout: float = _option("seconds until a request (or a silent stream) has failed", float, 30.0)
    duration: float | None = _option(
        "seconds to run; until told to stop when left out", float, None
    )
    headers: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_address(self.address)
        if not Path(self.ca_file).is_file():
            raise ValueError(f"no CA file {self.ca_file}")
        if any(getattr(self, kind) < 0 for kind in KINDS):
            raise ValueError("a number of workers is negative")
        if not any(getattr(self, kind) for kind in KINDS):
            raise ValueError("no kind of traffic has a worker")
        for name in ("rate_per_second", "new_connections_per_second", "timeout", "duration"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be above 0")
        for path in (self.get_path, self.post_path, self.slow_path, self.sse_path):
            _check_path(path)
        _check_path(self.websocket_path)
        for text in (self.domain, *self.headers, *self.headers.values()):
            if "\r" in text or "\n" in text:
                raise ValueError("a line break in the domain or in a header")

    def workers(self, kind: str) -> int:
        return int(getattr(self, kind))


def _check_path(path: str) -> None:
    if not path.startswith("/") or not path.isascii() or any(c.isspace() for c in path):
        raise ValueError(f"{path!r} is no path: it needs a leading / and no spaces")


# --- Results ------------------------------------------------------------------------------------


@dataclass
class Latency:
    """Seconds from the begin of an attempt, connecting included, to the end of a good answer."""

    min: float
    median: float
    p99: float
    max: float
    max_at: float  # when the slowest answer ended, in seconds since the start


@dataclass
class KindResult:
    sent: int = 0  # attempts, with those whose connection could not even be opened
    ok: int = 0
    failed: int = 0
    closed_cleanly: int = 0  # WebSockets the server closed with 1001 or 1012
    reconnects: int = 0  # new connections after the server closed one while nothing was asked
    idle_resets: int = 0  # those among them that were closed with a reset, not an EOF
    messages: int = 0  # WebSocket messages echoed, events received
    messages_unanswered: int = 0  # WebSocket messages overtaken by a clean close
    longest_gap_seconds: float = 0.0
    latency: Latency | None = None


@dataclass
class LapKind:
    """One kind of traffic in one lap; an attempt counts where it began, its end where it ended."""

    sent: int
    ok: int
    failed: int
    closed_cleanly: int
    latency: Latency | None


@dataclass
class Lap:
    """What happened since the lap before, or since the start."""

    seconds: float
    kinds: dict[str, LapKind]
    releases: dict[str, int]  # answers of each

    @property
    def sent(self) -> int:
        return sum(kind.sent for kind in self.kinds.values())

    @property
    def ok(self) -> int:
        return sum(kind.ok for kind in self.kinds.values())

    @property
    def failed(self) -> int:
        return sum(kind.failed for kind in self.kinds.values())

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Lap:
        lap = cls(**data)
        lap.kinds = {name: LapKind(**kind) for name, kind in data["kinds"].items()}
        for kind in lap.kinds.values():
            if isinstance(kind.latency, dict):
                kind.latency = Latency(**kind.latency)
        return lap


@dataclass
class FailureNote:
    at: float  # seconds since the start
    time: str  # the same moment by the clock, UTC, to compare with logs
    kind: str
    what: str


@dataclass
class ReleaseSeen:
    """Answers that carried one value of the X-Release header; times in seconds since the start."""

    count: int
    first_seen: float
    last_seen: float


@dataclass
class Ledger:
    """How the POSTs of the client compare with what the database holds."""

    lost: list[str]  # acknowledged with 201, yet not stored
    doubled: list[str]  # stored more than once
    failed_but_stored: list[str]  # the client saw a failure, the server did the work


@dataclass
class Result:
    target: str
    started_at: float  # Unix time
    seconds: float = 0.0  # from the start until told to stop
    drain_seconds: float = 0.0  # from then until the last request in flight had its answer
    rate_target: float | None = None
    rate_per_second: float = 0.0  # good answers of all kinds per second, stop to drain left out
    longest_gap_seconds: float = 0.0  # without a good answer to any GET or POST
    longest_gap_at: float = 0.0  # when that gap ended
    kinds: dict[str, KindResult] = field(default_factory=dict)
    failures: list[FailureNote] = field(default_factory=list)  # the first few
    causes: dict[str, int] = field(default_factory=dict)  # all of them, counted
    releases: dict[str, ReleaseSeen] = field(default_factory=dict)
    acknowledged: list[str] = field(default_factory=list)  # request ids in the order of their 201
    failed_ids: list[str] = field(default_factory=list)

    @property
    def sent(self) -> int:
        return sum(kind.sent for kind in self.kinds.values())

    @property
    def ok(self) -> int:
        return sum(kind.ok for kind in self.kinds.values())

    @property
    def failed(self) -> int:
        return sum(kind.failed for kind in self.kinds.values())

    @property
    def reconnects(self) -> int:
        return sum(kind.reconnects for kind in self.kinds.values())

    def ledger(self, stored: Iterable[str]) -> Ledger:
        """Compare with the request ids in the database; ids of others are left aside."""
        times: dict[str, int] = {}
        for request_id in stored:
            times[request_id] = times.get(request_id, 0) + 1
        return Ledger(
            lost=[i for i in self.acknowledged if i not in times],
            doubled=[i for i in (*self.acknowledged, *self.failed_ids) if times.get(i, 0) > 1],
            failed_but_stored=[i for i in self.failed_ids if i in times],
        )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Result:
        result = cls(**data)
        result.kinds = {name: KindResult(**kind) for name, kind in data["kinds"].items()}
        for kind in result.kinds.values():
            if isinstance(kind.latency, dict):
                kind.latency = Latency(**kind.latency)
        result.failures = [FailureNote(**note) for note in data["failures"]]
        result.releases = {name: ReleaseSeen(**seen) for name, seen in data["releases"].items()}
        return result

    def report(self) -> str:
        wanted = f" of {self.rate_target:g}/s wanted" if self.rate_target else ""
        lines = [
            f"{self.target}: {self.sent} sent, {self.ok} ok, {self.failed} failed "
            f"in {self.seconds:.1f} s (+{self.drain_seconds:.1f} s drain), "
            f"{self.rate_per_second:.1f}/s{wanted}, "
            f"longest gap {self.longest_gap_seconds:.3f} s (ended at {self.longest_gap_at:.2f} s)",
            f"{'kind':<15}{'sent':>8}{'ok':>8}{'failed':>8}{'reconn':>8}"
            f"{'min ms':>9}{'median':>9}{'p99':>9}{'max':>9}{'max at s':>10}{'gap s':>8}",
        ]
        for name, kind in self.kinds.items():
            line = f"{name:<15}{kind.sent:>8}{kind.ok:>8}{kind.failed:>8}{kind.reconnects:>8}"
            if kind.latency is not None:
                times = kind.latency
                for seconds in (times.min, times.median, times.p99, times.max):
                    line += f"{seconds * 1000:>9.1f}"
                line += f"{times.max_at:>10.2f}"
            else:
                line += f"{'-':>9}" * 4 + f"{'-':>10}"
            lines.append(line + f"{kind.longest_gap_seconds:>8.2f}")
            if name == "websocket":
                lines.append(
                    f"  websocket: {kind.closed_cleanly} closed cleanly by the server, "
                    f"{kind.messages} echoes, {kind.messages_unanswered} cut off by a clean close"
                )
        if self.acknowledged or self.failed_ids:
            lines.append(
                f"POSTs: {len(self.acknowledged)} acknowledged, {len(self.failed_ids)} failed"
            )
        for name, seen in self.releases.items():
            lines.append(
                f"release {name}: {seen.count} answers, "
                f"from {seen.first_seen:.2f} s to {seen.last_seen:.2f} s"
            )
        for cause, count in self.causes.items():
            lines.append(f"failed {count} x {cause}")
        for note in self.failures:
            lines.append(f"  {note.at:8.3f} s  {note.time}  {note.kind}: {note.what}")
        if self.failed > len(self.failures):
            lines.append(f"  ... and {self.failed - len(self.failures)} more")
        return "\n".join(lines)


class _Gap:
    """The longest stretch between two good answers."""

    def __init__(self, now: float) -> None:
        self.last = now
        self.longest = 0.0
        self.ended = now

    def mark(self, now: float) -> None:
        if now - self.last > self.longest:
            self.longest = now - self.last
            self.ended = now
        self.last = now

    def until(self, now: float) -> tuple[float, float]:
        """Length and end, counting the stretch that is still open."""
        if now - self.last > self.longest:
            return now - self.last, now
        return self.longest, self.ended


class _KindCounter:
    def __init__(self, now: float) -> None:
        self.result = KindResult()
        self.gap = _Gap(now)
        self.latencies = array("d")
        self.ended = array("d")  # when each of these answers ended, in seconds since the start
        self.at_lap = KindResult()  # what had been counted when the last lap ended
        self.answers_at_lap = 0

    def latency(self, first: int = 0) -> Latency | None:
        """Of all answers from the given one on."""
        latencies = self.latencies[first:]
        if not latencies:
            return None
        ordered = sorted(latencies)
        slowest_at = self.ended[first + latencies.index(ordered[-1])]

        def rank(share: float) -> float:
            return ordered[max(0, math.ceil(share * len(ordered)) - 1)]

        return Latency(ordered[0], rank(0.5), rank(0.99), ordered[-1], slowest_at)

    def lap(self) -> LapKind:
        """What was counted since the last one."""
        now, before = self.result, self.at_lap
        lap = LapKind(
            sent=now.sent - before.sent,
            ok=now.ok - before.ok,
            failed=now.failed - before.failed,
            closed_cleanly=now.closed_cleanly - before.closed_cleanly,
            latency=self.latency(self.answers_at_lap),
        )
        self.at_lap = dataclasses.replace(now)
        self.answers_at_lap = len(self.latencies)
        return lap


class Recorder:
    """All counters of one run."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.zero = time.monotonic()
        self.started_at = time.time()
        self.told_to_stop: float | None = None
        self.ended: float | None = None
        self.kinds = {k: _KindCounter(self.zero) for k in KINDS if settings.workers(k)}
        # Long-lived streams may go on while every new request hangs, so they must not close gaps.
        short = [k for k in SHORT_KINDS if k in self.kinds]
        self.gap_kinds = frozenset(short or self.kinds)
        self.gap = _Gap(self.zero)
        self.releases: dict[str, ReleaseSeen] = {}
        self.failures: list[FailureNote] = []
        self.causes: dict[str, int] = {}
        self.acknowledged: list[str] = []
        self.failed_ids: list[str] = []
        self.ok_before_stop = 0
        self.lap_began = self.zero
        self.answers_at_lap: dict[str, int] = {}  # of each release

    def attempt(self, kind: str) -> float:
        self.kinds[kind].result.sent += 1
        return time.monotonic()

    def answer(self, kind: str, begun: float) -> None:
        """A good answer (or one echo of a WebSocket): its latency, and the end of a gap."""
        now = time.monotonic()
        counter = self.kinds[kind]
        counter.latencies.append(now - begun)
        counter.ended.append(now - self.zero)
        counter.gap.mark(now)
        if kind in self.gap_kinds:
            self.gap.mark(now)

    def success(self, kind: str) -> None:
        self.kinds[kind].result.ok += 1
        if self.told_to_stop is None:
            self.ok_before_stop += 1

    def failure(self, kind: str, failure: RequestFailed) -> None:
        self.kinds[kind].result.failed += 1
        cause = f"{kind}: {failure.cause}"
        self.causes[cause] = self.causes.get(cause, 0) + 1
        if len(self.failures) < NOTED_FAILURES:
            at = time.monotonic() - self.zero
            stamp = time.strftime("%H:%M:%S", time.gmtime(self.started_at + at))
            millis = int((self.started_at + at) % 1 * 1000)
            self.failures.append(FailureNote(at, f"{stamp}.{millis:03d}Z", kind, str(failure)))

    def release(self, name: str) -> None:
        at = time.monotonic() - self.zero
        seen = self.releases.get(name)
        if seen is None:
            self.releases[name] = ReleaseSeen(1, at, at)
        else:
            seen.count += 1
            seen.last_seen = at

    def lap(self) -> Lap:
        """What happened since the last lap; the next one begins."""
        now = time.monotonic()
        answers = {name: seen.count for name, seen in self.releases.items()}
        lap = Lap(
            seconds=now - self.lap_began,
            kinds={name: counter.lap() for name, counter in self.kinds.items()},
            releases={
                name: count - self.answers_at_lap.get(name, 0)
                for name, count in answers.items()
                if count > self.answers_at_lap.get(name, 0)
            },
        )
        self.lap_began, self.answers_at_lap = now, answers
        return lap

    def result(self) -> Result:
        """What is known by now; requests in flight make ``sent`` larger than the rest."""
        now = self.ended or time.monotonic()
        stop = self.told_to_stop or now
        # After the stop only requests in flight are owed an answer; silence is no gap any more.
        longest, ended = self.gap.until(stop)
        kinds = {}
        for name, counter in self.kinds.items():
            kinds[name] = dataclasses.replace(
                counter.result,
                longest_gap_seconds=counter.gap.until(stop)[0],
                latency=counter.latency(),
            )
        settings = self.settings
        return Result(
            target=f"{settings.domain} at {settings.address} port {settings.port}",
            started_at=self.started_at,
            seconds=stop - self.zero,
            drain_seconds=now - stop,
            rate_target=settings.rate_per_second,
            rate_per_second=self.ok_before_stop / max(stop - self.zero, 1e-9),
            longest_gap_seconds=longest,
            longest_gap_at=ended - self.zero,
            kinds=kinds,
            failures=list(self.failures),
            causes=dict(self.causes),
            releases=dict(self.releases),
            acknowledged=list(self.acknowledged),
            failed_ids=list(self.failed_ids),
        )


# --- HTTP/1.1 -----------------------------------------------------------------------------------

_HEAD, _FIXED, _CHUNK_SIZE, _CHUNK_DATA, _CHUNK_END, _TRAILER, _UNTIL_EOF, _DONE = range(8)


class ResponseParser:
    """Reads one response and takes nothing for complete that does not prove to be."""

    def __init__(
        self, sink: Callable[[bytes], None] | None = None, until_eof_allowed: bool = False
    ) -> None:
        self.status = 0
        self.release: str | None = None
        self.keep_alive = True
        self.body_bytes = 0
        self.prefix = b""  # of an unwanted answer, to say what it was
        self._sink = sink
        self._until_eof_allowed = until_eof_allowed
        self._buffer = bytearray()
        self._step = _HEAD
        self._left = 0
        self._started = False

    @property
    def leftover(self) -> bytes:
        return bytes(self._buffer) if self._step == _DONE else b""

    def feed(self, data: bytes) -> bool:
        """Take in bytes; True once the response is complete."""
        buffer = self._buffer
        buffer += data
        self._started = True
        while self._step != _DONE:
            step = self._step
            if step == _HEAD:
                end = buffer.find(b"\r\n\r\n")
                if end < 0:
                    if len(buffer) > HEAD_LIMIT:
                        raise RequestFailed("not HTTP", "endless head")
                    return False
                head = bytes(buffer[:end])
                del buffer[: end + 4]
                self._read_head(head)
            elif step in (_FIXED, _CHUNK_DATA):
                if not buffer and self._left:
                    return False
                piece = bytes(buffer[: self._left])
                del buffer[: len(piece)]
                self._left -= len(piece)
                self._body(piece)
                if self._left:
                    return False
                self._step = _DONE if step == _FIXED else _CHUNK_END
            elif step == _UNTIL_EOF:
                self._body(bytes(buffer))
                buffer.clear()
                return False
            else:
                end = buffer.find(b"\r\n")
                if end < 0:
                    if len(buffer) > LINE_LIMIT:
                        raise RequestFailed("bad chunk", "endless line")
                    return False
                line = bytes(buffer[:end])
                del buffer[: end + 2]
                self._read_line(step, line)
        return True

    def end_of_stream(self) -> bool:
        """The connection has ended: True when that is how this response was meant to end."""
        return self._step == _UNTIL_EOF

    def where(self) -> str:
        if self._step == _HEAD:
            return "in the head of the answer" if self._started else "before any answer"
        if self._step == _FIXED:
            return f"after {self.body_bytes} of {self.body_bytes + self._left} body bytes"
        return f"in an unfinished body, after {self.body_bytes} bytes"

    def _body(self, piece: bytes) -> None:
        self.body_bytes += len(piece)
        if self._sink is not None:
            self._sink(piece)
        if len(self.prefix) < BODY_PREFIX:
            self.prefix += piece[: BODY_PREFIX - len(self.prefix)]

    def _read_line(self, step: int, line: bytes) -> None:
        if step == _CHUNK_SIZE:
            digits = line.split(b";", 1)[0].strip()
            # int() alone would accept signs, underscores and 0x.
            if not digits or digits.strip(b"0123456789abcdefABCDEF") or len(digits) > 15:
                raise RequestFailed("bad chunk", f"size {line[:40]!r}")
            self._left = int(digits, 16)
            self._step = _CHUNK_DATA if self._left else _TRAILER
        elif step == _CHUNK_END:
            if line:
                raise RequestFailed("bad chunk", "longer than its size")
            self._step = _CHUNK_SIZE
        elif not line:
            self._step = _DONE

    def _read_head(self, head: bytes) -> None:
        lines = head.split(b"\r\n")
        first = lines[0].split(b" ", 2)
        if len(first) < 2 or first[0] not in (b"HTTP/1.1", b"HTTP/1.0") or len(first[1]) != 3:
            raise RequestFailed("not HTTP", repr(lines[0][:60]))
        if not first[1].isdigit():
            raise RequestFailed("not HTTP", repr(lines[0][:60]))
        status = int(first[1])
        if 100 <= status < 200 and status != 101:
            return  # an interim answer; the head of the real one follows
        length: int | None = None
        chunked = False
        keep_alive = first[0] == b"HTTP/1.1"
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if not colon:
                raise RequestFailed("not HTTP", f"header {line[:60]!r}")
            name = name.lower()
            if name == b"content-length":
                value = value.strip()
                if not value.isdigit() or (length is not None and length != int(value)):
                    raise RequestFailed("not HTTP", "bad or doubled Content-Length")
                length = int(value)
            elif name == b"transfer-encoding":
                if value.strip().lower() != b"chunked":
                    raise RequestFailed("not HTTP", f"transfer coding {value[:40]!r}")
                chunked = True
            elif name == b"connection":
                options = {option.strip() for option in value.lower().split(b",")}
                if b"close" in options:
                    keep_alive = False
                elif b"keep-alive" in options:
                    keep_alive = True
            elif name == b"x-release":
                self.release = value.strip().decode("latin-1")
        if chunked and length is not None:
            raise RequestFailed("not HTTP", "both Content-Length and chunked")
        self.status = status
        self.keep_alive = keep_alive
        if status in (101, 204, 304):
            self._step = _DONE
        elif chunked:
            self._step = _CHUNK_SIZE
        elif length is not None:
            self._left = length
            self._step = _FIXED
        elif self._until_eof_allowed:
            self._step = _UNTIL_EOF
            self.keep_alive = False
        else:
            # Such a body ends wherever the connection does, so a cut would pass for an end.
            raise RequestFailed("answer without a length", f"status {status}")


class Connection(asyncio.Protocol):
    """One TLS connection with at most one request in flight."""

    def __init__(self, open_connections: set[Connection]) -> None:
        self._all = open_connections
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[ResponseParser] | None = None
        self._parser: ResponseParser | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timeout = 0.0
        self._idle_timer = False
        self._ended = False
        self.was_reset = False
        self.unasked = b""  # what came while nothing was asked

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._all.add(self)

    @property
    def closed(self) -> bool:
        """Whether the other side has ended it, as far as this loop has been told."""
        return self._ended or self._transport is None or self._transport.is_closing()

    async def exchange(
        self, request: bytes, parser: ResponseParser, timeout: float, idle_timer: bool = False
    ) -> None:
        """Send a request and wait for the whole answer, however bad its status."""
        assert self._transport is not None
        assert self._waiter is None
        waiter: asyncio.Future[ResponseParser] = self._loop.create_future()
        self._waiter = waiter
        self._parser = parser
        self._timeout = timeout
        self._idle_timer = idle_timer
        self._timer = self._loop.call_later(timeout, self._time_out)
        self._transport.write(request)
        try:
            await waiter
        finally:
            self._timer.cancel()
            self._waiter = self._parser = None

    def data_received(self, data: bytes) -> None:
        parser, waiter = self._parser, self._waiter
        if parser is None or waiter is None or waiter.done():
            self.unasked += data[:BODY_PREFIX]
            return
        if self._idle_timer and self._timer is not None:
            self._timer.cancel()
            self._timer = self._loop.call_later(self._timeout, self._time_out)
        try:
            if parser.feed(data):
                self.unasked += parser.leftover[:BODY_PREFIX]
                waiter.set_result(parser)
        except RequestFailed as failure:
            waiter.set_exception(failure)

    def eof_received(self) -> None:
        self._finish("connection closed", "")

    def connection_lost(self, exc: Exception | None) -> None:
        self._all.discard(self)
        if exc is None:
            self._finish("connection closed", "")
        else:
            if not self._ended:
                self.was_reset = True
            reset = isinstance(exc, ConnectionResetError)
            cause = "connection reset" if reset else f"connection broken by {type(exc).__name__}"
            self._finish(cause, "" if reset else str(exc))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _finish(self, cause: str, detail: str) -> None:
        self._ended = True
        parser, waiter = self._parser, self._waiter
        if parser is None or waiter is None or waiter.done():
            return
        if cause == "connection closed" and parser.end_of_stream():
            waiter.set_result(parser)
        else:
            where = parser.where()
            waiter.set_exception(RequestFailed(cause, f"{where}; {detail}" if detail else where))

    def _time_out(self) -> None:
        if self._waiter is not None and not self._waiter.done() and self._parser is not None:
            where = self._parser.where()
            self._waiter.set_exception(RequestFailed("timeout", where))


class EventCounter:
    """Counts the events of a text/event-stream; comments and bare retry fields are none."""

    def __init__(self) -> None:
        self.count = 0
        self._rest = b""
        self._has_data = False

    def feed(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            line = line.rstrip(b"\r")
            if not line:
                self.count += self._has_data
                self._has_data = False
            elif line.split(b":", 1)[0] == b"data":
                self._has_data = True


# --- WebSocket ----------------------------------------------------------------------------------

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


def masked_frame(opcode: int, payload: bytes) -> bytes:
    """One final frame as a client must send it."""
    size = len(payload)
    if size < 126:
        head = bytes((0x80 | opcode, 0x80 | size))
    elif size < 65536:
        head = bytes((0x80 | opcode, 0x80 | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((0x80 | opcode, 0x80 | 127)) + size.to_bytes(8, "big")
    mask = os.urandom(4)
    return head + mask + bytes(byte ^ mask[i & 3] for i, byte in enumerate(payload))


async def read_frame(reader: asyncio.StreamReader) -> tuple[bool, int, bytes]:
    first, second = await reader.readexactly(2)
    if first & 0x70 or second & 0x80:
        raise RequestFailed("bad WebSocket frame", "reserved bits or a mask")
    size = second & 0x7F
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2), "big")
    elif size == 127:
        size = int.from_bytes(await reader.readexactly(8), "big")
    if size > MESSAGE_LIMIT:
        raise RequestFailed("bad WebSocket frame", "too long")
    return bool(first & 0x80), first & 0x0F, await reader.readexactly(size)


def close_code(payload: bytes) -> int:
    return int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1005


def is_clean_close(payload: bytes) -> bool:
    """True for a close that announces a restart, RequestFailed for any other."""
    code = close_code(payload)
    if code not in CLEAN_CLOSE_CODES:
        reason = payload[2:80].decode("utf-8", "replace")
        raise RequestFailed(f"WebSocket closed with {code}", reason)
    return True


class WebSocket:
    """The client's end of an open WebSocket."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, opcode: int, payload: bytes) -> None:
        self._writer.write(masked_frame(opcode, payload))

    async def receive(self) -> tuple[int, bytes]:
        """The next whole message or close frame; pings are answered on the way."""
        kind, parts = _CONTINUATION, b""
        while True:
            try:
                final, opcode, payload = await read_frame(self._reader)
            except asyncio.IncompleteReadError:
                raise RequestFailed("connection closed", "without a close frame") from None
            except (OSError, ssl.SSLError) as exc:
                reset = isinstance(exc, ConnectionResetError)
                cause = "connection reset" if reset else f"connection broken: {exc!r}"
                raise RequestFailed(cause, "without a close frame") from None
            if opcode == _PING:
                self.send(_PONG, payload)
            elif opcode == _CLOSE:
                return opcode, payload
            elif opcode in (_TEXT, _BINARY, _CONTINUATION):
                if (opcode == _CONTINUATION) != (kind != _CONTINUATION):
                    raise RequestFailed("bad WebSocket frame", "wrong continuation")
                kind = kind or opcode
                parts += payload
                if len(parts) > MESSAGE_LIMIT:
                    raise RequestFailed("bad WebSocket frame", "too long")
                if final:
                    return kind, parts
            elif opcode != _PONG:
                raise RequestFailed("bad WebSocket frame", f"opcode {opcode}")


# --- The engine ---------------------------------------------------------------------------------


class Pacer:
    """Hands out moments to send at, evenly spaced, first come first served.

    Moments that nobody could use, since every worker was waiting for an answer, are made up for
    afterwards, as users who waited would; but only up to ``burst_seconds`` of them.
    """

    def __init__(self, rate: float | None, burst_seconds: float) -> None:
        self._step = 1.0 / rate if rate else 0.0
        self._burst = burst_seconds
        self._next: float | None = None
        self._waiting: set[asyncio.Future[None]] = set()
        self._released = False

    async def take(self) -> None:
        if not self._step or self._released:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        slot = now if self._next is None else max(self._next, now - self._burst)
        self._next = slot + self._step
        if slot <= now:
            return
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.add(turn)
        timer = loop.call_at(slot, self._wake, turn)
        try:
            await turn
        finally:
            timer.cancel()
            self._waiting.discard(turn)

    def release_all(self) -> None:
        self._released = True
        for turn in self._waiting:
            self._wake(turn)

    @staticmethod
    def _wake(turn: asyncio.Future[None]) -> None:
        if not turn.done():
            turn.set_result(None)


class Engine:
    """Runs all workers in the running event loop."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.recorder = Recorder(settings)
        loop = asyncio.get_running_loop()
        self._tls = tls_context(settings.ca_file)
        self._pace = Pacer(settings.rate_per_second, burst_seconds=1.0)
        self._handshakes = Pacer(settings.new_connections_per_second, burst_seconds=0.1)
        self._stopped: asyncio.Future[None] = loop.create_future()
        self._first: dict[str, asyncio.Future[None]] = {
            kind: loop.create_future() for kind in self.recorder.kinds
        }
        self._connections: set[Connection] = set()
        self._posts = 0

    @property
    def stopping(self) -> bool:
        return self._stopped.done()

    def stop(self) -> None:
        """Begin no more requests; those in flight are waited for."""
        if not self._stopped.done():
            self._stopped.set_result(None)
            self.recorder.told_to_stop = time.monotonic()
            self._pace.release_all()
            self._handshakes.release_all()

    async def ready(self) -> None:
        """Return once each quick kind has had a good answer; LoadError if its first one failed."""
        quick = [k for k in QUICK_KINDS if k in self._first] or list(self._first)
        # Shielded, since a cancelled wait must not cancel what the workers still report to.
        await asyncio.gather(*(asyncio.shield(self._first[kind]) for kind in quick))

    async def run(self) -> Result:
        settings = self.settings
        runners: dict[str, Callable[[], Any]] = {
            "keepalive_get": lambda: self._kept_alive("keepalive_get"),
            "keepalive_post": lambda: self._kept_alive("keepalive_post"),
            "new_get": lambda: self._new_each("new_get"),
            "new_post": lambda: self._new_each("new_post"),
            "slow": lambda: self._new_each("slow"),
            "sse": lambda: self._new_each("sse"),
            "websocket": self._websockets,
        }
        workers = [
            asyncio.create_task(runners[kind](), name=f"{kind}-{number}")
            for kind in self.recorder.kinds
            for number in range(settings.workers(kind))
        ]
        if settings.duration is not None:
            asyncio.get_running_loop().call_later(settings.duration, self.stop)
        try:
            # A worker that dies of a bug must end the run: its silence would look like success.
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            self.recorder.ended = time.monotonic()
            await self._close_connections()
        return self.recorder.result()

    async def _close_connections(self) -> None:
        limit = time.monotonic() + 1.0
        while self._connections and time.monotonic() < limit:
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.abort()

    # Bookkeeping of one attempt

    def _good(self, kind: str) -> None:
        self.recorder.success(kind)
        self._settle_first(kind, None)

    def _bad(self, kind: str, failure: RequestFailed) -> None:
        self.recorder.failure(kind, failure)
        self._settle_first(kind, failure)

    def _settle_first(self, kind: str, failure: RequestFailed | None) -> None:
        first = self._first[kind]
        if first.done():
            return
        if failure is None:
            first.set_result(None)
        else:
            first.set_exception(LoadError(f"the first {kind} request failed: {failure}"))
            first.exception()  # marks it as seen; nobody waits for the kinds that are not quick

    async def _pause_after_failure(self) -> None:
        # Without a rate a dead port would be asked thousands of times a second.
        if self.settings.rate_per_second is None and not self.stopping:
            await asyncio.wait({self._stopped}, timeout=0.01)

    # Requests

    def _request(self, kind: str, close: bool) -> tuple[bytes, str | None]:
        """The bytes of the next request of a kind, and its request id if it is a POST."""
        settings = self.settings
        request_id = None
        body = b""
        if kind in ("keepalive_post", "new_post"):
            self._posts += 1
            request_id = uuid.uuid4().hex
            post = {
                "title": f"Load {self._posts}",
                "body": f"Sent as {kind} number {self._posts} to see it stored once.",
                "request_id": request_id,
            }
            body = json.dumps(post).encode()
            return self._head("POST", settings.post_path, close, len(body)) + body, request_id
        paths = {
            "slow": settings.slow_path.replace("{seconds}", f"{settings.slow_seconds:g}"),
            "sse": settings.sse_path.replace("{count}", str(settings.sse_count)),
        }
        return self._head("GET", paths.get(kind, settings.get_path), close, None), None

    def _head(self, method: str, path: str, close: bool, length: int | None) -> bytes:
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self.settings.domain}",
            "User-Agent: asgi-deploy-load",
            "Accept: */*",
        ]
        if length is not None:
            lines += ["Content-Type: application/json", f"Content-Length: {length}"]
        if close:
            lines.append("Connection: close")
        lines += [f"{name}: {value}" for name, value in self.settings.headers.items()]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    async def _connect(self) -> Connection:
        settings = self.settings
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(settings.timeout):
                _, connection = await loop.create_connection(
                    lambda: Connection(self._connections),
                    settings.address,
                    settings.port,
                    ssl=self._tls,
                    server_hostname=settings.domain,
                    ssl_handshake_timeout=settings.timeout,
                    ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS,
                )
        except (OSError, ssl.SSLError) as exc:  # TimeoutError is an OSError
            raise connect_failure(exc) from None
        return connection

    async def _ask(
        self, kind: str, connection: Connection | None, begun: float, request: bytes
    ) -> tuple[Connection, bool]:
        """One request with its answer; gives the connection and whether it may be used again."""
        settings = self.settings
        if connection is None:
            connection = await self._connect()
            if connection.closed:
                raise RequestFailed("connection closed", "before the request could be sent")
        parser = ResponseParser()
        events = EventCounter()
        left = max(settings.timeout - (time.monotonic() - begun), 0.001)
        try:
            if kind == "sse":
                parser = ResponseParser(events.feed, until_eof_allowed=True)
                exchange = connection.exchange(request, parser, left, idle_timer=True)
                try:
                    await asyncio.wait_for(exchange, settings.sse_timeout)
                except TimeoutError:
                    raise RequestFailed("endless stream", f"{events.count} events") from None
            elif kind == "slow":
                await connection.exchange(request, parser, left + settings.slow_seconds)
            else:
                await connection.exchange(request, parser, left)
        except BaseException:
            connection.abort()
            raise
        if parser.release is not None:
            self.recorder.release(parser.release)
        status = parser.status
        if kind in ("keepalive_post", "new_post"):
            wanted = status == 201
        elif kind in ("slow", "sse"):
            wanted = status == 200
        else:
            wanted = 200 <= status < 300
        if not wanted or (kind == "sse" and events.count != settings.sse_count):
            connection.close()
            if not wanted:
                text = " ".join(parser.prefix.decode("utf-8", "replace").split())
                raise RequestFailed(f"status {status}", text)
            raise RequestFailed(
                "wrong number of events", f"{events.count} instead of {settings.sse_count}"
            )
        if kind == "sse":
            self.recorder.kinds[kind].result.messages += events.count
        return connection, parser.keep_alive

    async def _attempt(
        self, kind: str, connection: Connection | None, close: bool
    ) -> Connection | None:
        """One counted attempt, never repeated; gives the connection if it may be used again."""
        request, request_id = self._request(kind, close)
        begun = self.recorder.attempt(kind)
        try:
            connection, reusable = await self._ask(kind, connection, begun, request)
        except RequestFailed as failure:
            self._bad(kind, failure)
            if request_id is not None:
                self.recorder.failed_ids.append(request_id)
            await self._pause_after_failure()
            return None
        self.recorder.answer(kind, begun)
        if request_id is not None:
            self.recorder.acknowledged.append(request_id)
        self._good(kind)
        if reusable and not close:
            return connection
        connection.close()
        return None

    def _unasked(self, kind: str, connection: Connection) -> bool:
        """Count bytes that nobody asked for: whom they were meant for cannot be known."""
        if not connection.unasked:
            return False
        self.recorder.attempt(kind)
        self._bad(kind, RequestFailed("bytes nobody asked for", repr(connection.unasked[:60])))
        connection.abort()
        return True

    async def _kept_alive(self, kind: str) -> None:
        counts = self.recorder.kinds[kind].result
        connection: Connection | None = None
        server_closed = False
        while True:
            await self._pace.take()
            if connection is not None and self._unasked(kind, connection):
                connection = None
            if self.stopping:
                break
            # Nothing may be awaited between this look and the write: what the loop knows of the
            # connection now is all an honest client can know before it sends.
            if connection is not None and connection.closed:
                counts.idle_resets += connection.was_reset
                connection.abort()
                connection = None
                server_closed = True
            if server_closed:
                counts.reconnects += 1
                server_closed = False
            failed_before = counts.failed
            connection = await self._attempt(kind, connection, close=False)
            # None without a failure: the answer announced the close.
            server_closed = connection is None and counts.failed == failed_before
        if connection is not None:
            connection.close()

    async def _new_each(self, kind: str) -> None:
        while True:
            await self._handshakes.take()
            if kind in SHORT_KINDS:
                await self._pace.take()
            if self.stopping:
                return
            await self._attempt(kind, None, close=True)

    # WebSockets

    async def _websockets(self) -> None:
        kind = "websocket"
        counts = self.recorder.kinds[kind].result
        server_closed = False
        while True:
            await self._handshakes.take()
            if self.stopping:
                return
            counts.reconnects += server_closed
            self.recorder.attempt(kind)
            try:
                server_closed = await self._websocket()
            except RequestFailed as failure:
                server_closed = False
                self._bad(kind, failure)
                await self._pause_after_failure()
            else:
                if server_closed:
                    counts.closed_cleanly += 1
                else:
                    self._good(kind)

    async def _websocket(self) -> bool:
        """Hold one WebSocket; True when the server closed it cleanly, False when we did."""
        settings = self.settings
        try:
            async with asyncio.timeout(settings.timeout):
                reader, writer = await asyncio.open_connection(
                    settings.address,
                    settings.port,
                    ssl=self._tls,
                    server_hostname=settings.domain,
                    ssl_handshake_timeout=settings.timeout,
                    ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS,
                )
        except (OSError, ssl.SSLError) as exc:
            raise connect_failure(exc) from None
        receiving: asyncio.Task[tuple[int, bytes]] | None = None
        try:
            try:
                async with asyncio.timeout(settings.timeout):
                    await self._upgrade(reader, writer)
            except TimeoutError:
                raise RequestFailed("timeout", "upgrade") from None
            socket_ = WebSocket(reader, writer)
            await self._greetings(socket_)
            receiving = asyncio.create_task(socket_.receive())
            return await self._echoes(socket_, receiving)
        finally:
            if receiving is not None:
                receiving.cancel()
            writer.close()

    async def _upgrade(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        settings = self.settings
        key = base64.b64encode(os.urandom(16))
        head = self._head("GET", settings.websocket_path, False, None)[:-2]
        head += (
            f"Origin: https://{settings.domain}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        ).encode()
        writer.write(head + b"Sec-WebSocket-Key: " + key + b"\r\n\r\n")
        try:
            answer = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            raise RequestFailed("connection closed", "before the upgrade") from None
        except (OSError, ssl.SSLError, asyncio.LimitOverrunError) as exc:
            raise RequestFailed("upgrade failed", repr(exc)) from None
        parts = answer.split(b" ", 2)
        if len(parts) < 2 or parts[1] != b"101":
            status = parts[1].decode("latin-1") if len(parts) > 1 else repr(answer[:20])
            raise RequestFailed(f"status {status}", "instead of 101")
        headers = {}
        for line in answer.split(b"\r\n")[1:]:
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        digest = hashlib.sha1(key + WEBSOCKET_GUID, usedforsecurity=False).digest()
        if headers.get(b"sec-websocket-accept") != base64.b64encode(digest):
            raise RequestFailed("upgrade failed", "wrong Sec-WebSocket-Accept")
        if b"x-release" in headers:
            self.recorder.release(headers[b"x-release"].decode("latin-1"))

    async def _greetings(self, websocket: WebSocket) -> None:
        """Read what the app says before it is asked; a missing or other message is a failure."""
        for number in range(self.settings.websocket_greeting):
            try:
                async with asyncio.timeout(self.settings.timeout):
                    opcode, payload = await websocket.receive()
            except TimeoutError:
                raise RequestFailed("timeout", f"no greeting {number + 1}") from None
            if opcode != _TEXT:
                raise RequestFailed("no greeting", repr(payload[:60]))

    async def _echoes(
        self, websocket: WebSocket, receiving: asyncio.Task[tuple[int, bytes]]
    ) -> bool:
        settings = self.settings
        counts = self.recorder.kinds["websocket"].result
        name = uuid.uuid4().hex
        number = 0
        try:
            while not self.stopping:
                number += 1
                text = f"{name} {number}".encode()
                begun = time.monotonic()
                websocket.send(_TEXT, text)
                await asyncio.wait({receiving}, timeout=settings.timeout)
                if not receiving.done():
                    raise RequestFailed("timeout", "no echo")
                opcode, payload = receiving.result()
                if opcode == _CLOSE:
                    counts.messages_unanswered += 1
                    return self._closed_by_server(websocket, payload)
                if (opcode, payload) != (_TEXT, text):
                    raise RequestFailed("wrong echo", repr(payload[:60]))
                self.recorder.answer("websocket", begun)
                counts.messages += 1
                self._settle_first("websocket", None)
                receiving = asyncio.create_task(websocket.receive())
                watched: set[asyncio.Future[Any]] = {receiving, self._stopped}
                await asyncio.wait(
                    watched,
                    timeout=settings.websocket_interval,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if receiving.done():
                    opcode, payload = receiving.result()
                    if opcode == _CLOSE:
                        return self._closed_by_server(websocket, payload)
                    raise RequestFailed("bytes nobody asked for", repr(payload[:60]))
            websocket.send(_CLOSE, (1000).to_bytes(2, "big"))
            await asyncio.wait({receiving}, timeout=settings.timeout)
            if not receiving.done():
                raise RequestFailed("timeout", "no close frame")
            opcode, payload = receiving.result()
            if opcode != _CLOSE:
                raise RequestFailed("bytes nobody asked for", repr(payload[:60]))
            # Normally ours sent back, but the server's own may have crossed it on the way.
            return close_code(payload) not in (1000, 1005) and is_clean_close(payload)
        finally:
            receiving.cancel()

    @staticmethod
    def _closed_by_server(websocket: WebSocket, payload: bytes) -> bool:
        clean = is_clean_close(payload)
        websocket.send(_CLOSE, payload[:2])
        return clean


def tls_context(ca_file: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks certificate and name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cafile=ca_file)
    context.set_alpn_protocols(["http/1.1"])
    # Each handshake is to be a whole one, as that of a visitor who comes for the first time.
    context.options |= ssl.OP_NO_TICKET
    return context


def connect_failure(exc: Exception) -> RequestFailed:
    if isinstance(exc, ssl.SSLCertVerificationError):
        return RequestFailed("certificate refused", exc.verify_message)
    if isinstance(exc, TimeoutError):
        return RequestFailed("timeout", "while connecting")
    if isinstance(exc, ConnectionRefusedError):
        return RequestFailed("connection refused")
    if isinstance(exc, ConnectionResetError):
        return RequestFailed("connection reset", "while connecting")
    return RequestFailed("cannot connect", repr(exc))


# --- In a process of its own --------------------------------------------------------------------


class Load:
    """The load in a process of its own, so that the caller's work does not slow it down.

    Takes the fields of Settings as keyword arguments.
    """

    def __init__(self, **options: Any) -> None:
        options["ca_file"] = str(options.get("ca_file", ""))
        self.settings = Settings(**options)
        self.result: Result | None = None
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._stderr: IO[str] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> Load:
        """Return once each quick kind has had a good answer, or raise LoadError."""
        if self._process is not None:
            raise LoadError("already started")
        # A file, not a pipe: nobody reads it while the load runs.
        self._stderr = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(Path(__file__).resolve()), "--child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
        )
        threading.Thread(target=self._read_answers, args=(self._process,), daemon=True).start()
        self._tell(json.dumps(dataclasses.asdict(self.settings)))
        answer = self._answer(2 * self.settings.timeout + self.settings.slow_seconds + 15)
        if answer["event"] != "ready":
            self.kill()
            raise LoadError(answer.get("reason", f"unexpected {answer['event']}"))
        return self

    def snapshot(self) -> Result:
        """The counters so far, while the load goes on."""
        if self.result is not None:
            return self.result
        self._tell("snapshot")
        answer = self._answer(15)
        if answer["event"] == "result":  # the duration was over first
            return self._take_result(answer)
        return Result.from_json(answer["result"])

    def lap(self) -> Lap:
        """What happened since the lap before, while the load goes on."""
        self._tell("lap")
        answer = self._answer(15)
        if answer["event"] != "lap":
            raise LoadError("the load is over")
        return Lap.from_json(answer["lap"])

    def wait(self) -> Result:
        """Let the load run for its duration, then give the result."""
        if self.settings.duration is None:
            raise LoadError("wait() needs a duration")
        if self.result is not None:
            return self.result
        return self._take_result(self._answer(self.settings.duration + self._longest_drain()))

    def stop(self) -> Result:
        """Begin no more requests, wait for those in flight, give the result."""
        if self.result is not None:
            return self.result
        self._tell("stop")
        return self._take_result(self._answer(self._longest_drain()))

    def kill(self) -> None:
        """End the process at once, without a result."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout, self._stderr):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()

    def __enter__(self) -> Load:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if isinstance(value, Exception) or value is None:
                self.stop()
        except LoadError:
            if value is None:  # must not cover up what the caller failed with
                raise
        finally:
            self.kill()

    def _longest_drain(self) -> float:
        settings = self.settings
        longest = 2 * settings.timeout + settings.slow_seconds
        return (max(longest, settings.sse_timeout) if settings.sse else longest) + 15

    def _take_result(self, answer: dict[str, Any]) -> Result:
        while answer["event"] != "result":  # an unclaimed snapshot
            answer = self._answer(15)
        self.result = Result.from_json(answer["result"])
        self.kill()
        return self.result

    def _tell(self, line: str) -> None:
        if self._process is None or self._process.stdin is None:
            raise LoadError("not started")
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except (OSError, ValueError):
            pass  # it has ended; its last answer, or the lack of one, says why

    def _answer(self, timeout: float) -> dict[str, Any]:
        if self._process is None:
            raise LoadError("not started")
        try:
            answer = self._answers.get(timeout=timeout)
        except queue.Empty:
            self.kill()
            raise LoadError(f"no word from the load within {timeout:g} s") from None
        if answer is None:
            self._answers.put(None)  # for whoever asks next
            said = ""
            if self._stderr is not None and not self._stderr.closed:
                self._stderr.seek(0)
                said = self._stderr.read()[-2000:].strip()
            self.kill()
            raise LoadError(f"the load ended without a result: {said or 'it was killed'}")
        return answer

    def _read_answers(self, process: subprocess.Popen[str]) -> None:
        try:
            for line in process.stdout or ():
                self._answers.put(json.loads(line))
        except ValueError:
            pass  # killed in the middle of a line
        self._answers.put(None)


async def _child() -> None:
    """Serve the parent: settings on the first line of stdin, then commands; EOF ends it all."""
    loop = asyncio.get_running_loop()
    # Ctrl-C reaches the whole group; the parent is the one to say when to stop.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    first = await reader.readline()
    if not first:
        return
    engine = Engine(Settings(**json.loads(first)))
    running = asyncio.create_task(engine.run())

    def say(event: str, **more: Any) -> None:
        sys.stdout.write(json.dumps({"event": event, **more}) + "\n")
        sys.stdout.flush()

    async def obey() -> None:
        while True:
            command = (await reader.readline()).strip()
            if command == b"stop":
                engine.stop()
            elif command == b"snapshot":
                say("snapshot", result=engine.recorder.result().to_json())
            elif command == b"lap":
                say("lap", lap=dataclasses.asdict(engine.recorder.lap()))
            elif not command:
                os._exit(3)  # the parent has gone: nothing is left to report to

    async def watch(parent: int) -> None:
        # The EOF does not come while a fork of the parent lives on with the pipe's other end.
        while os.getppid() == parent:
            await asyncio.sleep(1)
        os._exit(3)

    serving = [asyncio.create_task(obey()), asyncio.create_task(watch(os.getppid()))]
    ready = asyncio.create_task(engine.ready())
    await asyncio.wait({ready, running}, return_when=asyncio.FIRST_COMPLETED)
    if ready.done():
        try:
            ready.result()
        except LoadError as exc:
            say("refused", reason=str(exc))
            os._exit(2)
        say("ready")
    else:
        running.result()  # raises what ended it
        say("refused", reason="the load was over before its first answers")
        os._exit(2)
    result = await running
    say("result", result=result.to_json())
    for task in serving:
        task.cancel()


# --- Command line -------------------------------------------------------------------------------


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Send load to one HTTPS site; never retry, count every failure."
    )
    for option in dataclasses.fields(Settings):
        if "parse" not in option.metadata:
            continue
        required = option.default is dataclasses.MISSING
        extra = "" if required or option.default in (None, 0) else " (default: %(default)s)"
        parser.add_argument(
            "--" + option.name.replace("_", "-"),
            type=option.metadata["parse"],
            required=required,
            default=None if required else option.default,
            help=option.metadata["help"] + extra,
        )
    parser.add_argument(
        "--header", action="append", default=[], metavar="NAME: VALUE", help="for every request"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there as well")
    return parser


async def _command(settings: Settings) -> Result:
    engine = Engine(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, engine.stop)
    running = asyncio.create_task(engine.run())
    ready = asyncio.create_task(engine.ready())
    await asyncio.wait({ready, running}, return_when=asyncio.FIRST_COMPLETED)
    if ready.done() and ready.exception() is not None:
        running.cancel()
        await asyncio.wait({running})
        ready.result()
    try:
        return await running
    finally:
        ready.cancel()


def main(arguments: list[str] | None = None) -> int:
    if arguments is None and sys.argv[1:] == ["--child"]:
        asyncio.run(_child())
        return 0
    options = vars(_arguments().parse_args(arguments))
    json_file: Path | None = options.pop("json")
    headers = (line.partition(":") for line in options.pop("header"))
    options["headers"] = {name.strip(): value.strip() for name, _, value in headers}
    try:
        result = asyncio.run(_command(Settings(**options)))
    except (LoadError, ValueError, ssl.SSLError) as exc:
        print(f"load: {exc}", file=sys.stderr)
        return 2
    if json_file is not None:
        json_file.write_text(json.dumps(result.to_json(), indent=1) + "\n", encoding="utf-8")
    print(result.report())
    return 1 if result.failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""The gate asks real servers: one on a unix socket, one that speaks TLS."""

from __future__ import annotations

import http.server
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import health
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.health import HealthCheck

CHECK = HealthCheck(path="/", request_timeout_seconds=5, host="blog.test")
#: Longer than the time-out of the tests that wait for it.
SLOW_SECONDS = 3


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the path says, and writes down what it was asked."""

    def do_GET(self) -> None:
        """Answers `/status/<code>` with that code, and so on."""
        self.server.asked.append((self.path, dict(self.headers)))  # type: ignore[attr-defined]
        what = self.path.strip("/").split("/")
        if what[0] == "silence":
            time.sleep(SLOW_SECONDS)
            return
        if what[0] == "noise":
            self.wfile.write(b"this is no HTTP\r\n\r\n")
            return
        if what[0] == "cut":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
            return
        self.send_response(int(what[1]) if what[0] == "status" else 200)
        if what[0] == "slot":
            self.send_header("X-Asgi-Slot", what[1])
        self.end_headers()
        self.wfile.write(b"database:\n   ok \xff" if what[0] != "long" else b"x" * 5000)

    def address_string(self) -> str:
        """A unix socket has no address."""
        return "local"

    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """An instance on its socket."""

    daemon_threads = True
    block_on_close = False


class TLSServer(http.server.ThreadingHTTPServer):
    """A proxy on loopback; the handshake is done in the thread of the connection."""

    block_on_close = False
    context: ssl.SSLContext

    def finish_request(self, request: object, client_address: object) -> None:
        """Speaks TLS, as far as the client does."""
        try:
            wrapped = self.context.wrap_socket(request, server_side=True)  # type: ignore[arg-type]
        except OSError:
            return
        super().finish_request(wrapped, client_address)  # type: ignore[arg-type]


def run(server: socketserver.BaseServer) -> Iterator[socketserver.BaseServer]:
    """Runs a server in a thread."""
    server.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UnixServer]:
    """A server on a unix socket."""
    path = tmp_path_factory.mktemp("s") / "1.sock"
    yield from run(UnixServer(str(path), Handler))  # type: ignore[misc]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority `ca.pem`, a stranger `other.pem`, and `site.pem` for blog.test."""
    folder = tmp_path_factory.mktemp("certificates")
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    for name in ("ca", "other"):
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", "2"]
        usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
        openssl("req", "-x509", *key, *files, "-subj", f"/CN={name}", *usage)
    files = ["-keyout", "site.key", "-out", "site.csr"]
    openssl(
        "req", *key, *files, "-subj", "/CN=blog.test", "-addext", "subjectAltName=DNS:blog.test"
    )
    signer = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-copy_extensions", "copy"]
    openssl("x509", "-req", "-in", "site.csr", "-out", "site.pem", "-days", "2", *signer)
    return folder


@pytest.fixture(scope="module")
def proxy(certificates: Path) -> Iterator[TLSServer]:
    """A server that speaks TLS."""
    server = TLSServer(("127.0.0.1", 0), Handler)
    server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.context.load_cert_chain(certificates / "site.pem", certificates / "site.key")
    yield from run(server)  # type: ignore[misc]


def ask(instance: UnixServer, check: HealthCheck) -> health.Answer:
    """Asks the server on the unix socket."""
    return health.ask_listener(Path(str(instance.server_address)), check)


# --- what is healthy ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "settings", "healthy", "told"),
    [
        ("/", {}, True, "status 200"),
        ("/status/302", {}, True, "status 302"),
        ("/status/399", {}, True, "status 399"),
        ("/status/400", {}, False, "status 400: database: ok"),
        ("/status/503", {}, False, "status 503: database: ok"),
        ("/status/503", {"statuses": ["200", "500-503"]}, True, "status 503"),
        ("/status/204", {"statuses": ["200"]}, False, "status 204: "),
        ("/", {"body": "database:\n   ok"}, True, "status 200"),
        ("/", {"body": "queue"}, False, "status 200 without 'queue': database: ok"),
        ("/silence", {"request_timeout_seconds": 0.2}, False, "no answer: timed out"),
        ("/noise", {}, False, "no answer: "),
        ("/cut", {}, False, "no answer: "),
        ("/größe", {}, False, "no answer: "),
        ("/two words", {}, False, "no answer: "),
    ],
)
def test_an_answer_is_healthy_as_the_check_says(
    instance: UnixServer, path: str, settings: dict[str, object], healthy: bool, told: str
) -> None:
    check = replace(CHECK, path=path, **settings)  # type: ignore[arg-type]
    answer = ask(instance, check)
    assert answer.healthy is healthy
    assert answer.text.startswith(told)


def test_only_silence_is_a_time_out(instance: UnixServer, tmp_path: Path) -> None:
    """A bad answer is one, and who refuses to be asked says so."""
    where = Path(instance.server_address)  # type: ignore[arg-type]
    patient = replace(CHECK, request_timeout_seconds=0.2)
    for path, silent in (("/silence", True), ("/status/503", False), ("/noise", False)):
        assert health.ask_listener(where, replace(patient, path=path)).timed_out is silent
    assert not health.ask_listener(tmp_path / "nobody.sock", patient).timed_out


def test_a_listener_whose_queue_is_full_is_silent(tmp_path: Path) -> None:
    where = tmp_path / "full.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(where))
        listening.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(str(where))
            check = replace(CHECK, request_timeout_seconds=0.2)
            assert health.ask_listener(where, check).timed_out


@pytest.mark.parametrize(
    ("statuses", "accepted"),
    [
        (["200"], {200}),
        (["200-204"], {200, 201, 204}),
        (["200", "301-302"], {200, 301, 302}),
        (["200-399"], {200, 201, 204, 205, 301, 302}),
        ([], set()),
    ],
)
def test_ranges_of_statuses_have_both_ends(statuses: list[str], accepted: set[int]) -> None:
    asked = {199, 200, 201, 204, 205, 301, 302, 400}
    assert {status for status in asked if health.accepts(statuses, status)} == accepted


def test_the_app_is_asked_as_the_proxy_asks(instance: UnixServer) -> None:
    ask(instance, replace(CHECK, path="/asked?x=1"))
    path, headers = instance.asked[-1]  # type: ignore[attr-defined]
    assert path == "/asked?x=1"
    assert headers["Host"] == "blog.test"
    # on a unix socket there is no address that an app could read
    assert headers["X-Forwarded-For"] == "127.0.0.1"
    assert headers["X-Forwarded-Host"] == "blog.test"
    assert headers["X-Forwarded-Proto"] == "https"


@pytest.mark.parametrize(
    ("status", "advised"),
    [
        (404, "set asgi_service_health_path to one that it has"),
        (400, "Host blog.test: set asgi_service_health_host"),
        (401, "needs a login: set asgi_service_health_path"),
        (403, "asgi_service_health_path or asgi_service_health_host"),
        (405, "does not answer GET"),
        (418, "asgi_service_health_statuses"),
        # these may pass
        (408, ""),
        (425, ""),
        (429, ""),
        (500, ""),
        (503, ""),
        (200, ""),
    ],
)
def test_an_answer_that_stays_the_same_says_what_to_set(
    instance: UnixServer, status: int, advised: str
) -> None:
    answer = ask(instance, replace(CHECK, path=f"/status/{status}"))
    assert answer.is_final is bool(advised)
    assert advised in answer.advice(CHECK)
    patience = health.Patience()
    assert not patience.is_over(answer, 100)
    assert not patience.is_over(answer, 104.9)
    assert patience.is_over(answer, 105) is bool(advised)


def test_only_the_same_answer_ends_the_wait() -> None:
    """What an app says while it starts may be another thing."""
    missing, refused, silent = (health.Answer(False, "", status=status) for status in (404, 403, 0))
    patience = health.Patience()
    for now, answer in enumerate([missing, refused, missing, silent, missing]):
        assert not patience.is_over(answer, now * 4)
    assert patience.is_over(missing, 16 + health.FINAL_SECONDS)


def test_an_accepted_status_is_no_wrong_question(instance: UnixServer) -> None:
    answer = ask(instance, replace(CHECK, path="/status/404", statuses=["404"]))
    assert (answer.healthy, answer.is_final, answer.advice(CHECK)) == (True, False, "")
    # it is the text that is missing
    answer = ask(instance, replace(CHECK, path="/status/404", statuses=["404"], body="queue"))
    assert (answer.healthy, answer.is_final, answer.advice(CHECK)) == (False, False, "")


def test_a_long_answer_is_shown_in_part(instance: UnixServer) -> None:
    text = ask(instance, replace(CHECK, path="/long", body="y")).text
    assert len(text) < health.SHOWN_BODY_CHARACTERS + 50
    assert text.endswith("...")


def test_the_slot_is_told(instance: UnixServer) -> None:
    assert ask(instance, replace(CHECK, path="/slot/green")).slot == "green"
    assert ask(instance, CHECK).slot == ""


def test_an_instance_that_does_not_listen_gives_no_answer(tmp_path: Path) -> None:
    closed = tmp_path / "closed.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(closed))
    for path in (closed, tmp_path / "none.sock"):
        answer = health.ask_listener(path, CHECK)
        assert not answer.healthy
        assert answer.text.startswith("no answer: ")


def test_a_listener_whose_app_does_not_accept_times_out(tmp_path: Path) -> None:
    """A socket that systemd holds takes connections before the app is there."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "1.sock"))
        listener.listen()
        answer = health.ask_listener(
            tmp_path / "1.sock", replace(CHECK, request_timeout_seconds=0.2)
        )
    assert not answer.healthy
    assert answer.text.startswith("no answer: ")


# --- through the proxy ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("authority", "host", "told"),
    [
        ("ca.pem", "blog.test", "status 200"),
        ("ca.pem", "other.test", "no answer: "),
        ("other.pem", "blog.test", "no answer: "),
        ("", "blog.test", "no answer: "),
        ("ca.pem", ".blog.test", "no answer: "),
        ("ca.pem", "a..test", "no answer: "),
    ],
)
def test_the_certificate_must_be_right(
    proxy: TLSServer, certificates: Path, authority: str, host: str, told: str
) -> None:
    context = health.tls_context(str(certificates / authority) if authority else "")
    port = proxy.server_address[1]
    answer = health.ask_tls("127.0.0.1", port, context, replace(CHECK, host=host))
    assert answer.text.startswith(told)
    assert answer.healthy is (told == "status 200")


def test_the_proxy_tells_the_slot(proxy: TLSServer, certificates: Path) -> None:
    context = health.tls_context(str(certificates / "ca.pem"))
    check = replace(CHECK, path="/slot/blue")
    assert health.ask_tls("127.0.0.1", proxy.server_address[1], context, check).slot == "blue"


def test_a_proxy_that_does_not_speak_tls_or_is_not_there_gives_no_answer() -> None:
    context = health.tls_context("")
    check = replace(CHECK, request_timeout_seconds=0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        assert not health.ask_tls("127.0.0.1", port, context, check).healthy
    assert "refused" in health.ask_tls("127.0.0.1", port, context, check).text


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_an_authority_that_cannot_be_read_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(DeployError, match="certificate authority") as caught:
        health.tls_context(str(path))
    assert str(path) in caught.value.message

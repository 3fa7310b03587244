"""Every feature of the proxies, asked from outside as a client does.

The scenarios `caddy` (Debian's), `caddy_upstream` and `traefik` run this file. What each has seen
is a column in docs/proxies.md; what a proxy cannot do must be refused by the name of its variable.
After a change that the table must tell, for each of the three:

    ASGI_WRITE_DOCS=1 .venv/bin/molecule test -s caddy
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lab
import pytest
from sites import CA_FILE, ROOT, Site, collections_config

import docs

SCENARIO = os.environ["MOLECULE_SCENARIO_NAME"]
DIRECTORY = ROOT / "molecule" / SCENARIO
APP = Path(__file__).resolve().parents[1] / "app"
DOCUMENT = ROOT / "docs" / "proxies.md"
DOMAIN, OTHER = "probe.test", "www.probe.test"
#: Names of another app, which make its rules the longer ones.
LONGER = ["a-much-longer-name.probe.test", "another-of-the-longer-names.probe.test"]
CERTIFICATE = "/etc/ssl/asgi-probe"
IS_TRAEFIK = SCENARIO == "traefik"
IS_NEWER_CADDY = SCENARIO == "caddy_upstream"
USER, PASSWORD = "ann", "correct horse"
#: bcrypt of PASSWORD with the least cost.
HASH = "$2a$04$6ftmiQmcDGI870RT10dD/.JN9LREvDEXBl5udZHLmpOxBTKVtR3l2"
METRICS = "127.0.0.1:9113"
VARIABLES: dict[str, Any] = {
    "asgi_app_name": "probe",
    "asgi_app_source": {"path": str(APP)},
    "asgi_app_entrypoint": "probe:app",
    "asgi_app_environment": {"PROBE_BROKEN": ""},
    "asgi_service_instances": 1,
    "asgi_service_memory_max": "128M",
    "asgi_service_health_path": "/health",
    "asgi_service_health_stable_seconds": 1,
    "asgi_proxy_domains": [DOMAIN],
    "asgi_proxy_redirect_domains": [OTHER],
    "asgi_proxy_response_headers": {"X-Team": 'blue "1"'},
    "asgi_proxy_access_log": True,
    "asgi_proxy_metrics_address": METRICS,
}
#: Traefik has no authority of its own.
FILES = {
    "asgi_proxy_certificate": "files",
    "asgi_proxy_certificate_file": f"{CERTIFICATE}.pem",
    "asgi_proxy_certificate_key_file": f"{CERTIFICATE}.key",
    "asgi_proxy_trusted_ca_file": f"{CERTIFICATE}.pem",
}
SNIPPETS = {
    "caddy": "@teapot path /teapot\nrespond @teapot 418\n",
    "traefik": "teapot: {headers: {customResponseHeaders: {X-Snippet: 'yes'}}}\n",
}
#: The rows of the table, by the test that fills them.
ROWS = {
    "https": "HTTPS, HSTS; HTTP is sent to HTTPS",
    "http2": "HTTP/2",
    "http3": "HTTP/3",
    "compression": "Compression: zstd and gzip",
    "brotli": "Compression: br",
    "streams": "WebSockets; server-sent events at once",
    "upload": "Uploads passed on as they come",
    "body_limit": "Limit of bodies",
    "client_address": "The client's real address, never what it claims",
    "trusted_proxies": "Proxies in front whose word is taken",
    "redirects": "Other names sent to the first, with path and query",
    "path": "Several apps under one domain, by path",
    "static": "Static files of the release",
    "basic_auth": "Passwords (basic auth)",
    "allow": "List of addresses that are let in",
    "limits": "Limits of rate and of concurrency",
    "headers": "Security headers, headers of your own",
    "access_log": "Access log without secrets",
    "metrics": "Metrics on a private address",
    "snippet": "Text of your own",
}
YES, REFUSED = "yes", "refused"
#: What was seen, by row.
seen: dict[str, str] = {}


class Probe:
    """The app behind the proxy, on its host."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.ca_file = site.directory / "ca.pem"

    def curl(
        self, *words: str, domain: str = DOMAIN, path: str = "/", scheme: str = "https"
    ) -> Any:
        """Asks once; returns status, headers by their lower names, body."""
        port = 443 if scheme == "https" else 80
        done = subprocess.run(
            [
                "curl", "--silent", "--show-error", "--max-time", "20", "--dump-header", "-",
                "--path-as-is",
                "--cacert", str(self.ca_file), "--noproxy", "*",
                "--resolve", f"{domain}:{port}:{self.site.host.address}",
                *words, f"{scheme}://{domain}{path}",
            ],
            capture_output=True,
            check=True,
        )  # fmt: skip
        head, _blank, body = done.stdout.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines)
        return int(first.split()[1]), {k.lower(): v for k, v in pairs}, body

    def deploy(self, **variables: Any) -> None:
        """Deploys with other variables."""
        self.site.play("asgi.deploy.site", **variables)

    def refused(self, row: str, **variables: Any) -> None:
        """Asserts that each variable is refused by its name, before anything is touched."""
        played = self.site.role("proxy", expect=2, **variables)
        for name in variables:
            assert f"{name}: " in played.output, played.output
        assert played.changed == 0
        seen[row] = REFUSED

    def connect(self) -> ssl.SSLSocket:
        """Opens a connection for HTTP/1.1."""
        tls = ssl.create_default_context(cafile=str(self.ca_file))
        opened = socket.create_connection((self.site.host.address, 443), timeout=20)
        return tls.wrap_socket(opened, server_hostname=DOMAIN)


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    """The app, deployed with everything that is always on."""
    made = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
    directory = tmp_path_factory.mktemp("probe")
    collections = Path(os.environ["ANSIBLE_COLLECTIONS_PATH"])
    (directory / "ansible.cfg").write_text(collections_config(collections))
    host = lab.find(f"molecule-{SCENARIO.replace('_', '-')}", "debian12")
    inventories = [DIRECTORY / "inventory", made / "inventory" / "lab.yml"]
    variables = {**VARIABLES, "asgi_proxy_snippet": SNIPPETS["traefik" if IS_TRAEFIK else "caddy"]}
    if not IS_TRAEFIK:
        variables["asgi_proxy_static"] = {"/static": "static"}
    found = Probe(Site(host, directory, inventories, APP, variables))
    if IS_TRAEFIK:
        variables.update(FILES)
        names = ",".join(f"DNS:{name}" for name in (DOMAIN, OTHER, *LONGER))
        found.site.run(
            f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
            f" -subj /CN={DOMAIN} -addext subjectAltName={names}"
            f" -keyout {CERTIFICATE}.key -out {CERTIFICATE}.pem 2>&1"
            f" && chgrp traefik {CERTIFICATE}.key && chmod 640 {CERTIFICATE}.key"
        )
    found.deploy()
    found.ca_file.write_text(
        found.site.run(f"cat {f'{CERTIFICATE}.pem' if IS_TRAEFIK else CA_FILE}")
    )
    yield found
    if IS_TRAEFIK:
        found.site.play("asgi.deploy.remove")


def test_https(probe: Probe) -> None:
    status, headers, _body = probe.curl()
    assert (status, headers["strict-transport-security"]) == (200, "max-age=31536000")
    status, headers, _body = probe.curl(scheme="http", path="/a?b=c")
    assert status in (301, 308)
    assert headers["location"] == f"https://{DOMAIN}/a?b=c"
    seen["https"] = YES


def test_http2(probe: Probe) -> None:
    status, _headers, version = probe.curl(
        "--http2", "--output", "/dev/null", "--write-out", "%{http_version}"
    )
    assert (status, version) == (200, b"2")
    seen["http2"] = YES


def test_http3(probe: Probe) -> None:
    """It is offered, and QUIC answers: to a version that nobody has, with those that it has."""
    _status, headers, _body = probe.curl()
    assert 'h3=":443"' in headers["alt-svc"]
    asked = bytes([0xC0]) + b"\x1a\x2a\x3a\x4a" + b"\x08" + b"12345678" + b"\x08" + b"abcdefgh"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as quic:
        quic.settimeout(5)
        quic.sendto(asked.ljust(1200, b"\0"), (probe.site.host.address, 443))
        answer = quic.recv(2000)
    assert answer[1:5] == b"\0\0\0\0"
    versions = answer[5 + 2 + 16 :]
    assert b"\0\0\0\x01" in [versions[i : i + 4] for i in range(0, len(versions), 4)]
    seen["http3"] = YES


def test_compression(probe: Probe) -> None:
    for encoding in ("zstd", "gzip"):
        _status, headers, body = probe.curl("-H", f"Accept-Encoding: {encoding}", path="/long")
        assert headers["content-encoding"] == encoding
        assert len(body) < 2000
    _status, headers, body = probe.curl(path="/long")
    assert "content-encoding" not in headers
    assert len(json.loads(body)) == 1000
    seen["compression"] = YES


def test_brotli(probe: Probe) -> None:
    if not IS_TRAEFIK:
        probe.refused("brotli", asgi_proxy_compression=["br"])


def test_streams(probe: Probe) -> None:
    with probe.connect() as opened:
        opened.sendall(f"GET /events?count=3 HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n".encode())
        text, times = b"", {}
        while b"data: 2" not in text:
            text += opened.recv(4096)
            for number in (0, 2):
                if f"data: {number}".encode() in text:
                    times.setdefault(number, time.monotonic())
    # two pauses of the app lie between them: nothing was held back
    assert times[2] - times[0] > 0.5
    with probe.connect() as opened:
        opened.sendall(
            f"GET /live HTTP/1.1\r\nHost: {DOMAIN}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        text = b""
        while b'"scheme": "wss"' not in text:
            part = opened.recv(4096)
            assert part, text
            text += part
    assert b" 101 " in text.split(b"\r\n")[0]
    seen["streams"] = YES


def test_upload(probe: Probe) -> None:
    """The app has its first part while the client still sends."""
    with probe.connect() as opened:
        opened.sendall(
            f"POST /posts HTTP/1.1\r\nHost: {DOMAIN}\r\nConnection: close\r\n"
            "Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n".encode()
        )
        # the pause is what is measured
        time.sleep(1)
        opened.sendall(b"4\r\nefgh\r\n0\r\n\r\n")
        answer = b""
        while part := opened.recv(4096):
            answer += part
    told = json.loads(answer[answer.index(b"{") : answer.rindex(b"}") + 1])
    assert told["bytes"] == 8
    assert told["seconds"] > 0.5
    seen["upload"] = YES


def test_body_limit(probe: Probe) -> None:
    if IS_TRAEFIK:
        probe.refused("body_limit", asgi_proxy_request_body_max="1MB")
        return
    big = probe.site.directory / "big"
    big.write_bytes(b"x" * 11_000_000)
    status, _headers, _body = probe.curl(
        "--http1.1", "--data-binary", f"@{big}", "-H", "Expect:", path="/posts"
    )
    # the app had begun to read: the proxy ends the body, and says so or that the app gave up
    assert status in (400, 413, 500, 502)
    big.write_bytes(b"x" * 9_000_000)
    status, _headers, body = probe.curl("--data-binary", f"@{big}", path="/posts")
    assert (status, json.loads(body)["bytes"]) == (201, 9_000_000)
    seen["body_limit"] = YES


def test_client_address(probe: Probe) -> None:
    gateway = probe.site.run("ip route show default").split()[2]
    spoofed = ("X-Forwarded-For: 6.6.6.6", "X-Real-Ip: 6.6.6.6", "Forwarded: for=6.6.6.6")
    words = [word for header in (*spoofed, "X-Forwarded-Proto: http") for word in ("-H", header)]
    _status, _headers, body = probe.curl(*words)
    told = json.loads(body)
    assert (told["client"], told["scheme"]) == (gateway, "https")
    seen["client_address"] = YES


def test_redirects(probe: Probe) -> None:
    status, headers, _body = probe.curl(domain=OTHER, path="/a/b?c=d&e=f")
    assert status in (301, 308)
    assert headers["location"] == f"https://{DOMAIN}/a/b?c=d&e=f"
    seen["redirects"] = YES


def test_headers(probe: Probe) -> None:
    _status, headers, _body = probe.curl()
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-team"] == 'blue "1"'
    assert not {"server", "via", "x-asgi-slot"} & set(headers)
    if not IS_TRAEFIK:
        assert "x-frame-options" not in headers
        assert headers["referrer-policy"] == "strict-origin-when-cross-origin"
    seen["headers"] = YES


def test_snippet(probe: Probe) -> None:
    status, headers, _body = probe.curl(path="/teapot")
    assert headers.get("x-snippet") == "yes" if IS_TRAEFIK else status == 418
    seen["snippet"] = YES


def test_metrics(probe: Probe) -> None:
    probe.curl()
    text = probe.site.run(f"curl -s http://{METRICS}/metrics")
    assert re.search(r"^(caddy|traefik)_\w*requests_total\{", text, re.M), text[:2000]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((probe.site.host.address, int(METRICS.split(":")[1])), timeout=5)
    seen["metrics"] = YES


def test_access_log(probe: Probe) -> None:
    secret = "-".join(["nobody", "may", "see", "this"])
    probe.curl(
        *("-H", f"Authorization: Bearer {secret}", "-H", f"Cookie: session={secret}"),
        *("-H", f"X-Api-Key: {secret}", "-H", f"Referer: https://a.test/?k={secret}"),
        path=f"/logged?token={secret}&page={secret}",
    )
    unit = "traefik" if IS_TRAEFIK else "caddy"
    said = ""
    for _attempt in range(20):
        said = probe.site.run(f"journalctl --sync; journalctl -u {unit}.service -o cat")
        if "/logged" in said:
            break
        time.sleep(0.2)
    (line,) = [line for line in said.splitlines() if "/logged" in line]
    assert json.loads(line)
    assert secret not in said
    seen["access_log"] = YES


def test_static(probe: Probe) -> None:
    if IS_TRAEFIK:
        probe.refused("static", asgi_proxy_static={"/static": "static"})
        return
    status, headers, body = probe.curl(path="/static/site.css")
    assert (status, body) == (200, (APP / "static" / "site.css").read_bytes())
    assert headers["cache-control"] == "no-cache"
    status, headers, _body = probe.curl(path="/static/site.3f2a9c81b0d4.css")
    assert (status, headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
    for path in ("/static/.hidden", "/static/%2ehidden", "/static/../probe.py", "/static/none.css"):
        body = probe.curl(path=path)[2]
        assert b"nobody is to read" not in body, path
        assert b"import asyncio" not in body, path
    seen["static"] = YES


def test_what_is_not_there_is_refused(probe: Probe) -> None:
    if IS_TRAEFIK or not IS_NEWER_CADDY:
        probe.refused("trusted_proxies", asgi_proxy_trusted_proxies=["10.0.0.0/8"])
    if not IS_TRAEFIK:
        probe.refused("limits", asgi_proxy_rate_limit=5, asgi_proxy_concurrency_limit=5)


def test_path_password_and_limits(probe: Probe) -> None:
    """The app moves below a path and asks for a password; the rollout still gets its answer."""
    gateway = probe.site.run("ip route show default").split()[2]
    more: dict[str, Any] = {}
    if IS_TRAEFIK:
        more = {
            "asgi_proxy_rate_limit": 1,
            "asgi_proxy_rate_limit_burst": 20,
            "asgi_proxy_concurrency_limit": 2,
            "asgi_proxy_compression": ["br"],
        }
    if IS_NEWER_CADDY:
        more = {"asgi_proxy_trusted_proxies": [gateway]}
    known = ("-u", f"{USER}:{PASSWORD}")
    probe.deploy(
        asgi_proxy_path="/shop",
        asgi_proxy_basic_auth={USER: HASH},
        asgi_proxy_allow=[gateway],
        **more,
    )
    assert probe.curl(path="/shop/")[0] == 401
    assert probe.curl("-u", f"{USER}:wrong", path="/shop/")[0] == 401
    status, _headers, body = probe.curl(*known, path="/shop/a")
    told = json.loads(body)
    assert (status, told["root_path"], told["path"]) == (200, "/shop", "/shop/a")
    assert probe.curl(*known, path="/shop")[0] == 200
    if IS_TRAEFIK:
        assert "$2a$" not in probe.site.run("curl -s http://127.0.0.1:9180/api/rawdata")
    probe.deploy(asgi_app_name="front", asgi_proxy_domains=[DOMAIN, *LONGER], **more)
    for path, root in (("/", ""), ("/shopping", ""), ("/shop", "/shop"), ("/shop/a", "/shop")):
        status, _headers, body = probe.curl(*known, path=path)
        assert (status, json.loads(body)["root_path"]) == (200, root), path
    assert json.loads(probe.curl(domain=LONGER[0], path="/shop/a")[2])["root_path"] == ""
    probe.site.play("asgi.deploy.remove", asgi_app_name="front")
    seen.update(basic_auth=YES, path=YES)
    if IS_NEWER_CADDY:
        forwarded = ("-H", "X-Forwarded-For: 6.6.6.6, 10.1.2.3")
        # from the right: the first that is not one of the proxies, and it is not let in
        assert probe.curl(*known, *forwarded, path="/shop/a")[0] == 403
        probe.site.role("proxy", asgi_proxy_trusted_proxies=[gateway])
        told = json.loads(probe.curl(*forwarded)[2])
        assert told["client"] == "10.1.2.3"
        seen["trusted_proxies"] = YES
    if IS_TRAEFIK:
        _status, headers, _body = probe.curl(*known, "-H", "Accept-Encoding: br", path="/shop/long")
        assert headers["content-encoding"] == "br"
        seen["brotli"] = YES
        with contextlib.ExitStack() as stack:
            for _number in range(2):
                opened = stack.enter_context(probe.connect())
                credentials = "Basic YW5uOmNvcnJlY3QgaG9yc2U="
                opened.sendall(
                    f"GET /shop/events?count=20 HTTP/1.1\r\nHost: {DOMAIN}\r\n"
                    f"Authorization: {credentials}\r\n\r\n".encode()
                )
                assert b" 200 " in opened.recv(4096)
            assert probe.curl(*known, path="/shop/")[0] == 429
        statuses = {probe.curl(*known, path="/shop/")[0] for _number in range(60)}
        assert 429 in statuses
        seen["limits"] = YES
    probe.site.role("proxy", asgi_proxy_allow=["192.0.2.1"])
    assert probe.curl()[0] == 403
    seen["allow"] = YES


def test_the_document_has_what_was_seen(request: pytest.FixtureRequest) -> None:
    """docs/proxies.md is not older than this run; each scenario knows its own column."""
    missing = set(ROWS) - set(seen)
    if missing and (request.session.testsfailed or request.config.getoption("keyword")):
        pytest.skip("only some features were asked for, or a test has failed")
    assert not missing
    text = DOCUMENT.read_text(encoding="utf-8")
    now = docs.column(text, SCENARIO, {text: seen[key] for key, text in ROWS.items()})
    if os.environ.get("ASGI_WRITE_DOCS"):
        DOCUMENT.write_text(now, encoding="utf-8")
    assert DOCUMENT.read_text(encoding="utf-8") == now

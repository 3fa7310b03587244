"""The site of an app, as Caddy itself reads it."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from templates.render import render
from templates.scenarios import CERTIFICATES, MINIMAL, SITES

MAIN = "etc/caddy/Caddyfile"
SITE = "etc/caddy/sites/app.caddy"
#: Every certificate with one instance and with three, and every other setting of a site.
CASES = [
    pytest.param({**MINIMAL, **certificate, **site}, id=f"{first}, {second}")
    for first, certificate in CERTIFICATES.items()
    for second, site in SITES.items()
    if first == "internal" or second in ("plain", "three instances")
]


@pytest.fixture(scope="module")
def caddy() -> str:
    """Path of Caddy."""
    program = shutil.which("caddy")
    if program is None:
        pytest.skip("caddy is not on this machine")
    return program


def call(caddy: str, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Runs Caddy."""
    return subprocess.run(
        [caddy, *arguments],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
    )


def adapted(caddy: str, given: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Returns the configuration that Caddy makes of our files; it must have no complaint."""
    (directory / "sites").mkdir()
    (directory / "sites" / "blog.caddy").write_text(render("proxy", SITE, given), encoding="utf-8")
    (directory / "Caddyfile").write_text(render("proxy", MAIN, given), encoding="utf-8")
    arguments = ["adapt", "--adapter", "caddyfile", "--config", str(directory / "Caddyfile")]
    done = call(caddy, *arguments, home=directory)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr.lower(), done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def handlers(part: Any, name: str) -> Iterator[dict[str, Any]]:
    """Yields all handlers of a name in a configuration, in their order."""
    if isinstance(part, dict):
        if part.get("handler") == name:
            yield part
        for inner in part.values():
            yield from handlers(inner, name)
    elif isinstance(part, list):
        for inner in part:
            yield from handlers(inner, name)


def site_of(found: dict[str, Any]) -> dict[str, Any]:
    """Returns the one server."""
    (server,) = found["apps"]["http"]["servers"].values()
    return dict(server)


@pytest.mark.parametrize(
    ("template", "given"),
    [
        *(pytest.param(SITE, *case.values, id=f"site: {case.id}") for case in CASES),
        *(pytest.param(MAIN, {**MINIMAL, **site}, id=f"main: {n}") for n, site in SITES.items()),
    ],
)
def test_the_files_are_as_caddy_formats_them(
    caddy: str, given: dict[str, Any], template: str, tmp_path: Path
) -> None:
    text = render("proxy", template, given)
    path = tmp_path / "Caddyfile"
    path.write_text(text, encoding="utf-8")
    call(caddy, "fmt", "--overwrite", str(path), home=tmp_path)
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("given", CASES)
def test_caddy_reads_the_site(caddy: str, given: dict[str, Any], tmp_path: Path) -> None:
    found = adapted(caddy, given, tmp_path)
    server = site_of(found)
    port = given.get("asgi_proxy_https_port", 443)
    assert server["listen"] == [f":{port}"]
    assert server["routes"][0]["match"] == [{"host": given["asgi_proxy_domains"]}]

    # green is asked while its file exists, blue otherwise; every instance of a slot is asked
    instances = given.get("asgi_service_instances", 1)
    expected = [
        [f"unix//run/asgi/blog/{slot}/{n}.sock" for n in range(1, instances + 1)]
        for slot in ("green", "blue")
    ]
    proxies = list(handlers(server, "reverse_proxy"))
    assert [[one["dial"] for one in proxy["upstreams"]] for proxy in proxies] == expected
    assert json.dumps(server).count("'try_files': ['green']") == 1
    for proxy in proxies:
        # an idle connection is given up before the server would (servers/uvicorn.py)
        assert proxy["transport"]["keep_alive"]["idle_timeout"] == 2_000_000_000
        # a request that found no listener goes to another instance, or waits for one
        assert proxy["load_balancing"]["try_duration"] > 0
        # an instance that has failed is left alone for a while, unless it is the only one: then
        # every request but a GET would be refused at once instead of waiting in the listener
        passive = proxy.get("health_checks", {}).get("passive")
        assert bool(passive) is (instances > 1)

    encodings = [handler["prefer"] for handler in handlers(server, "encode")]
    assert encodings == ([["zstd", "gzip"]] if given.get("asgi_proxy_compression", True) else [])
    limits = {"10MB": 10_000_000, "2GB": 2_000_000_000}
    (body,) = handlers(server, "request_body")
    assert body["max_size"] == limits[given.get("asgi_proxy_request_body_max", "10MB")]
    strict = [name for name in ("Strict-Transport-Security",) if name in json.dumps(server)]
    assert bool(strict) is (given.get("asgi_proxy_hsts_max_age_seconds", 1) > 0)


@pytest.mark.parametrize("name", CERTIFICATES)
def test_the_certificate_comes_from_where_it_should(caddy: str, name: str, tmp_path: Path) -> None:
    given = {**MINIMAL, **CERTIFICATES[name]}
    tls = adapted(caddy, given, tmp_path)["apps"].get("tls", {})
    if name == "files":
        (loaded,) = tls["certificates"]["load_files"]
        assert (loaded["certificate"], loaded["key"]) == ("/etc/ssl/blog.pem", "/etc/ssl/blog.key")
        return
    policies = tls.get("automation", {}).get("policies", [])
    issuers = [issuer for policy in policies for issuer in policy.get("issuers", [])]
    if name == "internal":
        assert [issuer["module"] for issuer in issuers] == ["internal"]
    elif name == "acme":
        # Caddy's own choice, for names of the public
        assert issuers == []
    else:
        assert "internal" not in {issuer["module"] for issuer in issuers}
        directory = given.get("asgi_proxy_acme_directory_url")
        unused = {"http-01": "tls-alpn", "tls-alpn-01": "http"}
        chosen = given.get("asgi_proxy_acme_challenge")
        for issuer in issuers:
            off = [n for n, c in issuer.get("challenges", {}).items() if c.get("disabled")]
            assert off == ([unused[chosen]] if chosen else [])
        if directory:
            (issuer,) = issuers
            assert issuer["ca"] == directory
        if given.get("asgi_proxy_acme_email"):
            assert {issuer["email"] for issuer in issuers} == {"ops@example.com"}
        if given.get("asgi_proxy_acme_eab_key_id"):
            assert issuers[0]["external_account"] == {"key_id": "key-1", "mac_key": "bWFjLWtleQ"}
            assert issuers[0]["trusted_roots_pem_files"] == ["/etc/ssl/company.pem"]


def test_only_this_host_is_told_which_slot_has_answered(caddy: str, tmp_path: Path) -> None:
    server = site_of(adapted(caddy, MINIMAL, tmp_path))
    routes = [
        route
        for subroute in handlers(server, "subroute")
        for route in subroute["routes"]
        for handler in route["handle"]
        if handler["handler"] == "headers" and "X-Asgi-Slot" in json.dumps(handler)
    ]
    assert len(routes) == 2
    for route in routes:
        assert route["match"] == [{"remote_ip": {"ranges": ["127.0.0.1", "::1"]}}]


def test_the_main_file_sets_ports_limits_and_a_private_door(caddy: str, tmp_path: Path) -> None:
    given = {**MINIMAL, **SITES["other ports and limits"]}
    found = adapted(caddy, given, tmp_path)
    http = found["apps"]["http"]
    assert found["admin"]["listen"] == "unix//run/caddy/admin.sock"
    assert (http["http_port"], http["https_port"]) == (8080, 8443)
    assert site_of(found)["max_header_bytes"] == 16_000
    assert site_of(found)["read_header_timeout"] == 10_000_000_000
    # Caddy's own authority is not added to what all programs of the host trust
    assert found["apps"]["pki"]["certificate_authorities"]["local"]["install_trust"] is False

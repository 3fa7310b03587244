"""The site of an app, as Caddy itself reads it."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import programs
import pytest
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.proxies import caddy as driver
from ansible_collections.asgi.deploy.plugins.module_utils.proxies import masked
from ansible_collections.asgi.deploy.plugins.module_utils.proxies.caddy import (
    with_instances,
    with_tries,
)
from ansible_collections.asgi.deploy.plugins.module_utils.proxies.shared import (
    refuse_other_certificate,
    undone,
)
from templates.render import ROLES, render
from templates.scenarios import (
    BALANCER,
    CERTIFICATES,
    MINIMAL,
    SHARED_ADDRESSES,
    SHARING,
    SITES,
    TRAFFIC,
)

MAIN = "etc/caddy/Caddyfile"
SITE = "etc/caddy/sites/app.caddy"
FRONT = "etc/caddy/sites/balancer.caddy"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
#: Status, headers and body of an answer.
Reply = tuple[int, Any, str]
BALANCERS = {
    "plain": {**MINIMAL, **BALANCER},
    "sticky": {**MINIMAL, **BALANCER, "asgi_proxy_upstream_cookie": "host"},
    "with the authorities of the system": {**MINIMAL, "asgi_proxy_upstreams": ["web1:8443"]},
}
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
    return str(programs.packaged("caddy"))


def call(caddy: str, *arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Runs Caddy."""
    return subprocess.run(
        [caddy, *arguments],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin"},
    )


def adapted(caddy: str, given: dict[str, Any], directory: Path, site: str = SITE) -> dict[str, Any]:
    """Returns the configuration that Caddy makes of our files; it must have no complaint."""
    (directory / "sites").mkdir()
    # as the driver writes it
    text = with_instances(with_tries(render("proxy", site, given), (2, 6, 2)), {})
    (directory / "sites" / "blog.caddy").write_text(text, encoding="utf-8")
    (directory / "Caddyfile").write_text(render("proxy", MAIN, given), encoding="utf-8")
    arguments = ["adapt", "--adapter", "caddyfile", "--config", str(directory / "Caddyfile")]
    done = call(caddy, *arguments, home=directory)
    assert done.returncode == 0, done.stderr
    # newer ones send the name of the app host otherwise; apps share a domain by such addresses
    needed = ("Unnecessary header_up Host", "sing a path in a site address")
    lines = done.stderr.splitlines()
    complaints = [line for line in lines if not any(one in line for one in needed)]
    assert "warn" not in "\n".join(complaints).lower(), done.stderr
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
    servers = found["apps"]["http"]["servers"].values()
    (server,) = [one for one in servers if "metrics" not in json.dumps(one["routes"])]
    return dict(server)


@pytest.mark.parametrize(
    ("template", "given"),
    [
        *(pytest.param(SITE, *case.values, id=f"site: {case.id}") for case in CASES),
        *(pytest.param(FRONT, given, id=f"balancer: {n}") for n, given in BALANCERS.items()),
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
    # a route for each name: Caddy puts those of one name in order by their paths
    redirects = len(given.get("asgi_proxy_redirect_domains", []))
    routes = server["routes"][redirects:]
    assert [route["match"] for route in routes] == [
        [{"host": [domain]}] for domain in sorted(given["asgi_proxy_domains"], key=len)[::-1]
    ]
    server["routes"] = routes[:1]

    # green is asked while its file exists, blue otherwise; every instance of a slot is asked
    instances = given.get("asgi_service_instances", 1)
    expected = [
        [f"unix//run/asgi/blog/{slot}/{n}.sock" for n in range(1, instances + 1)]
        for slot in ("green", "green", "blue", "blue")
    ]
    proxies = list(handlers(server, "reverse_proxy"))
    assert [[one["dial"] for one in proxy["upstreams"]] for proxy in proxies] == expected
    assert json.dumps(server).count("'try_files': ['green']") == 1
    # what cannot be asked twice comes first, by its method, over connections that are not kept;
    # any other idle connection is given up before the server would (servers/uvicorn.py)
    kept = [proxy["transport"]["keep_alive"] for proxy in proxies]
    assert kept[::2] == [{"enabled": False}] * 2
    assert [one["idle_timeout"] for one in kept[1::2]] == [2_000_000_000] * 2
    methods = '{"match": [{"not": [{"method": ["GET", "HEAD", "OPTIONS"]}]}]'
    assert json.dumps(server, sort_keys=True).count(methods[1:]) == 2
    # Debian's Caddy has lost a body after one try; the second would take a good instance out, too
    tries = ["try_duration" in proxy["load_balancing"] for proxy in proxies]
    assert tries == [instances == 1, True] * 2
    for proxy in proxies:
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


def test_what_a_dns_provider_is_told_is_in_no_diff() -> None:
    """A Caddy that has one reads this on a real host, in tests/hosts/test_certificates.py."""
    given = {
        **MINIMAL,
        "asgi_proxy_certificate": "acme",
        "asgi_proxy_domains": ["*.example.com"],
        "asgi_proxy_acme_challenge": "dns-01",
        "asgi_proxy_acme_dns_provider": "cloudflare",
        "asgi_proxy_acme_dns_options": {"zone_token": "{env.ZONE}", "api_token": "t0ken"},
        "asgi_proxy_acme_dns_resolvers": ["192.0.2.1:53"],
    }
    text = render("proxy", SITE, given)
    (told,) = masked([{"before_header": "/etc/x", "before": text, "after": ""}])
    # and nothing else is hidden
    lines = ['\t\t\t\tzone_token "{env.ZONE}"', '\t\t\t\tapi_token "t0ken"']
    assert told["before"].replace("********", "\n".join(lines)) == text
    assert "\t\t\tresolvers 192.0.2.1:53\n\t\t}\n" in told["before"]
    assert "disable_" not in text


def test_staging_is_an_authority_like_another(caddy: str, tmp_path: Path) -> None:
    given = {**MINIMAL, "asgi_proxy_certificate": "acme", "asgi_proxy_acme_staging": True}
    (policy,) = adapted(caddy, given, tmp_path)["apps"]["tls"]["automation"]["policies"]
    (issuer,) = policy["issuers"]
    assert issuer["ca"].startswith("https://acme-staging")


@pytest.mark.parametrize(("minutes", "seconds"), [(0, None), (2, 10), (60, 300), (1440, 600)])
def test_short_lived_certificates_are_looked_at_often(
    caddy: str, minutes: int, seconds: int | None, tmp_path: Path
) -> None:
    given = {
        **MINIMAL,
        "asgi_proxy_certificate": "acme",
        "asgi_proxy_acme_directory_url": "https://ca.example.com/dir",
        "asgi_proxy_acme_lifetime_minutes": minutes,
    }
    automation = adapted(caddy, given, tmp_path)["apps"]["tls"]["automation"]
    assert automation.get("renew_interval") == (seconds and seconds * 1_000_000_000)


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


def test_the_app_is_behind_all_that_keeps_clients_out(caddy: str, tmp_path: Path) -> None:
    """First addresses, then passwords; only then anything of the app, or of its files."""
    found = adapted(caddy, {**MINIMAL, **TRAFFIC}, tmp_path)
    text = json.dumps([route for route in site_of(found)["routes"] if "www" not in str(route)])
    order = ['"status_code": 403', '"handler": "authentication"', "maintenance.html", "file_server"]
    assert [text.index(word) for word in order] == sorted(text.index(word) for word in order)
    (account,) = next(handlers(found, "authentication"))["providers"]["http_basic"]["accounts"]
    assert account["username"] == "ann"
    assert found["apps"]["http"]["servers"]["srv0"]["protocols"] == ["h1", "h2"]


def test_apps_share_a_domain_by_path_in_files_of_their_own(caddy: str, tmp_path: Path) -> None:
    """The longer path comes first, whatever the files are called and whoever has more names."""
    (tmp_path / "sites").mkdir()
    root = {**MINIMAL, "asgi_proxy_domains": ["blog.test", "a-longer-name.blog.test"]}
    shop = {**MINIMAL, "asgi_app_name": "shop", "asgi_proxy_path": "/shop"}
    for given in (root, shop):
        path = tmp_path / "sites" / f"{given['asgi_app_name']}.caddy"
        path.write_text(render("proxy", SITE, given), encoding="utf-8")
    (tmp_path / "Caddyfile").write_text(render("proxy", MAIN, MINIMAL), encoding="utf-8")
    words = ["adapt", "--adapter", "caddyfile", "--config", str(tmp_path / "Caddyfile")]
    done = call(caddy, *words, home=tmp_path)
    assert done.returncode == 0, done.stderr
    routes = site_of(json.loads(done.stdout))["routes"]
    of_blog = [route for route in routes if route["match"][0]["host"] == ["blog.test"]]
    paths = [
        [path for match in route["match"] for path in match.get("path", [])] for route in of_blog
    ]
    assert paths == [["/shop", "/shop/*"], []]
    assert "/run/asgi/shop/blue" in json.dumps(of_blog[0])


def test_a_backslash_in_a_header_is_one(caddy: str, tmp_path: Path) -> None:
    values = {"X-A": "a\\b", "X-B": 'b "1" \\', "X-C": 'say "a"', "X-D": "`", "X-E": '\\"'}
    given = {**MINIMAL, "asgi_proxy_response_headers": values}
    (told,) = [
        one["response"]["set"]
        for one in handlers(adapted(caddy, given, tmp_path), "headers")
        if "X-A" in one.get("response", {}).get("set", {})
    ]
    assert {name: text for name, (text,) in told.items()} == values


def test_a_newer_caddy_tells_the_app_one_address_whatever_is_trusted() -> None:
    """So that no other app of the host, whose proxies are trusted, changes what this one sees."""
    line = "header_up X-Forwarded-For {client_ip}"
    newer = {**MINIMAL, "asgi_proxy_caddy_install": "archive"}
    assert render("proxy", SITE, newer).count(line) == 4
    # 2.6 has no such placeholder
    assert line not in render("proxy", SITE, MINIMAL)


def test_no_header_that_breaks_apps_in_frames_is_set_by_default() -> None:
    assert "X-Frame-Options" not in render("proxy", SITE, MINIMAL)


def test_networks_are_taken_as_caddy_does(caddy: str, tmp_path: Path) -> None:
    networks = ["10.1.2.3/8", "private_ranges"]
    given = {**MINIMAL, "asgi_proxy_allow": networks, "asgi_proxy_maintenance_allow": networks}
    assert json.dumps(adapted(caddy, given, tmp_path)).count('"192.168.0.0/16"') == 2


# --- several apps --------------------------------------------------------------------------------


def files_of(given: dict[str, Any]) -> tuple[str, str]:
    """Returns the main file and the site of an app."""
    return render("proxy", MAIN, given), render("proxy", SITE, given)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("asgi_proxy_http3", False),
        ("asgi_proxy_trusted_proxies", ["10.0.0.1"]),
        ("asgi_proxy_metrics_address", "127.0.0.1:9100"),
        ("asgi_proxy_https_port", 8443),
        ("asgi_proxy_http_port", 8080),
        ("asgi_proxy_acme_lifetime_minutes", 60),
        ("asgi_proxy_request_header_max", "16KB"),
        ("asgi_proxy_header_timeout_seconds", 5),
        ("asgi_proxy_body_timeout_seconds", 5),
        ("asgi_proxy_caddy_install", "archive"),
        ("asgi_proxy_caddy_checksum", f"sha256:{'a1' * 32}"),
    ],
)
def test_an_app_does_not_undo_what_another_has_set_for_the_host(variable: str, value: Any) -> None:
    set_by_blog, plain = {**MINIMAL, variable: value}, {**MINIMAL, "asgi_app_name": "shop"}
    blog_main, blog = files_of(set_by_blog)
    shop_main, shop = files_of(plain)
    # shop is new, or was set up before blog was changed, and knows nothing of it
    for former in (None, shop):
        with pytest.raises(DeployError, match=rf"{variable}: .* undone for blog\. Set it alike"):
            undone((blog_main, shop_main), (former, shop), {"blog": blog})
    # it stands alone on its host, or both want the same, or there was none before
    assert undone((blog_main, shop_main), (shop, shop), {}) == []
    assert undone((blog_main, blog_main), (None, blog), {"blog": blog, "own": "own.test {}"}) == []
    assert undone((None, shop_main), (None, shop), {"blog": blog}) == []


def test_a_setting_of_the_host_can_be_changed_app_by_app() -> None:
    before_main, blog_before = files_of(MINIMAL)
    shop_before = render("proxy", SITE, {**MINIMAL, "asgi_app_name": "shop"})
    main, blog = files_of({**MINIMAL, "asgi_proxy_http3": False})
    shop = render("proxy", SITE, {**MINIMAL, "asgi_app_name": "shop", "asgi_proxy_http3": False})
    (told,) = undone((before_main, main), (blog_before, blog), {"shop": shop_before})
    assert told.startswith("asgi_proxy_http3: false")
    assert "set it alike for shop" in told
    # again, then the other app, and all agree
    assert undone((main, main), (blog, blog), {"shop": shop_before}) == []
    assert undone((main, main), (shop_before, shop), {"blog": blog}) == []


@pytest.mark.parametrize(
    ("first", "second", "variable"),
    [
        ("internal", "acme", "asgi_proxy_certificate"),
        ("files", "internal", "asgi_proxy_certificate"),
        ("acme by the port of http", "acme", "asgi_proxy_acme_challenge"),
        ("acme of a company", "acme without an address", "asgi_proxy_acme_ca_file"),
        ("acme with an account", "acme", "asgi_proxy_acme_email"),
    ],
)
def test_apps_of_one_domain_must_have_its_certificate_alike(
    caddy: str, first: str, second: str, variable: str, tmp_path: Path
) -> None:
    """Exactly where Caddy itself refuses them."""
    names = {"asgi_proxy_domains": ["a.example.com"]}
    given = [
        {**MINIMAL, **CERTIFICATES[first], **names, "asgi_proxy_redirect_domains": ["b.test"]},
        {**MINIMAL, **CERTIFICATES[second], **names, "asgi_app_name": "shop"},
    ]
    given[1] |= {"asgi_proxy_path": "/shop"}
    if second == "acme":
        given[1] |= {"asgi_proxy_certificate": "acme"}
    sites = [render("proxy", SITE, one) for one in given]
    with pytest.raises(DeployError, match=rf"{variable}: .* the site blog, which has a\.example"):
        refuse_other_certificate(sites[1], {"blog": sites[0], "own": "a.example.com {}"})
    for path, text in zip(("a.caddy", "b.caddy"), sites, strict=True):
        (tmp_path / path).write_text(text, encoding="utf-8")
    (tmp_path / "Caddyfile").write_text("import *.caddy\n", encoding="utf-8")
    words = ["adapt", "--adapter", "caddyfile", "--config", str(tmp_path / "Caddyfile")]
    assert "more than one automation policy" in call(caddy, *words, home=tmp_path).stderr
    # alike, or of another domain
    refuse_other_certificate(sites[1], {"blog": sites[1]})
    other = render("proxy", SITE, {**given[0], "asgi_proxy_domains": ["b.example.com"]})
    refuse_other_certificate(sites[1], {"blog": other})


@pytest.mark.parametrize("path", ["", "/shop"])
@pytest.mark.parametrize("name", SHARED_ADDRESSES)
def test_an_address_belongs_to_one_app(
    caddy: str, name: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where Caddy itself says so, but the other app is named."""
    given, variable, address = SHARED_ADDRESSES[name]
    first = {**MINIMAL, **SHARING, "asgi_proxy_path": path}
    second = {**MINIMAL, **given, "asgi_app_name": "shop"}
    if not given.get("asgi_proxy_path"):
        second["asgi_proxy_path"] = path
    elif path:
        variable, address = "asgi_proxy_domains", "a.test"
    monkeypatch.setitem(driver.SITES, "caddy", tmp_path)
    monkeypatch.setattr(driver, "MAIN_FILE", tmp_path / "Caddyfile")
    files = {
        driver.MAIN_FILE: render("proxy", MAIN, second),
        tmp_path / "shop.caddy": render("proxy", SITE, second),
    }
    # its own site, and one of somebody, are not in the way
    (tmp_path / "shop.caddy").write_text(files[tmp_path / "shop.caddy"], encoding="utf-8")
    (tmp_path / "own.caddy").write_text("(part) {\n}\nown.test {\n}\n", encoding="utf-8")
    assert driver.of_other_sites(dict.fromkeys(files), files) == []
    (tmp_path / "blog.caddy").write_text(render("proxy", SITE, first), encoding="utf-8")
    (tmp_path / "Caddyfile").write_text("import *.caddy\n", encoding="utf-8")
    words = ["adapt", "--adapter", "caddyfile", "--config", str(tmp_path / "Caddyfile")]
    said = call(caddy, *words, home=tmp_path).stderr
    # Debian's Caddy would give requests to any of two that differ in upper and lower case only
    if name != "in other letters":
        assert ("ambiguous site definition" in said) is bool(variable)
    if not variable:
        assert driver.of_other_sites(dict.fromkeys(files), files) == []
        return
    with pytest.raises(DeployError) as caught:
        driver.of_other_sites(dict.fromkeys(files), files)
    message = caught.value.message
    assert f"{variable}: {address}{path} belongs to the site blog too" in message
    assert "asgi_proxy_path of its own" in message
    assert message.endswith("Nothing was changed.")


def test_an_address_in_somebodys_file_is_named(tmp_path: Path) -> None:
    text = "# of ours\nb.test, A.test/x/* {\n\trespond 200\n}\n\n@no {\n"
    assert set(driver.addresses(text)) == {("b.test", ""), ("a.test", "/x")}
    found = driver.AMBIGUOUS.search("adapting config: ambiguous site definition: a.test/shop")
    assert found is not None
    assert found["domain"] == "a.test"


def matchers(part: Any) -> Iterator[str]:
    """Yields all expressions that choose a handler."""
    if isinstance(part, dict):
        for key, inner in part.items():
            if key == "expression":
                yield inner if isinstance(inner, str) else inner["expr"]
            else:
                yield from matchers(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from matchers(inner)


def test_a_balancer_is_told_whether_this_host_is_ready(caddy: str, tmp_path: Path) -> None:
    """Not while there is a file; else the app is asked for its health, also in maintenance."""
    given = {**MINIMAL, "asgi_service_health_path": "/healthz"}
    server = site_of(adapted(caddy, given, tmp_path))
    (rewrite,) = [one for one in handlers(server, "rewrite") if one.get("uri") == "/healthz"]
    assert rewrite == {"handler": "rewrite", "uri": "/healthz"}
    (refusal,) = list(handlers(server, "static_response"))
    assert refusal["status_code"] == 503
    found = list(matchers(server))
    ready = "/.well-known/asgi-deploy/ready"
    file = "'root': '/run/asgi-deploy', 'try_files': ['blog.draining']"
    (drains,) = [text for text in found if "&& file" in text and file in text]
    (asks,) = [text for text in found if "!file" in text and file in text]
    assert ready in drains
    assert ready in asks
    # one expression: of two that a matcher has, Caddy takes the last
    (maintenance,) = [text for text in found if "maintenance.html" in text]
    assert f"!= '{ready}'" in maintenance


@pytest.mark.parametrize("name", BALANCERS)
def test_a_balancer_asks_the_app_hosts_over_verified_https(
    caddy: str, name: str, tmp_path: Path
) -> None:
    given = BALANCERS[name]
    server = site_of(adapted(caddy, given, tmp_path, FRONT))
    once, proxy = list(handlers(server, "reverse_proxy"))
    system = name == "with the authorities of the system"
    assert [one["dial"] for one in proxy["upstreams"]] == (
        ["web1:8443"] if system else ["web1.example.com:443", "10.0.0.2:8443", "[2001:db8::1]:443"]
    )
    tls = proxy["transport"]["tls"]
    assert tls["server_name"] == "blog.test"
    assert "insecure_skip_verify" not in tls
    assert ("root_ca_pem_files" in tls) is not system
    active = proxy["health_checks"]["active"]
    assert active["uri"] == "/.well-known/asgi-deploy/ready"
    assert active["headers"] == {"Host": ["blog.test"]}
    assert (active["interval"], active["timeout"]) == (1_000_000_000, 3_000_000_000)
    passive = proxy["health_checks"]["passive"]
    # an answer of the app, whatever it is, leaves nobody out
    assert passive == {"fail_duration": 2_000_000_000}
    balancing = proxy["load_balancing"]
    tries = {f"try_{word}": balancing.pop(f"try_{word}") for word in ("duration", "interval")}
    assert tries == {"try_duration": 5e9, "try_interval": 1e8}
    # where there are several, Debian's Caddy tries once what has a body; all else is alike
    if len(proxy["upstreams"]) == 1:
        balancing |= tries
    assert once == proxy
    # with one, requests that are not idempotent would be sent twice
    assert "retry_match" not in balancing
    policy = balancing["selection_policy"]
    assert policy["policy"] == ("cookie" if name == "sticky" else "least_conn")
    assert policy.get("name") == ("host" if name == "sticky" else None)
    # the app hosts say so first
    assert proxy["transport"]["response_header_timeout"] > 60_000_000_000
    # an idle connection is given up before the app hosts would
    assert proxy["transport"]["keep_alive"]["idle_timeout"] < 120_000_000_000
    # nothing of an app on this host
    assert "unix/" not in json.dumps(server)
    assert "serving" not in json.dumps(server)


@pytest.mark.parametrize("path", ["", "/shop"])
def test_a_balancer_needs_neither_an_address_nor_a_password(
    caddy: str, path: str, tmp_path: Path
) -> None:
    given = {**MINIMAL, **TRAFFIC, "asgi_proxy_path": path}
    found = list(matchers(site_of(adapted(caddy, given, tmp_path))))
    ready = f"!= '{path}/.well-known/asgi-deploy/ready'"
    # who is refused, who is asked for a password, and who sees the page of maintenance
    assert len([text for text in found if ready in text]) == 3


@pytest.mark.parametrize("template", [SITE, FRONT])
def test_a_path_is_taken_off_by_the_app_hosts_only(
    caddy: str, template: str, tmp_path: Path
) -> None:
    given = {**MINIMAL, "asgi_proxy_path": "/shop"}
    given |= BALANCER if template == FRONT else {}
    server = site_of(adapted(caddy, given, tmp_path, template))
    stripped = [one for one in handlers(server, "rewrite") if "strip_path_prefix" in one]
    assert bool(stripped) is (template == SITE)
    if template == FRONT:
        for proxy in handlers(server, "reverse_proxy"):
            asked = proxy["health_checks"]["active"]["uri"]
            assert asked == "/shop/.well-known/asgi-deploy/ready"


def test_an_app_host_believes_the_balancer_that_it_is_told_of(tmp_path: Path) -> None:
    """Debian's Caddy cannot, so what is written for newer ones is read as text."""
    given = {
        **MINIMAL,
        "asgi_proxy_caddy_install": "binary",
        "asgi_proxy_trusted_proxies": ["192.0.2.10"],
        "asgi_proxy_allow": ["10.0.0.0/8"],
    }
    assert "trusted_proxies static 192.0.2.10\n" in render("proxy", MAIN, given)
    site = render("proxy", SITE, given)
    assert site.count("header_up X-Forwarded-For {client_ip}") == 4
    assert "not client_ip 127.0.0.1 ::1 10.0.0.0/8" in site


def test_an_app_host_gets_one_address_from_a_balancer() -> None:
    """What stands before the address in a list may be a client's own invention."""
    line = "header_up X-Forwarded-For {client_ip}"
    newer = {**MINIMAL, **BALANCER, "asgi_proxy_caddy_install": "archive"}
    assert render("proxy", FRONT, newer).count(line) == 2
    # 2.6 has no such placeholder, and takes no list
    assert line not in render("proxy", FRONT, {**MINIMAL, **BALANCER})


@pytest.mark.parametrize("template", [SITE, FRONT])
def test_a_caddy_that_loses_bodies_asks_once_what_has_one(template: str) -> None:
    several = BALANCER if template == FRONT else {"asgi_service_instances": 2}
    site = render("proxy", template, {**MINIMAL, **several})
    tries, blocks = "lb_try_duration 5s\n", site.count("reverse_proxy ")
    # a request that found no listener goes to another instance, or waits for one
    for keeps in [(2, 11, 2), (2, 12, 0)]:
        assert with_tries(site, keeps).count(tries) == blocks
    for loses in [(2, 6, 2), (2, 11, 1), ()]:
        told = with_tries(site, loses)
        assert told.count(tries) == blocks / 2
        for block in told.split("reverse_proxy ")[1:]:
            assert (tries in block) is not block.startswith("@once")
        left = [line for line in site.splitlines() if line not in told.splitlines()]
        assert left == []
    # where there is one only, all wait for it
    one = {"asgi_proxy_upstreams": ["web1"]} if template == FRONT else {}
    alone = render("proxy", template, {**MINIMAL, **one})
    assert with_tries(alone, (2, 6, 2)) == alone


def test_no_header_of_an_app_host_comes_twice(caddy: str, tmp_path: Path) -> None:
    """Of all that both sites send, only this one is not put in place of the other, or left out."""
    server = site_of(adapted(caddy, {**MINIMAL, **BALANCER, **TRAFFIC}, tmp_path, FRONT))
    for proxy in handlers(server, "reverse_proxy"):
        assert proxy["headers"]["response"]["delete"] == ["Strict-Transport-Security"]
    for handler in handlers(server, "headers"):
        response = handler["response"]
        added = set(response.get("set", {})) - {"Strict-Transport-Security"}
        assert not added or response.get("deferred") or "require" in response


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def running(caddy: str, given: dict[str, Any], directory: Path) -> Iterator[Callable[..., Reply]]:
    """A Caddy with the site of an app that does not run; yields what asks it for a path."""
    given = {
        **given,
        "asgi_app_root": str(directory / "root"),
        "asgi_proxy_https_port": free_port(),
        "asgi_proxy_http_port": free_port(),
        "asgi_proxy_http3": False,
    }
    port = given["asgi_proxy_https_port"]
    (directory / "sites").mkdir()
    # there is no app, and nobody wants to wait for it
    site = render("proxy", SITE, given).replace("lb_try_duration 5s", "lb_try_duration 1ms")
    (directory / "sites" / "blog.caddy").write_text(site, encoding="utf-8")
    main = render("proxy", MAIN, given).replace("unix//run/caddy/admin.sock", "off")
    (directory / "Caddyfile").write_text(main, encoding="utf-8")

    def ask(path: str, method: str = "GET", source: str = "127.0.0.1", **headers: str) -> Reply:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        address = ("127.0.0.1", port)
        with socket.create_connection(address, timeout=10, source_address=(source, 0)) as plain:
            connection = http.client.HTTPConnection("blog.test", port)
            connection.sock = context.wrap_socket(plain, server_hostname="blog.test")
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()

    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            [caddy, "run", "--config", str(directory / "Caddyfile")],
            stdout=log,
            stderr=log,
            env={"HOME": str(directory), "PATH": "/usr/bin:/bin"},
        )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                ask("/")
                break
            except (OSError, http.client.HTTPException):
                assert process.poll() is None, (directory / "log").read_text()
                assert time.monotonic() < deadline, (directory / "log").read_text()
                time.sleep(0.1)
        yield ask
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def static_site(caddy: str, tmp_path: Path) -> Iterator[Callable[..., Reply]]:
    """A Caddy with static files of two releases and no app; asks it for a path."""
    root = tmp_path / "root"
    (root / "static/shared/static").mkdir(parents=True)
    for name in ("blue/static", "green/static", "blue/static/dir", "blue/other"):
        (root / "static" / name).mkdir(parents=True)
        (root / "static" / name / "site.css").write_text(name, encoding="utf-8")
    (root / "static/shared/static/site.0123456789ab.css").write_text("shared", encoding="utf-8")
    given = {
        **MINIMAL,
        "asgi_proxy_path": "/shop",
        "asgi_proxy_static": {"/static": "staticfiles"},
    }
    with running(caddy, given, tmp_path) as ask:
        yield ask


def test_caddy_serves_static_files_of_the_slot_and_of_all_releases(
    static_site: Callable[..., Reply], tmp_path: Path
) -> None:
    status, headers, body = static_site("/shop/static/site.css")
    assert (status, body, headers["Cache-Control"]) == (200, "blue/static", "no-cache")
    (tmp_path / "root" / "serving").mkdir()
    (tmp_path / "root" / "serving" / "green").touch()
    status, headers, body = static_site("/shop/static/site.css")
    assert (status, body, headers["Cache-Control"]) == (200, "green/static", "no-cache")
    assert headers["X-Content-Type-Options"] == "nosniff"
    status, headers, body = static_site("/shop/static/site.0123456789ab.css")
    assert (status, body) == (200, "shared")
    assert headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert static_site("/shop/static/site.css", "HEAD")[0] == 200


def test_caddy_asks_the_app_for_all_else(
    static_site: Callable[..., Reply],
) -> None:
    """What is not there, what is a directory, and what is no request for a file."""
    for path, method in [
        ("/shop/static/none.css", "GET"),
        ("/shop/static/", "GET"),
        ("/shop/static/dir", "GET"),
        ("/shop/static/dir/", "GET"),
        ("/shop/static", "GET"),
        ("/shop/static/site.css", "POST"),
        ("/shop/other/site.css", "GET"),
        ("/shop/static/../other/site.css", "GET"),
        ("/shop/static/..%2fother/site.css", "GET"),
        ("/shop/static/%2e%2e/other/site.css", "GET"),
        ("/shop/static/..%5cother%5csite.css", "GET"),
        ("/shop/static/*.css", "GET"),
    ]:
        status, headers, body = static_site(path, method)
        # there is none
        assert status == 502 or (status, body) == (404, ""), path
        assert "immutable" not in headers.get("Cache-Control", ""), path


@pytest.mark.parametrize("newer", [False, True], ids=["Debian's", "upstream's"])
def test_every_request_gets_the_maintenance_page(newer: bool, caddy: str, tmp_path: Path) -> None:
    """Whatever its method and its conditions, with 503 and Retry-After; the others go on."""
    given = {**MINIMAL, "asgi_proxy_path": "/shop", "asgi_proxy_maintenance_allow": ["127.0.0.3"]}
    given["asgi_proxy_static"] = {"/static": "staticfiles"}
    if newer:
        caddy = str(programs.bring("caddy", programs.VERSIONS["caddy"]))
        given["asgi_proxy_caddy_install"] = "binary"
    page = (ROLES / "proxy" / "files" / "maintenance.html").read_text(encoding="utf-8")
    static = tmp_path / "root" / "static" / "blue" / "static"
    for directory, name, text in [
        (static, "site.css", "blue"),
        (tmp_path / "root" / "serving", "maintenance.html", page),
    ]:
        directory.mkdir(parents=True)
        (directory / name).write_text(text, encoding="utf-8")
    conditions = [
        {"Range": "bytes=0-3"},
        {"If-None-Match": "*"},
        {"If-Match": '"1"'},
        {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"},
        {"If-Unmodified-Since": "Fri, 01 Jan 2010 00:00:00 GMT"},
    ]
    asked: list[tuple[str, dict[str, str]]] = [
        *((method, {}) for method in METHODS),
        *((method, one) for method in ("GET", "PUT") for one in conditions),
    ]
    with running(caddy, given, tmp_path) as ask:
        for method, headers in asked:
            for path in ("/shop/any", "/shop/static/site.css"):
                status, answer, body = ask(path, method, "127.0.0.2", **headers)
                case = f"{method} {path} {headers}"
                assert (status, answer["Retry-After"]) == (503, "300"), case
                assert answer["Cache-Control"] == "no-store", case
                assert body == ("" if method == "HEAD" else page), case
        # this host, an address on the list, and a balancer that asks whether the app is ready;
        # there is no app
        for source in ("127.0.0.1", "127.0.0.3"):
            assert [ask("/shop/any", method, source)[0] for method in METHODS] == [502] * 7
            assert ask("/shop/static/site.css", "GET", source)[::2] == (200, "blue")
        assert ask("/shop/.well-known/asgi-deploy/ready", "GET", "127.0.0.2")[0] == 502

"""The files of Traefik: what the role gives to a host, and what the driver makes of it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.asgi.deploy.plugins.module_utils.proxies import masked, traefik
from templates.render import fill, render, role_tasks_of
from templates.scenarios import CERTIFICATES, SITES, TRAEFIK
from templates.units import read_unit

MAIN = "etc/traefik/traefik.yml"
SITE = "etc/traefik/sites/app.yml"
UNITS = "etc/systemd/system"


def main_file(**given: Any) -> dict[str, Any]:
    """What Traefik reads at its start."""
    found: dict[str, Any] = yaml.safe_load(render("proxy", MAIN, {**TRAEFIK, **given}))
    return found


def site(**given: Any) -> dict[str, Any]:
    """The app's site, without slot and instances."""
    found: dict[str, Any] = yaml.safe_load(render("proxy", SITE, {**TRAEFIK, **given}))
    return found


def dynamic(**given: Any) -> dict[str, Any]:
    """The app's dynamic file for slot green with one instance."""
    _service, text = traefik.render(site(**given), "green", ["http://127.0.1.1:20001"])
    return traefik.parse(text)


def test_a_host_gets_the_files_as_json_with_a_word_on_who_manages_them() -> None:
    """The driver reads them with no other module than Python's own."""
    (task,) = [t for t in role_tasks_of("proxy", "traefik") if "asgi.deploy.proxy_config" in t]
    files = {file["path"]: file["content"] for file in task["asgi.deploy.proxy_config"]["files"]}
    for path, expected in (
        ("/etc/traefik/traefik.yml", main_file()),
        ("/etc/traefik/sites/{{ asgi_app_name }}.json", site()),
    ):
        text = fill("proxy", files[path], TRAEFIK)
        assert text.startswith(traefik.HEADER)
        assert traefik.parse(text) == expected
        assert yaml.safe_load(text) == expected


@pytest.mark.parametrize("name", SITES)
def test_every_site_is_whole_in_both_slots(name: str) -> None:
    given = {"asgi_proxy_compression": ["zstd", "gzip"], **SITES[name]}
    given.pop("asgi_proxy_request_body_max", None)
    for slot, urls in (("blue", []), ("green", ["http://127.0.1.1:20001", "http://127.0.1.2:1"])):
        service, text = traefik.render(site(**given), slot, urls)
        http = traefik.parse(text)["http"]
        assert "@" not in text.replace("noop@internal", "")
        assert set(http["services"]) == {service}
        assert http["services"][service]["loadBalancer"]["servers"] == [{"url": u} for u in urls]
        routers = http["routers"]
        assert set(routers) == {"blog", "blog-confirm", "blog-http"}
        assert routers["blog"]["service"] == routers["blog-confirm"]["service"] == service
        for router in routers.values():
            assert set(router["middlewares"]) <= set(http["middlewares"])
        slot_header = http["middlewares"]["blog-slot"]["headers"]["customResponseHeaders"]
        assert slot_header == {"X-Asgi-Slot": slot}
        assert "blog-slot" not in routers["blog"]["middlewares"]
        assert "ClientIP(`127.0.0.1`)" in routers["blog-confirm"]["rule"]
        assert routers["blog-confirm"]["priority"] > 10_000
        balancer = http["services"][service]["loadBalancer"]
        # an idle connection is given up before the server would (servers/uvicorn.py)
        timeouts = http["serversTransports"][balancer["serversTransport"]]["forwardingTimeouts"]
        assert timeouts["idleConnTimeout"] == "2s"
    strict = "blog-hsts" in http["middlewares"]
    assert strict is (given.get("asgi_proxy_hsts_max_age_seconds", 1) > 0)


def test_every_name_is_asked_for_and_a_wildcard_is_one_label() -> None:
    rule = dynamic(asgi_proxy_domains=["blog.test", "*.apps.test"])["http"]["routers"]["blog"][
        "rule"
    ]
    assert rule == "Host(`blog.test`) || HostRegexp(`^[^.]+\\.apps\\.test$`)"


def test_http_is_sent_to_the_port_of_https() -> None:
    def https(**given: Any) -> dict[str, Any]:
        found: dict[str, Any] = dynamic(**given)["http"]["middlewares"]["blog-https"]
        return found["redirectScheme"]

    assert https() == {"scheme": "https", "permanent": True}
    assert https(asgi_proxy_https_port=8443)["port"] == "8443"


def test_streams_are_not_held_back() -> None:
    middlewares = dynamic()["http"]["middlewares"]
    assert not any("buffering" in one or "retry" in one for one in middlewares.values())
    assert middlewares["blog-compress"]["compress"]["excludedContentTypes"] == ["text/event-stream"]


@pytest.mark.parametrize("name", ["acme", "acme with an account", "acme of a company", "files"])
def test_the_certificate_comes_from_where_it_should(name: str) -> None:
    given = CERTIFICATES[name]
    found, main = dynamic(**{"asgi_proxy_certificate": "auto", **given}), main_file(**given)
    resolver = main["certificatesResolvers"]["asgi"]["acme"]
    assert resolver["storage"].startswith("/var/lib/traefik/")
    tls = found["http"]["routers"]["blog"]["tls"]
    if name == "files":
        assert tls == {}
        assert found["tls"]["certificates"] == [
            {"certFile": "/etc/ssl/blog.pem", "keyFile": "/etc/ssl/blog.key"}
        ]
        return
    assert "tls" not in found
    assert tls["certResolver"] == "asgi"
    domains = given.get("asgi_proxy_domains", ["blog.test"])
    assert tls["domains"] == [{"main": domains[0], "sans": domains[1:]}]
    assert resolver.get("caServer") == given.get("asgi_proxy_acme_directory_url")
    assert resolver.get("email") == given.get("asgi_proxy_acme_email")
    assert resolver.get("eab") == (
        {"kid": "key-1", "hmacEncoded": "bWFjLWtleQ"} if name == "acme of a company" else None
    )


@pytest.mark.parametrize(
    ("challenge", "key"),
    [("auto", "httpChallenge"), ("http-01", "httpChallenge"), ("tls-alpn-01", "tlsChallenge")],
)
def test_the_challenge_is_the_chosen_one(challenge: str, key: str) -> None:
    resolver = main_file(asgi_proxy_acme_challenge=challenge)["certificatesResolvers"]["asgi"]
    assert {name for name in resolver["acme"] if name.endswith("Challenge")} == {key}


def test_the_api_is_for_this_host_only_and_changes_nothing() -> None:
    main = main_file()
    assert main["entryPoints"]["traefik"]["address"] == "127.0.0.1:9180"
    assert set(main["providers"]) == {"providersThrottleDuration", "file"}
    assert main["api"]["dashboard"] is False


def test_systemd_holds_the_ports_that_the_entry_points_name() -> None:
    given = {**TRAEFIK, "asgi_proxy_http_port": 8080, "asgi_proxy_https_port": 8443}
    points = main_file(asgi_proxy_http_port=8080, asgi_proxy_https_port=8443)["entryPoints"]
    service = read_unit(render("proxy", f"{UNITS}/traefik.service", given))
    for name, port in (("web", "8080"), ("websecure", "8443")):
        unit = read_unit(render("proxy", f"{UNITS}/traefik-{name}.socket", given))["Socket"]
        assert unit["ListenStream"] == [port]
        assert unit["FileDescriptorName"] == [name]
        assert points[name]["address"] == f":{port}"
        assert f"traefik-{name}.socket" in service["Unit"]["Requires"][0].split()
    # so Traefik needs no right to open them
    assert service["Service"]["CapabilityBoundingSet"] == [""]
    assert service["Service"]["User"] == ["traefik"]
    assert main_file()["entryPoints"]["websecure"]["http"]["maxHeaderBytes"] == 65536


def test_instances_listen_on_ports_of_this_host_for_traefik() -> None:
    unit = read_unit(render("service", f"{UNITS}/slot@.socket", TRAEFIK))["Socket"]
    assert unit["ListenStream"] == ["127.0.1.%i:@port@"]
    service = render("service", f"{UNITS}/slot@.service", TRAEFIK)
    assert "--forwarded-allow-ips 127.0.0.1 " in service


def test_the_port_of_an_app_follows_from_its_name() -> None:
    def port(name: str) -> int:
        given = {**TRAEFIK, "asgi_app_name": name}
        return int(fill("service", "{{ asgi_service_port }}", given))

    ports = {name: port(name) for name in ("blog", "shop", "my-app")}
    assert ports == {name: port(name) for name in ports}
    assert len(set(ports.values())) == 3
    assert all(20000 <= one < 30000 and one % 2 == 0 for one in ports.values())


@pytest.mark.parametrize("provider", ["caddy", "traefik"])
@pytest.mark.parametrize("kind", ["files", "acme"])
def test_the_note_of_a_certificate_goes_with_it(provider: str, kind: str) -> None:
    """A rollout would render another file with it than the one that was put in place."""
    (task,) = [t for t in role_tasks_of("proxy", provider) if "asgi.deploy.proxy_config" in t]
    given = {**TRAEFIK, "asgi_proxy_provider": provider, "asgi_proxy_certificate": kind}
    absent = fill("proxy", task["asgi.deploy.proxy_config"]["absent"], given)
    note = f"/etc/{provider}/sites/{given['asgi_app_name']}.certificate"
    assert absent == ([] if kind == "files" else [note])


@pytest.mark.parametrize("today", ["caddy", "traefik", "none"])
def test_an_app_is_taken_out_of_both_proxies_whatever_the_provider_is_today(today: str) -> None:
    tasks = role_tasks_of("proxy", "remove")
    given = {**TRAEFIK, "asgi_proxy_provider": today, "asgi_proxy_site": "www"}
    found = [
        fill("proxy", path, given)
        for task in tasks
        for path in task["asgi.deploy.proxy_config"]["absent"]
    ]
    assert not any("when" in task for task in tasks)
    name = given["asgi_app_name"]
    assert found == [
        "/etc/caddy/sites/www.caddy",
        "/etc/caddy/sites/www.certificate",
        "/etc/traefik/dynamic/www.yml",
        f"/etc/traefik/sites/{name}.json",
        "/etc/traefik/sites/www.certificate",
    ]


@pytest.mark.parametrize("challenge", ["auto", "http-01"])
@pytest.mark.parametrize("provider", ["caddy", "traefik"])
def test_the_key_of_an_acme_account_is_in_no_diff(provider: str, challenge: str) -> None:
    """Nor when it is taken out: Ansible then knows no secret that it could mask."""
    given = {
        **TRAEFIK,
        "asgi_proxy_provider": provider,
        "asgi_proxy_certificate": "acme",
        "asgi_proxy_acme_challenge": challenge,
        "asgi_proxy_acme_eab_key_id": "kid-1",
        "asgi_proxy_acme_eab_mac_key": "bWFjLXMzY3JldA",
    }
    tasks = role_tasks_of("proxy", provider)
    (task,) = [one for one in tasks if "asgi.deploy.proxy_config" in one]
    files = task["asgi.deploy.proxy_config"]["files"]
    texts = [fill("proxy", file["content"], given) for file in files]
    assert any("bWFjLXMzY3JldA" in text for text in texts)
    for text in texts:
        (told,) = masked([{"before_header": "/etc/x", "before": text, "after": ""}])
        assert "bWFjLXMzY3JldA" not in told["before"]
        # and nothing else is hidden
        assert told["before"].replace("********", "bWFjLXMzY3JldA") == text
        assert (told["before_header"], told["after"]) == ("/etc/x", "")

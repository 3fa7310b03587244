"""The files of Traefik: what the role gives to a host, and what the driver makes of it."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.proxies import masked, traefik
from templates.render import fill, proxy_task, render, role_tasks_of
from templates.scenarios import BALANCER, CERTIFICATES, SITES, TRAEFIK
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
    task = proxy_task("traefik")
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
    for refused in ("request_body_max", "snippet"):
        given.pop(f"asgi_proxy_{refused}", None)
    for slot, urls in (("blue", []), ("green", ["http://127.0.1.1:20001", "http://127.0.1.2:1"])):
        service, text = traefik.render(site(**given), slot, urls)
        http = traefik.parse(text)["http"]
        assert "@" not in text.replace("noop@internal", "")
        assert set(http["services"]) == {service, f"{service}-once"}
        for one in http["services"].values():
            assert one["loadBalancer"]["servers"] == [{"url": u} for u in urls]
        routers = http["routers"]
        sent_on = {"blog.redirect"} if "asgi_proxy_redirect_domains" in given else set()
        chosen = {"blog.safe", "blog.once"}
        own = {"blog", "blog.confirm", "blog.ready", "blog.http"} | sent_on
        assert set(routers) == own | chosen
        for router in chosen:
            # behind the limits of those, which count for both together
            assert routers[router]["parentRefs"] == ["blog", "blog.confirm"]
        for router in own:
            assert set(routers[router]["middlewares"]) <= set(http["middlewares"])
        assert not {"service", "parentRefs"} & {*routers["blog"], *routers["blog.confirm"]}
        assert routers["blog.safe"]["service"] == routers["blog.ready"]["service"] == service
        assert routers["blog.once"]["service"] == f"{service}-once"
        assert routers["blog.once"]["rule"] == f"!({routers['blog.safe']['rule']})"
        slot_header = http["middlewares"]["blog.slot"]["headers"]["customResponseHeaders"]
        assert slot_header == {"X-Asgi-Slot": slot}
        assert "blog.slot" not in routers["blog"]["middlewares"]
        assert "ClientIP(`127.0.0.1`)" in routers["blog.confirm"]["rule"]
        assert routers["blog.confirm"]["priority"] > 10_000
        balancer = http["services"][service]["loadBalancer"]
        # an idle connection is given up before the server would (servers/uvicorn.py)
        timeouts = http["serversTransports"][balancer["serversTransport"]]["forwardingTimeouts"]
        assert timeouts["idleConnTimeout"] == "2s"
        # 0 would be Go's default of two
        assert http["serversTransports"]["blog.once"]["maxIdleConnsPerHost"] < 0
        assert (
            http["services"][f"{service}-once"]["loadBalancer"]["serversTransport"] == "blog.once"
        )
    strict = "blog.hsts" in http["middlewares"]
    assert strict is (given.get("asgi_proxy_hsts_max_age_seconds", 1) > 0)


def test_every_name_is_asked_for_and_a_wildcard_is_one_label() -> None:
    rule = dynamic(asgi_proxy_domains=["blog.test", "*.apps.test"])["http"]["routers"]["blog"][
        "rule"
    ]
    assert rule == "Host(`blog.test`) || HostRegexp(`^[^.]+\\.apps\\.test$`)"


def test_http_is_sent_to_the_port_of_https() -> None:
    def https(**given: Any) -> dict[str, Any]:
        found: dict[str, Any] = dynamic(**given)["http"]["middlewares"]["blog.https"]
        return found["redirectScheme"]

    assert https() == {"scheme": "https", "permanent": True}
    assert https(asgi_proxy_https_port=8443)["port"] == "8443"


@pytest.mark.parametrize(("instances", "attempts"), [(1, 0), (2, 15), (4, 25)])
def test_another_instance_is_asked_where_one_does_not_listen(instances: int, attempts: int) -> None:
    http = dynamic(asgi_service_instances=instances)["http"]
    for name in ("blog", "blog.confirm", "blog.ready"):
        assert ("blog.retry" in http["routers"][name]["middlewares"]) is (instances > 1)
    if instances > 1:
        # with other options, requests that an instance has seen would be sent again, or held back
        retry = {"attempts": attempts, "initialInterval": "10ms"}
        assert http["middlewares"]["blog.retry"]["retry"] == retry
    else:
        assert "blog.retry" not in http["middlewares"]


def test_streams_are_not_held_back() -> None:
    middlewares = dynamic()["http"]["middlewares"]
    assert not any("buffering" in one for one in middlewares.values())
    assert middlewares["blog.compress"]["compress"]["excludedContentTypes"] == ["text/event-stream"]


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
    [
        ("auto", "httpChallenge"),
        ("http-01", "httpChallenge"),
        ("tls-alpn-01", "tlsChallenge"),
        ("dns-01", "dnsChallenge"),
    ],
)
def test_the_challenge_is_the_chosen_one(challenge: str, key: str) -> None:
    resolver = main_file(asgi_proxy_acme_challenge=challenge)["certificatesResolvers"]["asgi"]
    assert {name for name in resolver["acme"] if name.endswith("Challenge")} == {key}


def test_who_writes_the_record_and_who_is_asked_for_it() -> None:
    given = {
        "asgi_proxy_acme_challenge": "dns-01",
        "asgi_proxy_acme_dns_provider": "cloudflare",
        "asgi_proxy_acme_dns_environment": {"CF_DNS_API_TOKEN": "t0ken"},
        "asgi_proxy_certificate": "acme",
        "asgi_proxy_domains": ["*.example.com"],
    }

    def challenge(**more: Any) -> Any:
        resolver = main_file(**given, **more)["certificatesResolvers"]["asgi"]
        return resolver["acme"]["dnsChallenge"]

    assert challenge() == {"provider": "cloudflare"}
    asked = challenge(asgi_proxy_acme_dns_resolvers=["192.0.2.1:53"])
    assert asked["resolvers"] == ["192.0.2.1:53"]
    assert asked["propagation"] == {"requireAllRNS": True, "disableANSChecks": True}
    tls = dynamic(**given)["http"]["routers"]["blog"]["tls"]
    assert tls["domains"] == [{"main": "*.example.com", "sans": []}]


def test_the_environment_of_the_provider_is_in_no_diff() -> None:
    text = '# ours\nCF_DNS_API_TOKEN="t0ken of \\"one\nor two\\" lines"\nMODE="x"\n'
    (told,) = masked([{"before_header": "/etc/traefik/environment", "before": text, "after": ""}])
    assert told["before"] == "CF_DNS_API_TOKEN=********\nMODE=********\n"


def test_each_authority_has_an_account_and_certificates_of_its_own() -> None:
    def resolver(**given: Any) -> dict[str, Any]:
        found: dict[str, Any] = main_file(**given)["certificatesResolvers"]["asgi"]["acme"]
        return found

    company = resolver(asgi_proxy_acme_directory_url="https://ca.example.com/dir")
    staging = resolver(asgi_proxy_acme_staging=True)
    assert staging["caServer"].startswith("https://acme-staging")
    files = [resolver()["storage"], company["storage"], staging["storage"]]
    assert files[0] == "/var/lib/traefik/acme.json"
    assert len(set(files)) == 3


@pytest.mark.parametrize(("minutes", "hours"), [(0, None), (2, 1), (60, 1), (1440, 24)])
def test_short_lived_certificates_are_looked_at_often(minutes: int, hours: int | None) -> None:
    main = main_file(asgi_proxy_acme_lifetime_minutes=minutes)
    assert main["certificatesResolvers"]["asgi"]["acme"].get("certificatesDuration") == hours


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
    # else each answer of uvicorn waits for an acknowledgement, 40 ms
    assert unit["NoDelay"] == ["yes"]
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
    task = proxy_task(provider)
    given = {**TRAEFIK, "asgi_proxy_provider": provider, "asgi_proxy_certificate": kind}
    absent = fill("proxy", task["asgi.deploy.proxy_config"]["absent"], given)
    note = f"/etc/{provider}/sites/{given['asgi_app_name']}.certificate"
    # what else a former run may have left
    others = {
        "caddy": ["/etc/apt/sources.list.d/asgi-caddy.sources"],
        "traefik": ["/etc/traefik/environment"],
    }
    assert absent == ([] if kind == "files" else [note]) + others[provider]


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
        "/etc/traefik/sites/www.users",
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
    task = proxy_task(provider)
    files = task["asgi.deploy.proxy_config"]["files"]
    texts = [fill("proxy", file["content"], given) for file in files]
    assert any("bWFjLXMzY3JldA" in text for text in texts)
    for text in texts:
        (told,) = masked([{"before_header": "/etc/x", "before": text, "after": ""}])
        assert "bWFjLXMzY3JldA" not in told["before"]
        # and nothing else is hidden
        assert told["before"].replace("********", "bWFjLXMzY3JldA") == text
        assert (told["before_header"], told["after"]) == ("/etc/x", "")


@pytest.mark.parametrize("provider", ["caddy", "traefik"])
@pytest.mark.parametrize("kind", ["2a", "2b", "2y"])
@pytest.mark.parametrize("install", ["package", "archive"])
def test_the_hash_of_a_password_is_in_no_diff(provider: str, kind: str, install: str) -> None:
    """Nor when its user is taken out."""
    digest = f"${kind}$10$" + "./Ab" * 13 + "9"
    encoded = base64.b64encode(digest.encode()).decode()
    given = {
        **TRAEFIK,
        "asgi_proxy_provider": provider,
        "asgi_proxy_caddy_install": install,
        "asgi_proxy_basic_auth": {"ann": digest},
    }
    task = proxy_task(provider)
    texts = [
        fill("proxy", file["content"], given) for file in task["asgi.deploy.proxy_config"]["files"]
    ]
    for text in [*texts, f"ann:{digest}\n"]:
        (told,) = masked([{"before_header": "/etc/x", "before": text, "after": ""}])
        assert digest not in told["before"]
        assert encoded not in told["before"]
        # and nothing else is hidden
        shown = told["before"].replace("********", encoded if encoded in text else digest)
        assert shown == text


@pytest.mark.parametrize(
    ("architecture", "name"), [("x86_64", "linux_amd64"), ("aarch64", "linux_arm64")]
)
def test_upstreams_archive_is_the_default(architecture: str, name: str) -> None:
    given = {
        **TRAEFIK,
        "asgi_proxy_traefik_install": "archive",
        "asgi_proxy_traefik_source": "",
        "asgi_proxy_traefik_checksum": "",
        "ansible_facts": {"architecture": architecture},
    }
    url = fill("proxy", "{{ __asgi_proxy_source }}", given)
    assert re.search(r"/download/v(3[.]7[.]\d+)/traefik_v\1_" + name + "[.]tar[.]gz$", url)
    checksum = fill("proxy", "{{ __asgi_proxy_checksum }}", given)
    assert re.fullmatch("sha256:[0-9a-f]{64}", checksum)
    assert checksum[7:19] in fill("proxy", "{{ __asgi_proxy_program }}", given)
    # another one in its place is asked for as it is given, and needs no architecture
    other = {**given, "asgi_proxy_traefik_source": "/src/traefik.tar.gz", "ansible_facts": {}}
    assert fill("proxy", "{{ __asgi_proxy_source }}", other) == "/src/traefik.tar.gz"
    assert fill("proxy", "{{ __asgi_proxy_checksum }}", other) == ""


@pytest.mark.parametrize("provider", ["caddy", "traefik"])
def test_what_a_dns_provider_reads_is_not_logged(provider: str) -> None:
    def hidden(**given: Any) -> Any:
        task = proxy_task(provider)
        return fill("proxy", task["no_log"], {**TRAEFIK, "asgi_proxy_provider": provider, **given})

    assert not hidden()
    assert hidden(asgi_proxy_acme_dns_environment={"CF_DNS_API_TOKEN": "t0ken"})
    assert hidden(asgi_proxy_acme_dns_options={"api_token": "t0ken"})
    assert hidden(asgi_proxy_basic_auth={"ann": "$2y$10$x"})
    assert not hidden(asgi_proxy_basic_auth={"ann": "$2y$10$x"}, asgi_proxy_no_log=False)


def test_requests_are_limited_before_the_app_and_a_rollout_needs_no_password() -> None:
    http = dynamic(
        asgi_proxy_path="/shop",
        asgi_proxy_basic_auth={"ann": "$2y$10$x"},
        asgi_proxy_allow=["10.0.0.0/8"],
        asgi_proxy_rate_limit=5,
        asgi_proxy_concurrency_limit=9,
        asgi_proxy_snippet="robots: {headers: {customResponseHeaders: {X-Robots-Tag: none}}}",
        asgi_service_health_path="/health",
    )["http"]
    # nobody tries passwords who is not let in, or oftener than that
    limits = ["blog.allow", "blog.rate", "blog.concurrency", "blog.auth"]
    others = ["blog.compress", "blog.path", "blog.robots"]
    assert http["routers"]["blog"]["middlewares"] == ["blog.hsts", "blog.headers", *limits, *others]
    confirm = http["routers"]["blog.confirm"]
    without = [*limits[:-1], *others, "blog.slot"]
    assert confirm["middlewares"] == ["blog.hsts", "blog.headers", *without]
    assert "blog.auth" not in confirm["middlewares"]
    assert confirm["rule"].endswith(" && Path(`/shop/health`)")
    assert "PathPrefix(`/shop/`)" in http["routers"]["blog"]["rule"]
    # the API shows it to every local user
    assert "$2y$10$x" not in str(http)
    assert http["middlewares"]["blog.auth"]["basicAuth"]["usersFile"].endswith("/blog.users")
    assert http["middlewares"]["blog.auth"]["basicAuth"]["removeHeader"] is True
    # a balancer has neither an address on the list nor a password
    ready = http["routers"]["blog.ready"]
    assert ready["middlewares"] == ["blog.ready"]
    assert ready["rule"].endswith(" && Path(`/shop/.well-known/asgi-deploy/ready`)")


def test_the_longer_path_wins_and_a_name_before_a_wildcard() -> None:
    """Not the longer rule, which is that of the app with more names."""

    def priorities(path: str, *domains: str) -> dict[str, int]:
        given = {"asgi_proxy_path": path, "asgi_proxy_domains": list(domains)}
        routers = dynamic(**given, asgi_proxy_redirect_domains=["old.test"])["http"]["routers"]
        own = {name: one for name, one in routers.items() if "parentRefs" not in one}
        return {name.removeprefix("blog."): one["priority"] for name, one in own.items()}

    whole = priorities("", "a.test", "a-much-longer-name.test", "another-of-its-names.test")
    below, deeper = priorities("/shop", "a.test"), priorities("/shop/new", "a.test")
    wildcard = priorities("/a/very/long/path", "*.test")
    for name in ("blog", "http", "redirect", "confirm"):
        assert whole[name] < below[name] < deeper[name], name
        # redirected names are no wildcards
        assert wildcard[name] < whole[name] or name == "redirect"
    confirming = [one["confirm"] for one in (whole, below, deeper, wildcard)]
    assert len(set(confirming)) == 4
    assert min(confirming) > max(deeper["blog"], deeper["redirect"])


def test_no_two_apps_share_a_name() -> None:
    """Traefik would leave out what has the name of something in another file."""
    given = {"asgi_proxy_redirect_domains": ["old.test"], "asgi_service_instances": 2}
    first = dynamic(**given)["http"]
    others = {router.replace(".", "-") for router in first["routers"]} - {"blog"}
    assert len(others) == 6
    for other in others:
        second = dynamic(**given, asgi_app_name=other)["http"]
        for kind, named in first.items():
            assert not set(named) & set(second[kind])


def test_another_password_makes_another_file() -> None:
    """Else Traefik would not read it."""
    first, again, other = (
        traefik.render(site(), "blue", [], users)[0] for users in ("ann:1", "ann:1", "ann:2")
    )
    assert first == again != other


def test_no_hash_of_a_password_is_in_a_diff() -> None:
    digest = "$2y$10$" + "a" * 53
    encoded = base64.b64encode(digest.encode()).decode()
    before = f"ann:{digest}\n\t\tann {encoded}\n"
    (told,) = masked([{"before_header": "/etc/x", "before": before, "after": ""}])
    assert told["before"] == "ann:********\n\t\tann ********\n"


def test_a_balancer_is_told_what_the_app_says_of_itself() -> None:
    http = dynamic(asgi_service_health_path="/healthz?deep=1")["http"]
    router = http["routers"]["blog.ready"]
    assert router["rule"].endswith("&& Path(`/.well-known/asgi-deploy/ready`)")
    assert router["priority"] > http["routers"]["blog.confirm"]["priority"]
    assert http["middlewares"]["blog.ready"] == {"replacePath": {"path": "/healthz"}}


@pytest.mark.parametrize("cookie", ["", "host"])
def test_a_balancer_asks_the_app_hosts_over_verified_https(cookie: str, tmp_path: Path) -> None:
    given = {
        **TRAEFIK,
        **BALANCER,
        "asgi_proxy_upstream_cookie": cookie,
        "asgi_proxy_path": "/shop",
        "asgi_proxy_allow": ["10.0.0.0/8"],
        "asgi_proxy_basic_auth": {"ann": "$2y$10$x"},
    }
    front = yaml.safe_load(render("proxy", "etc/traefik/sites/balancer.yml", given))
    # whatever slot the driver believes in: this host has none
    servers = traefik.urls(front, Layout("blog", tmp_path), "green")
    assert servers == [
        "https://web1.example.com:443",
        "https://10.0.0.2:8443",
        "https://[2001:db8::1]:443",
    ]
    service, text = traefik.render(front, "blue", servers)
    http = traefik.parse(text)["http"]
    assert set(http["routers"]) == {"blog", "blog.http"}
    assert "X-Asgi-Slot" not in text
    balancer = http["services"][service]["loadBalancer"]
    assert [one["url"] for one in balancer["servers"]] == servers
    assert balancer["healthCheck"]["hostname"] == "blog.test"
    assert ("sticky" in balancer) is bool(cookie)
    transport = http["serversTransports"][balancer["serversTransport"]]
    assert transport["serverName"] == "blog.test"
    assert transport["rootCAs"] == ["/etc/ssl/web.pem"]
    assert "insecureSkipVerify" not in transport
    # what keeps clients out, and all headers, as on an app host
    for name in ("auth", "allow", "hsts", "headers", "compress"):
        assert f"blog.{name}" in http["middlewares"]
    # the app hosts take it off
    assert "blog.path" not in text
    assert balancer["healthCheck"]["path"] == "/shop/.well-known/asgi-deploy/ready"
    # the last one: each try is one question to a host
    assert http["routers"]["blog"]["middlewares"][-1] == "blog.retry"
    # with any other option, requests that a host has seen would be sent again
    retry = http["middlewares"]["blog.retry"]["retry"]
    assert set(retry) == {"attempts", "initialInterval"}
    # waits are 75 to 225 ms and later 100 to 300 ms
    assert retry["attempts"] * 0.1 > int(balancer["healthCheck"]["interval"][:-1])
    # app hosts that ask for a password get it too
    assert http["middlewares"]["blog.auth"]["basicAuth"]["removeHeader"] is False
    # it would take a status 500 of the app for a host that is gone
    assert "passiveHealthCheck" not in balancer

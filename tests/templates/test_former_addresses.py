"""Two releases with other addresses: until the new one is good, the proxy has those of both."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import programs
import pytest
import yaml
from ansible_collections.asgi.deploy.plugins.module_utils.proxies import caddy, traefik
from templates.render import render
from templates.scenarios import MINIMAL

HASH = "$2y$10$abcdefghijklmnopqrstuuJ5Yx1mJxkAqbYq6lQ0iV1u5GJ8fV9eS"
FORMER = {
    **MINIMAL,
    "asgi_proxy_domains": ["old.test", "both.test"],
    "asgi_proxy_redirect_domains": ["www.old.test", "www.both.test"],
    "asgi_proxy_certificate": "internal",
    "asgi_proxy_basic_auth": {
        "anna": "$2y$10$abcdefghijklmnopqrstuuJ5Yx1mJxkAqbYq6lQ0iV1u5GJ8fV9eS"
    },
}
WANTED = {
    **MINIMAL,
    "asgi_proxy_domains": ["both.test", "new.test"],
    "asgi_proxy_redirect_domains": ["www.both.test"],
    "asgi_proxy_certificate": "acme",
    "asgi_proxy_acme_email": "ops@example.com",
    "asgi_service_instances": 3,
}


def hosts_of(routes: list[dict[str, Any]]) -> dict[str, str]:
    """Returns the text of what is answered, by the host that it is for."""
    return {host: json.dumps(one) for one in routes for host in one["match"][0]["host"]}


def caddy_site(given: dict[str, Any]) -> str:
    """Returns a site as Caddy reads it."""
    return render("proxy", "etc/caddy/sites/app.caddy", given)


def traefik_site(given: dict[str, Any]) -> str:
    """Returns a site as the driver of Traefik reads it."""
    given = {**given, "asgi_proxy_provider": "traefik"}
    return traefik.format_file(yaml.safe_load(render("proxy", "etc/traefik/sites/app.yml", given)))


def test_caddy_answers_the_addresses_of_both_each_once(tmp_path: Path) -> None:
    text = caddy.with_former_addresses(caddy_site(WANTED), caddy_site(FORMER))
    path = tmp_path / "Caddyfile"
    path.write_text(text, encoding="utf-8")
    done = subprocess.run(
        [programs.packaged("caddy"), "adapt", "--adapter", "caddyfile", "--config", path],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["apps"]
    (server,) = found["http"]["servers"].values()
    answers = hosts_of(server["routes"])
    assert set(answers) == {"old.test", "both.test", "new.test", "www.old.test", "www.both.test"}
    assert len(server["routes"]) == len(answers)
    # the old name is answered as before, the common one as the new release wants it
    assert "http_basic" in answers["old.test"]
    assert "http_basic" not in answers["both.test"]
    assert "https://old.test" in answers["www.old.test"]
    assert "https://both.test" in answers["www.both.test"]
    policies = {
        subject: [one["module"] for one in policy.get("issuers", [])]
        for policy in found["tls"]["automation"]["policies"]
        for subject in policy.get("subjects", [])
    }
    assert policies["old.test"] == policies["www.old.test"] == ["internal"]
    assert "internal" not in policies["both.test"]


def test_caddy_answers_a_former_path_of_the_same_domain() -> None:
    former = caddy_site({**MINIMAL, "asgi_proxy_path": "/shop"})
    text = caddy.with_former_addresses(caddy_site(MINIMAL), former)
    assert set(caddy.addresses(text)) == {("blog.test", ""), ("blog.test", "/shop")}


def test_counts_of_instances_are_those_of_the_slots_in_both_parts() -> None:
    text = caddy.with_former_addresses(caddy_site(WANTED), caddy_site(FORMER))
    told = caddy.with_instances(text, {"blue": 2, "green": 1})
    assert told.count(" unix//run/asgi/blog/blue/2.sock") == 2 * 2
    assert "green/2.sock" not in told


@pytest.mark.parametrize("driver", ["caddy", "traefik"])
def test_nothing_is_kept_where_no_address_goes(driver: str) -> None:
    site, merge = {
        "caddy": (caddy_site, caddy.with_former_addresses),
        "traefik": (traefik_site, traefik.with_former_addresses),
    }[driver]
    wanted = site({**FORMER, "asgi_proxy_request_body_max": "2MB"})
    assert merge(wanted, site(FORMER)) == wanted
    assert merge(site(FORMER), site(MINIMAL)) != site(FORMER)


def test_traefik_answers_the_addresses_of_both() -> None:
    text = traefik.with_former_addresses(traefik_site(WANTED), traefik_site(FORMER))
    site = traefik.parse(text)
    assert {domain for domain, _path in traefik.site_addresses(site)} == {
        *("old.test", "both.test", "new.test", "www.old.test", "www.both.test")
    }
    http = site["configuration"]["http"]
    routers = http["routers"]
    former = routers["blog/former"]
    assert former["middlewares"]
    for name, router in routers.items():
        # all that a router names is there
        for parent in router.get("parentRefs", []):
            assert parent in routers, name
        for middleware in router.get("middlewares", []):
            assert middleware in http["middlewares"], name
    # the new release has what both have
    for name in ("", ".confirm", ".ready", ".http", ".redirect"):
        assert routers[f"blog/former{name}"]["priority"] < routers[f"blog{name}"]["priority"]
    # and asks the same services
    assert routers["blog/former.safe"]["service"] == routers["blog.safe"]["service"]
    assert "blog/former.auth" in former["middlewares"]
    assert set(http["services"]) == set(
        traefik.parse(traefik_site(WANTED))["configuration"]["http"]["services"]
    )

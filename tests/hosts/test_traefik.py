"""The blog behind Traefik on a real host: moved from Caddy, changed under load, moved back."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any

import collection
import lab
import pytest
from sites import (
    CERTIFICATES,
    DOMAIN,
    FILES,
    ROOT,
    VARIABLES,
    OwnAuthority,
    Played,
    Site,
    answered,
    behind_traefik,
    collections_config,
    deploy_blog,
    given_up,
)

GAP = re.compile(
    r"the\s+ports\s+moved\s+to\s+another\s+proxy\s+and\s+were\s+nobody's\s+for\s+([0-9.]+)\s+s"
)


@pytest.fixture(scope="module")
def traefik() -> dict[str, Any]:
    """The variables of the provider."""
    return behind_traefik()


@pytest.fixture(scope="module")
def blog(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OwnAuthority]:
    """The blog on a host of its own, behind Caddy with a given certificate."""
    target = ROOT / ".cache" / "tests"
    collection.install(target / "collections", target / "collection.log")
    directory = tmp_path_factory.mktemp("traefik")
    (directory / "ansible.cfg").write_text(collections_config(target / "collections"))
    group = f"{request.config.getoption('--group')}-traefik"
    lab.down(group)
    try:
        inventory = directory / "hosts.yml"
        site = OwnAuthority(None, directory, [inventory], variables={**VARIABLES, **FILES})
        (site.host,) = lab.up(group, {"proxied": "debian12-prepared"}, inventory)
        site.certify()
        deploy_blog(site)
        yield site
    finally:
        lab.down(group)


def assert_nothing_failed(result: Any, site: Site) -> None:
    """No request failed, none was lost or done twice; how fast a host is, test_rollout asks."""
    print(f"measured: {result.report().splitlines()[0]}")
    assert result.failed == 0, result.report()
    assert result.ok, result.report()
    ledger = result.ledger(site.stored_ids())
    assert ledger.lost == []
    assert ledger.doubled == []


def gap_seconds(played: Played) -> float:
    """For how long nobody had the ports, as the run has told."""
    match = GAP.search(played.output)
    assert match is not None, played.output
    return float(match[1])


def holders(site: Site) -> dict[str, bool]:
    """Which proxies run and come up at boot."""
    found = {}
    for unit in ("caddy.service", "traefik.service", "traefik-websecure.socket"):
        active = site.run(f"systemctl is-active {unit}", check=False).strip() == "active"
        enabled = site.run(f"systemctl is-enabled {unit}", check=False).strip() == "enabled"
        assert active == enabled, unit
        found[unit] = active
    return found


def test_a_live_site_moves_to_traefik(blog: OwnAuthority, traefik: dict[str, Any]) -> None:
    """The gap of the ports is announced and told; what Caddy was answering it finishes."""
    first = blog.serving()
    with blog.load() as load:
        played = blog.deploy(**traefik)
        assert answered(load)
        result = load.stop()
    print(f"measured: to Traefik, gap {gap_seconds(played)} s: {result.report()}")
    assert "gets the ports of this host from caddy" in played.unwrapped
    assert set(result.releases) == {first}
    assert holders(blog) == {
        "caddy.service": False,
        "traefik.service": True,
        "traefik-websecure.socket": True,
    }
    blog.variables.update(traefik)
    assert blog.deploy().changed == 0


def test_second_version_and_rollback_lose_no_request(blog: OwnAuthority) -> None:
    """Changed code goes out, and back, under load."""
    first = blog.serving()
    with blog.load() as load:
        deployed = blog.deploy(blog.variant("same", "second"))
        second = blog.serving()
        rolled_back = blog.play("asgi.deploy.rollback")
        assert answered(load)
        result = load.stop()
    print(f"measured: Traefik: deploy {deployed.seconds:.1f} s, back {rolled_back.seconds:.1f} s")
    assert second != first
    assert blog.serving() == first
    assert list(result.releases) == [first, second]
    assert_nothing_failed(result, blog)


def test_an_instance_that_systemd_gives_up_is_left_to_the_other(blog: OwnAuthority) -> None:
    """Traefik gives each its turn, and asks the other one where there is no listener."""
    with given_up(blog, 2), blog.load() as load:
        assert all(answered(load) for _number in range(10))
        result = load.stop()
    assert_nothing_failed(result, blog)


def test_the_watch_recycles_behind_traefik_too(blog: OwnAuthority) -> None:
    """In its sandbox it writes the site of Traefik, and waits for it to be in use."""
    blog.deploy(
        asgi_service_recycle_memory="200M",
        asgi_service_watch_interval_seconds=1,
        asgi_service_watch_checks=2,
    )
    slot, first = blog.slot(), blog.serving()
    port = blog.run(f"grep -o '127.0.1.%i:[0-9]*' /etc/systemd/system/blog-{slot}@.socket")
    with blog.load() as load:
        allocate = "/debug/allocate?mebibytes=150"
        blog.run(f"curl -sf -X POST 'http://127.0.1.1:{port.strip().split(':')[1]}{allocate}'")
        deadline = time.monotonic() + 240
        while blog.slot() == slot or blog.state()["operation"]:
            assert time.monotonic() < deadline, blog.run("journalctl -u asgi-blog-watch")
            time.sleep(0.2)
        result = load.stop()
    assert blog.state()["history"][-1]["by"] == "watch"
    assert blog.serving() == first
    assert_nothing_failed(result, blog)
    assert blog.deploy().changed == 1


def test_a_certificate_that_cannot_be_read_is_refused(blog: OwnAuthority) -> None:
    """The throw-away Traefik says so; the one that serves is not touched."""
    blog.run(f"install -m 600 {CERTIFICATES}/key.pem {CERTIFICATES}/hidden.pem")
    before = blog.run("cat /etc/traefik/dynamic/blog.yml")
    with blog.load() as load:
        played = blog.role(
            "proxy", expect=2, asgi_proxy_certificate_key_file=f"{CERTIFICATES}/hidden.pem"
        )
        result = load.stop()
    assert "Traefik refuses the new configuration; nothing was changed" in played.output
    assert "hidden.pem" in played.output
    assert blog.run("cat /etc/traefik/dynamic/blog.yml") == before
    assert_nothing_failed(result, blog)


def test_somebodys_broken_file_stops_the_deploy_and_not_the_site(blog: OwnAuthority) -> None:
    """Traefik then takes up no change of anybody: that is told, with the name of the file."""
    blog.run("echo 'http: [' > /etc/traefik/dynamic/theirs.yml")
    try:
        played = blog.role("proxy", expect=2, asgi_proxy_hsts_max_age_seconds=5)
        assert "theirs.yml" in played.output
        assert blog.ask("/healthz")[0] == 200
    finally:
        blog.run("rm /etc/traefik/dynamic/theirs.yml")
    # changes are taken up again
    assert blog.role("proxy", asgi_proxy_hsts_max_age_seconds=5).changed == 1


def test_a_domain_of_another_app_is_rejected(blog: OwnAuthority) -> None:
    before = blog.run("ls -R /etc/traefik; cat /etc/traefik/dynamic/blog.yml")
    played = blog.role("proxy", expect=2, asgi_app_name="shop")
    assert f"asgi_proxy_domains: {DOMAIN} belongs to the site blog too" in played.unwrapped
    assert blog.run("ls -R /etc/traefik; cat /etc/traefik/dynamic/blog.yml") == before
    # beside it, below another path
    own = {"asgi_app_name": "shop", "asgi_proxy_path": "/shop"}
    played = blog.play(blog.playbook_of("proxy"), "--check", **own)
    assert played.changed > 0


def test_a_site_is_not_renamed_while_it_is_live(blog: OwnAuthority) -> None:
    before = blog.run("ls -R /etc/traefik; cat /etc/traefik/dynamic/blog.yml")
    played = blog.role("proxy", expect=2, asgi_proxy_site="www")
    assert "Write asgi_proxy_site: blog" in played.unwrapped, played.output
    assert blog.run("ls -R /etc/traefik; cat /etc/traefik/dynamic/blog.yml") == before


def test_after_a_reboot_the_same_slot_serves(blog: OwnAuthority) -> None:
    serving, slot = blog.serving(), blog.slot()
    blog.host.reboot()
    deadline = time.monotonic() + 240
    while True:
        try:
            assert blog.get("/healthz")["release"] == serving
            break
        except (AssertionError, OSError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
    assert blog.slot() == slot


def test_and_moves_back_to_caddy(blog: OwnAuthority) -> None:
    """With a new version in the same run."""
    key = FILES["asgi_proxy_certificate_key_file"]
    to_caddy = {"asgi_proxy_provider": "caddy", "asgi_proxy_certificate_key_file": key}
    with blog.load() as load:
        played = blog.deploy(blog.variant("same", "third"), **to_caddy)
        assert answered(load)
        result = load.stop()
    print(f"measured: to Caddy, gap {gap_seconds(played)} s: {result.report()}")
    assert holders(blog) == {
        "caddy.service": True,
        "traefik.service": False,
        "traefik-websecure.socket": False,
    }
    blog.variables.update(to_caddy)
    assert blog.deploy().changed == 0

"""Caddy, as far as it need not run: whose files these are, and the switch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import systemd
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.proxies import (
    access_from,
    caddy,
    driver,
    traefik,
)

#: As Debian's package has it.
WELCOME = """\
# The Caddyfile is an easy way to configure your Caddy web server.
#
# Unless the file starts with a global options block, the first
# uncommented line is always the address of your site.

:80 {
	root * /usr/share/caddy
	file_server
}
"""


@pytest.mark.parametrize(
    "text",
    [None, WELCOME, "# Managed by asgi.deploy: changes here are lost at the next deploy.\n{\n}\n"],
)
def test_our_main_file_and_the_packages_may_be_replaced(text: str | None) -> None:
    caddy.refuse_foreign(text)


@pytest.mark.parametrize("text", ["", "shop.example.com {\n}\n", f"shop.example.com\n{WELCOME}"])
def test_somebodys_main_file_is_refused_with_a_way_out(text: str) -> None:
    with pytest.raises(DeployError, match=r"was not written by asgi\.deploy") as caught:
        caddy.refuse_foreign(text)
    assert "/etc/caddy/sites/" in caught.value.message
    assert "asgi_proxy_provider: none" in caught.value.message


@pytest.mark.parametrize("provider", ["caddy", "none"])
def test_the_switch_is_what_the_layout_reads(app: Layout, provider: str) -> None:
    switch = driver(provider).switch
    assert app.serving_slot() == "blue"
    for slot in ("blue", "green", "green", "blue", "blue", "green"):
        switch(app, slot)
        assert app.serving_slot() == slot
    # a temporary file would be found by the matcher of nobody, but would stay for ever
    assert {path.name for path in app.switch_file.parent.iterdir()} <= {"green", "sockets"}


def test_a_foreign_proxy_finds_the_sockets_of_the_serving_slot(app: Layout) -> None:
    link = app.switch_file.parent / "sockets"
    for slot in ("green", "blue"):
        driver("none").switch(app, slot)
        assert link.readlink() == app.socket(slot, 1).parent


def test_an_unknown_proxy_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        DeployError, match="asgi_proxy_provider: 'nginx' is not one of caddy, traefik, none"
    ):
        driver("nginx")


def test_access_takes_what_it_knows() -> None:
    access = access_from({"provider": "caddy", "domain": "blog.test", "of_a_newer_version": 1})
    assert (access.provider, access.domain, access.port) == ("caddy", "blog.test", 443)


@pytest.mark.parametrize(
    ("state", "restart", "action"),
    [
        (("inactive", "dead"), False, "start"),
        (("failed", "failed"), True, "start"),
        (("active", "running"), False, "reload"),
        (("active", "running"), True, "restart"),
    ],
)
def test_how_caddy_takes_it_up(state: tuple[str, str], restart: bool, action: str) -> None:
    active, sub = state
    (caddy_unit,) = systemd.parse_show(f"Id=caddy.service\nActiveState={active}\nSubState={sub}\n")
    assert caddy.action_for(caddy_unit, restart) == action


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Caddy's directory on a host with a site of ours and one of somebody."""
    sites = tmp_path / "caddy" / "sites"
    sites.mkdir(parents=True)
    (sites / "blog.caddy").write_text("# Managed by asgi.deploy: changes here are lost.\n")
    (sites / "theirs.caddy").write_text("shop.test\n")
    monkeypatch.setattr(caddy, "CONFIGURATION", tmp_path / "caddy")
    monkeypatch.setattr(caddy, "MAIN_FILE", tmp_path / "caddy" / "Caddyfile")
    monkeypatch.setattr(caddy, "PENDING", tmp_path / "caddy" / ".pending")
    monkeypatch.setattr(caddy, "UNIT_FILE", tmp_path / "caddy.service")
    monkeypatch.setattr(caddy, "USER", "root")
    return tmp_path / "caddy"


def told_systemd(
    monkeypatch: pytest.MonkeyPatch, state: str, enabled: str, fails: str = ""
) -> list[str]:
    """Makes Caddy's unit so; returns what systemctl is told from now on."""
    calls: list[str] = []

    def systemctl(*arguments: str, **_options: object) -> str:
        if arguments[0] == "show":
            return f"Id=caddy.service\n{state}\nUnitFileState={enabled}\n"
        calls.append(arguments[0])
        if arguments[0] == fails:
            raise DeployError(f"{fails} failed")
        return ""

    monkeypatch.setattr(systemd, "systemctl", systemctl)
    monkeypatch.setattr(systemd, "journal", lambda *_arguments: "")
    return calls


RUNNING = "ActiveState=active\nSubState=running"
STOPPED = "ActiveState=inactive\nSubState=dead"


def test_a_move_to_caddy_is_told_also_where_its_files_are_there(
    etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_systemd(monkeypatch, STOPPED, "disabled")
    monkeypatch.setattr(caddy, "rival", lambda _own: "traefik")
    monkeypatch.setattr(caddy, "refuse_other_sites", lambda *_arguments: None)
    site = etc / "sites" / "blog.caddy"
    told = driver("caddy").configure({site: site.read_text()}, [], {"program": ""}, True)
    assert (told["changed"], told["action"]) == (False, "take over")


def test_what_other_sites_have_is_asked_before_anything_is_touched(
    etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_systemd(monkeypatch, RUNNING, "enabled")
    monkeypatch.setitem(caddy.SITES, "caddy", etc / "sites")
    mark = "# Managed by asgi.deploy: changes here are lost.\n"
    blog, shop, main = etc / "sites" / "blog.caddy", etc / "sites" / "shop.caddy", caddy.MAIN_FILE

    def text(http3: str, domain: str, kind: str = "acme") -> str:
        domains = f'{{"domains": ["{domain}"], "asgi_proxy_certificate": "{kind}"}}'
        return (
            f'{mark}# of the host: {{"asgi_proxy_http3": {http3}}}\n# of its domains: {domains}\n'
        )

    main.write_text(text("false", ""))
    blog.write_text(text("false", "a.test"))

    def configure(site: str) -> dict[str, Any]:
        files = {main: text("true", ""), shop: site}
        return driver("caddy").configure(files, [], {"program": ""}, True)

    with pytest.raises(DeployError, match="asgi_proxy_http3: true is for all sites of this host"):
        configure(text("true", "b.test"))
    with pytest.raises(DeployError, match='asgi_proxy_certificate: "internal" differs from "acme"'):
        configure(text("true", "a.test", "internal"))
    shop.write_text(text("false", "b.test"))
    (warning,) = configure(text("true", "b.test"))["warnings"]
    assert "set it alike for blog" in warning


@pytest.mark.parametrize("provider", [caddy, traefik])
def test_a_balancer_does_not_move_as_nothing_would_give_it_the_ports(
    etc: Path, monkeypatch: pytest.MonkeyPatch, provider: Any
) -> None:
    told = told_systemd(monkeypatch, STOPPED, "disabled")
    own = provider.__name__.rsplit(".", 1)[-1]
    other = {"caddy": "traefik", "traefik": "caddy"}[own]
    monkeypatch.setattr(provider, "rival", lambda _own: other)
    monkeypatch.setattr(traefik, "CONFIGURATION", etc)
    monkeypatch.setattr(traefik, "MAIN_FILE", etc / "Caddyfile")
    services = {"http": {"services": {"@service@": {"loadBalancer": {}}}}}
    site = {"name": "blog", "file": "/x.yml", "servers": [], "configuration": services}
    files = {etc / "Caddyfile": "new", traefik.site_file("blog"): json.dumps(site)}
    settings = {"program": "", "balancer": True, "layout": Layout("blog", etc)}
    with pytest.raises(DeployError, match=f"{other} has the ports of this balancer"):
        driver(own).configure(files, [], settings, check_mode=False)
    assert told == []
    assert not (etc / "Caddyfile").exists()


@pytest.mark.parametrize(("state", "calls"), [(RUNNING, ["reload"]), (STOPPED, [])])
def test_a_site_is_taken_away_and_caddy_is_not_started_for_that(
    etc: Path, monkeypatch: pytest.MonkeyPatch, state: str, calls: list[str]
) -> None:
    """Another proxy may have the ports, or the program may be another one than the default."""
    told = told_systemd(monkeypatch, state, "enabled" if calls else "disabled")
    site = etc / "sites" / "blog.caddy"
    settings = {"program": "/nowhere"}
    assert driver("caddy").configure({}, [site], settings, check_mode=True)["changed"]
    assert site.exists()
    assert driver("caddy").configure({}, [site], settings, check_mode=False)["changed"]
    assert not site.exists()
    assert [verb for verb in told if verb not in ("daemon-reload", "enable")] == calls
    assert bool(calls) or told == []
    assert not driver("caddy").configure({}, [site], settings, check_mode=False)["changed"]


def test_somebodys_site_of_the_same_name_is_left_alone(
    etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told_systemd(monkeypatch, RUNNING, "enabled")
    theirs = etc / "sites" / "theirs.caddy"
    assert not driver("caddy").configure({}, [theirs], {"program": ""}, False)["changed"]
    assert theirs.exists()


def test_a_caddy_that_does_not_start_is_not_started_at_boot(
    etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = told_systemd(monkeypatch, STOPPED, "disabled", fails="start")
    monkeypatch.setattr(caddy, "validate", lambda *_arguments: None)
    monkeypatch.setattr(caddy, "rival", lambda _own: "")
    with pytest.raises(DeployError, match="the former configuration is back"):
        driver("caddy").configure({etc / "Caddyfile": "new"}, [], {"program": ""}, False)
    assert told.index("disable") > told.index("start")
    assert not (etc / "Caddyfile").exists()


SITE = """\
handle @green {
	reverse_proxy @once_green unix//run/asgi/blog/green/1.sock unix//run/asgi/blog/green/2.sock {
		lb_policy least_conn
	}
	reverse_proxy unix//run/asgi/blog/green/1.sock unix//run/asgi/blog/green/2.sock {
		lb_policy least_conn
	}
}
handle {
	reverse_proxy unix//run/asgi/blog/blue/1.sock unix//run/asgi/blog/blue/2.sock {
		lb_policy least_conn
	}
}
"""


def test_a_slot_is_asked_for_as_many_instances_as_it_has() -> None:
    """The setting for several is there where there are several, whatever was before."""
    assert caddy.instances(SITE) == {"green": 2, "blue": 2}
    assert caddy.instances(None) == {}
    both = caddy.with_instances(SITE, {})
    assert both.count("\t\tfail_duration 1s\n\t\tlb_policy") == 3
    assert caddy.with_instances(both, {"green": 2}) == both
    grown = caddy.with_instances(both, {"green": 3, "blue": 1})
    assert caddy.instances(grown) == {"green": 3, "blue": 1}
    assert grown.count(" unix//run/asgi/blog/green/3.sock {\n\t\t# another one") == 2
    assert grown.count("reverse_proxy @once_green unix//run/asgi/blog/green/1.sock") == 1
    assert "blue/1.sock {\n\t\tlb_policy" in grown
    assert grown.count("fail_duration") == 2
    assert caddy.with_instances(grown, {"green": 2, "blue": 2}) == both
    balancer = "reverse_proxy https://web1:443 https://web2:443 {\n\tlb_policy first\n}\n"
    assert caddy.with_instances(balancer, {"green": 3}) == balancer


@pytest.mark.parametrize("fails", ["", "reload"])
def test_a_rollout_tells_caddy_how_many_there_are(
    app: Layout, etc: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    """Where there were others before; what Caddy does not take up is put back."""
    told = told_systemd(monkeypatch, RUNNING, "enabled", fails)
    monkeypatch.setitem(caddy.SITES, "caddy", etc / "sites")
    monkeypatch.setattr(caddy.slots, "enabled_instances", lambda _app, _slot: 2)
    site = etc / "sites" / "blog.caddy"
    text = caddy.with_instances(SITE, {"green": 1})
    site.write_text(text)
    caddy.know_instances(app, "blue")
    assert (told, site.read_text()) == ([], text)
    if fails:
        with pytest.raises(DeployError, match="reload failed"):
            caddy.know_instances(app, "green")
        assert site.read_text() == text
    else:
        caddy.know_instances(app, "green")
        assert caddy.instances(site.read_text()) == {"green": 2, "blue": 2}
    assert told == ["reload"]
    assert not caddy.PENDING.exists()


def test_a_site_keeps_how_many_instances_its_slots_have(
    etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the rollout: those that are to come are not there yet."""
    told_systemd(monkeypatch, RUNNING, "enabled")
    monkeypatch.setattr(caddy, "rival", lambda _own: "")
    site = etc / "sites" / "blog.caddy"
    mark = "# Managed by asgi.deploy: changes here are lost.\n"
    site.write_text(mark + caddy.with_instances(SITE, {"green": 1}))
    same = driver("caddy").configure({site: mark + SITE}, [], {"program": ""}, True)
    assert not same["changed"]

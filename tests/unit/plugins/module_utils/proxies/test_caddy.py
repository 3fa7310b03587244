"""Caddy, as far as it need not run: whose files these are, and the switch."""

from __future__ import annotations

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import systemd
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.proxies import access_from, caddy, driver

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
    with pytest.raises(DeployError, match="asgi_proxy_provider: 'nginx' is not one of caddy, none"):
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

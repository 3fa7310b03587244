"""Apps that share a proxy: what is rejected before the proxy is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.proxies import driver, handover, traefik
from templates.render import fill, proxy_task, role_tasks_of
from templates.scenarios import SHARED_ADDRESSES, SHARING, TRAEFIK

TOKEN = "t0ken-of-the-provider"
DNS: dict[str, Any] = {
    "asgi_proxy_acme_challenge": "dns-01",
    "asgi_proxy_acme_dns_provider": "cloudflare",
    "asgi_proxy_acme_dns_environment": {"CF_DNS_API_TOKEN": TOKEN},
}


class Host:
    """A host whose Traefik runs, with its files in a directory of the test."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("dynamic", "sites"):
            (directory / name).mkdir()

    def files(self, app: str, given: dict[str, Any]) -> dict[Path, str]:
        """What the role gives the module for an app, but units."""
        variables = {
            **TRAEFIK,
            "asgi_app_name": app,
            "asgi_proxy_domains": [f"{app}.test"],
            **given,
        }
        task = proxy_task("traefik")
        rendered = {
            fill("proxy", file["path"], variables): fill("proxy", file["content"], variables)
            for file in task["asgi.deploy.proxy_config"]["files"]
        }
        return {
            Path(path.replace("/etc/traefik", str(self.directory))): text.replace(
                "/etc/traefik", str(self.directory)
            )
            for path, text in rendered.items()
            if not path.startswith("/etc/systemd/")
        }

    def configure(self, app: str, given: dict[str, Any], check_mode: bool = True) -> list[str]:
        """Has the driver deploy the site of an app, and returns its warnings."""
        settings = {"program": "/x", "layout": Layout(app, self.directory / app)}
        result = driver("traefik").configure(self.files(app, given), [], settings, check_mode)
        warnings: list[str] = result["warnings"]
        return warnings

    def install(self, app: str, given: dict[str, Any]) -> None:
        """Puts the files of an app in place, as a deploy leaves them."""
        for path, text in self.files(app, given).items():
            path.write_text(text)
        site = traefik.parse(traefik.site_file(app).read_text())
        (self.directory / "dynamic" / f"{app}.yml").write_text(traefik.render(site, "blue", [])[1])

    def text(self) -> str:
        """All that is in its files."""
        return "".join(path.read_text() for path in self.directory.rglob("*") if path.is_file())


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host with no app."""
    places = {
        "CONFIGURATION": tmp_path,
        "SITES": tmp_path / "sites",
        "DYNAMIC": tmp_path / "dynamic",
        "MAIN_FILE": tmp_path / "traefik.yml",
        "ENVIRONMENT_FILE": tmp_path / "environment",
        "PENDING": tmp_path / ".pending",
    }
    for name, path in places.items():
        monkeypatch.setattr(traefik, name, path)
    monkeypatch.setattr(traefik, "rival", lambda _own: "")
    monkeypatch.setattr(traefik, "ready", lambda: True)
    monkeypatch.setattr(traefik, "action_for", lambda _changed: "reload")
    monkeypatch.setattr(traefik.slots, "enabled_instances", lambda *_words: 0)
    return Host(tmp_path)


@pytest.mark.parametrize(
    ("first", "second", "variable"),
    [
        (DNS, {**DNS, "asgi_proxy_acme_dns_environment": {}}, "asgi_proxy_acme_dns_environment"),
        (
            DNS,
            {**DNS, "asgi_proxy_acme_dns_environment": {"CF_DNS_API_TOKEN": "another-token"}},
            "asgi_proxy_acme_dns_environment",
        ),
        ({"asgi_proxy_http3": False}, {}, "asgi_proxy_http3"),
        ({"asgi_proxy_metrics_address": "127.0.0.1:9100"}, {}, "asgi_proxy_metrics_address"),
        ({"asgi_proxy_https_port": 8443}, {}, "asgi_proxy_https_port"),
    ],
)
def test_an_app_does_not_undo_what_another_has_set_for_the_host(
    host: Host, first: dict[str, Any], second: dict[str, Any], variable: str
) -> None:
    host.install("blog", first)
    with pytest.raises(
        DeployError, match=rf"{variable}: .* undone for blog\. Set it alike"
    ) as error:
        host.configure("shop", second)
    assert TOKEN not in str(error.value)
    assert TOKEN not in host.text()
    # what is set alike is accepted, and so is a change by the app itself
    host.configure("shop", first)
    host.configure("blog", second)


def test_a_setting_of_the_host_can_be_changed_app_by_app(host: Host) -> None:
    for app in ("blog", "shop"):
        host.install(app, {})
    (warning,) = host.configure("blog", {"asgi_proxy_http3": False})
    assert warning.startswith("asgi_proxy_http3: false")
    assert "set it alike for shop" in warning
    host.install("blog", {"asgi_proxy_http3": False})
    assert host.configure("shop", {"asgi_proxy_http3": False}) == []


@pytest.mark.parametrize("path", ["", "/shop"])
@pytest.mark.parametrize("name", SHARED_ADDRESSES)
def test_an_address_belongs_to_one_app(host: Host, name: str, path: str) -> None:
    given, variable, address = SHARED_ADDRESSES[name]
    host.install("blog", {**SHARING, "asgi_proxy_path": path})
    before = host.text()
    if given.get("asgi_proxy_path") and path:
        variable, address = "asgi_proxy_domains", "a.test"
    given = {"asgi_proxy_path": path, **given}
    if not variable:
        host.configure("shop", given)
        return
    with pytest.raises(DeployError) as caught:
        host.configure("shop", given, check_mode=False)
    message = caught.value.message
    assert f"{variable}: {address}{path} belongs to the site blog too" in message
    assert message.endswith("Nothing was changed.")
    assert host.text() == before
    # its own file is not in the way
    assert host.configure("blog", {**SHARING, "asgi_proxy_path": path}) == []


SOMEBODYS = {
    "yml": "http:\n  routers:\n    x:\n      rule: Host(`own.test`) || Host(`Shop.test`)\n",
    "toml": '[http.routers.x]\n  rule = \'Host("shop.test") && PathPrefix("/")\'\n',
}


@pytest.mark.parametrize("suffix", SOMEBODYS)
def test_an_address_in_somebodys_file_is_not_taken(host: Host, suffix: str) -> None:
    path = host.directory / "dynamic" / "below" / f"theirs.{suffix}"
    path.parent.mkdir()
    path.write_text(SOMEBODYS[suffix])
    with pytest.raises(DeployError, match=rf"shop\.test belongs to .* theirs too \({path}\)"):
        host.configure("shop", {})


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ("Host(`a.test`)", {("a.test", "")}),
        ("HostRegexp(`^[^.]+\\.a\\-b\\.test$`)", {("*.a-b.test", "")}),
        ("(Host(`a`) || Host(`b`)) && PathPrefix(`/x/`)", {("a", "/x"), ("b", "/x")}),
        # what is below a path only in part, or has conditions of its own
        ("Host(`a`) && Path(`/x`)", set()),
        ("Host(`a`) && Header(`X-Y`, `1`)", set()),
        ("Host(`a`) && ClientIP(`10.0.0.1`)", set()),
        ("!Host(`a`)", set()),
        ("PathPrefix(`/x`)", set()),
    ],
)
def test_the_addresses_of_a_rule(rule: str, found: set[tuple[str, str]]) -> None:
    assert traefik.rule_addresses(rule) == found


def test_metrics_at_an_address_of_another_host_touch_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """192.0.2.1 is in no network: RFC 5737."""
    monkeypatch.setattr(handover.systemd, "show", lambda _units: [])
    monkeypatch.setattr(traefik, "refuse_taken_ports", lambda *_words: None)
    monkeypatch.setattr(traefik, "validate", lambda *_words: pytest.fail("it was touched"))
    given = {"asgi_proxy_metrics_address": "192.0.2.1:9100"}
    with pytest.raises(DeployError, match=r"asgi_proxy_metrics_address: 192\.0\.2\.1:9100 cannot"):
        host.configure("blog", given, check_mode=False)
    assert host.text() == ""


def test_a_package_of_caddy_is_replaced_only_after_other_apps_were_checked() -> None:
    tasks = role_tasks_of("proxy", "caddy")
    included = [task.get("ansible.builtin.include_tasks") for task in tasks]
    check = {"file": "caddy_configure.yml", "apply": {"check_mode": True}}
    assert included.index(check) < included.index("caddy_repository.yml")
    assert included[-1] == "caddy_configure.yml"

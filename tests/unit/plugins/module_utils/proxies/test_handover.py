"""From one proxy to the other: who gives way to whom, and who is left alone."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import systemd
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.proxies import (
    caddy,
    driver,
    handover,
    traefik,
)
from ansible_collections.asgi.deploy.plugins.module_utils.systemd import UnitStatus

OURS = "# Managed by asgi.deploy: changes here are lost at the next deploy.\n"


class Host:
    """A host whose systemd does what it is told."""

    def __init__(self, directory: Path, running: Sequence[str]) -> None:
        self.directory = directory
        self.active = set(running)
        self.enabled = set(running)
        #: Of units that are neither active nor inactive.
        self.states: dict[str, str] = {}
        self.calls: list[str] = []

    def show(self, units: Sequence[str]) -> list[UnitStatus]:
        """Tells the status of units."""
        return [
            UnitStatus(
                name=unit,
                active_state=self.states.get(unit, "active" if unit in self.active else "inactive"),
                sub_state="running",
                result="",
                main_pid=0,
                restarts=0,
                exit_code=None,
                memory_bytes=None,
                memory_max_bytes=None,
                since="",
                enabled=unit in self.enabled,
            )
            for unit in units
        ]

    def systemctl(self, verb: str, *arguments: str, **_options: object) -> str:
        """Does what systemctl would."""
        units = {word for word in arguments if not word.startswith("--")}
        self.calls.append(verb)
        if verb in ("stop", "start", "reset-failed"):
            for unit in units:
                self.states.pop(unit, None)
        if verb == "reset-failed":
            return ""
        if verb in ("enable", "disable"):
            self.enabled = self.enabled | units if verb == "enable" else self.enabled - units
        else:
            self.active = self.active | units if verb == "start" else self.active - units
        return ""


def make(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ours: Sequence[str], running: Sequence[str]
) -> Host:
    """Makes a host with unit files of ours and running units; nobody listens on its ports."""
    for name in ours:
        (tmp_path / f"{name}.service").write_text(OURS)
    host = Host(tmp_path, running)
    monkeypatch.setattr(systemd, "SYSTEM_UNITS", tmp_path)
    monkeypatch.setattr(systemd, "show", host.show)
    monkeypatch.setattr(systemd, "systemctl", host.systemctl)
    monkeypatch.setattr(handover, "listening", lambda _ports: "caddy.service" in host.active)
    return host


def test_the_ports_are_taken_over_and_the_next_boot_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make(tmp_path, monkeypatch, ["caddy", "traefik"], ["caddy.service"])
    assert handover.rival("traefik") == "caddy"
    assert handover.rival("caddy") == ""
    handover.take_over("traefik", lambda: [80, 443])
    assert host.active == host.enabled == set(handover.UNITS["traefik"])
    # what comes at boot is right before the first port is given up
    assert host.calls == ["enable", "disable", "stop", "reset-failed", "start"]
    host.calls.clear()
    assert handover.take_over("traefik", lambda: [80, 443]) == 0
    assert host.calls == []
    handover.take_over("caddy", lambda: [80, 443])
    assert host.active == host.enabled == {"caddy.service"}


def test_somebodys_own_caddy_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = make(tmp_path, monkeypatch, ["traefik"], ["caddy.service"])
    (tmp_path / "caddy.service").write_text("[Service]\nExecStart=/opt/theirs/caddy\n")
    assert handover.rival("traefik") == ""
    assert handover.take_over("traefik", lambda: [443]) == 0
    assert host.active == {"caddy.service"}


def test_ports_that_are_not_given_up_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, monkeypatch, ["caddy"], ["caddy.service"])
    monkeypatch.setattr(handover, "listening", lambda _ports: True)
    monkeypatch.setattr(handover, "PORTS_TIMEOUT_SECONDS", 0.05)
    with pytest.raises(DeployError, match="did not free the ports 80, 443 within"):
        handover.take_over("traefik", lambda: [80, 443])


def test_a_proxy_with_other_sites_is_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(handover.SITES, "caddy", tmp_path)
    (tmp_path / "blog.caddy").write_text("")
    handover.refuse_other_sites("caddy", ["blog"])
    (tmp_path / "shop.caddy").write_text("")
    with pytest.raises(DeployError, match=r"caddy has the ports .*/shop\.caddy\. They would be"):
        handover.refuse_other_sites("caddy", ["blog"])


@pytest.mark.parametrize("own", ["caddy", "traefik"])
def test_a_rollback_to_a_former_proxy_is_refused_while_the_other_serves_other_apps(
    app: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str
) -> None:
    """The site of the app may be called otherwise than the app."""
    other = {"caddy": "traefik", "traefik": "caddy"}[own]
    make(tmp_path, monkeypatch, ["caddy", "traefik"], handover.UNITS[other])
    for name in handover.SITES:
        (tmp_path / name).mkdir()
        monkeypatch.setitem(handover.SITES, name, tmp_path / name)
    monkeypatch.setattr(traefik, "SITES", tmp_path)
    traefik.site_file("blog").write_text('{"name": "www"}')
    (tmp_path / "caddy" / "www.caddy").write_text("reverse_proxy unix//run/asgi/blog/blue/1.sock")
    (tmp_path / "traefik" / "www.yml").write_text("")
    driver(own).refuse_switch(app)
    (tmp_path / other / "shop.yml").write_text("")
    with pytest.raises(DeployError, match="serves other sites too"):
        driver(own).refuse_switch(app)
    # the one that has the ports may go on
    driver(other).refuse_switch(app)


@pytest.mark.parametrize("state", ["activating", "deactivating", "failed", "reloading"])
def test_a_proxy_that_does_not_come_up_gives_the_ports_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """systemd may be about to start it again."""
    host = make(tmp_path, monkeypatch, ["caddy", "traefik"], handover.UNITS["traefik"])
    host.active.clear()
    host.states = {"traefik.service": state}
    assert handover.rival("caddy") == "traefik"
    handover.take_over("caddy", lambda: [80, 443])
    assert (host.active, host.enabled) == ({"caddy.service"}, {"caddy.service"})
    assert ("stop" in host.calls) is (state != "failed")


@pytest.mark.parametrize("own", ["caddy", "traefik"])
@pytest.mark.parametrize("then", ["finished", "taken back"])
@pytest.mark.parametrize("killed_at", ["disable", "stop", "wait", "start"])
def test_a_handover_that_was_killed_is_finished_or_taken_back_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, then: str, killed_at: str
) -> None:
    """Either way one of them has the ports."""
    other = {"caddy": "traefik", "traefik": "caddy"}[own]
    wanted = own if then == "finished" else other
    host = make(tmp_path, monkeypatch, ["caddy", "traefik"], handover.UNITS[other])

    def systemctl(verb: str, *arguments: str, **_options: object) -> str:
        if verb == killed_at:
            raise KeyboardInterrupt
        return host.systemctl(verb, *arguments)

    def wait(*_arguments: object) -> None:
        if killed_at == "wait":
            raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(systemd, "systemctl", systemctl)
        killed.setattr(handover, "wait_until", wait)
        with pytest.raises(KeyboardInterrupt):
            handover.take_over(own, lambda: [80, 443])
    handover.take_over(wanted, lambda: [80, 443])
    assert host.active == host.enabled == set(handover.UNITS[wanted])


def test_a_proxy_that_somebody_has_stopped_and_disabled_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make(tmp_path, monkeypatch, ["caddy", "traefik"], [])
    assert handover.take_over("caddy", lambda: [443]) == 0
    assert host.calls == []


def test_one_that_has_the_ports_already_does_not_wait_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The former one may still be answering its last requests."""
    host = make(tmp_path, monkeypatch, ["caddy", "traefik"], ["caddy.service"])
    host.states = {"traefik.service": "deactivating"}
    assert handover.take_over("caddy", lambda: 1 / 0) == 0  # type: ignore[arg-type,return-value]
    assert host.active == {"caddy.service"}


def test_a_proxy_that_only_its_package_has_enabled_has_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = make(tmp_path, monkeypatch, ["caddy", "traefik"], handover.UNITS["traefik"])
    host.enabled.add("caddy.service")
    assert handover.rival("traefik") == ""
    # one that is to run and does not gives way as one that runs
    host.active.clear()
    assert handover.rival("traefik") == "caddy"


def test_a_port_of_another_program_is_refused_and_the_own_one_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host = Host(tmp_path, ["caddy.service"])
    monkeypatch.setattr(systemd, "show", host.show)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        handover.refuse_taken_ports(["caddy.service"], [port], [port])
        with pytest.raises(DeployError, match=f"port {port} of the proxy: address already in use"):
            handover.refuse_taken_ports(["caddy.service"], [80], [port])
        host.active.clear()
        # a proxy that is stopped has no port
        with pytest.raises(DeployError, match="by another program"):
            handover.refuse_taken_ports(["caddy.service"], [port], [port])
    handover.refuse_taken_ports(["caddy.service"], [], [port])


def test_the_ports_of_a_main_file_are_read() -> None:
    assert caddy.ports("{\n\thttp_port 8080\n\thttps_port 8443\n}\n") == [8080, 8443]
    assert caddy.ports(f"{caddy.PACKAGED}\n:80 {{\n}}\n") == [80, 443]
    assert caddy.ports(None) == []
    main = traefik.format_file({"entryPoints": {"web": {"address": "127.0.0.1:9180"}}})
    assert traefik.main_ports(main) == {"web": 9180}
    assert traefik.main_ports(None) == {}


CADDY_METRICS = "{{\n}}\n\nhttp://{0} {{\n\tmetrics\n}}\n"
TRAEFIK_METRICS = """\
# Managed by asgi.deploy: changes here are lost at the next deploy.
{{
    "entryPoints": {{
        "metrics": {{
            "address": "{0}"
        }}
    }},
    "metrics": {{
        "prometheus": {{"entryPoint": "metrics"}}
    }}
}}
"""


@pytest.mark.parametrize(
    ("own", "template"), [("caddy", CADDY_METRICS), ("traefik", TRAEFIK_METRICS)]
)
def test_an_address_of_metrics_that_cannot_be_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: str, template: str
) -> None:
    host = make(tmp_path, monkeypatch, ["caddy", "traefik"], handover.UNITS[own])

    def refuse(before: str, after: str) -> None:
        texts = [template.format(one) if one else "{}" for one in (before, after)]
        handover.refuse_metrics_address(own, *texts)

    refuse("", "")
    # for documentation: no host has it (RFC 5737)
    with pytest.raises(DeployError, match=r"asgi_proxy_metrics_address: 192\.0\.2\.1:9 cannot"):
        refuse("192.0.2.1:9", "192.0.2.1:9")
    for family, address, text in (
        (socket.AF_INET, "127.0.0.1", "127.0.0.1:{0}"),
        (socket.AF_INET6, "::1", "[::1]:{0}"),
    ):
        with socket.socket(family) as other:
            other.bind((address, 0))
            other.listen()
            taken = text.format(other.getsockname()[1])
            with pytest.raises(DeployError, match="in use; nothing was changed"):
                refuse("", taken)
            # it is the proxy itself that has it
            refuse(taken, taken)
        refuse("", taken)
    # the proxy that has it gives way
    host.active, host.enabled = set(), set()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(DeployError, match="in use"):
            refuse(taken, taken)
        (rival,) = handover.rivals(own)
        host.active = set(handover.UNITS[rival])
        refuse("", taken)

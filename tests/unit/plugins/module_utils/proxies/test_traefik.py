"""Traefik, as far as it need not run: its files for a slot, and what is told of a candidate."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import slots, systemd
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.proxies import driver, shared, traefik
from ansible_collections.asgi.deploy.plugins.module_utils.systemd import UnitStatus

UNITS = slots.SlotUnits("", "[Socket]\nListenStream=127.0.1.%i:@port@\n", "", 20000)
UNIX = slots.SlotUnits("", "[Socket]\nListenStream=/run/asgi/blog/%j/%i.sock\n", "")


@pytest.fixture
def site(tmp_path: Path) -> dict[str, Any]:
    """What the role has put on a host."""
    return {
        "name": "blog",
        "file": str(tmp_path / "dynamic" / "blog.yml"),
        "configuration": {
            "http": {
                "routers": {
                    "blog": {"service": "@service@"},
                    "blog.ready": {"service": "@service@"},
                },
                "middlewares": {"blog.slot": {"headers": {"X-Asgi-Slot": "@slot@"}}},
                "services": {"@service@": {"loadBalancer": {"servers": []}}},
            },
            "tls": {"certificates": [{"certFile": "/etc/x.pem", "keyFile": "/etc/x.key"}]},
        },
    }


@pytest.fixture
def host(
    app: Layout, site: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Layout:
    """An app with its site on a host whose Traefik does not run."""
    (tmp_path / "dynamic").mkdir()
    (tmp_path / "sites").mkdir()
    monkeypatch.setattr(traefik, "SITES", tmp_path / "sites")
    traefik.site_file("blog").write_text(traefik.format_file(site))

    def written(texts: dict[Path, str | None]) -> None:
        for path, text in texts.items():
            if text is None:
                path.unlink(missing_ok=True)
            else:
                path.write_text(text)

    monkeypatch.setattr(traefik, "write_files", written)

    def show(units: list[str]) -> list[UnitStatus]:
        return [
            UnitStatus(unit, "inactive", "dead", "", 0, 0, None, None, None, "", False)
            for unit in units
        ]

    monkeypatch.setattr(systemd, "show", show)
    return app


def prepare(app: Layout, slot: str, units: slots.SlotUnits, instances: int) -> None:
    """Gives a slot its units and enables instances."""
    for path, text in slots.unit_files(app, slot, units).items():
        path.write_text(text)
    wants = app.unit_file(slot, "service").parent / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    for unit in app.units(slot, instances):
        (wants / unit).symlink_to("/dev/null")


def asked(site: dict[str, Any]) -> tuple[list[str], str]:
    """Which servers the file in Traefik's directory names, and which slot it says it is."""
    http = traefik.parse(Path(site["file"]).read_text())["http"]
    service = http["services"][http["routers"]["blog"]["service"]]
    servers = [server["url"] for server in service["loadBalancer"]["servers"]]
    return servers, http["middlewares"]["blog.slot"]["headers"]["X-Asgi-Slot"]


def test_the_switch_names_the_instances_of_the_slot(host: Layout, site: dict[str, Any]) -> None:
    prepare(host, "blue", UNITS, 1)
    prepare(host, "green", UNITS, 3)
    driver("traefik").switch(host, "green")
    assert host.serving_slot() == "green"
    assert asked(site) == ([f"http://127.0.1.{n}:20001" for n in (1, 2, 3)], "green")
    driver("traefik").switch(host, "blue")
    assert host.serving_slot() == "blue"
    assert asked(site) == (["http://127.0.1.1:20000"], "blue")


def test_a_balancer_is_told_that_the_host_is_not_ready(host: Layout, site: dict[str, Any]) -> None:
    """By a service without servers; the app itself is asked as before, also by a switch."""
    prepare(host, "blue", UNITS, 1)
    prepare(host, "green", UNITS, 1)
    driver("traefik").switch(host, "blue")
    ready = Path(site["file"]).read_text()
    host.draining_file.parent.mkdir()
    host.draining_file.touch()
    for tell in (
        lambda: driver("traefik").tell_balancer(host),
        lambda: driver("traefik").switch(host, "green"),
    ):
        tell()
        http = traefik.parse(Path(site["file"]).read_text())["http"]
        assert asked(site)[0]
        told = http["routers"]["blog.ready"]["service"]
        assert told != http["routers"]["blog"]["service"]
        assert http["services"][told] == {"loadBalancer": {"servers": []}}
    driver("traefik").switch(host, "blue")
    host.draining_file.unlink()
    driver("traefik").tell_balancer(host)
    assert Path(site["file"]).read_text() == ready


def test_an_app_that_has_moved_to_another_proxy_gets_no_file(
    host: Layout, site: dict[str, Any]
) -> None:
    host.draining_file.parent.mkdir()
    host.draining_file.touch()
    driver("traefik").tell_balancer(host)
    assert not Path(site["file"]).exists()
    traefik.site_file("blog").unlink()
    driver("traefik").tell_balancer(host)


def test_a_run_killed_in_the_switch_is_turned_to_what_the_switch_names(
    host: Layout, site: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the recovery does: it reads the switch, and turns the proxy to it once more."""
    for slot in ("blue", "green"):
        prepare(host, slot, UNITS, 1)
    with monkeypatch.context() as killed:
        killed.setattr(traefik, "turn_switch", lambda *_arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            driver("traefik").switch(host, "green")
    # both slots run, so either is whole
    assert (host.serving_slot(), asked(site)[1]) == ("blue", "green")
    driver("traefik").switch(host, host.serving_slot())
    assert (host.serving_slot(), asked(site)[1]) == ("blue", "blue")


def test_a_slot_on_unix_sockets_has_nothing_that_traefik_could_ask(
    host: Layout, site: dict[str, Any]
) -> None:
    prepare(host, "blue", UNIX, 2)
    driver("traefik").switch(host, "blue")
    assert asked(site) == ([], "blue")


def test_without_a_site_the_switch_says_what_to_do(app: Layout) -> None:
    with pytest.raises(DeployError, match=r"Traefik has no site of blog .* site playbook"):
        driver("traefik").switch(app, "green")


def test_the_name_of_the_service_tells_any_difference(site: dict[str, Any]) -> None:
    names = {
        traefik.render(site, slot, urls)[0] for slot in ("blue", "green") for urls in ([], ["a"])
    }
    site["configuration"]["http"]["routers"]["blog"]["rule"] = "x"
    names.add(traefik.render(site, "blue", [])[0])
    assert len(names) == 5
    assert traefik.render(site, "blue", []) == traefik.render(site, "blue", [])
    assert all(name.startswith(("blog-blue-", "blog-green-")) for name in names)


def test_a_file_of_ours_is_a_comment_and_json() -> None:
    text = traefik.format_file({"b": "# no comment", "a": [1]})
    assert text.splitlines()[0].startswith("# Managed by asgi.deploy")
    assert traefik.parse(text) == {"a": [1], "b": "# no comment"}


def test_our_main_file_may_be_replaced_and_somebodys_not() -> None:
    traefik.refuse_foreign(None)
    traefik.refuse_foreign(traefik.format_file({}))
    with pytest.raises(DeployError, match=r"was not written by asgi\.deploy") as caught:
        traefik.refuse_foreign("entryPoints: {}\n")
    assert "/etc/traefik/dynamic/" in caught.value.message


@pytest.mark.parametrize(
    ("entry", "ended", "told"),
    [
        ({"level": "info", "message": "Starting provider *file.Provider"}, False, []),
        ({"level": "error", "providerName": "asgi.acme", "message": "no"}, False, []),
        (
            {"level": "error", "error": "a.yml: bad", "message": "Cannot start *file.Provider"},
            False,
            ["Cannot start *file.Provider: a.yml: bad"],
        ),
        ({"level": "error", "message": "pair", "error": "/etc/x.key: no"}, False, ["pair: /etc/x"]),
        (
            {"level": "error", "error": "field not found", "message": "Command error"},
            True,
            ["Comm"],
        ),
        ({"level": "error", "routerName": "of-others@file", "message": "x"}, False, []),
    ],
)
def test_of_the_candidates_log_only_what_keeps_the_site_from_working_is_told(
    site: dict[str, Any], entry: dict[str, str], ended: bool, told: list[str]
) -> None:
    found = traefik.log_errors(f"{json.dumps(entry)}\n", site, ended)
    assert len(found) == len(told)
    assert all(line.startswith(start) for line, start in zip(found, told, strict=True))


def test_the_log_of_the_candidate_is_no_file_that_its_user_could_replace(
    site: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("of root")
    directory = tmp_path / "candidate"
    directory.mkdir()
    (directory / "log").symlink_to(victim)
    program = tmp_path / "traefik"
    # in one write: it is killed as soon as its first error is read
    program.write_text("#!/bin/sh\nprintf 'error: one\\nerror: two\\n'\nexit 3\n")
    program.chmod(0o755)

    @contextlib.contextmanager
    def candidate(*_arguments: object) -> Iterator[Path]:
        yield directory / "traefik.yml"

    monkeypatch.setattr(traefik, "candidate", candidate)
    monkeypatch.setattr(traefik, "identity", lambda _user: {})
    with pytest.raises(DeployError) as caught:
        traefik.validate(str(program), {}, site)
    told = caught.value.message.splitlines()[1:]
    assert told in (
        ["error: one", "error: two"],
        ["it ended with code 3", "error: one", "error: two"],
    )
    assert victim.read_text() == "of root"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("field not found, node: aliasHeadersStrategy", "needs Traefik 3.7.12 or newer"),
        ("address already in use", ""),
    ],
)
def test_of_a_release_that_is_too_old_is_said_which_one_is_needed(
    site: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, told: str
) -> None:
    program = tmp_path / "traefik"
    entry = json.dumps({"level": "error", "error": said, "message": "Command error"})
    program.write_text(f"#!/bin/sh\necho '{entry}' >&2\nexit 1\n")
    program.chmod(0o755)

    @contextlib.contextmanager
    def candidate(*_arguments: object) -> Iterator[Path]:
        yield tmp_path / "traefik.yml"

    monkeypatch.setattr(traefik, "candidate", candidate)
    monkeypatch.setattr(traefik, "identity", lambda _user: {})
    monkeypatch.setattr(traefik, "judged", lambda process, *_rest: [str(process.wait())])
    with pytest.raises(DeployError, match=said) as caught:
        traefik.validate(str(program), {}, site)
    assert ("asgi_proxy_traefik_source" in caught.value.message) is bool(told)
    assert told in caught.value.message


def test_a_site_is_taken_away_and_nothing_is_started(host: Layout, site: dict[str, Any]) -> None:
    driver("traefik").switch(host, "blue")
    files = [Path(site["file"]), traefik.site_file("blog")]
    settings = {"program": "/nowhere", "layout": host}
    told = driver("traefik").configure({}, files, settings, check_mode=True)
    assert told["changed"]
    assert all(path.exists() for path in files)
    assert driver("traefik").configure({}, files, settings, check_mode=False)["changed"]
    assert not any(path.exists() for path in files)
    assert not driver("traefik").configure({}, files, settings, check_mode=False)["changed"]


def test_somebodys_file_of_the_same_name_is_left_alone(host: Layout, site: dict[str, Any]) -> None:
    theirs = Path(site["file"])
    theirs.write_text("http: {}\n")
    told = driver("traefik").configure({}, [theirs], {"layout": host}, check_mode=False)
    assert not told["changed"]
    assert theirs.exists()


def test_what_dns_providers_read_stays_while_there_are_other_sites(
    host: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = tmp_path / "environment"
    environment.write_text("# Managed by asgi.deploy\nTOKEN=1\n")
    monkeypatch.setattr(traefik, "ENVIRONMENT_FILE", environment)
    monkeypatch.setattr(traefik, "DYNAMIC", tmp_path / "dynamic")
    other = tmp_path / "dynamic" / "shop.yml"
    other.write_text("{}")
    assert driver("traefik").configure({}, [environment], {}, False)["changed"] is False
    other.unlink()
    assert driver("traefik").configure({}, [environment], {}, False)["changed"] is True
    assert not environment.exists()


def test_a_changed_password_is_another_file(host: Layout, site: dict[str, Any]) -> None:
    """For a rollback too, which knows of it from the host only."""
    prepare(host, "blue", UNITS, 1)

    def text() -> str:
        driver("traefik").switch(host, "blue")
        return Path(site["file"]).read_text()

    before = text()
    assert text() == before
    traefik.users_file(site).write_text("ann:another")
    assert text() != before


def test_other_sites_are_named_when_the_proxy_as_a_whole_changes() -> None:
    (told,) = shared.told_of_shared([traefik.MAIN_FILE], ["shop", "blog"])
    assert told.startswith("/etc/traefik/traefik.yml changes for all sites of this proxy")
    assert "also for blog, shop" in told
    assert shared.told_of_shared([], ["shop"]) == []
    assert shared.told_of_shared([traefik.MAIN_FILE], []) == []

"""A fleet of three hosts: one version everywhere, whatever fails on one of them."""

from __future__ import annotations

import dataclasses
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lab
import pytest
from sites import ROOT, Site, collections_config

HELLO = ROOT / "examples" / "hello"
GROUP = "fleet"
NAMES = ("one", "two", "three")


@dataclasses.dataclass
class Fleet:
    """Three hosts with the same app."""

    all: Site
    hosts: list[Any]

    def serving(self) -> list[str]:
        """What each host answers with: the first line of the app's page."""
        return [
            host.run(
                "curl -s --max-time 5 --unix-socket /run/asgi/hello/"
                "$(test -e /srv/hello/serving/green && echo green || echo blue)/1.sock"
                " http://hello.test/ | head -1"
            )
            .stdout.split(",")[0]
            .strip()
            for host in self.hosts
        ]

    def version(self, word: str, broken_on: str = "") -> Path:
        """Makes a version of the app that greets with a word, and fails to start on one host."""
        target = self.all.directory / f"{word}-{time.monotonic_ns()}"
        shutil.copytree(HELLO, target)
        text = (target / "hello.py").read_text().replace("Hello from", f"{word} from")
        start = "async def lifespan(receive: Any, send: Any) -> None:\n"
        text = text.replace(
            start,
            "import socket\n\n\n" + start + f'    if socket.gethostname() == "{broken_on}":\n'
            '        failed = {"type": "lifespan.startup.failed", '
            f'"message": "broken on {broken_on}"}}\n'
            "        return await send(failed)\n",
        )
        (target / "hello.py").write_text(text)
        return target

    def deploy(self, source: Path, *, expect: int = 0) -> Any:
        """Deploys one host after the other."""
        return self.all.play(
            "asgi.deploy.site",
            expect=expect,
            asgi_app_source={"path": str(source)},
            asgi_serial=1,
        )


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, collections: Path) -> Iterator[Fleet]:
    """Three hosts that serve the first version."""
    directory = tmp_path_factory.mktemp("fleet")
    inventory = directory / "hosts.yml"
    lab.down(GROUP)
    try:
        hosts = lab.up(GROUP, dict.fromkeys(NAMES, "debian12"), inventory)
        hosts.sort(key=lambda host: NAMES.index(host.name))
        (directory / "ansible.cfg").write_text(collections_config(collections))
        site = Site(
            None,
            directory,
            inventory,
            variables={
                "asgi_app_name": "hello",
                "asgi_app_entrypoint": "hello:app",
                "asgi_app_ca_file": "/etc/ssl/certs/ca-certificates.crt",
                "asgi_proxy_domains": ["hello.test"],
                "asgi_service_health_stable_seconds": 1,
            },
        )
        fleet = Fleet(site, hosts)
        site.play("asgi.deploy.site", asgi_app_source={"path": str(HELLO)})
        yield fleet
    finally:
        lab.down(GROUP)


def releases(fleet: Fleet) -> set[str]:
    """Which releases the hosts serve."""
    return {line.removeprefix("Hello from ") for line in fleet.serving()}


def test_the_same_content_is_the_same_release_on_all(fleet: Fleet) -> None:
    """One id for the run, decided once."""
    assert len(releases(fleet)) == 1


def test_a_host_that_fails_takes_the_others_back(fleet: Fleet) -> None:
    """The third host cannot start the version: the two that had moved return."""
    before = fleet.serving()
    played = fleet.deploy(fleet.version("Servus", broken_on="three"), expect=2)
    assert fleet.serving() == before
    for text in ("it failed on three", "one:", "two:", "taken back", "broken on three"):
        assert text in played.output
    failed = [host.run("grep -c failed /srv/hello/state.json").stdout for host in fleet.hosts]
    assert all(int(count) >= 1 for count in failed)


def test_a_host_that_is_cut_off_leaves_no_mix(fleet: Fleet) -> None:
    """The network of the third host ends in the middle of the run."""
    before = fleet.serving()
    one, _two, three = fleet.hosts

    history = "grep -c '\"at\"' /srv/hello/state.json"
    events = one.run(history).stdout

    def cut_when_one_has_moved() -> None:
        deadline = time.monotonic() + 120
        while one.run(history).stdout == events and time.monotonic() < deadline:
            time.sleep(0.2)
        three.disconnect()

    version = fleet.version("Moin")
    cutter = threading.Thread(target=cut_when_one_has_moved)
    try:
        cutter.start()
        played = fleet.deploy(version, expect=2)
    finally:
        cutter.join()
        three.connect()
    assert "three: cannot be reached" in played.output
    assert fleet.serving() == before
    # back in the network, the next deploy brings all of them along
    fleet.deploy(version)
    assert len(set(fleet.serving())) == 1
    assert fleet.serving()[0].startswith("Moin")


def test_rollback_brings_all_back(fleet: Fleet) -> None:
    """No argument: the last good release that all have."""
    fleet.all.play("asgi.deploy.rollback")
    assert len(set(fleet.serving())) == 1
    assert fleet.serving()[0].startswith("Hello")

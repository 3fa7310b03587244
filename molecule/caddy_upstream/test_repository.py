"""Caddy from a repository of packages, signed as Caddy's own is, on a host that serves an app.

The tests go on from one another in their order. They begin with what test_proxy.py has left: the
app behind upstream's Caddy, which came as a file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lab
import programs
import pytest
from sites import Played, Site, client, collections_config

SCENARIO = Path(__file__).resolve().parent
RESOURCES = SCENARIO.parent / "resources"
OLDER, NEWER = "2.10.2", programs.VERSIONS["caddy"]
DIRECTORY, URL = "/srv/packages", "http://127.0.0.1:8600"
SOURCES = "/etc/apt/sources.list.d/asgi-caddy.sources"
DOMAIN = "probe.test"
VARIABLES: dict[str, Any] = {
    "asgi_app_name": "probe",
    "asgi_app_source": {"path": str(RESOURCES / "app")},
    "asgi_app_entrypoint": "probe:app",
    "asgi_app_environment": {"PROBE_BROKEN": ""},
    "asgi_service_instances": 1,
    "asgi_service_memory_max": "128M",
    "asgi_service_health_path": "/health",
    "asgi_service_health_stable_seconds": 1,
    "asgi_proxy_domains": [DOMAIN],
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The app on its host, and the repository that its variables name."""
    made = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
    directory = tmp_path_factory.mktemp("repository")
    collections = Path(os.environ["ANSIBLE_COLLECTIONS_PATH"])
    (directory / "ansible.cfg").write_text(collections_config(collections))
    host = lab.find("molecule-caddy-upstream", "debian12")
    inventories = [SCENARIO / "inventory", made / "inventory" / "lab.yml"]
    site = Site(host, directory, inventories, variables=VARIABLES)
    # by the program that the inventory names
    site.play("asgi.deploy.site")
    site.run(f"mkdir -p {DIRECTORY}")
    files = {f"caddy-{version}": programs.bring("caddy", version) for version in (OLDER, NEWER)}
    files["make.sh"] = RESOURCES / "repository" / "make.sh"
    for name, path in files.items():
        lab.podman("cp", str(path), f"{host.container}:{DIRECTORY}/{name}")
    fingerprint = site.run(f"{DIRECTORY}/make.sh {DIRECTORY} {OLDER} {NEWER}").strip()
    key = directory / "packages.asc"
    key.write_text(site.run(f"cat {DIRECTORY}/key.asc"))
    site.variables = {
        **VARIABLES,
        "asgi_proxy_caddy_install": "repository",
        "asgi_proxy_caddy_repository_url": URL,
        "asgi_proxy_caddy_repository_key": str(key),
        "asgi_proxy_caddy_repository_fingerprint": fingerprint,
    }
    return site


def running(site: Site) -> str:
    """Version of the program that Caddy's process has."""
    return site.run(
        "/proc/$(systemctl show --property=MainPID --value caddy)/exe version"
    ).removeprefix("v")


def move(site: Site, name: str, **variables: Any) -> Played:
    """Deploys with other variables under load, and tells what that has cost."""
    load = client.Load(
        address=site.host.address,
        domain=DOMAIN,
        ca_file=site.ca_file(),
        rate_per_second=50,
        keepalive_get=1,
        new_get=1,
    )
    with load:
        played = site.play("asgi.deploy.site", **variables)
    print(f"measured: Caddy, {name}: {load.result.report().splitlines()[0]}")
    # what was refused or cut off while Caddy started again; nothing was answered wrongly
    assert load.result.failed <= 100, load.result.report()
    return played


def test_from_a_file_to_the_package(site: Site) -> None:
    """The newest one where no version is named; a second run changes nothing."""
    move(site, "from a file to the package of a repository")
    assert running(site).startswith(NEWER)
    assert "version: the newest" in site.run(f"cat {SOURCES}")
    assert site.run("systemctl show --property=ActiveState --value caddy").strip() == "active"
    assert site.play("asgi.deploy.site").changed == 0


def test_back_to_an_older_version_and_forth(site: Site) -> None:
    """Under the same path stands another program: Caddy is started again, once, with it."""
    for version in (OLDER, NEWER):
        played = move(site, f"the package of version {version}", asgi_proxy_caddy_version=version)
        assert "Caddy starts again" in " ".join(played.output.split())
        assert running(site).startswith(version)
        again = site.play("asgi.deploy.site", asgi_proxy_caddy_version=version)
        assert again.changed == 0


def test_another_app_does_not_replace_the_package(site: Site) -> None:
    """It is rejected before apt installs the version that it wants."""
    site.play("asgi.deploy.site", asgi_proxy_caddy_version=NEWER)
    installed = site.run("dpkg-query --show caddy")
    other = {"asgi_app_name": "other", "asgi_proxy_domains": ["other.test"]}
    rejected = site.play("asgi.deploy.site", expect=2, asgi_proxy_caddy_version=OLDER, **other)
    assert "asgi_proxy_caddy_version" in rejected.output
    assert "undone for probe" in " ".join(rejected.output.split())
    assert site.run("dpkg-query --show caddy") == installed
    assert running(site).startswith(NEWER)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"asgi_proxy_caddy_repository_fingerprint": "A1" * 20}, "the public key is not available"),
        (
            {"asgi_proxy_caddy_repository_url": "http://127.0.0.1:9"},
            "Could not connect to 127.0.0.1:9",
        ),
        ({"asgi_proxy_caddy_version": "2.99.0"}, "caddy=2.99.0"),
    ],
    ids=["another key", "nobody there", "no such version"],
)
def test_what_cannot_be_had_changes_nothing(
    site: Site, variables: dict[str, str], told: str
) -> None:
    before = site.run("systemctl show --property=MainPID --value caddy")
    output = " ".join(site.play("asgi.deploy.site", expect=2, **variables).output.split())
    (name,) = variables
    assert told in output
    assert name in output
    assert "what was serving still serves" in output
    assert site.run("systemctl show --property=MainPID --value caddy") == before
    assert site.run(f"test -e {SOURCES} || echo gone").strip() == "gone"


def test_back_to_a_file(site: Site) -> None:
    """apt does not know the repository any more."""
    site.play("asgi.deploy.site", asgi_proxy_caddy_version=NEWER)
    move(site, "from the package to a file", **programs.variables("caddy"))
    assert site.run(f"test -e {SOURCES} || echo gone").strip() == "gone"
    program = site.run("readlink /proc/$(systemctl show -P MainPID caddy)/exe").strip()
    assert program.startswith("/opt/asgi/caddy-")

"""Real hosts for the tests in this folder: Debian 12 and 13 under systemd, reached over SSH.

The blog of the examples is put on each of them with the collection, as a user would: by
`ansible-playbook asgi.deploy.site`, from the installed artefact, as an ordinary user with sudo.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import collection
import lab
import pytest
from sites import GROUP, IMAGES, ROOT, VARIABLES, Site, deployed


def installed_collection() -> Path:
    """Builds the collection and installs the artefact, as a user gets it."""
    target = ROOT / ".cache" / "tests"
    target.mkdir(parents=True, exist_ok=True)
    collection.install(target / "collections", target / "collection.log")
    return target / "collections"


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Site]]:
    """All hosts, each with the blog and its database."""
    directory = tmp_path_factory.mktemp("hosts")
    inventory = directory / "hosts.yml"
    collections = installed_collection()
    lab.down(GROUP)
    sites = {}
    try:
        for host in lab.up(GROUP, IMAGES, inventory):
            own = directory / host.name
            own.mkdir()
            (own / "ansible.cfg").write_text(
                f"[defaults]\ncollections_path = {collections}\nnocows = true\n"
                "[ssh_connection]\npipelining = true\n"
            )
            sites[host.name] = Site(host, own, collections, inventory, variables=VARIABLES)
        yield sites
    finally:
        lab.down(GROUP)


@pytest.fixture(scope="session", params=IMAGES)
def site(request: pytest.FixtureRequest, hosts: dict[str, Site]) -> Site:
    """The blog on each kind of host."""
    return deployed(hosts[request.param])


@pytest.fixture(scope="session")
def one_site(hosts: dict[str, Site]) -> Site:
    """The blog on one host, where the kind of host does not matter."""
    return deployed(hosts[next(iter(IMAGES))])

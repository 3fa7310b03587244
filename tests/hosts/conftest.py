"""Real hosts for the tests in this folder: Debian 12 and 13 under systemd, reached over SSH.

The blog of the examples is put on each of them with the collection, as a user would: by
`ansible-playbook asgi.deploy.site`, from the installed artefact, as an ordinary user with sudo.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import collection
import lab
import pytest
from sites import (
    FILES,
    FIRST,
    IMAGES,
    PLAIN,
    ROOT,
    VARIABLES,
    OwnAuthority,
    Site,
    behind_traefik,
    collections_config,
    deploy_blog,
)


@pytest.fixture(scope="session")
def requests(pytestconfig: pytest.Config) -> int:
    """How many requests a journey has at least."""
    return int(pytestconfig.getoption("--requests"))


@pytest.fixture(scope="session")
def collections() -> Path:
    """Builds the collection and installs the artefact, as a user gets it."""
    target = ROOT / ".cache" / "tests"
    target.mkdir(parents=True, exist_ok=True)
    collection.install(target / "collections", target / "collection.log")
    return target / "collections"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds what lets several runs go on at the same time, each with hosts of its own."""
    parser.addoption("--group", default="tests", help="what the hosts' group begins with")
    parser.addoption("--server", default="uvicorn", help="the server that the blog runs with")
    parser.addoption("--proxy", default="caddy", help="the proxy in front of it")
    parser.addoption(
        "--rate", type=int, default=1000, help="requests a second of the load of a journey"
    )
    parser.addoption(
        "--requests", type=int, default=100_000, help="how many a journey has at least"
    )
    parser.addoption("--host", choices=sorted(IMAGES), help="only the tests of this host")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out the tests of other hosts than --host names."""
    only = config.getoption("--host")
    if only is None:
        return

    def belongs(item: pytest.Item) -> bool:
        assert isinstance(item, pytest.Function)
        if hasattr(item, "callspec") and "site" in item.callspec.params:
            return bool(item.callspec.params["site"] == only)
        return bool(only == FIRST)

    left_out = [item for item in items if not belongs(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if belongs(item)]


def new_site(config: pytest.Config, directory: Path, inventory: Path) -> Site:
    """A site with the server and behind the proxy that the options name."""
    variables = dict(VARIABLES)
    server = config.getoption("--server")
    if server != "uvicorn":
        variables |= {"asgi_service_server": server, "asgi_app_groups": ["servers"]}
    if config.getoption("--proxy") == "caddy":
        return Site(None, directory, [inventory], variables=variables)
    variables |= FILES | behind_traefik()
    return OwnAuthority(None, directory, [inventory], variables=variables)


@pytest.fixture(scope="session")
def new_host(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, collections: Path
) -> Iterator[Callable[[str, str], Site]]:
    """Starts a host with an image, and gives a site for it with nothing deployed."""
    prefix = request.config.getoption("--group")
    groups: list[str] = []

    def start(name: str, image: str) -> Site:
        directory = tmp_path_factory.mktemp(name)
        (directory / "ansible.cfg").write_text(collections_config(collections))
        inventory = directory / "hosts.yml"
        group = f"{prefix}-{name}"
        lab.down(group)
        # noted before it is there, so that a start that fails is cleaned up too
        groups.append(group)
        site = new_site(request.config, directory, inventory)
        (site.host,) = lab.up(group, {name: image}, inventory)
        return site

    try:
        yield start
    finally:
        lab.down(*groups)


@pytest.fixture(scope="session")
def site_on(new_host: Callable[[str, str], Site]) -> Callable[[str], Site]:
    """Makes the site on a host, the first time with a new host and the blog on it."""
    sites: dict[str, Site] = {}

    def make(name: str) -> Site:
        if name not in sites:
            site = new_host(name, IMAGES[name])
            if isinstance(site, OwnAuthority):
                site.certify()
            deploy_blog(site)
            sites[name] = site
        return sites[name]

    return make


@pytest.fixture(scope="session")
def bare_site(new_host: Callable[[str, str], Site]) -> Site:
    """A host as Debian's installer leaves it."""
    return new_host(FIRST, PLAIN)


@pytest.fixture(scope="session", params=IMAGES)
def site(request: pytest.FixtureRequest, site_on: Callable[[str], Site]) -> Site:
    """The blog on each kind of host."""
    return site_on(request.param)


@pytest.fixture(scope="session")
def one_site(site_on: Callable[[str], Site]) -> Site:
    """The blog on one host, where the kind of host does not matter."""
    return site_on(FIRST)

"""Repositories of other shapes than the examples, each deployed to a real host as it is."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from repositories import LOCKED, MOST_LINES, REPOSITORIES, STATIC, Repository
from sites import CA_FILE, IMAGES, Site


@pytest.fixture(scope="module")
def host(new_host: Callable[[str, str], Site]) -> Site:
    """A host with no app, and with two devices that any user may open."""
    site = new_host("web12", IMAGES["web12"])
    # the log of the kernel; no device that every service may open
    site.run("mknod -m 666 /dev/asgi-test c 1 11 && mknod -m 666 /dev/asgi-other c 10 235")
    return site


@pytest.fixture
def app(host: Site, tmp_path: Path) -> Callable[[Repository], Site]:
    """Writes a repository; returns its site."""

    def write(repository: Repository) -> Site:
        directory = tmp_path / "repository"
        directory.mkdir()
        repository.write(directory)
        given = repository.given(directory)
        # of the machine that the tests run on
        given["asgi_app_ca_file"] = "/etc/ssl/certs/ca-certificates.crt"
        return host.another_app(tmp_path, directory, given)

    return write


def ask(site: Site, path: str, *headers: str) -> tuple[int, str, str]:
    """Asks an app through its proxy; returns status, headers and text of the answer."""
    (domain,) = site.variables["asgi_proxy_domains"]
    words = [word for header in headers for word in ("--header", header)]
    told = site.run(
        f"curl --silent --include --cacert {CA_FILE} --resolve {domain}:443:127.0.0.1 --http1.1"
        f" {shlex.join(words)} https://{domain}{path}"
    )
    head, _, text = told.partition("\n\n")
    return int(head.split()[1]), head, text


def tag(head: str) -> str:
    """The ETag among headers."""
    (found,) = [line for line in head.splitlines() if line.lower().startswith("etag:")]
    return found.split(":", 1)[1].strip()


@pytest.mark.parametrize("name", REPOSITORIES)
def test_it_is_deployed_as_it_is(app: Callable[[Repository], Site], name: str) -> None:
    repository = REPOSITORIES[name]
    assert len(repository.variables.strip().splitlines()) <= MOST_LINES
    site = app(repository)
    site.play("asgi.deploy.site")
    for path, text in repository.answers.items():
        status, _head, answer = ask(site, path)
        assert (status, text in answer) == (200, True), answer
    for path in repository.missing:
        assert ask(site, path)[0] == 404, path
    site.play("asgi.deploy.remove")


def test_a_path_that_the_app_has_not_got_is_told_at_once(app: Callable[[Repository], Site]) -> None:
    """The time for the health check is longer than the test waits."""
    site = app(STATIC)
    rejected = site.play(
        "asgi.deploy.site",
        expect=2,
        asgi_service_health_path="/",
        asgi_service_health_timeout_seconds=3600,
    )
    words = "is not healthy: GET /: status 404: Not Found; the app has no such path: set"
    assert f"{words} asgi_service_health_path" in rejected.unwrapped, rejected.output


def test_a_lock_that_is_out_of_date_is_rejected(app: Callable[[Repository], Site]) -> None:
    """What the project names by now would be missing at the first request that needs it."""
    site = app(LOCKED)
    site.play("asgi.deploy.site", asgi_app_extras=["more"])
    assert ask(site, "/healthz")[0] == 200
    project = site.source / "pyproject.toml"
    project.write_text(project.read_text().replace('"uvicorn', '"httpx", "uvicorn'))
    rejected = site.play("asgi.deploy.site", expect=2)
    words = "uv.lock is out of date, it was made before pyproject.toml named httpx as it does now"
    assert words in rejected.unwrapped, rejected.output
    assert rejected.changed == 0
    LOCKED.run(site.source, "uv lock --quiet")
    site.play("asgi.deploy.site")
    assert ask(site, "/healthz")[0] == 200


def test_a_changed_file_is_sent_again_and_an_unchanged_one_is_not(
    app: Callable[[Repository], Site],
) -> None:
    """The change has the same length, as of a color."""
    site = app(STATIC)
    site.play("asgi.deploy.site")
    before: dict[str, Any] = {}
    for name in ("changed", "same"):
        status, head, _text = ask(site, f"/static/{name}.css")
        before[name] = tag(head)
        assert status == 200
    (site.source / "static" / "changed.css").write_text("body { color: #222 }")
    site.play("asgi.deploy.site")
    status, _head, text = ask(site, "/static/changed.css", f"If-None-Match: {before['changed']}")
    assert (status, text) == (200, "body { color: #222 }")
    assert ask(site, "/static/same.css", f"If-None-Match: {before['same']}")[0] == 304

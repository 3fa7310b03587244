"""Repositories of other shapes than the examples, each deployed to a real host as it is."""

from __future__ import annotations

import shlex
import subprocess
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


@pytest.fixture
def private(host: Site, tmp_path: Path) -> dict[str, str]:
    """A repository on the host that is read over SSH with a deploy key."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    address = host.host.address
    public = shlex.quote(f"restrict {key.with_suffix('.pub').read_text().strip()}")
    host.run(
        "id git >/dev/null 2>&1 || useradd --create-home --shell /usr/bin/git-shell git;"
        f" mkdir -p ~git/.ssh && echo {public} >~git/.ssh/authorized_keys &&"
        " git init --quiet --bare --initial-branch=main ~git/app.git && chown -R git: ~git"
    )
    ours = host.run("cut -d' ' -f1,2 /etc/ssh/ssh_host_ed25519_key.pub").strip()
    return {
        "git": f"git@{address}:app.git",
        "version": "main",
        "ssh_key": key.read_text(),
        "ssh_known_hosts": f"{address} {ours}",
    }


def test_a_private_repository_is_read_over_ssh(
    app: Callable[[Repository], Site], private: dict[str, str], tmp_path: Path
) -> None:
    """With a deploy key, on the controller and on a host; neither leaves it anywhere."""
    site = app(STATIC)
    known_hosts, key = tmp_path / "known_hosts", tmp_path / "key"
    known_hosts.write_text(private["ssh_known_hosts"])
    ssh = f"ssh -i {key} -o UserKnownHostsFile={known_hosts}"
    STATIC.run(
        site.source,
        "git init --quiet --initial-branch=main && git add . &&"
        " git -c user.name=x -c user.email=x@example.com commit --quiet --message=first",
        f"GIT_SSH_COMMAND='{ssh}' git push --quiet {private['git']} main",
    )
    unknown = {**private, "ssh_known_hosts": private["ssh_known_hosts"].replace("AAAA", "AAAB")}
    rejected = site.play("asgi.deploy.site", expect=2, asgi_app_source=unknown)
    assert "as asgi_app_source.ssh_known_hosts" in rejected.unwrapped, rejected.output
    for checkout in ("controller", "host"):
        source = {**private, "checkout": checkout}
        played = site.play("asgi.deploy.site", "-vvv", "--diff", asgi_app_source=source)
        assert ask(site, "/static/same.css")[2] == "body { margin: 0 }"
        secret = private["ssh_key"].splitlines()[1]
        assert secret not in played.output
        left = "grep -rl {} /srv/static /etc/asgi /run/asgi-deploy /var/cache/asgi /var/log /tmp"
        assert site.run(left.format(shlex.quote(secret)), check=False) == ""


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

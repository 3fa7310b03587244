"""Django as it is deployed: static files, Channels, a worker, and migrations across releases.

The tests go on from one another in their order. They begin where converge has ended: the first
release serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import shutil
import socket
import ssl
from pathlib import Path
from typing import Any

import lab
import pytest
from sites import CA_FILE, ROOT, Site, client, collections_config, until

SCENARIO = Path(__file__).resolve().parent
SOURCE = ROOT / "examples" / "django"
DOMAIN = "wall.test"
INSTANCES = {"1", "2"}
IMMUTABLE = "public, max-age=31536000, immutable"
DEADLINE_SECONDS = 60
#: A column that a release without it can live with.
FIELD = "    stars = models.IntegerField(default=0, db_default=0)\n"
MIGRATION = """
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = (("wall", "0001_notes"),)
    operations = (
        migrations.AddField("note", "stars", models.IntegerField(default=0, db_default=0)),
    )
"""
#: As prepare.yml writes it.
SIGNING = "nobody-but-the-wall-may-read-this-file"
CSS = "body { color: navy; }\n"


class Wall:
    """The wall on its host."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.ca_file = site.directory / "ca.crt"
        self.ca_file.write_text(site.run(f"cat {CA_FILE}"))
        self.tls = ssl.create_default_context(cafile=str(self.ca_file))

    def ask(self, path: str, method: str = "GET", body: str | None = None) -> tuple[int, Any, str]:
        """Asks once through HTTPS; returns status, headers and body."""
        plain = socket.create_connection((self.site.host.address, 443), timeout=20)
        connection = http.client.HTTPConnection(DOMAIN)
        with self.tls.wrap_socket(plain, server_hostname=DOMAIN) as connection.sock:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read().decode()

    def post(self, title: str, body: str) -> dict[str, Any]:
        """Stores a note."""
        given = json.dumps({"title": title, "body": body})
        status, _headers, text = self.ask("/api/notes", "POST", given)
        assert status == 201, text
        note: dict[str, Any] = json.loads(text)
        return note

    def words(self, number: int) -> int | None:
        """What the worker has counted for a note."""
        notes = json.loads(self.ask("/api/notes")[2])["notes"]
        (words,) = [note["words"] for note in notes if note["id"] == number]
        return None if words is None else int(words)

    def static(self, name: str) -> str:
        """The URL that the page has for a static file."""
        suffix = name.rpartition(".")[2]
        found = re.findall(rf'"(/static/wall/site\.[0-9a-f]+\.{suffix})"', self.ask("/")[2])
        assert len(found) == 1, found
        return str(found[0])

    def query(self, text: str) -> list[str]:
        """The lines that PostgreSQL answers its own user."""
        command = ["runuser", "--user=postgres", "--", "psql", "-d", "wall", "-At"]
        told = self.site.host.run([*command, "--set=ON_ERROR_STOP=1"], stdin=text).stdout
        return str(told).split()

    def slot(self) -> str:
        """The slot that the proxy asks."""
        return self.site.run("test -e /srv/wall/serving/green && echo green || echo blue").strip()

    def workers(self) -> list[str]:
        """The units of workers that run."""
        command = "systemctl list-units --plain --no-legend --state=active 'wall.worker-*'"
        return [line.split()[0] for line in self.site.run(command).splitlines()]

    @contextlib.asynccontextmanager
    async def websocket(self) -> Any:
        """An open WebSocket, and the instance that has it."""
        reader, writer = await asyncio.open_connection(
            self.site.host.address, 443, ssl=self.tls, server_hostname=DOMAIN
        )
        writer.write(
            f"GET /ws HTTP/1.1\r\nHost: {DOMAIN}\r\nOrigin: https://{DOMAIN}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        with contextlib.closing(writer):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_SECONDS)
            assert b" 101 " in head.split(b"\r\n")[0], head
            opened = client.WebSocket(reader, writer)
            yield opened, (await received(opened))["instance"]


async def received(opened: Any) -> dict[str, Any]:
    """The next message."""
    _kind, text = await asyncio.wait_for(opened.receive(), DEADLINE_SECONDS)
    message: dict[str, Any] = json.loads(text)
    return message


@pytest.fixture(scope="module")
def wall(tmp_path_factory: pytest.TempPathFactory) -> Wall:
    """What create, prepare and converge have made, with the variables of the scenario."""
    made = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
    directory = tmp_path_factory.mktemp("wall")
    collections = Path(os.environ["ANSIBLE_COLLECTIONS_PATH"])
    (directory / "ansible.cfg").write_text(collections_config(collections))
    host = lab.find(f"molecule-{SCENARIO.name}", "debian12")
    inventories = [SCENARIO / "inventory", made / "inventory" / "lab.yml"]
    return Wall(Site(host, directory, inventories, SOURCE))


@pytest.fixture(scope="module")
def first_style(wall: Wall) -> str:
    """URL of the first release's style sheet."""
    return wall.static("site.css")


@pytest.fixture(scope="module")
def second(wall: Wall) -> Path:
    """The next version: another style sheet, and a migration."""
    version = wall.site.directory / "second"
    shutil.copytree(SOURCE, version)
    models = version / "wall" / "models.py"
    text = models.read_text()
    mark = "    # Counted by the worker.\n"
    assert mark in text
    models.write_text(text.replace(mark, FIELD + mark))
    (version / "wall" / "migrations" / "0002_stars.py").write_text(MIGRATION)
    (version / "wall" / "static" / "wall" / "site.css").write_text(CSS)
    return version


def test_the_database_was_migrated_by_the_role(wall: Wall) -> None:
    rows = wall.query("SELECT app || '.' || name FROM django_migrations ORDER BY id;")
    assert rows == ["wall.0001_notes"]


def test_the_proxy_serves_static_files(wall: Wall, first_style: str) -> None:
    """Django serves none without DEBUG."""
    content = (SOURCE / "wall" / "static" / "wall" / "site.css").read_text()
    status, headers, body = wall.ask(first_style)
    assert (status, body, headers["Cache-Control"]) == (200, content, IMMUTABLE)
    status, headers, body = wall.ask("/static/wall/site.css")
    assert (status, body, headers["Cache-Control"]) == (200, content, "no-cache")
    for path in ("/static/wall/none.css", "/static/", "/static/../manage.py", "/manage.py"):
        assert wall.ask(path)[0] == 404, path


def test_the_proxy_can_read_nothing_else_of_the_release(wall: Wall) -> None:
    found = wall.site.run("cd /srv/wall/static && find . -type f -printf '%P\\n'").split()
    assert found
    assert {Path(path).suffix for path in found} <= {".css", ".js", ".json"}
    for path in ("slots/blue/app/manage.py", "slots/blue/app/wall/settings.py"):
        told = wall.site.run(f"runuser -u caddy -- cat /srv/wall/{path} 2>&1", check=False)
        assert "Permission denied" in told


def test_channels_tell_the_clients_of_all_instances(wall: Wall) -> None:
    async def tell() -> None:
        async with contextlib.AsyncExitStack() as stack:
            readers: dict[str, Any] = {}
            for _connection in range(20):
                opened, instance = await stack.enter_async_context(wall.websocket())
                readers[instance] = opened
                if set(readers) == INSTANCES:
                    break
            assert set(readers) == INSTANCES
            note = await asyncio.to_thread(wall.post, "told to all", "by redis")
            for opened in readers.values():
                assert await received(opened) == note

    asyncio.run(tell())


def test_the_worker_works(wall: Wall) -> None:
    assert wall.workers() == [f"wall.worker-{wall.slot()}@1.service"]
    number = wall.post("for the worker", "has four little words")["id"]
    assert until(lambda: wall.words(number) == 4)


def test_a_secret_file_is_given_to_the_app_alone(wall: Wall) -> None:
    for unit in (f"wall-{wall.slot()}@1.service", *wall.workers()):
        path = f"/run/credentials/{unit}/signing"
        pid = wall.site.run(f"systemctl show --property=MainPID --value {unit}").strip()
        environment = wall.site.run(f"tr '\\0' '\\n' < /proc/{pid}/environ")
        assert f"CREDENTIALS_DIRECTORY={Path(path).parent}\n" in environment
        assert SIGNING not in environment
        assert wall.site.run(f"runuser -u wall -- cat {path}").strip() == SIGNING
        told = wall.site.run(f"runuser -u nobody -- cat {path} 2>&1", check=False)
        assert "Permission denied" in told


def test_a_release_with_a_migration_fails_no_request(
    wall: Wall, first_style: str, second: Path
) -> None:
    load = client.Load(
        address=wall.site.host.address,
        domain=DOMAIN,
        ca_file=wall.ca_file,
        rate_per_second=40,
        keepalive_get=1,
        new_get=1,
        keepalive_post=1,
        new_post=1,
        post_path="/api/notes",
    )
    with load:
        wall.site.deploy(second)
        result = load.stop()
    assert result.failed == 0, result.report()
    ledger = result.ledger(
        wall.query("SELECT request_id FROM wall_note WHERE request_id IS NOT NULL;")
    )
    assert (ledger.lost, ledger.doubled) == ([], [])
    print(f"measured: {result.sent} requests during a migration: 0 failed, lost or doubled")
    assert wall.query("SELECT count(*) FROM wall_note WHERE stars <> 0;") == ["0"]
    # files of both releases, by whatever page they are asked for
    style = wall.static("site.css")
    assert style != first_style
    for url in (style, first_style):
        status, headers, body = wall.ask(url)
        assert (status, body == CSS) == (200, url == style)
        assert headers["Cache-Control"] == IMMUTABLE
    assert wall.ask("/static/wall/site.css")[2] == CSS


def test_the_worker_is_of_the_new_release(wall: Wall) -> None:
    assert wall.workers() == [f"wall.worker-{wall.slot()}@1.service"]
    number = wall.post("for the next worker", "two words")["id"]
    assert until(lambda: wall.words(number) == 2)


def test_a_rollback_across_a_migration_is_refused(wall: Wall) -> None:
    slot = wall.slot()
    output = wall.site.play("asgi.deploy.rollback", expect=2).output
    assert "wall.0002_stars" in output
    assert "asgi_rollback_across_migration" in output
    assert wall.slot() == slot


def test_a_rollback_across_a_migration_is_allowed(wall: Wall, first_style: str) -> None:
    style = wall.static("site.css")
    wall.site.play("asgi.deploy.rollback", asgi_rollback_across_migration=True)
    assert wall.static("site.css") == first_style
    for url in (style, first_style):
        assert wall.ask(url)[0] == 200
    assert wall.ask("/static/wall/site.css")[2] != CSS
    # the former code on the newer schema
    number = wall.post("after the rollback", "one")["id"]
    assert until(lambda: wall.words(number) == 1)

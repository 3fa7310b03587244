"""The same app with every server, and the same questions to each.

The servers take their turns on one host, each in place of the one before it, under load. What was
seen is the table in docs/servers.md. After a change that it must tell:

    ASGI_WRITE_DOCS=1 .venv/bin/molecule test -s servers
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import ssl
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lab
import pytest
from ansible_collections.asgi.deploy.plugins.module_utils.servers import SERVERS
from sites import CA_FILE, ROOT, Played, Site, client, collections_config, until

import docs

SCENARIO = Path(__file__).resolve().parent
DOMAIN = "probe.test"
DOCUMENT = ROOT / "docs" / "servers.md"
IMPOSTOR = SCENARIO / "impostor.py"
ROUNDS = SCENARIO / "rounds.yml"
#: How long what is under way still takes when its server is told to stop.
SLOW_SECONDS = 2
CONCURRENT = 5
#: What a server must be told so that nobody counts on what it cannot do.
ACCEPTED: Mapping[str, Mapping[str, Any]] = {
    "daphne": {"asgi_service_lifespan": False, "asgi_service_graceful_timeout_seconds": 0},
}
#: A library of the app's choice; the loader notes in files of the process's user that it ran.
LOADED = {
    "PROBE_BROKEN": "",
    "LD_PRELOAD": "libm.so.6",
    "LD_DEBUG": "statistics",
    "LD_DEBUG_OUTPUT": "/var/lib/asgi/probe/loaded",
}
SERVED = "HTTP, WebSockets, and server-sent events at once"
ADDRESS = "Client's address, `https` and `wss`, `root_path`"
LIFESPAN = "Start-up and shutdown of the app (lifespan)"
LISTENER = "Who holds the listener"
REPLACED = "Replaced by another server with another release, under load"
CHANGED = "Two releases, a rollback and a restart, under load"
REFUSED = "A link in the place of its socket"
STOPPED = "Told to stop while a request is under way"
CLOSED = "Told to stop while a WebSocket is open"
KILLED = "Killed (SIGKILL) under load"
EATEN = "Past its memory limit"
BROKEN = "App that fails at its start"
DIES = "App that dies once it was healthy"
NONE_FAILED = "0 requests failed"
ROWS = (
    SERVED,
    ADDRESS,
    LISTENER,
    REFUSED,
    LIFESPAN,
    CHANGED,
    REPLACED,
    STOPPED,
    CLOSED,
    KILLED,
    EATEN,
    BROKEN,
    DIES,
)
#: What was seen: the text in each row for each server.
seen: dict[str, dict[str, str]] = {name: {} for name in SERVERS}


class Probe:
    """The app on its host."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.ca_file = site.directory / "ca.crt"
        self.ca_file.write_text(site.run(f"cat {CA_FILE}"))
        self.tls = ssl.create_default_context(cafile=str(self.ca_file))
        recorded = json.loads(site.run("cat /srv/probe/state.json"))["settings"]
        self.server: str = recorded["server"]
        #: What serves, and what is deployed next; the app is the same.
        self.sources = [site.source, site.directory / "other"]
        shutil.copytree(site.source, self.sources[1])
        (self.sources[1] / "other").touch()

    def play(self, name: str, *, expect: int = 0, **variables: Any) -> Played:
        """Deploys with a server."""
        return self.site.play(
            "asgi.deploy.site",
            expect=expect,
            asgi_service_server=name,
            **ACCEPTED.get(name, {}),
            **variables,
        )

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Opens a connection through the proxy."""
        return await asyncio.open_connection(
            self.site.host.address, 443, ssl=self.tls, server_hostname=DOMAIN
        )

    async def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Asks once, on a new connection; 0 stands for no answer."""
        reader, writer = await self.connect()
        head = f"{method} {path} HTTP/1.1\r\nHost: {DOMAIN}\r\nConnection: close\r\n"
        # what a client says of itself is not believed
        writer.write(f"{head}X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: http\r\n\r\n".encode())
        with contextlib.closing(writer):
            answer = (await reader.read()).decode()
        if not answer:
            return 0, ""
        return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]

    def describe(self) -> dict[str, Any]:
        """What the app sees of a request."""
        status, body = asyncio.run(self.get("/"))
        assert status == 200, body
        return seen_by_the_app(body)

    @contextlib.asynccontextmanager
    async def websocket(self) -> Any:
        """An open WebSocket, and what the app sees of it."""
        reader, writer = await self.connect()
        key = "dGhlIHNhbXBsZSBub25jZQ=="
        writer.write(
            f"GET /live HTTP/1.1\r\nHost: {DOMAIN}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        with contextlib.closing(writer):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            assert b" 101 " in head.split(b"\r\n")[0], head
            opened = client.WebSocket(reader, writer)
            _kind, text = await asyncio.wait_for(opened.receive(), 10)
            yield opened, json.loads(text)

    def unit(self) -> str:
        """The instance that serves."""
        return f"probe-{self.slot()}@1.service"

    def pid(self) -> int | None:
        """The process that answers; None while none does."""
        status, body = asyncio.run(self.get("/"))
        return int(seen_by_the_app(body)["pid"]) if status == 200 else None

    def restart(self) -> None:
        """Stops the instance as a reboot does, starts it again, and waits until it answers."""
        self.site.run(f"systemctl restart {self.unit()}")
        assert until(lambda: self.pid() is not None)

    def has_come_back(self, before: int | None) -> bool:
        """Whether another process than before answers; the worker of a killed master still may."""
        return until(lambda: self.pid() not in (None, before))

    def slot(self) -> str:
        """The slot that the proxy asks."""
        green = self.site.run("test -e /srv/probe/serving/green && echo green", check=False)
        return green.strip() or "blue"

    def load(self, **options: Any) -> Any:
        """A load by a client that never retries; start it with `with`."""
        settings: dict[str, Any] = {
            "address": self.site.host.address,
            "domain": DOMAIN,
            "ca_file": str(self.ca_file),
            "rate_per_second": 40,
            "keepalive_get": 2,
            "new_get": 1,
            "keepalive_post": 1,
            "new_post": 1,
            "post_path": "/posts",
        }
        return client.Load(**{**settings, **options})

    def release(self) -> str:
        """The release that serves."""
        return self.site.run(f"basename $(readlink /srv/probe/slots/{self.slot()})").strip()

    @contextlib.contextmanager
    def unharmed(self, what: str) -> Iterator[None]:
        """Asks all the while, slow requests among it; none may fail."""
        with self.load(slow=2, slow_seconds=SLOW_SECONDS) as load:
            yield
            result = load.stop()
        assert result.failed == 0, f"{what}: {result.report()}"
        print(f"measured: {what}: {result.sent} requests, 0 failed")

    def turn_to(self, name: str) -> None:
        """Deploys the other release with another server under load."""
        self.sources.reverse()
        with self.unharmed(f"{self.server} to {name}"):
            self.play(name, asgi_app_source={"path": str(self.sources[0])})
        seen[self.server][REPLACED] = NONE_FAILED
        self.server = name


def seen_by_the_app(body: str) -> dict[str, Any]:
    """The JSON in an answer, which may be in chunks."""
    found: dict[str, Any] = json.loads(body[body.index("{") : body.rindex("}") + 1])
    return found


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Probe:
    """What create and converge have made, with the variables of the scenario."""
    made = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
    directory = tmp_path_factory.mktemp("probe")
    collections = Path(os.environ["ANSIBLE_COLLECTIONS_PATH"])
    (directory / "ansible.cfg").write_text(collections_config(collections))
    host = lab.find(f"molecule-{SCENARIO.name}", "debian12")
    inventories = [SCENARIO / "inventory", made / "inventory" / "lab.yml"]
    return Probe(Site(host, directory, inventories, SCENARIO.parent / "resources" / "app"))


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, probe: Probe) -> str:
    """Each server in its turn."""
    name: str = request.param
    if name != probe.server:
        probe.turn_to(name)
    return name


def test_it_serves(server: str, probe: Probe) -> None:
    """HTTP, WebSockets and event streams through the proxy, by the server that was asked for."""
    command = probe.site.run(
        f"tr '\\0' ' ' </proc/$(systemctl show --value -p MainPID {probe.unit()})/cmdline"
    )
    assert server.split("-")[0] in command
    assert ("uvicorn" in command) is ("uvicorn" in server)

    async def echo() -> str:
        async with probe.websocket() as (opened, _scope):
            opened.send(1, b"there and back")
            _kind, text = await asyncio.wait_for(opened.receive(), 5)
            return str(text, "utf-8")

    assert asyncio.run(echo()) == "there and back"

    async def first_and_last_event() -> float:
        reader, writer = await probe.connect()
        writer.write(f"GET /events?count=3 HTTP/1.1\r\nHost: {DOMAIN}\r\n\r\n".encode())
        with contextlib.closing(writer):
            await asyncio.wait_for(reader.readuntil(b"data: 0"), 5)
            first = time.monotonic()
            await asyncio.wait_for(reader.readuntil(b"data: 2"), 5)
            return time.monotonic() - first

    # two pauses of the app lie between them: nothing was held back
    assert asyncio.run(first_and_last_event()) > 0.5
    seen[server][SERVED] = "yes"


def test_the_app_sees_its_client(server: str, probe: Probe) -> None:
    """The address of this machine, not what a client claims; the scheme; the root path."""
    gateway = probe.site.run("ip route show default").split()[2]

    async def scope_of_websocket() -> dict[str, Any]:
        async with probe.websocket() as (_opened, scope):
            return dict(scope)

    request, websocket = probe.describe(), asyncio.run(scope_of_websocket())
    for scope, scheme, path in ((request, "https", "/"), (websocket, "wss", "/live")):
        assert scope["client"] == gateway
        assert scope["scheme"] == scheme
        assert scope["root_path"] == "/probe"
        assert scope["path"] == f"/probe{path}"
    seen[server][ADDRESS] = "yes"


def test_who_holds_the_listener(server: str, probe: Probe) -> None:
    """Only the proxy may open it, whoever made it."""
    socket = f"/run/asgi/probe/{probe.slot()}/1.sock"
    loaded = probe.site.run("systemctl list-units --plain --no-legend 'probe-*.socket'").split()
    held = probe.unit().replace(".service", ".socket") in loaded
    assert held is SERVERS[server].INHERITS_SOCKET
    seen[server][LISTENER] = "systemd" if held else "the server"
    assert probe.site.run(f"stat -c '%A %U %G' {socket}").strip() == "srw-rw---- root caddy"
    ask = f"curl -s --max-time 5 -o /dev/null --unix-socket {socket} http://localhost/health"
    probe.site.run(f"runuser -u caddy -- {ask}")
    probe.site.run(f"! runuser -u nobody -- {ask}")
    # and systemd has nothing to say against its unit
    assert probe.site.run(f"systemd-analyze verify {probe.unit()} 2>&1") == ""
    assert " 1.1 OK" in probe.site.run(f"systemd-analyze security {probe.unit()} | tail -n1")


def test_it_goes_from_release_to_release(server: str, probe: Probe) -> None:
    """And back, and is started again; the slots turn each time, and no request fails.

    The environment has the loader of each program that gets it leave a file: none is root's.
    """
    first = probe.release()
    (second,) = {*probe.site.run("ls /srv/probe/releases").split()} - {first}
    rounds = [
        {"release": second},
        # back, as the playbook rollback does it
        {"release": first, "leave": True},
        {"release": first, "restart": True},
    ]
    slot = probe.slot()
    with probe.unharmed(server):
        probe.site.play(str(ROUNDS), asgi_molecule_rounds=rounds, asgi_molecule_environment=LOADED)
    assert probe.release() == first
    assert probe.slot() != slot
    listed = f"find {LOADED['LD_DEBUG_OUTPUT']}.* -printf '%u\\n' | sort -u"
    assert probe.site.run(listed) == "probe\n"
    seen[server][CHANGED] = NONE_FAILED


def test_a_broken_app_is_refused(server: str, probe: Probe) -> None:
    """The gate tells why; what served goes on."""
    lifespan = ACCEPTED.get(server, {}).get("asgi_service_lifespan", True)
    kind = "startup" if lifespan else "import"
    before = probe.describe()["slot"]
    played = probe.site.play(
        str(ROUNDS),
        expect=2,
        asgi_molecule_environment={"PROBE_BROKEN": kind},
        asgi_molecule_rounds=[{"release": probe.release(), "restart": True}],
    )
    assert "the probe is broken at" in played.output, played.output
    assert "did not stay up: exit code" in played.output
    assert ("start-up failed" if lifespan else "could not be imported") in played.output
    assert probe.describe()["slot"] == before
    seen[server][BROKEN] = "refused"


def test_an_app_that_dies_when_it_was_healthy_is_refused(server: str, probe: Probe) -> None:
    """Also where a master starts it again, so that systemd does not learn of it."""
    before = probe.describe()["slot"]
    played = probe.site.play(
        str(ROUNDS),
        expect=2,
        asgi_molecule_environment={"PROBE_BROKEN": "dies"},
        asgi_molecule_rounds=[{"release": probe.release(), "restart": True}],
    )
    assert "did not stay up: " in played.output, played.output
    assert probe.describe()["slot"] == before
    seen[server][DIES] = "refused"


def test_the_app_cannot_lead_the_proxy_elsewhere(server: str, probe: Probe) -> None:
    """Whoever has its user puts a link to another socket of the proxy's where the proxy looks."""
    directory, target = f"/run/asgi/probe/{probe.slot()}", "/run/caddy/admin.sock"
    probe.site.run(f"runuser -u caddy -- test -S {target}")
    for command in ("ln -sfn {target} {socket}", "mv {other} {socket}", "rm -f {socket}"):
        command = command.format(
            target=target, socket=f"{directory}/1.sock", other=f"{directory}/1/own.sock"
        )
        probe.site.run(f"! runuser -u probe -- {command}")
    assert asyncio.run(probe.get("/"))[0] == 200
    if not SERVERS[server].INHERITS_SOCKET:
        # what it may do with the name that is its own changes nothing
        probe.site.run(f"runuser -u probe -- ln -sfn {target} {directory}/1/own.sock")
        assert probe.site.run(f"stat -c %F {directory}/1.sock").strip() == "socket"
        assert asyncio.run(probe.get("/"))[0] == 200
        refuse_impostors(probe)
    seen[server][REFUSED] = "refused"


def refuse_impostors(probe: Probe) -> None:
    """Starts the units of the idle slot with two instances of a program that gives a link away."""
    idle = "blue" if probe.slot() == "green" else "green"
    directory, template = f"/run/asgi/probe/{idle}", f"probe-{idle}@"
    drop_in, program = f"/run/systemd/system/{template}.service.d", "/usr/local/lib/impostor.py"
    own = "/run/asgi/probe/%j/%i/own.sock"
    text = (
        "[Service]\nExecStart=\n"
        f"ExecStart=/usr/bin/python3 {program} %i {own} /run/caddy/admin.sock\n"
    )
    probe.site.host.run(["install", "-m644", "/dev/stdin", program], stdin=IMPOSTOR.read_text())
    probe.site.host.run(["install", "-Dm644", "/dev/stdin", f"{drop_in}/impostor.conf"], stdin=text)
    began = probe.site.run("date +%s").strip()
    units = [f"{template}{number}.service" for number in (1, 2)]
    publishes = f"probe--publish-{idle}@"

    def said() -> str:
        selected = f"-u '{template}*' -u '{publishes}*' -S @{began}"
        return probe.site.run(f"journalctl --sync; journalctl {selected} -o cat")

    try:
        probe.site.run("systemctl daemon-reload")
        probe.site.run(f"systemctl start {' '.join(units)}")
        rejected = f"{directory}/1/own.sock is no socket of probe"
        # root looks again as long as the instance runs, and finds the same
        assert until(lambda: said().count(rejected) >= 2), said()
        assert until(
            lambda: said().count("where the proxy looks: Permission denied") >= len(units)
        ), said()
        state = f"systemctl show --value --property=SubState {publishes}2.service"
        # it has to listen first
        assert probe.site.run(state).strip() == "start"
        probe.site.run(f"! ls {directory} | grep sock")
    finally:
        probe.site.run(f"rm -r {drop_in} {program}; systemctl daemon-reload")
        probe.site.run(f"systemctl stop {' '.join(units)}")
    publishing = f"systemctl list-units --plain --no-legend '{publishes}*'"
    assert probe.site.run(publishing).strip() == ""


def test_it_is_told_to_stop(server: str, probe: Probe) -> None:
    """As at a reboot, with a request under way; the app's shutdown is run after it."""

    async def stopped() -> int:
        # a GET that is cut would be sent again by the proxy
        slow = asyncio.create_task(probe.get(f"/slow?seconds={SLOW_SECONDS}", method="POST"))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(probe.restart)
        return (await slow)[0]

    lived = probe.describe()["lifespan"]
    began = probe.site.run("date +%s").strip()
    finished = asyncio.run(stopped()) == 200
    said = probe.site.run(f"journalctl --sync; journalctl -u {probe.unit()} -S @{began} -o cat")
    both = lived == ["startup"] and "the probe has shut down" in said
    seen[server][STOPPED] = "it finishes" if finished else "it is cut"
    seen[server][LIFESPAN] = "yes" if both else "no"
    assert both is ACCEPTED.get(server, {}).get("asgi_service_lifespan", True)
    assert finished is (server not in ACCEPTED)


def test_its_websockets_are_closed(server: str, probe: Probe) -> None:
    """Some say that they go, some only leave."""

    async def closed() -> int:
        async with probe.websocket() as (opened, _scope):
            restart = asyncio.create_task(asyncio.to_thread(probe.restart))
            try:
                _kind, payload = await asyncio.wait_for(opened.receive(), 20)
            except client.RequestFailed:
                payload = b""
            await restart
            return int(client.close_code(payload)) if payload else 0

    code = asyncio.run(closed())
    seen[server][CLOSED] = f"closed with {code}" if code else "cut"


def test_it_is_killed(server: str, probe: Probe) -> None:
    """Requests that come meanwhile wait; only those in the dead process are lost."""
    with probe.load() as load:
        before = probe.pid()
        probe.site.run(f"systemctl kill --kill-whom=main --signal=SIGKILL {probe.unit()}")
        assert probe.has_come_back(before)
        result = load.stop()
    print(f"measured: {server} killed: {result.report().splitlines()[0]}")
    assert result.failed <= CONCURRENT, result.report()
    seen[server][KILLED] = "back; new requests waited"


def test_it_takes_too_much_memory(server: str, probe: Probe) -> None:
    """It is killed and comes back; no deploy is needed."""
    before = probe.pid()
    status, _body = asyncio.run(probe.get("/allocate?mebibytes=200", method="POST"))
    assert status != 200
    assert probe.has_come_back(before)
    seen[server][EATEN] = "killed, back"


def test_the_last_one_is_replaced(probe: Probe) -> None:
    """As all others were, by the one after them."""
    probe.turn_to(next(iter(SERVERS)))


def table(found: Mapping[str, Mapping[str, str]]) -> str:
    """What was seen, as the document has it."""
    lines = [f"| | {' | '.join(f'`{name}`' for name in found)} |", f"|---|{'---|' * len(found)}"]
    lines += [f"| {row} | {' | '.join(found[name][row] for name in found)} |" for row in ROWS]
    return "\n".join(lines)


def test_the_document_has_what_was_seen(request: pytest.FixtureRequest) -> None:
    """docs/servers.md is not older than this run."""
    missing = {name: set(ROWS) - set(rows) for name, rows in seen.items() if set(ROWS) - set(rows)}
    if missing and (request.session.testsfailed or request.config.getoption("keyword")):
        pytest.skip("only some servers were asked, or a test has failed")
    assert missing == {}
    text = DOCUMENT.read_text(encoding="utf-8")
    now = docs.filled(text, table(seen), DOCUMENT.name, docs.SEEN)
    if os.environ.get("ASGI_WRITE_DOCS"):
        DOCUMENT.write_text(now, encoding="utf-8")
    assert DOCUMENT.read_text(encoding="utf-8") == now

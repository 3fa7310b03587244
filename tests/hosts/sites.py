"""The blog of the examples on a real host: how a test deploys it, asks it and loads it."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import programs

ROOT = Path(__file__).resolve().parents[2]
BLOG = ROOT / "examples" / "blog"
DOMAIN = "blog.test"
CA_FILE = "/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt"
SECRET = "correct-horse-battery-staple"
#: Every kind of host; one is enough for what does not depend on it.
IMAGES = {"web12": "debian12-prepared", "web13": "debian13-prepared"}
#: A host as Debian's installer leaves it.
PLAIN = "debian12"
FIRST = "web12"
PLAY_TIMEOUT_SECONDS = 600
RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.M)


def load_module(name: str, path: Path) -> ModuleType:
    """Imports a file that belongs to no package."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


client = load_module("load_client", ROOT / "tests" / "load" / "client.py")
variants = load_module("blog_variants", BLOG / "variants.py")


#: Counts in the database who migrates at the same time, and migrates. It takes as many seconds as
#: it is told, and as long as there is a file `hold` in the app's home.
COUNTED_PROGRAM = """
import os, subprocess, sys, time
from pathlib import Path
import psycopg
home = Path(os.environ["HOME"])
url = os.environ["DATABASE_URL"].replace("+psycopg", "")
with psycopg.connect(url, autocommit=True) as connection:
    (number,) = connection.execute(
        "INSERT INTO migrations (app, beside)"
        " SELECT %s, count(*) FROM migrations WHERE NOT ended RETURNING number",
        [home.name],
    ).fetchone()
    (home / "migrating").touch()
    connection.execute("SELECT pg_sleep(%s)", [sys.argv[1]])
    while (home / "hold").exists():
        time.sleep(0.05)
    subprocess.run(["alembic", "upgrade", "head"], check=True)
    connection.execute("UPDATE migrations SET ended = true WHERE number = %s", [number])
"""
COUNTED: dict[str, Any] = {"asgi_migrate_command": "python counted.py 0"}


@dataclass
class Played:
    """How a playbook ended."""

    code: int
    output: str
    seconds: float

    @property
    def unwrapped(self) -> str:
        """The output in one line: Ansible breaks long ones."""
        return " ".join(self.output.split())

    @property
    def changed(self) -> int:
        """Changed tasks of all hosts."""
        return sum(int(match[3]) for match in RECAP.finditer(self.output))


@dataclass
class Site:
    """The blog on one host, or on all of an inventory where no host is given."""

    host: Any
    directory: Path
    inventories: Sequence[Path]
    source: Path = BLOG
    variables: dict[str, Any] = field(default_factory=dict)
    #: Where the programs of Ansible are.
    programs: Path = Path(sys.executable).parent

    def another_app(self, directory: Path, source: Path, variables: dict[str, Any]) -> Site:
        """Returns the site of another app on the same hosts.

        Args:
            directory: Of its own, for the files of its runs.
            source: Of the app.
            variables: All that are given to its runs.
        """
        shutil.copy(self.directory / "ansible.cfg", directory)
        return dataclasses.replace(self, directory=directory, source=source, variables=variables)

    def start(self, playbook: str, *options: str, **variables: Any) -> subprocess.Popen[str]:
        """Starts a playbook on this host, in a process group of its own.

        Args:
            playbook: Name in the collection, or a path.
            options: More options of ansible-playbook.
            variables: Added to those of the site.
        """
        # a file for each, as several may run at once
        given = self.directory / f"variables-{time.monotonic_ns()}.json"
        given.touch(mode=0o600)
        given.write_text(json.dumps({**self.variables, **variables}))
        return subprocess.Popen(
            [
                "ansible-playbook",
                *(f"--inventory={path}" for path in self.inventories),
                *(["--limit", self.host.name] if self.host else []),
                "--extra-vars",
                f"@{given}",
                *options,
                playbook,
            ],
            env={
                # the variable would go before the configuration: never the checkout
                **{k: v for k, v in os.environ.items() if k != "ANSIBLE_COLLECTIONS_PATH"},
                "ANSIBLE_CONFIG": str(self.directory / "ansible.cfg"),
                "PATH": f"{self.programs}:{os.environ['PATH']}",
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def play(
        self, playbook: str, *options: str, expect: int | None = 0, **variables: Any
    ) -> Played:
        """Runs a playbook on this host to its end.

        Args:
            playbook: Name in the collection, or a path.
            options: More options of ansible-playbook.
            expect: The exit code it must have; None for any.
            variables: Added to those of the site.
        """
        started = time.monotonic()
        process = self.start(playbook, *options, **variables)
        try:
            output, _nothing = process.communicate(timeout=PLAY_TIMEOUT_SECONDS)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        if expect is not None:
            assert (process.returncode == 0) == (expect == 0), output
        assert SECRET not in output, "a secret was shown"
        return Played(process.returncode, output, time.monotonic() - started)

    def deploy(self, source: Path | None = None, *, expect: int = 0, **variables: Any) -> Played:
        """Deploys a source; what was deployed well is what the next variant is made from."""
        source = source or self.source
        played = self.play(
            "asgi.deploy.site", expect=expect, asgi_app_source={"path": str(source)}, **variables
        )
        if expect == 0:
            self.source = source
        return played

    def role(self, *roles: str, expect: int = 0, **variables: Any) -> Played:
        """Plays roles alone, as a playbook of an infrastructure repository does.

        Where one role is all that is asked, this costs a quarter of what `deploy` does.
        """
        return self.play(self.playbook_of(*roles), expect=expect, **variables)

    def start_role(self, *roles: str, **variables: Any) -> subprocess.Popen[str]:
        """Starts to play roles alone."""
        return self.start(self.playbook_of(*roles), **variables)

    def playbook_of(self, *roles: str) -> str:
        """Writes a playbook of roles; returns its path."""
        playbook = self.directory / f"{'-'.join(roles)}.yml"
        names = ", ".join(f"asgi.deploy.{role}" for role in roles)
        playbook.write_text(f"- hosts: all\n  gather_facts: false\n  roles: [{names}]\n")
        return str(playbook)

    @contextlib.contextmanager
    def held_reload(self) -> Iterator[None]:
        """A reload of Caddy does not end before this does."""
        drop_in = "/etc/systemd/system/caddy.service.d"
        self.run(
            f"mkdir -p {drop_in} && touch /run/hold-reload && printf '[Service]\\nExecReload=\\n"
            'ExecReload=/bin/sh -c "while test -e /run/hold-reload; do sleep 0.1; done"\\n'
            "ExecReload=/usr/bin/caddy reload --config /etc/caddy/Caddyfile --force\\n'"
            f" > {drop_in}/hold.conf && systemctl daemon-reload"
        )
        try:
            yield
        finally:
            self.run(f"rm -r {drop_in} /run/hold-reload && systemctl daemon-reload")

    def variant(self, kind: str, marker: str | None = None, **options: Any) -> Path:
        """Makes a changed copy of what was deployed last."""
        target = self.directory / f"{kind}-{marker or ''}-{time.monotonic_ns()}"
        made: Path = variants.make_variant(kind, self.source, target, marker=marker, **options)
        return made

    def run(self, command: str, check: bool = True) -> str:
        """Runs a command on the host as root."""
        return str(self.host.run(command, check=check).stdout)

    def state(self) -> dict[str, Any]:
        """What the host remembers."""
        found: dict[str, Any] = json.loads(self.run("cat /srv/blog/state.json"))
        return found

    def slot(self) -> str:
        """The slot that the proxy asks."""
        return self.run("test -e /srv/blog/serving/green && echo green || echo blue").strip()

    def serving(self) -> str:
        """The release that the serving slot points at."""
        return self.run(f"basename $(readlink /srv/blog/slots/{self.slot()})").strip()

    def idle_release(self) -> str:
        """The previous release, which the idle slot points at."""
        idle = {"blue": "green", "green": "blue"}[self.slot()]
        return self.run(f"basename $(readlink /srv/blog/slots/{idle})").strip()

    def ask_instance(self, number: int, path: str, *options: str) -> str:
        """What an instance of the serving slot answers the host itself, past the proxy."""
        if self.variables.get("asgi_proxy_provider") == "traefik":
            unit = f"blog-{self.slot()}@{number}.socket"
            listens = self.run(f"systemctl show --property=Listen --value {unit}").split()[0]
            return self.run(shlex.join(["curl", "-s", *options, f"http://{listens}{path}"]))
        name = f"/run/asgi/blog/{self.slot()}/{number}.sock"
        words = ["curl", "-s", "--unix-socket", name, *options, f"http://{DOMAIN}{path}"]
        return self.run(shlex.join(words))

    def ca_file(self) -> Path:
        """The authority of the host's proxy, copied here."""
        path = self.directory / "ca.crt"
        path.write_text(self.run(f"cat {CA_FILE}"))
        return path

    def ask(self, path: str) -> tuple[int, Any, str]:
        """Asks the app through HTTPS from here; the certificate is verified.

        Returns:
            Status, headers and body.
        """
        context = ssl.create_default_context(cafile=str(self.ca_file()))
        plain = socket.create_connection((self.host.address, 443), timeout=20)
        connection = http.client.HTTPConnection(DOMAIN)
        with context.wrap_socket(plain, server_hostname=DOMAIN) as connection.sock:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.headers, response.read().decode()

    def get(self, path: str) -> dict[str, Any]:
        """The JSON that the app answers through HTTPS."""
        status, _headers, body = self.ask(path)
        assert status == 200, body
        answer: dict[str, Any] = json.loads(body)
        return answer

    def load(self, **options: Any) -> Any:
        """A load on the site by a client that never retries; start it with `with`."""
        settings: dict[str, Any] = {
            "address": self.host.address,
            "domain": DOMAIN,
            "ca_file": self.ca_file(),
            "rate_per_second": 30,
            "keepalive_get": 2,
            "new_get": 1,
            "keepalive_post": 1,
            "new_post": 1,
            "get_path": "/api/posts?limit=3",
            "websocket_greeting": 1,
            **options,
        }
        return client.Load(**settings)

    def counted(self, marker: str) -> Path:
        """A variant whose migration counts in the database how often it runs (COUNTED)."""
        version = self.variant("same", marker)
        (version / "counted.py").write_text(COUNTED_PROGRAM)
        return version

    def query(self, text: str) -> str:
        """What PostgreSQL answers its own user."""
        command = ["runuser", "--user=postgres", "--", "psql", "-d", "blog", "-At", "-F,"]
        return str(self.host.run([*command, "--set=ON_ERROR_STOP=1"], stdin=text).stdout)

    def count_migrations(self) -> None:
        """Begins to count."""
        self.query(
            "DROP TABLE IF EXISTS migrations; CREATE TABLE migrations (number serial, app text,"
            " beside int, ended bool DEFAULT false); ALTER TABLE migrations OWNER TO blog;"
        )

    def migrations(self) -> list[tuple[str, int, bool]]:
        """Every migration that was counted: app, how many ran beside it, whether it has ended."""
        told = self.query("SELECT app, beside, ended FROM migrations ORDER BY number")
        rows = [line.split(",") for line in told.splitlines()]
        return [(app, int(beside), ended == "t") for app, beside, ended in rows]

    def stored_ids(self) -> list[str]:
        """The request ids of all posts in the database."""
        query = "SELECT request_id FROM posts WHERE request_id IS NOT NULL"
        return self.run(f'runuser -u postgres -- psql -d blog -Atc "{query}"').split()


#: Where a host has the certificate of a site with OwnAuthority.
CERTIFICATES = "/etc/ssl/blog"
FILES: dict[str, Any] = {
    "asgi_proxy_certificate": "files",
    "asgi_proxy_certificate_file": f"{CERTIFICATES}/cert.pem",
    "asgi_proxy_certificate_key_file": f"{CERTIFICATES}/caddy.pem",
    "asgi_proxy_trusted_ca_file": f"{CERTIFICATES}/cert.pem",
}


@dataclass
class OwnAuthority(Site):
    """A site whose certificate is given as files."""

    def ca_file(self) -> Path:
        """The certificate itself: nobody else has signed it."""
        path = self.directory / "ca.crt"
        path.write_text(self.run(f"cat {CERTIFICATES}/cert.pem"))
        return path

    def certify(self) -> None:
        """Makes the certificate on the host; each proxy reads a key of its own."""
        self.run(
            f"mkdir -p {CERTIFICATES} && openssl req -x509 -newkey ec -pkeyopt"
            " ec_paramgen_curve:prime256v1 -nodes -days 2"
            f" -subj /CN={DOMAIN} -addext subjectAltName=DNS:{DOMAIN}"
            f" -keyout {CERTIFICATES}/key.pem -out {CERTIFICATES}/cert.pem"
            " && for user in caddy traefik; do id --user $user > /dev/null 2>&1 ||"
            " useradd --system --home-dir /var/lib/$user --shell /usr/sbin/nologin $user"
            f" && install -m 640 -g $user {CERTIFICATES}/key.pem {CERTIFICATES}/$user.pem"
            " || exit 1; done"
        )


def behind_traefik() -> dict[str, Any]:
    """The variables that put a site with OwnAuthority behind Traefik."""
    return {
        "asgi_proxy_provider": "traefik",
        "asgi_proxy_certificate_key_file": f"{CERTIFICATES}/traefik.pem",
        **programs.variables("traefik"),
    }


VARIABLES: dict[str, Any] = {
    "asgi_app_name": "blog",
    "asgi_app_entrypoint": "blog.main:app",
    "asgi_app_ca_file": "/etc/ssl/certs/ca-certificates.crt",
    "asgi_app_environment": {
        "DATABASE_URL": "postgresql+psycopg://blog@/blog?host=/run/postgresql",
        "BLOG_TITLE": 'Quotes " and $HOME and %h and \\ arrive',
        "BLOG_DEBUG_ENDPOINTS": "1",
    },
    "asgi_app_secrets": {"BLOG_SECRET_KEY": SECRET},
    "asgi_service_instances": 2,
    "asgi_service_memory_max": "256M",
    "asgi_service_health_path": "/healthz",
    "asgi_service_health_timeout_seconds": 30,
    # longer than the longest requests of the tests; WebSockets make each rollout wait so long
    "asgi_service_drain_seconds": 7,
    "asgi_migrate_command": "alembic upgrade head",
    "asgi_proxy_domains": [DOMAIN],
}


def assert_only_serving_slot_runs(site: Site) -> None:
    """No unit of the other slot runs or would start at boot."""
    expected = [f"blog-{site.slot()}@{number}.service" for number in (1, 2)]
    units = site.run("systemctl list-units --plain --no-legend 'blog-blue@*.service'")
    units += site.run("systemctl list-units --plain --no-legend 'blog-green@*.service'")
    assert [line.split()[0] for line in units.splitlines()] == expected
    wanted = site.run("ls /etc/systemd/system/multi-user.target.wants").split()
    assert [name for name in wanted if name.startswith("blog-")] == expected


def assert_stored_once(result: Any, site: Site) -> None:
    """No acknowledged POST was lost and none was done twice."""
    ledger = result.ledger(site.stored_ids())
    assert ledger.lost == []
    assert ledger.doubled == []


def until(question: Callable[[], bool], timeout_seconds: float = 60) -> bool:
    """Asks again and again until the answer is yes."""
    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if question():
            return True
        time.sleep(0.1)
    return False


def property_of(site: Site, unit: str, name: str) -> str:
    """One property of a unit."""
    return site.run(f"systemctl show --value --property={name} {unit}").strip()


def healthy(site: Site, instance: int) -> bool:
    """Whether one instance answers over its own socket."""
    socket = f"/run/asgi/blog/{site.slot()}/{instance}.sock"
    command = f"curl -s -o /dev/null -w '%{{http_code}}' --max-time 2 --unix-socket {socket}"
    return site.run(f"{command} http://localhost/healthz", check=False) == "200"


def collections_config(collections: Path) -> str:
    """The ansible.cfg of a site."""
    return (
        f"[defaults]\ncollections_path = {collections}\nnocows = true\n"
        # asked less often whether a task has ended, it leaves more of a core to the hosts
        "internal_poll_interval = 0.01\n"
        "[ssh_connection]\npipelining = true\n"
    )


def answered(load: Any) -> bool:
    """Waits until each kind of short requests has got an answer that was not there before."""
    before = load.snapshot().kinds

    def all_answered() -> bool:
        now = load.snapshot().kinds
        return all(now[kind].ok > before[kind].ok for kind in client.SHORT_KINDS if kind in now)

    return until(all_answered, 120)


@contextlib.contextmanager
def given_up(site: Site, instance: int) -> Iterator[None]:
    """Has systemd give an instance of the blog up, and start it again at the end."""
    unit = f"blog-{site.slot()}@{instance}"
    limit = f"/run/systemd/system/{unit}.service.d/limit.conf"
    site.run(
        f"mkdir {limit.rpartition('/')[0]} && printf '[Unit]\\nStartLimitBurst=2\\n' > {limit}"
        " && systemctl daemon-reload"
    )
    state = f"systemctl show --value --property=ActiveState {unit}.socket"
    deadline = time.monotonic() + 240
    while site.run(state).strip() != "failed":
        assert time.monotonic() < deadline, site.run(f"systemctl status '{unit}.*'", check=False)
        site.run(f"systemctl kill --signal=SIGKILL {unit}.service", check=False)
        time.sleep(0.1)
    yield
    site.run(
        f"rm -r {limit.rpartition('/')[0]} && systemctl daemon-reload"
        f" && systemctl reset-failed '{unit}.*' && systemctl start {unit}.socket {unit}.service"
    )


def plan_of(played: Played) -> dict[str, str]:
    """The parts of the plan by their names; what it is of is under `head`."""
    found = [line.strip().strip(",").strip('"') for line in played.output.splitlines()]
    start = next(n for n, line in enumerate(found) if re.match(r"\w+: .*slot (blue|green)", line))
    parts = {"head": found[start]}
    for line in found[start + 1 :]:
        if line == "]":
            break
        name, _colon, text = line.partition(": ")
        parts[name] = text
    return parts


def deploy_blog(site: Site) -> None:
    """Puts database and app on the host of a site."""
    site.play(str(BLOG / "deploy" / "prepare.yml"))
    site.deploy()

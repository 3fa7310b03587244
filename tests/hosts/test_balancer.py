"""The blog on three real hosts behind two balancers, under a load that never retries.

Most tests are the steps of one journey: they share one load through the balancer, which goes on
from the first to the last of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import collection
import lab
import programs
import pytest
from sites import BLOG, DOMAIN, ROOT, VARIABLES, Site, collections_config, variants

IMAGES = {"one": "debian12-prepared", "two": "debian12-prepared", "three": "debian13-prepared"}
#: The first with Caddy, the second with Traefik.
BALANCERS = {"front": "debian12-prepared", "second": "debian13-prepared"}
WEB = ("one", "two", "three")
#: The other app hosts have Debian's Caddy.
WITH_TRAEFIK = "three"
CERTIFICATES = "/etc/ssl/blog"
PASSWORD = "nobody-may-read-this-password"
#: A balancer that asks each second has noticed by then.
DRAIN_SECONDS = 4
#: The rate of --rate is a wish: no more workers than these wait for answers.
TRAFFIC: dict[str, Any] = {
    "keepalive_get": 2,
    "new_get": 1,
    "keepalive_post": 2,
    "new_post": 1,
    "sse": 1,
    "sse_count": 3,
    "get_path": "/api/ping",
    # more than a balancer takes to find another host
    "timeout": 8,
}
#: How many requests can be under way at once.
WORKERS = sum(TRAFFIC[kind] for kind in ("keepalive_get", "new_get", "keepalive_post", "new_post"))
#: A balancer asks each second, and waits three for an answer.
NOTICED_SECONDS = 4
SETTLED_SECONDS = 180
DRAINING_FILE = "/run/asgi-deploy/blog.draining"
#: While it is on a host, the version that looks for it does not start there.
BROKEN = "/var/lib/asgi/blog/broken"
FAILS_WHERE_BROKEN = f"""\
    if __import__("pathlib").Path("{BROKEN}").exists():
        raise RuntimeError("broken on this host")
"""
#: Without a connection for each POST behind Traefik, about one in 24 failed one.
PAGES_THAT_FAIL = 120
#: A page of the app that fails.
MISTAKE = """

@router.get("/api/mistake")
async def mistake() -> None:
    raise RuntimeError("a mistake of the app")
"""


@dataclass
class Front(Site):
    """A balancer; what is asked often needs its authority at hand."""

    def ca_file(self) -> Path:
        """The certificate that both balancers have, copied here once."""
        path = self.directory / "ca.crt"
        if not path.exists():
            path.write_text(self.run(f"cat {CERTIFICATES}/public.pem"))
        return path


@dataclass
class Watch:
    """Asks through the balancer, one request after another, who answers.

    Attributes:
        seen: When (seconds since the epoch, as the request was sent), and who: the host, or why
            nobody has.
    """

    front: Site
    seen: list[tuple[float, str]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Asks until it is ended."""
        while not self.ended.wait(0.05):
            at = time.time()
            try:
                status, _headers, body = self.front.ask("/openapi.json")
                host = json.loads(body)["info"]["title"] if status == 200 else f"status {status}"
            except OSError as error:
                host = str(error)
            self.seen.append((at, host))

    def during(self, begin: float, end: float) -> set[str]:
        """The hosts that were asked between two moments."""
        return {host for at, host in list(self.seen) if begin < at < end}


@dataclass
class Fleet:
    """Three app hosts and two balancers.

    Args:
        all: All of them; a playbook runs as an operator would run it.
        hosts: Each by its name.
        load: The load through the first balancer.
        second_load: A lighter one through the second.
    """

    all: Site
    hosts: dict[str, Site]
    load: Any = None
    second_load: Any = None

    @property
    def front(self) -> Site:
        """The balancer that has the load all the time."""
        return self.hosts["front"]

    @contextlib.contextmanager
    def watched(self) -> Iterator[Watch]:
        """Notes which host answers."""
        watch = Watch(self.front)
        thread = threading.Thread(target=watch.run)
        thread.start()
        try:
            yield watch
        finally:
            watch.ended.set()
            thread.join()

    def until(self, wanted: Callable[[Watch, float], bool]) -> float:
        """Waits until the answers of the last two seconds are as wanted; returns the seconds."""
        started = time.time()
        with self.watched() as watch:
            while True:
                now = time.time()
                if now > started + 2 and wanted(watch, now - 2):
                    return now - started
                assert now < started + SETTLED_SECONDS, watch.seen[-20:]
                time.sleep(0.1)

    def until_asked(self, *names: str) -> float:
        """Waits until exactly these hosts are asked."""
        return self.until(lambda watch, since: watch.during(since, time.time()) == set(names))

    def lap(self, name: str, failed: int = 0) -> Any:
        """Ends a step of both loads: each has failed no more requests since the last one.

        Returns:
            What the first balancer met.
        """
        loads = {"Caddy": self.load, "Traefik": self.second_load}
        laps = {provider: load.lap() for provider, load in loads.items()}
        for provider, lap in laps.items():
            causes = f" (so far {loads[provider].snapshot().causes})" if lap.failed else ""
            print(
                f"measured: balancer, {provider}: {name}: {lap.seconds:.0f} s,"
                f" {lap.sent} requests, {lap.failed} failed{causes}"
            )
        for provider, lap in laps.items():
            assert lap.failed <= failed, loads[provider].snapshot().report()
            assert lap.ok
        return laps["Caddy"]

    def assert_ready(self) -> None:
        """No host was left out of the balancer."""
        for name in WEB:
            self.hosts[name].run(f"test ! -e {DRAINING_FILE}")


def given(name: str) -> dict[str, Any]:
    """The variables of hosts that are given a certificate."""
    return {
        "asgi_proxy_certificate": "files",
        "asgi_proxy_certificate_file": f"{CERTIFICATES}/{name}.pem",
        "asgi_proxy_certificate_key_file": f"{CERTIFICATES}/{name}.key",
    }


def inventory() -> dict[str, Any]:
    """What an operator writes: app hosts, and two balancers in front of them."""
    environment = {**VARIABLES["asgi_app_environment"], "BLOG_TITLE": "{{ inventory_hostname }}"}
    environment["DATABASE_URL"] = f"postgresql+psycopg://blog:{PASSWORD}@one/blog"
    web = {
        **given("web"),
        "asgi_app_environment": environment,
        "asgi_service_instances": 1,
        "asgi_service_health_stable_seconds": 1,
        "asgi_service_balancer_drain_seconds": DRAIN_SECONDS,
        "asgi_proxy_trusted_ca_file": f"{CERTIFICATES}/web.pem",
    }
    # both have the same certificate, which one place has got
    balancers = {
        **given("public"),
        "asgi_proxy_upstreams": "{{ groups.web }}",
        "asgi_proxy_upstream_ca_file": f"{CERTIFICATES}/web.pem",
    }
    second = {**programs.variables("traefik"), "asgi_proxy_provider": "traefik"}
    return {
        "web": {"hosts": {**{name: {} for name in WEB}, WITH_TRAEFIK: second}, "vars": web},
        "asgi_balancers": {
            "hosts": {"front": programs.variables("caddy"), "second": second},
            "vars": balancers,
        },
    }


def certificate(name: str) -> str:
    """The command that makes a certificate of the app's name, which is its own authority."""
    return (
        f"mkdir -p {CERTIFICATES} && cd {CERTIFICATES} && openssl req -x509 -newkey ec -pkeyopt"
        " ec_paramgen_curve:prime256v1 -nodes -days 2"
        f" -subj /CN={DOMAIN} -addext subjectAltName=DNS:{DOMAIN}"
        f" -keyout {name}.key -out {name}.pem"
    )


def give_certificates(hosts: dict[str, Site]) -> None:
    """Puts one certificate on all app hosts, and another one on both balancers.

    The balancers trust the first; its key is not on them.
    """
    first = hosts["one"]
    made = {}
    for name in ("web", "public"):
        first.run(certificate(name))
        made[name] = [first.run(f"cat {CERTIFICATES}/{name}.{end}") for end in ("pem", "key")]
    first.run(f"rm -r {CERTIFICATES}")
    for host, site in hosts.items():
        user = "traefik" if host in ("second", WITH_TRAEFIK) else "caddy"
        site.run(
            f"id --user {user} > /dev/null 2>&1"
            f" || useradd --system --home-dir /var/lib/{user} --shell /usr/sbin/nologin {user}"
            f" && mkdir -p {CERTIFICATES}"
        )
        site.host.run(f"cat > {CERTIFICATES}/web.pem", stdin=made["web"][0])
        own = "public" if host in BALANCERS else "web"
        site.host.run(f"cat > {CERTIFICATES}/{own}.pem", stdin=made[own][0])
        path = f"{CERTIFICATES}/{own}.key"
        site.host.run(f"umask 077 && cat > {path}", stdin=made[own][1])
        site.run(f"chmod 640 {path} && chgrp {user} {path}")


@pytest.fixture(scope="module")
def fleet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """The blog on all hosts, and the load through the balancer."""
    target = ROOT / ".cache" / "tests"
    collection.install(target / "collections", target / "collection.log")
    group = f"{request.config.getoption('--group')}-balancer"
    lab.down(group)
    try:
        made = tmp_path_factory.mktemp("balancer")
        where, what = made / "lab.yml", made / "hosts.yml"
        what.write_text(json.dumps(inventory()))
        variables = {k: v for k, v in VARIABLES.items() if k != "asgi_app_environment"}
        variables |= {"asgi_hosts": "web", "asgi_serial": 1}
        del variables["asgi_service_instances"]
        found = {host.name: host for host in lab.up(group, {**IMAGES, **BALANCERS}, where)}

        def site(host: lab.Host | None) -> Site:
            directory = tmp_path_factory.mktemp(host.name if host else "all")
            (directory / "ansible.cfg").write_text(collections_config(target / "collections"))
            kind = Front if host and host.name in BALANCERS else Site
            return kind(host, directory, [where, what], variables=variables)

        fleet = Fleet(site(None), {name: site(host) for name, host in found.items()})
        give_certificates(fleet.hosts)
        fleet.all.play(
            str(ROOT / "molecule" / "resources" / "database.yml"),
            asgi_hosts="one",
            __asgi_molecule_password=PASSWORD,
        )
        fleet.all.deploy(BLOG, asgi_serial="100%")
        fleet.until_asked(*WEB)
        second, rate = fleet.hosts["second"], request.config.getoption("--rate")
        with (
            fleet.front.load(**TRAFFIC, rate_per_second=rate) as fleet.load,
            second.load(**TRAFFIC, rate_per_second=rate / 3) as fleet.second_load,
        ):
            yield fleet
    finally:
        lab.down(group)


def test_a_second_run_changes_nothing(fleet: Fleet) -> None:
    """Also on the balancer."""
    assert fleet.all.deploy(BLOG).changed == 0
    fleet.lap("a second run")


def worked_on(site: Site, slot: str) -> tuple[float, float]:
    """From when to when a host was worked on: its new slot was started, the proxy was turned."""
    started = site.run(f"journalctl -u 'blog-{slot}@1.service' -o short-unix --grep '^Started'")
    switched = site.run("stat -c %.Y /srv/blog/serving")
    return float(started.splitlines()[-1].split()[0]), float(switched)


def assert_not_asked(fleet: Fleet, watch: Watch, *batches: set[str]) -> None:
    """While a host was worked on, it was not asked, and those of other batches were.

    One of the same batch may have been done earlier.
    """
    for batch in batches:
        for name in batch:
            site = fleet.hosts[name]
            begin, end = worked_on(site, site.slot())
            assert begin + 1 < end
            asked = watch.during(begin, end)
            assert name not in asked
            assert set(WEB) - batch <= asked
    fleet.assert_ready()


def test_a_host_is_not_asked_while_it_is_rolled_out(fleet: Fleet) -> None:
    """One host after the other: the balancer asks the two others meanwhile, then all again."""
    version = fleet.all.variant("same", "second")
    api = version / "src" / "blog" / "api.py"
    api.write_text(api.read_text() + MISTAKE)
    with fleet.watched() as watch:
        fleet.all.deploy(version)
    fleet.lap("a release")
    assert_not_asked(fleet, watch, {"one"}, {"two"}, {"three"})
    print(f"measured: balancer: all three are asked {fleet.until_asked(*WEB):.0f} s later")


def test_an_app_that_fails_takes_no_host_out(fleet: Fleet) -> None:
    """A status 500 is an answer: it is passed on, and all hosts go on to be asked."""
    for name in BALANCERS:
        found = [fleet.hosts[name].ask("/api/mistake")[0] for _ in range(PAGES_THAT_FAIL)]
        assert set(found) == {500}
    fleet.lap("pages that fail")


def test_a_release_that_fails_on_one_host_fails_no_request(fleet: Fleet) -> None:
    """The host that had moved goes back, the one that failed is asked again."""
    version = fleet.all.variant("same", "broken")
    main = version / "src" / "blog" / "main.py"
    text = main.read_text()
    main.write_text(text.replace(variants.LIFESPAN, variants.LIFESPAN + FAILS_WHERE_BROKEN))
    fleet.hosts["two"].run(f"touch {BROKEN}")
    played = fleet.all.deploy(version, expect=2, asgi_service_health_timeout_seconds=30)
    assert "broken on this host" in played.output
    fleet.lap("a release that fails on one host")
    fleet.assert_ready()
    fleet.until_asked(*WEB)


def test_two_hosts_at_a_time_leave_the_third(fleet: Fleet) -> None:
    """A batch of two: the balancer has one host to ask meanwhile."""
    with fleet.watched() as watch:
        fleet.all.deploy(fleet.all.variant("same", "third"), asgi_serial=2)
    fleet.lap("another release, two hosts at a time")
    assert_not_asked(fleet, watch, {"one", "two"}, {"three"})
    fleet.until_asked(*WEB)


def test_a_rollback_fails_no_request(fleet: Fleet) -> None:
    """With what the hosts remember, the balancer among it."""
    with fleet.watched() as watch:
        fleet.all.play("asgi.deploy.rollback")
    fleet.lap("a rollback")
    assert_not_asked(fleet, watch, {"one"}, {"two"}, {"three"})


def test_the_whole_journey_failed_no_request(fleet: Fleet, requests: int) -> None:
    """Two releases, a refused one and a rollback, through each balancer."""
    while fleet.load.snapshot().sent < requests:
        fleet.lap("until there were enough")
        time.sleep(5)
    for provider, load in (("Caddy", fleet.load), ("Traefik", fleet.second_load)):
        result = load.snapshot()
        print(f"measured: balancer, {provider}: {result.report().splitlines()[0]}")
        assert result.failed == 0, result.report()
        assert len(result.releases) >= 3, result.report()


def test_the_run_after_one_that_was_killed_admits_the_host(fleet: Fleet) -> None:
    """Run and module are killed while a host is out of the balancer."""
    site = fleet.hosts["one"]
    process = fleet.all.start("asgi.deploy.restart", "--limit=one,two")
    try:
        site.run(f"timeout 240 sh -c 'until test -e {DRAINING_FILE}; do sleep 0.1; done'")
    finally:
        os.killpg(process.pid, signal.SIGKILL)
    # its second word is the process that holds it
    site.run("kill -KILL $(awk '{print $2}' /srv/blog/.lock)")
    process.communicate(timeout=30)
    fleet.until_asked("two", "three")
    site.run(f"test -e {DRAINING_FILE}")
    fleet.all.play("asgi.deploy.restart", "--limit=one")
    fleet.assert_ready()
    fleet.until_asked(*WEB)
    fleet.lap("a run that was killed, and the next")


@pytest.mark.parametrize(("name", "unit"), [("two", "caddy"), (WITH_TRAEFIK, "traefik")])
def test_a_proxy_that_is_killed_costs_what_was_under_way(
    fleet: Fleet, name: str, unit: str
) -> None:
    """And no request more; the host is asked again when its proxy is back."""
    site = fleet.hosts[name]
    process = f"systemctl show --value --property=MainPID {unit}.service"
    before = site.run(process)
    site.run(f"systemctl kill --signal=KILL {unit}.service")
    time.sleep(1)
    fleet.until_asked(*WEB)
    assert site.run(process) not in (before, "0\n")
    lap = f"the {unit} of a host is killed, until it is asked again"
    killed = fleet.lap(lap, failed=WORKERS + TRAFFIC["sse"])
    time.sleep(NOTICED_SECONDS)
    fleet.lap(f"after it ({killed.failed} were under way)")


def test_a_host_that_is_cut_off_costs_what_was_under_way(fleet: Fleet) -> None:
    """The network of one host ends; nothing is lost after the balancer has noticed."""
    site = fleet.hosts["three"]
    site.host.disconnect()
    try:
        # what was under way has failed by then, and what was sent before anybody could notice
        time.sleep(NOTICED_SECONDS + TRAFFIC["timeout"])
        # whoever waited in vain may have come to it once more
        cut = fleet.lap("a host is cut off", failed=2 * (WORKERS + TRAFFIC["sse"]))
        fleet.until_asked("one", "two")
        fleet.lap(f"while it is gone ({cut.failed} were under way)")
    finally:
        site.host.connect()
    print(f"measured: balancer: asked again {fleet.until_asked(*WEB):.0f} s after it is back")
    fleet.lap("when it is back")


def test_an_app_host_with_another_certificate_is_not_asked(fleet: Fleet) -> None:
    """The balancer refuses to send anything to a host that cannot prove that it is one."""
    site = fleet.hosts["two"]
    site.run(f"cp -a {CERTIFICATES} {CERTIFICATES}.kept")
    try:
        site.run(f"{certificate('web')} && systemctl restart caddy")
        fleet.until_asked("one", "three")
    finally:
        site.run(f"cp -a {CERTIFICATES}.kept/. {CERTIFICATES}/ && systemctl restart caddy")
    fleet.until_asked(*WEB)


def test_a_balancer_is_refused_before_anything_is_touched(fleet: Fleet) -> None:
    """Without app hosts, and as one of them."""
    refused = fleet.all.play(
        "asgi.deploy.site", expect=2, asgi_app_source={"path": str(BLOG)}, asgi_balancers="one"
    )
    text = refused.unwrapped
    assert "asgi_proxy_upstreams: a balancer needs the app hosts" in text
    assert "asgi_balancers: one runs the app" in text
    assert refused.changed == 0


def test_nothing_was_lost_and_the_site_is_taken_off_the_balancer(fleet: Fleet) -> None:
    """What was answered with 201 is in the database once; with the app its site goes."""
    for load in (fleet.load, fleet.second_load):
        ledger = load.stop().ledger(fleet.hosts["one"].stored_ids())
        assert (ledger.lost, ledger.doubled) == ([], [])
    fleet.all.play("asgi.deploy.remove")
    fleet.front.run("test ! -e /etc/caddy/sites/blog.caddy")
    fleet.hosts["second"].run("test ! -e /etc/traefik/dynamic/blog.yml")

"""What systemd does for the app when nobody deploys: crash, memory, reboot."""

from __future__ import annotations

import re
import time
from typing import Any

from sites import SECRET, Site, answered, given_up, healthy, property_of, until

#: What the blog needs no more than its sockets for: three instances, and beside them others.
ALL_KINDS: dict[str, Any] = {
    "asgi_service_instances": 3,
    "asgi_service_outbound_network": False,
    "asgi_service_processes": [{"name": "worker", "command": "sleep infinity"}],
    "asgi_service_timers": [{"name": "tidy", "command": "true", "calendar": "hourly"}],
    "asgi_service_recycle_age_seconds": 86400,
}
#: Highest exposure with the network and with nothing but sockets, and that of others with a reason:
#: Caddy has the ports of the host, and the watch, as root, does what a rollout does.
EXPOSURES = {"blog": (1.1, 0.3), "caddy": (1.4, 1.4), "asgi-blog-watch": (2.3, 2.3)}


def assert_others_served(result: Any, in_flight_at_most: int) -> None:
    """Only what the dead process was working on was lost."""
    print(f"measured: {result.report().splitlines()[0]}")
    assert result.failed <= in_flight_at_most, result.report()


def test_killed_instance_is_back_and_the_other_served(site: Site) -> None:
    """SIGKILL to one of two instances under load."""
    unit = f"blog-{site.slot()}@1.service"
    before = property_of(site, unit, "MainPID")
    with site.load() as load:
        site.run(f"systemctl kill --kill-whom=main --signal=SIGKILL {unit}")
        assert until(lambda: property_of(site, unit, "MainPID") not in (before, "0"), 60)
        assert until(lambda: healthy(site, 1), 60)
        assert answered(load)
        result = load.stop()
    assert property_of(site, unit, "NRestarts") != "0"
    # one request of each of the 7 workers at the most was in the dead process
    assert_others_served(result, in_flight_at_most=7)


def test_instance_past_its_memory_is_killed_and_back(site: Site) -> None:
    """An instance that eats past asgi_service_memory_max, the other one serves on."""
    unit = f"blog-{site.slot()}@2.service"
    restarts = int(property_of(site, unit, "NRestarts"))
    socket = f"/run/asgi/blog/{site.slot()}/2.sock"
    assert property_of(site, unit, "MemoryMax") == str(256 * 2**20)
    with site.load() as load:
        answer = site.run(
            f"curl -s -o /dev/null -w '%{{http_code}}' --max-time 20 --unix-socket {socket}"
            " -X POST 'http://localhost/debug/allocate?mebibytes=400'",
            check=False,
        )
        assert answer == "000", "the process that ate 400 MiB answered"
        assert until(lambda: int(property_of(site, unit, "NRestarts")) == restarts + 1, 60)
        assert until(lambda: healthy(site, 2), 60)
        assert answered(load)
        result = load.stop()
    assert_others_served(result, in_flight_at_most=7)
    assert int(property_of(site, unit, "MemoryCurrent")) < 256 * 2**20


def test_an_instance_that_systemd_gives_up_is_left_to_the_other(site: Site) -> None:
    """Debian's Caddy tries it once a second, and cannot send elsewhere what has a body."""
    with site.load() as load:
        with given_up(site, 2):
            # what was under way when it was killed is another matter
            load.lap()
            # what is counted is how many fail in a stretch of time
            time.sleep(6)
            lap = load.lap()
        result = load.stop()
    print(f"measured: {result.report().splitlines()[0]} {result.causes}")
    posts = sum(lap.kinds[name].failed for name in ("keepalive_post", "new_post"))
    assert lap.failed == posts <= lap.seconds + 1, result.report()
    assert until(lambda: healthy(site, 2), 60)


def test_reboot_comes_up_with_the_same_release(site: Site) -> None:
    """After a reboot, and after a power cut, the app answers without help."""
    release = site.serving()
    site.host.reboot()
    assert until(lambda: healthy(site, 1), 60)
    assert site.get("/healthz")["release"] == release
    site.host.kill()
    site.host.start()
    assert until(lambda: healthy(site, 1), 60)
    assert site.get("/healthz")["release"] == release
    units = site.run("systemctl list-units --plain --no-legend 'blog-*@*.service'")
    assert [line.split()[0] for line in units.splitlines()] == [
        f"blog-{site.slot()}@1.service",
        f"blog-{site.slot()}@2.service",
    ]


def at_boot(site: Site) -> list[str]:
    """Everything of the blog that starts at boot."""
    links = site.run("ls /etc/systemd/system/*.wants").split()
    return sorted({name for name in links if re.match(r"(asgi-)?blog[.-]", name)})


def exposure(site: Site, unit: str) -> float:
    """What systemd says of the sandbox of a unit, from 0 to 10."""
    told = site.run(f"systemd-analyze security --no-pager '{unit}' | tail -n1")
    print(f"measured: {told.strip()}")
    return float(told.split(":")[-1].split()[0])


def assert_sound(site: Site, units: list[str], closed: bool) -> None:
    """systemd has no word against the units, and they are as confined as they can be."""
    assert site.run(f"systemd-analyze verify 'asgi-blog.slice' {' '.join(units)} 2>&1") == ""
    for unit in units:
        if unit.endswith(".service"):
            name = re.split(r"[.@]|-(?:blue|green|migrate)@", unit)[0]
            assert exposure(site, unit) <= EXPOSURES[name][closed], unit


def assert_only_reloads_were_noticed(site: Site, result: Any, reloads: int) -> None:
    """No request was refused, lost or done twice.

    A reload of Caddy closes connections that are idle, and its former listener those that it has
    not accepted yet: at most one of each kind at each reload, and none of them was begun.
    """
    allowed = r"keepalive_\w+: connection closed|\w+: connection reset"
    assert result.failed == sum(
        number for cause, number in result.causes.items() if re.fullmatch(allowed, cause)
    ), result.report()
    for cause, number in result.causes.items():
        assert number <= reloads, (cause, result.report())
    ledger = result.ledger(site.stored_ids())
    assert (ledger.lost, ledger.doubled, ledger.failed_but_stored) == ([], [], [])


def test_growing_and_shrinking_refuse_no_request(site: Site) -> None:
    """Three instances for two and back, with a worker and a timer for a while, all by sockets."""
    with site.load() as load:
        site.deploy(**ALL_KINDS)
        slot = site.slot()
        units = [f"blog-{slot}@{number}" for number in (1, 2, 3)]
        services = [f"{unit}.service" for unit in units]
        beside = [f"blog.tidy-{slot}@1.timer", f"blog.worker-{slot}@1.service"]
        wanted = [*services, *(f"{unit}.socket" for unit in units), *beside]
        assert at_boot(site) == sorted([*wanted, "asgi-blog-watch.service"])
        migration = f"blog-migrate@{site.serving()}.service"
        job = f"blog.tidy-{slot}@1.service"
        assert_sound(site, [*wanted, job, "asgi-blog-watch.service"], closed=True)
        # of the last release that was migrated, which had the network
        assert_sound(site, [migration, "caddy.service"], closed=False)
        for number in (1, 2, 3):
            assert healthy(site, number)
        # neither the limit nor a handler of the host makes a file of what a process had in memory
        pid = property_of(site, services[0], "MainPID")
        assert re.search(r"Max core file size +0 +0 ", site.run(f"cat /proc/{pid}/limits"))
        # what builds can write to is not there for the app
        cache = "ls -A /var/cache/asgi/blog"
        assert site.run(cache)
        assert site.run(f"nsenter --target={pid} --mount {cache}") == ""
        site.deploy()
        result = load.stop()
    print(f"measured: {result.report().splitlines()[0]}")
    assert_only_reloads_were_noticed(site, result, reloads=2)
    slot = site.slot()
    units = [f"blog-{slot}@{number}.{kind}" for number in (1, 2) for kind in ("service", "socket")]
    assert at_boot(site) == units
    assert_sound(site, units, closed=False)
    left = site.run("systemctl list-units --all --plain --no-legend 'blog*@*' 'asgi-blog-watch*'")
    assert sorted(line.split()[0] for line in left.splitlines()) == units
    # the slot that served before keeps its own, to go back to
    assert site.run(f"ls /etc/systemd/system/blog.*-{slot}@*", check=False) == ""


def test_nobody_but_root_and_the_app_sees_a_secret(one_site: Site) -> None:
    """In no file that others can read, no list of processes or units, and no journal."""
    places = ["/etc", "/opt", "/run", "/srv", "/tmp", "/var"]

    def found(*user: str) -> str:
        # not among the arguments, which would be seen
        search = [*user, "grep", "-rslD", "skip", "--file=-", *places]
        return str(one_site.host.run(search, stdin=f"{SECRET}\n", check=False).stdout)

    assert "/etc/asgi/blog/secrets" in found()
    assert found("runuser", "--user=nobody", "--") == ""
    for command in ("ps -e -ww -o args", "systemctl show 'blog*'", "journalctl --output=cat"):
        told = one_site.run(command)
        assert "blog" in told
        assert SECRET not in told, command


def test_a_host_that_was_off_comes_up_with_what_it_had(one_site: Site) -> None:
    """The run without it fails before anything is touched; the next one brings it along."""
    release = one_site.serving()
    version = one_site.variant("same", "while it was off")
    before = one_site.source
    one_site.host.kill()
    try:
        missed = one_site.deploy(version, expect=4)
    finally:
        one_site.host.start()
    one_site.source = before
    assert missed.changed == 0
    assert until(lambda: healthy(one_site, 1), 60)
    assert one_site.get("/healthz")["release"] == release
    one_site.deploy(version)
    assert one_site.get("/healthz")["release"] == one_site.serving() != release

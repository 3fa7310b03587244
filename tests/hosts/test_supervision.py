"""What systemd does for the app when nobody deploys: crash, memory, reboot."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sites import Site


def until(question: Callable[[], bool], timeout_seconds: float) -> bool:
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


def assert_others_served(result: Any, in_flight_at_most: int) -> None:
    """Only what the dead process was working on was lost, and answers never paused."""
    print(f"measured: {result.report().splitlines()[0]}")
    assert result.failed <= in_flight_at_most, result.report()
    assert result.longest_gap_seconds < 1.0, result.report()


def test_killed_instance_is_back_and_the_other_served(site: Site) -> None:
    """SIGKILL to one of two instances under load."""
    unit = f"blog-{site.slot()}@1.service"
    before = property_of(site, unit, "MainPID")
    with site.load() as load:
        time.sleep(1)
        site.run(f"systemctl kill --kill-whom=main --signal=SIGKILL {unit}")
        assert until(lambda: property_of(site, unit, "MainPID") not in (before, "0"), 10)
        assert until(lambda: healthy(site, 1), 10)
        time.sleep(1)
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
        time.sleep(1)
        answer = site.run(
            f"curl -s -o /dev/null -w '%{{http_code}}' --max-time 20 --unix-socket {socket}"
            " -X POST 'http://localhost/debug/allocate?mebibytes=400'",
            check=False,
        )
        assert answer == "000", "the process that ate 400 MiB answered"
        assert until(lambda: int(property_of(site, unit, "NRestarts")) == restarts + 1, 10)
        assert until(lambda: healthy(site, 2), 10)
        time.sleep(1)
        result = load.stop()
    assert_others_served(result, in_flight_at_most=7)
    assert int(property_of(site, unit, "MemoryCurrent")) < 256 * 2**20


def test_reboot_comes_up_with_the_same_release(site: Site) -> None:
    """After a reboot, and after a power cut, the app answers without help."""
    release = site.serving()
    site.host.reboot()
    assert until(lambda: healthy(site, 1), 30)
    assert site.get("/healthz")["release"] == release
    site.host.kill()
    site.host.start()
    assert until(lambda: healthy(site, 1), 30)
    assert site.get("/healthz")["release"] == release
    units = site.run("systemctl list-units --plain --no-legend 'blog-*@*.service'")
    assert [line.split()[0] for line in units.splitlines()] == [
        f"blog-{site.slot()}@1.service",
        f"blog-{site.slot()}@2.service",
    ]

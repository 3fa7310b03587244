"""One journey on a plain Debian 12 host, from the first deploy to a reboot.

Its steps build on each other, so the first that fails ends it. One load, from a client that never
retries, goes on from the first release to the last step; what it asserts is which requests failed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sites import (
    BLOG,
    Site,
    assert_only_serving_slot_runs,
    assert_stored_once,
    healthy,
    property_of,
    until,
)

#: Few requests of every kind: two cores sustain them with half of them busy.
TRAFFIC: dict[str, Any] = {
    "rate_per_second": 20,
    "keepalive_get": 2,
    "new_get": 1,
    "keepalive_post": 1,
    "new_post": 1,
    "slow": 1,
    "slow_seconds": 5,
    "sse": 1,
    "websocket": 1,
    "timeout": 120.0,
}
WORKERS = 8
SHORT = ("keepalive_get", "new_get", "keepalive_post", "new_post")
#: What a program that is slow to start on a busy machine needs.
PATIENCE: dict[str, Any] = {
    "asgi_service_health_timeout_seconds": 120,
    "asgi_proxy_timeout_seconds": 60,
}


@pytest.fixture(scope="module")
def site(empty_site: Site) -> Site:
    """The site, on a host as Debian's installer leaves it."""
    empty_site.variables.update(PATIENCE)
    return empty_site


@pytest.fixture(scope="module")
def load(site: Site) -> Iterator[Any]:
    """The load, which the first test that needs it starts."""
    with site.load(**TRAFFIC) as load:
        load.lap()
        yield load


def assert_none_failed(load: Any, name: str) -> Any:
    """No request failed since the last step, and answers went on; returns the lap."""
    before = load.snapshot()
    assert until(lambda: all_answered(before, load.snapshot()), 120), load.snapshot().report()
    lap = load.lap()
    print(f"measured: {name}: {lap.sent} requests, {lap.failed} failed, {lap.seconds:.0f} s")
    assert lap.failed == 0, load.snapshot().report()
    return lap


def all_answered(before: Any, now: Any) -> bool:
    """Whether each kind of short requests got an answer meanwhile."""
    return all(now.kinds[kind].ok > before.kinds[kind].ok for kind in SHORT)


def test_a_dry_run_on_a_bare_host_changes_nothing(site: Site) -> None:
    """It shows the plan, and installs nothing."""
    site.play(str(BLOG / "deploy" / "prepare.yml"))
    before = site.run("dpkg-query --show")
    planned = site.play(
        "asgi.deploy.site", "--check", "--diff", asgi_app_source={"path": str(site.source)}
    )
    assert "1.0.0-" in planned.output
    assert site.run("dpkg-query --show") == before
    assert site.run("ls /srv") == ""
    assert "blog" not in site.run("cut -d: -f1 /etc/passwd").split()


def test_first_deploy(site: Site) -> None:
    """What the app needs is installed; it is live over HTTPS and starts at boot."""
    site.deploy()
    assert site.get("/healthz")["release"] == site.serving()
    assert site.serving().startswith("1.0.0-")
    assert_only_serving_slot_runs(site)


def test_second_run_changes_nothing(site: Site) -> None:
    release = site.serving()
    assert site.deploy().changed == 0
    assert site.serving() == release


def test_release_with_a_migration(site: Site, load: Any) -> None:
    """Blue/green: the new release takes over while requests, streams and WebSockets go on."""
    before = site.serving()
    site.deploy(site.variant("v2"))
    assert site.serving().startswith("1.1.0-")
    assert set(assert_none_failed(load, "release").releases) == {before, site.serving()}
    assert_only_serving_slot_runs(site)


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("migration_error", "a_table_that_is_missing"),
        ("startup_error", "this variant fails at startup"),
    ],
)
def test_failing_release(site: Site, load: Any, kind: str, cause: str) -> None:
    """The exit code is not zero, the cause is in the output, and the live release stays."""
    before, slot = site.serving(), site.slot()
    played = site.deploy(site.variant(kind), expect=2)
    assert cause in played.output
    assert set(assert_none_failed(load, kind.replace("_", " ")).releases) == {before}
    assert (site.serving(), site.slot()) == (before, slot)
    assert_only_serving_slot_runs(site)


def test_rollback(site: Site, load: Any) -> None:
    """Across a migration only on demand."""
    before = site.serving()
    rejected = site.play("asgi.deploy.rollback", expect=2)
    assert f"{before} has 0003" in rejected.output
    assert site.serving() == before
    site.play("asgi.deploy.rollback", asgi_rollback_across_migration=True)
    assert site.serving().startswith("1.0.0-")
    assert set(assert_none_failed(load, "rollback").releases) == {before, site.serving()}


def test_restart(site: Site, load: Any) -> None:
    """A changed environment takes effect in the other slot."""
    release, slot = site.serving(), site.slot()
    environment = {**site.variables["asgi_app_environment"], "BLOG_TITLE": "Another title"}
    site.play("asgi.deploy.restart", asgi_app_environment=environment)
    site.variables["asgi_app_environment"] = environment
    assert set(assert_none_failed(load, "restart").releases) == {release}
    assert (site.serving(), site.slot() == slot) == (release, False)
    assert "Another title" in site.ask_instance(1, "/")


def test_crash(site: Site, load: Any) -> None:
    """systemd restarts a killed instance while the other one answers."""
    unit = f"blog-{site.slot()}@1.service"
    before = property_of(site, unit, "MainPID")
    site.run(f"systemctl kill --kill-whom=main --signal=SIGKILL {unit}")
    assert until(lambda: property_of(site, unit, "MainPID") not in (before, "0"), 120)
    assert until(lambda: healthy(site, 1), 120)
    lap = load.lap()
    print(f"measured: crash: {lap.sent} requests, {lap.failed} failed, {lap.seconds:.0f} s")
    # the dead process takes along what it was answering: at most one request of each worker
    assert lap.failed <= WORKERS, load.snapshot().report()
    assert_none_failed(load, "after the crash")


def test_the_load_lost_nothing(site: Site, load: Any) -> None:
    """No acknowledged POST is missing in the database or there twice."""
    result = load.stop()
    print(f"measured: {result.report().splitlines()[0]}")
    assert_stored_once(result, site)


def test_reboot(site: Site) -> None:
    """The same release is live again, with no help."""
    release, slot = site.serving(), site.slot()
    site.host.reboot()
    assert until(lambda: healthy(site, 1) and healthy(site, 2), 120)
    assert until(lambda: site.ask("/healthz")[0] == 200, 120)
    assert site.get("/healthz")["release"] == release
    assert (site.serving(), site.slot()) == (release, slot)
    assert_only_serving_slot_runs(site)

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
    RECAP,
    VARIABLES,
    Site,
    answered,
    assert_only_serving_slot_runs,
    assert_stored_once,
    healthy,
    plan_of,
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
#: What a deploy that changes nothing may do; each task costs from 0.05 s to a second.
TASKS = 40
#: What a program that is slow to start on a busy machine needs.
PATIENCE: dict[str, Any] = {
    "asgi_service_health_timeout_seconds": 120,
    "asgi_proxy_timeout_seconds": 60,
}


@pytest.fixture(scope="module")
def site(bare_site: Site) -> Site:
    """The site, on a host as Debian's installer leaves it."""
    bare_site.variables.update(PATIENCE)
    return bare_site


@pytest.fixture(scope="module")
def load(site: Site) -> Iterator[Any]:
    """The load, which the first test that needs it starts."""
    with site.load(**TRAFFIC) as load:
        load.lap()
        yield load


def assert_none_failed(load: Any, name: str) -> Any:
    """No request failed since the last step, and answers went on; returns the lap."""
    assert answered(load), load.snapshot().report()
    lap = load.lap()
    print(f"measured: {name}: {lap.sent} requests, {lap.failed} failed, {lap.seconds:.0f} s")
    assert lap.failed == 0, load.snapshot().report()
    return lap


def test_a_dry_run_on_a_bare_host_changes_nothing(site: Site) -> None:
    """It shows the plan, and installs nothing."""
    site.play(str(BLOG / "deploy" / "prepare.yml"))
    before = site.run("dpkg-query --show")
    planned = site.play(
        "asgi.deploy.site", "--check", "--diff", asgi_app_source={"path": str(site.source)}
    )
    plan = plan_of(planned)
    release = plan["head"].split(", ")[1].split()[0]
    assert release.startswith("1.0.0-")
    assert plan["head"] == f"{site.host.name}: first deploy, {release} in slot blue"
    assert plan["packages"] == "install python3-venv"
    assert plan["build"].startswith(f"{release}, version 1.0.0, content ")
    assert plan["migration"] == (
        f"pending, alembic upgrade head on {site.host.name}"
        " (newest migration not known -> not known before it is built)"
    )
    keys = [*VARIABLES["asgi_app_environment"], *VARIABLES["asgi_app_secrets"]]
    assert plan["environment and secrets"] == f"added {', '.join(sorted(keys))}"
    assert "blog-blue@.service (new)" in plan["units"]
    assert plan["proxy"].startswith("start, for ")
    assert plan["services"].startswith("start slot blue: 2 instances")
    assert "+++ after: /etc/caddy/sites/blog.caddy" in planned.output
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
    """And is quick: it has few tasks."""
    release = site.serving()
    again = site.deploy()
    assert again.changed == 0, again.output
    ((_host, tasks, *_counts),) = RECAP.findall(again.output)
    assert int(tasks) <= TASKS, again.output
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
    """The exit code is not zero, the cause is in the output, and the live release stays.

    The next run finds the app unlocked.
    """
    before, slot = site.serving(), site.slot()
    played = site.deploy(site.variant(kind), expect=2)
    assert cause in played.output
    assert site.run("ls /srv/blog/lock.json", check=False) == ""
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

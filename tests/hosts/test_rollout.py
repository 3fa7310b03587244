"""Rollouts on real hosts under a load that never retries."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sites import Site

#: What the issue of this project asks for at least.
REQUESTS_PER_SECOND = 200


def assert_nothing_failed(result: Any, site: Site) -> None:
    """No request failed, none was lost or done twice, and the load was a load."""
    print(f"measured: {result.report().splitlines()[0]}")
    assert result.failed == 0, result.report()
    assert result.rate_per_second >= REQUESTS_PER_SECOND
    ledger = result.ledger(site.stored_ids())
    assert ledger.lost == []
    assert ledger.doubled == []


FAILING = {
    "import_error": ("cannot import name 'a_name_that_is_missing'", "cannot be imported"),
    "startup_error": ("this variant fails at startup", "start-up failed"),
    "health_error": ("status 500", "was not healthy within"),
    "migration_error": ("a_table_that_is_missing", "the migration of release"),
    "slow_start": ("no answer", "was not healthy within"),
    "dies_after_healthy": ("exit code 70", "did not stay up"),
}


@pytest.mark.parametrize("kind", FAILING)
def test_a_failing_version_leaves_the_old_one_serving(one_site: Site, kind: str) -> None:
    """Exit not zero, the cause with its journal lines, and no failed request."""
    before, slot = one_site.serving(), one_site.slot()
    with one_site.load() as load:
        played = one_site.deploy(
            one_site.variant(kind), expect=2, asgi_service_health_timeout_seconds=8
        )
        result = load.stop()
    for text in FAILING[kind]:
        assert text in played.output
    assert_nothing_failed(result, one_site)
    assert set(result.releases) == {before}
    assert (one_site.serving(), one_site.slot()) == (before, slot)
    units = one_site.run("systemctl list-units --plain --no-legend 'blog-*@*.service'")
    assert [line.split()[0] for line in units.splitlines()] == [
        f"blog-{slot}@1.service",
        f"blog-{slot}@2.service",
    ]
    enabled = one_site.run("ls /etc/systemd/system/multi-user.target.wants").split()
    assert [name for name in enabled if name.startswith("blog-")] == [
        f"blog-{slot}@1.service",
        f"blog-{slot}@2.service",
    ]


def test_a_version_that_only_fails_through_the_proxy_is_put_back(one_site: Site) -> None:
    """The gate is passed, the proxy asks for another answer: the switch is turned back."""
    before, slot = one_site.serving(), one_site.slot()
    version = one_site.variant("same", "unconfirmed")
    with one_site.load() as load:
        # the proxy serves no such name, so the confirmation cannot succeed
        played = one_site.deploy(
            version, expect=2, asgi_proxy_timeout_seconds=3, asgi_service_health_host="other.test"
        )
        result = load.stop()
    assert "confirm through the proxy" in played.output
    assert f"release {before} was put back and serves in slot {slot}" in played.output
    assert_nothing_failed(result, one_site)
    assert (one_site.serving(), one_site.slot()) == (before, slot)


def test_second_version_and_rollback_lose_no_request(site: Site) -> None:
    """Changed code and a new migration go out, and back, under load."""
    first = site.serving()
    version = site.variant("v2")
    with site.load() as load:
        deployed = site.deploy(version)
        second = site.serving()
        refused = site.play("asgi.deploy.rollback", expect=2)
        rolled_back = site.play("asgi.deploy.rollback", asgi_rollback_across_migration=True)
        time.sleep(1)
        result = load.stop()
    print(
        f"measured: {site.host.image}: deploy {deployed.seconds:.1f} s,"
        f" rollback {rolled_back.seconds:.1f} s"
    )
    assert f"{second} has 0003" in refused.output
    assert second != first
    assert second.startswith("1.1.0-")
    assert site.serving() == first
    assert list(result.releases) == [first, second]
    assert_nothing_failed(result, site)
    columns = site.run(
        'runuser -u postgres -- psql -d blog -Atc "SELECT version_num FROM alembic_version"'
    )
    assert columns.strip() == "0003"
    # files of packages are shared by hard links: two releases and the cache
    shared = site.run("find /srv/blog/releases/*/venv -type f -links +2 | wc -l")
    assert int(shared) > 500


def test_long_requests_finish_and_websockets_are_told(one_site: Site) -> None:
    """What the old slot has begun it ends, within drain_seconds; WebSockets get 1012 after that."""
    version = one_site.variant("same", "long requests")
    with one_site.load(slow=2, slow_seconds=5, sse=1, sse_count=5, websocket=2) as load:
        time.sleep(1)
        played = one_site.deploy(version, asgi_service_drain_seconds=12)
        time.sleep(1)
        result = load.stop()
    assert_nothing_failed(result, one_site)
    assert result.kinds["slow"].ok >= 2
    assert result.kinds["sse"].ok >= 1
    assert result.kinds["websocket"].closed_cleanly == 2
    assert "2 connections to the old slot were cut" in played.output


def test_changed_secret_and_environment_are_a_rollout(one_site: Site) -> None:
    """A restart takes up a new environment slot by slot; the old slot keeps its own."""
    before, slot = one_site.serving(), one_site.slot()
    environment = {**one_site.variables["asgi_app_environment"], "BLOG_TITLE": "Another title"}
    with one_site.load() as load:
        one_site.play("asgi.deploy.restart", asgi_app_environment=environment)
        result = load.stop()
    assert_nothing_failed(result, one_site)
    assert one_site.serving() == before
    assert one_site.slot() != slot
    page = one_site.run(f"curl -s --unix-socket /run/asgi/blog/{one_site.slot()}/1.sock http://x/")
    assert "Another title" in page


def test_status_tells_what_serves(one_site: Site) -> None:
    """As a table for a person, and as JSON."""
    table = one_site.play("asgi.deploy.status").output
    for told in (one_site.serving(), one_site.slot(), "2 of 2", " days", "good "):
        assert told in table
    told = one_site.play("asgi.deploy.status", asgi_status_json=True).output
    found = re.search(r'^ *"msg": (".*")$', told, re.MULTILINE)
    assert found is not None, told
    report = json.loads(json.loads(found[1]))[one_site.host.name]
    assert (report["release"], report["slot"]) == (one_site.serving(), one_site.slot())
    assert 0 < report["certificate_days"] < 366

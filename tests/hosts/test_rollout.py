"""Rollouts on real hosts under a load that never retries.

Most tests are the steps of one journey: they share one load, which goes on from the first to the
last of them, and each says what it met meanwhile. Any of them can be run alone.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from sites import (
    FIRST,
    IMAGES,
    SECRET,
    answered,
    assert_only_serving_slot_runs,
    assert_stored_once,
)

if TYPE_CHECKING:
    from sites import Played, Site

#: All kinds of traffic at once. The rate is a wish: no more workers than these wait for answers, so
#: a slow machine gets fewer requests a second, not time-outs.
TRAFFIC: dict[str, Any] = {
    "keepalive_get": 6,
    "new_get": 1,
    "keepalive_post": 2,
    "new_post": 1,
    "slow": 2,
    "slow_seconds": 5,
    "sse": 2,
    "sse_count": 5,
    "websocket": 3,
    "get_path": "/api/ping",
}
#: Servers that tell a WebSocket to come again; with another one it is cut, see docs/servers.md.
TELLS_WEBSOCKETS = ("uvicorn", "gunicorn-uvicorn")
QUICK = ("keepalive_get", "new_get", "keepalive_post", "new_post")
QUIET_SECONDS = 15


def milliseconds(seconds: float) -> str:
    """A time, as a person reads it."""
    return f"{seconds * 1000:.0f} ms"


def tell(name: str, lap: Any) -> None:
    """Prints the line of a stretch for the output of tools/check.py."""
    slowest = max(lap.kinds[kind].latency.max for kind in QUICK)
    print(
        f"measured: {name}: {lap.seconds:.0f} s, {lap.sent} requests,"
        f" {lap.sent / lap.seconds:.0f}/s, slowest GET or POST {milliseconds(slowest)}"
    )


@dataclass
class Journey:
    """One load on one site, and what it has met.

    Attributes:
        quiet: The stretch before the first change.
        steps: Each later stretch, by the name of its step.
    """

    site: Site
    load: Any
    quiet: Any
    steps: dict[str, Any] = field(default_factory=dict)

    def step(self, name: str) -> Any:
        """Ends a step: nothing has failed since the last one, and quick answers went on."""
        lap = self.load.lap()
        assert lap.failed == 0, self.load.snapshot().report()
        assert all(lap.kinds[kind].ok for kind in QUICK), self.load.snapshot().report()
        self.steps[name] = lap
        tell(name, lap)
        return lap

    def slowest(self, kind: str) -> tuple[float, str]:
        """The longest latency of a kind in all steps, in seconds, and the step."""
        answered = {
            name: lap.kinds[kind].latency.max
            for name, lap in self.steps.items()
            if lap.kinds[kind].latency is not None
        }
        name = max(answered, key=lambda step: answered[step])
        return answered[name], name


def tells_websockets(site: Site) -> bool:
    """Whether the site's server tells a WebSocket to come again."""
    return site.variables.get("asgi_service_server", "uvicorn") in TELLS_WEBSOCKETS


@pytest.fixture(scope="module")
def journey(request: pytest.FixtureRequest, one_site: Site) -> Iterator[Journey]:
    """The load on one host, once there is a quiet stretch to compare with."""
    traffic = {
        **TRAFFIC,
        "rate_per_second": request.config.getoption("--rate"),
        "websocket": TRAFFIC["websocket"] if tells_websockets(one_site) else 0,
    }
    with one_site.load(**traffic) as load:
        load.lap()
        time.sleep(QUIET_SECONDS)
        quiet = load.lap()
        tell("no change yet", quiet)
        yield Journey(one_site, load, quiet)


#: What the output has; versions that fail to migrate and to start are in test_journey.
FAILING = {
    "import_error": ("cannot import name 'a_name_that_is_missing'", "cannot be imported"),
    "health_error": ("status 500", "was not healthy within"),
    # healthy, or listening where the server makes its socket itself
    "slow_start": ("no answer", " within "),
    "dies_after_healthy": ("exit code 70", "did not stay up"),
}
#: Long enough for two processes to start beside the load, and for that they die 2 s after.
HEALTH_TIMEOUT_SECONDS = 25


@pytest.mark.parametrize("kind", FAILING)
def test_a_failing_version_leaves_the_old_one_serving(journey: Journey, kind: str) -> None:
    """Exit not zero, the cause with its journal lines, and no failed request."""
    site = journey.site
    before, slot = site.serving(), site.slot()
    # a start as slow as this one has not ended when the time is over
    seconds = 4 * HEALTH_TIMEOUT_SECONDS if kind == "slow_start" else None
    played = site.deploy(
        site.variant(kind, seconds=seconds),
        expect=2,
        asgi_service_health_timeout_seconds=HEALTH_TIMEOUT_SECONDS,
    )
    told = FAILING[kind] if "asgi_service_server" not in site.variables else FAILING[kind][1:]
    for text in told:
        assert text in played.output, played.output
    assert site.run("ls /srv/blog/lock.json", check=False) == ""
    lap = journey.step(f"failing release, {kind.replace('_', ' ')}")
    assert set(lap.releases) == {before}
    assert (site.serving(), site.slot()) == (before, slot)
    assert_only_serving_slot_runs(site)


def test_a_version_that_only_fails_through_the_proxy_is_put_back(journey: Journey) -> None:
    """The gate is passed, the proxy asks for another answer: the switch is turned back."""
    site = journey.site
    before, slot = site.serving(), site.slot()
    # the proxy serves no such name, so the confirmation cannot succeed
    played = site.deploy(
        site.variant("same", "unconfirmed"),
        expect=2,
        asgi_proxy_timeout_seconds=3,
        asgi_service_health_host="other.test",
    )
    assert "confirm through the proxy" in played.output
    assert f"release {before} was put back and serves in slot {slot}" in played.output
    lap = journey.step("failing release, through the proxy only")
    assert before in lap.releases
    assert (site.serving(), site.slot()) == (before, slot)


def migrate_and_roll_back(site: Site) -> tuple[str, str]:
    """Deploys changed code with a migration and rolls it back, which must be asked for twice.

    Returns:
        The release that served before and after, and the one in between.
    """
    first = site.serving()
    deployed = site.deploy(site.variant("v2"))
    second = site.serving()
    refused = site.play("asgi.deploy.rollback", expect=2)
    rolled_back = site.play("asgi.deploy.rollback", asgi_rollback_across_migration=True)
    print(
        f"measured: {site.host.image}: deploy {deployed.seconds:.1f} s,"
        f" rollback {rolled_back.seconds:.1f} s"
    )
    assert f"{second} has 0003" in refused.output
    assert second != first
    assert second.startswith("1.1.0-")
    assert site.serving() == first
    head = site.run(
        'runuser -u postgres -- psql -d blog -Atc "SELECT version_num FROM alembic_version"'
    )
    assert head.strip() == "0003"
    # two releases share the files of packages by hard links
    shared = site.run("find /srv/blog/releases/*/venv -type f -links +1 | wc -l")
    assert int(shared) > 500
    return first, second


def test_a_release_with_a_migration_and_its_rollback(journey: Journey) -> None:
    """Changed code and a new migration go out, and back."""
    releases = migrate_and_roll_back(journey.site)
    lap = journey.step("release with a migration, rollback refused, rollback across it")
    assert set(lap.releases) == set(releases)


def assert_streams_ended_well(lap: Any, played: Played, site: Site) -> None:
    """Long requests have ended by themselves, and WebSockets were told to come again."""
    assert lap.kinds["slow"].ok >= 2
    assert lap.kinds["sse"].ok >= 2
    if not tells_websockets(site):
        return
    assert lap.kinds["websocket"].closed_cleanly == TRAFFIC["websocket"]
    assert f"{TRAFFIC['websocket']} connections to the old slot were cut" in played.output


def test_long_requests_finish_and_websockets_are_told(journey: Journey) -> None:
    """What the old slot has begun it ends, within drain_seconds; WebSockets get 1012 after that.

    A rollback needs no argument: the release that served before serves again.
    """
    site = journey.site
    before = site.serving()
    played = site.deploy(site.variant("same", "second"))
    lap = journey.step("second release")
    assert_streams_ended_well(lap, played, site)
    assert set(lap.releases) == {before, site.serving()}
    # with no migration in between
    before = site.serving()
    site.deploy(site.variant("same", "third"))
    after = site.serving()
    assert after != before
    journey.step("third release")
    played = site.play("asgi.deploy.rollback")
    lap = journey.step("rollback")
    assert_streams_ended_well(lap, played, site)
    assert set(lap.releases) == {before, after}
    assert site.serving() == before


def test_changed_secret_is_a_rollout(journey: Journey) -> None:
    """A restart rolls out a new secret, and does not show it."""
    site = journey.site
    before, slot = site.serving(), site.slot()
    secret = "a-new-" + SECRET[::-1]
    played = site.play("asgi.deploy.restart", asgi_app_secrets={"BLOG_SECRET_KEY": secret})
    lap = journey.step("restart with a new secret")
    assert_streams_ended_well(lap, played, site)
    assert set(lap.releases) == {before}
    assert secret not in played.output
    assert (site.serving(), site.slot() != slot) == (before, True)
    data = json.dumps({"title": "Signed", "body": "With the new secret."})
    answer = site.ask_instance(1, "/api/posts", "--json", data)
    post = json.loads(answer)
    signed = hmac.new(secret.encode(), f"post:{post['id']}".encode(), hashlib.sha256)
    assert post["edit_token"] == signed.hexdigest()


def test_status_tells_what_serves(journey: Journey) -> None:
    """As a table for a person, and as JSON."""
    site = journey.site
    table = site.play("asgi.deploy.status").output
    for told in (site.serving(), site.slot(), "2 of 2", " days", "good "):
        assert told in table
    told = site.play("asgi.deploy.status", asgi_status_json=True).output
    found = re.search(r'^ *"msg": (".*")$', told, re.MULTILINE)
    assert found is not None, told
    report = json.loads(json.loads(found[1]))[site.host.name]
    assert (report["release"], report["slot"]) == (site.serving(), site.slot())
    assert 0 < report["certificate_days"] < 366
    journey.step("status")


def test_the_whole_journey_failed_no_request(journey: Journey, requests: int) -> None:
    """None failed, no acknowledged one was lost or done twice."""
    left = requests - journey.load.snapshot().sent
    while left > 0:
        time.sleep(5)
        left -= journey.load.lap().sent
    result = journey.load.stop()
    print(f"measured: {result.report().splitlines()[0]}")
    for kind, before in journey.quiet.kinds.items():
        slowest, name = journey.slowest(kind)
        quiet = before.latency
        print(
            f"measured: {kind}: {result.kinds[kind].sent} sent; quiet: median"
            f" {milliseconds(quiet.median)}, slowest {milliseconds(quiet.max)}; with changes:"
            f" slowest {milliseconds(slowest)} ({milliseconds(slowest - quiet.max)} more,"
            f" {slowest / quiet.max:.1f} times; {name})"
        )
    if "websocket" in result.kinds:
        told = result.kinds["websocket"].closed_cleanly
        print(f"measured: {told} WebSockets closed with 1012 or 1001")
    assert result.failed == 0, result.report()
    assert result.sent >= requests
    assert_stored_once(result, journey.site)


@pytest.mark.parametrize("site", [name for name in IMAGES if name != FIRST], indirect=True)
def test_second_version_and_rollback_lose_no_request(site: Site) -> None:
    """What the journey does on the first kind of host: changed code and a migration, and back."""
    with site.load() as load:
        first, second = migrate_and_roll_back(site)
        assert answered(load)
        result = load.stop()
    print(f"measured: {result.report().splitlines()[0]}")
    assert list(result.releases) == [first, second]
    assert result.failed == 0, result.report()
    assert_stored_once(result, site)

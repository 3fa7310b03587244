"""The watch: instances that leak, hang or are in the way of a run, on a real host under load."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from sites import ROOT, Site, answered, property_of, until

if TYPE_CHECKING:
    from pathlib import Path

NAME = "leaky"
DOMAIN = "leaky.test"
UNIT = f"asgi-{NAME}-watch.service"
MEMORY_MAX_MEBIBYTES = 128
RECYCLE_MEBIBYTES = 64
LEAK_KIBIBYTES = 40
#: Takes a new instance past its limit, and one that is about to be recycled not to its maximum.
GROW_MEBIBYTES = 52
#: Every GET of / keeps memory; what the others do is in their names.
APP = f"""
import time
from pathlib import Path
hoard = []

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({{"type": message["type"] + ".complete"}})
            if message["type"] == "lifespan.shutdown":
                return
    if scope["path"] == "/":
        hoard.append(b"\\1" * {LEAK_KIBIBYTES} * 1024)
    elif scope["path"] == "/grow":
        hoard.append(b"\\1" * {GROW_MEBIBYTES} * 2**20)
    elif scope["path"] == "/hang":
        time.sleep(600)
    await send({{"type": "http.response.start", "status": 200, "headers": []}})
    await send({{"type": "http.response.body", "body": b"ok"}})
"""


@pytest.fixture(scope="module")
def leaky(one_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """An app that leaks and hangs beside the blog, and its watch."""
    directory = tmp_path_factory.mktemp(NAME)
    source: Path = directory / NAME
    shutil.copytree(ROOT / "examples" / "hello", source)
    (source / "hello.py").write_text(APP)
    site = one_site.another_app(
        directory,
        source,
        {
            "asgi_app_name": NAME,
            "asgi_app_entrypoint": "hello:app",
            "asgi_app_ca_file": "/etc/ssl/certs/ca-certificates.crt",
            "asgi_service_instances": 2,
            "asgi_service_memory_max": f"{MEMORY_MAX_MEBIBYTES}M",
            "asgi_service_recycle_memory": f"{RECYCLE_MEBIBYTES}M",
            "asgi_service_recycle_pause_seconds": 5,
            "asgi_service_watch_hung": True,
            "asgi_service_watch_interval_seconds": 1,
            "asgi_service_watch_checks": 2,
            "asgi_service_health_path": "/healthz",
            "asgi_service_health_timeout_seconds": 30,
            "asgi_service_health_request_timeout_seconds": 2,
            "asgi_service_drain_seconds": 10,
            "asgi_service_restart_seconds": 0.2,
            "asgi_service_start_limit_burst": 6,
            "asgi_service_on_failure_unit": "alert@%n.service",
            "asgi_proxy_domains": [DOMAIN],
        },
    )
    site.deploy()
    yield site
    site.play("asgi.deploy.remove", asgi_remove_data=True)
    assert site.run(f"ls -d /srv/{NAME} /etc/systemd/system/*{NAME}*", check=False) == ""
    assert site.run(f"systemctl list-units --plain --no-legend '*{NAME}*.service'") == ""


ALERT = "[Service]\nType=oneshot\nExecStart=/usr/bin/touch /run/alert-of-%i\n"


def load(site: Site, **options: Any) -> Any:
    """Requests on kept and new connections; one that fails is one too many."""
    only_gets = {"keepalive_post": 0, "new_post": 0, "websocket_greeting": 0}
    return site.load(**{"domain": DOMAIN, "get_path": "/", **only_gets, **options})


def state(site: Site) -> dict[str, Any]:
    """What the host remembers of the app."""
    found: dict[str, Any] = json.loads(site.run(f"cat /srv/{NAME}/state.json"))
    return found


def recycled(site: Site) -> int:
    """How often the watch has replaced the slot; it keeps the last five events."""
    return sum(
        event["by"] == "watch" and event["status"] == "good" for event in state(site)["history"]
    )


def serving_slot(site: Site) -> str:
    """The slot that the proxy asks."""
    return site.run(f"test -e /srv/{NAME}/serving/green && echo green || echo blue").strip()


def ask(site: Site, instance: int, path: str, seconds: int = 5) -> str:
    """Asks one instance over its own socket; the status, or 000."""
    socket = f"/run/asgi/{NAME}/{serving_slot(site)}/{instance}.sock"
    command = f"curl -s -o /dev/null -w '%{{http_code}}' --max-time {seconds}"
    return site.run(f"{command} --unix-socket {socket} http://localhost{path}", check=False)


def journal(site: Site, since: str) -> str:
    """What the watch has said."""
    return site.run(f"journalctl --output=cat --unit={UNIT} --since='{since}'")


def now(site: Site) -> str:
    """The time on the host."""
    return site.run("date '+%F %T'").strip()


def signal_at(site: Site, step: str, signal: str, whom: str) -> None:
    """Sends the watch a signal when it comes to a step of a rollout.

    The host itself looks out for it: asked from here, a short step would often be over.
    """
    wait = f"until grep -q {shlex.quote(step)} /srv/{NAME}/state.json; do sleep 0.02; done"
    site.run(
        f"timeout 150 sh -c {shlex.quote(wait)} &&"
        f" systemctl kill --kill-who={whom} --signal={signal} {UNIT}"
    )


def at_rest(site: Site) -> bool:
    """Whether one slot runs, and nothing is left behind."""
    units = site.run(f"systemctl list-units --plain --no-legend '{NAME}-*@*.service'").split("\n")
    running = [line.split()[0] for line in units if line]
    wanted = [f"{NAME}-{serving_slot(site)}@{number}.service" for number in (1, 2)]
    return running == wanted and not state(site)["operation"]


def rested(site: Site) -> None:
    """Waits until the watch may recycle, so that a test sees its own doing only."""
    assert until(lambda: at_rest(site), 150)
    found = site.run(f"cat /srv/{NAME}/watch/last.json 2>/dev/null || echo '{{}}'")
    not_before = float(json.loads(found).get("not_before", 0))
    assert until(lambda: time.time() > not_before, 60), "the watch has a long pause"


def test_the_watch_is_one_unit_in_a_sandbox_and_stays(leaky: Site) -> None:
    assert leaky.run(f"systemd-analyze verify {UNIT} 2>&1") == ""
    told = leaky.run(f"systemd-analyze security --no-pager {UNIT} | tail -n1")
    print(f"measured: {told.strip()}")
    assert float(told.split(":")[1].split()[0]) <= 2.5
    again = leaky.deploy()
    assert again.changed == 0, again.output
    assert property_of(leaky, UNIT, "NRestarts") == "0"


def test_a_leak_is_recycled_with_no_failed_request_and_never_at_the_limit(leaky: Site) -> None:
    """An hour's worth in a minute: more than two whole instances may use."""
    rested(leaky)
    before, since = recycled(leaky), now(leaky)
    slice_unit = f"asgi-{NAME}.slice"
    # peaks, as the kernel has counted them, whatever the version of its groups
    groups = f"/sys/fs/cgroup{{/memory,}}/asgi.slice/{slice_unit}/{NAME}-*"
    files = f"{groups}/memory.{{max_usage_in_bytes,peak,current}}"
    sampler = (
        f"systemd-run --quiet --unit=samples --property=StandardOutput=file:/run/samples"
        f" bash -c 'while true; do cat {files} 2>/dev/null; sleep 0.3; done'"
    )
    leaky.run(sampler)
    try:
        with load(leaky, rate_per_second=60) as running:
            assert until(lambda: recycled(leaky) >= before + 2, 300), journal(leaky, since)
            result = running.stop()
    finally:
        leaky.run("systemctl stop samples")
    peak = max(int(line) for line in leaky.run("cat /run/samples").split()) / 2**20
    leaked = result.ok * LEAK_KIBIBYTES / 1024
    print(f"measured: {result.report().splitlines()[0]}; peak {peak:.0f} MiB; leaked {leaked:.0f}")
    assert result.failed == 0, result.report()
    assert leaked > 2 * 2 * (RECYCLE_MEBIBYTES - 40)
    assert RECYCLE_MEBIBYTES < peak < MEMORY_MAX_MEBIBYTES
    told = leaky.run(f"journalctl --output=cat --since='{since}' --unit='{NAME}-*'")
    assert "killed" not in told
    assert "uses" in journal(leaky, since)
    assert "with new instances after" in journal(leaky, since)


def test_a_hung_instance_is_replaced_while_the_other_serves(leaky: Site) -> None:
    rested(leaky)
    since, slot = now(leaky), serving_slot(leaky)
    hung, other = (
        property_of(leaky, f"{NAME}-{slot}@{number}.service", "MainPID") for number in (1, 2)
    )
    assert ask(leaky, 1, "/hang", seconds=1) == "000"
    assert until(lambda: ask(leaky, 1, "/healthz") == "200", 150), journal(leaky, since)
    assert property_of(leaky, f"{NAME}-{slot}@1.service", "MainPID") not in (hung, "0")
    assert property_of(leaky, f"{NAME}-{slot}@2.service", "MainPID") == other
    told = journal(leaky, since)
    assert "instance 1 gave no answer in 2 checks" in told
    assert "others answer" in told
    assert told.count("is killed and started again") == 1


def test_what_a_run_has_locked_is_left_alone(leaky: Site) -> None:
    rested(leaky)
    since, slot = now(leaky), serving_slot(leaky)
    before = property_of(leaky, f"{NAME}-{slot}@2.service", "MainPID")
    owner = {"user": "anna", "controller": "c", "machine": "", "pid": 1, "started_ticks": 0}
    held = {
        "run": "1",
        "purpose": "deploy",
        "owner": owner,
        "lease_seconds": 3600,
        "since": "now",
        "renewed": time.time(),
    }
    path = f"/srv/{NAME}/lock.json"
    leaky.run(f"cat > {path} <<'END'\n{json.dumps(held)}\nEND")
    try:
        assert ask(leaky, 2, "/hang", seconds=1) == "000"
        left_alone = "is left alone while it is locked by anna"
        assert until(lambda: left_alone in journal(leaky, since), 150)
        # longer than it would take
        assert not until(lambda: ask(leaky, 2, "/healthz", seconds=1) == "200", 8)
        assert property_of(leaky, f"{NAME}-{slot}@2.service", "MainPID") == before
    finally:
        leaky.run(f"rm {path}")
    assert until(lambda: ask(leaky, 2, "/healthz") == "200", 150), journal(leaky, since)
    assert journal(leaky, since).count(left_alone) == 1


@pytest.mark.parametrize("step", ["prove its health", "stop the old slot"])
def test_a_watch_that_is_killed_in_the_middle_mends_it_itself(leaky: Site, step: str) -> None:
    rested(leaky)
    since = now(leaky)
    with load(leaky, get_path="/quiet") as running:
        assert ask(leaky, 1, "/grow", seconds=60) == "200"
        signal_at(leaky, step, "SIGKILL", "all")
        assert until(lambda: "was cut off while it was to" in journal(leaky, since), 150)
        assert until(lambda: at_rest(leaky), 150), journal(leaky, since)
        result = running.stop()
    assert result.failed == 0, result.report()


def test_a_run_that_comes_while_the_watch_is_at_work_goes_first(leaky: Site) -> None:
    """It neither fails nor waits for the end of the rollout."""
    rested(leaky)
    since = now(leaky)
    assert ask(leaky, 1, "/grow", seconds=60) == "200"
    # so that it is in the middle for certain; systemd wakes it up to end it
    signal_at(leaky, "prove its health", "SIGSTOP", "main")
    played = leaky.play("asgi.deploy.restart")
    print(f"measured: restart in {played.seconds:.0f} s")
    assert "refused at the step" in journal(leaky, since)
    assert "ended by SIGTERM" in journal(leaky, since)
    # that was no failure, which would make the next one wait
    assert json.loads(leaky.run(f"cat /srv/{NAME}/watch/last.json"))["failures"] == 0
    assert state(leaky)["history"][-1]["reason"] == "restart"
    assert at_rest(leaky)
    assert property_of(leaky, UNIT, "ActiveState") == "active"


def test_as_many_instances_as_the_host_carries_are_planned_with_the_reason(leaky: Site) -> None:
    cores = int(leaky.run("nproc"))
    planned = leaky.play(
        "asgi.deploy.site",
        "--check",
        asgi_app_source={"path": str(leaky.source)},
        asgi_service_instances="auto",
    )
    assert f"(auto): {cores} core" in planned.output
    assert f"{cores} instance" in planned.output


def test_instances_are_recycled_by_their_requests(leaky: Site) -> None:
    leaky.deploy(asgi_service_recycle_memory="", asgi_service_recycle_requests=1000)
    rested(leaky)
    before, since = recycled(leaky), now(leaky)
    with load(leaky, get_path="/quiet", rate_per_second=100) as running:
        assert until(lambda: recycled(leaky) > before, 150), journal(leaky, since)
        assert until(lambda: at_rest(leaky), 150)
        result = running.stop()
    assert result.failed == 0, result.report()
    assert re.search(r"has got 1\d{3} requests, more than", journal(leaky, since))
    # new instances have a count of their own
    assert journal(leaky, since).count("has got") == 1


def test_without_anything_to_watch_there_is_no_watch(leaky: Site) -> None:
    nothing = {"asgi_service_recycle_memory": "", "asgi_service_watch_hung": False}
    leaky.deploy(**nothing)
    assert leaky.run(f"ls -d /srv/{NAME}/watch /etc/systemd/system/{UNIT}", check=False) == ""
    assert property_of(leaky, UNIT, "ActiveState") == "inactive"


def test_an_instance_that_is_given_up_raises_an_alert_and_the_other_serves(leaky: Site) -> None:
    leaky.run(f"cat > /etc/systemd/system/alert@.service <<'END'\n{ALERT}END\n")
    leaky.run("systemctl daemon-reload")
    unit = f"{NAME}-{serving_slot(leaky)}@1.service"

    def given_up() -> bool:
        leaky.run(f"systemctl kill --signal=SIGKILL {unit}", check=False)
        return property_of(leaky, unit, "ActiveState") == "failed"

    assert until(given_up, 150)
    assert until(lambda: leaky.run(f"ls /run/alert-of-{unit}", check=False) != "", 150)
    assert ask(leaky, 2, "/healthz") == "200"
    # its listener is gone with it; the proxy asks the other one
    with load(leaky, get_path="/quiet") as running:
        assert all(answered(running) for _number in range(10))
        result = running.stop()
    assert result.failed == 0, result.report()
    leaky.run("rm /etc/systemd/system/alert@.service /run/alert-of-*; systemctl daemon-reload")

"""A run killed at every step of a rollout: the site serves one version, the next run converges.

The schedule is the list of steps of the rollout itself, in its order. A process on the host
stops the module when the step is written down; then ansible-playbook is killed, then the module.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from sites import assert_only_serving_slot_runs

if TYPE_CHECKING:
    from sites import Site

#: Every step that a rollout writes down, and whether the new release serves once it is begun.
STEPS = {
    "prepare the slot": False,
    "start the slot": False,
    "prove its health": False,
    "enable it at boot": False,
    "switch the proxy": False,
    "confirm through the proxy": True,
    "stop the old slot": True,
}

#: Runs on the host: stops whoever holds the app when the step is under way, says so, and kills it
#: when it is told to.
KILLER = """
import json, os, signal, sys, time
step, deadline = sys.argv[1], time.monotonic() + 120
while time.monotonic() < deadline:
    try:
        operation = json.load(open("/srv/blog/state.json"))["operation"]
    except ValueError:
        continue
    if operation.get("step") == step:
        holder = int(open("/srv/blog/.lock").read().split()[1])
        os.kill(holder, signal.SIGSTOP)
        print("stopped", flush=True)
        sys.stdin.readline()
        os.kill(holder, signal.SIGKILL)
        break
    time.sleep(0.001)
"""

TABLE: list[tuple[str, str, str]] = []


def kill_at(site: Site, step: str, version: Path, *, run: bool) -> str:
    """Deploys a version and kills the module at a step.

    Args:
        site: The blog.
        step: When.
        version: What to deploy.
        run: Kill ansible-playbook too, before the module.

    Returns:
        The output of ansible-playbook.
    """
    killer = subprocess.Popen(
        ["podman", "exec", "-i", site.host.container, "python3", "-c", KILLER, step],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    playing = site.start("asgi.deploy.site", asgi_app_source={"path": str(version)})
    assert killer.stdout is not None
    assert killer.stdout.readline() == "stopped\n"
    if run:
        os.killpg(playing.pid, signal.SIGKILL)
    killer.communicate("go\n", timeout=30)
    output, _nothing = playing.communicate(timeout=120)
    return output


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_run_is_finished_or_undone_by_the_next(one_site: Site, step: str) -> None:
    """No request fails, one version serves, and the next run brings what was asked for."""
    before = one_site.serving()
    version = one_site.variant("same", f"killed while it was to {step}")
    with one_site.load() as load:
        kill_at(one_site, step, version, run=True)
        serving = one_site.get("/healthz")["release"]
        again = one_site.deploy(version)
        result = load.stop()
    new = one_site.serving()
    assert new != before
    # the switch itself is one file operation, done or not
    expected = {before, new} if step == "switch the proxy" else {new if STEPS[step] else before}
    assert serving in expected
    assert "was cut off while it was to" in again.output
    assert list(result.releases) == [before, new]
    assert result.failed == 0, result.report()
    assert_only_serving_slot_runs(one_site)
    told = "rolled it out" if serving == before else "kept it and stopped the old slot"
    TABLE.append((step, "old" if serving == before else "new", told))


@pytest.mark.parametrize("step", ["prove its health", "confirm through the proxy"])
def test_a_killed_module_is_taken_back_by_its_own_run(one_site: Site, step: str) -> None:
    """Only the module dies (out of memory, by hand): the run itself puts things right."""
    before = one_site.serving()
    version = one_site.variant("same", f"module killed while it was to {step}")
    with one_site.load() as load:
        output = kill_at(one_site, step, version, run=False)
        result = load.stop()
    assert "does not serve; it failed on" in output
    assert one_site.get("/healthz")["release"] == before
    assert result.failed == 0, result.report()
    assert_only_serving_slot_runs(one_site)


def test_a_reboot_in_the_middle_serves_one_version(one_site: Site) -> None:
    """The power goes while both slots run: what the switch says is what comes up."""
    version = one_site.variant("same", "power cut")
    before = one_site.serving()
    kill_at(one_site, "confirm through the proxy", version, run=True)
    one_site.host.kill()
    one_site.host.start()
    new = one_site.serving()
    assert new != before
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError):
            assert one_site.get("/healthz")["release"] == new
            break
        assert time.monotonic() < deadline, "nothing serves after the power cut"
    one_site.deploy(version)
    assert_only_serving_slot_runs(one_site)


def test_the_table_of_kills() -> None:
    """Prints what was seen, and that no step was left out."""
    print(f"\nmeasured: {'killed while it was to':<28} {'serving':<9} the next run")
    for step, serving, told in TABLE:
        print(f"measured: {step:<28} {serving:<9} {told}")
    assert [step for step, _serving, _told in TABLE] == list(STEPS)

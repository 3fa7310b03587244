"""One run at a time changes an app: who is refused, who waits, who takes over, who gives back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from sites import Site

LOCK = "/srv/blog/lock.json"
#: Tasks of a hook: tells that the run is there, and goes on when it is told to.
PAUSE = """
- ansible.builtin.file: {{path: "{there}", state: touch, mode: "0600"}}
  delegate_to: localhost
- ansible.builtin.wait_for: {{path: "{go_on}", timeout: 600}}
  delegate_to: localhost
"""
#: For a run to get to its hook, and to end, on a machine that is busy with others.
PATIENCE_SECONDS = 240
#: After so long somebody presses Ctrl-C again.
AGAIN_SECONDS = 20


class PausedRun:
    """A deploy that holds the lock and waits before it builds.

    Args:
        site: The blog.
        source: What it deploys.
        variables: For this run only.
    """

    def __init__(self, site: Site, source: Path, **variables: Any) -> None:
        name = f"pause-{time.monotonic_ns()}"
        self.there, self.go_on = (site.directory / f"{name}.{word}" for word in ("there", "go"))
        hook = site.directory / f"{name}.yml"
        hook.write_text(PAUSE.format(there=self.there, go_on=self.go_on))
        self.process = site.start(
            "asgi.deploy.site",
            asgi_app_source={"path": str(source)},
            asgi_app_before_stage=[str(hook)],
            **variables,
        )

    def until_there(self) -> None:
        """Waits until it holds the lock."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not self.there.exists():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline, "the run did not get to its hook"
            time.sleep(0.1)

    def end(self) -> tuple[int, str]:
        """Lets it go on to its end; returns exit code and output."""
        self.go_on.touch()
        output, _nothing = self.process.communicate(timeout=PATIENCE_SECONDS)
        return self.process.returncode, output

    def kill(self, number: signal.Signals) -> None:
        """Ends it at once, as Ctrl-C or the machine's memory do."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.process.returncode is None:
            assert time.monotonic() < deadline, f"signal {number} does not end the run"
            os.killpg(self.process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.communicate(timeout=AGAIN_SECONDS)


@contextlib.contextmanager
def paused(site: Site, source: Path, **variables: Any) -> Iterator[PausedRun]:
    """A run that waits with the lock; whatever a test does, none is left to the next one."""
    run = PausedRun(site, source, **variables)
    try:
        run.until_there()
        yield run
    finally:
        # its worker would outlive it
        run.go_on.touch()
        run.kill(signal.SIGKILL)


def lock_of(site: Site) -> dict[str, Any]:
    """What the host knows of the run that has it."""
    text = site.run(f"cat {LOCK} 2>/dev/null || echo '{{}}'")
    found: dict[str, Any] = json.loads(text)
    return found


def test_a_second_run_is_refused_and_the_first_goes_on(one_site: Site) -> None:
    """It is told who is at work and how to wait; nothing was done by it."""
    before = one_site.serving()
    with paused(one_site, one_site.variant("same", "first of two")) as first:
        held = lock_of(one_site)
        for playbook in ("site", "rollback", "restart"):
            refused = one_site.play(
                f"asgi.deploy.{playbook}",
                expect=2,
                asgi_app_source={"path": str(one_site.source)},
            )
            assert f"process {held['owner']['pid']}" in refused.output
            assert "to deploy, since" in refused.output
            assert "asgi_service_lock_wait_seconds" in refused.output
        assert lock_of(one_site)["run"] == held["run"]
        assert one_site.serving() == before
        code, output = first.end()
    assert code == 0, output
    assert one_site.serving() != before
    assert lock_of(one_site) == {}


def test_a_second_run_waits_when_told_to(one_site: Site) -> None:
    """Both are done, one after the other."""
    before = one_site.serving()
    with paused(one_site, one_site.variant("same", "waited for")) as first:
        version = one_site.variant("same", "waits")
        second = one_site.start(
            "asgi.deploy.site",
            asgi_app_source={"path": str(version)},
            asgi_service_lock_wait_seconds=120,
        )
        # it does not get the lock while the first has it
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(8)
        code, output = first.end()
    assert code == 0, output
    output, _nothing = second.communicate(timeout=PATIENCE_SECONDS)
    assert second.returncode == 0, output
    assert "waiting at most 120 s: blog is locked" in output
    events = one_site.state()["history"][-2:]
    assert [event["status"] for event in events] == ["good", "good"]
    assert len({before, *(event["release"] for event in events)}) == 3
    assert one_site.serving() == events[-1]["release"]
    assert lock_of(one_site) == {}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_lock_of_a_killed_run_is_taken_over(one_site: Site, number: signal.Signals) -> None:
    """The process is gone, which the controller sees; nobody has to do anything."""
    with paused(one_site, one_site.source) as first:
        first.kill(number)
    left = lock_of(one_site)
    assert left, "a killed run cannot give its lock back"
    played = one_site.deploy()
    assert "was taken over from a run that has ended" in played.output
    assert f"process {left['owner']['pid']}" in played.output
    assert lock_of(one_site) == {}


def test_what_cannot_be_proven_is_refused_until_somebody_says_so(one_site: Site) -> None:
    """A run of another controller; and it gets no further when it comes back after all."""
    before = one_site.serving()
    with paused(one_site, one_site.variant("same", "of another controller")) as first:
        elsewhere = {**lock_of(one_site), "renewed": time.time()}
        elsewhere["owner"]["machine"] = "of another controller"
        one_site.run(f"cat > {LOCK} <<'END'\n{json.dumps(elsewhere)}\nEND")
        one_site.play("asgi.deploy.restart", expect=2)
        one_site.play("asgi.deploy.restart", asgi_service_lock_take_over=True)
        # while another run has the lock, the first one cannot go on
        elsewhere["run"] = "the one that has taken over"
        one_site.run(f"cat > {LOCK} <<'END'\n{json.dumps(elsewhere)}\nEND")
        code, output = first.end()
    assert code != 0
    assert "is locked on this host by" in output
    assert lock_of(one_site)["run"] == "the one that has taken over"
    assert one_site.serving() == before
    # without a sign of life the lock is free when its lease is over
    elsewhere["renewed"] = time.time() - elsewhere["lease_seconds"]
    one_site.run(f"cat > {LOCK} <<'END'\n{json.dumps(elsewhere)}\nEND")
    played = one_site.deploy()
    assert "was taken over from a run that has ended" in played.output


def test_the_next_job_of_a_group_takes_the_lock_of_a_canceled_one_over(one_site: Site) -> None:
    """On another machine of the CI system, where nothing can be proven."""
    group = {"asgi_service_lock_group": "deploy-blog"}
    with paused(one_site, one_site.source, **group) as first:
        first.kill(signal.SIGKILL)
    left = lock_of(one_site)
    left["owner"]["machine"] = "of another job"
    one_site.run(f"cat > {LOCK} <<'END'\n{json.dumps(left)}\nEND")
    one_site.play("asgi.deploy.restart", expect=2)
    one_site.play("asgi.deploy.restart", expect=2, asgi_service_lock_group="another")
    played = one_site.deploy(**group)
    assert "was taken over from a run that has ended" in played.output
    assert lock_of(one_site) == {}


def test_a_run_that_lost_its_lock_is_rejected_after_the_other_has_ended(one_site: Site) -> None:
    """A suspended laptop, or a pause in a hook: somebody else has deployed meanwhile."""
    with paused(one_site, one_site.variant("same", "suspended")) as first:
        one_site.deploy(one_site.variant("same", "meanwhile"), asgi_service_lock_take_over=True)
        serving = one_site.serving()
        assert lock_of(one_site) == {}
        code, output = first.end()
    assert code != 0
    assert "this run has lost the lock of blog on this host to another run" in output
    assert one_site.serving() == serving == one_site.state()["history"][-1]["release"]
    assert lock_of(one_site) == {}


@pytest.mark.parametrize("role", ["app", "proxy"])
def test_a_lost_lock_keeps_environment_and_proxy_as_they_are(one_site: Site, role: str) -> None:
    """They are steps too, and a later rollout would take what they wrote."""
    of_run = {"asgi_service_run": "of a run that lost it"}
    changed = {
        "asgi_app_source": {"path": str(one_site.source)},
        "asgi_app_secrets": {"LATE": "1"},
        "asgi_proxy_request_body_max": "12MB",
    }
    paths = "/etc/asgi/blog/secrets /etc/caddy/sites/blog.caddy"
    before = one_site.run(f"sha256sum {paths}")
    played = one_site.role(role, expect=2, **changed, **of_run)
    assert "this run has lost the lock of blog" in played.output
    assert one_site.run(f"sha256sum {paths}") == before


def test_check_mode_takes_no_lock_and_tells_of_one(one_site: Site) -> None:
    """A plan can be made while somebody deploys."""
    with paused(one_site, one_site.source) as first:
        held = lock_of(one_site)
        checked = one_site.play(
            "asgi.deploy.site", "--check", asgi_app_source={"path": str(one_site.source)}
        )
        assert "is locked on this host by" in checked.output
        assert lock_of(one_site) == held
        code, output = first.end()
    assert code == 0, output

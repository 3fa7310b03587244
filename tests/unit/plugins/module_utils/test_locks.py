"""One module call at a time, and one run at a time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import locks
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout


@pytest.fixture
def app(tmp_path: Path) -> Layout:
    """An app on this machine."""
    layout = Layout("blog", tmp_path / "srv" / "blog")
    layout.root.mkdir(parents=True)
    return layout


# --- one at a time ------------------------------------------------------------------------------


def test_a_second_holder_is_refused_with_who_holds_it(app: Layout) -> None:
    with (
        locks.locked(app),
        pytest.raises(DeployError, match="being changed on this host by another run") as caught,
        locks.locked(app),
    ):
        pytest.fail("two held it")
    assert f"pid {os.getpid()} since 2" in caught.value.message
    assert "try again" in caught.value.message


def test_the_lock_is_free_after_its_holder_whatever_happened(app: Layout) -> None:
    with pytest.raises(RuntimeError, match="broken"), locks.locked(app):
        raise RuntimeError("broken")
    with locks.locked(app):
        assert app.lock_file.stat().st_mode & 0o777 == 0o600


def test_the_lock_of_a_process_that_was_killed_is_free(app: Layout) -> None:
    """The kernel lets go of it, so there is no stale lock to be proven dead."""
    script = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'a+'); fcntl.flock(file, fcntl.LOCK_EX);"
        " print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, app.lock_file], stdout=subprocess.PIPE, encoding="utf-8"
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DeployError), locks.locked(app):
            pytest.fail("two held it")
        holder.kill()
    with locks.locked(app):
        pass


def test_the_lock_makes_the_root_of_a_new_app(app: Layout) -> None:
    new = Layout("new", app.root / "deep" / "new")
    with locks.locked(new):
        assert new.root.stat().st_mode & 0o777 == 0o755


# --- the watch ------------------------------------------------------------------------------------


def with_watch(app: Layout, monkeypatch: pytest.MonkeyPatch, process: int) -> list[str]:
    """A host with a watch, which has this process; returns what systemd was told."""
    told: list[str] = []
    unit = app.root / "watch.service"
    unit.touch()
    monkeypatch.setattr(Layout, "watch_unit_file", unit)

    def systemctl(*arguments: str, **_options: Any) -> str:
        if arguments[0] == "show":
            return f"Id=asgi-blog-watch.service\nMainPID={process}\n"
        told.append(" ".join(arguments))
        os.kill(process, signal.SIGTERM)
        return ""

    monkeypatch.setattr(locks.systemd, "systemctl", systemctl)
    return told


def holding(app: Layout) -> subprocess.Popen[str]:
    """Another process that has the app, until it gets SIGTERM."""
    script = (
        "import fcntl, os, sys, time; file = open(sys.argv[1], 'a+');"
        " fcntl.flock(file, fcntl.LOCK_EX); file.truncate(0);"
        " file.write(f'pid {os.getpid()} since now'); file.flush();"
        " print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, app.lock_file], stdout=subprocess.PIPE, encoding="utf-8"
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_the_watch_makes_way_for_a_run(app: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does not want to wait waits for it all the same: it is ended."""
    with holding(app) as holder:
        told = with_watch(app, monkeypatch, holder.pid)
        with locks.locked(app):
            assert holder.wait(10) == -signal.SIGTERM
    assert told == ["restart --no-block asgi-blog-watch.service"]


def test_another_run_is_not_ended_beside_a_watch(
    app: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    with holding(app) as holder:
        told = with_watch(app, monkeypatch, os.getpid())
        with pytest.raises(DeployError, match=f"pid {holder.pid} "), locks.locked(app):
            pytest.fail("two held it")
        assert told == []
        holder.kill()


# --- one run --------------------------------------------------------------------------------------


def wanted(run: str, **changes: Any) -> dict[str, Any]:
    """What a run asks for."""
    owner = locks.this_run(os.getpid(), "anna")
    return {"run": run, "purpose": "deploy", "owner": owner, "lease_seconds": 60, **changes}


def test_a_run_holds_the_app_over_many_calls(app: Layout) -> None:
    assert locks.take(app, wanted("one")) == {}
    for _call in range(2):
        with locks.locked(app, run="one"):
            pass
    assert locks.give_back(app, "one")
    with locks.locked(app):
        pass


@pytest.mark.parametrize("run", ["", "two"])
def test_the_calls_of_others_are_refused_meanwhile(app: Layout, run: str) -> None:
    locks.take(app, wanted("one"))
    with pytest.raises(DeployError) as caught, locks.locked(app, run=run):
        pytest.fail("another run changed it")
    for text in ("locked on this host by anna at", f"process {os.getpid()}", "to deploy, since 2"):
        assert text in caught.value.message
    assert "asgi_service_lock_wait_seconds" in caught.value.message
    assert "asgi_service_lock_take_over: true" in caught.value.message
    assert caught.value.facts["held"]["run"] == "one"


def test_another_run_does_not_get_the_lock_nor_gives_it_back(app: Layout) -> None:
    locks.take(app, wanted("one"))
    with pytest.raises(DeployError, match="is locked"):
        locks.take(app, wanted("two"))
    assert not locks.give_back(app, "two")
    assert locks.read(app)["run"] == "one"


def test_the_lock_of_a_dead_run_is_taken_over_and_said(app: Layout) -> None:
    locks.take(app, wanted("one"))
    former = locks.take(app, wanted("two"), dead="one")
    assert "anna at" in locks.taken_over(app, former)
    # the former run is not dead after all: it is refused from now on
    with pytest.raises(DeployError, match="is locked"), locks.locked(app, run="one"):
        pytest.fail("two runs changed it")


def test_a_run_that_lost_its_lock_is_rejected_also_when_the_other_has_ended(app: Layout) -> None:
    locks.take(app, wanted("one"))
    locks.take(app, wanted("two"), dead="one")
    with (
        pytest.raises(DeployError, match=r"has lost the lock .* is locked") as caught,
        locks.locked(app, run="one"),
    ):
        pytest.fail("two runs changed it")
    assert caught.value.facts["held"]["run"] == "two"
    locks.give_back(app, "two")
    with (
        pytest.raises(DeployError, match=r"has lost the lock of blog .* and it has ended since"),
        locks.locked(app, run="one"),
    ):
        pytest.fail("it would undo what the other run has done")
    # a call that belongs to no run changes the app
    with locks.locked(app):
        pass


def test_a_run_that_lost_its_lock_to_a_removal_does_not_make_the_app_again(app: Layout) -> None:
    gone = Layout("gone", app.root / "gone")
    with pytest.raises(DeployError, match="has lost the lock of gone"), locks.locked(gone, run="1"):
        pytest.fail("the app is gone")
    assert not gone.root.exists()


def test_the_lease_of_another_run_gives_a_lost_lock_not_back(app: Layout) -> None:
    locks.take(app, wanted("two", lease_seconds=0))
    with pytest.raises(DeployError, match="has lost the lock"), locks.locked(app, run="one"):
        pytest.fail("two runs changed it")


def test_who_comes_while_a_call_is_at_work_is_told_of_its_run(app: Layout) -> None:
    locks.take(app, wanted("one"))
    with locks.locked(app, run="one"), pytest.raises(DeployError, match="is locked") as caught:
        locks.take(app, wanted("two"))
    assert caught.value.facts["held"]["run"] == "one"
    locks.give_back(app, "one")
    with locks.locked(app), pytest.raises(DeployError, match="being changed") as caught:
        locks.take(app, wanted("two"))
    assert caught.value.facts["busy"]


def test_the_lock_of_a_canceled_job_of_the_same_group_is_taken_over(app: Layout) -> None:
    locks.take(app, wanted("one", group="deploy-blog"))
    for group in ("", "deploy-shop"):
        with pytest.raises(DeployError, match="is locked"):
            locks.take(app, wanted("two", group=group))
    assert locks.take(app, wanted("two", group="deploy-blog"))["run"] == "one"
    # a run without a group is no group
    locks.give_back(app, "two")
    locks.take(app, wanted("three"))
    with pytest.raises(DeployError, match="is locked"):
        locks.take(app, wanted("four", group=""))


def test_a_third_run_is_not_mistaken_for_the_dead_one(app: Layout) -> None:
    locks.take(app, wanted("three"))
    with pytest.raises(DeployError, match="is locked"):
        locks.take(app, wanted("two"), dead="one")


def test_each_call_prolongs_the_lease(app: Layout) -> None:
    locks.take(app, wanted("one", lease_seconds=0.5))
    time.sleep(0.3)
    with locks.locked(app, run="one"):
        pass
    time.sleep(0.3)
    with pytest.raises(DeployError, match="is locked"):
        locks.take(app, wanted("two"))
    time.sleep(0.3)
    assert locks.take(app, wanted("two"))["run"] == "one"


def test_a_broken_lock_is_told(app: Layout) -> None:
    for text in ("{", "[1]", '{"run": "one"}'):
        app.run_file.write_text(text)
        with pytest.raises(DeployError, match="remove it when no run is under way"):
            locks.read(app)


def test_giving_back_makes_no_directory(app: Layout) -> None:
    gone = Layout("gone", app.root / "gone")
    assert not locks.give_back(gone, "one")
    assert not gone.root.exists()


# --- proof of the end -----------------------------------------------------------------------------


def test_a_process_that_lives_has_not_ended() -> None:
    assert not locks.has_ended(locks.this_run(os.getpid(), "anna"))


def test_a_process_that_is_gone_has_ended() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        owner = locks.this_run(process.pid, "anna")
        assert not locks.has_ended(owner)
        process.kill()
        # a zombie, which nobody has waited for yet
        deadline = time.monotonic() + 60
        while not locks.has_ended(owner) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert locks.has_ended(owner)
    assert locks.has_ended(owner)


def test_another_process_with_the_same_number_is_not_the_run() -> None:
    owner = locks.this_run(os.getpid(), "anna")
    assert locks.has_ended({**owner, "started_ticks": owner["started_ticks"] - 1})


@pytest.mark.parametrize("change", [{"machine": "another"}, {"machine": ""}, {"started_ticks": 0}])
def test_what_cannot_be_seen_from_here_is_not_proven(change: dict[str, Any]) -> None:
    owner = {**locks.this_run(os.getpid(), "anna"), "started_ticks": 1, **change}
    assert not locks.has_ended(owner)

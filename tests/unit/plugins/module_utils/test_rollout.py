"""The decisions of a rollout; its doing is tested on real hosts."""

from __future__ import annotations

import dataclasses
import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import rollout, slots, state, systemd
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.files import link_atomic
from ansible_collections.asgi.deploy.plugins.module_utils.health import Answer
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.proxies import caddy
from ansible_collections.asgi.deploy.plugins.module_utils.proxies import site as sites
from ansible_collections.asgi.deploy.plugins.module_utils.state import (
    FAILED,
    GOOD,
    LEFT,
    REFUSED,
    State,
)

RECORDED: dict[str, Any] = {
    "units": {"service": "[Service]\n", "socket": "[Socket]\n", "slice": "[Slice]\n"},
    "instances": 1,
    "server": "uvicorn",
    "health": {"path": "/health", "host": "blog.test"},
    "proxy": {"provider": "caddy", "domain": "blog.example.com"},
    "settle_seconds": 3,
    "drain_seconds": 30,
    "keep_releases": 5,
}
SETTINGS = rollout.Settings.read(RECORDED)


@pytest.fixture
def asked_systemd(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """A systemd that has every unit it is asked for; what it was told is written down."""
    told: list[tuple[str, ...]] = []

    def systemctl(*arguments: str, **_options: Any) -> str:
        if arguments[0] == "list-units":
            patterns = [text for text in arguments if "@" in text]
            return "".join(f"{text.replace('*', '1')} loaded active\n" for text in patterns)
        told.append(arguments)
        return ""

    monkeypatch.setattr(systemd, "systemctl", systemctl)
    return told


def stopped(told: list[tuple[str, ...]]) -> set[str]:
    """Returns the slots that were stopped."""
    units = [unit for arguments in told if arguments[0] == "stop" for unit in arguments[1:]]
    units = [unit for unit in units if not unit.startswith("blog.")]
    return {unit.split("@")[0].rpartition("-")[2] for unit in units}


def point(app: Layout, slot: str, release: str) -> None:
    """Points a slot at a release."""
    link_atomic(app.slot_link(slot), f"../releases/{release}")


def test_settings_are_read_as_they_were_recorded() -> None:
    assert SETTINGS.units.socket == "[Socket]\n"
    assert SETTINGS.access.domain == "blog.example.com"
    assert SETTINGS.health.path == "/health"
    # through the proxy the app is asked by the name in the certificate
    assert rollout.through_proxy(SETTINGS).host == "blog.example.com"
    assert rollout.through_proxy(SETTINGS).path == "/health"


def test_limits_are_those_of_the_settings() -> None:
    """And nothing else: a text in the answer of the app need not be for everyone."""
    health = {"timeout_seconds": 20, "body": "a text of the app"}
    changed = {**RECORDED, "health": health, "proxy": {"timeout_seconds": 15}}
    assert rollout.Settings.read(changed).limits() == {
        "instances": 1,
        "health_timeout_seconds": 20,
        "stable_seconds": 3,
        "proxy_timeout_seconds": 15,
        "settle_seconds": 3,
        "drain_seconds": 30,
        "balancer_drain_seconds": 0,
    }


# --- whether to roll out --------------------------------------------------------------------------


def test_the_first_release_is_a_reason(app: Layout) -> None:
    assert rollout.needed_because(app, "1-a", SETTINGS, "") == ["first release"]


def test_another_release_is_a_reason_and_the_only_one_told(app: Layout) -> None:
    point(app, "blue", "1-a")
    assert rollout.needed_because(app, "2-b", SETTINGS, "restart") == ["release 1-a to 2-b"]


def test_the_serving_slot_is_the_one_that_counts(app: Layout) -> None:
    point(app, "blue", "1-a")
    point(app, "green", "2-b")
    app.switch_file.touch()
    assert rollout.needed_because(app, "1-a", SETTINGS, "") == ["release 2-b to 1-a"]


def test_the_same_release_needs_none_unless_something_differs(
    app: Layout, stage: Callable[..., None]
) -> None:
    stage("1-a")
    point(app, "blue", "1-a")
    for path, text in slots.unit_files(app, "blue", SETTINGS.units).items():
        path.write_text(text, encoding="utf-8")
    app.slot_configuration("blue").mkdir()
    for path in slots.configuration_files(app, "blue"):
        path.touch()
    wants = app.slice_file.parent / "multi-user.target.wants"
    wants.mkdir()
    (wants / "blog-blue@1.service").symlink_to("gone")
    assert rollout.needed_because(app, "1-a", SETTINGS, "") == []
    assert rollout.needed_because(app, "1-a", SETTINGS, "restart") == ["restart"]
    (app.configuration / "secrets").write_text('KEY="s3cret"\n', encoding="utf-8")
    assert rollout.needed_because(app, "1-a", SETTINGS, "") == ["secrets"]


# --- check mode -----------------------------------------------------------------------------------

OTHER: dict[str, Any] = {**RECORDED, "units": {**RECORDED["units"], "service": "[Other]\n"}}


@pytest.fixture
def serving_two(app: Layout) -> Layout:
    """An app whose slot green serves `2-b`; blue has `1-a`, with units and a secret of its own."""
    for slot, release, units in (
        ("blue", "1-a", RECORDED["units"]),
        ("green", "2-b", OTHER["units"]),
    ):
        point(app, slot, release)
        for path, text in slots.unit_files(app, slot, slots.SlotUnits(**units)).items():
            path.write_text(text, encoding="utf-8")
        app.slot_configuration(slot).mkdir()
        for path in slots.configuration_files(app, slot):
            path.write_text(f'KEY="{slot}"\n' if path.name == "secrets" else "", encoding="utf-8")
    (app.configuration / "secrets").write_text('KEY="green"\nNEW="x"\n', encoding="utf-8")
    app.switch_file.touch()
    current = State(settings=OTHER, former_settings=RECORDED)
    current.record(release="2-b", previous="1-a", slot="green", status=GOOD)
    state.save(app.state_file, current)
    return app


def tree(app: Layout) -> dict[str, tuple[int, str]]:
    """Returns every file of an app with its time and text."""
    return {
        str(path): (path.lstat().st_mtime_ns, path.read_text() if path.is_file() else "")
        for path in app.root.parent.rglob("*")
    }


def checked(app: Layout, release: str, recorded: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Asks what a rollout would do, and sees that it does nothing."""
    before = tree(app)
    result = rollout.rollout(
        app,
        release,
        rollout.Settings.read(recorded),
        recorded=recorded,
        by="ann",
        check_mode=True,
        **options,
    )
    assert tree(app) == before
    assert "steps" not in result or result["steps"] == []
    return result


def test_check_mode_tells_where_a_release_would_go_and_what_differs(serving_two: Layout) -> None:
    told = checked(serving_two, "3-c", RECORDED)
    assert (told["changed"], told["previous"], told["release"]) == (True, "2-b", "3-c")
    assert told["slot"] == "blue"
    assert told["limits"]["drain_seconds"] == 30
    (diff,) = told["diff"]
    assert (diff["before"], diff["after"]) == ("[Other]\n", "[Service]\n")
    assert diff["before_header"].endswith("blog-green@.service")
    assert diff["after_header"].endswith("blog-blue@.service")
    assert told["variables"] == {"added": ["NEW"], "changed": [], "removed": []}
    assert "green" not in str(told["variables"])


def test_check_mode_takes_what_is_not_written_yet(serving_two: Layout) -> None:
    unwritten = {"environment": "", "secrets": 'KEY="other"\n'}
    told = checked(serving_two, "3-c", OTHER, unwritten=unwritten)
    assert told["variables"] == {"added": [], "changed": ["KEY"], "removed": []}


def test_check_mode_of_a_rollback_to_what_served_before(serving_two: Layout) -> None:
    """It comes back with all that it had, not with what is new."""
    told = checked(serving_two, "1-a", {**OTHER, "drain_seconds": 90}, leave=True)
    assert told["limits"]["drain_seconds"] == 30
    (diff,) = told["diff"]
    assert (diff["before"], diff["after"]) == ("[Other]\n", "[Service]\n")
    assert told["variables"] == {"added": [], "changed": ["KEY"], "removed": []}


def test_check_mode_of_a_first_release(app: Layout) -> None:
    told = checked(app, "1-a", RECORDED, unwritten={"environment": 'A="1"\n', "secrets": ""})
    assert (told["previous"], told["slot"], told["reasons"]) == (None, "blue", ["first release"])
    assert [one["before"] for one in told["diff"]] == ["", "", ""]
    assert told["variables"] == {"added": ["A"], "changed": [], "removed": []}


def test_check_mode_tells_of_a_run_that_was_killed_and_mends_nothing(serving_two: Layout) -> None:
    current = state.load(serving_two.state_file)
    current.operation = cut_off("prove its health", "2-b", "blue")
    state.save(serving_two.state_file, current)
    told = checked(serving_two, "3-c", RECORDED)
    assert told["recovered"] == (
        "a rollout of 2-b was cut off while it was to prove its health; that is finished or"
        " undone first"
    )


def test_a_step_that_fails_has_no_time(app: Layout) -> None:
    run = rollout.Run(app, "2-b", SETTINGS, RECORDED, State(), "green", "1-a", ["x"], "ann")
    with run.timed("start the slot"):
        pass
    with pytest.raises(DeployError), run.timed("prove its health"):
        raise DeployError("not healthy")
    assert run.steps == [{"name": "start the slot", "seconds": 0.0}]


# --- what is kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "needed"),
    [
        ([("a", GOOD), ("b", GOOD), ("c", GOOD)], ["c", "b"]),
        ([("a", GOOD), ("b", LEFT), ("c", GOOD)], ["c", "a"]),
        ([("a", GOOD), ("gone", GOOD), ("c", GOOD)], ["c", "a"]),
        ([("a", GOOD), ("d", GOOD), ("c", GOOD)], ["c", "a"]),
        ([("c", GOOD)], ["c"]),
        ([], ["c"]),
    ],
)
def test_what_serves_and_what_a_rollback_would_go_to_is_kept(
    app: Layout,
    stage: Callable[..., None],
    events: list[tuple[str, str]],
    needed: list[str],
) -> None:
    for release in "abcd":
        stage(release)
    point(app, "blue", "c")
    # its Python is gone, so nothing can go back to it
    (app.release("d") / "venv" / "bin" / "python").unlink()
    current = State()
    for release, status in events:
        current.record(release=release, status=status)
    assert rollout.needed_releases(app, current) == needed


def test_nothing_is_kept_where_nothing_serves(app: Layout) -> None:
    assert rollout.needed_releases(app, State()) == []


# --- after a run that was killed ------------------------------------------------------------------


#: Those of the run that was killed; they differ from what was recorded before it.
CUT_OFF_SETTINGS = {**RECORDED, "keep_releases": 3}


def cut_off(step: str, previous: str | None, slot: str) -> dict[str, Any]:
    """Returns the record of a rollout of release `2-b` that was killed at a step."""
    at = "2026-11-22T13:00:00+00:00"
    return {
        "step": step,
        "release": "2-b",
        "previous": previous,
        "slot": slot,
        "at": at,
        "by": "",
        "settings": CUT_OFF_SETTINGS,
    }


def test_without_an_operation_nothing_is_recovered(
    app: Layout, asked_systemd: list[tuple[str, ...]]
) -> None:
    assert rollout.recover(app, State()) == ""
    assert asked_systemd == []
    assert not app.state_file.exists()


@pytest.mark.parametrize(
    ("step", "switched", "serves"),
    [
        ("prepare the slot", False, "blue"),
        ("prove its health", False, "blue"),
        ("enable it at boot", False, "blue"),
        ("switch the proxy", False, "blue"),
        ("switch the proxy", True, "green"),
        ("confirm through the proxy", True, "green"),
        ("stop the old slot", True, "green"),
    ],
)
def test_what_the_proxy_asks_stays_and_the_other_slot_is_stopped(
    app: Layout, asked_systemd: list[tuple[str, ...]], step: str, switched: bool, serves: str
) -> None:
    point(app, "blue", "1-a")
    point(app, "green", "2-b")
    if switched:
        app.switch_file.touch()
    current = State(operation=cut_off(step, "1-a", "green"))
    current.record(release="1-a", status=GOOD)
    told = rollout.recover(app, current)
    assert step in told
    assert "2-b" in told
    assert f"slot {serves} serves and stays" in told
    assert stopped(asked_systemd) == {"blue", "green"} - {serves}
    assert state.load(app.state_file).operation == {}
    assert app.serving_slot() == serves


def test_a_release_that_serves_after_a_recovery_is_one_to_go_back_to(
    app: Layout, asked_systemd: list[tuple[str, ...]]
) -> None:
    """It has passed its gate and serves, so a later rollback must know of it."""
    point(app, "blue", "1-a")
    point(app, "green", "2-b")
    app.switch_file.touch()
    operation = cut_off("confirm through the proxy", "1-a", "green")
    current = State(operation=operation, settings=RECORDED)
    current.record(release="1-a", status=GOOD)
    rollout.recover(app, current)
    found = state.load(app.state_file)
    assert found.good_releases() == ["2-b", "1-a"]
    assert found.history[-1]["previous"] == "1-a"
    # it serves with these, and an undo needs the others
    assert (found.settings, found.former_settings) == (CUT_OFF_SETTINGS, RECORDED)


@pytest.mark.parametrize(
    ("step", "switched", "serves"),
    [
        ("prove its health", False, "blue"),
        (rollout.HAND_OVER, True, "green"),
        ("stop the old slot", True, "green"),
    ],
)
def test_a_recovery_has_the_processes_of_what_serves_run(
    app: Layout, asked_systemd: list[tuple[str, ...]], step: str, switched: bool, serves: str
) -> None:
    """Those of the other slot have ended before."""
    point(app, "blue", "1-a")
    point(app, "green", "2-b")
    if switched:
        app.switch_file.touch()
    scheduler = {"name": "scheduler", "service": "[Service]\n"}
    recorded = {**RECORDED, "units": {**RECORDED["units"], "processes": [scheduler]}}
    operation = {**cut_off(step, "1-a", "green"), "settings": recorded}
    # the last step is written down with the settings
    current = State(operation=operation, settings=recorded)
    rollout.recover(app, current)
    verbs = [arguments[0] for arguments in asked_systemd]
    started = asked_systemd[verbs.index("start")]
    assert started == ("start", f"blog.scheduler-{serves}@1.service")
    other = {"blue": "green", "green": "blue"}[serves]
    ended = [arguments for arguments in asked_systemd if arguments[0] == "stop"]
    assert any(f"blog.1-{other}@1.service" in arguments for arguments in ended)
    assert verbs.index("stop") < verbs.index("start")


@pytest.mark.parametrize("previous", ["1-a", "2-b"])
def test_a_release_that_was_good_before_is_recovered_like_a_new_one(
    app: Layout, asked_systemd: list[tuple[str, ...]], previous: str
) -> None:
    """A deploy of a former release, or a restart, cut off after the switch: an undo needs it."""
    point(app, "blue", previous)
    point(app, "green", "2-b")
    app.switch_file.touch()
    operation = cut_off("confirm through the proxy", previous, "green")
    current = State(operation=operation, settings=RECORDED)
    for release in ("2-b", "1-a"):
        current.record(release=release, status=GOOD)
    rollout.recover(app, current)
    found = state.load(app.state_file)
    assert (found.history[-1]["release"], found.history[-1]["previous"]) == ("2-b", previous)
    assert (found.settings, found.former_settings) == (CUT_OFF_SETTINGS, RECORDED)


@pytest.mark.parametrize(
    ("switched", "previous", "events"),
    [
        # the old one serves: nothing is known of the new one
        (False, "1-a", [("1-a", GOOD)]),
        # it was written down before the old slot was stopped
        (True, "1-a", [("1-a", GOOD), ("2-b", GOOD)]),
        # a restart: it was good before
        (True, "2-b", [("2-b", GOOD)]),
    ],
)
def test_a_recovery_writes_down_nothing_that_is_not_so_or_known(
    app: Layout,
    asked_systemd: list[tuple[str, ...]],
    switched: bool,
    previous: str,
    events: list[tuple[str, str]],
) -> None:
    point(app, "blue", previous)
    point(app, "green", "2-b")
    if switched:
        app.switch_file.touch()
    current = State(operation=cut_off("stop the old slot", previous, "green"))
    for release, status in events:
        current.record(release=release, status=status)
    rollout.recover(app, current)
    found = state.load(app.state_file).history
    assert [(event["release"], event["status"]) for event in found] == events


@pytest.mark.parametrize("switched", [True, False])
def test_a_release_whose_way_back_was_cut_off_has_failed(
    app: Layout, asked_systemd: list[tuple[str, ...]], switched: bool
) -> None:
    """Whatever the proxy asks: it was not confirmed."""
    point(app, "blue", "1-a")
    point(app, "green", "2-b")
    if switched:
        app.switch_file.touch()
    reason = "confirm through the proxy: no answer"
    operation = {**cut_off(rollout.REVERT, "1-a", "green"), "reason": reason}
    current = State(operation=operation, settings=RECORDED)
    current.record(release="1-a", status=GOOD)
    told = rollout.recover(app, current)
    assert "slot blue serves and stays" in told
    assert app.serving_slot() == "blue"
    assert stopped(asked_systemd) == {"green"}
    found = state.load(app.state_file)
    assert (found.good_releases(), found.status("2-b")) == (["1-a"], FAILED)
    assert found.history[-1]["reason"] == reason
    assert (found.settings, found.operation) == (RECORDED, {})


def test_a_first_release_that_was_cut_off_is_taken_away(
    app: Layout, asked_systemd: list[tuple[str, ...]]
) -> None:
    point(app, "blue", "2-b")
    told = rollout.recover(app, State(operation=cut_off("prove its health", None, "blue")))
    assert "taken away" in told
    assert stopped(asked_systemd) == {"blue", "green"}
    assert app.slot_release("blue") is None


def test_a_first_release_that_had_served_stays(
    app: Layout, asked_systemd: list[tuple[str, ...]]
) -> None:
    point(app, "blue", "2-b")
    current = State(operation=cut_off("stop the old slot", None, "blue"))
    current.record(release="2-b", status=GOOD)
    assert "serves and stays" in rollout.recover(app, current)
    assert stopped(asked_systemd) == {"green"}
    assert app.slot_release("blue") == "2-b"


def test_a_first_release_after_a_removal_that_was_cut_off_is_taken_away(
    app: Layout, asked_systemd: list[tuple[str, ...]]
) -> None:
    """A removal keeps the state; what was cut off before it served has still proven nothing."""
    point(app, "blue", "2-b")
    current = State(operation=cut_off("start the slot", None, "blue"))
    current.record(release="1-a", status=GOOD)
    rollout.recover(app, current)
    assert app.slot_release("blue") is None
    assert state.load(app.state_file).good_releases() == ["1-a"]


# --- a whole rollout ------------------------------------------------------------------------------

#: No connection is open, so none is waited for.
QUICK = {**RECORDED, "settle_seconds": 0, "drain_seconds": 0}


@pytest.fixture
def host(
    app: Layout,
    asked_systemd: list[tuple[str, ...]],
    stage: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> Layout:
    """A host with releases 1-a, 2-b and 3-c; every process is healthy, every proxy confirms.

    Files, links, switch and state are the real ones.
    """
    monkeypatch.setattr(slots, "prove", lambda *_arguments: None)
    monkeypatch.setattr(rollout.Run, "confirm", lambda _run, _slot: None)
    for release in ("1-a", "2-b", "3-c"):
        stage(release)
    return app


def deploy(app: Layout, release: str, **options: Any) -> dict[str, Any]:
    """Rolls out as the module does."""
    recorded = options.pop("recorded", QUICK)
    settings = rollout.Settings.read(recorded)
    return rollout.rollout(app, release, settings, recorded=recorded, by="ann", **options)


def serving(app: Layout) -> tuple[str, str | None]:
    """Returns the slot that serves and its release."""
    return app.serving_slot(), app.slot_release(app.serving_slot())


def break_step(monkeypatch: pytest.MonkeyPatch, step: str, broken: Callable[[], object]) -> None:
    """Makes one step of the way to green fail; the way back to blue is whole."""

    def before(owner: object, name: str, applies: Callable[..., bool]) -> None:
        real = getattr(owner, name)

        def call(*arguments: Any) -> Any:
            found = real(*arguments)
            if applies(*arguments):
                broken()
            return found

        monkeypatch.setattr(owner, name, call)

    owner, name, applies = {
        "prepare the slot": (slots, "prepare", lambda *_arguments: True),
        "start the slot": (slots, "start", lambda *_arguments: True),
        "prove its health": (slots, "prove", lambda *_arguments: True),
        "enable it at boot": (slots, "enable", lambda _app, _slot, count: count > 0),
        "switch the proxy": (caddy, "turn_switch", lambda _app, slot: slot == "green"),
        "confirm through the proxy": (rollout.Run, "confirm", lambda _run, slot: slot == "green"),
    }[step]
    before(owner, name, applies)


def refuse() -> None:
    """Fails as the collection's own code does."""
    raise DeployError("no answer\nlast lines of its journal:\nboom")


def crash() -> None:
    """Fails as nobody has thought of."""
    raise OSError(28, "No space left on device")


def end() -> None:
    """Is ended from outside, as at the shutdown of the host."""
    signal.raise_signal(signal.SIGTERM)


STEPS = [
    "prepare the slot",
    "start the slot",
    "prove its health",
    "enable it at boot",
    "switch the proxy",
    "confirm through the proxy",
]


def test_a_rollout_switches_and_remembers(host: Layout) -> None:
    assert deploy(host, "1-a")["previous"] is None
    assert serving(host) == ("blue", "1-a")
    changed = {**QUICK, "keep_releases": 3}
    result = deploy(host, "2-b", recorded=changed)
    assert serving(host) == ("green", "2-b")
    assert (result["changed"], result["previous"], result["slot"]) == (True, "1-a", "green")
    found = state.load(host.state_file)
    assert found.good_releases() == ["2-b", "1-a"]
    assert (found.settings, found.former_settings) == (changed, QUICK)
    assert found.operation == {}


def test_a_former_release_that_has_another_server_is_refused_before_anything_is_touched(
    host: Layout, asked_systemd: list[tuple[str, ...]]
) -> None:
    deploy(host, "1-a")
    asked_systemd.clear()
    with pytest.raises(DeployError, match=r"granian is not installed in release 2-b"):
        deploy(host, "2-b", recorded={**QUICK, "server": "granian"})
    assert asked_systemd == []
    assert serving(host) == ("blue", "1-a")


def test_a_server_that_makes_its_listener_has_no_socket_unit_any_more(
    host: Layout, asked_systemd: list[tuple[str, ...]]
) -> None:
    deploy(host, "1-a")
    deploy(host, "2-b")
    assert host.unit_file("blue", "socket").exists()
    asked_systemd.clear()
    deploy(host, "3-c", recorded={**QUICK, "units": {**QUICK["units"], "socket": ""}})
    assert not host.unit_file("blue", "socket").exists()
    begun = [words for words in asked_systemd if words[0] in ("start", "enable")]
    assert [word for words in begun for word in words if word.endswith(".socket")] == []


@pytest.mark.parametrize("broken", [refuse, crash, end])
@pytest.mark.parametrize("step", STEPS)
def test_whatever_fails_at_whatever_step_is_put_back(
    host: Layout,
    asked_systemd: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    broken: Callable[[], object],
) -> None:
    deploy(host, "1-a")
    asked_systemd.clear()
    break_step(monkeypatch, step, broken)
    with pytest.raises(DeployError) as caught:
        deploy(host, "2-b", recorded={**QUICK, "keep_releases": 3})
    assert serving(host) == ("blue", "1-a")
    # a slot that was never used is so again
    assert host.slot_release("green") is None
    assert not host.unit_file("green", "service").exists()
    assert stopped(asked_systemd) == {"green"}
    found = state.load(host.state_file)
    assert (found.operation, found.settings) == ({}, QUICK)
    assert found.status("2-b") == FAILED
    assert found.good_releases() == ["1-a"]
    assert found.history[-1]["reason"].startswith(f"{step}: ")
    assert "boom" not in found.history[-1]["reason"]
    assert caught.value.facts == {
        "step": step,
        "failed_release": "2-b",
        "serving_release": "1-a",
    }
    cause = {refuse: "boom", crash: "No space left", end: "ended by SIGTERM"}[broken]
    assert cause in caught.value.message
    how = "was put back" if STEPS.index(step) >= STEPS.index("switch the proxy") else "not touched"
    assert how in caught.value.message


def test_an_error_without_a_message_is_put_back_and_written_down(
    host: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent() -> None:
        raise MemoryError

    deploy(host, "1-a")
    break_step(monkeypatch, "prove its health", silent)
    with pytest.raises(DeployError, match="MemoryError"):
        deploy(host, "2-b")
    assert state.load(host.state_file).operation == {}


def test_no_secret_is_written_down_when_a_rollout_fails(
    host: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither of the secrets, nor of a credential whose unit file is gone again by then."""
    credential = tmp_path / "signing.pem"
    credential.write_text("the-key-of-the-app\n", encoding="utf-8")
    (host.configuration / "secrets").write_text('KEY="an-app-secret"\n', encoding="utf-8")

    def shown() -> None:
        raise DeployError("bad keys: an-app-secret, 'the-key-of-the-app'")

    units = {**QUICK["units"], "service": f"[Service]\nLoadCredential=key:{credential}\n"}
    break_step(monkeypatch, "start the slot", shown)
    with pytest.raises(DeployError) as caught:
        deploy(host, "1-a", recorded={**QUICK, "units": units})
    assert "bad keys: ********, '********'" in caught.value.message
    text = host.state_file.read_text(encoding="utf-8")
    assert "start the slot: bad keys: ********, '********'" in text
    assert "an-app-secret" not in text
    assert "the-key-of-the-app" not in text


@pytest.mark.parametrize("broken", [refuse, crash])
def test_a_first_release_that_fails_leaves_nothing(
    host: Layout, monkeypatch: pytest.MonkeyPatch, broken: Callable[[], object]
) -> None:
    break_step(monkeypatch, "prove its health", broken)
    with pytest.raises(DeployError, match="so nothing serves"):
        deploy(host, "1-a")
    assert serving(host) == ("blue", None)
    assert state.load(host.state_file).status("1-a") == FAILED


def test_a_slot_that_fails_has_its_former_release_again(
    host: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An undo would start it."""
    deploy(host, "2-b")
    deploy(host, "1-a", leave=True)
    deploy(host, "3-c")
    assert serving(host) == ("blue", "3-c")
    break_step(monkeypatch, "start the slot", refuse)
    with pytest.raises(DeployError):
        deploy(host, "2-b")
    assert serving(host) == ("blue", "3-c")
    assert host.slot_release("green") == "1-a"


@pytest.mark.parametrize("broken", [refuse, crash])
def test_a_restart_that_fails_says_nothing_of_the_release(
    host: Layout, monkeypatch: pytest.MonkeyPatch, broken: Callable[[], object]
) -> None:
    deploy(host, "1-a")
    break_step(monkeypatch, "prove its health", broken)
    with pytest.raises(DeployError):
        deploy(host, "1-a", force="restart")
    found = state.load(host.state_file)
    assert found.history[-1]["status"] == REFUSED
    assert found.good_releases() == ["1-a"]
    assert serving(host) == ("blue", "1-a")


def test_a_rollback_that_fails_says_nothing_of_a_release_that_has_served_well(
    host: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while the database is down: the next rollback is to find it again."""
    deploy(host, "1-a")
    deploy(host, "2-b")
    with monkeypatch.context() as patched:
        break_step(patched, "prove its health", refuse)
        with pytest.raises(DeployError):
            deploy(host, "1-a", leave=True)
        with pytest.raises(DeployError):
            deploy(host, "3-c")
    found = state.load(host.state_file)
    assert [event["status"] for event in found.history[-2:]] == [REFUSED, FAILED]
    assert found.good_releases() == ["2-b", "1-a"]
    assert serving(host) == ("green", "2-b")


def test_a_plan_is_rejected_for_what_the_rollout_would_be(
    host: Layout, stage: Callable[..., None]
) -> None:
    deploy(host, "1-a")
    shutil.rmtree(host.release("2-b") / "venv")
    with pytest.raises(DeployError, match="uvicorn is not installed in release 2-b"):
        checked(host, "2-b", RECORDED)


def test_an_undo_waits_as_long_as_what_is_at_work_may_take(app: Layout) -> None:
    assert rollout.remaining_seconds(app) == 300
    health = {"path": "/", "timeout_seconds": 180, "stable_seconds": 5}
    recorded = {**RECORDED, "health": health, "drain_seconds": 600}
    operation = {**cut_off("prove its health", "1-a", "green"), "settings": recorded}
    state.save(app.state_file, State(operation=operation))
    proxy = rollout.Settings.read(recorded).access.timeout_seconds
    assert rollout.remaining_seconds(app) == 300 + 180 + 5 + 600 + 3 + proxy


def set_environment(app: Layout, text: str) -> None:
    """Writes the environment that the next rollout takes."""
    (app.configuration / "environment").write_text(text, encoding="utf-8")


def started_with(app: Layout, slot: str) -> str:
    """Returns the environment that a slot was started with."""
    return (app.slot_configuration(slot) / "environment").read_text(encoding="utf-8")


def test_a_rollback_to_the_other_slot_brings_back_all_that_it_had(host: Layout) -> None:
    set_environment(host, 'A="old"\n')
    deploy(host, "1-a")
    set_environment(host, 'A="new"\n')
    changed = {**QUICK, "keep_releases": 3}
    deploy(host, "2-b", recorded=changed)
    deploy(host, "1-a", recorded=changed, leave=True)
    assert (serving(host), started_with(host, "blue")) == (("blue", "1-a"), 'A="old"\n')
    found = state.load(host.state_file)
    assert (found.settings, found.former_settings) == (QUICK, changed)
    assert found.good_releases() == ["1-a"]


def test_a_deploy_of_a_former_release_brings_what_is_new(host: Layout) -> None:
    """Only a rollback goes back to the former environment."""
    set_environment(host, 'A="old"\n')
    deploy(host, "1-a")
    deploy(host, "2-b")
    set_environment(host, 'A="new"\n')
    deploy(host, "1-a")
    assert (serving(host), started_with(host, "blue")) == (("blue", "1-a"), 'A="new"\n')


def test_a_rollback_after_a_deploy_that_failed_does_not_bring_its_units(
    host: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_environment(host, 'A="old"\n')
    deploy(host, "1-a")
    deploy(host, "2-b")
    set_environment(host, 'A="broken"\n')
    units = {**RECORDED["units"], "service": "[Service]\nBroken=1\n"}
    with monkeypatch.context() as context:
        context.setattr(slots, "prove", lambda *_arguments: refuse())
        with pytest.raises(DeployError):
            deploy(host, "3-c", recorded={**QUICK, "units": units})
    deploy(host, "1-a", leave=True)
    assert (serving(host), started_with(host, "blue")) == (("blue", "1-a"), 'A="old"\n')
    assert host.unit_file("blue", "service").read_text(encoding="utf-8") == "[Service]\n"
    # put back as private as it was
    secrets = host.slot_configuration("blue") / "secrets"
    assert secrets.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("way", ["undo", "rollback"])
def test_the_way_back_has_the_former_limit_of_memory(host: Layout, way: str) -> None:
    """The new limit may be why it failed."""
    deploy(host, "1-a")
    units = {**RECORDED["units"], "slice": "[Slice]\nMemoryMax=16M\n"}
    changed = {**QUICK, "units": units}
    deploy(host, "2-b", recorded=changed)
    if way == "undo":
        undo(host, "2-b")
    else:
        deploy(host, "1-a", recorded=changed, leave=True)
    assert serving(host) == ("blue", "1-a")
    assert host.slice_file.read_text(encoding="utf-8") == "[Slice]\n"


# --- at the balancer's view -----------------------------------------------------------------------

DRAINED = {**QUICK, "balancer_drain_seconds": 4}


@pytest.fixture
def waited(host: Layout, monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, bool]]:
    """Each wait of a rollout: for how long, and whether the balancer was told by then."""
    found: list[tuple[float, bool]] = []
    monkeypatch.setattr(
        rollout.time, "sleep", lambda seconds: found.append((seconds, drained(host)))
    )
    return found


def drained(app: Layout) -> bool:
    """Whether a balancer is told that the host is not ready."""
    return app.draining_file.exists()


def test_a_host_leaves_the_balancer_before_anything_else_and_returns_when_it_is_confirmed(
    host: Layout, waited: list[tuple[float, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(host, "1-a", recorded=DRAINED)
    # nothing served, so no balancer asks
    assert waited == []
    during: dict[str, bool] = {}
    for step in STEPS:
        break_step(monkeypatch, step, lambda step=step: during.update({step: drained(host)}))
    steps = [one["name"] for one in deploy(host, "2-b", recorded=DRAINED)["steps"]]
    assert waited == [(4, True)]
    assert during == dict.fromkeys(STEPS, True)
    assert steps[0] == rollout.LEAVE_BALANCER
    assert steps[1 + len(STEPS)] == rollout.RETURN_TO_BALANCER
    assert steps[2 + len(STEPS) :] == [rollout.DRAIN_OLD, rollout.STOP_OLD]
    assert not drained(host)


@pytest.mark.parametrize("others_serve", [True, False])
@pytest.mark.parametrize("seconds", [0, 4])
def test_a_balancer_that_nobody_asked_for_or_that_has_no_other_host_is_not_told(
    host: Layout, waited: list[tuple[float, bool]], seconds: int, others_serve: bool
) -> None:
    recorded = {**QUICK, "balancer_drain_seconds": seconds}
    deploy(host, "1-a", recorded=recorded)
    deploy(host, "2-b", recorded=recorded, others_serve=others_serve)
    assert waited == ([(4, True)] if seconds and others_serve else [])
    # a rollback from another batch may tell it
    assert state.load(host.state_file).settings == recorded


@pytest.mark.parametrize("broken", [refuse, crash, end])
@pytest.mark.parametrize("step", STEPS)
def test_a_host_returns_to_the_balancer_whatever_fails(
    host: Layout,
    waited: list[tuple[float, bool]],
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    broken: Callable[[], object],
) -> None:
    deploy(host, "1-a", recorded=DRAINED)
    break_step(monkeypatch, step, broken)
    with pytest.raises(DeployError):
        deploy(host, "2-b", recorded=DRAINED)
    assert waited[0] == (4, True)
    assert not drained(host)


def test_a_host_that_is_ended_while_it_leaves_returns(
    host: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(host, "1-a", recorded=DRAINED)
    monkeypatch.setattr(rollout.time, "sleep", lambda _seconds: end())
    with pytest.raises(DeployError, match="leave the balancer"):
        deploy(host, "2-b", recorded=DRAINED)
    assert not drained(host)
    assert serving(host) == ("blue", "1-a")


def test_a_host_whose_run_was_killed_returns_with_the_next(host: Layout) -> None:
    deploy(host, "1-a")
    rollout.leave_balancer(host)
    rollout.recover(host, State(operation=cut_off(rollout.LEAVE_BALANCER, "1-a", "green")))
    assert not drained(host)


def test_hosts_that_go_back_together_do_not_leave_the_balancer(
    host: Layout, waited: list[tuple[float, bool]]
) -> None:
    deploy(host, "1-a", recorded=DRAINED)
    deploy(host, "2-b", recorded=DRAINED)
    waited.clear()
    assert undo(host, "2-b")["release"] == "1-a"
    assert waited == []


# --- back, because another host has failed --------------------------------------------------------


def undo(app: Layout, release: str, run: str = "") -> dict[str, Any]:
    """Takes a rollout back."""
    return rollout.undo(app, release, "failed on web2", "ann", run)


def statuses(app: Layout, release: str) -> list[str]:
    """Returns what the history says of a release, oldest first."""
    history = state.load(app.state_file).history
    return [event["status"] for event in history if event["release"] == release]


def test_a_host_that_has_moved_goes_back_to_all_that_it_served_with(host: Layout) -> None:
    set_environment(host, 'A="old"\n')
    deploy(host, "1-a")
    set_environment(host, 'A="new"\n')
    units = {**RECORDED["units"], "service": "[Service]\nNew=1\n"}
    deploy(host, "2-b", recorded={**QUICK, "units": units})
    result = undo(host, "2-b")
    assert serving(host) == ("blue", "1-a")
    told = {key: result[key] for key in ("changed", "release", "previous", "slot", "reasons")}
    assert told == {
        "changed": True,
        "release": "1-a",
        "previous": "2-b",
        "slot": "blue",
        "reasons": ["failed on web2"],
    }
    # not with what the failed deploy has brought
    assert started_with(host, "blue") == 'A="old"\n'
    assert host.unit_file("blue", "service").read_text(encoding="utf-8") == "[Service]\n"
    found = state.load(host.state_file)
    assert found.settings == QUICK
    assert found.good_releases() == ["1-a"]
    assert found.status("2-b") == FAILED
    assert found.operation == {}


def test_an_undo_is_done_once(host: Layout) -> None:
    deploy(host, "1-a")
    deploy(host, "2-b")
    undo(host, "2-b")
    before = state.load(host.state_file)
    again = undo(host, "2-b")
    assert (again["changed"], again["release"], again["slot"]) == (False, "1-a", "blue")
    assert state.load(host.state_file) == before


def test_a_host_that_has_not_moved_only_learns_that_the_release_failed(
    host: Layout, asked_systemd: list[tuple[str, ...]]
) -> None:
    deploy(host, "1-a")
    asked_systemd.clear()
    for _time in range(2):
        result = undo(host, "2-b")
        assert (result["changed"], result["release"], result["previous"]) == (False, "1-a", None)
    assert asked_systemd == []
    assert serving(host) == ("blue", "1-a")
    assert statuses(host, "2-b") == [FAILED]
    assert statuses(host, "1-a") == [GOOD]


def test_the_host_that_failed_has_nothing_to_undo(
    host: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(host, "1-a")
    break_step(monkeypatch, "prove its health", refuse)
    with pytest.raises(DeployError):
        deploy(host, "2-b")
    assert undo(host, "2-b")["changed"] is False
    assert serving(host) == ("blue", "1-a")
    # the cause that it noted itself is not hidden by a second event
    assert statuses(host, "2-b") == [FAILED]
    assert "no answer" in state.load(host.state_file).history[-1]["reason"]


def test_a_host_that_has_moved_to_its_first_release_serves_nothing_again(
    host: Layout, asked_systemd: list[tuple[str, ...]]
) -> None:
    deploy(host, "1-a")
    asked_systemd.clear()
    result = undo(host, "1-a")
    assert (result["changed"], result["release"], result["previous"]) == (True, None, "1-a")
    assert serving(host) == ("blue", None)
    assert stopped(asked_systemd) == {"blue"}
    assert state.load(host.state_file).good_releases() == []


def test_a_host_without_the_app_is_left_so(app: Layout) -> None:
    result = undo(app, "1-a")
    assert (result["changed"], result["release"]) == (False, None)
    assert state.load(app.state_file).status("1-a") == FAILED


def test_a_restart_is_undone_with_the_former_environment(host: Layout) -> None:
    set_environment(host, 'A="old"\n')
    deploy(host, "1-a")
    set_environment(host, 'A="new"\n')
    deploy(host, "1-a", force="restart")
    assert serving(host) == ("green", "1-a")
    result = undo(host, "1-a")
    assert (result["changed"], result["release"], result["slot"]) == (True, "1-a", "blue")
    assert started_with(host, "blue") == 'A="old"\n'
    # the environment was wrong, not the release
    assert state.load(host.state_file).good_releases() == ["1-a"]
    assert FAILED not in statuses(host, "1-a")


def test_a_restart_that_failed_says_nothing_of_the_release_when_it_is_concluded(
    host: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(host, "1-a")
    break_step(monkeypatch, "prove its health", refuse)
    with pytest.raises(DeployError):
        deploy(host, "1-a", force="restart")
    assert undo(host, "1-a")["changed"] is False
    assert state.load(host.state_file).good_releases() == ["1-a"]


@pytest.mark.parametrize("releases", [["1-a"], ["1-a", "2-b"]])
def test_a_rollout_of_a_former_run_is_not_undone(host: Layout, releases: list[str]) -> None:
    """A restart, or a deploy to one more host, that failed before the turn of this one."""
    for release in releases:
        deploy(host, release)
    before = serving(host)
    assert undo(host, releases[-1], "a later run")["changed"] is False
    assert serving(host) == before
    assert state.load(host.state_file).good_releases() == releases[::-1]


def test_a_rollback_is_undone_to_the_release_that_was_left(host: Layout) -> None:
    """As it was: the release that was to be left serves on all hosts, and is good."""
    deploy(host, "1-a")
    deploy(host, "2-b")
    deploy(host, "1-a", leave=True)
    assert statuses(host, "2-b") == [GOOD, LEFT]
    assert state.load(host.state_file).history[-2]["reason"]
    undo(host, "1-a")
    assert serving(host) == ("green", "2-b")
    assert state.load(host.state_file).good_releases() == ["2-b"]


def lose_python(app: Layout, release: str) -> None:
    """Takes the interpreter of a release away."""
    (app.release(release) / "venv" / "bin" / "python").unlink()


@pytest.mark.parametrize("way", ["rollback", "restart", "undo"])
def test_a_release_whose_python_is_gone_is_rejected_before_anything_is_touched(
    host: Layout, asked_systemd: list[tuple[str, ...]], way: str
) -> None:
    deploy(host, "1-a")
    deploy(host, "2-b")
    release = "2-b" if way == "restart" else "1-a"
    lose_python(host, release)
    asked_systemd.clear()
    before = state.load(host.state_file)
    calls = {
        "rollback": lambda: deploy(host, "1-a", leave=True),
        "restart": lambda: deploy(host, "2-b", force="restart"),
        "undo": lambda: undo(host, "2-b"),
    }
    with pytest.raises(DeployError, match=f"release {release} cannot start.+site playbook"):
        calls[way]()
    assert serving(host) == ("green", "2-b")
    assert asked_systemd == []
    assert state.load(host.state_file) == before


def test_a_release_that_was_built_again_is_rolled_out(host: Layout) -> None:
    deploy(host, "1-a")
    host.release("1-a").rename(host.release("1-a.python-gone"))
    point(host, "blue", "1-a.python-gone")
    shutil.copytree(host.release("2-b"), host.release("1-a"), symlinks=True)
    result = deploy(host, "1-a")
    assert result["reasons"] == ["release 1-a is built again, as its Python was gone"]
    assert serving(host) == ("green", "1-a")


def test_the_plan_says_that_what_is_live_is_built_again(host: Layout) -> None:
    deploy(host, "1-a")
    lose_python(host, "1-a")
    told = deploy(host, "1-a", check_mode=True)
    assert told["reasons"] == ["release 1-a is built again, as its Python was gone"]


def test_what_is_no_longer_in_the_other_slot_cannot_be_undone(
    host: Layout, asked_systemd: list[tuple[str, ...]]
) -> None:
    deploy(host, "1-a")
    deploy(host, "2-b")
    point(host, "blue", "3-c")
    asked_systemd.clear()
    before = state.load(host.state_file)
    with pytest.raises(DeployError, match="slot blue has 3-c, not 1-a") as caught:
        undo(host, "2-b")
    assert "rollback playbook" in caught.value.message
    assert serving(host) == ("green", "2-b")
    assert asked_systemd == []
    assert state.load(host.state_file) == before


@pytest.mark.parametrize("broken", [refuse, crash])
def test_where_the_way_back_fails_what_serves_goes_on(
    host: Layout,
    asked_systemd: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
    broken: Callable[[], object],
) -> None:
    deploy(host, "1-a")
    deploy(host, "2-b")
    asked_systemd.clear()
    break_step(monkeypatch, "prove its health", broken)
    with pytest.raises(DeployError, match=r"release 1-a was refused") as caught:
        undo(host, "2-b")
    assert "release 2-b was not touched and serves in slot green" in caught.value.message
    assert serving(host) == ("green", "2-b")
    assert stopped(asked_systemd) == {"blue"}
    assert state.load(host.state_file).operation == {}


def test_a_rollout_that_was_recovered_can_be_undone(host: Layout) -> None:
    """Killed after the switch, run again, and then another host failed."""
    deploy(host, "1-a")
    point(host, "green", "2-b")
    host.switch_file.touch()
    current = state.load(host.state_file)
    current.operation = cut_off("confirm through the proxy", "1-a", "green")
    rollout.recover(host, current)
    assert undo(host, "2-b")["release"] == "1-a"
    assert serving(host) == ("blue", "1-a")


def test_a_rollout_that_was_cut_off_after_the_switch_is_undone(host: Layout) -> None:
    """The host that failed is the one whose run was killed: it serves what is to be left."""
    deploy(host, "1-a")
    point(host, "green", "2-b")
    host.switch_file.touch()
    current = state.load(host.state_file)
    current.operation = cut_off("confirm through the proxy", "1-a", "green")
    state.save(host.state_file, current)
    assert undo(host, "2-b")["release"] == "1-a"
    assert serving(host) == ("blue", "1-a")


# --- ended by a signal ---------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_is_an_error_that_is_put_right(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(DeployError, match=f"ended by {number.name}"), rollout.ended_by_signals():
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


# --- while an app moves from one proxy to the other -----------------------------------------------


@pytest.fixture
def turned(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Which proxy was turned to which slot."""
    found: list[tuple[str, str]] = []

    class Driver:
        def __init__(self, provider: str) -> None:
            self.provider = provider

        def refuse_switch(self, layout: Layout, own: Sequence[str] = ()) -> None: ...

        def switch(self, layout: Layout, slot: str) -> float:
            found.append((self.provider, slot))
            caddy.turn_switch(layout, slot)
            return 0.5

        def ask(self, layout: Layout, *_arguments: object) -> Answer:
            return Answer(True, "", layout.serving_slot())

    monkeypatch.setattr(rollout.proxies, "driver", Driver)
    return found


TO_TRAEFIK = {**QUICK, "proxy": {"provider": "traefik", "domain": "blog.example.com"}}


def test_a_move_tells_for_how_long_nobody_had_the_ports(
    host: Layout, turned: list[tuple[str, str]]
) -> None:
    assert deploy(host, "1-a")["proxy_gap_seconds"] == 0.5
    deploy(host, "2-b", recorded=TO_TRAEFIK)
    assert turned == [("caddy", "blue"), ("traefik", "green")]
    # what served before is gone back to as it was, its proxy included
    deploy(host, "1-a", leave=True)
    assert turned[-1] == ("caddy", "blue")


def test_a_move_that_fails_gives_the_ports_back_to_the_former_proxy(
    host: Layout, turned: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(host, "1-a")
    break_step(monkeypatch, "confirm through the proxy", refuse)
    with pytest.raises(DeployError, match="was put back and serves in slot blue"):
        deploy(host, "2-b", recorded=TO_TRAEFIK)
    assert turned[1:] == [("traefik", "green"), ("caddy", "blue")]


@pytest.mark.parametrize("way", ["rollback", "check", "undo"])
def test_a_way_back_that_would_take_other_apps_offline_is_refused_before_anything_is_touched(
    host: Layout,
    turned: list[tuple[str, str]],
    asked_systemd: list[tuple[str, ...]],
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    deploy(host, "1-a")
    deploy(host, "2-b", recorded=TO_TRAEFIK)

    def refuse_switch(driver: Any, _layout: Layout, _own: Any = ()) -> None:
        if driver.provider == "caddy":
            raise DeployError("traefik serves other sites too")

    monkeypatch.setattr(rollout.proxies.driver, "refuse_switch", refuse_switch)
    asked_systemd.clear()
    back: dict[str, Any] = {"recorded": TO_TRAEFIK, "leave": True, "check_mode": way == "check"}
    with pytest.raises(DeployError, match=r"^traefik serves other sites too"):
        _ = undo(host, "2-b") if way == "undo" else deploy(host, "1-a", **back)
    assert (asked_systemd, serving(host)) == ([], ("green", "2-b"))
    assert turned[-1] == ("traefik", "green")


def test_an_app_that_comes_to_the_other_proxy_meanwhile_is_not_taken_offline(
    host: Layout, turned: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(host, "1-a")
    answers = iter([None, DeployError("caddy serves other sites too")])

    def refuse_switch(_driver: Any, _layout: Layout, _own: Any = ()) -> None:
        error = next(answers)
        if error:
            raise error

    monkeypatch.setattr(rollout.proxies.driver, "refuse_switch", refuse_switch)
    with pytest.raises(DeployError, match="release 1-a was not touched"):
        deploy(host, "2-b", recorded=TO_TRAEFIK)
    # the former proxy had nothing taken from it, so nothing is turned back
    assert turned == [("caddy", "blue")]


@pytest.mark.parametrize(
    ("switched", "expected"), [(False, ("caddy", "blue")), (True, ("traefik", "green"))]
)
def test_a_move_that_was_killed_ends_with_the_proxy_that_can_ask_the_slot(
    app: Layout,
    asked_systemd: list[tuple[str, ...]],
    turned: list[tuple[str, str]],
    switched: bool,
    expected: tuple[str, str],
) -> None:
    point(app, "blue", "1-a")
    point(app, "green", "2-b")
    if switched:
        app.switch_file.touch()
    operation = {**cut_off("switch the proxy", "1-a", "green"), "settings": TO_TRAEFIK}
    rollout.recover(app, State(operation=operation, settings=RECORDED))
    assert turned == [expected]


# --- the site -------------------------------------------------------------------------------------

MAIN_FILE = "/etc/caddy/Caddyfile"
SITE_FILE = "/etc/caddy/sites/blog.caddy"


def site_at(domain: str, main: str = "main\n") -> sites.Site:
    """A site with one domain."""
    text = f"(asgi-blog) {{\n}}\n{domain} {{\n\timport asgi-blog\n}}\n"
    return sites.Site("caddy", {MAIN_FILE: main, SITE_FILE: text}, [], "/usr/bin/caddy")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The domains of each site that Caddy was configured with."""
    told: list[set[str]] = []

    def install(_app: Layout, site: sites.Site, validate_only: bool = False) -> bool:
        if validate_only:
            return True
        told.append({domain for domain, _path in caddy.addresses(site.files[SITE_FILE])})
        return True

    monkeypatch.setattr(sites, "install", install)
    return told


def deploy_and_stage(host: Layout) -> None:
    """Has 1-a serve at old.test, and stages new.test."""
    sites.record(host, site_at("old.test"), waiting=False)
    deploy(host, "1-a")
    sites.record(host, site_at("new.test"), waiting=True)


def test_a_rollout_adds_its_site_and_a_good_run_removes_the_former_addresses(
    host: Layout, installed: list[set[str]]
) -> None:
    sites.record(host, site_at("old.test"), waiting=False)
    deploy(host, "1-a")
    assert installed.pop() == {"old.test"}
    installed.clear()
    sites.record(host, site_at("new.test"), waiting=True)
    result = deploy(host, "2-b", run="of a fleet")
    assert result["to_conclude"]
    assert installed == [{"old.test", "new.test"}]
    # the staged one again: nothing is to be done
    assert "site" not in deploy(host, "2-b", run="of a fleet")["reasons"]
    assert rollout.conclude(host) == {"changed": True}
    assert installed[-1] == {"new.test"}


def test_a_site_alone_is_a_reason_and_without_a_run_concluded_at_once(
    host: Layout, installed: list[set[str]]
) -> None:
    sites.record(host, site_at("old.test"), waiting=False)
    deploy(host, "1-a")
    deploy(host, "2-b")
    installed.clear()
    sites.record(host, site_at("new.test"), waiting=True)
    result = deploy(host, "2-b")
    assert "site" in result["reasons"]
    assert not result["to_conclude"]
    assert installed == [{"old.test", "new.test"}, {"new.test"}]


@pytest.mark.parametrize("step", ["switch the proxy", "confirm through the proxy"])
def test_a_failed_rollout_restores_the_site(
    host: Layout, installed: list[set[str]], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    deploy_and_stage(host)
    break_step(monkeypatch, step, refuse)
    with pytest.raises(DeployError, match="the proxy is configured as before"):
        deploy(host, "2-b")
    assert installed[-2:] == [{"old.test", "new.test"}, {"old.test"}]
    assert sites.read(host.slot_site("blue")) == site_at("old.test")


def test_a_rollback_and_an_undo_bring_the_site_of_their_release(
    host: Layout, installed: list[set[str]]
) -> None:
    deploy_and_stage(host)
    deploy(host, "2-b", run="of a fleet")
    rollout.undo(host, "2-b", "failed on web2", "ann", run="of a fleet")
    assert serving(host) == ("blue", "1-a")
    assert installed[-2:] == [{"old.test", "new.test"}, {"old.test"}]
    # what waits is of the deploy that failed: a restart leaves it alone
    result = deploy(host, "1-a", force="restart", of_variables=False)
    assert "site" not in result["reasons"]
    assert installed[-1] == {"old.test"}


def test_a_rollback_whose_site_is_not_taken_up_any_more_is_rejected_before_anything_starts(
    host: Layout, installed: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The domain may be another app's by now."""
    deploy_and_stage(host)
    deploy(host, "2-b")
    validated: list[set[str]] = []

    def install(_app: Layout, site: sites.Site, validate_only: bool = False) -> bool:
        assert validate_only
        validated.append({domain for domain, _path in caddy.addresses(site.files[SITE_FILE])})
        raise DeployError("old.test belongs to the site shop too. Nothing was changed.")

    monkeypatch.setattr(sites, "install", install)
    for check_mode in (True, False):
        with pytest.raises(DeployError, match="belongs to the site shop too") as rejected:
            deploy(host, "1-a", leave=True, check_mode=check_mode)
        assert "1-a cannot be rolled back to" in str(rejected.value)
        assert "deploy its version again" in str(rejected.value)
    assert validated == [{"old.test", "new.test"}] * 2
    found = state.load(host.state_file)
    assert found.operation == {}
    assert [event["status"] for event in found.history] == [GOOD, GOOD]


def test_a_killed_rollout_leaves_the_site_of_what_serves(
    host: Layout, installed: list[set[str]]
) -> None:
    deploy_and_stage(host)
    current = state.load(host.state_file)
    current.operation = {**cut_off("switch the proxy", "1-a", "green"), "site": True}
    point(host, "green", "2-b")
    sites.write(host.slot_site("green"), site_at("new.test"))
    rollout.recover(host, current)
    assert installed[-1] == {"old.test"}
    # once it serves, the former addresses stay: the run may still be reverted
    current.operation = {**cut_off("confirm through the proxy", "1-a", "green"), "site": True}
    host.switch_file.touch()
    rollout.recover(host, current)
    assert installed[-1] == {"old.test", "new.test"}


def test_a_recovery_of_a_rollout_that_brought_no_site_leaves_the_proxy_alone(
    host: Layout, installed: list[set[str]]
) -> None:
    """The watch may not run the program of the proxy, and what is there may be of an operator."""
    sites.record(host, site_at("old.test"), waiting=False)
    deploy(host, "1-a")
    installed.clear()
    current = state.load(host.state_file)
    current.operation = {**cut_off("prove its health", "1-a", "green"), "site": False}
    rollout.recover(host, current)
    assert installed == []


@pytest.mark.parametrize("error", [DeployError("undone for shop"), PermissionError("no")])
def test_a_site_that_cannot_be_restored_does_not_keep_the_host_from_its_next_deploy(
    host: Layout, installed: list[set[str]], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    sites.record(host, site_at("old.test"), waiting=False)
    deploy(host, "1-a")

    def install(*_words: Any, **_options: Any) -> bool:
        raise error

    monkeypatch.setattr(sites, "install", install)
    current = state.load(host.state_file)
    current.operation = {**cut_off("switch the proxy", "1-a", "green"), "site": True}
    told = rollout.recover(host, current)
    assert f"but the proxy is not configured for it: {error}" in told
    assert state.load(host.state_file).operation == {}
    assert "could not be removed" in rollout.conclude(host)["warnings"][0]


def test_check_mode_does_not_take_the_site_of_a_deploy_that_has_failed(
    host: Layout, installed: list[set[str]]
) -> None:
    sites.record(host, site_at("old.test"), waiting=False)
    deploy(host, "1-a")
    sites.record(host, site_at("failed.test"), waiting=True)
    assert "site" not in deploy(host, "1-a", check_mode=True)["reasons"]
    assert "site" in deploy(host, "1-a", check_mode=True, site_changes=True)["reasons"]


def test_a_failed_rollout_restores_what_the_sites_shared_before_it(
    host: Layout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also what another app has written there since this one was deployed."""
    told: list[sites.Site] = []
    monkeypatch.setattr(sites, "install", lambda _app, site: told.append(site) or True)
    main = tmp_path / "Caddyfile"
    monkeypatch.setattr(caddy.Caddy, "SHARED_FILES", (main,))

    def site_with(text: str) -> sites.Site:
        found = site_at("blog.test")
        return dataclasses.replace(found, files={**found.files, str(main): text})

    sites.record(host, site_with("of the first deploy"), waiting=False)
    deploy(host, "1-a")
    main.write_text("of another app")
    sites.record(host, site_with("of the second deploy"), waiting=True)
    break_step(monkeypatch, "confirm through the proxy", refuse)
    with pytest.raises(DeployError):
        deploy(host, "2-b")
    assert told[-2].files[str(main)] == "of the second deploy"
    assert told[-1].files[str(main)] == "of another app"

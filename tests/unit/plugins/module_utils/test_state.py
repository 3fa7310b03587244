"""What a host remembers of an app."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import state
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.state import (
    FAILED,
    GOOD,
    LEFT,
    REFUSED,
    State,
)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    saved = State(
        history=[{"release": "1-a", "status": GOOD, "reason": "größer"}],
        settings={"instances": 2, "units": {"service": "[Service]\n"}},
        former_settings={"instances": 1},
        operation={"step": "start the slot"},
    )
    state.save(tmp_path / "state.json", saved)
    assert state.load(tmp_path / "state.json") == saved
    # settings may hold what an operator would not show to everyone
    assert (tmp_path / "state.json").stat().st_mode & 0o777 == 0o640


def test_a_state_without_former_settings_is_read(tmp_path: Path) -> None:
    """The first version wrote none; its hosts are deployed to like all others."""
    values = {"format": 1, "history": [], "settings": {"instances": 2}, "operation": {}}
    (tmp_path / "state.json").write_text(json.dumps(values), encoding="utf-8")
    assert state.load(tmp_path / "state.json") == State(settings={"instances": 2})


def test_a_host_without_a_state_has_an_empty_one(tmp_path: Path) -> None:
    assert state.load(tmp_path / "state.json") == State()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"3",
        b"{}",
        b'{"format": 1}',
        b'{"format": "1", "history": [], "settings": {}, "operation": {}}',
        b"\xff\xfe",
    ],
)
def test_a_broken_state_is_refused_with_what_to_do(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "state.json"
    path.write_bytes(content)
    with pytest.raises(DeployError, match="move it away: only history is lost") as caught:
        state.load(path)
    assert str(path) in caught.value.message


def test_a_state_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    values = {"format": state.FORMAT + 1, "history": [], "settings": {}, "operation": {}}
    path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(DeployError, match="newer version") as caught:
        state.load(path)
    assert "move it away" not in caught.value.message


@pytest.mark.parametrize(
    ("events", "good"),
    [
        ([], []),
        ([("a", GOOD)], ["a"]),
        ([("a", GOOD), ("b", GOOD)], ["b", "a"]),
        ([("a", GOOD), ("b", GOOD), ("a", GOOD)], ["a", "b"]),
        ([("a", GOOD), ("b", FAILED)], ["a"]),
        ([("a", GOOD), ("b", FAILED), ("b", GOOD)], ["b", "a"]),
        # a good one that failed when it was deployed again is not one to go back to
        ([("a", GOOD), ("b", GOOD), ("a", FAILED)], ["b"]),
        # a restart that failed says nothing of the release, which serves on
        ([("a", GOOD), ("b", GOOD), ("b", REFUSED)], ["b", "a"]),
        ([("a", GOOD), ("b", FAILED), ("b", REFUSED)], ["a"]),
        ([("a", GOOD), ("b", GOOD), ("b", LEFT), ("b", REFUSED)], ["a"]),
        ([("a", GOOD), ("b", REFUSED)], ["a"]),
        ([("a", GOOD), ("b", GOOD), ("b", LEFT), ("a", GOOD)], ["a"]),
        # deployed again on purpose after it was left
        ([("a", GOOD), ("b", GOOD), ("b", LEFT), ("a", GOOD), ("b", GOOD)], ["b", "a"]),
    ],
)
def test_good_releases_are_those_whose_last_word_is_good(
    events: list[tuple[str, str]], good: list[str]
) -> None:
    current = State()
    for release, status in events:
        current.record(release=release, status=status)
    assert current.good_releases() == good
    assert [release for release in good if current.status(release) != GOOD] == []


def test_an_unknown_release_has_no_status() -> None:
    assert State().status("a") == ""


@pytest.mark.parametrize("before", [GOOD, FAILED, LEFT])
def test_a_refused_rollout_leaves_a_release_its_status(before: str) -> None:
    current = State()
    current.record(release="a", status=REFUSED)
    assert current.status("a") == ""
    current.record(release="a", status=before)
    current.record(release="a", status=REFUSED)
    assert current.status("a") == before
    # it is told all the same
    assert [event["status"] for event in current.history] == [REFUSED, before, REFUSED]


def test_the_history_does_not_grow_for_ever() -> None:
    current = State()
    for number in range(state.KEPT_EVENTS + 5):
        current.record(release=str(number), status=GOOD)
    assert len(current.history) == state.KEPT_EVENTS
    assert current.history[-1]["release"] == str(state.KEPT_EVENTS + 4)
    assert "at" in current.history[-1]

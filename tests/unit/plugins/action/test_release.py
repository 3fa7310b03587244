"""What of a source a host gets to know, and what it may decide."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock
from urllib.parse import quote

import pytest
from ansible_collections.asgi.deploy.plugins.action import release
from ansible_collections.asgi.deploy.plugins.action.release import ActionModule
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.masking import MASK

PLAN = {"release": "1-a", "archive": "/nowhere/a.tar.gz", "commit": "a" * 40}
SECRET = "s3cret-token"
PASSWORD = "s3cret/token's-of-git"


def basic_auth(password: str) -> str:
    """Returns a password as git sends it."""
    return base64.b64encode(f"u:{password}".encode()).decode()


def asked(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], answer: dict[str, Any]
) -> dict[str, Any]:
    """Returns the arguments that the module gets, which answers so."""
    seen: list[dict[str, Any]] = []

    def execute(_self: ActionModule, _name: str, given: dict[str, Any], **_more: Any) -> Any:
        seen.append(dict(given))
        return dict(answer)

    monkeypatch.setattr(ActionModule, "_execute_module", execute)
    action = ActionModule(*(Mock() for _argument in range(6)))
    action._on_host(arguments, {}, arguments["source"].get("checkout") == "host")
    return seen[0]


@pytest.mark.parametrize("kind", ["git", "archive", "wheel"])
def test_credentials_of_the_controller_stay_there(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    source = {kind: "https://example.com/blog", "username": "u", "password": SECRET}
    given = asked(monkeypatch, {"name": "blog", "plan": PLAN, "source": source}, {"changed": False})
    assert SECRET not in str(given)
    assert given["plan"] == PLAN


def test_a_host_that_checks_out_gets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    source = {"git": "https://example.com/blog", "password": SECRET, "checkout": "host"}
    given = asked(monkeypatch, {"name": "blog", "plan": PLAN, "source": source}, {"changed": False})
    assert given["source"] == source


@pytest.mark.parametrize("version", ["main", "v1", "a" * 40])
def test_a_host_decides_what_a_branch_is(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    source = {"git": "https://example.com/blog", "version": version, "checkout": "host"}
    asked(monkeypatch, {"name": "blog", "source": source}, {"plan": PLAN})


def test_a_host_cannot_put_another_commit_in_the_place_of_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first host of a run plans for all."""
    source = {"git": "https://example.com/blog", "version": "b" * 40, "checkout": "host"}
    with pytest.raises(
        DeployError, match=f"the first host planned commit {'a' * 40}, not {'b' * 40}"
    ):
        asked(monkeypatch, {"name": "blog", "source": source}, {"plan": PLAN})


@pytest.mark.parametrize("form", [str, repr, quote, basic_auth])
@pytest.mark.parametrize("place", ["source", "index", "extra_indexes"])
def test_a_password_is_in_no_error_of_the_controller(
    monkeypatch: pytest.MonkeyPatch, place: str, form: Callable[[str], str]
) -> None:
    """A server may send it back, and a trace of git shows the header with it."""

    def plan(*_arguments: Any) -> None:
        raise DeployError(f"git fetch failed: {form(PASSWORD)}")

    monkeypatch.setattr(release, "plan_here", plan)
    given = {"url": "https://example.com/blog", "username": "u", "password": PASSWORD}
    action = ActionModule(*(Mock() for _argument in range(6)))
    action._task.args = {"name": "blog", place: [given] if place == "extra_indexes" else given}
    action._task.async_val, action._task.check_mode = 0, False
    found = action.run(None, {})
    assert found["failed"] is True
    assert MASK in found["msg"]
    assert form(PASSWORD)[8:-4] not in found["msg"]

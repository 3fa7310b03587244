"""Whatever a module returns, no secret of its app and none of its options is in it."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from ansible.module_utils._internal import _traceback
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.testing import patch_module_args
from ansible_collections.asgi.deploy.plugins.module_utils import results
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout

SECRET = "a-secret-of-the-app"
TOKEN = "a-token-of-the-options"
ARGUMENTS = {
    "name": {"type": "str"},
    "root": {"type": "path"},
    "units": {"type": "dict", "default": {}},
    "credentials": {"type": "dict", "default": {}},
    "note": {"type": "str", "default": ""},
    "release": {"type": "str"},
    "plan": {"type": "dict", "default": {}},
    "source": {"type": "dict", "options": {"password": {"type": "str", "no_log": True}}},
}
#: What Ansible sends with -vvv.
VERBOSE = {"_ansible_inject_invocation": True}


@pytest.fixture
def run(
    app: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs a module of the app, whose secret is on the host; returns what it writes."""
    monkeypatch.setattr(results, "layout_from", lambda _params: app)
    # as ANSIBLE_DISPLAY_TRACEBACK=error has it
    monkeypatch.setattr(_traceback, "_is_traceback_enabled", lambda _event: True)
    # in the process of the tests they go to the display of a controller
    warnings: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    (app.configuration / "secrets").write_text(f'KEY="{SECRET}"\n', encoding="utf-8")

    def call(act: Callable[[], dict[str, Any]], **params: Any) -> str:
        with (
            patch_module_args({"name": "blog", **params, **VERBOSE}),
            pytest.raises(SystemExit),
        ):
            results.finish(AnsibleModule(argument_spec=ARGUMENTS), act)
        return "\n".join([capsys.readouterr().out, *warnings])

    return call


def test_a_result_is_masked_with_all_that_is_in_it(run: Callable[..., str]) -> None:
    text = run(
        lambda: {
            "changed": True,
            "app": {"history": [{"reason": f"bad {SECRET}"}], "count": 2},
            "warnings": [f"a warning with {SECRET}"],
        }
    )
    found = json.loads(text.splitlines()[1])
    assert SECRET not in text
    assert found["app"] == {"history": [{"reason": "bad ********"}], "count": 2}
    assert "a warning with ********" in text
    assert (found["changed"], "failed" in found) == (True, False)


def rejected() -> NoReturn:
    """Fails as this collection does."""
    try:
        raise ValueError(f"{SECRET!r} is no URL")
    except ValueError as error:
        raise DeployError(f"rejected: {error}", held={"purpose": SECRET}) from error


def full() -> NoReturn:
    """Fails as a host does."""
    raise OSError(28, f"No space left for {SECRET}")


def unexpected() -> NoReturn:
    """Fails as nobody has thought of; Ansible would show the error and its causes as they are."""
    try:
        rejected()
    except DeployError as error:
        raise KeyError(f"no {SECRET}") from error


@pytest.mark.parametrize("act", [rejected, full, unexpected])
def test_an_error_is_masked_with_its_traceback(run: Callable[..., str], act: Any) -> None:
    text = run(act)
    found = json.loads(text)
    assert SECRET not in text
    assert found["failed"] is True
    assert "********" in found["msg"]


def test_an_unexpected_error_keeps_its_traceback(run: Callable[..., str]) -> None:
    found = json.loads(run(unexpected))
    assert found["msg"] == "KeyError: 'no ********'"
    assert "in unexpected" in found["exception"]


def test_options_are_masked_also_in_encoded_form(run: Callable[..., str]) -> None:
    encoded = base64.b64encode(f"user:{TOKEN}".encode()).decode()
    text = run(
        lambda: {"msg": f"Authorization: Basic {encoded}"},
        source={"password": TOKEN},
        note=f"{encoded} {SECRET}",
    )
    assert encoded[8:-4] not in text
    assert SECRET not in text
    assert "invocation" in json.loads(text)


def test_secrets_that_a_module_removes_or_brings_are_masked(
    run: Callable[..., str], app: Layout
) -> None:
    def act() -> dict[str, Any]:
        (app.configuration / "secrets").write_text('KEY="another-secret"\n', encoding="utf-8")
        return {"msg": f"{SECRET} is another-secret now"}

    assert json.loads(run(act))["msg"] == "******** is ******** now"


@pytest.mark.parametrize("known_by", ["unit", "option"])
def test_a_credential_is_masked_before_its_unit_is_installed(
    run: Callable[..., str], tmp_path: Path, known_by: str
) -> None:
    path = tmp_path / "signing.pem"
    path.write_text("a-credential-of-the-app\n", encoding="utf-8")
    given: dict[str, Any] = {"credentials": {"signing.pem": str(path)}}
    if known_by == "unit":
        given = {"units": {"service": f"[Service]\nLoadCredential=signing.pem:{path}\n"}}
    text = run(lambda: {"msg": "bad a-credential-of-the-app"}, **given)
    assert json.loads(text)["msg"] == "bad ********"


def test_a_module_of_no_app_masks_its_options(run: Callable[..., str]) -> None:
    text = run(lambda: {"msg": f"bad {TOKEN!r}"}, name=None, source={"password": TOKEN})
    assert json.loads(text)["msg"] == "bad '********'"


def test_the_name_of_an_app_that_is_none_is_an_error_of_the_module(
    run: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_layout(_params: Any) -> NoReturn:
        raise DeployError("name: '../x' is not the name of an app")

    monkeypatch.setattr(results, "layout_from", no_layout)
    found = json.loads(run(lambda: dict(results.layout_from({})), name="../x"))
    assert found["msg"] == "name: '../x' is not the name of an app"


@pytest.mark.parametrize("known_by", ["release", "plan", "host"])
def test_the_id_of_a_release_stays_whole(
    run: Callable[..., str], app: Layout, stage: Callable[..., None], known_by: str
) -> None:
    """Other tasks go by it, and a version is no secret wherever it was written."""
    (app.configuration / "secrets").write_text('VERSION="1.10.0"\n', encoding="utf-8")
    given: dict[str, Any] = {"release": "1.10.0-abc"}
    if known_by == "plan":
        given = {"plan": {"release": "1.10.0-abc"}}
    if known_by == "host":
        stage("1.10.0-abc")
        given = {}
    assert json.loads(run(lambda: {"current": "1.10.0-abc"}, **given))["current"] == "1.10.0-abc"

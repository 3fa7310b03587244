"""What the module proxy_config makes of the result of a driver."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.asgi.deploy.plugins.modules import proxy_config

HASH = "$2y$10$abcdefghijklmnopqrstuuJ5Yx1mJxkAqbYq6lQ0iV1u5GJ8fV9eS"


class Driver:
    """One that takes a password away."""

    def configure(self, *_words: Any) -> dict[str, Any]:
        difference = {"before": f"anna {HASH}\n", "after": "", "before_header": "/etc/caddy/x"}
        return {"changed": True, "changes": [], "diff": [difference], "action": ""}


def test_the_hash_of_a_password_that_is_taken_away_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The variable is empty now, so Ansible does not know what to mask."""
    monkeypatch.setattr(proxy_config, "driver", lambda _provider: Driver())
    with (
        patch_module_args({"provider": "caddy", "_ansible_diff": True}),
        pytest.raises(SystemExit) as ended,
    ):
        proxy_config.main()
    assert ended.value.code == 0
    (difference,) = json.loads(capsys.readouterr().out)["diff"]
    assert "anna" in difference["before"]
    assert HASH not in difference["before"]

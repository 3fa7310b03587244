"""Environment and secrets on the host."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import environment
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout

TEXTS = {"environment": 'LEVEL="info"\n', "secrets": 'TOKEN="hidden"\n'}


@pytest.fixture(autouse=True)
def whoever_runs_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    """They need not be root."""
    own = environment.is_own

    def is_own(path: Path, mode: int) -> bool:
        assert path.stat().st_uid == os.geteuid()
        return own(path, mode) or path.stat().st_mode & 0o777 == mode

    monkeypatch.setattr(environment, "is_own", is_own)


def test_the_files_are_written_for_root_alone_and_named_without_values(app: Layout) -> None:
    app.configuration.rmdir()
    result = environment.write(app, TEXTS, False)
    assert result == {
        "changes": [str(app.configuration / name) for name in TEXTS],
        "variables": {"added": ["LEVEL", "TOKEN"], "changed": [], "removed": []},
    }
    assert app.configuration.stat().st_mode & 0o777 == 0o700
    for name, text in TEXTS.items():
        path = app.configuration / name
        assert path.read_text() == text
        assert path.stat().st_mode & 0o777 == 0o600
    assert environment.write(app, TEXTS, False)["changes"] == []


def test_what_differs_is_written(app: Layout) -> None:
    environment.write(app, TEXTS, False)
    (app.configuration / "secrets").chmod(0o644)
    app.configuration.chmod(0o755)
    result = environment.write(app, {**TEXTS, "environment": 'OTHER="x"\n'}, False)
    assert result["changes"] == [str(app.configuration / name) for name in TEXTS]
    assert result["variables"] == {"added": ["OTHER"], "changed": [], "removed": ["LEVEL"]}
    assert app.configuration.stat().st_mode & 0o777 == 0o700
    assert (app.configuration / "secrets").stat().st_mode & 0o777 == 0o600


def test_check_mode_writes_nothing(app: Layout) -> None:
    app.configuration.rmdir()
    assert len(environment.write(app, TEXTS, True)["changes"]) == len(TEXTS)
    assert not app.configuration.exists()

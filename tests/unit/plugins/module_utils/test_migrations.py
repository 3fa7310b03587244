"""Migrations, as far as no systemd is needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import migrations, systemd
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.files import link_atomic
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout


def test_heads_of_what_serves_and_of_what_is_to_serve(
    app: Layout, stage: Callable[..., None]
) -> None:
    assert migrations.heads(app, "2-b") == {"before": None, "after": None}
    stage("1-a", migration_heads=["0001"])
    link_atomic(app.slot_link("blue"), "../releases/1-a")
    assert migrations.heads(app, "2-b") == {"before": ["0001"], "after": None}
    stage("2-b", migration_heads=["0002", "0003"])
    assert migrations.heads(app, "2-b") == {"before": ["0001"], "after": ["0002", "0003"]}
    # an app without a tool that can tell
    stage("3-c")
    assert migrations.heads(app, "3-c")["after"] is None


def test_the_diff_of_the_unit(app: Layout) -> None:
    (told,) = migrations.unit_diff(app, "[Service]\n")
    assert (told["before"], told["after"]) == ("", "[Service]\n")
    assert told["after_header"].endswith("/blog-migrate@.service")
    app.migrate_unit_file.write_text("[Service]\n", encoding="utf-8")
    assert migrations.unit_diff(app, "[Service]\n") == []
    (told,) = migrations.unit_diff(app, "[Other]\n")
    assert (told["before"], told["after"]) == ("[Service]\n", "[Other]\n")


# --- a migration of an earlier run ---

UNITS = ("blog-migrate@1.0.0-abc.service", "blog-migrate@1.1.0-def.service")


def systemd_says(monkeypatch: pytest.MonkeyPatch, *states: Sequence[str]) -> None:
    """Lets systemd tell the states of the units, others each time it is asked."""
    answers = iter(states)

    def show(units: Sequence[str]) -> list[systemd.UnitStatus]:
        blocks = [
            f"Id={unit}\nActiveState={state}"
            for unit, state in zip(units, next(answers), strict=True)
        ]
        return systemd.parse_show("\n\n".join(blocks))

    monkeypatch.setattr(systemd, "loaded", lambda *_patterns: list(UNITS))
    monkeypatch.setattr(systemd, "show", show)


def test_no_migration_is_waited_for_where_none_runs(
    app: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemd_says(monkeypatch, ("inactive", "failed"))
    assert migrations.wait_for_running(app, 0) == []


def test_a_migration_of_an_earlier_run_is_waited_for(
    app: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemd_says(
        monkeypatch,
        ("activating", "inactive"),
        ("deactivating", "inactive"),
        ("failed", "inactive"),
    )
    assert migrations.wait_for_running(app, 60) == [UNITS[0]]


def test_the_wait_has_an_end_and_the_unit_is_left_alone(
    app: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemd_says(monkeypatch, ("inactive", "activating"))
    with pytest.raises(DeployError) as caught:
        migrations.wait_for_running(app, 0)
    assert f"still runs ({UNITS[1]})" in caught.value.message
    assert caught.value.message.endswith(f"systemctl stop {UNITS[1]}")


def test_the_record_is_where_the_unit_notes_that_it_has_succeeded(app: Layout) -> None:
    migrations.record(app, "1.0.0-abc", "ran here")
    path = app.root / "migrations" / "1.0.0-abc.json"
    assert path == app.migration_record("1.0.0-abc")
    assert json.loads(path.read_text())["how"] == "ran here"
    assert path.stat().st_mode & 0o777 == 0o600

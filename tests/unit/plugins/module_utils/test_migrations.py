"""Migrations, as far as no systemd is needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import migrations, systemd, units
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
    told, record = migrations.unit_diff(app, "[Service]\n", "[Unit]\n")
    assert (told["before"], told["after"]) == ("", "[Service]\n")
    assert told["after_header"].endswith("/blog-migrate@.service")
    assert (record["before"], record["after"]) == ("", "[Unit]\n")
    assert record["after_header"].endswith("/blog-migrated@.service")
    app.migrate_unit_file.write_text("[Service]\n", encoding="utf-8")
    app.migrated_unit_file.write_text("[Unit]\n", encoding="utf-8")
    assert migrations.unit_diff(app, "[Service]\n", "[Unit]\n") == []
    (told,) = migrations.unit_diff(app, "[Other]\n", "[Unit]\n")
    assert (told["before"], told["after"]) == ("[Service]\n", "[Other]\n")


# --- a migration of an earlier run ---

UNITS = ("blog-migrate@1.0.0-abc.service", "blog-migrate@1.1.0-def.service")


def systemd_says(monkeypatch: pytest.MonkeyPatch, *states: Sequence[str]) -> None:
    """Lets systemd tell the states of the units, others each time it is asked.

    `queued` is one that waits for another unit: inactive, with a job.
    """
    answers = iter(states)

    def show(units: Sequence[str]) -> list[systemd.UnitStatus]:
        blocks = [
            f"Id={unit}\nActiveState={state.replace('queued', 'inactive')}"
            f"\nJob={7 if state == 'queued' else ''}"
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


def test_a_record_that_is_not_made_yet_is_waited_for(
    app: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The migration has ended, and the unit that records it has not begun."""
    systemd_says(monkeypatch, ("inactive", "queued"), ("inactive", "activating"), ("inactive",) * 2)
    record = app.migrated_unit("1.0.0-abc")
    monkeypatch.setattr(systemd, "loaded", lambda *_patterns: [UNITS[0], record])
    assert migrations.wait_for_running(app, 60) == [UNITS[0]]


def test_a_migration_is_started_by_the_unit_that_records_it(
    app: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the one that failed, and both are stopped where systemd has not ended them."""
    called: list[tuple[str, ...]] = []

    def systemctl(*words: str, **_options: object) -> str:
        called.append(words)
        if words[0] == "start":
            raise DeployError("a dependency job failed")
        return ""

    systemd_says(monkeypatch, ("activating",))
    monkeypatch.setattr(systemd, "systemctl", systemctl)
    monkeypatch.setattr(systemd, "journal", lambda units, _since: f"of {' '.join(units)}")
    with pytest.raises(DeployError) as raised:
        migrations.run_unit(app, "1.0.0-abc", 1, 0)
    record = app.migrated_unit("1.0.0-abc")
    assert record == "blog-migrated@1.0.0-abc.service"
    assert ("start", record) in called
    assert ("stop", UNITS[0], record) in called
    assert f"of {UNITS[0]}" in raised.value.message


def test_the_wait_has_an_end_and_the_unit_is_left_alone(
    app: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemd_says(monkeypatch, ("inactive", "activating"))
    with pytest.raises(DeployError) as caught:
        migrations.wait_for_running(app, 0)
    assert f"still runs ({UNITS[1]})" in caught.value.message
    assert caught.value.message.endswith(f"systemctl stop {UNITS[1]}")


# --- the record ---

ONE = migrations.Target(
    migrations.command_digest("alembic upgrade head"),
    migrations.database_digest("postgresql://ann:secret@db.test/blog"),
)


@pytest.fixture
def run_units(
    app: Layout, stage: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Lets every unit succeed, as systemd would; returns the releases that they were for."""
    ran: list[str] = []

    def run_unit(layout: Layout, release: str, *_limits: float) -> None:
        ran.append(release)
        layout.migration_begun(release).rename(layout.migration_record(release))

    systemd_says(monkeypatch, *[("inactive", "inactive")] * 9)
    monkeypatch.setattr(systemd, "install_unit_files", lambda _files: None)
    monkeypatch.setattr(systemd, "journal", lambda *_words: "")
    monkeypatch.setattr(migrations, "run_unit", run_unit)
    stage("1-a")
    return ran


def test_the_record_is_where_the_unit_notes_that_it_has_succeeded(app: Layout) -> None:
    migrations.write_record(app, "1.0.0-abc", "ran here", ONE)
    path = app.root / "migrations" / "1.0.0-abc.json"
    assert path == app.migration_record("1.0.0-abc")
    assert app.migration_begun("1.0.0-abc") == path.with_suffix(".begun")
    found = json.loads(path.read_text())
    assert (found["how"], found["command"], found["database"]) == (
        "ran here",
        ONE.command,
        ONE.database,
    )
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_migration_runs_once_for_its_command_and_database(
    app: Layout, run_units: list[str]
) -> None:
    def migrate(target: migrations.Target, force: bool = False) -> int:
        migrations.migrate(app, "1-a", "", "", 1, target, force)
        return len(run_units)

    assert migrations.pending(app, "1-a", ONE) == "new"
    assert migrate(ONE) == migrate(ONE) == 1
    assert not app.migration_begun("1-a").exists()
    assert migrations.pending(app, "1-a", ONE) == ""
    corrected = replace(ONE, command=migrations.command_digest("alembic upgrade heads"))
    assert migrations.pending(app, "1-a", corrected) == "command"
    assert migrate(corrected) == migrate(corrected) == 2
    elsewhere = replace(corrected, database=migrations.database_digest("postgresql://db2.test/b"))
    assert migrations.pending(app, "1-a", elsewhere) == "database"
    assert migrate(elsewhere) == migrate(elsewhere) == 3
    assert migrations.pending(app, "1-a", elsewhere, force=True) == "forced"
    assert migrate(elsewhere, force=True) == 4
    # what is not known is not compared
    assert migrations.pending(app, "1-a", migrations.Target()) == ""


@pytest.mark.parametrize("text", ["", '{"at": "2026-11-22T14:00:00+00:00", "how": "ran here"}\n'])
def test_a_record_of_a_former_version_counts(app: Layout, text: str) -> None:
    path = app.migration_record("1-a")
    path.parent.mkdir()
    path.write_text(text)
    assert migrations.pending(app, "1-a", ONE) == ""
    assert migrations.pending(app, "1-a", ONE, force=True) == "forced"


def test_a_migration_of_a_killed_run_counts_for_its_own_command(
    app: Layout, run_units: list[str]
) -> None:
    migrations.write_record(app, "1-a", "ran here", ONE, begun=True)
    assert migrations.pending(app, "1-a", ONE) == "new"
    app.migration_begun("1-a").rename(app.migration_record("1-a"))
    migrations.migrate(app, "1-a", "", "", 1, ONE)
    assert run_units == []
    migrations.migrate(app, "1-a", "", "", 1, replace(ONE, command="another"))
    assert run_units == ["1-a"]


def test_a_migration_that_fails_is_not_noted(
    app: Layout, run_units: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_words: object) -> None:
        raise DeployError("failed")

    monkeypatch.setattr(migrations, "run_unit", fail)
    with pytest.raises(DeployError):
        migrations.migrate(app, "1-a", "", "", 1, ONE)
    assert migrations.pending(app, "1-a", ONE) == "new"


def test_a_command_is_its_words() -> None:
    assert migrations.command_digest(" python  -m x 'a b'") == migrations.command_digest(
        'python -m x "a b"'
    )
    assert migrations.command_digest("python -m x a b") != migrations.command_digest(
        "python -m x 'a b'"
    )
    assert migrations.command_digest("") == ""


SAME = [
    "postgresql://ann:secret@db.test/blog",
    "postgresql+psycopg://bob:other@DB.test:5432/blog?sslmode=require",
    "postgres://db.test/blog",
    "postgresql://x@/?host=db.test&dbname=blog",
]


def test_a_database_is_its_host_port_and_name() -> None:
    assert len({migrations.database_digest(url) for url in SAME}) == 1
    others = [
        "postgresql://ann:secret@db.test/blog2",
        "postgresql://ann:secret@db2.test/blog",
        "postgresql://ann:secret@db.test:5433/blog",
        "postgresql://ann:secret@/blog?host=/run/postgresql",
        "postgresql://ann:secret@db1.test:5432,db2.test:5432/blog",
        "mysql://ann@db.test/blog",
        "sqlite:////var/lib/asgi/blog/db.sqlite",
        "sqlite:///db.sqlite",
    ]
    found = [migrations.database_digest(url) for url in [SAME[0], *others]]
    assert "" not in found
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "blog",
        "/var/lib/blog.sqlite",
        "postgresql://",
        # a part of the password would be taken for the address
        "postgresql://ann:se#cret@db.test/blog",
        "postgresql://ann:se/cret@db.test/blog",
        "postgresql://ann:se?cret@db.test/blog",
        "postgresql://[db/blog",
    ],
)
def test_what_is_no_url_of_a_database(url: str) -> None:
    assert migrations.database_digest(url) == ""


def test_the_database_of_a_host_is_that_of_its_environment(app: Layout) -> None:
    assert migrations.host_database(app, "URL") == ""
    url = 'postgresql://ann:a%20\\"$`@db.test/blog'
    for name, value in (("environment", "postgresql://other.test/x"), ("secrets", url)):
        (app.configuration / name).write_text(units.environment_file({"URL": value, "A": "b"}))
    assert migrations.host_database(app, "URL") == migrations.database_digest(SAME[0])
    assert migrations.host_database(app, "DATABASE_URL") == ""
    # the same as it is planned
    assert migrations.environment_database({"URL": url}, "URL") == ONE.database

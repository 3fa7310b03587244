"""What check mode tells of a run, and what a run tells that it waits for."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import plan, source_plans

LIMITS = {
    "instances": 2,
    "health_timeout_seconds": 60,
    "stable_seconds": 3,
    "proxy_timeout_seconds": 30.0,
    "settle_seconds": 3,
    "drain_seconds": 30,
    "balancer_drain_seconds": 0,
}
WAITS = (
    "2 instances, at most 60 s until healthy, 3 s stable, at most 30 s until the proxy confirms,"
    " 3 s to 30 s for open requests"
)
ROLLOUT: dict[str, Any] = {
    "changed": True,
    "release": "2-b",
    "previous": "1-a",
    "slot": "green",
    "reasons": ["release 1-a to 2-b"],
    "diff": [{"after_header": "/etc/systemd/system/blog-green@.service", "before": "x"}],
    "variables": {"added": ["A", "B"], "changed": [], "removed": ["C"]},
    "recovered": "",
    "limits": LIMITS,
}
FACTS: dict[str, Any] = {
    "host": "web2",
    "mode": "site",
    "rollout": ROLLOUT,
    "plan": {
        "release": "2-b",
        "version": "2.0",
        "digest": "0123456789abcdef",
        "commit": "",
        "source": "path",
        "dependencies": {
            "files": ["uv.lock"],
            "package": "api",
            "project": "",
            "notes": ["requirements.txt is not used, uv.lock is"],
        },
    },
    "source_path": "../blog",
    "staged": {"changed": True},
    "missing_packages": ["python3-venv", "git"],
    "migrate_command": "alembic upgrade head",
    "migrate_host": "web1",
    "migration": {"changed": True, "heads": {"before": ["0001"], "after": None}, "diff": []},
    "proxy": {"action": "reload", "changes": ["/etc/caddy/sites/blog.caddy"]},
}


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (LIMITS, WAITS),
        ({**LIMITS, "balancer_drain_seconds": "5"}, f"5 s for the balancer, {WAITS}"),
        # a variable of a user may be a text
        ({**LIMITS, "instances": "1", "stable_seconds": "0.5"}, None),
        ({}, "limits are not known, nothing was rolled out here"),
    ],
)
def test_waits(limits: dict[str, Any], told: str | None) -> None:
    found = plan.waits(limits)
    assert found == told or (found.startswith("1 instance, ") and ", 0.5 s stable," in found)


def test_the_plan_of_a_deploy() -> None:
    assert plan.plan(FACTS) == [
        "web2: 1-a in slot blue -> 2-b in slot green (release 1-a to 2-b)",
        "packages: install python3-venv, git",
        "build: 2-b, version 2.0, content 0123456789ab of ../blog",
        "dependencies: uv.lock, package api; requirements.txt is not used, uv.lock is",
        "migration: pending, alembic upgrade head on web1"
        " (newest migration 0001 -> not known before it is built)",
        "environment and secrets: added A, B; removed C",
        "units: blog-green@.service",
        "proxy: reload, for /etc/caddy/sites/blog.caddy",
        f"services: start slot green, then stop slot blue: {WAITS}",
    ]


def told(part: str, **changed: Any) -> str:
    """Returns one line of the plan without its name; empty where there is none."""
    lines = plan.plan({**FACTS, **changed})
    found = [line.partition(": ")[2] for line in lines if line.startswith(f"{part}: ")]
    assert len(found) <= 1
    return found[0] if found else ""


def test_a_number_of_instances_that_was_decided_is_told() -> None:
    assert told("instances", instances_reason="2 instances (auto): 2 cores") == (
        "2 instances (auto): 2 cores"
    )
    assert not [line for line in plan.plan(FACTS) if line.startswith("instances")]


def test_a_first_deploy_stops_nothing() -> None:
    first = {**ROLLOUT, "previous": None, "slot": "blue", "reasons": ["first release"]}
    assert told("web2", rollout=first) == "first deploy, 2-b in slot blue"
    assert told("services", rollout=first) == f"start slot blue: {WAITS}"


def test_where_nothing_is_to_be_done() -> None:
    nothing = {**ROLLOUT, "previous": "2-b", "reasons": [], "diff": []}
    lines = plan.plan(
        {
            **FACTS,
            "rollout": {**nothing, "variables": {}},
            "staged": {"changed": False, "manifest": {"built_at": "2026-11-22T14:00:00+00:00"}},
            "missing_packages": [],
            "migration": {"changed": False, "skipped": True},
            "proxy": {"action": "", "changes": []},
        }
    )
    assert lines == [
        "web2: 2-b serves in slot green and stays",
        "build: nothing, 2-b is on the host since 2026-11-22T14:00:00+00:00",
        "migration: none, it has run for 2-b",
        "units: no change",
        "proxy: no change, no reload",
        "services: nothing is started or stopped",
    ]


@pytest.mark.parametrize("mode", ["rollback", "restart"])
def test_a_rollback_and_a_restart_build_nothing_and_migrate_nothing(mode: str) -> None:
    """What a deploy before it in the same run has left is not told again."""
    assert told("build", mode=mode) == "nothing"
    assert told("packages", mode=mode) == ""
    assert told("migration", mode=mode) == f"none, a {mode} runs none"
    assert told("units", mode=mode) == "blog-green@.service"
    assert told("proxy", mode=mode) == "no change, no reload"


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (
            {"commit": "f" * 40, "source": "https://git.example.com/blog.git"},
            "2-b, version 2.0, commit ffffffffffff of https://git.example.com/blog.git",
        ),
        ({"version": ""}, "2-b, content 0123456789ab of ../blog"),
        (
            {"release": source_plans.UNDECIDED, "source": "https://git.example.com/blog.git"},
            "https://git.example.com/blog.git; the host cannot ask it for the commit yet",
        ),
    ],
)
def test_what_is_built(found: dict[str, str], text: str) -> None:
    planned = {**FACTS["plan"], **found}
    rollout = {**ROLLOUT, "release": planned["release"]}
    assert told("build", plan=planned, rollout=rollout) == text


def test_what_is_installed() -> None:
    planned = FACTS["plan"]
    files = {"files": ["a.txt", "b.txt"], "package": "", "project": ".", "notes": []}
    found = told("dependencies", plan={**planned, "dependencies": files})
    assert found == "a.txt, b.txt, and the project itself"
    unknown = told("dependencies", plan={**planned, "dependencies": {}})
    assert unknown.startswith("not known before a host")
    assert told("dependencies", staged={"changed": False}) == ""


def test_the_build_of_another_app_in_the_same_run_is_not_told() -> None:
    assert told("build", rollout={**ROLLOUT, "release": "3-c"}) == "nothing"


def test_a_service_without_the_other_roles_has_a_plan() -> None:
    alone = {key: FACTS[key] for key in ("host", "mode", "rollout")}
    lines = plan.plan(alone)
    assert "build: nothing" in lines
    assert "migration: none, asgi_migrate_command is empty" in lines
    assert "proxy: no change, no reload" in lines


@pytest.mark.parametrize(
    ("heads", "text"),
    [
        ({"before": ["0001"], "after": ["0002", "0003"]}, "0001 -> 0002, 0003"),
        ({"before": [], "after": ["0001"]}, "none -> 0001"),
        ({"before": None, "after": None}, "not known -> not known"),
    ],
)
def test_the_migrations_that_are_known(heads: dict[str, Any], text: str) -> None:
    done = {"changed": True, "heads": heads, "diff": []}
    line = told("migration", migration=done, staged={"changed": False})
    assert line == f"pending, alembic upgrade head on web1 (newest migration {text})"


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        ("new", ""),
        ("command", ", again: asgi_migrate_command has changed"),
        ("database", ", again: the database is another one"),
        ("forced", ", again: asgi_migrate_force"),
    ],
)
def test_why_a_migration_runs_again(reason: str, text: str) -> None:
    line = told("migration", migration={**FACTS["migration"], "reason": reason})
    assert line.startswith(f"pending, alembic upgrade head on web1{text} (newest")


def test_the_unit_of_a_migration_is_one_of_the_units() -> None:
    diff = [{"after_header": "/etc/systemd/system/blog-migrate@.service", "before": ""}]
    done = {**FACTS["migration"], "diff": diff}
    assert told("units", migration=done) == "blog-green@.service, blog-migrate@.service (new)"


def test_variables_that_stay_and_what_a_killed_run_left() -> None:
    same = {"added": [], "changed": [], "removed": []}
    cut_off = {**ROLLOUT, "variables": same, "recovered": "a rollout was cut off"}
    assert told("environment and secrets", rollout=cut_off) == "no variable changes"
    assert told("left behind", rollout=cut_off) == "a rollout was cut off"


def test_a_proxy_that_does_not_run_is_started_with_what_it_has() -> None:
    assert told("proxy", proxy={"action": "start", "changes": []}) == "start, for what is on disk"


@pytest.mark.parametrize("changes", [[], ["/etc/traefik/traefik.yml"]])
def test_a_move_to_another_proxy_is_told(changes: list[str]) -> None:
    """The files may be there already, of a run that failed."""
    moved = told("proxy", proxy={"action": "take over", "changes": changes})
    assert moved == "another one, it takes over the ports of this host when it is turned"

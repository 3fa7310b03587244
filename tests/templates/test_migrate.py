"""Which host of a play migrates, and where its migration counts."""

from __future__ import annotations

from typing import Any

import pytest
from templates.render import role_tasks_of, value
from templates.scenarios import MINIMAL

RELEASE = "1.0.0-3f2a9c81b0d4"
OF_RELEASE = {"name": "blog", "release": RELEASE}
GIVEN = {**MINIMAL, "asgi_migrate_release": RELEASE}


def before(reason: str, **more: str) -> dict[str, Any]:
    """What a host says of its record."""
    return {"__asgi_migrate_before": {**OF_RELEASE, "reason": reason, **more}}


def result(**more: Any) -> dict[str, Any]:
    """How the migration went on a host."""
    return {"asgi_migrate_result": {**OF_RELEASE, "changed": True, **more}}


def succeeded(hosts: dict[str, dict[str, Any]], lost: str = "", **given: Any) -> bool:
    """Says whether hosts of a play may get the release, the first of which is `one`."""
    play = {
        "inventory_hostname": "two",
        "ansible_play_hosts_all": list(hosts),
        "ansible_play_hosts": [host for host in hosts if host != lost],
        "hostvars": hosts,
    }
    found = value("migrate", "__asgi_migrate_succeeded | bool", {**GIVEN, **play, **given})
    assert isinstance(found, bool)
    return found


def test_a_migration_counts_where_the_host_that_runs_it_has_succeeded() -> None:
    new = before("new")
    assert succeeded({"one": {**new, **result()}, "two": new})
    # or any host has a record of it
    assert succeeded({"one": new, "two": new, "three": before("")})
    assert succeeded({"one": {}, "two": before("")}, lost="one")


@pytest.mark.parametrize(
    "first",
    [
        pytest.param({}, id="lost before it was asked"),
        pytest.param(before("new"), id="another strategy, or a hook before it has failed"),
        pytest.param({**before("new"), **result(failed=True)}, id="failed"),
        pytest.param({**before("new"), **result(unreachable=True)}, id="lost meanwhile"),
        pytest.param(
            {"asgi_migrate_result": {"unreachable": True, "msg": "lost", "changed": False}},
            id="lost, and no result of the module",
        ),
        pytest.param({**before("new"), **result(name="shop")}, id="of another app in the run"),
        pytest.param({**before("new"), **result(release="0.9-a")}, id="of another release"),
        pytest.param(before("", name="shop"), id="the record is one of another app"),
        pytest.param(before("", release="0.9-a"), id="the record is one of another release"),
        pytest.param({**before("command"), "asgi_migrate_result": {"skipped": True}}, id="skipped"),
    ],
)
def test_no_other_host_gets_a_release_whose_migration_has_not_succeeded(
    first: dict[str, Any],
) -> None:
    assert not succeeded({"one": first, "two": before("new")})
    # its record is of another command
    assert not succeeded({"one": first, "two": before("command")})


def test_a_forced_migration_is_to_succeed_although_there_are_records() -> None:
    forced = {"asgi_migrate_force": True}
    hosts = {"one": before(""), "two": before("")}
    assert not succeeded(hosts, **forced)
    assert succeeded({**hosts, "one": {**before(""), **result()}}, **forced)


def test_nothing_is_noted_before_it_is_required_that_it_has_succeeded() -> None:
    tasks = role_tasks_of("migrate", "migrate")
    names = [task["name"] for task in tasks]
    assert names.index("migrate | Require that it has succeeded") < names.index(
        "migrate | Note it on the others"
    )
    # on every host, whatever has become of the first
    (required,) = [task for task in tasks if "ansible.builtin.assert" in task]
    assert "when" not in required


def test_the_planned_database_is_that_of_the_variables() -> None:
    url = "postgresql://ann:secret@db.test/blog"

    def planned(**given: Any) -> Any:
        return value("migrate", "__asgi_migrate_planned_database", {**GIVEN, **given})

    found = planned(asgi_app_secrets={"DATABASE_URL": url})
    assert len(found) == 64
    # secrets are read last
    assert found == planned(
        asgi_app_environment={"DATABASE_URL": "postgresql://x/y", "URL": url},
        asgi_app_secrets={"DATABASE_URL": url},
    )
    assert found == planned(
        asgi_app_environment={"URL": url}, asgi_migrate_database_url_variable="URL"
    )
    assert planned() == ""

"""Decisions over all hosts, and what is told of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import fleet
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.state import FAILED, GOOD, LEFT, State
from ansible_collections.asgi.deploy.plugins.plugin_utils.inventory import Inventory

GROUPS = {
    "all": ["one", "two", "front", "other"],
    "ungrouped": ["other"],
    "asgi": ["one", "two"],
    "lb": ["front"],
    "empty": [],
}
WITH_BALANCERS = {**GROUPS, "asgi_balancers": ["front"]}
WITHOUT_ASGI = {"all": ["one"], "ungrouped": [], "web": ["one"]}


@pytest.mark.parametrize(
    ("wanted", "limit", "pattern"),
    [
        (None, "", "asgi"),
        (None, "two", "asgi"),
        (None, "asgi:!two", "asgi"),
        (None, "o*,lb", "asgi"),
        ("asgi:!two", "", "asgi:!two"),
        ("asgi[0]", "", "asgi[0]"),
        ("~(one|two)", "", "~(one|two)"),
        ("other,empty", "", "other,empty"),
        (["one", "two"], "two", ["one", "two"]),
        ("all:&asgi", "", "all:&asgi"),
        # balancers only
        ("!all", "", "!all"),
        (["!all"], "front", ["!all"]),
    ],
)
def test_the_hosts_are_those_that_were_asked_for(wanted: Any, limit: str, pattern: Any) -> None:
    assert fleet.app_hosts(Inventory(GROUPS, limit), wanted) == pattern


@pytest.mark.parametrize(
    ("wanted", "limit", "message"),
    [
        ("wbe", "", "asgi_hosts: the inventory has no host and no group wbe; correct"),
        ("asgi,wbe", "", "asgi_hosts: the inventory has no host and no group wbe; correct"),
        # it was to be left out
        ("asgi:!twoo", "", "asgi_hosts: the inventory has no host and no group twoo; correct"),
        (["one", "w*"], "", r"asgi_hosts: the inventory has no host and no group w\*; correct"),
        (None, "one,tow", "--limit: the inventory has no host and no group tow; correct"),
        ("!all", "tow", "--limit: the inventory has no host and no group tow; correct"),
        ("empty", "", "asgi_hosts: empty matches no host of .* Groups with hosts: asgi, lb$"),
        ("asgi:!all", "", "asgi_hosts: asgi:!all matches no host"),
        (["asgi", "&lb"], "", "asgi_hosts: asgi,&lb matches no host"),
        (
            None,
            "front",
            r"--limit front: leaves no host of the app, .* are one, two \(asgi_hosts: asgi",
        ),
        (None, "asgi:!one:!two", "--limit asgi:!one:!two: leaves no host .*'!all' for the bal"),
    ],
)
def test_a_run_without_a_host_that_it_was_given_is_rejected(
    wanted: Any, limit: str, message: str
) -> None:
    with pytest.raises(DeployError, match=message):
        fleet.app_hosts(Inventory(GROUPS, limit), wanted)


def test_a_limit_from_a_file_is_one(tmp_path: Path) -> None:
    file = tmp_path / "site.retry"
    file.write_text("two\n")
    assert fleet.app_hosts(Inventory(GROUPS, f"@{file}")) == "asgi"
    file.write_text("front\n")
    with pytest.raises(DeployError, match="leaves no host of the app"):
        fleet.app_hosts(Inventory(GROUPS, f"@{file}"))


@pytest.mark.parametrize("groups", [WITHOUT_ASGI, {"all": [], "ungrouped": []}])
def test_an_inventory_without_hosts_of_the_app_is_rejected(groups: dict[str, list[str]]) -> None:
    with pytest.raises(DeployError, match=r"no group asgi.*asgi_hosts"):
        fleet.app_hosts(Inventory(groups))


@pytest.mark.parametrize(
    ("groups", "limit", "wanted", "apps", "pattern"),
    [
        (GROUPS, "", None, None, "!all"),
        (GROUPS, "", "lb", "asgi", "lb"),
        (GROUPS, "", "empty", "asgi", "empty"),
        (WITH_BALANCERS, "", None, None, "asgi_balancers"),
        # deployed without them
        (WITH_BALANCERS, "one", None, None, "asgi_balancers"),
        (WITH_BALANCERS, "front", None, "!all", "asgi_balancers"),
    ],
)
def test_there_may_be_balancers(
    groups: dict[str, list[str]], limit: str, wanted: Any, apps: Any, pattern: Any
) -> None:
    assert fleet.balancer_hosts(Inventory(groups, limit), wanted, apps) == pattern


@pytest.mark.parametrize(
    ("groups", "limit", "wanted", "apps", "message"),
    [
        (GROUPS, "", "bl", None, "asgi_balancers: the inventory has no host and no group bl"),
        (GROUPS, "bl", None, None, "--limit: the inventory has no host and no group bl"),
        (GROUPS, "", None, "!all", "asgi_balancers matches no host"),
        (GROUPS, "", "empty", ["!all"], "asgi_balancers matches no host"),
        (WITH_BALANCERS, "one", None, "!all", "asgi_balancers matches no host"),
    ],
)
def test_balancers_that_are_not_there_are_rejected(
    groups: dict[str, list[str]], limit: str, wanted: Any, apps: Any, message: str
) -> None:
    with pytest.raises(DeployError, match=message):
        fleet.balancer_hosts(Inventory(groups, limit), wanted, apps)


def host(serving: str | None, history: str, staged: str | None = None) -> dict[str, Any]:
    """Returns the report of a host.

    Args:
        serving: The release that serves.
        history: Releases as they were rolled out, oldest first; a `!` after one that failed, a
            `<` after one that was rolled back from.
        staged: The releases on the host; all of the history by default.
    """
    current = State()
    for word in history.split():
        status = {"!": FAILED, "<": LEFT}.get(word[-1], GOOD)
        current.record(release=word.rstrip("!<"), status=status)
    present = sorted({*(history.replace("!", "").replace("<", "") if staged is None else staged)})
    present = [release for release in present if release != " "]
    return {
        "release": serving,
        "releases": [{"release": release} for release in present],
        "good_releases": [release for release in current.good_releases() if release in present],
    }


@pytest.mark.parametrize(
    ("reports", "target"),
    [
        # one host
        ([host("b", "a b")], "a"),
        ([host("c", "a b c")], "b"),
        ([host("c", "a b! c")], "a"),
        ([host("b", "a b c c< b")], "a"),
        ([host("a", "a b a")], "b"),
        ([host("c", "a b c", staged="ac")], "a"),
        # three hosts alike
        ([host("c", "a b c")] * 3, "b"),
        ([host("c", "a b! c")] * 3, "a"),
        # the rollout of c ended after the first host: all others serve b
        ([host("c", "a b c"), host("b", "a b", "abc"), host("b", "a b", "abc")], "b"),
        ([host("b", "a b", "abc"), host("c", "a b c"), host("b", "a b", "abc")], "b"),
        # c failed on the second host, which still serves b
        ([host("c", "a b c"), host("b", "a b c!"), host("b", "a b", "abc")], "b"),
        # b failed on one of them, or was left there
        ([host("c", "a b c"), host("c", "a b! c"), host("c", "a b c")], "a"),
        ([host("c", "a b c"), host("c", "a b b< c"), host("c", "a b c")], "a"),
        # a new host has never served b
        ([host("c", "a b c"), host("c", "a c", "abc")], "a"),
        # b was pruned on one host
        ([host("c", "a b c"), host("c", "a b c", "ac")], "a"),
        # the orders differ: that of the first host counts
        ([host("c", "a b c"), host("c", "b a c")], "b"),
    ],
)
def test_rollback_target(reports: list[dict[str, Any]], target: str) -> None:
    assert fleet.rollback_target(reports) == target


def test_a_release_whose_python_is_gone_on_one_host_is_not_wanted() -> None:
    """Of itself it is no target: it is not among the good releases of that host."""
    gone = host("c", "a b c")
    gone["releases"][1]["python_problem"] = "/venv/bin/python leads to /x, where no program is"
    gone["good_releases"].remove("b")
    reports = [host("c", "a b c"), gone]
    assert fleet.rollback_target(reports) == "a"
    with pytest.raises(DeployError, match=r"asgi_release: b cannot start, as its Python is gone"):
        fleet.rollback_target(reports, "b")


@pytest.mark.parametrize(
    ("reports", "told"),
    [
        ([], "no host was reached"),
        ([host("a", "a")], "nothing to go back to"),
        ([host(None, "")], "nothing to go back to"),
        ([host("b", "a! b")], "nothing to go back to"),
        ([host("a", "a b b< a")], "nothing to go back to"),
        ([host("b", "a b", staged="b")], "nothing to go back to"),
        ([host("b", "a b"), host("b", "b")], "nothing to go back to"),
        ([host("b", "a b"), host(None, "")], "nothing to go back to"),
    ],
)
def test_there_may_be_nothing_to_go_back_to(reports: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(DeployError, match=told):
        fleet.rollback_target(reports)


def with_heads(report: dict[str, Any], **heads: list[str] | None) -> dict[str, Any]:
    """Adds to a report what the newest migrations of its releases are."""
    releases = [{**one, "migration_heads": heads.get(one["release"])} for one in report["releases"]]
    return {**report, "releases": releases}


@pytest.mark.parametrize("wanted", ["", "a"])
def test_a_migration_is_not_crossed_unless_told(wanted: str) -> None:
    reports = [with_heads(host("b", "a b"), a=["0001"], b=["0002"])]
    with pytest.raises(DeployError, match="b has 0002; a has 0001") as refused:
        fleet.rollback_target(reports, wanted)
    assert "asgi_rollback_across_migration: true" in refused.value.message
    assert fleet.rollback_target(reports, wanted, True) == "a"


def test_one_host_that_would_cross_a_migration_is_enough() -> None:
    same = with_heads(host("a", "b a", "abc"), a=["1"], b=["1"], c=["2"])
    ahead = with_heads(host("c", "b a c"), a=["1"], b=["1"], c=["2"])
    with pytest.raises(DeployError, match="c has 2; a has 1"):
        fleet.rollback_target([same, ahead])


@pytest.mark.parametrize(
    ("a", "b"), [(["1"], ["1"]), (None, ["1"]), (["1"], None), (None, None), ([], [])]
)
def test_no_migration_lies_between_or_nobody_knows(
    a: list[str] | None, b: list[str] | None
) -> None:
    assert fleet.rollback_target([with_heads(host("b", "a b"), a=a, b=b)]) == "a"


def placed(report: dict[str, Any], *names: str) -> dict[str, Any]:
    """Returns the report of a host that has run these with release a, and no other host then."""
    for release in report["releases"]:
        release["only_on"] = list(names) if release["release"] == "a" else []
    return report


def test_a_scheduler_that_has_moved_is_not_run_twice_by_a_rollback() -> None:
    """One host goes back to what it ran then, the other runs what it has now."""
    first, second = host("b", "a b"), host("b", "a b")
    moved = [placed(first, "scheduler"), placed(second, "scheduler")]
    with pytest.raises(DeployError, match=r"more than one host would run scheduler.*former source"):
        fleet.rollback_target(moved)
    assert fleet.rollback_target([placed(first, "scheduler"), placed(second)]) == "a"


def test_a_release_may_be_named_if_all_hosts_have_it() -> None:
    reports = [host("c", "a b! c"), host("c", "b c", "abc")]
    assert fleet.rollback_target(reports, "a") == "a"
    # whoever names one may know better than the history
    assert fleet.rollback_target(reports, "b") == "b"
    with pytest.raises(DeployError, match="asgi_release: d is not on every host") as caught:
        fleet.rollback_target(reports, "d")
    assert caught.value.message.endswith("a, b, c")
    with pytest.raises(DeployError, match="all of them have: none"):
        fleet.rollback_target([host("a", "a"), host("b", "b")], "a")


RESULT = {
    "release": "2-b",
    "previous": "1-a",
    "slot": "green",
    "reasons": ["release 1-a to 2-b"],
    "seconds": 9.4,
    "memory_mebibytes": 96,
    "memory_max_mebibytes": 512,
    "cut_connections": 0,
    "pruned": [],
    "recovered": "",
}


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, ["1-a -> 2-b in slot green", "9.4 s", "memory 96 of 512 MiB", "https://blog.test"]),
        ({"previous": None, "reasons": ["first release"]}, ["nothing -> 2-b", "first release"]),
        ({"reasons": []}, ["2-b serves in slot green as before, nothing changed"]),
        (
            {
                "steps": [
                    {"name": "prepare the slot", "seconds": 0.2},
                    {"name": "start the slot", "seconds": 1.2},
                    {"name": "prove its health", "seconds": 4.1},
                    {"name": "drain the old slot", "seconds": 3.0},
                ]
            },
            ["9.4 s, started in 1.2 s, healthy after 4.1 s, drained in 3 s, memory"],
        ),
        # the first release has no old slot
        ({"steps": [{"name": "start the slot", "seconds": 1.2}]}, ["started in 1.2 s, memory"]),
        ({"instances_reason": "2 instances (auto): 2 cores"}, ["s, 2 instances (auto): 2 cores, "]),
        ({"cut_connections": 3}, ["3 connections to the old slot were cut"]),
        ({"recovered": "a rollout was cut off"}, ["a rollout was cut off"]),
        ({"pruned": ["0-x", "0-y"]}, ["removed 0-x, 0-y"]),
    ],
)
def test_summary(changed: dict[str, Any], told: list[str]) -> None:
    text = fleet.summary({**RESULT, **changed}, ["blog.test", "www.blog.test"])
    assert [part for part in told if part not in text] == []
    assert "\n" not in text
    assert "www" not in text


def test_summary_of_a_check_mode_has_no_numbers() -> None:
    result = {key: RESULT[key] for key in ("release", "previous", "slot", "reasons")}
    assert fleet.summary(result) == "1-a -> 2-b in slot green (release 1-a to 2-b)"


REPORT = {
    "name": "blog",
    "release": "2-b",
    "slot": "green",
    "releases": [{"release": "1-a", "version": "1"}, {"release": "2-b", "version": "2"}],
    "instances": [{}, {}],
    "instances_running": 1,
    "memory_mebibytes": 96,
    "memory_max_mebibytes": 512,
    "restarts": 4,
    "processes": [
        {"name": "worker", "kind": "process", "count": 2, "running": 2, "result": "success"},
        {"name": "tidy", "kind": "timer", "count": 1, "running": 1, "result": "exit-code"},
    ],
    "since": "Sun 2026-11-22 13:00:00 UTC",
    "certificate_days": 61.5,
    "disk": {"releases": 2, "releases_mebibytes": 41, "free_mebibytes": 20480},
    "history": [{"at": "2026-11-22T13:00:00+00:00", "by": "ann", "status": LEFT}],
    "operation": {},
    "watch": {},
}


def test_status_table() -> None:
    table = fleet.status_table({"web1": REPORT, "web22": {}})
    assert table == [
        "host   release      version  slot   up      memory MiB  restarts"
        "  processes                            "
        "  since                        certificate  releases                     last rollout",
        "web1   2-b          2        green  1 of 2  96 of 512   4       "
        "  worker 2 of 2, tidy waits (exit-code)"
        "  Sun 2026-11-22 13:00:00 UTC  61.5 days    2 in 41 MiB, 20480 MiB free"
        "  left 2026-11-22T13:00:00+00:00 by ann",
        "web22  not reached",
    ]


def test_status_of_a_host_without_the_app_or_with_a_run_cut_off() -> None:
    nothing = {**REPORT, "release": None, "slot": None, "certificate_days": None, "history": []}
    assert fleet.status_row(nothing)["release"] == "nothing serves"
    assert fleet.status_row(nothing)["last rollout"] == ""
    cut_off = fleet.status_row({**REPORT, "operation": {"step": "x"}})["last rollout"]
    assert cut_off.endswith("by ann, a run was cut off: the next deploy mends it")
    gone = [{**one, "python_problem": "it is gone"} for one in REPORT["releases"]]
    gone_row = fleet.status_row({**REPORT, "releases": gone})
    assert gone_row["last rollout"].endswith("by ann, its Python is gone: deploy it again")
    killed = {"action": "killed", "at": "2026-11-22T13:05:00+00:00"}
    told = fleet.status_row({**REPORT, "watch": killed})["last rollout"]
    assert told.endswith("by ann, watch: killed 2026-11-22T13:05:00+00:00")
    # that is a rollout, and in the history
    row = fleet.status_row({**REPORT, "watch": {**killed, "action": "recycled"}})
    assert row == fleet.status_row(REPORT)
    assert fleet.status_table({}) == ["host"]
    assert fleet.status_row({**REPORT, "disk": None})["releases"] == ""


# --- a rollout that failed on one host ------------------------------------------------------------

UNREACHABLE = {"unreachable": True, "changed": False, "msg": "Failed to connect: timed out"}


def undone(release: str | None, slot: str, changed: bool) -> dict[str, Any]:
    """Returns what the module says of a rollout that was taken back."""
    return {"changed": changed, "release": release, "slot": slot, "previous": None, "reasons": []}


@pytest.mark.parametrize(
    ("hosts", "failed"),
    [
        ({}, {}),
        ({"web1": {}, "web2": {"asgi_service_failure": ""}}, {}),
        (
            {"web1": {"asgi_service_failure": ""}, "web2": {"asgi_service_failure": "no answer"}},
            {"web2": "no answer"},
        ),
        # in the order of the run
        (
            {"web9": {"asgi_service_failure": "a"}, "web1": {"asgi_service_failure": "b"}},
            {"web9": "a", "web1": "b"},
        ),
        # Ansible's messages need not be text
        ({"web1": {"asgi_service_failure": ["a", "b"]}}, {"web1": "['a', 'b']"}),
    ],
)
def test_failures(hosts: dict[str, dict[str, Any]], failed: dict[str, str]) -> None:
    found = fleet.failures(hosts)
    assert found == failed
    assert list(found) == list(failed)


@pytest.mark.parametrize(
    ("result", "told"),
    [
        (undone("1-a", "blue", True), "1-a serves in slot blue (after it had moved, taken back)"),
        (undone("1-a", "green", False), "1-a serves in slot green (not moved)"),
        # the first deploy of a fleet
        (undone(None, "blue", True), "nothing serves in slot blue (after it had moved, taken back"),
        (undone(None, "blue", False), "nothing serves in slot blue (not moved)"),
        (UNREACHABLE, "cannot be reached, what serves there is not known"),
        (
            {"failed": True, "changed": False, "msg": "2-b serves and cannot be undone: slot blue"},
            "the way back failed: 2-b serves and cannot be undone: slot blue",
        ),
        ({"failed": True, "changed": False}, "the way back failed: unknown cause"),
        ({}, "the way back failed: unknown cause"),
        (None, "the way back failed: unknown cause"),
    ],
)
def test_where_a_host_stands_after_another_one_failed(
    result: dict[str, Any] | None, told: str
) -> None:
    hosts = {
        "web1": {"asgi_service_failure": "", "__asgi_service_undone": result},
        "web2": {
            "asgi_service_failure": "blog-green@1.service did not stay up",
            "__asgi_service_undone": undone("1-a", "blue", False),
        },
    }
    lines = fleet.outcome(hosts, "2-b").splitlines()
    assert lines[0] == "release 2-b does not serve; it failed on web2."
    assert lines[1].startswith(f"web1: {told}")
    assert lines[2:] == [
        "web2: 1-a serves in slot blue (not moved)",
        "cause on web2: blog-green@1.service did not stay up",
    ]


def test_an_unreachable_host_is_told_with_what_to_do_about_it() -> None:
    hosts = {
        "web1": {
            "asgi_service_failure": UNREACHABLE["msg"],
            "__asgi_service_undone": UNREACHABLE,
        },
    }
    text = fleet.outcome(hosts, "2-b")
    assert "the status playbook" in text
    assert "the way back failed" not in text
    assert "serves in slot" not in text
    assert text.endswith("cause on web1: Failed to connect: timed out")


def test_every_host_that_failed_is_told_with_its_own_cause() -> None:
    hosts = {
        "web1": {"asgi_service_failure": "first", "__asgi_service_undone": UNREACHABLE},
        "web2": {"__asgi_service_undone": undone("1-a", "blue", True)},
        "web3": {
            "asgi_service_failure": "second\nlast lines of its journal:\nboom",
            "__asgi_service_undone": undone("1-a", "blue", False),
        },
    }
    text = fleet.outcome(hosts, "2-b")
    assert text.startswith("release 2-b does not serve; it failed on web1, web3.\n")
    assert "cause on web1: first\ncause on web3: second\n" in text
    assert text.endswith("boom")
    assert [line.split(":")[0] for line in text.splitlines()[1:4]] == ["web1", "web2", "web3"]


# --- why a host has failed in its batch -----------------------------------------------------------

LOST = {"__asgi_service_rollout": UNREACHABLE}
DONE = {"__asgi_service_rollout": {"changed": True}, "__asgi_service_watch": {"skipped": True}}
AT_A_HOOK = {
    "__asgi_service_hook": {"file": "asgi_service_before_rollout: lb.yml", "before": {}},
}
RESCUED = {"failed": True, "msg": "the chat is down"}


def failed(message: str) -> dict[str, Any]:
    """Returns what Ansible keeps of a task that failed."""
    return {"ansible_failed_result": {"failed": True, "msg": message}}


@pytest.mark.parametrize(
    ("hosts", "causes"),
    [
        # the module
        (
            {
                "one": {"__asgi_service_rollout": {"failed": True, "msg": "boom"}},
                "two": DONE,
                "three": {},
            },
            ["boom", "", ""],
        ),
        ({"one": LOST, "two": DONE}, [UNREACHABLE["msg"], ""]),
        ({"one": {**DONE, "__asgi_service_watch": UNREACHABLE}}, [UNREACHABLE["msg"]]),
        # each has its own cause
        (
            {"one": LOST, "two": {"__asgi_service_rollout": {"failed": True}}},
            [UNREACHABLE["msg"], "see above"],
        ),
        # a hook of one of them; that of the other had a rescue
        (
            {
                "one": {**AT_A_HOOK, **failed("not now")},
                "two": {
                    "__asgi_service_hook": {"file": "x: lb.yml", "before": RESCUED},
                    "ansible_failed_result": RESCUED,
                },
            },
            ["asgi_service_before_rollout: lb.yml: not now", ""],
        ),
        # a rescue of an earlier hook
        ({"one": LOST, "two": {**DONE, "__asgi_service_hook": {}, **failed("not now")}}, [..., ""]),
        # Ansible keeps nothing of these
        (
            {"one": AT_A_HOOK, "two": AT_A_HOOK},
            ["asgi_service_before_rollout: lb.yml: a task could not reach its host"] * 2,
        ),
        # none of the tasks above
        ({"one": {**DONE, **failed("no such filter")}}, ["no such filter"]),
        ({"one": {}}, ["see above"]),
    ],
)
def test_why_a_host_has_failed_in_its_batch(hosts: dict[str, Any], causes: list[Any]) -> None:
    for host, cause in zip(hosts, causes, strict=True):
        found = fleet.rollout_failure(hosts, host)
        if cause:
            assert found.startswith(UNREACHABLE["msg"] if cause is ... else cause)
        else:
            assert found == ""


@pytest.mark.parametrize(
    ("hook", "reported"),
    [
        ("asgi_service_on_failure: page.yml", True),
        # a cause
        ("asgi_service_before_rollout: lb.yml", False),
    ],
)
def test_a_hook_on_failure_that_has_not_ended_is_reported(hook: str, reported: bool) -> None:
    values = {"__asgi_service_hook": {"file": hook, "before": {}}, "asgi_service_failure": "boom"}
    text = fleet.outcome({"one": values, "two": values}, "2-b")
    assert text.count(f"{hook}: failed, or could not reach a host") == reported

"""What the watch decides; its doing is tested on real hosts."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils.watch import rules
from ansible_collections.asgi.deploy.plugins.module_utils.watch.rules import Counts, Rules, Seen

MEBIBYTE = 2**20
RULES = Rules(recycle_memory_bytes=100 * MEBIBYTE, hung=True, checks=3)


def instance(number: int = 1, mebibytes: int = 50, **values: Any) -> Seen:
    """An instance whose process is its number and 100, and which answers."""
    given: dict[str, Any] = {"process": 100 + number, "answered": True, **values}
    return Seen(number, memory_bytes=mebibytes * MEBIBYTE, **given)


def after(checks: int, *seen: Seen, busy: bool = False, of: Rules = RULES) -> Counts:
    """The counts when the same was seen several times."""
    counts = Counts()
    for _ in range(checks):
        counts.take(of, seen, busy_host=busy)
    return counts


# --- memory and age -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("checks", "mebibytes", "recycled"), [(3, 101, True), (2, 101, False), (9, 100, False)]
)
def test_an_instance_that_stays_above_its_memory_is_recycled(
    checks: int, mebibytes: int, recycled: bool
) -> None:
    seen = [instance(1), instance(2, mebibytes)]
    why = rules.why_recycle(RULES, seen, after(checks, *seen), "web1")
    assert bool(why) is recycled
    if recycled:
        assert why == (
            "instance 2 uses 101 MiB, more than asgi_service_recycle_memory (100 MiB) in 3 checks"
        )


def test_what_is_small_again_or_another_process_is_counted_anew() -> None:
    counts = after(2, instance(1, 200), instance(2, 200))
    counts.take(RULES, [instance(1, 20), instance(2, 200, process=7)], busy_host=False)
    assert counts.large == {7: 1}
    # also where the host has no time: memory is what it is
    counts.take(RULES, [instance(2, 200, process=7)], busy_host=True)
    assert counts.large == {7: 2}


def test_what_is_not_known_or_not_asked_for_is_not_large() -> None:
    gone = Seen(1, process=5, memory_bytes=None)
    assert after(5, gone).large == {}
    assert after(5, instance(1, 500), of=Rules()).large == {}
    assert after(5, Seen(1, process=0, memory_bytes=2**40)).large == {}


def test_an_old_instance_is_recycled_within_a_tenth_of_its_age() -> None:
    aging = Rules(recycle_age_seconds=1000)

    def recycled(age: float) -> bool:
        seen = [instance(1, age_seconds=10), instance(2, age_seconds=age)]
        return bool(rules.why_recycle(aging, seen, Counts(), "web1"))

    assert not recycled(1000)
    assert recycled(1101)
    limit = rules.with_jitter(1000, "web1", 102)
    assert not recycled(limit)
    assert recycled(limit + 1)
    assert not rules.why_recycle(Rules(), [instance(age_seconds=10**9)], Counts(), "web1")


def test_an_instance_with_many_requests_is_recycled_within_a_tenth() -> None:
    counting = Rules(recycle_requests=1000)

    def why(requests: int | None) -> str:
        return rules.why_recycle(counting, [instance(2, requests=requests)], Counts(), "web1")

    assert why(1000) == ""
    assert why(None) == ""
    limit = rules.with_jitter(1000, "web1", 102)
    assert why(1101) == (
        "instance 2 has got 1101 requests, more than asgi_service_recycle_requests with its jitter"
        f" ({limit:.0f})"
    )
    assert rules.why_recycle(Rules(), [instance(requests=10**9)], Counts(), "web1") == ""


def test_hosts_do_not_get_too_old_at_the_same_time() -> None:
    limits = {round(rules.with_jitter(1000, f"web{n}", 700)) for n in range(20)}
    assert len(limits) > 15
    assert min(limits) >= 1000
    assert max(limits) <= 1100
    again = rules.with_jitter(1000, "web1", 700)
    assert again == rules.with_jitter(1000, "web1", 700)


# --- hung -----------------------------------------------------------------------------------------


def killed(checks: int, *seen: Seen, **options: Any) -> int:
    """The number of the instance that is killed; 0 for none."""
    found = rules.to_kill(RULES, seen, after(checks, *seen, **options))
    return found[0].number if found else 0


def test_an_instance_that_hangs_is_killed_while_others_answer() -> None:
    hung = instance(2, answered=False)
    assert killed(2, instance(1), hung) == 0
    assert killed(3, instance(1), hung) == 2
    found = rules.to_kill(RULES, [instance(1), hung], after(3, instance(1), hung))
    assert found is not None
    assert found[1] == (
        "instance 2 gave no answer in 3 checks while its process 102 lives (others answer)"
    )


def test_where_nobody_answers_it_takes_longer_and_is_one_at_a_time() -> None:
    """It may be the database that is slow, or the host."""
    all_hung = [instance(number, answered=False) for number in (1, 2)]
    assert killed(5, *all_hung) == 0
    assert killed(6, *all_hung) == 1
    # the one that was killed is on its way: the other one is left alone until it is back
    for state in ({"process": 0, "starting": True}, {"process": 9, "starting": True}):
        assert killed(20, instance(1, answered=False, **state), all_hung[1]) == 0
    assert killed(3, instance(1, process=9), all_hung[1]) == 2


def test_the_only_instance_is_killed_too() -> None:
    assert killed(5, instance(answered=False)) == 0
    assert killed(6, instance(answered=False)) == 1


def test_an_instance_that_was_given_up_is_not_waited_for() -> None:
    assert killed(6, Seen(1), instance(2, answered=False)) == 2


def test_one_that_starts_is_not_hung() -> None:
    assert killed(50, instance(1), instance(2, answered=False, starting=True)) == 0


def test_a_host_without_time_says_nothing_of_its_instances() -> None:
    hung = instance(2, answered=False)
    assert killed(50, instance(1), hung, busy=True) == 0
    counts = after(2, instance(1), hung)
    counts.take(RULES, [instance(1), hung], busy_host=True)
    assert counts.silent == {102: 2}


def test_an_answer_in_between_counts() -> None:
    counts = after(2, instance(1), instance(2, answered=False))
    counts.take(RULES, [instance(1), instance(2)], busy_host=False)
    assert counts.silent == {}


def test_nobody_is_killed_unless_that_is_asked_for() -> None:
    only_memory = Rules(recycle_memory_bytes=MEBIBYTE)
    hung = instance(answered=False)
    assert rules.to_kill(only_memory, [hung], after(50, hung, of=only_memory)) is None


# --- pauses ---------------------------------------------------------------------------------------


def test_pauses_grow_while_it_fails() -> None:
    assert rules.pause_seconds(RULES, 0) == 60
    assert [rules.pause_seconds(RULES, n) for n in (1, 2, 3)] == [300, 600, 1200]
    assert rules.pause_seconds(RULES, 10**6) == 6 * 3600
    # never shorter than asked for
    assert rules.pause_seconds(Rules(pause_seconds=10**5), 1) == 10**5


def test_a_limit_below_what_the_app_needs_is_told() -> None:
    assert rules.no_help(RULES, [instance(1, 60), instance(2, 80)]) == ""
    assert rules.no_help(Rules(), [instance(1, 600)]) == ""
    assert rules.no_help(RULES, []) == ""
    told = rules.no_help(RULES, [instance(1, 60), instance(2, 140)])
    assert told.startswith("the new instances use 140 MiB right after their start")
    assert "asgi_service_recycle_memory (100 MiB): set it higher" in told

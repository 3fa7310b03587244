# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the watch decides, from what it has seen."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

#: Part of age and requests by which instances may get more, so that hosts do not recycle at once.
JITTER = 0.1
#: Pauses after a recycling that failed or did not help; each is twice the one before.
FIRST_PAUSE_SECONDS = 300
LONGEST_PAUSE_SECONDS = 6 * 3600
#: A watch that sleeps longer than it wanted is on a host that has no time for anybody.
LATE_SECONDS = 1.0
MEBIBYTE = 2**20
#: What the watch has done, as it is written down.
RECYCLED, NOT_RECYCLED, KILLED = "recycled", "not recycled", "killed"


@dataclass(frozen=True)
class Rules:
    """What is watched; 0 and false are off.

    Args:
        recycle_memory_bytes: An instance that stays above it is replaced.
        recycle_age_seconds: Instances that are older are replaced.
        recycle_requests: Instances that have got more requests are replaced.
        hung: An instance that does not answer in time is killed.
        interval_seconds: Time between two checks.
        checks: In how many checks one after the other something must be so.
        pause_seconds: Shortest time between two recyclings.
    """

    recycle_memory_bytes: int = 0
    recycle_age_seconds: float = 0
    recycle_requests: int = 0
    hung: bool = False
    interval_seconds: float = 10
    checks: int = 3
    pause_seconds: float = 60


@dataclass(frozen=True)
class Seen:
    """One instance in one check.

    Args:
        number: Of the instance in its slot.
        process: Its main process; 0 where none runs.
        age_seconds: Since that process was started.
        starting: systemd starts it, or it may still need its time to start.
        memory_bytes: What it uses; None where that is not known.
        requests: How many it has got; None where that is not known.
        answered: It gave an answer in time, a good or a bad one. None where it was not asked.
    """

    number: int
    process: int = 0
    age_seconds: float = 0
    starting: bool = False
    memory_bytes: int | None = None
    requests: int | None = None
    answered: bool | None = None


@dataclass
class Counts:
    """For how many checks something has been so, by the process: a new one begins at 0."""

    large: dict[int, int] = field(default_factory=dict)
    silent: dict[int, int] = field(default_factory=dict)

    def take(self, rules: Rules, seen: Sequence[Seen], busy_host: bool) -> None:
        """Counts one more check.

        Args:
            rules: What is watched.
            seen: All instances of the slot.
            busy_host: Nobody had time in this check, so silence says nothing of an instance.
        """

        def large(one: Seen) -> bool:
            return 0 < rules.recycle_memory_bytes < (one.memory_bytes or 0)

        def silent(one: Seen) -> bool:
            return rules.hung and one.answered is False and not one.starting

        self.large = counted(self.large, seen, large)
        if not busy_host:
            self.silent = counted(self.silent, seen, silent)


def counted(
    before: Mapping[int, int], seen: Sequence[Seen], so: Callable[[Seen], bool]
) -> dict[int, int]:
    """Returns the counts of the processes for which something is so, one more for each."""
    return {one.process: before.get(one.process, 0) + 1 for one in seen if one.process and so(one)}


def with_jitter(limit: float, host: str, process: int) -> float:
    """Returns what a process may get: up to a tenth more than asked for, always the same."""
    share = zlib.crc32(f"{host} {process}".encode()) / 2**32
    return limit * (1 + JITTER * share)


def why_recycle(rules: Rules, seen: Sequence[Seen], counts: Counts, host: str) -> str:
    """Says why the slot is to be replaced; empty where it is not."""
    for one in seen:
        if counts.large.get(one.process, 0) >= rules.checks and one.memory_bytes is not None:
            return (
                f"instance {one.number} uses {mebibytes(one.memory_bytes)} MiB, more than"
                f" asgi_service_recycle_memory ({mebibytes(rules.recycle_memory_bytes)} MiB) in"
                f" {counts.large[one.process]} checks"
            )
    for one in seen:
        if rules.recycle_age_seconds and one.process:
            limit = with_jitter(rules.recycle_age_seconds, host, one.process)
            if one.age_seconds > limit:
                return (
                    f"instance {one.number} is {one.age_seconds:.0f} s old, more than"
                    f" asgi_service_recycle_age_seconds with its jitter ({limit:.0f} s)"
                )
        if rules.recycle_requests and one.requests is not None:
            limit = with_jitter(rules.recycle_requests, host, one.process)
            if one.requests > limit:
                return (
                    f"instance {one.number} has got {one.requests} requests, more than"
                    f" asgi_service_recycle_requests with its jitter ({limit:.0f})"
                )
    return ""


def to_kill(rules: Rules, seen: Sequence[Seen], counts: Counts) -> tuple[Seen, str] | None:
    """Returns the one instance that hangs and is to be killed, and why.

    Never a second one before the first is back. Where no other instance answers, it may be the
    host or a database that is slow, so it takes twice as many checks.
    """
    if any(one.starting for one in seen):
        return None
    others_answer = any(one.answered for one in seen)
    needed = rules.checks if others_answer else 2 * rules.checks
    silent = [one for one in seen if counts.silent.get(one.process, 0) >= needed]
    if not silent:
        return None
    worst = max(silent, key=lambda one: counts.silent[one.process])
    beside = "others answer" if others_answer else "no instance answers, so one at a time"
    return worst, (
        f"instance {worst.number} gave no answer in {counts.silent[worst.process]} checks while its"
        f" process {worst.process} lives ({beside})"
    )


def pause_seconds(rules: Rules, failures: int) -> float:
    """Returns how long to wait before the next recycling.

    Args:
        rules: The shortest pause.
        failures: How many recyclings have failed or not helped, one after the other.
    """
    if not failures:
        return rules.pause_seconds
    # the power would get too large for a float after years of failures
    longer = FIRST_PAUSE_SECONDS * 2.0 ** min(failures - 1, 20)
    return max(rules.pause_seconds, min(longer, LONGEST_PAUSE_SECONDS))


def no_help(rules: Rules, seen: Sequence[Seen]) -> str:
    """Says whether new instances use as much as is too much; empty where they do not."""
    used = max((one.memory_bytes or 0 for one in seen), default=0)
    if not 0 < rules.recycle_memory_bytes < used:
        return ""
    return (
        f"the new instances use {mebibytes(used)} MiB right after their start, which is more than"
        f" asgi_service_recycle_memory ({mebibytes(rules.recycle_memory_bytes)} MiB): set it higher"
    )


def mebibytes(size: int) -> int:
    """Returns bytes in MiB."""
    return size // MEBIBYTE

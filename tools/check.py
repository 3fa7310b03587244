#!/usr/bin/env python3
"""All checks of the project, in two tiers; the steps are in tools/tiers.py.

    tools/check.py                      tier 1, what `make test` and CI run: within 12 minutes
    tools/check.py --all                both tiers, what `make test-all` runs
    tools/check.py lint killed          some steps, or groups of steps
    tools/check.py --due                list the steps that have not passed for this tree
    tools/check.py --verbose unit       with all output

The last line counts: tests where a step has tests, else the step itself.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import lab
import record
import steps
import tiers

LOG = tiers.LOGS / "tools.log"
SHOWN_LINES = 400


@dataclass(frozen=True)
class Result:
    """A step that has ended."""

    step: tiers.Step
    outcome: tiers.Outcome
    seconds: float


class Unknown(Exception):
    """A name on the command line is that of no step."""


def chosen(names: Sequence[str], everything: bool, prefix: str = "") -> list[tiers.Step]:
    """The steps with these names or of these groups.

    Args:
        names: Names on the command line. Without any: tier 1.
        everything: Both tiers instead.
        prefix: See `tiers.all_steps`.

    Raises:
        Unknown: A name is that of no step.
    """
    known = tiers.all_steps(prefix)
    words = {step.name for step in known} | {step.group for step in known}
    unknown = sorted(set(names) - words)
    if unknown:
        raise Unknown(f"no step {', '.join(unknown)}; valid are {', '.join(sorted(words))}")
    if not names:
        return [step for step in known if everything or step.tier == 1]
    return [step for step in known if step.name in names or step.group in names]


def bootstrap(with_hosts: bool) -> None:
    """Install the tools and, if some step needs them, what starts hosts."""
    arguments = ["--tests", *(["--lab"] if with_hosts else [])]
    steps.demand([steps.ROOT / "tools" / "bootstrap.sh", *arguments], LOG)
    if with_hosts:
        words = [sys.executable, steps.ROOT / "tools" / "lab.py", "check"]
        steps.demand(words, LOG, append=True)


def tail(text: str) -> str:
    """The end of an output, which has the result."""
    lines = text.rstrip().splitlines()
    left_out = len(lines) - SHOWN_LINES
    note = [f"... {left_out} lines before these"] if left_out > 0 else []
    return "\n".join([*note, *lines[-SHOWN_LINES:]])


def say(text: str) -> None:
    """Print whole lines, though several threads do so, and at once, for whoever watches."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def report(result: Result, verbose: bool) -> None:
    """Print how a step ended, with what its tests have measured."""
    word = "FAILED" if result.outcome.failed else "ok"
    say(f"{word:<7} {result.step.name:<22} {result.seconds:6.1f} s   {result.outcome}")
    for figure in re.findall(r"measured: (.+)", result.outcome.text):
        say(f"        {figure}")
    if result.outcome.failed or verbose:
        say(f"{tail(result.outcome.text)}\n")


def run_steps(wanted: Sequence[tiers.Step], workers: int, verbose: bool) -> list[Result]:
    """Run the steps, some at a time; those that pass are recorded."""
    results: list[Result] = []
    before = record.checksums()

    def timed(step: tiers.Step) -> Result:
        say(f"...     {step.name}")
        started = time.monotonic()
        return Result(step, step.run(), time.monotonic() - started)

    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        futures: list[Future[Result]] = [pool.submit(timed, step) for step in wanted]
        for future in as_completed(futures):
            result = future.result()
            results.append(result)
            report(result, verbose)
            if not result.outcome.failed:
                remember(result, before)
    except KeyboardInterrupt:
        say("interrupted: ending what runs")
        pool.shutdown(wait=False, cancel_futures=True)
        steps.stop_all()
        raise
    finally:
        pool.shutdown()
    return results


def remember(result: Result, before: Mapping[str, str]) -> None:
    """Record that a step has passed, unless its files are not known or were changed meanwhile."""
    digest = record.digest(before, result.step.inputs)
    if before and digest == record.digest(record.checksums(), result.step.inputs):
        now = datetime.datetime.now(datetime.UTC)
        entry = {
            "digest": digest,
            "date": now.isoformat(timespec="seconds"),
            "seconds": round(result.seconds),
            "passed": result.outcome.passed,
        }
        record.write(result.step.name, entry)


def clean_up(connections: Path, groups: set[str]) -> None:
    """Leave no host and no connection behind, however the steps ended."""
    steps.shield()
    for control in connections.iterdir():
        # ssh looks only at the socket; the host's name does not matter.
        words = ["ssh", "-O", "exit", "-o", f"ControlPath={control}", "none"]
        subprocess.run(words, capture_output=True, check=False)
    if groups and lab.find_program("podman"):
        lab.down(*(groups & set(lab.all_groups())))
        lab.remove_interrupted_builds()


def table(results: Iterable[Result]) -> str:
    """The steps and their seconds, the longest first."""
    rows = sorted(results, key=lambda result: -result.seconds)
    lines = [f"{'step':<22} {'seconds':>7}   result"]
    lines += [f"{row.step.name:<22} {row.seconds:7.0f}   {row.outcome}" for row in rows]
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("steps", nargs="*", metavar="STEP", help="a step or a group of them")
    parser.add_argument("-v", "--verbose", action="store_true", help="show all output")
    parser.add_argument("-a", "--all", action="store_true", help="both tiers")
    parser.add_argument("-l", "--list", action="store_true", help="list the steps")
    parser.add_argument("-d", "--due", action="store_true", help="list what has not passed")
    parser.add_argument("--prefix", default="", help="put before the names of groups of hosts")
    parser.add_argument(
        "-j",
        "--jobs",
        type=int,
        # every step waits now and then: for a drain, for health, for a certificate
        default=(os.cpu_count() or 1) + 1,
        help="steps at a time; one per core and one more",
    )
    options = parser.parse_args()
    try:
        listing = options.all or options.list or options.due
        options.wanted = chosen(options.steps, listing, options.prefix)
    except Unknown as error:
        parser.error(str(error))
    return options


def show_due(wanted: Sequence[tiers.Step]) -> None:
    """List the steps that have not passed for the checkout as it is."""
    inputs = [(step.name, step.inputs) for step in wanted]
    found = record.due(inputs, record.checksums(), record.read())
    for step in wanted:
        if step.name in found:
            print(f"{step.name:<22} tier {step.tier}   {found[step.name]}")


def main() -> int:
    """Do what the command line says."""
    options = parse()
    if options.list:
        print("\n".join(f"{step.name:<22} tier {step.tier}" for step in options.wanted))
        return 0
    if options.due:
        show_due(options.wanted)
        return 0
    started = time.monotonic()
    groups = {step.hosts for step in options.wanted} - {""}
    with (
        steps.interruptible(),
        # Short, and directly under /tmp: the path of a socket is limited.
        tempfile.TemporaryDirectory(prefix="asgi-", ignore_cleanup_errors=True) as connections,
    ):
        os.environ[steps.CONNECTIONS] = connections
        try:
            bootstrap(bool(groups))
            say(f"ready   {'tools':<22} {time.monotonic() - started:6.1f} s")
            results = run_steps(options.wanted, options.jobs, options.verbose)
        except steps.StepFailed as error:
            say(f"FAILED  tools\n{error}\n0 passed, 1 failed, 0 skipped")
            return 1
        except KeyboardInterrupt:
            return 130
        finally:
            clean_up(Path(connections), groups)
    if options.all:
        say(f"\n{table(results)}")
    passed, failed, skipped = (
        sum(getattr(result.outcome, word) for result in results)
        for word in ("passed", "failed", "skipped")
    )
    say(f"\n{time.monotonic() - started:.0f} s, logs in {steps.shown(tiers.LOGS)}")
    say(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""All checks of the project, as `make test` and the CI run them.

    tools/check.py                      each promise of the collection once
    tools/check.py --all                also what shows them again, under more load: it takes hours
    tools/check.py lint unit            some steps
    tools/check.py --verbose molecule   with all output

The last line counts: tests where a step has tests, else the step itself.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import collection
import lab
import steps

CHECK = steps.CACHE / "check"
LOGS = CHECK / "logs"
ARTEFACT = CHECK / "collections"
EXAMPLE = steps.ROOT / "examples" / "blog"
DEMO_GROUP = "check-demo"
SCENARIOS = (
    "servers",
    "fleet",
    "traefik",
    "caddy",
    "caddy_upstream",
    "blog",
    "django",
    "datasette",
    "default",
)
#: What they show, others show too: `default` and the demo for the blog, on both Debians.
REPEATED = ("blog",)
#: They take minutes each: begun late, one of them would run on when all others have ended.
LONG = (
    "hosts-debian12",
    "killed",
    "rollout",
    "certificates",
    "balancer",
    "watch",
    "molecule-fleet",
    "molecule-servers",
)
#: The load of a journey, without and with --all. The lighter one leaves the machine room for the
#: steps beside it.
LIGHT_JOURNEY = ("--rate=40", "--requests=10000")
FULL_JOURNEY = ("--rate=250", "--requests=100000")
#: What pytest is told without --all.
NO_REPEATS = ("-m", "not repeat")
SHOWN_LINES = 400
SUMMARY = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)\b")
#: Held by the step that installs what is missing on this machine.
installing = threading.Lock()


@dataclass(frozen=True)
class Outcome:
    """How a step has ended, as counts of tests."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    text: str = ""

    def __str__(self) -> str:
        counts = [
            f"{number} {word}"
            for number, word in (
                (self.passed, "passed"),
                (self.failed, "failed"),
                (self.skipped, "skipped"),
            )
            if number
        ]
        return ", ".join(counts)


@dataclass(frozen=True)
class Step:
    """One step.

    `hosts` is the group of hosts in tools/lab.py that it starts. What is a `repeat` shows again, in
    another way, what another step shows.
    """

    name: str
    group: str
    action: Callable[[Path], Outcome]
    hosts: str = ""
    repeat: bool = False

    def run(self) -> Outcome:
        """Do it; whatever goes wrong counts as one failure."""
        log = LOGS / f"{self.name}.log"
        try:
            return self.action(log)
        except (steps.StepFailed, lab.LabError, OSError) as error:
            return Outcome(failed=1, text=str(error))


# --- kinds of steps -------------------------------------------------------------------------------


def pytest_outcome(code: int, output: str) -> Outcome:
    """Read the counts in the last line of pytest."""
    counts: dict[str, int] = {}
    lines = output.rstrip().splitlines()
    for number, word in SUMMARY.findall(lines[-1] if lines else ""):
        counts[word.rstrip("s")] = int(number)
    passed = counts.get("passed", 0) + counts.get("xfailed", 0)
    failed = counts.get("failed", 0) + counts.get("error", 0) + counts.get("xpassed", 0)
    # It may have failed without a failed test: a broken import, or no tests at all.
    if code != 0 or not counts:
        failed = max(failed, 1)
    return Outcome(passed, failed, counts.get("skipped", 0), output)


def command(*words: str | Path, **changes: str) -> Callable[[Path], Outcome]:
    """A step that is one command."""

    def action(log: Path) -> Outcome:
        code, output = steps.run(words, log, changes=changes)
        return Outcome(passed=int(code == 0), failed=int(code != 0), text=output)

    return action


def pytest(*words: str | Path, **changes: str) -> Callable[[Path], Outcome]:
    """A step that is a run of pytest."""

    def action(log: Path) -> Outcome:
        return pytest_outcome(*steps.run([*words, "-q"], log, changes=changes))

    return action


def scenario(name: str, everything: bool) -> Callable[[Path], Outcome]:
    """A step that is a scenario of Molecule."""
    extent = "" if everything else shlex.join(NO_REPEATS)
    return command(
        steps.BIN / "molecule",
        "test",
        f"--scenario-name={name}",
        "--no-command-borders",
        PYTEST_ADDOPTS=extent,
        NO_COLOR="1",
        ANSIBLE_NOCOLOR="1",
    )


# --- steps with more to them ----------------------------------------------------------------------


def documented(kind: str, names: Sequence[str], log: Path) -> list[str]:
    """Those plugins or roles for which ansible-doc has nothing to say."""
    words = [steps.BIN / "ansible-doc", "--json", f"--type={kind}", *names]
    changes = {"ANSIBLE_COLLECTIONS_PATH": str(ARTEFACT)}
    output = steps.demand(words, log, changes=changes, append=True)
    known = json.loads(output[output.index("{") :])
    return [f"{kind} {name} is not documented" for name in names if not known.get(name)]


def check_artefact(log: Path) -> Outcome:
    """Build, install, and read the documentation of everything in the artefact."""
    collection.install(ARTEFACT, log)
    installed = ARTEFACT / "ansible_collections" / "asgi" / "deploy"
    found = {
        "module": installed.glob("plugins/modules/*.py"),
        "filter": installed.glob("plugins/filter/*.yml"),
        "role": (path.parent for path in installed.glob("roles/*/tasks")),
    }
    missing = []
    for kind, paths in found.items():
        names = sorted(f"asgi.deploy.{path.stem}" for path in paths)
        missing += documented(kind, names, log) if names else [f"there is no {kind}"]
    return Outcome(passed=int(not missing), failed=int(bool(missing)), text="\n".join(missing))


def with_postgresql(action: Callable[[Path], Outcome]) -> Callable[[Path], Outcome]:
    """Lets a step bring up a PostgreSQL of its own; the first one installs the programs."""

    def run(log: Path) -> Outcome:
        with installing:
            here = any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
            if not here and lab.find_program("apt-get"):
                install = ["apt-get", "install", "-q", "-y", "--no-install-recommends"]
                quiet = {"DEBIAN_FRONTEND": "noninteractive"}
                for words in (["apt-get", "update", "-q"], [*install, "postgresql"]):
                    steps.demand(lab.as_root(words), log, changes=quiet)
        return action(log)

    return run


def check_example(log: Path) -> Outcome:
    """The tests of the blog itself."""
    action = pytest(
        steps.CACHE / "uv" / "bin" / "uv",
        "run",
        "--frozen",
        "--quiet",
        f"--directory={EXAMPLE}",
        "pytest",
        UV_PROJECT_ENVIRONMENT=str(CHECK / "blog-venv"),
        UV_PYTHON_DOWNLOADS="never",
        UV_COMPILE_BYTECODE="1",
    )
    return action(log)


def check_demo(log: Path) -> Outcome:
    """The demo brings the blog up, a second run changes nothing, and nothing stays behind."""
    demo = [sys.executable, steps.ROOT / "tools" / "demo.py", f"--group={DEMO_GROUP}"]
    steps.demand([*demo, "clean"], log)
    steps.demand(demo, log, append=True)
    again = steps.demand(demo, log, append=True)
    steps.demand([*demo, "clean"], log, append=True)
    problems = []
    if "nothing changed" not in again:
        problems.append(f"the second run of the demo changed something:\n{again}")
    if (steps.CACHE / DEMO_GROUP).exists() or lab.hosts_of(DEMO_GROUP):
        problems.append("the demo left something behind")
    return Outcome(passed=int(not problems), failed=len(problems), text="\n".join(problems))


def host_steps(everything: bool) -> list[Step]:
    """The tests on real hosts, a step for each set of hosts."""
    extent = () if everything else NO_REPEATS
    journey = FULL_JOURNEY if everything else LIGHT_JOURNEY

    def step(
        name: str, files: Sequence[str], group: str, *options: str, repeat: bool = False
    ) -> Step:
        paths = [steps.ROOT / "tests" / "hosts" / f"test_{file}.py" for file in files]
        words: list[str | Path] = [steps.BIN / "python", "-m", "pytest", "-s", "--durations=0"]
        action = pytest(*words, *paths, *options, *extent)
        return Step(name, "hosts", action, hosts=group, repeat=repeat)

    # first what the others have not changed yet
    site = ("time", "migration", "supervision", "second_app", "plan")
    newer = ("rollout", "supervision")
    return [
        step("hosts-debian12", site, "tests-web12", "--host=web12"),
        step("killed", ("lock", "killed"), "killed-web12", "--group=killed"),
        step(
            "rollout",
            ("rollout",),
            "rollout-web12",
            "--group=rollout",
            "--host=web12",
            *journey,
        ),
        step("traefik", ("traefik",), "traefik-traefik", "--group=traefik"),
        step(
            "certificates",
            ("certificates",),
            "certificates-certificates",
            "--group=certificates",
        ),
        step("balancer", ("balancer",), "balancer-balancer", "--group=balancer", *journey),
        step("watch", ("watch", "processes"), "watch-web12", "--group=watch", "--host=web12"),
        step("hosts-debian13", newer, "tests-web13", "--host=web13", repeat=True),
    ]


def all_steps(everything: bool) -> list[Step]:
    """All steps: those without hosts first, then the long ones."""
    python = steps.BIN / "python"
    linked = str(steps.CACHE)
    tests = [steps.ROOT / "tests" / name for name in ("unit", "templates", "contract", "docs")]
    with_hosts = [
        *host_steps(everything),
        *(
            Step(
                f"molecule-{name}",
                "molecule",
                scenario(name, everything),
                hosts=f"molecule-{name.replace('_', '-')}",
                repeat=name in REPEATED,
            )
            for name in SCENARIOS
        ),
        Step("demo", "demo", check_demo, hosts=DEMO_GROUP),
    ]
    return [
        Step("ruff", "lint", command(steps.BIN / "ruff", "check")),
        Step("format", "lint", command(steps.BIN / "ruff", "format", "--check")),
        Step("yamllint", "lint", command(steps.BIN / "yamllint", "--strict", ".")),
        Step("mypy", "lint", command(steps.BIN / "mypy")),
        Step("docs", "lint", command(python, steps.ROOT / "tools" / "docs.py", "--check")),
        Step("artefact", "artefact", check_artefact),
        Step("unit", "unit", with_postgresql(pytest(python, "-m", "pytest", *tests))),
        Step("example", "unit", with_postgresql(check_example)),
        Step(
            "ansible-lint",
            "lint",
            command(
                steps.BIN / "ansible-lint",
                "--offline",
                "--nocolor",
                ANSIBLE_COLLECTIONS_PATH=linked,
            ),
        ),
        *sorted(with_hosts, key=lambda step: step.name not in LONG),
    ]


# --- running them ---------------------------------------------------------------------------------


def chosen(names: Sequence[str], everything: bool) -> list[Step]:
    """The steps with these names or of these groups; all if none is named."""
    known = all_steps(everything)
    unknown = set(names) - {step.name for step in known} - {step.group for step in known}
    if unknown:
        words = sorted({step.name for step in known} | {step.group for step in known})
        raise steps.StepFailed(
            f"no step {', '.join(sorted(unknown))}; there are {', '.join(words)}"
        )
    return [
        step
        for step in known
        if step.name in names
        or ((not names or step.group in names) and (everything or not step.repeat))
    ]


def bootstrap(with_hosts: bool) -> None:
    """Make tools and, if they are wanted, hosts possible."""
    arguments = ["--lab"] if with_hosts else []
    steps.demand([steps.ROOT / "tools" / "bootstrap.sh", *arguments], LOGS / "tools.log")
    if with_hosts:
        words = [sys.executable, steps.ROOT / "tools" / "lab.py", "check"]
        steps.demand(words, LOGS / "tools.log", append=True)


def tail(text: str) -> str:
    """The end of an output, where what matters stands."""
    lines = text.rstrip().splitlines()
    left_out = len(lines) - SHOWN_LINES
    note = [f"... {left_out} lines before these"] if left_out > 0 else []
    return "\n".join([*note, *lines[-SHOWN_LINES:]])


def say(text: str) -> None:
    """Print whole lines, though several threads do so, and at once, for whoever watches."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def report(step: Step, outcome: Outcome, seconds: float, verbose: bool) -> None:
    """Say how a step has ended."""
    word = "FAILED" if outcome.failed else "ok"
    say(f"{word:<7} {step.name:<18} {seconds:6.1f} s   {outcome}")
    # what a test has measured is worth reading though it passed
    for figure in re.findall(r"measured: (.+)", outcome.text):
        say(f"        {figure}")
    if outcome.failed or verbose:
        say(f"{tail(outcome.text)}\n")


def run_steps(wanted: Sequence[Step], workers: int, verbose: bool) -> list[Outcome]:
    """Run the steps, some at a time."""
    outcomes: list[Outcome] = []

    def timed(step: Step) -> tuple[Outcome, float]:
        say(f"...     {step.name}")
        started = time.monotonic()
        return step.run(), time.monotonic() - started

    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        futures: dict[Future[tuple[Outcome, float]], Step] = {
            pool.submit(timed, step): step for step in wanted
        }
        for future in as_completed(futures):
            outcome, seconds = future.result()
            outcomes.append(outcome)
            report(futures[future], outcome, seconds, verbose)
    except KeyboardInterrupt:
        say("interrupted: ending what runs")
        pool.shutdown(wait=False, cancel_futures=True)
        steps.stop_all()
        raise
    finally:
        pool.shutdown()
    return outcomes


def clean_up(connections: Path, groups: set[str]) -> None:
    """Leave no host and no connection behind, however the steps have ended."""
    for control in connections.iterdir():
        # Only a socket of ours is asked; the host's name in it does not matter.
        words = ["ssh", "-O", "exit", "-o", f"ControlPath={control}", "none"]
        subprocess.run(words, capture_output=True, check=False)
    if groups and lab.find_program("podman"):
        for group in groups & set(lab.all_groups()):
            lab.down(group)


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("steps", nargs="*", metavar="STEP", help="a step or a group of them")
    parser.add_argument("-v", "--verbose", action="store_true", help="show all output")
    parser.add_argument("-a", "--all", action="store_true", help="also what shows the same again")
    parser.add_argument("-l", "--list", action="store_true", help="list the steps")
    parser.add_argument(
        "-j",
        "--jobs",
        type=int,
        # every step waits now and then: for a drain, for health, for a certificate
        default=(os.cpu_count() or 1) + 1,
        help="steps at a time; one a core and one more",
    )
    options = parser.parse_args()
    started = time.monotonic()
    try:
        wanted = chosen(options.steps, options.all)
    except steps.StepFailed as error:
        parser.error(str(error))
    if options.list:
        print("\n".join(f"{step.name:<18} {step.group}" for step in wanted))
        return 0
    groups = {step.hosts for step in wanted} - {""}
    # Short, and directly under /tmp: the path of a socket is limited.
    with (
        tempfile.TemporaryDirectory(prefix="asgi-") as connections,
        steps.stopped_by_sigterm(),
    ):
        os.environ[steps.CONNECTIONS] = connections
        try:
            bootstrap(bool(groups))
            say(f"ready   tools              {time.monotonic() - started:6.1f} s")
            outcomes = run_steps(wanted, options.jobs, options.verbose)
        except steps.StepFailed as error:
            say(f"FAILED  tools\n{error}")
            outcomes = [Outcome(failed=1)]
        except KeyboardInterrupt:
            return 130
        finally:
            clean_up(Path(connections), groups)
    passed, failed, skipped = (
        sum(getattr(outcome, word) for outcome in outcomes)
        for word in ("passed", "failed", "skipped")
    )
    print(f"\n{time.monotonic() - started:.0f} s, logs in {steps.shown(LOGS)}")
    say(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

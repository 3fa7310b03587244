"""The steps of tools/check.py: what each of them runs, and in which tier."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
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
#: They take ten minutes and more, the longest first: started late, one of them would go on when
#: all others have ended.
LONG = (
    "molecule-fleet",
    "killed",
    "hosts-debian12",
    "second-app",
    "certificates",
    "balancer",
    "watch",
    "molecule-servers",
    "rollout",
)
#: The load of the journey of tier 2.
FULL_LOAD = ("--rate=250", "--requests=100000")
#: What two cores sustain beside five hosts.
FLEET_LOAD = ("--rate=100", "--requests=30000")
#: What a step reads: paths that begin with one of these. A step of the whole checkout has "".
EVERYTHING = ("",)
PRODUCT = ("galaxy.yml", "meta/", "playbooks/", "plugins/", "roles/")
LAB = (
    *PRODUCT,
    *("examples/", "pyproject.toml", "uv.lock", "tests/load/"),
    *(f"tools/{name}" for name in ("bootstrap", "collection", "lab", "programs", "steps")),
)
HOSTS = (
    *LAB,
    "tests/conftest.py",
    *(f"tests/hosts/{name}.py" for name in ("conftest", "sites", "repositories")),
)

COUNTS = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)\b")
SKIPPED = re.compile(r"^SKIPPED \[(\d+)\] (?:\S+:\d+: |\S+ )?(.*)$", re.MULTILINE)
#: Why a test may be skipped. Any other skipped test fails the run: it has proven nothing.
ALLOWED_SKIPS = (
    "only root can be another user",
    "this is no checkout of git",
)


@dataclass(frozen=True)
class Outcome:
    """How a step ended, as counts of tests."""

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

    Attributes:
        name: Its name on the command line.
        group: A name for several steps on the command line.
        action: Runs it, with the file for its output.
        tier: 1 for what must pass before a change lands, 2 for the long proofs.
        hosts: The group of hosts in tools/lab.py that it starts.
        inputs: Which files it reads, see `record.digest`.
        prefix: What the names of its hosts and its log begin with, see `all_steps`.
    """

    name: str
    group: str
    action: Callable[[Path], Outcome]
    tier: int = 1
    hosts: str = ""
    inputs: Sequence[str] = EVERYTHING
    prefix: str = ""

    def run(self) -> Outcome:
        """Run it; whatever goes wrong counts as one failure."""
        try:
            return self.action(LOGS / f"{self.prefix}{self.name}.log")
        except (steps.StepFailed, lab.LabError, OSError) as error:
            return Outcome(failed=1, text=str(error))


# --- kinds of steps -------------------------------------------------------------------------------


def pytest_outcome(code: int, output: str) -> Outcome:
    """Read the counts in the last line of pytest; a skip without an allowed reason is a failure."""
    counts: dict[str, int] = {}
    lines = output.rstrip().splitlines()
    for number, word in COUNTS.findall(lines[-1] if lines else ""):
        counts[word.rstrip("s")] = int(number)
    passed = counts.get("passed", 0) + counts.get("xfailed", 0)
    failed = counts.get("failed", 0) + counts.get("error", 0) + counts.get("xpassed", 0)
    skipped = counts.get("skipped", 0)
    # It may have failed without a failed test: a broken import, or no tests at all.
    if code != 0 or not counts:
        failed = max(failed, 1)
    allowed = sum(
        int(number)
        for number, reason in SKIPPED.findall(output)
        if reason.startswith(ALLOWED_SKIPS)
    )
    if skipped > allowed:
        failed += skipped - allowed
        output += "\ntests were skipped without a reason of ALLOWED_SKIPS in tools/tiers.py"
    return Outcome(passed, failed, min(skipped, allowed), output)


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


def scenario(name: str) -> Step:
    """A step that is a scenario of Molecule."""
    words = ("test", f"--scenario-name={name}", "--no-command-borders")
    return Step(
        f"molecule-{name}",
        "molecule",
        command(steps.BIN / "molecule", *words, NO_COLOR="1", ANSIBLE_NOCOLOR="1"),
        tier=2,
        hosts=f"molecule-{name.replace('_', '-')}",
        inputs=(*LAB, ".config/molecule/", "molecule/resources/", f"molecule/{name}/"),
    )


def on_hosts(
    name: str, files: Sequence[str], group: str, *options: str, tier: int = 2, prefix: str = ""
) -> Step:
    """A step that is a run of pytest on real hosts.

    Args:
        name: Of the step.
        files: Names of files in tests/hosts, without `test_` and `.py`.
        group: What the name of the group of hosts begins with; the name of the host follows.
        options: For pytest.
        tier: Of the step.
        prefix: Put before the name of the group, see `all_steps`.
    """
    paths = [f"tests/hosts/test_{file}.py" for file in files]
    words: list[str | Path] = [steps.BIN / "python", "-m", "pytest", "-s", "--durations=0"]
    kind, _, host = group.rpartition("-")
    action = pytest(*words, *paths, f"--group={prefix}{kind}", *options)
    inputs = (*HOSTS, *paths)
    hosts = f"{prefix}{kind}-{host}"
    return Step(name, "hosts", action, tier, hosts=hosts, inputs=inputs, prefix=prefix)


# --- steps with more to them ----------------------------------------------------------------------


def documented(kind: str, names: Sequence[str], log: Path) -> list[str]:
    """Those plugins or roles that ansible-doc does not know."""
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


def check_demo(log: Path) -> Outcome:
    """The demo deploys the blog, a second run changes nothing, and nothing remains."""
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


# --- all of them ----------------------------------------------------------------------------------


def tier_1(prefix: str) -> Iterator[Step]:
    """What must pass before a change lands; the longest first."""
    python = steps.BIN / "python"
    tests = [f"tests/{name}" for name in ("unit", "templates", "contract", "docs")]
    example = pytest(
        *(steps.CACHE / "uv" / "bin" / "uv", "run", "--frozen", "--quiet"),
        *(f"--directory={EXAMPLE}", "pytest"),
        UV_PROJECT_ENVIRONMENT=str(CHECK / "blog-venv"),
        UV_PYTHON_DOWNLOADS="never",
        UV_COMPILE_BYTECODE="1",
    )
    ansible_lint = command(
        *(steps.BIN / "ansible-lint", "--offline", "--nocolor"),
        ANSIBLE_COLLECTIONS_PATH=str(steps.CACHE),
    )
    # a step of the journey builds on the one before
    options = ("--exitfirst", "--host=web12")
    yield on_hosts("journey", ["journey"], "journey-web12", *options, tier=1, prefix=prefix)
    yield Step("unit", "unit", pytest(python, "-m", "pytest", "--numprocesses=auto", *tests))
    yield Step("ansible-lint", "lint", ansible_lint)
    yield Step("example", "unit", example)
    group = "interrupted-journey-web12"
    yield on_hosts("interrupted", ["interrupted"], group, tier=1, prefix=prefix)
    yield Step("ruff", "lint", command(steps.BIN / "ruff", "check"))
    yield Step("format", "lint", command(steps.BIN / "ruff", "format", "--check"))
    yield Step("yamllint", "lint", command(steps.BIN / "yamllint", "--strict", "."))
    yield Step("mypy", "lint", command(steps.BIN / "mypy"))
    yield Step("docs", "lint", command(python, "tools/docs.py", "--check"))
    yield Step("artefact", "artefact", check_artefact)


def tier_2(prefix: str) -> Iterator[Step]:
    """The long proofs, each on hosts of its own."""

    def step(name: str, files: Sequence[str], group: str, *options: str) -> Step:
        return on_hosts(name, files, group, *options, prefix=prefix)

    # first what the others have not changed yet
    site = ("migration", "supervision", "build", "masking")
    newer = ("rollout", "supervision")
    yield step("hosts-debian12", site, "tests-web12", "--host=web12")
    yield step("second-app", ("second_app", "plan"), "second-web12", "--host=web12")
    yield step("killed", ("lock", "killed"), "killed-web12")
    yield step("fleet", ("fleet",), "fleet-fleet")
    yield step("rollout", ("rollout",), "rollout-web12", "--host=web12", *FULL_LOAD)
    yield step("repositories", ("repositories",), "repositories-web12", "--host=web12")
    yield step("traefik", ("traefik",), "traefik-traefik")
    yield step("certificates", ("certificates",), "certificates-certificates")
    yield step("balancer", ("balancer",), "balancer-balancer", *FLEET_LOAD)
    yield step("watch", ("watch", "processes"), "watch-web12", "--host=web12")
    yield step("hosts-debian13", newer, "tests-web13", "--host=web13")
    # both ends of the versions that the README claims
    for end in ("oldest", "newest"):
        yield step(end, ("versions",), f"versions-{end}", f"-k{end}")
    yield from (scenario(name) for name in SCENARIOS)
    demo = (*LAB, "tools/demo.py")
    yield Step("demo", "demo", check_demo, tier=2, hosts=DEMO_GROUP, inputs=demo)


def all_steps(prefix: str = "") -> list[Step]:
    """All steps: those of tier 1, then the long ones, then the others.

    Args:
        prefix: Put before the names of groups of hosts, so that two runs of one step have hosts of
            their own.
    """
    long_first = sorted(
        tier_2(prefix),
        key=lambda step: LONG.index(step.name) if step.name in LONG else len(LONG),
    )
    return [*tier_1(prefix), *long_first]

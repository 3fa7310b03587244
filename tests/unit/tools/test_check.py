"""Runs of tools/check.py: what they choose, count and record, and how signals end them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import check
import pytest
import tiers

TOOLS = Path(check.__file__).parent
#: A run of one step that no signal but SIGKILL ends, in the session of its group and in its own;
#: it prints what it started. Its temporary directory is in the current one.
STUBBORN = """
import sys, tempfile
from pathlib import Path
import check, lab, steps, tiers
here = Path.cwd()
steps.GRACE_SECONDS = 1
tempfile.tempdir = str(here)
tiers.LOGS = here / "logs"
check.LOG = tiers.LOGS / "tools.log"
lab.find_program = lambda name: None
check.record.checksums = lambda: {}
script = "trap '' INT TERM HUP; echo $$ > {}/{}; while :; do sleep 0.1; done"
both = f"setsid sh -c \\"{script.format(here, 'apart')}\\" & {script.format(here, 'inside')}"
action = tiers.command("sh", "-c", both)
tiers.all_steps = lambda prefix="": [tiers.Step("stubborn", "unit", action)]
check.bootstrap = lambda with_hosts: None
sys.exit(check.main())
"""


def alive(pid: int) -> bool:
    """Whether a process is there, other than as one that has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_for(question: Callable[[], bool]) -> None:
    """Wait until the answer is yes."""
    deadline = time.monotonic() + 60
    while not question():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("ignored", [(), (signal.SIGINT,)], ids=["plain", "in the background"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_run_and_all_that_it_started(
    tmp_path: Path, number: signal.Signals, ignored: tuple[signal.Signals, ...]
) -> None:
    """Also what ignores signals and has left the group; also where the caller ignores SIGINT."""

    def as_caller() -> None:
        for one in ignored:
            signal.signal(one, signal.SIG_IGN)

    process = subprocess.Popen(
        [sys.executable, "-c", STUBBORN],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(TOOLS)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=as_caller,
    )
    files = [tmp_path / "inside", tmp_path / "apart"]
    wait_for(lambda: process.poll() is not None or all(f.exists() and f.read_text() for f in files))
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(number)
    # a second one, as of an impatient user, does not stop the clean-up
    time.sleep(0.2)
    process.send_signal(number)
    output, _nothing = process.communicate(timeout=10)
    assert process.returncode == 130, output
    assert output.endswith("interrupted: ending what runs\n")
    for file in files:
        assert not alive(int(file.read_text())), file.name
    assert not list(tmp_path.glob("asgi-*"))


def test_nohup_keeps_a_run_alive_when_the_terminal_closes(tmp_path: Path) -> None:
    program = (
        "import os, signal, subprocess, sys, steps\n"
        "with steps.interruptible():\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    program = 'import signal; print(signal.getsignal(1) == signal.SIG_DFL)'\n"
        "    subprocess.run([sys.executable, '-c', program], check=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(TOOLS)},
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    # what it starts does not inherit that
    assert done.stdout.strip() == "True"


def test_without_names_tier_1_is_chosen() -> None:
    assert {step.tier for step in check.chosen([], everything=False)} == {1}
    assert {step.tier for step in check.chosen([], everything=True)} == {1, 2}


def test_steps_and_groups_are_chosen_by_name() -> None:
    names = {step.name for step in check.chosen(["killed", "lint"], everything=False)}
    assert {"killed", "ruff", "mypy"} <= names
    assert "unit" not in names


def test_an_unknown_step_is_rejected_with_the_valid_ones() -> None:
    with pytest.raises(check.Unknown, match=r"no step lnit; valid are .*\blint\b"):
        check.chosen(["lnit"], everything=False)


def test_a_prefix_gives_hosts_of_their_own() -> None:
    plain, own = (check.chosen(["journey"], False, prefix)[0] for prefix in ("", "mine-"))
    assert own.hosts == f"mine-{plain.hosts}"


def test_no_two_steps_have_one_name_or_share_hosts() -> None:
    steps = tiers.all_steps()
    assert len({step.name for step in steps}) == len(steps)
    hosts = [step.hosts for step in steps if step.hosts]
    assert len(set(hosts)) == len(hosts)


@pytest.mark.parametrize(
    ("code", "output", "counts"),
    [
        (0, "12 passed in 3.0s", (12, 0, 0)),
        (1, "2 failed, 12 passed, 1 error in 3.0s", (12, 3, 0)),
        (2, "Interrupted", (0, 1, 0)),
        (5, "no tests ran in 0.01s", (0, 1, 0)),
        (
            0,
            "SKIPPED [2] tests/a.py:3: only root can be another user\n5 passed, 2 skipped in 1s",
            (5, 0, 2),
        ),
        (
            0,
            "SKIPPED [1] tests/a.py:3: caddy is not on this machine\n5 passed, 1 skipped in 1s",
            (5, 1, 0),
        ),
        (0, "5 passed, 1 skipped in 1s", (5, 1, 0)),
    ],
)
def test_pytest_is_counted_and_a_skip_needs_an_allowed_reason(
    code: int, output: str, counts: tuple[int, int, int]
) -> None:
    outcome = tiers.pytest_outcome(code, output)
    assert (outcome.passed, outcome.failed, outcome.skipped) == counts


def test_the_table_has_the_longest_step_first() -> None:
    quick, slow = (
        check.Result(tiers.Step(name, "unit", lambda log: tiers.Outcome()), tiers.Outcome(1), n)
        for name, n in (("quick", 2.0), ("slow", 61.4))
    )
    lines = check.table([quick, slow]).splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["step", "seconds"],
        ["slow", "61"],
        ["quick", "2"],
    ]


@pytest.mark.parametrize(
    ("before", "after", "recorded"),
    [
        ({"a": "1"}, {"a": "1"}, ["quick"]),
        ({"a": "1"}, {"a": "2"}, []),
        # no checkout of git
        ({}, {}, []),
    ],
)
def test_a_step_is_recorded_only_for_files_that_stayed_the_same(
    before: dict[str, str],
    after: dict[str, str],
    recorded: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written: list[str] = []
    monkeypatch.setattr(check.record, "checksums", lambda: after)
    monkeypatch.setattr(check.record, "write", lambda step, _entry: written.append(step))
    step = tiers.Step("quick", "unit", lambda log: tiers.Outcome())
    check.remember(check.Result(step, tiers.Outcome(1), 2.0), before)
    assert written == recorded

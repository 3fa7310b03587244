"""A run of the checks that is interrupted while it deploys leaves no host behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lab
import pytest
from sites import ROOT, until


def deploying(group: str) -> bool:
    """Whether a playbook is logged in on the host of this group."""
    hosts = lab.hosts_of(group)
    search = ["pgrep", f"--uid={lab.USER}", "sshd"]
    return bool(hosts) and hosts[0].run(search, check=False).returncode == 0


@pytest.mark.parametrize(
    ("number", "send"),
    [
        # what a terminal does: the whole foreground group gets it
        (signal.SIGINT, os.killpg),
        (signal.SIGHUP, os.killpg),
        # what a CI runner or an init does: the first process gets it, and passes it on
        (signal.SIGTERM, os.kill),
    ],
    ids=str,
)
def test_a_signal_removes_the_hosts(
    pytestconfig: pytest.Config,
    tmp_path: Path,
    number: signal.Signals,
    send: Callable[[int, int], None],
) -> None:
    """Sent to `make`, while a playbook works on a host."""
    group = f"{pytestconfig.getoption('--group')}-web12"
    prefix = group.removesuffix("journey-web12")
    makefile = tmp_path / "Makefile"
    check = f"{sys.executable} {ROOT}/tools/check.py --prefix={prefix} journey"
    makefile.write_text(f"test:\n\t@{check}\n")
    log = tmp_path / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            ["make", f"--file={makefile}", "test"],
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        assert until(lambda: deploying(group) or process.poll() is not None, 300), log.read_text()
        assert process.poll() is None, log.read_text()
        send(process.pid, number)
        process.wait(10)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert "interrupted: ending what runs" in log.read_text()
    assert lab.hosts_of(group) == []
    assert group not in lab.all_groups()
    assert not deploying(group)

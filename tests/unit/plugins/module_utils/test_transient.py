"""How systemd is asked to run a program, and what is made of its end."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Any

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import systemd, transient
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.transient import Ended

SHOWN = """Id=blog-build@1-1.service
ActiveState=failed
Result={result}
ExecMainStatus={status}
"""


class Systemd:
    """Stands for systemd: takes down the commands, and gives a unit its end."""

    def __init__(self, code: int, result: str = "", status: int = 0) -> None:
        self.code, self.shown = code, SHOWN.format(result=result, status=status)
        self.started: Sequence[str] = ()
        self.asked: list[tuple[str, ...]] = []

    def run(self, argv: Sequence[str], **_more: Any) -> subprocess.CompletedProcess[str]:
        """Takes the place of commands.run."""
        self.started = argv
        if self.code < 0:
            raise DeployError("took longer")
        return subprocess.CompletedProcess(argv, self.code, "out", "err")

    def systemctl(self, *arguments: str, **_more: Any) -> str:
        """Takes the place of systemd.systemctl."""
        self.asked.append(arguments)
        return self.shown


def ended(monkeypatch: pytest.MonkeyPatch, manager: Systemd) -> Ended:
    """Runs a unit under it."""
    monkeypatch.setattr(transient, "run", manager.run)
    monkeypatch.setattr(systemd, "systemctl", manager.systemctl)
    monkeypatch.setattr(systemd, "journal", lambda _units, _since: "journal")
    argv = ["/bin/echo", "$HOME ${HOME} %h 'a b'"]
    return transient.run_unit("blog-build@1-1.service", argv, [("User", "x")], 900)


def test_the_program_gets_its_arguments_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = Systemd(0)
    assert ended(monkeypatch, manager) == Ended(0, "out", "err")
    # systemd expands $ in the command of a transient unit, but not %
    assert manager.started[-2:] == ["/bin/echo", "$$HOME $${HOME} %h 'a b'"]
    assert {"--unit=blog-build@1-1.service", "--property=User=x", "--wait", "--pipe"} <= set(
        manager.started
    )
    assert {"--service-type=oneshot", "--property=TimeoutStartSec=900"} <= set(manager.started)
    assert "--property=KillSignal=SIGKILL" in manager.started
    assert manager.asked == []


@pytest.mark.parametrize(("version", "given"), [(247, False), (252, True)])
def test_a_property_that_systemd_does_not_know_is_left_out(
    monkeypatch: pytest.MonkeyPatch, version: int, given: bool
) -> None:
    """systemd-run would fail: unknown assignment."""
    manager = Systemd(0)
    monkeypatch.setattr(transient, "run", manager.run)
    monkeypatch.setattr(systemd, "version", lambda: version)
    properties = [("PrivateIPC", "yes"), ("PrivateMounts", "yes")]
    transient.run_unit("blog-import@1.service", ["/bin/true"], properties, 900)
    assert ("--property=PrivateIPC=yes" in manager.started) is given
    assert "--property=PrivateMounts=yes" in manager.started


@pytest.mark.parametrize(
    ("manager", "wanted"),
    [
        (Systemd(3, "exit-code", 3), Ended(3, "out", "err", "exit-code")),
        (Systemd(203, "exit-code", 203), Ended(203, "out", "err", "exit-code", 0, "journal")),
        (Systemd(1, "timeout", 9), Ended(1, "out", "err", "timeout", 0, "journal")),
        (Systemd(1, "oom-kill", 9), Ended(1, "out", "err", "oom-kill", 0, "journal")),
        (Systemd(1, "signal", 11), Ended(1, "out", "err", "signal", 11, "journal")),
    ],
)
def test_a_failed_unit_is_asked_for_its_end_and_unloaded(
    monkeypatch: pytest.MonkeyPatch, manager: Systemd, wanted: Ended
) -> None:
    assert ended(monkeypatch, manager) == wanted
    assert manager.asked[-1] == ("reset-failed", "blog-build@1-1.service")


def test_a_unit_that_is_no_longer_waited_for_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    manager = Systemd(-1)
    with pytest.raises(DeployError, match="took longer"):
        ended(monkeypatch, manager)
    assert manager.asked[0] == ("stop", "blog-build@1-1.service")

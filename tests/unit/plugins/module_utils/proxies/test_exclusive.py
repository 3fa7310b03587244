"""Changes of a proxy for several apps, one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.proxies import (
    caddy,
    driver,
    exclusive,
    traefik,
)

HOLDER = """
import fcntl, sys, time
file = open(sys.argv[1], "a+")
fcntl.flock(file, fcntl.LOCK_EX)
file.write("pid of another app")
file.flush()
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def other_app() -> Iterator[subprocess.Popen[str]]:
    """A process that changes the proxy for another app."""
    exclusive.LOCK_FILE.parent.mkdir(exist_ok=True)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, exclusive.LOCK_FILE], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield holder
        holder.kill()


def test_a_change_waits_for_that_of_another_app(other_app: subprocess.Popen[str]) -> None:
    assert other_app.poll() is None
    subprocess.Popen(["sh", "-c", f"sleep 0.5; kill {other_app.pid}"])
    began = time.monotonic()
    with exclusive.one_change():
        assert other_app.wait(10) != 0
        assert exclusive.LOCK_FILE.read_text() == f"pid {os.getpid()}"
    assert time.monotonic() - began > 0.4


@pytest.mark.parametrize("provider", ["caddy", "traefik"])
def test_every_change_of_a_proxy_waits(
    app: Layout,
    tmp_path: Path,
    other_app: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
    provider: str,
) -> None:
    monkeypatch.setattr(exclusive, "TIMEOUT_SECONDS", 0.2)
    # nothing else of a host is asked
    for module in (caddy, traefik):
        monkeypatch.setattr(module, "CONFIGURATION", tmp_path / "etc")
    calls = [
        lambda: driver(provider).switch(app, "green"),
        lambda: driver(provider).configure({}, [], {}, False),
    ]
    if provider == "traefik":
        calls.append(lambda: driver(provider).tell_balancer(app))
    for call in calls:
        with pytest.raises(DeployError, match=r"changed for another app \(pid of another app\)"):
            call()
    assert not app.switch_file.exists()
    assert other_app.poll() is None

"""An app's layout below a directory of the test."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import contained, systemd, transient
from ansible_collections.asgi.deploy.plugins.module_utils import layout as layout_module
from ansible_collections.asgi.deploy.plugins.module_utils.contained import Contained
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.proxies import exclusive
from ansible_collections.asgi.deploy.plugins.module_utils.transient import Ended, Property


class TestLayout(Layout):
    """Keeps the environment files inside the test's directory too."""

    __test__ = False

    @property
    def draining_file(self) -> Path:
        return self.root / "run" / f"{self.name}.draining"

    @property
    def configuration(self) -> Path:
        """Beside the root, where the real one is /etc/asgi."""
        return self.root.parent / "configuration"


@pytest.fixture(autouse=True)
def own_lock_of_the_proxies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one of this machine, which only root may have."""
    monkeypatch.setattr(exclusive, "LOCK_FILE", tmp_path / "run-proxy" / "proxy.lock")


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """An app that was never deployed; its units go to a directory of the test."""
    units = tmp_path / "units"
    units.mkdir()
    monkeypatch.setattr(layout_module, "SYSTEM_UNITS", units)
    # the default of `directory` was bound when the function was made
    monkeypatch.setattr(systemd.enabled, "__defaults__", (units,))
    root = tmp_path / "root"
    for directory in ("releases", "manifests", "slots", "serving"):
        (root / directory).mkdir(parents=True)
    found = TestLayout("blog", root)
    found.configuration.mkdir()
    return found


@pytest.fixture
def stage(app: Layout) -> Callable[..., None]:
    """Puts releases on the host, the given one built at the given time."""

    def put(release: str, built_at: str = "2026-01-01T00:00:00+00:00", **more: Any) -> None:
        packages = app.release(release) / "venv" / "lib" / "python3.11" / "site-packages"
        (packages / "uvicorn").mkdir(parents=True)
        interpreter = app.root / "python3.11"
        interpreter.touch(mode=0o755)
        program = app.release(release) / "venv" / "bin" / "python"
        program.parent.mkdir()
        program.symlink_to(interpreter)
        manifest = {"release": release, "built_at": built_at, **more}
        app.manifest(release).write_text(json.dumps(manifest), encoding="utf-8")

    return put


def run_without_systemd(
    unit: str,
    argv: Sequence[str],
    properties: Sequence[Property],
    timeout_seconds: float,
    input_file: Path | None = None,
) -> Ended:
    """Takes the place of transient.run_unit: runs the program as the user of the tests."""
    given = dict(properties)
    lines = shlex.split(Path(given["EnvironmentFile"]).read_text())
    with Path(input_file or os.devnull).open("rb") as standard_input:
        done = subprocess.run(
            argv,
            stdin=standard_input,
            capture_output=True,
            text=True,
            env=dict(line.split("=", 1) for line in lines),
            cwd=given["WorkingDirectory"],
            timeout=timeout_seconds,
            check=False,
        )
    result = "exit-code" if done.returncode else "success"
    return Ended(done.returncode, done.stdout, done.stderr, result)


@pytest.fixture
def uncontained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Contained:
    """Runs the steps of a build where there is no systemd."""
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(contained, "PRIVATE_FILES", tmp_path / "run" / "build")
    monkeypatch.setattr(transient, "run_unit", run_without_systemd)
    return Contained("blog", "blog-build")

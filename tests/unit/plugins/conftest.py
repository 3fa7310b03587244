"""An app's layout below a directory of the test."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import layout as layout_module
from ansible_collections.asgi.deploy.plugins.module_utils import systemd
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.transient import Ended


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
        manifest = {"release": release, "built_at": built_at, **more}
        app.manifest(release).write_text(json.dumps(manifest), encoding="utf-8")

    return put


class Uncontained:
    """Runs the steps of a build where there is no systemd."""

    def run(
        self,
        argv: Sequence[str],
        *,
        purpose: str,
        environment: Mapping[str, str] | None = None,
        secret_files: Mapping[str, str] | None = None,
        directory: Path | None = None,
        input_file: Path | None = None,
        check: bool = True,
    ) -> Ended:
        assert not secret_files
        with Path(input_file or os.devnull).open("rb") as given:
            done = subprocess.run(
                argv,
                stdin=given,
                capture_output=True,
                text=True,
                env={"PATH": os.defpath, **(environment or {})},
                cwd=directory,
                check=False,
            )
        ended = Ended(done.returncode, done.stdout, done.stderr, "exit-code")
        if check and done.returncode:
            raise DeployError(f"{purpose}: code {done.returncode}: {ended.output}")
        return ended


@pytest.fixture
def uncontained() -> Uncontained:
    """Runs the steps of a build as the user of the tests."""
    return Uncontained()

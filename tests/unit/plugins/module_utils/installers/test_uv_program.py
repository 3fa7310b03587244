"""The program uv, which root installs for all apps."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import contained
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.installers import (
    BuildSettings,
    uv_program,
)


def test_no_code_of_an_index_runs_where_uv_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root installs it, from the index of the app: never by building it."""
    index, ran = tmp_path / "index" / "uv", tmp_path / "ran"
    index.mkdir(parents=True)
    (index / "index.html").write_text('<a href="uv-9.9.tar.gz">uv-9.9.tar.gz</a>')
    with tarfile.open(index / "uv-9.9.tar.gz", "w:gz") as tar:
        for name, text in (
            ("PKG-INFO", "Metadata-Version: 2.1\nName: uv\nVersion: 9.9\n"),
            ("backend.py", f"open({str(ran)!r}, 'w')\n"),
            (
                "pyproject.toml",
                '[project]\nname = "uv"\nversion = "9.9"\n[build-system]\nrequires = []\n'
                'build-backend = "backend"\nbackend-path = ["."]\n',
            ),
        ):
            member = tarfile.TarInfo(f"uv-9.9/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    monkeypatch.setattr(uv_program, "TOOL_DIRECTORY", tmp_path / "tools")
    monkeypatch.setattr(contained, "PRIVATE_FILES", tmp_path / "run" / "build")
    (tmp_path / "run").mkdir()
    settings = BuildSettings(uv_version="9.9", index={"url": f"file://{tmp_path}/index"})
    with pytest.raises(DeployError, match=r"to install uv ended with code 1"):
        uv_program.ensure_uv(settings)
    assert not ran.exists()
    assert list((tmp_path / "tools").iterdir()) == []

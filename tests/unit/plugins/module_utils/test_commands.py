"""Programs are run without a shell, and their failures are told in full."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import commands
from ansible_collections.asgi.deploy.plugins.module_utils.commands import run, tail
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError


def python(script: str, **options: object) -> str:
    """Runs Python code and returns what it printed."""
    options.setdefault("timeout_seconds", 30)
    return run([sys.executable, "-c", script], **options).stdout  # type: ignore[arg-type]


def test_a_program_sees_only_what_it_is_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "x")
    shown = python(
        "import os, sys; print(sorted(os.environ)); print(os.getcwd()); print(sys.stdin.read())",
        environment={"GIVEN": "1"},
        directory=tmp_path,
    )
    environment, directory, read = shown.splitlines()
    assert "SECRET_OF_THE_CALLER" not in environment
    assert "GIVEN" in environment
    assert directory == str(tmp_path)
    assert read == ""


def test_a_program_may_read_a_file(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("content", encoding="utf-8")
    script = "import sys; print(sys.stdin.read())"
    assert python(script, input_file=tmp_path / "in") == "content\n"


def test_a_failure_is_told_with_code_purpose_and_output() -> None:
    script = "import sys; print('out'); print('err', file=sys.stderr); sys.exit(4)"
    with pytest.raises(DeployError) as caught:
        python(script, doing="install packages")
    for part in ("to install packages", "code 4", "out", "err"):
        assert part in caught.value.message
    assert run([sys.executable, "-c", script], timeout_seconds=30, check=False).returncode == 4


def test_a_program_that_hangs_is_stopped() -> None:
    with pytest.raises(DeployError, match=r"took longer than 0\.2 s"):
        python("import time; time.sleep(30)", timeout_seconds=0.2)


def test_the_last_of_endless_output_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "OUTPUT_BYTES", 1000)
    shown = python("print('x' * 10**6); print('the end')")
    assert 1000 <= len(shown) <= 2000
    assert shown.endswith("x\nthe end\n")


def test_a_program_that_hands_its_output_on_is_not_waited_for_without_end() -> None:
    script = "import os, time; print('done'); os.fork() or time.sleep(30)"
    with pytest.raises(DeployError, match="took longer"):
        python(script, timeout_seconds=0.5)


def test_a_program_that_is_missing_is_named() -> None:
    with pytest.raises(DeployError, match="cannot run no-such-program to try"):
        run(["no-such-program"], timeout_seconds=1, doing="try")


def test_tail() -> None:
    assert tail("\n1\n2\n3\n\n", 2) == "2\n3"
    assert tail("") == ""

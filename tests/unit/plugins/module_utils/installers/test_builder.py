"""The commands of a build, and bytecode."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils.contained import Contained
from ansible_collections.asgi.deploy.plugins.module_utils.dependencies import Dependencies
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.installers import (
    Build,
    Builder,
    BuildSettings,
)
from ansible_collections.asgi.deploy.plugins.module_utils.installers.bytecode import (
    COMPILE_PACKAGES,
)


@pytest.fixture
def builder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uncontained: Contained
) -> Callable[..., Builder]:
    """Makes builders whose virtual environment is only an interpreter."""

    def installed(self: Builder, _found: Dependencies) -> None:
        self.python.parent.mkdir(parents=True)
        self.python.symlink_to(sys.executable)
        (self.python.parent / "tool").write_text('#!/bin/sh\necho "$1" > made\n')
        (self.python.parent / "tool").chmod(0o755)

    monkeypatch.setattr(Builder, "install", installed)
    (tmp_path / "source").mkdir()

    index = {"url": "https://pypi.example.com/simple", "username": "u", "password": "s3cret"}

    def make(*commands: str) -> Builder:
        return Builder(
            Build(BuildSettings(commands=commands, index=index), "main:app"),
            uncontained,
            tmp_path,
            tmp_path / "cache",
            Dependencies("requirements.txt", ["requirements.txt"]),
        )

    return make


def test_commands_run_in_the_app_with_what_was_installed(
    builder: Callable[..., Builder], tmp_path: Path
) -> None:
    code = "import os, pathlib; pathlib.Path('seen').write_text(' '.join(sorted(os.environ)))"
    builder("tool 'two words'", f'MORE=1 python -c "{code}"').run()
    assert (tmp_path / "source" / "made").read_text() == "two words\n"
    seen = (tmp_path / "source" / "seen").read_text().split()
    assert {"HOME", "MORE", "PATH"} <= set(seen)
    assert not [name for name in seen if name == "NETRC" or name.startswith(("UV_", "PIP_"))]


def test_a_command_that_fails_is_told_with_its_output(builder: Callable[..., Builder]) -> None:
    with pytest.raises(DeployError, match="asgi_app_build_commands") as caught:
        builder("sh -c 'echo no-static-root >&2; exit 3'", "touch never").run()
    assert "code 3" in caught.value.message
    assert "no-static-root" in caught.value.message


# --- package data ---------------------------------------------------------------------------------


def test_what_the_build_of_a_package_leaves_out_is_noted(builder: Callable[..., Builder]) -> None:
    """A page without its template would be the first to say so."""
    made = builder()
    source, packages = (
        made.source / "src",
        made.environment.directory / "lib/python3.x/site-packages",
    )
    for root in (source, packages):
        (root / "blog" / "static").mkdir(parents=True)
        (root / "blog" / "main.py").touch()
        (root / "blog" / "static" / "x.css").touch()
    (source / "blog" / "home.html").touch()
    (source / "blog" / "extra.py").touch()
    (source / "blog.egg-info").mkdir()
    (source / "blog.egg-info" / "SOURCES.txt").touch()
    made.run()
    (note,) = made.notes
    assert note.startswith("not installed, as the build of the package leaves it out: blog/home.ht")


# --- bytecode -------------------------------------------------------------------------------------


def compile_packages(*environments: Path) -> None:
    words = [sys.executable, "-I", "-S", "-c", COMPILE_PACKAGES]
    subprocess.run([*words, *map(str, environments)], check=True)


def compiled(path: Path) -> bytes | None:
    bytecode = Path(importlib.util.cache_from_source(path))
    return bytecode.read_bytes() if bytecode.exists() else None


@pytest.fixture
def packages(tmp_path: Path) -> list[Path]:
    """The packages of two releases."""
    found = [tmp_path / name / "lib" / "python3.x" / "site-packages" for name in ("a", "b")]
    for path in found:
        (path / "package").mkdir(parents=True)
    return found


def test_bytecode_of_a_file_that_two_releases_have_is_the_same(
    tmp_path: Path, packages: list[Path]
) -> None:
    """So that they can share it."""
    for number, path in enumerate(packages):
        (path / "own.py").write_text(f"print({number})\n")
        (path / "template.py").write_text("{{ no python }}\n")
        (path / "package" / "__init__.py").write_text("def value() -> int:\n    return 1\n")
        os.utime(path / "package" / "__init__.py", (number, number))
    compile_packages(tmp_path / "a")
    compile_packages(tmp_path / "b", tmp_path / "a")
    shared = [path / "package" / "__init__.py" for path in packages]
    assert compiled(shared[0]) == compiled(shared[1]) is not None
    # bytecode is valid for one time of its source
    assert [path.stat().st_mtime for path in shared] == [0, 0]
    assert compiled(packages[1] / "own.py") not in (None, compiled(packages[0] / "own.py"))
    assert compiled(packages[1] / "template.py") is None
    # which file it was made from is found when it is imported
    script = "import package; print(package.value.__code__.co_filename)"
    words = [sys.executable, "-S", "-c", script]
    environment = {"PYTHONPATH": str(packages[1])}
    seen = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    assert seen.stdout.strip() == str(shared[1])


def test_bytecode_is_taken_from_nobody(tmp_path: Path, packages: list[Path]) -> None:
    """A package of the former release, or a build of this one, may have forged it."""
    for path in packages:
        (path / "module.py").write_text("VALUE = 1\n")
        os.utime(path / "module.py", (1, 1))
    for name in ("a", "b"):
        compile_packages(tmp_path / name)
    good = compiled(packages[0] / "module.py") or b""
    for path in packages:
        bytecode = Path(importlib.util.cache_from_source(path / "module.py"))
        bytecode.write_bytes(good[:16] + b"forged")
    compile_packages(tmp_path / "b", tmp_path / "a")
    assert compiled(packages[1] / "module.py") == good


def test_bytecode_of_a_file_that_was_changed_is_made_again(
    tmp_path: Path, packages: list[Path]
) -> None:
    for number, path in enumerate(packages):
        (path / "changed.py").write_text(f"VALUE = {number}\n")
        os.utime(path / "changed.py", (1, 1))
    compile_packages(tmp_path / "a")
    before = compiled(packages[0] / "changed.py")
    compile_packages(tmp_path / "b", tmp_path / "a")
    assert compiled(packages[1] / "changed.py") not in (None, before)
    assert compiled(packages[0] / "changed.py") == before


def test_a_file_that_does_not_compile_is_a_note(builder: Callable[..., Builder]) -> None:
    """A template or a test of a failure may end in .py; the app itself is imported after."""
    made = builder()
    made.run()
    for name in ("good.py", "template.py", "tests/bad.py"):
        path = made.source / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("VALUE = 1\n" if name == "good.py" else "{{ no python }}\n")
    made.compile_source()
    [note] = made.notes
    assert note.startswith("not compiled")
    assert note.endswith(": template.py, tests/bad.py")
    assert compiled(made.source / "good.py")

"""A lock that does not match its project is rejected, and one that does is not.

The locks here have what uv 0.13 writes; that it is what uv writes is shown on a real host
(tests/hosts/test_repositories.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils.dependencies.uv_lock import (
    require_current,
)
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError

PROJECT = """
[project]
name = "blog"
dependencies = ["starlette >=0.40, <2", "uvicorn[standard]", "My_Lib", "anyio == 4.0.0-rc1"]
[project.optional-dependencies]
pg = ["psycopg[binary]; python_version < '3.15'"]
all = ["blog[pg]"]
[tool.uv.sources]
my-lib = { git = "https://git.example.com/my-lib.git" }
"""
LOCK = """
version = 1
[[package]]
name = "blog"
source = { virtual = "." }
[package.metadata]
requires-dist = [
    { name = "anyio", specifier = "==4.0.0rc1" },
    { name = "my-lib", git = "https://git.example.com/my-lib.git" },
    { name = "psycopg", extras = ["binary"], marker = "python_full_version < '3.15'" },
    { name = "starlette", specifier = ">=0.40,<2" },
    { name = "uvicorn", extras = ["standard"] },
]
[[package]]
name = "starlette"
source = { registry = "https://pypi.org/simple" }
"""


def write(root: Path, project: str = PROJECT, lock: str = LOCK) -> Path:
    """Writes a project and its lock."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "pyproject.toml").write_text(project, encoding="utf-8")
    if lock:
        (root / "uv.lock").write_text(lock, encoding="utf-8")
    return root


#: What is changed in pyproject.toml after it was locked, and what is expected of it.
CHANGES = {
    "added": ('"uvicorn[standard]"', '"uvicorn[standard]", "httpx"', "httpx"),
    "removed": (', "My_Lib"', "", "my-lib"),
    "another range": ("<2", "<3", "starlette"),
    "a range": ('"uvicorn[standard]"', '"uvicorn[standard]>=1"', "uvicorn"),
    "no range": (" == 4.0.0-rc1", "", "anyio"),
    "of an extra": ("psycopg[binary]", "asyncpg", "asyncpg, psycopg"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_was_not_locked_is_named(tmp_path: Path, change: str) -> None:
    before, after, expected = CHANGES[change]
    assert before in PROJECT
    write(tmp_path, PROJECT.replace(before, after, 1))
    words = f"uv.lock is out of date, it was made before pyproject.toml named {expected} as it does"
    with pytest.raises(DeployError, match=words):
        require_current(tmp_path)


@pytest.mark.parametrize(
    "project",
    [
        PROJECT,
        # written in another way
        PROJECT.replace(">=0.40, <2", "<2.0,>=0.40").replace("My_Lib", "my.lib"),
        # an index has nothing to do with it, nor what else is in the file
        f"{PROJECT}[tool.ruff]\nline-length = 100\n",
        # where the package itself is from is in the lock, too
        PROJECT.replace('"My_Lib"', '"My_Lib @ git+https://git.example.com/my-lib.git"'),
        # what is dynamic only the build knows
        PROJECT.replace("dependencies =", 'dynamic = ["dependencies"]\nold =', 1),
        "[tool.ruff]\n",
    ],
)
def test_a_lock_that_matches_is_taken(tmp_path: Path, project: str) -> None:
    require_current(write(tmp_path, project))


def test_a_lock_that_repeats_nothing_is_taken(tmp_path: Path) -> None:
    """Of an old uv."""
    old = (
        '[[package]]\nname = "blog"\nsource = { virtual = "." }\ndependencies = [{ name = "a" }]\n'
    )
    require_current(write(tmp_path, lock=old))


def test_a_project_that_required_nothing_has_no_list(tmp_path: Path) -> None:
    write(tmp_path, lock='[[package]]\nname = "blog"\nsource = { virtual = "." }\n')
    with pytest.raises(DeployError, match="named anyio, my-lib, psycopg, starlette, uvicorn as"):
        require_current(tmp_path)


def test_a_lock_is_that_of_all_members_of_its_workspace(tmp_path: Path) -> None:
    lock = LOCK.replace('virtual = "."', 'editable = "apps/blog"')
    write(tmp_path, "[tool.uv.workspace]\nmembers = ['apps/*']\n", lock)
    member = write(tmp_path / "apps/blog", lock="")
    require_current(tmp_path)
    write(member, PROJECT.replace("<2", "<3"), lock="")
    words = "uv.lock is out of date, it was made before apps/blog/pyproject.toml named starlette"
    with pytest.raises(DeployError, match=words):
        require_current(tmp_path)


def test_a_project_elsewhere_is_named_by_its_path(tmp_path: Path) -> None:
    """uv locks a path dependency wherever it is."""
    library = write(tmp_path / "library", PROJECT.replace("<2", "<3"), lock="")
    for path in (str(library), "../library"):
        app = write(
            tmp_path / "app", "[project]\n", LOCK.replace('virtual = "."', f'directory = "{path}"')
        )
        with pytest.raises(DeployError, match=f"before {path}/pyproject.toml named starlette as"):
            require_current(app)


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    require_current(write(tmp_path, f"\ufeff{PROJECT}"))


@pytest.mark.parametrize(
    ("project", "lock", "expected"),
    [
        (PROJECT, "not TOML", "uv.lock is not valid TOML"),
        ("[[[", LOCK, "pyproject.toml is not valid TOML"),
        (PROJECT.replace("uvicorn[", "uvicorn[["), LOCK, "pyproject.toml of the app: "),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, project: str, lock: str, expected: str) -> None:
    with pytest.raises(DeployError, match=expected):
        require_current(write(tmp_path, project, lock))

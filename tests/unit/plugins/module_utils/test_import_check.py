"""The import check ends whatever the app does, and reports what it found or why it failed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import import_check, import_program
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.import_check import ImportCheck
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.transient import Ended

APP = "async def app(scope, receive, send): ...\n"
#: Each would have kept the check from ending, or spoilt what it reports.
HABITS = {
    "plain": "",
    "prints": "print('{}')\n",
    "prints at exit": "import atexit; atexit.register(print, 'bye')\n",
    "fails at exit": "import atexit; atexit.register(lambda: 1 / 0)\n",
    "waits at exit": "import atexit, time; atexit.register(time.sleep, 3600)\n",
    "has a thread": "import threading, time\n"
    "threading.Thread(target=time.sleep, args=(3600,)).start()\n",
    "closes its output": "import sys; sys.stdout.close()\n",
    "replaces its output": "import io, sys; sys.stdout = sys.stderr = io.StringIO()\n",
    "logs to its output": "import logging, sys\n"
    "logging.basicConfig(stream=sys.stdout, level='DEBUG'); logging.debug('begun')\n",
}


def program(directory: Path, app: str, entrypoint: str = "main:app", seconds: float = 60) -> Ended:
    """Runs the program of the check on an app."""
    (directory / "main.py").write_text(app)
    done = subprocess.run(
        [sys.executable, "-c", import_check.PROGRAM, entrypoint, "pytest", str(seconds)],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr, "exit-code")


@pytest.mark.parametrize("habit", HABITS)
def test_a_good_app_passes_whatever_it_does_beside(tmp_path: Path, habit: str) -> None:
    ended = program(tmp_path, HABITS[habit] + APP)
    assert ended.returncode == 0, ended.output
    found = import_check.answer(ended, "main:app")
    assert found["python"] == sys.version.split()[0]
    assert found["server_version"] == pytest.__version__
    assert found["migration_heads"] is None


@pytest.mark.parametrize(
    ("app", "entrypoint", "text"),
    [
        ("1 / 0\n", "main:app", "ZeroDivisionError: division by zero"),
        ("import threading, time\n" + HABITS["has a thread"] + "1 / 0\n", "main:app", "ZeroDiv"),
        ("raise SystemExit(0)\n", "main:app", "SystemExit: 0"),
        ("import sys; sys.exit('no settings')\n", "main:app", "SystemExit: no settings"),
        (APP, "main:none", "AttributeError: module 'main' has no attribute 'none'"),
        (APP, "none:app", "ModuleNotFoundError: No module named 'none'"),
        (HABITS["replaces its output"] + "1 / 0\n", "main:app", "ZeroDivisionError"),
        ("import sys; sys.stderr.close()\n1 / 0\n", "main:app", "ZeroDivisionError"),
        ("app = 1\n", "main:app", "main:app is not callable, so it is no ASGI application"),
    ],
)
def test_a_bad_app_fails_with_the_reason(
    tmp_path: Path, app: str, entrypoint: str, text: str
) -> None:
    ended = program(tmp_path, app, entrypoint)
    assert ended.returncode == 1
    assert text in ended.stderr


@pytest.mark.parametrize("place", ["src/blog/__init__.py", "src/blog.py", ""])
def test_a_module_that_is_not_found_is_looked_for(tmp_path: Path, place: str) -> None:
    if place:
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).touch()
    errors = program(tmp_path, APP, "blog.main:app").stderr
    assert "ModuleNotFoundError: No module named 'blog'" in errors
    assert ("set asgi_app_directory to its src" in errors) == bool(place)
    assert ("neither installed nor in the working directory" in errors) != bool(place)
    # of what the app needs, and not of itself
    assert "asgi_app_directory" not in program(tmp_path, "import none\n").stderr


def test_an_import_that_hangs_ends_with_the_place(tmp_path: Path) -> None:
    ended = program(tmp_path, "import time\n\ntime.sleep(3600)\n", seconds=0.5)
    assert ended.returncode == 1
    assert "Timeout (0:00:00.5" in ended.stderr
    assert f'File "{tmp_path}/main.py", line 3' in ended.stderr
    assert "asgi_service_health_timeout_seconds" in ImportCheck("main:app", "x", "u").reason(ended)


def test_an_app_that_ends_the_process_is_named(tmp_path: Path) -> None:
    ended = program(tmp_path, "import os; os._exit(0)\n")
    assert ended.returncode == 0
    for found in (ended, Ended(0, f"{import_program.MARK}spoilt\n", "")):
        with pytest.raises(DeployError, match="main:app ended the process while it was imported"):
            import_check.answer(found, "main:app")


def test_the_newest_migrations_of_alembic_are_found(tmp_path: Path) -> None:
    (tmp_path / "alembic.ini").write_text("[alembic]\n")
    (tmp_path / "alembic").mkdir()
    (tmp_path / "alembic" / "__init__.py").touch()
    (tmp_path / "alembic" / "config.py").write_text("def Config(name): return name\n")
    (tmp_path / "alembic" / "script.py").write_text(
        "class ScriptDirectory:\n"
        "    @classmethod\n"
        "    def from_config(cls, config): return cls()\n"
        "    def get_heads(self): return ['b', 'a']\n"
    )
    assert import_check.answer(program(tmp_path, APP), "main:app")["migration_heads"] == ["a", "b"]
    (tmp_path / "alembic" / "script.py").write_text("1 / 0\n")
    found = import_check.answer(program(tmp_path, APP), "main:app")
    assert found["migration_heads"] is None
    assert "ZeroDivisionError" in found["migration_heads_unknown"]


@pytest.mark.parametrize(("health", "seconds"), [(5, 120), (120, 120), (300, 300)])
def test_the_timeout_follows_that_of_the_health_check(
    app: Layout, monkeypatch: pytest.MonkeyPatch, health: float, seconds: float
) -> None:
    asked: list[float] = []

    def run_unit(unit: str, argv: list[str], properties: object, timeout_seconds: float) -> Ended:
        asked.extend((float(argv[-1]), timeout_seconds))
        return Ended(0, f"{import_program.MARK}{json.dumps({'python': '3.11'})}\n", "")

    monkeypatch.setattr(import_check, "run_unit", run_unit)
    check = ImportCheck("main:app", "uvicorn", "blog", health_timeout_seconds=health)
    assert check.run(app, "1.0.0-abc") == {"python": "3.11"}
    # systemd ends it only where the program cannot say where it hangs
    assert asked == [seconds, seconds + import_check.GRACE_SECONDS]


@pytest.mark.parametrize(
    ("ended", "text"),
    [
        (Ended(1, "", "NameError: x", "exit-code"), "is unchanged:\nNameError: x"),
        (Ended(1, "", "", "oom-kill", 0, "OOM killer"), "than asgi_service_memory_max, 256M"),
        (Ended(1, "", "", "timeout", 0, "Stopping"), "took longer than 120 s (asgi_service_health"),
        (Ended(1, "", "", "signal", 11, "segfault"), "is unchanged; it was ended by SIGSEGV:"),
        (Ended(226, "", "", "exit-code", 0, "Failed at step NAMESPACE"), "nesting=1"),
        (Ended(203, "", "", "exit-code", 0, "Failed at step EXEC"), "(asgi_app_python)"),
    ],
)
def test_a_failure_says_which_limit_it_was_and_shows_the_journal(
    app: Layout, monkeypatch: pytest.MonkeyPatch, ended: Ended, text: str
) -> None:
    monkeypatch.setattr(import_check, "run_unit", lambda *_arguments: ended)
    check = ImportCheck("main:app", "uvicorn", "blog", memory_max="256M")
    with pytest.raises(DeployError, match="main:app of release 1 cannot be imported") as caught:
        check.run(app, "1")
    assert text in caught.value.message
    assert caught.value.message.endswith(ended.journal or ended.stderr)

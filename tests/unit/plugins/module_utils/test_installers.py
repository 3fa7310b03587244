"""What is installed, with which credentials, and how a release gets its final path."""

from __future__ import annotations

import importlib.util
import io
import netrc
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import contained, installers
from ansible_collections.asgi.deploy.plugins.module_utils.contained import Contained
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.installers import (
    Builder,
    BuildSettings,
)

INDEX = "https://pypi.example.com/simple"


@pytest.mark.parametrize(
    ("present", "installer", "chosen"),
    [
        (["uv.lock", "pyproject.toml", "requirements.txt"], "uv", "uv.lock"),
        (["uv.lock", "pyproject.toml", "requirements.txt"], "pip", "requirements.txt"),
        (["requirements.txt", "pyproject.toml"], "uv", "requirements.txt"),
        (["pyproject.toml"], "uv", "pyproject.toml"),
        (["pyproject.toml"], "pip", "pyproject.toml"),
        (["uv.lock", "pyproject.toml"], "pip", "asgi_app_installer: pip cannot read uv.lock"),
        (["setup.py"], "uv", "asgi_app_source: the app has neither"),
        # other versions than the lock names would be installed without a word
        (["pyproject.toml", "poetry.lock"], "uv", "asgi_app_source: poetry.lock is not read"),
        (["pyproject.toml", "pdm.lock"], "pip", "asgi_app_source: pdm.lock is not read"),
        (["pyproject.toml", "pylock.toml"], "uv", "asgi_app_source: pylock.toml is not read"),
        (["pyproject.toml", "Pipfile.lock"], "pip", "asgi_app_source: Pipfile.lock is not read"),
        # it was made from the lock
        (["pyproject.toml", "poetry.lock", "requirements.txt"], "uv", "requirements.txt"),
    ],
)
def test_dependency_file(tmp_path: Path, present: list[str], installer: str, chosen: str) -> None:
    for name in present:
        (tmp_path / name).touch()
    if ":" not in chosen:
        assert installers.dependency_file(tmp_path, installer, tmp_path) == chosen
        return
    with pytest.raises(DeployError) as caught:
        installers.dependency_file(tmp_path, installer, tmp_path)
    assert caught.value.message.startswith(chosen)


@pytest.mark.parametrize("root_is_workspace", [True, False])
def test_a_member_of_a_workspace_is_not_installed_without_its_lock(
    tmp_path: Path, root_is_workspace: bool
) -> None:
    member = tmp_path / "source" / "services" / "blog"
    member.mkdir(parents=True)
    (member / "pyproject.toml").touch()
    (tmp_path / "source" / "uv.lock").touch()
    (tmp_path / "uv.lock").touch()
    project = '[project]\nname = "all"\n' + "[tool.uv.workspace]\n" * root_is_workspace
    (tmp_path / "source" / "pyproject.toml").write_text(project)
    if root_is_workspace:
        with pytest.raises(DeployError, match="uv export --package blog --output-file services/bl"):
            installers.dependency_file(member, "uv", tmp_path / "source")
    else:
        assert installers.dependency_file(member, "uv", tmp_path / "source") == "pyproject.toml"


def test_netrc_carries_each_index_with_credentials(tmp_path: Path) -> None:
    lines = installers.netrc_lines(
        [
            {"url": INDEX, "username": "deploy", "password": "pa:ss/wo@rd'"},
            {"url": "https://open.example.com"},
            {"url": "https://other.example.com:8443/x", "username": "u", "password": "p"},
        ]
    )
    path = tmp_path / "netrc"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    hosts = netrc.netrc(str(path)).hosts
    assert {host: (login, password) for host, (login, _, password) in hosts.items()} == {
        "pypi.example.com": ("deploy", "pa:ss/wo@rd'"),
        "other.example.com": ("u", "p"),
    }


@pytest.mark.parametrize(
    ("username", "password"),
    [
        ("deploy", "s3 cret"),
        ("deploy", 's3"cret'),
        ("deploy", "s3\\cret"),
        ("deploy", "s3#cret"),
        ("deploy", "s3cret\nmachine other"),
        ("", "s3cret"),
        ("s3 cret", "x"),
        ("s3cret", ""),
    ],
)
def test_credentials_that_netrc_cannot_carry_are_refused_and_not_shown(
    username: str, password: str
) -> None:
    with pytest.raises(DeployError, match="asgi_app_index") as caught:
        installers.netrc_lines([{"url": INDEX, "username": username, "password": password}])
    assert "pypi.example.com" in caught.value.message
    assert "s3" not in caught.value.message


def test_an_index_without_a_host_has_no_credentials() -> None:
    with pytest.raises(DeployError, match="an index need"):
        installers.netrc_lines([{"url": "file:///x", "username": "u", "password": "p"}])


# --- uv -------------------------------------------------------------------------------------------


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
    monkeypatch.setattr(installers, "TOOL_DIRECTORY", tmp_path / "tools")
    monkeypatch.setattr(contained, "PRIVATE_FILES", tmp_path / "run" / "build")
    (tmp_path / "run").mkdir()
    settings = BuildSettings(uv_version="9.9", index={"url": f"file://{tmp_path}/index"})
    with pytest.raises(DeployError, match=r"to install uv ended with code 1"):
        installers.ensure_uv(settings)
    assert not ran.exists()
    assert list((tmp_path / "tools").iterdir()) == []


class Steps:
    """Notes the steps of a build in place of running them."""

    def __init__(self) -> None:
        self.run_steps: list[tuple[list[str], dict[str, str], dict[str, str]]] = []

    def run(
        self,
        argv: list[str],
        *,
        purpose: str,
        environment: dict[str, str] | None = None,
        secret_files: dict[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        self.run_steps.append((argv, environment or {}, secret_files or {}))


def uv_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: BuildSettings
) -> list[tuple[list[str], dict[str, str], dict[str, str]]]:
    """Returns the steps after the one that makes the virtual environment."""
    monkeypatch.setattr(installers, "ensure_uv", lambda _settings: Path("/uv"))
    steps = Steps()
    source = tmp_path / "source"
    Builder(settings, steps, tmp_path, source, tmp_path / "cache")._with_uv(  # type: ignore[arg-type]
        "uv.lock"
    )
    return steps.run_steps[1:]


def test_a_lock_is_synchronized_from_its_own_urls_without_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more indexes too: the lock says what comes from which."""
    more = [{"url": "https://other.example.com", "username": "u", "password": "s3cret"}]
    settings = BuildSettings(extras=["x"], groups=["g"], extra_indexes=more)
    ((argv, _environment, secret_files),) = uv_steps(tmp_path, monkeypatch, settings)
    assert argv[:2] == ["/uv", "sync"]
    assert {"--frozen", "--no-default-groups", "--no-editable", "--extra=x", "--group=g"} < {*argv}
    assert "s3cret" in secret_files["NETRC"]


def test_an_index_is_in_place_of_the_urls_of_a_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = {"url": INDEX, "username": "u", "password": "s3cret"}
    settings = BuildSettings(extras=["x"], groups=["g"], index=index)
    export, sync = uv_steps(tmp_path, monkeypatch, settings)
    assert export[0][:2] == ["/uv", "export"]
    wanted = {"--frozen", "--no-default-groups", "--no-editable", "--extra=x", "--group=g"}
    assert wanted < {*export[0]}
    argv, environment, secret_files = sync
    assert argv[:3] == ["/uv", "pip", "sync"]
    assert f"--output-file={argv[-1]}" in export[0]
    assert environment["UV_DEFAULT_INDEX"] == INDEX
    # what only reads the lock needs no credentials
    assert (export[2], "s3cret" in secret_files["NETRC"]) == ({}, True)


# --- what makes another release -------------------------------------------------------------------

BASE = BuildSettings(
    extras=["a", "b"], index={"url": INDEX, "username": "u", "password": "s3cret"}, uv_version="1"
)


@pytest.mark.parametrize(
    "other",
    [
        {"index": {"url": INDEX}},
        {"index": {"url": INDEX, "username": "v", "password": "other"}},
        {"extras": ["b", "a"]},
        {"timeout_seconds": 1},
        {"ca_file": "/x"},
    ],
)
def test_credentials_and_limits_make_no_other_release(other: dict[str, object]) -> None:
    changed = BuildSettings(**{**vars(BASE), **other})  # type: ignore[arg-type]
    assert changed.identity("m:app", ".") == BASE.identity("m:app", ".")


@pytest.mark.parametrize(
    "other",
    [
        {"index": {"url": "https://other.example.com"}},
        {"extra_indexes": [{"url": "https://other.example.com"}]},
        {"extras": ["a"]},
        {"groups": ["x"]},
        {"installer": "pip"},
        {"python": "3.13"},
        {"commands": ["make"]},
    ],
)
def test_what_is_installed_makes_another_release(other: dict[str, object]) -> None:
    changed = BuildSettings(**{**vars(BASE), **other})  # type: ignore[arg-type]
    assert changed.identity("m:app", ".") != BASE.identity("m:app", ".")


def test_the_identity_has_no_credentials() -> None:
    assert "s3cret" not in str(BASE.identity("m:app", "."))
    assert BASE.identity("m:app", ".") != BASE.identity("m:other", ".")
    assert BASE.identity("m:app", ".") != BASE.identity("m:app", "src")


# --- commands of the user -------------------------------------------------------------------------


@pytest.fixture
def builder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uncontained: Contained
) -> Callable[..., Builder]:
    """Makes builders whose virtual environment is only an interpreter."""

    def installed(self: Builder, kind: str) -> None:
        self.python.parent.mkdir(parents=True)
        self.python.symlink_to(sys.executable)
        (self.python.parent / "tool").write_text('#!/bin/sh\necho "$1" > made\n')
        (self.python.parent / "tool").chmod(0o755)

    monkeypatch.setattr(Builder, "_with_uv", installed)
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "requirements.txt").touch()

    def make(*commands: str) -> Builder:
        return Builder(
            BuildSettings(commands=commands, index=BASE.index),
            uncontained,
            tmp_path,
            tmp_path / "source",
            tmp_path / "cache",
        )

    return make


@pytest.mark.parametrize(
    ("text", "hashes"),
    [
        ("uvicorn==0.54\n", False),
        ("uvicorn==0.54 --hash=sha256:abc\n", True),
        ("uvicorn==0.54 \\\n    --hash sha256:abc\n", True),
        ("# we use no --hashes here\n", False),
    ],
)
def test_one_hash_in_requirements_makes_all_required(
    builder: Callable[..., Builder], tmp_path: Path, text: str, hashes: bool
) -> None:
    path = tmp_path / "source" / "requirements.txt"
    path.write_text(text, encoding="utf-8")
    arguments = builder()._requirements()
    assert arguments == [f"--requirement={path}", *(["--require-hashes"] if hashes else [])]


def test_commands_run_in_the_app_with_what_was_installed(
    builder: Callable[..., Builder], tmp_path: Path
) -> None:
    code = "import os, pathlib; pathlib.Path('seen').write_text(' '.join(sorted(os.environ)))"
    builder("tool 'two words'", f'MORE=1 python -c "{code}"').build()
    assert (tmp_path / "source" / "made").read_text() == "two words\n"
    seen = (tmp_path / "source" / "seen").read_text().split()
    assert {"HOME", "MORE", "PATH"} <= set(seen)
    assert not [name for name in seen if name == "NETRC" or name.startswith(("UV_", "PIP_"))]


def test_a_command_that_fails_is_told_with_its_output(builder: Callable[..., Builder]) -> None:
    with pytest.raises(DeployError, match="asgi_app_build_commands") as caught:
        builder("sh -c 'echo no-static-root >&2; exit 3'", "touch never").build()
    assert "code 3" in caught.value.message
    assert "no-static-root" in caught.value.message


# --- bytecode -------------------------------------------------------------------------------------


def compile_packages(*environments: Path) -> None:
    words = [sys.executable, "-I", "-S", "-c", installers.COMPILE_PACKAGES]
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
    made.build()
    for name in ("good.py", "template.py", "tests/bad.py"):
        path = made.source / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("VALUE = 1\n" if name == "good.py" else "{{ no python }}\n")
    made.compile_source(made.source)
    [note] = made.notes
    assert note.startswith("not compiled")
    assert note.endswith(": template.py, tests/bad.py")
    assert compiled(made.source / "good.py")

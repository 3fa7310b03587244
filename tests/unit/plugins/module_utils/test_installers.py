"""What is installed, with which credentials, and how a release gets its final path."""

from __future__ import annotations

import netrc
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import installers
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.installers import BuildSettings

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
    ],
)
def test_dependency_file(tmp_path: Path, present: list[str], installer: str, chosen: str) -> None:
    for name in present:
        (tmp_path / name).touch()
    if ":" not in chosen:
        assert installers.dependency_file(tmp_path, installer) == chosen
        return
    with pytest.raises(DeployError) as caught:
        installers.dependency_file(tmp_path, installer)
    assert caught.value.message.startswith(chosen)


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
    tmp_path: Path, text: str, hashes: bool
) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text(text, encoding="utf-8")
    arguments = installers.requirements_arguments(tmp_path)
    assert arguments == [f"--requirement={path}", *(["--require-hashes"] if hashes else [])]


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
    ],
)
def test_what_is_installed_makes_another_release(other: dict[str, object]) -> None:
    changed = BuildSettings(**{**vars(BASE), **other})  # type: ignore[arg-type]
    assert changed.identity("m:app", ".") != BASE.identity("m:app", ".")


def test_the_identity_has_no_credentials() -> None:
    assert "s3cret" not in str(BASE.identity("m:app", "."))
    assert BASE.identity("m:app", ".") != BASE.identity("m:other", ".")
    assert BASE.identity("m:app", ".") != BASE.identity("m:app", "src")


# --- the final path -------------------------------------------------------------------------------


def test_scripts_name_the_final_path(tmp_path: Path) -> None:
    aside, final = tmp_path / ".building-1.0.0-abc.x8d0", tmp_path / "1.0.0-abc"
    programs = aside / "venv" / "bin"
    programs.mkdir(parents=True)
    shebang = f"#!{programs}/python\n"
    script, cached = programs / "uvicorn", tmp_path / "cached"
    cached.write_text(f"{shebang}import uvicorn\n", encoding="utf-8")
    cached.chmod(0o750)
    script.hardlink_to(cached)
    (programs / "plain").write_text("#!/bin/sh\n", encoding="utf-8")
    binary = shebang.encode() + b"\0\1"
    (programs / "compiled").write_bytes(binary)
    (programs / "python").symlink_to("/usr/bin/python3")
    plain = (programs / "plain").stat().st_ino

    installers.relocate(aside / "venv", aside, final)

    assert script.read_text(encoding="utf-8").startswith(f"#!{final}/venv/bin/python\n")
    assert script.stat().st_mode & 0o777 == 0o750
    # a hard link of the installer's cache keeps its content
    assert cached.read_text(encoding="utf-8").startswith(shebang)
    assert cached.stat().st_ino != script.stat().st_ino
    assert (programs / "plain").stat().st_ino == plain
    assert (programs / "compiled").read_bytes() == binary
    assert (programs / "python").readlink() == Path("/usr/bin/python3")
    assert sorted(path.name for path in programs.iterdir()) == [
        "compiled",
        "plain",
        "python",
        "uvicorn",
    ]

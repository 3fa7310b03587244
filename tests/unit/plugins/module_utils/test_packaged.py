"""A source without a source tree: a wheel, or a package of an index."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import packaged
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.installers import Build, BuildSettings

INDEX = {"index": "Data_Sette", "version": "0.65.4"}
WHEEL = "blog-1.4.2-py3-none-any.whl"
HASH = f"sha256:{'a' * 64}"


def planned(
    tmp_path: Path, source: dict[str, Any], extras: tuple[str, ...] = ()
) -> tuple[dict[str, Any], dict[str, str]]:
    """The plan of a source, and the files in its archive."""
    scratch = tmp_path / f"scratch{len(list(tmp_path.iterdir()))}"
    scratch.mkdir()
    plan = packaged.package_plan(source, scratch, Build(BuildSettings(extras=extras), "main:app"))
    files = {}
    with tarfile.open(plan["archive"]) as archive:
        for member in archive:
            content = archive.extractfile(member)
            assert content is not None
            files[member.name] = content.read().decode(errors="replace")
    return plan, files


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A file that looks like a wheel."""
    path = tmp_path / WHEEL
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("blog/__init__.py", "")
    return path


def lock(tmp_path: Path, *lines: str) -> str:
    """Writes a lock and returns its path."""
    path = tmp_path / "lock.txt"
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def test_a_package_becomes_a_tree_of_requirements_and_files(tmp_path: Path) -> None:
    source = {**INDEX, "files": {"main.py": "app = 1\n", "conf/a.ini": "[a]\n"}}
    plan, files = planned(tmp_path, {**source, "requirements": ["uvicorn==0.54.0"]}, ("b", "a"))
    assert files == {
        "main.py": "app = 1\n",
        "conf/a.ini": "[a]\n",
        "requirements.txt": "Data_Sette[a,b]==0.65.4\nuvicorn==0.54.0\n",
    }
    assert plan["version"] == "0.65.4"
    assert plan["release"].startswith("0.65.4-")
    assert plan["source"] == "Data_Sette==0.65.4"
    assert "not pinned" in plan["dependencies"]["notes"][0]


def test_the_same_package_is_the_same_release_and_all_that_is_given_counts(tmp_path: Path) -> None:
    def release(source: dict[str, Any]) -> str:
        return planned(tmp_path, source)[0]["release"]

    first = lock(tmp_path, "data-sette==0.65.4", "click==8.1.0")
    with_lock = release({**INDEX, "lock": first})
    again = release({**INDEX, "lock": first})
    assert with_lock == again
    second = lock(tmp_path, "data-sette==0.65.4", "click==8.2.0")
    all_of_them = [
        with_lock,
        release(INDEX),
        release({**INDEX, "lock": second}),
        release({**INDEX, "version": "0.65.5"}),
        release({**INDEX, "files": {"main.py": "1"}}),
        release({**INDEX, "files": {"main.py": "2"}}),
        release({**INDEX, "requirements": ["uvicorn==0.54.0"]}),
    ]
    assert len(set(all_of_them)) == len(all_of_them)
    assert release(INDEX) == all_of_them[1]


def test_a_lock_is_taken_as_it_is(tmp_path: Path) -> None:
    lines = ["# made by a tool", "data-sette==0.65.4 \\", f"    --hash={HASH}", "click==8.1.0 \\"]
    plan, files = planned(tmp_path, {**INDEX, "lock": lock(tmp_path, *lines)})
    assert files["requirements.txt"].splitlines() == lines
    assert not plan["dependencies"]["notes"]
    assert plan["dependencies"]["hashed"]


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["click==8.1.0"], "no Data_Sette"),
        (["data.sette==0.65.3"], "Data_Sette 0.65.3"),
        (["# data-sette==0.65.4"], "no Data_Sette"),
        (["data-sette-more==0.65.4"], "no Data_Sette"),
    ],
)
def test_a_lock_for_something_else_is_refused(tmp_path: Path, lines: list[str], why: str) -> None:
    with pytest.raises(DeployError, match=rf"^asgi_app_source\.lock: .* has {why}, .*pip compile"):
        planned(tmp_path, {**INDEX, "lock": lock(tmp_path, *lines)})


def test_a_lock_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeployError, match=r"^asgi_app_source\.lock: there is no file"):
        planned(tmp_path, {**INDEX, "lock": str(tmp_path / "none.txt")})


def test_a_wheel_goes_along(tmp_path: Path, wheel: Path) -> None:
    plan, files = planned(tmp_path, {"wheel": str(wheel)}, ("postgres",))
    assert files["requirements.txt"] == f"./{WHEEL}[postgres]\n"
    assert WHEEL in files
    assert (plan["version"], plan["source"]) == ("1.4.2", WHEEL)


def test_a_wheel_gets_its_hash_where_the_lock_has_hashes(tmp_path: Path, wheel: Path) -> None:
    lines = ["click==8.1.0 \\", f"    --hash={HASH}"]
    _, files = planned(tmp_path, {"wheel": str(wheel), "lock": lock(tmp_path, *lines)})
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    first, *others = files["requirements.txt"].splitlines()
    assert (first, others) == (f"./{WHEEL} --hash=sha256:{digest}", lines)
    _, files = planned(tmp_path, {"wheel": str(wheel), "lock": lock(tmp_path, "click==8.1.0")})
    assert files["requirements.txt"] == f"./{WHEEL}\nclick==8.1.0\n"


def test_a_lock_beside_a_wheel_does_not_have_the_wheel(tmp_path: Path, wheel: Path) -> None:
    source = {"wheel": str(wheel), "lock": lock(tmp_path, "Blog==1.4.1")}
    with pytest.raises(DeployError, match=r"^asgi_app_source\.lock: .*--no-emit-package blog"):
        planned(tmp_path, source)


@pytest.mark.parametrize("name", ["blog.whl", "blog-1.4.2.tar.gz", "blog-1.4.2-py3.whl", WHEEL])
def test_what_is_no_wheel_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("no zip")
    with pytest.raises(DeployError, match=r"^asgi_app_source\.wheel: .* is no wheel"):
        planned(tmp_path, {"wheel": str(tmp_path / name)})

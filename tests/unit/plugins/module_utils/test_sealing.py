"""A sealed release is root's, follows no planted link, and shares files with the one before."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils.commands import remove_tree
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.sealing import seal


def modes(directory: Path) -> dict[str, str]:
    """Returns the modes of all that is in a directory but links, and of itself."""
    paths = [directory, *directory.rglob("*")]
    return {
        str(path.relative_to(directory)): oct(path.stat().st_mode & 0o7777)
        for path in paths
        if not path.is_symlink()
    }


def test_nobody_but_root_can_write_and_only_the_group_can_read(tmp_path: Path) -> None:
    release = tmp_path / "release"
    (release / "open").mkdir(parents=True)
    (release / "closed").mkdir()
    for name, mode in (("open/data", 0o666), ("open/run", 0o777), ("closed/mine", 0o600)):
        (release / name).touch()
        (release / name).chmod(mode)
    (release / "open").chmod(0o777)
    (release / "closed").chmod(0o700)
    release.chmod(0o777)
    seal(release)
    assert modes(release) == {
        ".": "0o750",
        "open": "0o750",
        "open/data": "0o640",
        "open/run": "0o750",
        "closed": "0o750",
        "closed/mine": "0o640",
    }


def test_nothing_outside_is_touched_by_what_was_planted(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "directory").mkdir(parents=True)
    (outside / "file").write_text("as it was")
    for path in (outside, outside / "directory", outside / "file"):
        path.chmod(0o707)
    release = tmp_path / "release"
    release.mkdir()
    (release / "directory").symlink_to(outside / "directory")
    (release / "file").symlink_to(outside / "file")
    (release / "nowhere").symlink_to(tmp_path / "none")
    os.mkfifo(release / "pipe")
    seal(release)
    assert set(modes(outside).values()) == {"0o707"}
    assert (release / "directory").readlink() == outside / "directory"
    assert (release / "nowhere").is_symlink()
    # whoever reads a release would wait for it
    assert not (release / "pipe").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_all_of_it_is_owned_by_root(tmp_path: Path) -> None:
    release = tmp_path / "release"
    (release / "directory").mkdir(parents=True)
    (release / "directory" / "file").touch()
    (release / "link").symlink_to("directory")
    paths = [release, *release.rglob("*")]
    for path in paths:
        shutil.chown(path, "nobody", "nogroup", follow_symlinks=False)
    group = release.stat().st_gid
    seal(release)
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in paths} == {(0, group)}


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """A sealed release, and another one that was built."""
    releases = tmp_path / "a", tmp_path / "b"
    for number, release in enumerate(releases, start=1):
        (release / "venv" / "package").mkdir(parents=True)
        for name, text in (
            ("same.so", "the same"),
            ("module.py", "the same"),
            ("other.so", f"of number {number}"),
            (f"only-{number}", ""),
            ("replaced", "the same"),
        ):
            path = release / "venv" / "package" / name
            path.write_text(text)
            os.utime(path, (number, number))
    seal(releases[0])
    return releases


def inode(release: Path, name: str) -> int:
    return (release / "venv" / "package" / name).stat().st_ino


def test_what_is_the_same_in_two_releases_is_one_file(two: tuple[Path, Path]) -> None:
    former, new = two
    seal(new, former)
    for name, shared in (
        ("same.so", True),
        ("other.so", False),
        # bytecode was made for the time of its source
        ("module.py", False),
    ):
        assert (inode(former, name) == inode(new, name)) is shared, name
    assert (new / "venv/package/other.so").read_text() == "of number 2"
    assert sorted(path.name for path in (new / "venv/package").iterdir()) == [
        *("module.py", "only-2", "other.so", "replaced", "same.so")
    ]


def test_a_file_that_a_process_can_still_write_becomes_another_one(tmp_path: Path) -> None:
    """A build can have handed it to a process that outlives the build."""
    release = tmp_path / "release"
    release.mkdir()
    path = release / "run"
    path.write_text("as it was built")
    path.chmod(0o700)
    os.utime(path, (1, 1))
    with path.open("a") as handed_on:
        seal(release)
        handed_on.write(", and then")
    assert path.read_text() == "as it was built"
    assert (path.stat().st_mtime, path.stat().st_mode & 0o777) == (1, 0o750)
    assert [other.name for other in release.iterdir()] == ["run"]


def test_a_file_that_nobody_can_write_stays_the_same_one(tmp_path: Path) -> None:
    release = tmp_path / "release"
    release.mkdir()
    path = release / "data"
    path.touch()
    before = path.stat().st_ino
    with path.open():
        seal(release)
    assert path.stat().st_ino == before


def test_directories_that_are_nested_too_deep_are_rejected(tmp_path: Path) -> None:
    """Their paths are longer than the system takes, and no process can have them all open."""
    release = tmp_path / "release"
    release.mkdir()
    directory = os.open(release, os.O_RDONLY)
    for _number in range(3000):
        os.mkdir("deep", dir_fd=directory)
        below = os.open("deep", os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = below
    os.close(directory)
    with pytest.raises(DeployError, match="more than 200 deep: deep/deep/deep/deep/deep/"):
        seal(release)
    remove_tree(release)
    assert not release.exists()


def test_a_module_of_the_same_time_is_one_file(two: tuple[Path, Path]) -> None:
    former, new = two
    os.utime(new / "venv/package/module.py", (1, 1))
    seal(new, former)
    assert inode(former, "module.py") == inode(new, "module.py")


def test_a_link_in_the_place_of_a_file_is_not_shared(two: tuple[Path, Path]) -> None:
    """Neither is one in the place of a directory above it."""
    former, new = two
    secret = former.parent / "secret"
    secret.write_text("the same")
    (new / "venv/package/replaced").unlink()
    (new / "venv/package/replaced").symlink_to(secret)
    (new / "venv/package").rename(former.parent / "elsewhere")
    (new / "venv/package").symlink_to(former.parent / "elsewhere")
    before = {path: path.stat().st_ino for path in (former.parent / "elsewhere").iterdir()}
    seal(new, former)
    assert before == {path: path.stat().st_ino for path in (former.parent / "elsewhere").iterdir()}

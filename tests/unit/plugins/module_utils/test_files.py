"""Files are whole at every moment, and secrets are never open."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import files


def names(directory: Path) -> list[str]:
    """Returns what is in a directory."""
    return [path.name for path in directory.iterdir()]


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    with path.open(encoding="utf-8") as reader:
        files.write_atomic(path, "größe", mode=0o600)
        # a reader goes on with what it opened
        assert reader.read() == "old"
    assert path.read_text(encoding="utf-8") == "größe"
    assert path.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["file"]


def test_the_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    former = os.umask(0o077)
    try:
        files.write_atomic(tmp_path / "file", "", mode=0o644)
    finally:
        os.umask(former)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(UnicodeEncodeError):
        files.write_atomic(path, "\udcff")
    assert path.read_text(encoding="utf-8") == "old"
    assert names(tmp_path) == ["file"]


def test_a_link_is_turned(tmp_path: Path) -> None:
    link = tmp_path / "link"
    (tmp_path / ".link.new").touch()
    for target in ("one", "two"):
        files.link_atomic(link, target)
        assert link.readlink() == Path(target)
    assert names(tmp_path) == ["link"]


def test_remove_and_read_know_that_there_was_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert files.read_text(path) is None
    assert files.remove(path) is False
    path.write_text("x", encoding="utf-8")
    assert files.read_text(path) == "x"
    assert files.remove(path) is True
    assert not path.exists()


def test_what_killed_runs_have_left_of_a_file_is_removed(tmp_path: Path) -> None:
    """It may be secret. What another run writes at this moment, and other files, stay."""
    for name in (".secrets.a1b2c3d4", ".secrets.e5f6a7b8", ".other.a1b2c3d4", ".secrets.keep"):
        (tmp_path / name).touch()
        if "e5f6" not in name:
            os.utime(tmp_path / name, (1, 1))
    files.write_atomic(tmp_path / "secrets", "new")
    assert sorted(names(tmp_path)) == [
        *(".other.a1b2c3d4", ".secrets.e5f6a7b8", ".secrets.keep", "secrets")
    ]

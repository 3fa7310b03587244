"""Which steps have passed for which files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import record

FILES = {
    "README.md": "read me",
    "plugins/rollout.py": "rollout",
    "plugins/NOTES.md": "notes",
    "tests/test_a.py": "test",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of git with these files, one of them not added yet."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    for path, text in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    (tmp_path / ".gitignore").write_text("*.pyc\n")
    (tmp_path / "link").symlink_to("README.md")
    subprocess.run(["git", "add", "README.md", "link"], cwd=tmp_path, check=True)
    return tmp_path


def test_files_are_those_of_the_checkout_whether_added_or_not(checkout: Path) -> None:
    (checkout / "plugins" / "rollout.pyc").touch()
    assert set(record.checksums(checkout)) == {*FILES, ".gitignore", "link"}


def test_a_removed_file_does_not_count(checkout: Path) -> None:
    (checkout / "README.md").unlink()
    assert "README.md" not in record.checksums(checkout)


def test_without_git_no_file_is_known_and_every_step_is_due(tmp_path: Path) -> None:
    sums = record.checksums(tmp_path)
    assert sums == {}
    passed = {"lint": {"digest": record.digest({"a": "1"}, ("",)), "date": "2026-01-02"}}
    assert set(record.due([("lint", ("",))], sums, passed)) == {"lint"}


@pytest.mark.parametrize(
    ("changed", "inputs", "same"),
    [
        ("plugins/rollout.py", ("plugins/",), False),
        ("plugins/rollout.py", ("",), False),
        ("plugins/rollout.py", ("tests/",), True),
        ("plugins/NOTES.md", ("plugins/",), True),
        ("plugins/NOTES.md", ("",), False),
        ("plugins/new.py", ("plugins/", "tests/"), False),
    ],
)
def test_a_digest_changes_with_the_files_that_a_step_reads(
    checkout: Path, changed: str, inputs: tuple[str, ...], same: bool
) -> None:
    before = record.digest(record.checksums(checkout), inputs)
    (checkout / changed).write_text("changed")
    assert (record.digest(record.checksums(checkout), inputs) == before) == same


def test_a_step_is_due_until_it_has_passed_for_its_files(tmp_path: Path) -> None:
    file = tmp_path / "check" / "passed.json"
    sums = {"plugins/a.py": "1", "tests/b.py": "2"}
    wanted = [("lint", ("",)), ("killed", ("plugins/",))]
    assert set(record.due(wanted, sums, record.read(file))) == {"lint", "killed"}
    for name, inputs in wanted:
        entry = {"digest": record.digest(sums, inputs), "date": "2026-01-02"}
        record.write(name, entry, file)
    assert record.due(wanted, sums, record.read(file)) == {}
    changed = {**sums, "tests/b.py": "3"}
    (reason,) = record.due(wanted, changed, record.read(file)).values()
    assert "2026-01-02" in reason


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_record_means_that_nothing_has_passed(tmp_path: Path, text: str) -> None:
    file = tmp_path / "passed.json"
    file.write_text(text)
    assert record.read(file) == {}
    record.write("lint", {"digest": "1"}, file)
    assert record.read(file) == {"lint": {"digest": "1"}}

"""The version of an app, written in a file or taken from the tags of its repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import (
    git_source,
    source,
    source_plans,
    versions,
)
from ansible_collections.asgi.deploy.plugins.module_utils.contained import Contained
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.installers import Build, BuildSettings

BUILD = Build(BuildSettings(), "blog.main:app")
BY_GIT = """
[project]
name = "blog"
dynamic = ["version"]
[build-system]
requires = ["setuptools>=80", "setuptools_scm[simple]>=8"]
"""


@pytest.fixture(autouse=True)
def git_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """Git as on a machine where nobody has configured it."""
    for key in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{key}_NAME", "test")
        monkeypatch.setenv(f"GIT_{key}_EMAIL", "test@example.com")


def git(directory: Path, *arguments: str) -> str:
    """Runs git in a directory."""
    words = ["git", *arguments]
    done = subprocess.run(words, cwd=directory, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def write(root: Path, files: dict[str, str]) -> Path:
    """Writes files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def commit(root: Path, message: str, *tags: str) -> str:
    """Commits all and returns the commit."""
    git(root, "init", "--quiet", "--initial-branch=main")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--allow-empty", f"--message={message}")
    for tag in tags:
        git(root, "tag", tag)
    return git(root, "rev-parse", "--short", "HEAD")


@pytest.mark.parametrize(
    ("files", "directory", "version"),
    [
        ({"pyproject.toml": '[project]\nversion = "2.0"'}, ".", "2.0"),
        ({"pyproject.toml": '[project]\nversion = "2.0"', "src/x.py": ""}, "src", "2.0"),
        ({"pyproject.toml": '[tool.poetry]\nversion = "3.0"'}, ".", "3.0"),
        ({"pyproject.toml": '[project]\ndynamic = ["version"]'}, ".", ""),
        ({"pyproject.toml": "[tool.x]\ny = 1"}, ".", ""),
        ({"a.txt": ""}, ".", ""),
    ],
)
def test_project_version(
    tmp_path: Path, files: dict[str, str], directory: str, version: str
) -> None:
    root = write(tmp_path / "app", files)
    assert versions.project_version(root, source.entries(root), directory) == version


@pytest.mark.parametrize(
    "text", ["[project\n", "{{ cookiecutter.name }}", 'project = "x"', '[tool.pdm]\nversion = "1"']
)
def test_a_template_of_a_pyproject_is_no_project(tmp_path: Path, text: str) -> None:
    files = {"requirements.txt": "", "template/pyproject.toml": text}
    root = write(tmp_path / "app", files)
    assert source_plans.directory_plan(root, tmp_path, BUILD)["version"] == ""
    # that of the app itself is named
    write(root, {"pyproject.toml": "[project\n"})
    with pytest.raises(DeployError, match=r"pyproject\.toml is not valid TOML"):
        source_plans.directory_plan(root, tmp_path, BUILD)


@pytest.mark.parametrize(
    ("tag", "version"),
    [
        ("v1.4.2", "1.4.2"),
        ("1.4.2", "1.4.2"),
        ("blog-v1.4.2", "1.4.2"),
        ("releases/1.4.2", "1.4.2"),
        ("v1.4.2-rc1", "1.4.2rc1"),
        ("blog@1.4.2", "1.4.2"),
        ("v1.4.2-hotfix", ""),
        ("k8s", ""),
        ("release-x1", ""),
    ],
)
def test_tag_version(tag: str, version: str) -> None:
    assert versions.tag_version(tag) == version


def test_the_version_of_a_checkout_is_that_of_its_tag(tmp_path: Path) -> None:
    root = write(tmp_path / "app", {"a.txt": ""})
    assert versions.described(root, "blog") == ("0", False)
    first = commit(root, "first")
    assert versions.described(root, "blog") == (f"0+g{first}", False)
    git(root, "tag", "v1.4.2")
    git(root, "tag", "nightly")
    assert versions.described(root, "blog") == ("1.4.2", True)
    second = commit(root, "second", "k8s", "v1.4.3-hotfix")
    assert versions.described(root, "blog") == (f"1.4.2+1.g{second}", True)


@pytest.mark.parametrize("tag", ["blog-v1.4.2", "blog/1.4.2", "blog@1.4.2"])
def test_tags_with_the_name_of_a_project_are_its_own(tmp_path: Path, tag: str) -> None:
    root = write(tmp_path / "app", {"a.txt": ""})
    commit(root, "first", tag)
    later = commit(root, "later", "web-v3.0")
    assert versions.described(root, "blog") == (f"1.4.2+1.g{later}", True)
    assert versions.described(root, "web") == ("3.0", True)


@pytest.mark.parametrize(
    ("change", "by_git"),
    [
        (("", ""), True),
        (("setuptools_scm[simple]>=8", "hatch-vcs"), True),
        (("setuptools_scm[simple]>=8", "hatchling"), False),
        (('dynamic = ["version"]', 'version = "1"'), False),
        (("setuptools_scm[simple]>=8", "pdm-backend"), False),
    ],
)
def test_which_builds_ask_git(tmp_path: Path, change: tuple[str, str], by_git: bool) -> None:
    root = write(tmp_path / "app", {"pyproject.toml": BY_GIT.replace(*change)})
    assert versions.versioned_by_git(root, source.entries(root)) == by_git


def test_pdm_asks_git_where_it_says_so(tmp_path: Path) -> None:
    text = f'{BY_GIT.replace("setuptools_scm", "x")}[tool.pdm.version]\nsource = "scm"\n'
    root = write(tmp_path / "app", {"pyproject.toml": text})
    assert versions.versioned_by_git(root, source.entries(root))


@pytest.mark.parametrize("of", ["path", "git", "archive"])
def test_a_build_that_asks_git_finds_the_version_in_a_file(tmp_path: Path, of: str) -> None:
    files = {"pyproject.toml": BY_GIT, "lib/pyproject.toml": BY_GIT.replace("blog", "lib")}
    root = write(tmp_path / "app", files)
    commit(root, "first", "v1.4.2")
    later = commit(root, "later")
    expected = {"path": f"1.4.2+1.g{later}", "git": f"1.4.2+1.g{later}", "archive": "0"}[of]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    if of == "path":
        plan = source_plans.directory_plan(root, scratch, BUILD)
    elif of == "git":
        access = git_source.GitAccess()
        plan = source_plans.git_plan(f"file://{root}", "main", scratch, access, BUILD)
    else:
        plain = write(tmp_path / "plain", files)
        plan = source_plans.archive_plan(plain, "x.tar.gz", scratch, BUILD)
    assert plan["version"] == plan["dependencies"]["version"] == expected
    noted = [note for note in plan["dependencies"]["notes"] if "no tag" in note]
    assert bool(noted) == (expected == "0")
    words = ["tar", "--extract", "--to-stdout", "--file", plan["archive"]]
    for name, path in (("blog", "PKG-INFO"), ("lib", "lib/PKG-INFO")):
        text = subprocess.run([*words, path], check=True, capture_output=True, text=True).stdout
        assert text == f"Metadata-Version: 2.1\nName: {name}\nVersion: {expected}\n"


def test_metadata_that_is_there_stays(tmp_path: Path) -> None:
    """As in a source distribution."""
    root = write(tmp_path / "app", {"pyproject.toml": BY_GIT, "PKG-INFO": "Version: 7\n"})
    assert versions.metadata_entries(root, source.entries(root)) == ([], [])


def test_a_version_that_is_written_for_builds_without_a_repository_stays(tmp_path: Path) -> None:
    text = f'{BY_GIT}[tool.setuptools_scm]\nfallback_version = "9.9"\n'
    root = write(tmp_path / "app", {"pyproject.toml": text})
    assert versions.metadata_entries(root, source.entries(root)) == ([], [])
    commit(root, "first", "v1.4.2")
    (entry,), notes = versions.metadata_entries(root, source.entries(root))
    assert (entry.path, notes) == ("PKG-INFO", [])


def test_a_package_of_a_workspace_has_its_own_version(tmp_path: Path) -> None:
    files = {
        "pyproject.toml": '[tool.uv.workspace]\nmembers = ["api"]\n',
        "api/pyproject.toml": '[project]\nname = "api"\nversion = "7.1"\n',
        "uv.lock": '[[package]]\nname = "api"\nversion = "7.1"\nsource = { virtual = "api" }\n',
    }
    root = write(tmp_path / "app", files)
    build = Build(BuildSettings(package="api"), "api.main:app")
    assert source_plans.directory_plan(root, tmp_path, build)["version"] == "7.1"


@pytest.mark.parametrize("asks", [True, False])
def test_a_host_has_the_tags_where_a_build_asks_for_them(
    tmp_path: Path, uncontained: Contained, asks: bool
) -> None:
    text = BY_GIT if asks else BY_GIT.replace("setuptools_scm", "setuptools-other")
    root = write(tmp_path / "app", {"blog/pyproject.toml": text})
    commit(root, "first", "v1.4.2")
    commit(root, "later")
    target = tmp_path / "target"
    target.mkdir()
    access = git_source.GitAccess(steps=uncontained)
    whole = git(root, "rev-parse", "HEAD")
    source_plans.checkout_on_host(f"file://{root}", whole, target, access)
    assert git(target, "tag") == ("v1.4.2" if asks else "")
    if not asks:
        return
    assert git(target, "describe", "--tags").startswith("v1.4.2-1-g")
    # all of it is there where an old server has sent it
    versions.fetch_history(target, whole, access)
    assert git(target, "describe", "--tags").startswith("v1.4.2-1-g")

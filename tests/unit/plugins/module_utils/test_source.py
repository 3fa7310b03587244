"""The same content gives the same release, wherever and by whomever it is read."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import git_source, source, source_plans
from ansible_collections.asgi.deploy.plugins.module_utils.contained import Contained
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.installers import Build, BuildSettings
from ansible_collections.asgi.deploy.plugins.module_utils.transient import Ended

FILES = {
    "pyproject.toml": '[project]\nname = "blog"\nversion = "1.4.2"\n',
    "blog/__init__.py": "",
    "blog/main.py": "app = None\n",
    "scripts/run.sh": "#!/bin/sh\n",
}
BUILD = Build(BuildSettings(), "blog.main:app")


@pytest.fixture(autouse=True)
def own_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Git as on a machine where nobody has configured it, but for what the tests need."""
    settings = tmp_path / "gitconfig"
    settings.write_text(
        "[user]\nname = test\nemail = test@example.com\n[init]\ndefaultBranch = main\n"
        # a submodule of the tests is a directory, which git refuses unless told
        '[protocol "file"]\nallow = always\n',
        encoding="utf-8",
    )
    for key in [key for key in os.environ if key.startswith("GIT_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


def write(root: Path, files: dict[str, str]) -> Path:
    """Writes files below a directory."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def git(directory: Path, *arguments: str) -> str:
    """Runs git in a directory."""
    done = subprocess.run(
        ["git", *arguments], cwd=directory, check=True, capture_output=True, encoding="utf-8"
    )
    return done.stdout.strip()


def repository(root: Path, files: dict[str, str] = FILES) -> Path:
    """Makes a repository with one commit."""
    write(root, files)
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message=first")
    return root


def names(found: list[source.Entry]) -> list[str]:
    """Returns the paths of entries."""
    return [entry.path for entry in found]


def digest(root: Path) -> str:
    """Returns the digest of a directory."""
    return source.content_digest(source.entries(root))


# --- what does not count --------------------------------------------------------------------------


def other_times(root: Path) -> None:
    """Sets other modification times."""
    for path in root.rglob("*"):
        os.utime(path, (1, 1))


def other_umask(root: Path) -> None:
    """Sets the modes that another umask would give."""
    for path in root.rglob("*"):
        path.chmod(0o700 if path.is_dir() else path.stat().st_mode & 0o100 | 0o600)


def made_in_another_order(root: Path) -> None:
    """Writes every file anew, the last one first."""
    contents = [(path, path.read_bytes()) for path in root.rglob("*") if path.is_file()]
    for path, _content in contents:
        path.unlink()
    for path, content in sorted(contents, reverse=True):
        path.write_bytes(content)


def cached(root: Path) -> None:
    """Leaves what running the app and its tests leaves behind."""
    for name in ("blog/__pycache__/main.pyc", ".mypy_cache/x.json", ".pytest_cache/v/x", "a.pyc"):
        write(root, {name: "cache"})


def with_environment(root: Path) -> None:
    """Makes a virtual environment under a name that says nothing."""
    write(root, {"sandbox/pyvenv.cfg": "home = /usr/bin\n", "sandbox/lib/x/y.py": "y = 1\n"})


def under_version_control(root: Path) -> None:
    """Makes a repository of it, and traces of other systems."""
    git(root, "init", "--quiet")
    write(root, {".hg/store": "x", ".svn/entries": "x", "blog/.jj/x": "x"})


@pytest.mark.parametrize(
    "change",
    [
        other_times,
        other_umask,
        made_in_another_order,
        cached,
        with_environment,
        under_version_control,
    ],
)
def test_what_is_not_content_does_not_change_the_digest(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    one, two = write(tmp_path / "one", FILES), write(tmp_path / "some" / "where" / "two", FILES)
    change(two)
    assert digest(one) == digest(two)
    packed = [tmp_path / "one.tar.gz", tmp_path / "two.tar.gz"]
    for root, archive in zip((one, two), packed, strict=True):
        source.pack(root, source.entries(root), archive, planned_at=1e9)
    assert packed[0].read_bytes() == packed[1].read_bytes()


# --- what counts ----------------------------------------------------------------------------------


def changed_content(root: Path) -> None:
    (root / "blog/main.py").write_text("app = 1\n", encoding="utf-8")


def renamed(root: Path) -> None:
    (root / "blog/main.py").rename(root / "blog/app.py")


def executable(root: Path) -> None:
    (root / "scripts/run.sh").chmod(0o755)


def added_empty_file(root: Path) -> None:
    (root / "blog/py.typed").touch()


def removed(root: Path) -> None:
    (root / "blog/__init__.py").unlink()


def link_in_place_of_a_file(root: Path) -> None:
    (root / "blog/__init__.py").unlink()
    (root / "blog/__init__.py").symlink_to("main.py")


@pytest.mark.parametrize(
    "change",
    [changed_content, renamed, executable, added_empty_file, removed, link_in_place_of_a_file],
)
def test_every_change_of_content_changes_the_digest(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    root = write(tmp_path / "app", FILES)
    before = digest(root)
    change(root)
    assert digest(root) != before


def test_a_link_counts_by_its_target_and_is_never_followed(tmp_path: Path) -> None:
    root = write(tmp_path / "app", FILES)
    write(tmp_path / "outside", {"secret.txt": "secret"})
    (root / "gone").symlink_to("nowhere")
    (root / "directory").symlink_to(tmp_path / "outside")
    links = {entry.path: entry for entry in source.entries(root) if entry.kind == "link"}
    assert links["gone"].digest == "nowhere"
    assert links["directory"].digest == str(tmp_path / "outside")
    assert "directory/secret.txt" not in names(source.entries(root))


# --- which files ----------------------------------------------------------------------------------

IGNORING = {
    **FILES,
    ".gitignore": "*.log\n/build/\n",
    "blog/.gitignore": "local.py\n!keep.log\n",
    "debug.log": "x",
    "blog/keep.log": "x",
    "blog/local.py": "x",
    "build/out.txt": "x",
    "docs/build/page.txt": "x",
}
LEFT_IN = sorted([*FILES, ".gitignore", "blog/.gitignore", "blog/keep.log", "docs/build/page.txt"])


@pytest.mark.parametrize("inside_a_repository", [False, True])
def test_gitignore_files_are_honoured(tmp_path: Path, inside_a_repository: bool) -> None:
    root = write(tmp_path / "app", IGNORING)
    if inside_a_repository:
        git(root, "init", "--quiet")
        git(root, "add", "--all")
    assert names(source.entries(root)) == LEFT_IN


def test_a_file_that_was_added_in_spite_of_gitignore_belongs_to_the_source(tmp_path: Path) -> None:
    root = repository(tmp_path / "app", IGNORING)
    git(root, "add", "--force", "blog/local.py")
    assert names(source.entries(root)) == sorted([*LEFT_IN, "blog/local.py"])


def test_a_folder_of_a_repository_is_bound_by_the_gitignore_above_it(tmp_path: Path) -> None:
    repository(tmp_path / "all", {".gitignore": "*.log\n", "app/main.py": "x", "other/x": "x"})
    write(tmp_path / "all" / "app", {"debug.log": "x", "new.py": "x"})
    assert names(source.entries(tmp_path / "all" / "app")) == ["main.py", "new.py"]


def test_a_users_own_excludes_do_not_count(tmp_path: Path) -> None:
    root = repository(tmp_path / "app")
    write(root, {"new.py": "x", ".git/info/exclude": "new.py\n"})
    write(tmp_path, {"excludes": "new.py\n"})
    git(root, "config", "core.excludesFile", str(tmp_path / "excludes"))
    assert "new.py" in names(source.entries(root))


def test_a_deleted_file_is_left_out_although_git_still_lists_it(tmp_path: Path) -> None:
    root = repository(tmp_path / "app")
    (root / "blog/main.py").unlink()
    assert "blog/main.py" not in names(source.entries(root))


MORE = {
    **dict.fromkeys(("data/a.csv", "data/sub/b.csv", "blog/data/c.csv", "mydata/d.csv"), "x"),
    # names that begin as pathspecs of git do
    **dict.fromkeys((":data", ":(x)y"), "x"),
    **dict.fromkeys(("tests/test_x.py", "docs/a/b.rst", "notes.md", "blog/keep.md"), "x"),
}


@pytest.mark.parametrize(
    ("patterns", "left_out"),
    [
        (["data"], {"data/a.csv", "data/sub/b.csv", "blog/data/c.csv"}),
        (["/data/"], {"data/a.csv", "data/sub/b.csv"}),
        (["tests/", "docs/**"], {"tests/test_x.py", "docs/a/b.rst"}),
        (["*.md", "!keep.md"], {"notes.md"}),
        (["data/*.csv"], {"data/a.csv"}),
        ([":data", "/:(x)y"], {":data", ":(x)y"}),
        # a folder in a pattern is none where there is only a file
        (["notes.md/"], set()),
        (["# all"], set()),
    ],
)
@pytest.mark.parametrize("tracked", [True, False])
def test_exclude_leaves_out_as_a_gitignore_file_does(
    tmp_path: Path, patterns: list[str], left_out: set[str], tracked: bool
) -> None:
    files = {**FILES, **MORE}
    root = (repository if tracked else write)(tmp_path / "app", files)
    found = names(source.entries(root, patterns))
    assert found == sorted(files.keys() - left_out)
    assert found


def test_a_users_own_excludes_leave_out_nothing(tmp_path: Path) -> None:
    root = write(tmp_path / "app", {**FILES, "notes.md": "x"})
    (tmp_path / "mine").write_text("*.py\n")
    git(tmp_path, "config", "--global", "core.excludesFile", str(tmp_path / "mine"))
    assert names(source.entries(root, ["*.md"])) == sorted(FILES)


BUILT = {
    ".gitignore": "dist/\n*.mo\n.env\n",
    "dist/index.html": "x",
    "dist/assets/app.js": "x",
    "blog/locale/de.mo": "x",
    ".env": "SECRET=x",
}


@pytest.mark.parametrize("tracked", [True, False])
def test_include_takes_what_was_built_and_is_ignored(tmp_path: Path, tracked: bool) -> None:
    root = write(tmp_path / "app", BUILT)
    # a virtual environment and caches are never taken
    write(root, {"dist/venv/pyvenv.cfg": "", "dist/venv/x.py": "", "dist/__pycache__/a.mo": ""})
    (repository if tracked else write)(root, FILES)
    ignored = {".gitignore", *FILES}
    assert set(names(source.entries(root))) == ignored
    built = {"dist/index.html", "dist/assets/app.js"}
    assert set(names(source.entries(root, include=["dist/"]))) == ignored | built
    found = names(source.entries(root, ["assets"], include=["/dist", "*.mo"]))
    assert set(found) == {*ignored, "dist/index.html", "blog/locale/de.mo"}


def test_pathspecs_of_the_environment_say_nothing_of_patterns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_LITERAL_PATHSPECS", "1")
    root = write(tmp_path / "app", {**FILES, "notes.md": "x"})
    assert names(source.entries(root, ["*.md"])) == sorted(FILES)


def test_what_never_belongs_to_a_source_was_not_built(tmp_path: Path) -> None:
    """As the translations in a virtual environment, where those of the app were not compiled."""
    root = write(tmp_path / "app", FILES)
    write(root, {".venv/pyvenv.cfg": "", ".venv/lib/de.mo": "x", "blog/a.pyc": "x"})
    for pattern in ("*.mo", "*.pyc"):
        with pytest.raises(DeployError, match="matches no file"):
            source.entries(root, include=[pattern])


@pytest.mark.parametrize("patterns", [["dist/"], ["*.mo", "dist/"], ["!x", "dist/"]])
def test_what_is_to_be_included_and_was_not_built_is_named(
    tmp_path: Path, patterns: list[str]
) -> None:
    root = write(tmp_path / "app", {**FILES, "blog/de.mo": "x", "dist": "a file"})
    with pytest.raises(DeployError, match=r"include: 'dist/' matches no file.*before the deploy"):
        source.entries(root, include=patterns)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


#: How the files of a repository are read: repository, an empty directory, steps of a build.
READINGS: dict[str, Callable[[Path, Path, Contained], object]] = {
    "directory": lambda root, _empty, _steps: source.entries(root),
    "checkout: controller": lambda root, empty, _steps: git_plan(f"file://{root}", "main", empty),
    "checkout: host": lambda root, empty, steps: source_plans.checkout_on_host(
        f"file://{root}", git(root, "rev-parse", "main"), empty, git_source.GitAccess(steps=steps)
    ),
}


@pytest.mark.parametrize("reading", READINGS)
def test_a_pointer_of_git_lfs_is_named(
    tmp_path: Path, uncontained: Contained, reading: str
) -> None:
    root = repository(tmp_path / "app", {**FILES, "model.bin": POINTER})
    with pytest.raises(DeployError, match=r"model\.bin is a pointer of Git LFS"):
        READINGS[reading](root, tmp_path / "empty", uncontained)


def test_what_is_said_about_git_lfs_is_no_pointer(tmp_path: Path) -> None:
    files = {**FILES, "notes.md": f"A pointer is\n{POINTER}", "empty": ""}
    root = write(tmp_path / "app", files)
    (root / "link").symlink_to("nowhere")
    source.refuse_pointers(root)
    assert set(names(source.entries(root))) == {*files, "link"}


def test_a_relative_path_is_one_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository(tmp_path / "all", {".gitignore": "*.log\n"})
    root = write(tmp_path / "all" / "apps" / "blog", {**FILES, "debug.log": "x"})
    plain = write(tmp_path / "plain" / "blog", FILES)
    monkeypatch.chdir(root.parent)
    assert names(source.entries(Path("blog"))) == sorted(FILES)
    monkeypatch.chdir(plain.parent.parent)
    assert names(source.entries(Path("plain/blog"))) == sorted(FILES)


@pytest.mark.parametrize("planned", ["path", "git"])
def test_a_hook_of_git_may_run_the_deploy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planned: str
) -> None:
    """Git gives its hooks their repository in the environment; it is not that of the source."""
    pushed = repository(tmp_path / "pushed", {"pushed.txt": "x"})
    root = repository(tmp_path / "app", {**FILES, ".gitignore": "*.log\n"})
    write(root, {"kept.log": "x"})
    git(root, "add", "--force", "kept.log")
    git(root, "commit", "--quiet", "--message=kept")
    before = git(pushed, "config", "--list"), git(pushed, "ls-files")
    with monkeypatch.context() as hook:
        hook.setenv("GIT_DIR", str(pushed / ".git"))
        hook.setenv("GIT_INDEX_FILE", str(pushed / ".git" / "index"))
        if planned == "path":
            plan = source_plans.directory_plan(root, tmp_path, BUILD)
        else:
            plan = git_plan(f"file://{root}", "main", tmp_path / "scratch")
    with tarfile.open(plan["archive"]) as tar:
        assert tar.getnames() == sorted([*FILES, ".gitignore", "kept.log"])
    assert (git(pushed, "config", "--list"), git(pushed, "ls-files")) == before


def with_submodule(tmp_path: Path) -> Path:
    """Makes a repository with a submodule `library` that has a file `code.py`."""
    library = repository(tmp_path / "library", {"code.py": "x = 1\n", ".gitignore": "*.log\n"})
    root = repository(tmp_path / "app")
    git(root, "submodule", "--quiet", "add", str(library), "library")
    git(root, "commit", "--quiet", "--message=library")
    return root


def test_files_of_a_submodule_belong_to_the_source(tmp_path: Path) -> None:
    root = with_submodule(tmp_path)
    write(root, {"library/debug.log": "x"})
    assert set(names(source.entries(root))) == {
        *FILES,
        ".gitmodules",
        "library/code.py",
        "library/.gitignore",
    }


def test_a_submodule_that_was_not_fetched_is_named(tmp_path: Path) -> None:
    root = with_submodule(tmp_path)
    git(tmp_path, "clone", "--quiet", str(root), "clone")
    with pytest.raises(DeployError, match="git submodule update") as caught:
        source.entries(tmp_path / "clone")
    assert str(tmp_path / "clone" / "library") in caught.value.message
    # what is left out need not be there
    assert names(source.entries(tmp_path / "clone", ["library/"])) == sorted(
        [*FILES, ".gitmodules"]
    )


def test_a_repository_inside_is_taken_along(tmp_path: Path) -> None:
    root = repository(tmp_path / "app")
    repository(root / "vendored", {"code.py": "x = 1\n"})
    assert set(names(source.entries(root))) == {*FILES, "vendored/code.py"}


@pytest.mark.parametrize(
    ("files", "told"),
    [(None, "there is no directory"), ({}, "no file to deploy"), ({"x.pyc": "x"}, "no file")],
)
def test_an_empty_source_is_refused(
    tmp_path: Path, files: dict[str, str] | None, told: str
) -> None:
    root = tmp_path / "app"
    if files is not None:
        root.mkdir()
        write(root, files)
    with pytest.raises(DeployError, match=r"asgi_app_source\.path") as caught:
        source.entries(root)
    assert told in caught.value.message


def test_a_name_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "app", FILES)
    (Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9.txt"))).write_text("x", encoding="utf-8")
    with pytest.raises(DeployError, match="not UTF-8"):
        source.entries(root)


@pytest.mark.parametrize(
    ("files", "installer", "directory", "rejected"),
    [
        ({}, "uv", "back", True),
        ({"back/requirements.txt": ""}, "pip", "back", False),
        # it is not in the release
        ({".gitignore": "uv.lock\n"}, "uv", "back", False),
        # of another project
        ({"requirements.txt": ""}, "uv", ".", False),
    ],
)
def test_a_lock_counts_where_it_is_what_is_installed(
    tmp_path: Path, files: dict[str, str], installer: str, directory: str, rejected: bool
) -> None:
    lock = '[[package]]\nname = "blog"\nsource = { virtual = "." }\n'
    project = '[project]\nname = "blog"\ndependencies = ["starlette"]\n'
    old = {"back/uv.lock": lock, "back/pyproject.toml": project}
    root = write(tmp_path / "app", {**FILES, **old, **files})
    expected = pytest.raises(DeployError, match=r"uv\.lock is out of date")
    with expected if rejected else contextlib.nullcontext():
        source_plans.directory_plan(
            root, tmp_path, Build(BuildSettings(installer=installer), "blog:app", directory)
        )


# --- the archive ----------------------------------------------------------------------------------


def test_the_archive_holds_what_was_listed_and_nothing_of_the_machine(tmp_path: Path) -> None:
    root = write(tmp_path / "app", {**FILES, "blog/größe.txt": "x", "a" * 150 + "/x": "long"})
    (root / "scripts/run.sh").chmod(0o750)
    (root / "link").symlink_to("blog/main.py")
    found = source.entries(root)
    source.pack(root, found, tmp_path / "x.tar.gz", planned_at=1e9 + 0.5)
    with tarfile.open(tmp_path / "x.tar.gz") as tar:
        members = tar.getmembers()
        content = tar.extractfile("blog/main.py")
        assert content is not None
        assert content.read() == b"app = None\n"
    assert [member.name for member in members] == names(found)
    modes = {member.name: member.mode for member in members if not member.issym()}
    assert modes.pop("scripts/run.sh") == 0o755
    assert set(modes.values()) == {0o644}
    assert {(m.uid, m.gid, m.uname, m.gname, m.mtime) for m in members} == {
        (0, 0, "", "", 1_000_000_000)
    }
    assert [(m.name, m.linkname) for m in members if m.issym()] == [("link", "blog/main.py")]


# --- plans ----------------------------------------------------------------------------------------


def private(url: str) -> dict[str, str | None]:
    """A source with a password."""
    return {"git": url, "username": "deploy", "password": "s3cret"}


def git_plan(url: str, version: str, scratch: Path) -> dict[str, Any]:
    """Plans a release of a commit."""
    scratch.mkdir(parents=True, exist_ok=True)
    return source_plans.git_plan(url, version, scratch, git_source.git_access({"git": url}), BUILD)


@pytest.fixture
def history(tmp_path: Path) -> Path:
    """A repository: v1 and annotated v1.1 on main, a branch `next`, and one commit after."""
    root = repository(tmp_path / "origin")
    git(root, "tag", "v1")
    for number, name in enumerate(("v1.1", "tip")):
        write(root, {"blog/main.py": f"app = {number}\n"})
        git(root, "commit", "--quiet", "--all", f"--message={name}")
        if name == "v1.1":
            git(root, "tag", "--annotate", "v1.1", "--message=annotated")
            git(root, "branch", "next")
    return root


@pytest.mark.parametrize(
    ("version", "commit"),
    [
        ("v1", "v1"),
        ("v1.1", "v1.1^{commit}"),
        ("next", "next"),
        ("main", "main"),
        ("refs/tags/v1", "v1"),
    ],
)
def test_a_version_of_git_is_its_commit(
    history: Path, tmp_path: Path, version: str, commit: str
) -> None:
    expected = git(history, "rev-parse", commit)
    plan = git_plan(f"file://{history}", version, tmp_path / "scratch")
    assert plan["commit"] == expected
    # the commit itself, also where no branch or tag points at it by that name
    assert git_plan(f"file://{history}", expected, tmp_path / "other") == {
        **plan,
        "archive": str(tmp_path / "other" / f"{expected}.tar.gz"),
    }
    with tarfile.open(plan["archive"]) as tar:
        content = tar.extractfile("blog/main.py")
        assert content is not None
        assert content.read().decode() == git(history, "show", f"{commit}:blog/main.py") + "\n"


def test_a_commit_is_found_where_the_server_gives_out_tips_only(
    history: Path, tmp_path: Path
) -> None:
    git(history, "config", "uploadpack.allowAnySHA1InWant", "false")
    first = git(history, "rev-list", "--max-parents=0", "main")
    git(history, "tag", "--delete", "v1")
    assert git_plan(f"file://{history}", first, tmp_path / "scratch")["commit"] == first


def test_a_checkout_has_its_submodules(tmp_path: Path) -> None:
    root = with_submodule(tmp_path)
    plan = git_plan(f"file://{root}", "main", tmp_path / "scratch")
    with tarfile.open(plan["archive"]) as tar:
        assert "library/code.py" in tar.getnames()


@pytest.mark.parametrize("version", ["v9", "v1.", "", "abc1234"])
def test_an_unknown_version_is_named(history: Path, tmp_path: Path, version: str) -> None:
    with pytest.raises(DeployError, match=r"asgi_app_source\.version") as caught:
        git_plan(f"file://{history}", version, tmp_path / "scratch")
    assert repr(version) in caught.value.message
    assert "40 digits" in caught.value.message


@pytest.mark.parametrize(
    "url",
    [
        "http://user:s3cret@127.0.0.1:1/blog.git",
        "http://user:s3c@s3cret@127.0.0.1:1/blog.git",
        "http://s3cret@127.0.0.1:1/blog.git",
    ],
)
def test_credentials_are_not_shown_when_git_fails(tmp_path: Path, url: str) -> None:
    with pytest.raises(DeployError) as caught:
        git_plan(url, "v1", tmp_path / "scratch")
    assert "git ls-remote failed" in caught.value.message
    assert "s3c" not in caught.value.message


def test_credentials_for_git_are_in_a_file_that_only_its_user_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither in its arguments nor in its environment, and gone after."""
    access = git_source.git_access(private("https://git.example.com/blog.git"))
    # base64 of deploy:s3cret
    assert "Authorization: Basic ZGVwbG95OnMzY3JldA==" in access.configuration
    given: list[dict[str, Any]] = []

    def run(argv: list[str], *, env: dict[str, str], **_more: Any) -> Any:
        (path,) = [Path(value) for value in env.values() if value.endswith("/GIT_CONFIG_GLOBAL")]
        given.append({"argv": argv, "env": env, "mode": path.stat().st_mode & 0o777, "path": path})
        return subprocess.CompletedProcess(argv, 0, b"", b"")

    with monkeypatch.context() as patched:
        patched.setattr(git_source.subprocess, "run", run)
        git_source.git(["ls-remote", "--", "https://git.example.com/blog.git"], tmp_path, access)
    (call,) = given
    assert call["mode"] == 0o600
    assert "ZGVwbG95" not in f"{call['argv']}{call['env']}"
    assert not call["path"].exists()
    assert (
        git_source.git_access({"git": "https://git.example.com/x", "username": "u"}).configuration
        == ""
    )


def test_ssh_has_the_key_and_the_hosts_from_files_that_only_its_user_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program in the place of ssh says how it was called."""
    told = tmp_path / "told"
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(
        f'#!/bin/sh\nexec >{told}\necho "$@"\nwhile [ $# -gt 0 ]; do case "$1" in\n'
        ' -i) stat -c %a "$2"; cat "$2";; *KnownHostsFile=*) cat "${1#*=}";; esac; shift; done\n'
        "env\nexit 1\n"
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(ssh.parent), prepend=":")
    # ssh reads no key whose last line has no end, or that has those of Windows
    given = {
        "git": "git@git.example.com:blog.git",
        "ssh_key": "KEY-1\r\n",
        "ssh_known_hosts": "HOST-1",
    }
    with pytest.raises(DeployError, match="git ls-remote failed"):
        git_source.resolve_commit(given["git"], "main", tmp_path, git_source.git_access(given))
    called, mode, key, hosts, *environment = told.read_text().splitlines()
    assert (mode, key, hosts) == ("600", "KEY-1", "HOST-1")
    for option in ("IdentitiesOnly=yes", "StrictHostKeyChecking=yes", "BatchMode=yes"):
        assert option in called
    assert "KEY-1" not in f"{called}{environment}"
    (path,) = [Path(word) for word in called.split() if word.endswith("/ASGI_SSH_KEY")]
    assert not path.exists()
    # without a key those of the user, as he has configured it
    assert git_source.git_access({"git": given["git"]}).ssh_variables() == {}


@pytest.mark.parametrize(
    ("said", "variable"),
    [
        ("Host key verification failed.", "ssh_known_hosts"),
        ("git@git.example.com: Permission denied (publickey,password).", "ssh_key"),
        (
            'Load key "/x": error in libcrypto\r\ngit@x: Permission denied (publickey).',
            "ssh_key: write all lines of a private key without a passphrase",
        ),
    ],
)
def test_what_ssh_rejects_says_what_to_write(said: str, variable: str) -> None:
    error = git_source.git_failure(["ls-remote"], Path("/"), f"{said}\nfatal: no repository")
    assert f"asgi_app_source.{variable}" in error.message
    assert len(error.message.splitlines()) == len(said.splitlines()) + 2


# --- whom a repository belongs to -----------------------------------------------------------------


@pytest.fixture
def trap(tmp_path: Path) -> Path:
    """A repository whose settings and hooks would run a program, which leaves a file."""
    root = repository(tmp_path / "app")
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    git(root, "config", "core.fsmonitor", str(program))
    git(root, "config", "core.hooksPath", str(tmp_path / "hooks"))
    (tmp_path / "hooks").mkdir()
    for hook in ("post-checkout", "post-index-change", "reference-transaction"):
        shutil.copy(program, tmp_path / "hooks" / hook)
    # so the trap works, and the tests can fail
    git(root, "status")
    assert (tmp_path / "ran").exists()
    (tmp_path / "ran").unlink()
    return root


def test_no_program_of_a_repository_runs(trap: Path, tmp_path: Path) -> None:
    """An archive may have brought a .git, and what is unpacked is one's own."""
    assert names(source.entries(trap)) == sorted(FILES)
    assert names(source.entries(trap / "blog")) == ["__init__.py", "main.py"]
    git_plan(f"file://{trap}", "HEAD", tmp_path / "scratch")
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_the_repository_of_another_user_is_rejected(
    trap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can make /tmp/.git would say what a deploy of /tmp/build takes."""
    shutil.chown(trap / ".git", "nobody")
    for directory in (trap, trap / "blog"):
        with pytest.raises(DeployError, match=r"has another owner than the user") as caught:
            source.entries(directory)
        assert f"git config --global --add safe.directory {trap}" in caught.value.message
    assert not (tmp_path / "ran").exists()
    # as a CI system does
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "safe.directory")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(trap))
    assert names(source.entries(trap)) == sorted(FILES)
    assert not (tmp_path / "ran").exists()


def test_settings_of_the_environment_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By them CI systems give git credentials and mirrors."""
    repository(tmp_path / "mirror/blog.git")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{tmp_path}/mirror/.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://git.example.com/")
    plan = git_plan("https://git.example.com/blog.git", "main", tmp_path / "scratch")
    assert plan["commit"] == git(tmp_path / "mirror/blog.git", "rev-parse", "HEAD")


class Recording(http.server.SimpleHTTPRequestHandler):
    """Serves the repositories of a directory and writes down who sent which credentials."""

    def do_GET(self) -> None:
        """Answers after the note."""
        self.server.seen.add(self.headers.get("Authorization", "none"))  # type: ignore[attr-defined]
        super().do_GET()

    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""


@contextlib.contextmanager
def serve(directory: Path) -> Iterator[tuple[str, set[str]]]:
    """Serves a directory; gives its URL and the credentials that were sent, as they come in."""
    handler = functools.partial(Recording, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        seen: set[str] = set()
        server.seen = seen  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", seen
        finally:
            server.shutdown()
            thread.join()


def bare(root: Path, target: Path) -> None:
    """Makes a repository that a server of plain files can give out."""
    git(root, "clone", "--quiet", "--bare", str(root), str(target))
    git(target, "update-server-info")


def test_credentials_go_to_the_server_of_the_repository_only(tmp_path: Path) -> None:
    """A submodule may lie with anyone; the one that holds it is not given our password."""
    with serve(tmp_path / "theirs") as (theirs, seen_by_them):
        bare(repository(tmp_path / "library", {"code.py": "x = 1\n"}), tmp_path / "theirs/code.git")
        root = repository(tmp_path / "app")
        git(root, "submodule", "--quiet", "add", f"{theirs}/code.git", "code")
        git(root, "commit", "--quiet", "--message=library")
        bare(root, tmp_path / "ours/blog.git")
        seen_by_them.clear()
        with serve(tmp_path / "ours") as (ours, seen_by_us):
            url = f"{ours}/blog.git"
            scratch = tmp_path / "scratch"
            scratch.mkdir()
            access = git_source.git_access(private(url))
            plan = source_plans.git_plan(url, "main", scratch, access, BUILD)
    with tarfile.open(plan["archive"]) as tar:
        assert "code/code.py" in tar.getnames()
    assert seen_by_us == {"Basic ZGVwbG95OnMzY3JldA=="}
    assert seen_by_them == {"none"}


@pytest.mark.parametrize("url", ["git@127.0.0.1:blog.git", "file:///nowhere/blog.git"])
def test_a_password_does_not_break_access_without_http(tmp_path: Path, url: str) -> None:
    """It is of no use there, and git is not to stumble over it."""
    repository(tmp_path / "app")
    access = git_source.git_access(private(url))
    assert git_source.git(["ls-files"], tmp_path / "app", access).splitlines() == sorted(FILES)


def cloned_into(directory: Path) -> Path:
    """Makes a repository that `served` in a directory gives out; returns an empty one for it."""
    bare(repository(directory / "origin"), directory / "served/blog.git")
    target = directory / "target"
    target.mkdir()
    return target


def test_git_on_a_host_is_a_step_of_the_build(
    tmp_path: Path, uncontained: Contained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes from elsewhere is not read, written or run as root."""
    target = cloned_into(tmp_path)

    def never(*arguments: Any, **more: Any) -> None:
        raise AssertionError(arguments)

    with serve(tmp_path / "served") as (server, _seen):
        url = f"{server}/blog.git"
        with monkeypatch.context() as patched:
            patched.setattr(git_source, "subprocess", SimpleNamespace(run=never))
            access = git_source.GitAccess(steps=uncontained)
            commit = git_source.resolve_commit(url, "main", target, access)
            git_source.checkout(url, commit, target, access)
            plan = source_plans.host_checkout_plan(url, "main", tmp_path, access, BUILD)
    assert (target / "blog/main.py").is_file()
    assert commit == git(tmp_path / "origin", "rev-parse", "main")
    assert plan["commit"] == commit
    assert plan["release"].startswith(f"git.{commit[:7]}-")
    # every host makes its own archive of it, none is brought there
    assert plan["archive"] == ""


def test_git_on_a_host_gets_the_variables_of_the_play(
    tmp_path: Path, uncontained: Contained, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the SSH key for a private repository, or the mirror of a company."""
    target = cloned_into(tmp_path)
    with serve(tmp_path / "served") as (server, _seen):
        for key, value in {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{server}/.insteadOf",
            "GIT_CONFIG_VALUE_0": "https://git.example.com/",
            # of another repository
            "GIT_DIR": "/nowhere",
        }.items():
            monkeypatch.setenv(key, value)
        url = "https://git.example.com/blog.git"
        access = git_source.git_access({"git": url}, uncontained, "/etc/ssl/company.pem")
        assert git_source.resolve_commit(url, "main", target, access)
    settings = git_source.git(["config", "--get-regexp", "^(core|url)[.]"], target, access)
    assert "core.hookspath /dev/null" in settings
    assert f"url.{server}/.insteadof https://git.example.com/" in settings


@pytest.mark.parametrize("given", ["", "/etc/ssl/of-git.pem"])
def test_git_on_a_host_trusts_the_authorities_of_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """What the play gives git itself comes first."""
    seen: dict[str, str] = {}

    class Steps:
        def run(self, *_arguments: Any, environment: dict[str, str], **_more: Any) -> Ended:
            seen.update(environment)
            return Ended(0, "", "")

    if given:
        monkeypatch.setenv("GIT_SSL_CAINFO", given)
    access = git_source.GitAccess("", cast("Contained", Steps()), "/etc/ssl/company.pem")
    git_source.git(["status"], tmp_path, access)
    assert seen["GIT_SSL_CAINFO"] == (given or "/etc/ssl/company.pem")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:secret@example.com/x.git", "https://***@example.com/x.git"),
        ("https://user:a@b@example.com/x.git", "https://***@example.com/x.git"),
        ("https://token@example.com", "https://***@example.com"),
        ("https://example.com/a@b", "https://example.com/a@b"),
        ("git@example.com:x.git", "git@example.com:x.git"),
        ("'ssh://git@a/x' and 'https://u:p@b/y'", "'ssh://***@a/x' and 'https://***@b/y'"),
    ],
)
def test_hide_credentials(text: str, shown: str) -> None:
    assert git_source.hide_credentials(text) == shown


def test_a_directory_is_planned_and_packed(tmp_path: Path) -> None:
    root = write(tmp_path / "app", FILES)
    plan = source_plans.directory_plan(root, tmp_path, BUILD)
    assert plan["version"] == "1.4.2"
    assert plan["release"].startswith("1.4.2-")
    assert plan["digest"] == digest(root)
    assert Path(plan["archive"]).is_file()


@pytest.mark.parametrize(
    ("version", "readable"),
    [
        ("1.4.2", "1.4.2"),
        ("", "0"),
        ("1.0+local/x y", "1.0.local.x.y"),
        ("-..-", "0"),
        ("1" * 99, "1" * 40),
    ],
)
def test_a_release_id_is_readable_and_a_unit_can_carry_it(version: str, readable: str) -> None:
    release = source_plans.release_id(version, "digest", {})
    assert release.rsplit("-", 1)[0] == readable
    assert len(release.rsplit("-", 1)[1]) == source_plans.DIGEST_LENGTH


def test_a_release_id_depends_on_content_and_on_how_it_is_built() -> None:
    build = {"installer": "uv", "python": "python3"}
    same = source_plans.release_id("1", "digest", dict(reversed(build.items())))
    assert source_plans.release_id("1", "digest", build) == same
    others = {
        source_plans.release_id("1", "other", build),
        source_plans.release_id("1", "digest", {**build, "installer": "pip"}),
        source_plans.release_id("1", "digest", {**build, "python": "3.13"}),
    }
    assert len(others | {same}) == 4

"""Unpacking an archive that others have made."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import archives, source, source_plans
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.installers import Build, BuildSettings

FILES = {"pyproject.toml": '[project]\nversion = "1.4.2"\n', "blog/main.py": "app = 1\n"}


def file(name: str, content: str = "x", mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    """A file for an archive."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), mode
    return info, content.encode()


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    """A link or a device for an archive."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    """A symbolic link for an archive."""
    return special(name, tarfile.SYMTYPE, target)


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    """Writes a tar.gz archive."""
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    """Writes a zip archive, as one for Unix, with the same members."""
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members:
            info = zipfile.ZipInfo(member.name)
            kind = stat.S_IFLNK if member.issym() else stat.S_IFREG
            info.external_attr = (kind | member.mode) << 16
            archive.writestr(info, member.linkname if member.issym() else content)
    return path


MAKERS = [tar, zipped]


def shape(root: Path) -> dict[str, str]:
    """What a directory has: contents of files, targets of links."""
    return {
        name: f"-> {(root / name).readlink()}"
        if (root / name).is_symlink()
        else (root / name).read_text()
        for name in source.tree(root)
    }


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("top", ["", "blog-1.4.2/", "./"])
def test_an_archive_is_what_a_directory_would_be(
    tmp_path: Path, make: Callable[..., Path], top: str
) -> None:
    """With or without one directory around all of it: that of a release page is stripped."""
    members = [file(f"{top}{name}", content) for name, content in FILES.items()]
    root = archives.unpack(make(tmp_path / "a", *members), tmp_path / "out")
    assert shape(root) == FILES
    build = Build(BuildSettings(), "blog.main:app")
    plan = source_plans.archive_plan(root, "a.tar.gz", tmp_path, build)
    plain = tmp_path / "plain"
    for name, content in FILES.items():
        (plain / name).parent.mkdir(parents=True, exist_ok=True)
        (plain / name).write_text(content)
    same = source_plans.directory_plan(plain, tmp_path, build)
    assert plan == {**same, "source": "a.tar.gz"}
    assert plan["version"] == "1.4.2"


def test_what_a_gitignore_names_is_taken_from_an_archive(tmp_path: Path) -> None:
    """Whoever made the archive has chosen; a built front end is often ignored."""
    members = [file(".gitignore", "dist\n"), file("dist/app.js"), file("__pycache__/a.pyc")]
    root = archives.unpack(tar(tmp_path / "a", *members), tmp_path / "out")
    found = source.entries(root, listed=source.tree(root))
    assert [entry.path for entry in found] == [".gitignore", "dist/app.js"]


@pytest.mark.parametrize("make", MAKERS)
def test_links_inside_and_modes_are_kept(tmp_path: Path, make: Callable[..., Path]) -> None:
    members = [link("a/current", "../b/run.sh"), file("b/run.sh", mode=0o750), link("c", "b")]
    root = archives.unpack(make(tmp_path / "a", *members), tmp_path / "out")
    assert shape(root) == {"a/current": "-> ../b/run.sh", "b/run.sh": "x", "c": "-> b"}
    assert (root / "b/run.sh").stat().st_mode & 0o777 == 0o755


def test_a_hard_link_is_its_file(tmp_path: Path) -> None:
    members = [file("one", "text"), special("two", tarfile.LNKTYPE, "one")]
    root = archives.unpack(tar(tmp_path / "a", *members), tmp_path / "out")
    assert shape(root) == {"one": "text", "two": "text"}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([file("/etc/evil")], "leads out"),
        ([file("../evil")], "leads out"),
        ([file("a/../../evil")], "leads out"),
        ([file("..\\evil")], "leads out"),
        ([link("a", "/etc/passwd")], "a link that leads out"),
        ([link("a", "..")], "a link that leads out"),
        ([link("a", "../outside/file")], "a link that leads out"),
        # each alone looks well; together they lead out
        ([link("s/t/d", "../.."), link("e", "s/t/d/..")], "a link that leads out"),
        ([link("e", "s/t/d/.."), link("s/t/d", "../..")], "a link that leads out"),
        ([link("a", ".."), link("a/evil", "x")], "lies behind a link"),
        ([link("a", "b"), file("b/x"), link("a/y", "x")], "lies behind a link"),
        ([link("a", "/tmp"), file("a/evil")], "stands there twice"),
        ([file("a"), file("a")], "stands there twice"),
        ([file("a"), link("a", "b")], "stands there twice"),
        ([file("a"), file("a/b")], "stands there twice"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_what_could_leave_its_directory_is_refused(
    tmp_path: Path,
    make: Callable[..., Path],
    members: list[tuple[tarfile.TarInfo, bytes]],
    why: str,
) -> None:
    (tmp_path / "outside").mkdir()
    before = {path for path in tmp_path.rglob("*") if "out" not in path.parts}
    archive = make(tmp_path / "a", *members)
    with pytest.raises(DeployError, match=rf"^asgi_app_source\.archive: .*{why}"):
        archives.unpack(archive, tmp_path / "out")
    after = {path for path in tmp_path.rglob("*") if tmp_path / "out" not in (path, *path.parents)}
    assert after == before | {archive}


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_a_device_is_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(DeployError, match="neither a file, a directory nor a link"):
        archives.unpack(tar(tmp_path / "a", special("null", kind)), tmp_path / "out")


@pytest.mark.parametrize("cut", [0, 20, -30])
@pytest.mark.parametrize("make", MAKERS)
def test_what_is_no_whole_archive_is_refused(
    tmp_path: Path, make: Callable[..., Path], cut: int
) -> None:
    archive = make(tmp_path / "a", file("one", "text" * 500))
    archive.write_bytes(archive.read_bytes()[:cut])
    with pytest.raises(DeployError, match="no whole tar"):
        archives.unpack(archive, tmp_path / "out")

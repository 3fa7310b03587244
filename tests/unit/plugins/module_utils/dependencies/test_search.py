"""Which file of a source is installed, and how: each decision with what users would expect."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import dependencies
from ansible_collections.asgi.deploy.plugins.module_utils.dependencies import (
    Dependencies,
    Wanted,
    search,
)
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError

PROJECT = '[project]\nname = "blog"\nversion = "1"\ndependencies = ["starlette"]\n'
BUILT = f'{PROJECT}[build-system]\nrequires = ["hatchling"]\n'
TOOLS = "[tool.ruff]\nline-length = 100\n"
POETRY = '[tool.poetry]\nname = "blog"\nversion = "1"\n[build-system]\nrequires = []\n'
NO_PACKAGE = POETRY.replace("[build", "package-mode = false\n[build")
HASH = f"--hash=sha256:{'a' * 64}"


def found(root: Path, files: dict[str, str], **wanted: Any) -> Dependencies:
    """What is found in a source with these files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return search.find(search.Tree(root, files.keys()), Wanted(**wanted))


def rejected(root: Path, files: dict[str, str], **wanted: Any) -> str:
    """Why a source with these files is rejected."""
    with pytest.raises(search.Rejected) as caught:
        found(root, files, **wanted)
    return str(caught.value)


# --- which file -----------------------------------------------------------------------------------

LOCK = "version = 1\n"


@pytest.mark.parametrize(
    ("files", "installer", "kind"),
    [
        ({"uv.lock": LOCK, "pyproject.toml": PROJECT, "requirements.txt": ""}, "uv", "uv.lock"),
        (
            {"uv.lock": LOCK, "pyproject.toml": PROJECT, "requirements.txt": ""},
            "pip",
            "requirements.txt",
        ),
        ({"pylock.toml": "", "pyproject.toml": PROJECT}, "uv", "pylock.toml"),
        ({"poetry.lock": "", "pyproject.toml": POETRY}, "uv", "poetry.lock"),
        ({"pdm.lock": "", "pyproject.toml": PROJECT}, "uv", "pdm.lock"),
        ({"Pipfile.lock": "{}", "Pipfile": ""}, "uv", "Pipfile.lock"),
        ({"requirements.txt": "", "pyproject.toml": PROJECT}, "uv", "requirements.txt"),
        ({"requirements.txt": "", "pyproject.toml": TOOLS}, "pip", "requirements.txt"),
        ({"pyproject.toml": PROJECT}, "uv", "pyproject.toml"),
        ({"pyproject.toml": POETRY}, "pip", "pyproject.toml"),
        ({"setup.py": "", "pyproject.toml": TOOLS}, "uv", "setup.py"),
    ],
)
def test_the_file_that_counts(
    tmp_path: Path, files: dict[str, str], installer: str, kind: str
) -> None:
    assert found(tmp_path, files, installer=installer).kind == kind


@pytest.mark.parametrize("name", [name for name in search.LOCKS if name != "uv.lock"])
def test_a_lock_that_pip_does_not_read_is_not_left_out(tmp_path: Path, name: str) -> None:
    files = {name: "", "pyproject.toml": PROJECT}
    why = rejected(tmp_path, files, installer="pip")
    assert f"pip does not read {name}" in why
    assert search.LOCKS[name] in why
    # made from it, as the text says
    both = found(tmp_path, {**files, "requirements.txt": ""}, installer="pip")
    assert both.kind == "requirements.txt"
    assert both.notes == [f"{name} is not used, requirements.txt is"]


def test_what_a_text_advises_for_pip_is_accepted(tmp_path: Path) -> None:
    """Of real uv, which needs no index here: neither the project as editable, nor the group dev."""
    project = (
        PROJECT.replace('"starlette"', "")
        + """
[dependency-groups]
dev = ["lib"]
[tool.uv.sources]
lib = { path = "lib" }
"""
    )
    files = {"pyproject.toml": project, "lib/pyproject.toml": PROJECT.replace("blog", "lib")}
    files["lib/pyproject.toml"] = files["lib/pyproject.toml"].replace('"starlette"', "")
    found(tmp_path, files)
    uv = Path(__file__).parents[5] / ".cache/uv/bin/uv"
    for command in ("uv lock --offline --quiet", f"{search.LOCKS['uv.lock']} --offline"):
        words = command.split()[1:]
        subprocess.run([uv, *words], cwd=tmp_path, check=True, capture_output=True)
    requirements = (tmp_path / "requirements.txt").read_text()
    lines = [line for line in requirements.splitlines() if line.strip()[:1] != "#"]
    assert lines == []
    one = found(tmp_path, {**files, "requirements.txt": requirements}, installer="pip")
    assert one.kind == "requirements.txt"
    locked = {**files, "uv.lock": (tmp_path / "uv.lock").read_text()}
    assert found(tmp_path, locked).kind == "uv.lock"


def test_a_lock_above_what_is_not_locked_is_noted(tmp_path: Path) -> None:
    files = {"apps/api/pyproject.toml": PROJECT, "poetry.lock": "", "pyproject.toml": POETRY}
    notes = found(tmp_path, files, directory="apps/api").notes
    assert "poetry.lock is not used, apps/api/pyproject.toml is" in notes
    # another app may have it
    locked = {**files, "apps/api/uv.lock": LOCK}
    assert found(tmp_path, locked, directory="apps/api").notes == []


def test_what_is_there_and_not_used_is_noted(tmp_path: Path) -> None:
    files = {"uv.lock": LOCK, "poetry.lock": "", "requirements.txt": "", "pyproject.toml": PROJECT}
    assert found(tmp_path, files).notes == [
        "poetry.lock is not used, uv.lock is",
        "requirements.txt is not used, uv.lock is",
    ]


def test_a_lock_that_is_not_deployed_is_noted(tmp_path: Path) -> None:
    """Ignored by .gitignore, as some templates have it."""
    (tmp_path / "uv.lock").write_text(LOCK)
    first, second = found(tmp_path, {"pyproject.toml": PROJECT}).notes
    assert first.startswith("uv.lock is not part of the source, as .gitignore")
    assert second == "pyproject.toml without a lock: versions are not pinned"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"main.py": ""}, "the app has no uv.lock"),
        ({"pyproject.toml": TOOLS}, "its pyproject.toml has only settings of tools"),
        (
            {"pyproject.toml": TOOLS, "requirements/production.txt": "", "config/x.py": ""},
            "in asgi_app_requirements_files, such as requirements/production.txt",
        ),
        ({"requirements-prod.txt": ""}, "such as requirements-prod.txt"),
        ({"back/a.txt": ""}, "no pyproject.toml of a project"),
        ({"locks/pylock.prod.toml": ""}, "such as locks/pylock.prod.toml"),
        ({"backend/pyproject.toml": PROJECT}, "Set asgi_app_directory, for example to backend"),
    ],
)
def test_without_any_the_text_says_what_to_write(
    tmp_path: Path, files: dict[str, str], expected: str
) -> None:
    assert expected in rejected(tmp_path, files)


def test_it_is_looked_for_above_the_app(tmp_path: Path) -> None:
    """The app runs in src, what it needs is in the root of the repository."""
    files = {"requirements.txt": "starlette==1.0", "src/blog/main.py": "", "docs/uv.lock": LOCK}
    one = found(tmp_path, files, directory="src", entrypoint="blog.main:app")
    assert (one.kind, one.files, one.directory) == ("requirements.txt", ["requirements.txt"], ".")
    nearer = {**files, "src/pyproject.toml": PROJECT}
    assert found(tmp_path, nearer, directory="src").files == ["src/pyproject.toml"]
    # one of tools is none
    tools = {**files, "src/pyproject.toml": TOOLS}
    assert found(tmp_path, tools, directory="src").files == ["requirements.txt"]


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    assert "pyproject.toml is not valid TOML" in rejected(tmp_path, {"pyproject.toml": "[project"})


def test_nothing_outside_of_the_source_is_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s3cret = [", encoding="utf-8")
    root = tmp_path / "source"
    root.mkdir()
    (root / "pyproject.toml").symlink_to("../secret")
    (root / "requirements.txt").write_text("-r ../secret\n")
    tree = search.Tree(root)
    assert not tree.has("pyproject.toml")
    with pytest.raises(search.Rejected, match=r"pyproject\.toml is a link that leads out of"):
        search.find(tree, Wanted())
    (root / "pyproject.toml").unlink()
    with pytest.raises(search.Rejected, match=r"names \.\./secret, which is not in the source"):
        search.find(tree, Wanted())


# --- workspaces of uv -----------------------------------------------------------------------------

WORKSPACE = '[tool.uv.workspace]\nmembers = ["apps/*", "packages/*"]\nexclude = ["apps/old"]\n'
MEMBERS = {
    "pyproject.toml": WORKSPACE,
    "uv.lock": '[[package]]\nname = "api"\nsource = { editable = "apps/api" }\n'
    '[[package]]\nname = "lib"\nsource = { virtual = "packages/lib" }\n'
    '[[package]]\nname = "starlette"\nsource = { registry = "https://pypi.org/simple" }\n',
    "apps/api/pyproject.toml": BUILT.replace("blog", "api"),
    "packages/lib/pyproject.toml": PROJECT.replace("blog", "lib"),
}


def test_a_member_is_installed_with_the_lock_of_its_workspace(tmp_path: Path) -> None:
    one = found(tmp_path, MEMBERS, directory="apps/api")
    assert (one.kind, one.files, one.directory, one.package) == ("uv.lock", ["uv.lock"], ".", "api")
    # the workspace may be a directory of the source, and the app one of the member
    inside = {f"py/{name}": text for name, text in MEMBERS.items()}
    two = found(tmp_path, {**inside, "py/apps/api/src/x.py": ""}, directory="py/apps/api/src")
    assert (two.files, two.directory, two.package) == (["py/uv.lock"], "py", "api")


def test_the_package_of_a_workspace_can_be_named(tmp_path: Path) -> None:
    assert found(tmp_path, MEMBERS, package="lib").package == "lib"
    why = rejected(tmp_path, MEMBERS, package="starlette")
    assert "no package of the workspace of uv.lock, which has api, lib" in why
    assert "write the package to install as asgi_app_package: api, lib" in rejected(
        tmp_path, MEMBERS
    )


def test_a_workspace_with_a_project_of_its_own_is_that_project(tmp_path: Path) -> None:
    lock = MEMBERS["uv.lock"] + '[[package]]\nname = "all"\nsource = { virtual = "." }\n'
    files = {**MEMBERS, "uv.lock": lock, "pyproject.toml": f"{PROJECT}{WORKSPACE}"}
    assert found(tmp_path, files).package == "all"


@pytest.mark.parametrize(
    ("members", "member"),
    [
        ('[".", "apps/*"]', True),
        ('["apps/api"]', True),
        ('["apps/api/"]', True),
        ('["**/a*"]', True),
        ('["*"]', False),
        ('["/apps/*", ""]', False),
        ('["packages/*"]', False),
    ],
)
def test_which_directories_are_members(tmp_path: Path, members: str, member: bool) -> None:
    files = {**MEMBERS, "pyproject.toml": f"[tool.uv.workspace]\nmembers = {members}\n"}
    one = found(tmp_path, files, directory="apps/api")
    assert (one.kind == "uv.lock") == member


def test_what_is_beside_the_lock_of_a_workspace_is_noted(tmp_path: Path) -> None:
    files = {**MEMBERS, "apps/api/requirements.txt": "", "poetry.lock": ""}
    assert found(tmp_path, files, directory="apps/api").notes == [
        "apps/api/requirements.txt is not used, uv.lock is",
        "poetry.lock is not used, uv.lock is",
    ]


def test_what_is_no_member_has_a_lock_of_its_own_or_none(tmp_path: Path) -> None:
    files = {**MEMBERS, "apps/old/pyproject.toml": PROJECT, "tools/x/pyproject.toml": PROJECT}
    for directory in ("apps/old", "tools/x"):
        assert found(tmp_path, files, directory=directory).kind == "pyproject.toml"
    new = {**MEMBERS, "apps/new/pyproject.toml": PROJECT}
    assert "uv.lock is out of date" in rejected(tmp_path, new, directory="apps/new")


def test_pip_does_not_install_a_member_without_its_lock(tmp_path: Path) -> None:
    why = rejected(tmp_path, MEMBERS, directory="apps/api", installer="pip")
    assert "pip does not read uv.lock of the workspace" in why
    files = {**MEMBERS, "apps/api/requirements.txt": ""}
    assert found(tmp_path, files, directory="apps/api", installer="pip").package == ""


@pytest.mark.parametrize("files", [{"pyproject.toml": PROJECT}, {"uv.lock": LOCK}])
def test_a_package_without_a_workspace_is_rejected(tmp_path: Path, files: dict[str, str]) -> None:
    assert "asgi_app_package: is for a uv workspace" in rejected(tmp_path, files, package="api")


# --- the project itself ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("project", "place", "installed"),
    [
        (BUILT, "src/blog/__init__.py", "."),
        (BUILT, "src/blog.py", "."),
        # it is found where the app runs, and setuptools may not even build it
        (BUILT, "blog/main.py", ""),
        (BUILT, "blog.py", ""),
        (PROJECT, "src/blog/__init__.py", ""),
        (f"{BUILT}[tool.uv]\npackage = false\n", "src/blog/__init__.py", ""),
        (NO_PACKAGE, "src/blog/__init__.py", ""),
        (f"{BUILT}[tool.pdm]\ndistribution = false\n", "src/blog/__init__.py", ""),
    ],
)
@pytest.mark.parametrize("kind", ["requirements.txt", "poetry.lock", "pylock.toml"])
def test_a_project_is_installed_where_it_would_not_be_found(
    tmp_path: Path, project: str, place: str, installed: str, kind: str
) -> None:
    files = {"pyproject.toml": project, place: "", kind: ""}
    # what only this controller has: caches, or what git ignores
    (tmp_path / "blog" / "__pycache__").mkdir(parents=True, exist_ok=True)
    assert found(tmp_path, files, entrypoint="blog.main:app").project == installed


def test_commands_of_a_project_are_there_with_its_own_lock(tmp_path: Path) -> None:
    for text in ("[project.scripts]", "[tool.poetry.scripts]", "[project.entry-points.x]"):
        files = {"pyproject.toml": f'{BUILT}{text}\na = "b:c"\n', "blog/main.py": ""}
        one = found(tmp_path, {**files, "pdm.lock": ""}, entrypoint="blog.main:app")
        assert one.project == "."


@pytest.mark.parametrize(
    ("project", "package"),
    [(BUILT, True), (PROJECT, False), (f"{BUILT}[tool.uv]\npackage = false\n", False)],
)
def test_what_is_no_package_is_not_built(tmp_path: Path, project: str, package: bool) -> None:
    optional = '[project.optional-dependencies]\nmore = ["idna"]\n'
    files = {"pyproject.toml": f"{project}\n{optional}", "app/main.py": "", "static/x.css": ""}
    one = found(tmp_path, files, extras=["more"])
    assert one.project == ("." if package else "")
    assert one.requirements == ([] if package else ["starlette", "idna"])


def test_extras_of_a_project_may_be_made_of_others(tmp_path: Path) -> None:
    """By the name of the project itself, of which an index may have another one."""
    text = """[project.optional-dependencies]
all = ["Blog[server, my_db]", "idna"]
server = ["uvicorn"]
my-db = ["asyncpg", "blog[all]"]
"""
    one = found(tmp_path, {"pyproject.toml": PROJECT + text}, extras=["ALL"], installer="pip")
    assert one.requirements == ["starlette", "idna", "uvicorn", "asyncpg"]


def test_poetry_without_a_lock_and_a_package_is_rejected(tmp_path: Path) -> None:
    assert "poetry lock" in rejected(tmp_path, {"pyproject.toml": NO_PACKAGE})


# --- requirements files ---------------------------------------------------------------------------


def test_requirements_files_can_be_named(tmp_path: Path) -> None:
    files = {
        "back/requirements/base.txt": "starlette==1.0\n",
        "back/requirements/production.txt": "-r base.txt\nuvicorn\n",
        "back/pyproject.toml": TOOLS,
    }
    one = found(
        tmp_path, files, directory="back", requirements_files=["requirements/production.txt"]
    )
    assert one.kind == "requirements.txt"
    assert (one.files, one.directory) == (["back/requirements/production.txt"], "back")
    assert one.notes == ["not pinned in back/requirements/production.txt: uvicorn"]
    why = rejected(tmp_path, files, directory="back", requirements_files=["prod.txt"])
    # as it is to be written
    assert "the source has no file back/prod.txt; it has requirements/base.txt" in why
    with pytest.raises(search.Rejected, match=r"such as requirements/base\.txt, requi"):
        found(tmp_path, files, directory="back")
    assert "no file" in rejected(tmp_path, files, requirements_files=["../secret.txt"])


def test_a_project_is_not_named_as_a_requirements_file(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "setup.py"):
        why = rejected(tmp_path, {name: ""}, requirements_files=[name])
        assert "is no requirements file and no pylock.toml" in why
    # Rye writes it
    named = found(tmp_path, {"requirements.lock": "x==1"}, requirements_files=["requirements.lock"])
    assert named.kind == "requirements.txt"


def test_a_pylock_can_be_named_alone_and_for_uv(tmp_path: Path) -> None:
    files = {"pylock.prod.toml": "", "requirements.txt": ""}
    assert found(tmp_path, files, requirements_files=["pylock.prod.toml"]).kind == "pylock.toml"
    for more in ({"installer": "pip"}, {"requirements_files": ["pylock.prod.toml", "r.txt"]}):
        wanted = {"requirements_files": ["pylock.prod.toml"], **more}
        assert "uv, and alone" in rejected(tmp_path, {**files, "r.txt": ""}, **wanted)


@pytest.mark.parametrize(
    ("line", "unpinned"),
    [
        ("starlette==1.0", ""),
        ("starlette === 1.0", ""),
        ("starlette[full]==1.0  # why", ""),
        (f"starlette>=1 {HASH}", ""),
        ("starlette @ https://example.com/starlette.whl", ""),
        ("starlette", "starlette"),
        ("Star_Lette>=1", "star-lette"),
        ("starlette==1.*", "starlette"),
        ('starlette; python_version == "3.11"', "starlette"),
        ("# starlette", ""),
        ("--index-url https://pypi.org/simple", ""),
        ("-c constraints.txt\nstarlette\nuvicorn", "uvicorn"),
        ("--constraint=constraints.txt\nstarlette", ""),
        ("-r https://example.com/x.txt", ""),
        ("star @ git+https://user:s3cret@example.com/x@main", "star"),
        ("star[a]@git+https://user:s3cret@example.com/x@main", "star"),
        ("git+https://user:s3cret@example.com/x.git", "git+https://example.com/x.git"),
        (f"star @ git+https://example.com/x@{'a' * 40}#egg=star", ""),
    ],
)
def test_what_is_not_pinned_is_named(tmp_path: Path, line: str, unpinned: str) -> None:
    files = {"requirements.txt": f"{line}\n", "constraints.txt": "starlette==1.0\nuvicorn>1\n"}
    expected = [f"not pinned in requirements.txt: {unpinned}"] if unpinned else []
    assert found(tmp_path, files).notes == expected


@pytest.mark.parametrize(
    ("line", "hashed", "complete"),
    [
        ("x==1", False, False),
        (f"x==1 {HASH}", True, False),
        (f"x==1 \\\n    {HASH.replace('=', ' ', 1)}", True, False),
        ("# we use no --hash here", False, False),
        (f"./x.whl {HASH}", True, False),
        # what uv export writes: a directory has no hash, so only what is listed is installed
        (f"-e .\nx==1 {HASH}", False, True),
        (f"./libs/core\nx==1 {HASH}", False, True),
        (f"lib @ file:libs/core\nx==1 {HASH}", False, True),
        (f".[more] ; python_version > '3'\nx==1 {HASH}", False, True),
        ("-e ./libs/core", False, False),
        (f"-e libs/core\nx==1 {HASH}", False, True),
        (f"-e core\nx==1 {HASH}", False, True),
        (f"libs/core[more]\nx==1 {HASH}", False, True),
        (f"x==1 {HASH}\nlib @ git+https://example.com/x@{'a' * 40}", False, True),
        (f"libs/x.whl {HASH}\nx==1 {HASH}", True, False),
    ],
)
def test_one_hash_in_requirements_makes_all_required(
    tmp_path: Path, line: str, hashed: bool, complete: bool
) -> None:
    one = found(tmp_path, {"requirements.txt": f"{line}\n", "pyproject.toml": BUILT})
    assert (one.hashed, one.complete) == (hashed, complete)


def test_a_project_that_is_listed_is_not_installed_twice(tmp_path: Path) -> None:
    files = {"pyproject.toml": BUILT, "src/blog/main.py": "", "requirements.txt": "-e .\nx==1\n"}
    assert found(tmp_path, files, entrypoint="blog.main:app").project == ""


@pytest.mark.parametrize("line", ["-e .", "--editable=./lib", "-e git+https://x.test/a#egg=a"])
def test_pip_would_leave_it_editable(tmp_path: Path, line: str) -> None:
    why = rejected(tmp_path, {"requirements.txt": line}, installer="pip")
    assert "write it without -e" in why
    assert found(tmp_path, {"requirements.txt": line}).kind == "requirements.txt"


def test_pip_has_no_hash_for_a_directory(tmp_path: Path) -> None:
    files = {"requirements.txt": f"./lib\nx==1 {HASH}\n"}
    assert "does not install ./lib beside" in rejected(tmp_path, files, installer="pip")


@pytest.mark.parametrize("line", ["-r base.txt", "-rbase.txt", "--requirement=base.txt"])
def test_a_file_that_is_named_and_not_there_is_rejected(tmp_path: Path, line: str) -> None:
    files = {"requirements.txt": line}
    assert "names base.txt, which is not in the source" in rejected(tmp_path, files)
    # one that names itself is read once
    assert found(tmp_path, {**files, "base.txt": "-r requirements.txt\n"}).notes == []


# --- extras and groups ----------------------------------------------------------------------------


GROUPS = '[dependency-groups]\nmy-x = ["a"]\n'
EXTRAS = '[project.optional-dependencies]\nmy-x = ["a"]\n'


@pytest.mark.parametrize(
    ("name", "text", "project", "option"),
    [
        ("pyproject.toml", PROJECT + EXTRAS, "", "extras"),
        ("pyproject.toml", PROJECT + GROUPS, "", "groups"),
        ("pdm.lock", '[metadata]\ngroups = ["default", "my-x"]\n', PROJECT, "extras"),
        ("pdm.lock", '[metadata]\ngroups = ["default", "my-x"]\n', PROJECT, "groups"),
        ("pylock.toml", 'extras = ["my-x"]\n', PROJECT, "extras"),
        ("pylock.toml", 'dependency-groups = ["my-x"]\n', PROJECT, "groups"),
        ("setup.py", "", PROJECT.replace("[project]", "[tool.x]"), "extras"),
    ],
)
def test_an_extra_or_group_that_is_not_there_is_rejected(
    tmp_path: Path, name: str, text: str, project: str, option: str
) -> None:
    """Most installers would ignore it."""
    files = {**({"pyproject.toml": project} if project else {}), name: text}
    assert found(tmp_path, files, **{option: ["My_X"]}).kind == name
    if name == "setup.py":
        # what it has is known by running it
        return
    why = rejected(tmp_path, files, **{option: ["other"]})
    assert why.startswith(f"asgi_app_{option}: {name} has no other; it has ")


@pytest.mark.parametrize("option", ["extras", "groups"])
def test_extras_and_groups_are_not_ignored(tmp_path: Path, option: str) -> None:
    for name in ("requirements.txt", "Pipfile.lock"):
        why = rejected(tmp_path, {name: ""}, **{option: ["x"]})
        assert why.startswith(f"asgi_app_{option}: ")
        assert "asgi_app_requirements_files" not in why
        (tmp_path / name).unlink()
    # uv and Poetry reject unknown ones themselves
    for name in ("uv.lock", "poetry.lock"):
        files = {"pyproject.toml": PROJECT, name: ""}
        assert found(tmp_path, files, **{option: ["x"]}).kind == name
        (tmp_path / name).unlink()
    assert "pip installs no groups" in rejected(
        tmp_path, {"pyproject.toml": PROJECT}, groups=["x"], installer="pip"
    )


# --- on a host, and in a plan ---------------------------------------------------------------------


def test_a_host_finds_the_same_by_the_program(tmp_path: Path, uncontained: Any) -> None:
    wanted = Wanted("apps/api", "api.main:app")
    here = found(tmp_path, MEMBERS, directory="apps/api", entrypoint="api.main:app")
    assert dependencies.find_on_host(tmp_path, wanted, uncontained) == here
    with pytest.raises(DeployError, match="asgi_app_package"):
        dependencies.find_on_host(tmp_path, Wanted(), uncontained)


def test_the_program_needs_nothing_of_the_collection(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("starlette==1.0\n")
    words = [sys.executable, "-I", "-S", "-c", dependencies.PROGRAM, str(tmp_path), "{}"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["kind"] == "requirements.txt"


def test_a_host_with_an_old_python_reads_requirements_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tomllib", None)
    assert found(tmp_path, {"requirements.txt": ""}).kind == "requirements.txt"
    assert "needs Python 3.11 on the host" in rejected(tmp_path, {"pyproject.toml": PROJECT})


def test_what_goes_wrong_in_the_program_is_said(tmp_path: Path, uncontained: Any) -> None:
    (tmp_path / "pyproject.toml").write_text("[project]\ndependencies = 7\n")
    with pytest.raises(DeployError, match="asgi_app_source: TypeError"):
        dependencies.find_on_host(tmp_path, Wanted(), uncontained)


def test_the_controller_looks_whether_a_lock_is_current(tmp_path: Path) -> None:
    lock = '[[package]]\nname = "blog"\nsource = { virtual = "." }\n'
    for name, text in {"pyproject.toml": PROJECT, "uv.lock": lock}.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DeployError, match="out of date"):
        dependencies.find(tmp_path, {"pyproject.toml", "uv.lock"}, Wanted())
    (tmp_path / "uv.lock").write_text(
        f'{lock}[package.metadata]\nrequires-dist = [{{ name = "starlette" }}]\n'
    )
    assert dependencies.find(tmp_path, {"pyproject.toml", "uv.lock"}, Wanted()).current

"""What uv and pip are called with for each kind of file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils.dependencies import Dependencies
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.installers import BuildSettings
from ansible_collections.asgi.deploy.plugins.module_utils.installers.environment import Environment
from ansible_collections.asgi.deploy.plugins.module_utils.installers.pip import Pip
from ansible_collections.asgi.deploy.plugins.module_utils.installers.uv import Uv

INDEX = {"url": "https://pypi.example.com/simple", "username": "u", "password": "s3cret"}
SOURCE = "/srv/x/source"
LOCK = Dependencies("uv.lock", ["uv.lock"], current=True)


class Step(NamedTuple):
    """A step that was run."""

    argv: list[str]
    environment: dict[str, str]
    secret_files: dict[str, str]
    directory: str


class Steps:
    """Notes the steps of a build in place of running them."""

    def __init__(self, fails: str = "", says: str = "") -> None:
        self.seen: list[Step] = []
        self.fails = fails
        self.says = says

    def run(
        self,
        argv: list[str],
        *,
        purpose: str,
        environment: dict[str, str] | None = None,
        secret_files: dict[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        self.seen.append(Step(argv, environment or {}, secret_files or {}, str(directory)))
        if self.fails and self.fails in argv:
            raise DeployError(f"{purpose}: {self.says}")


def installed(
    found: Dependencies, by: str = "uv", steps: Steps | None = None, **settings: Any
) -> list[Step]:
    """The steps that install what was found."""
    steps = steps or Steps()
    environment = Environment(
        BuildSettings(**settings),
        steps,  # type: ignore[arg-type]
        Path("/srv/x/venv"),
        Path(SOURCE),
        Path(SOURCE),
        Path("/cache"),
    )
    (Uv(environment, "/uv") if by == "uv" else Pip(environment)).install(found)
    return steps.seen


def words(steps: list[Step]) -> list[str]:
    """What was called, in a line each."""
    return [" ".join(step.argv) for step in steps]


def test_a_lock_is_synchronized_from_its_own_urls_without_an_index() -> None:
    """With more indexes too: the lock says what comes from which."""
    (step,) = installed(LOCK, extras=["x"], groups=["g"], extra_indexes=[INDEX])
    assert step.argv[:2] == ["/uv", "sync"]
    assert {"--frozen", "--no-default-groups", "--no-editable", "--extra=x", "--group=g"} < {
        *step.argv
    }
    assert "s3cret" in step.secret_files["NETRC"]


def test_an_index_is_in_place_of_the_urls_of_a_lock() -> None:
    export, sync = installed(LOCK, extras=["x"], groups=["g"], index=INDEX)
    assert export.argv[:2] == ["/uv", "export"]
    wanted = {"--frozen", "--no-default-groups", "--no-editable", "--extra=x", "--group=g"}
    assert wanted < {*export.argv}
    assert sync.argv[:3] == ["/uv", "pip", "sync"]
    assert f"--output-file={sync.argv[-1]}" in export.argv
    assert sync.environment["UV_DEFAULT_INDEX"] == INDEX["url"]
    # what only reads the lock needs no credentials
    assert (export.secret_files, "s3cret" in sync.secret_files["NETRC"]) == ({}, True)


@pytest.mark.parametrize("index", [{}, INDEX])
def test_a_member_of_a_workspace_is_installed_from_its_root(index: dict[str, str]) -> None:
    found = Dependencies("uv.lock", ["py/uv.lock"], "py", package="api", current=True)
    for step in installed(found, index=index):
        assert step.directory == f"{SOURCE}/py"
        assert ("--package=api" in step.argv) == ("pip" not in step.argv)


def test_a_build_that_reads_its_version_from_a_variable_has_it() -> None:
    steps = Steps()
    environment = Environment(
        BuildSettings(),
        steps,  # type: ignore[arg-type]
        *map(Path, ("/venv", SOURCE, SOURCE, "/cache")),
        version="1.4.2",
    )
    Pip(environment).install(Dependencies("pyproject.toml", ["pyproject.toml"], project="."))
    assert steps.seen[0].environment["PDM_BUILD_SCM_VERSION"] == "1.4.2"
    assert "PDM_BUILD_SCM_VERSION" not in installed(LOCK)[0].environment


def test_a_lock_that_nobody_has_compared_is_compared_by_uv() -> None:
    """Of a checkout on a host."""
    found = Dependencies("uv.lock", ["uv.lock"])
    assert "--locked" in installed(found)[0].argv
    # uv compares the indexes, too
    assert "--frozen" in installed(found, extra_indexes=[INDEX])[0].argv


def test_requirements_files_are_installed_together() -> None:
    files = ["a.txt", "b/c.txt"]
    found = Dependencies("requirements.txt", files, "app", hashed=True)
    for by in ("uv", "pip"):
        (step,) = installed(found, by)
        names = {f"--requirement={SOURCE}/a.txt", f"--requirement={SOURCE}/b/c.txt"}
        assert {*names, "--require-hashes"} < {*step.argv}
        assert step.directory == f"{SOURCE}/app"


@pytest.mark.parametrize("by", ["uv", "pip"])
def test_the_project_of_requirements_comes_after_and_brings_nothing(by: str) -> None:
    found = Dependencies("requirements.txt", ["requirements.txt"], project="back")
    first, second = words(installed(found, by))
    assert "--requirement" in first
    assert second.endswith(f"--no-deps {SOURCE}/back")


def test_a_complete_list_brings_nothing_that_is_not_on_it() -> None:
    """With hashes beside a directory, which has none."""
    found = Dependencies("requirements.txt", ["requirements.txt"], complete=True)
    (line,) = words(installed(found))
    assert "--no-deps" in line
    assert "--no-editable" in line
    assert "--require-hashes" not in line


def test_a_project_without_a_lock() -> None:
    package = Dependencies("pyproject.toml", ["b/pyproject.toml"], "b", project="b")
    (line,) = words(installed(package, extras=["x"], groups=["g"]))
    assert f"--requirement={SOURCE}/b/pyproject.toml --extra=x" in line
    assert line.endswith(f"--group={SOURCE}/b/pyproject.toml:g {SOURCE}/b")
    assert words(installed(package, "pip", extras=["x"]))[0].endswith(f" {SOURCE}/b[x]")
    none = Dependencies("pyproject.toml", ["pyproject.toml"], requirements=["starlette", "idna"])
    assert words(installed(none))[0].endswith(f"--requirement={SOURCE}/pyproject.toml")
    assert words(installed(none, "pip"))[0].endswith(" --quiet starlette idna")
    old = Dependencies("setup.py", ["setup.py"], project=".")
    assert words(installed(old, extras=["x"]))[0].endswith(f" {SOURCE}[x]")


@pytest.mark.parametrize(
    ("lock", "listing", "check"),
    [
        ("poetry.lock", "poetry export --no-interaction --without-urls --extras=x --with=g", ""),
        (
            "pdm.lock",
            "pdm export --no-default --group=default --group=x --group=g",
            "pdm lock --check",
        ),
    ],
)
def test_a_lock_of_another_tool_is_listed_by_it(lock: str, listing: str, check: str) -> None:
    found = Dependencies(lock, [f"b/{lock}"], "b", project="b")
    steps = installed(found, extras=["x"], groups=["g"], index=INDEX)
    if check:
        assert words(steps[:1])[0].endswith(check)
    listed, packages, project = words(steps[-3:])
    assert listed.endswith(listing)
    # the tool has the version that was tried
    assert "/uv tool run" in listed
    assert "==" in listed
    target = steps[-3].argv[3]
    assert packages.endswith(f"--no-deps --requirement={target}")
    assert project.endswith(f"--no-deps {SOURCE}/b")
    # without it PDM makes an environment in the source
    assert steps[-3].environment["VIRTUAL_ENV"] == "/srv/x/venv"
    assert all("s3cret" in step.secret_files["NETRC"] for step in steps)


@pytest.mark.parametrize("index", [{}, INDEX])
def test_the_indexes_of_a_project_count_without_another_one(index: dict[str, str]) -> None:
    listed = words(installed(Dependencies("poetry.lock", ["poetry.lock"]), index=index))[0]
    assert ("--without-urls" in listed) == bool(index)


@pytest.mark.parametrize(
    ("lock", "fails", "says", "command"),
    [
        ("Pipfile.lock", "verify", "Pipfile.lock is out-of-date.", "pipenv lock"),
        ("pdm.lock", "--check", "Lockfile doesn't satisfy the project", "pdm lock"),
        ("poetry.lock", "export", "changed significantly since poetry.lock was", "poetry lock"),
        ("poetry.lock", "export", "network is unreachable", ""),
    ],
)
def test_a_lock_that_its_tool_rejects_is_named_with_the_command(
    lock: str, fails: str, says: str, command: str
) -> None:
    with pytest.raises(DeployError, match=says) as caught:
        installed(Dependencies(lock, [lock]), steps=Steps(fails, says))
    expected = f"{lock} is out of date; run {command}, and add the file to the source"
    assert (expected in caught.value.message) == bool(command)


@pytest.mark.parametrize("kind", ["requirements.txt", "uv.lock"])
def test_extras_of_a_package_are_in_its_requirement(kind: str) -> None:
    """Of a wheel or a package of the index; uv rejects the option beside requirements."""
    steps = installed(Dependencies(kind, [kind], current=True), extras=["x"])
    assert ("--extra=x" in steps[0].argv) == (kind == "uv.lock")

"""What a step of a build may do, who reads its files, and what its failures say."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import contained, transient
from ansible_collections.asgi.deploy.plugins.module_utils.contained import Contained
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.transient import Ended, Property

SECRET = "s3cret-value"


class Unit:
    """Stands for systemd: takes down what a unit was started with, and how its files were then."""

    def __init__(self, ended: Ended) -> None:
        self.ended = ended
        self.unit = ""
        self.argv: Sequence[str] = ()
        self.properties: Sequence[Property] = ()
        self.files: dict[str, tuple[int, str]] = {}

    def run(
        self,
        unit: str,
        argv: Sequence[str],
        properties: Sequence[Property],
        timeout_seconds: float,
        input_file: Path | None = None,
    ) -> Ended:
        """Takes the place of transient.run_unit."""
        self.unit, self.argv, self.properties = unit, argv, properties
        for key, value in properties:
            if key in ("EnvironmentFile", "LoadCredential"):
                path = Path(value.partition(":")[2] or value)
                self.files[path.name] = (path.stat().st_mode & 0o777, path.read_text())
        return self.ended


@pytest.fixture
def unit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Ended], tuple[Contained, Unit]]:
    """Makes steps whose units end in a given way."""
    monkeypatch.setattr(contained, "PRIVATE_FILES", tmp_path / "run" / "build")

    def make(ended: Ended) -> tuple[Contained, Unit]:
        asked = Unit(ended)
        monkeypatch.setattr(transient, "run_unit", asked.run)
        paths = [Path("/srv/blog/releases/1"), Path("/var/cache/asgi/blog")]
        return Contained("blog", "blog-build", paths, [Path("/var/lib/asgi/blog")]), asked

    return make


def test_a_step_can_write_to_its_release_and_the_cache_only(unit: Any) -> None:
    steps, asked = unit(Ended(0, "", ""))
    steps.run(["make"], purpose="build", directory=Path("/srv/blog/releases/1/source"))
    assert [value for key, value in asked.properties if key == "ReadWritePaths"] == [
        "/srv/blog/releases/1",
        "/var/cache/asgi/blog",
    ]
    for wanted in (
        ("User", "blog-build"),
        ("ProtectSystem", "strict"),
        ("InaccessiblePaths", "-/var/lib/asgi/blog"),
        ("NoNewPrivileges", "yes"),
        ("MemoryMax", "75%"),
        ("CPUWeight", "10"),
        ("WorkingDirectory", "/srv/blog/releases/1/source"),
    ):
        assert wanted in asked.properties


def test_environment_and_secrets_are_in_files_of_root_alone_while_it_runs(
    unit: Any, tmp_path: Path
) -> None:
    steps, asked = unit(Ended(0, "", ""))
    steps.run(
        ["pip", "install"],
        purpose="install",
        environment={"PIP_INDEX_URL": "https://pypi.example.com", "TOKEN": SECRET},
        secret_files={"NETRC": f"machine pypi.example.com login u password {SECRET}\n"},
    )
    mode, environment = asked.files["environment"]
    assert mode == 0o600
    assert f'TOKEN="{SECRET}"\n' in environment
    assert f'NETRC="/run/credentials/{asked.unit}/NETRC"\n' in environment
    assert asked.files["NETRC"] == (
        0o600,
        f"machine pypi.example.com login u password {SECRET}\n",
    )
    # any user can read properties and arguments
    assert SECRET not in str([*asked.argv, *asked.properties])
    assert list((tmp_path / "run" / "build").iterdir()) == []
    assert (tmp_path / "run" / "build").stat().st_mode & 0o777 == 0o700


def test_each_step_has_a_unit_of_its_own(unit: Any) -> None:
    steps, asked = unit(Ended(0, "", ""))
    names = []
    for _number in range(2):
        steps.run(["true"], purpose="wait")
        names.append(asked.unit)
    assert names == [f"blog-build@{os.getpid()}-{number}.service" for number in (1, 2)]


@pytest.mark.parametrize("name", ["https_proxy", "HTTPS_PROXY", "no_proxy"])
def test_proxies_of_the_play_reach_a_step(
    unit: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "proxy.example.com")
    monkeypatch.setenv("ANSIBLE_PASSWORD", SECRET)
    steps, asked = unit(Ended(0, "", ""))
    steps.run(["true"], purpose="wait")
    assert f'{name}="proxy.example.com"\n' in asked.files["environment"][1]
    assert SECRET not in asked.files["environment"][1]


@pytest.mark.parametrize(
    ("ended", "text"),
    [
        (Ended(3, "out", "err", "exit-code"), "ended with code 3:\nout\nerr"),
        (Ended(1, "", "", "timeout", 9), "took longer than 900 s (asgi_app_build_timeout_seconds)"),
        (Ended(1, "", "", "oom-kill"), "used more memory than 75% (asgi_app_build_memory_max)"),
        # with cgroup v1 systemd does not learn that it was the memory
        (Ended(1, "", "", "signal", 9), "used more memory than 75%"),
        (Ended(137, "Killed", "", "exit-code"), "used more memory than 75%"),
        (Ended(1, "", "", "signal", 11), "was ended by SIGSEGV"),
        (Ended(226, "", "", "exit-code", 0, "Failed at step NAMESPACE"), ":\nFailed at step NAME"),
    ],
)
def test_a_failure_says_what_failed_and_which_limit_it_was(
    unit: Any, ended: Ended, text: str
) -> None:
    steps, _asked = unit(ended)
    with pytest.raises(DeployError) as caught:
        steps.run(["pip", "install"], purpose="install the packages")
    assert caught.value.message.startswith("pip install to install the packages ")
    assert text in caught.value.message


def test_only_an_exit_code_is_left_to_the_caller(unit: Any) -> None:
    steps, _asked = unit(Ended(1, "bad.py", "", "exit-code"))
    assert steps.run(["compile"], purpose="compile", check=False).stdout == "bad.py"
    steps, _asked = unit(Ended(1, "", "", "timeout"))
    with pytest.raises(DeployError, match="took longer"):
        steps.run(["compile"], purpose="compile", check=False)


def test_what_killed_runs_have_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contained, "PRIVATE_FILES", tmp_path / "run" / "build")
    # no process can have this number (proc(5), pid_max)
    gone, running = f"{2**22 + 1}-1", f"{os.getpid()}-1"
    for step in (gone, running):
        (tmp_path / "run" / "build" / f"blog@{step}.x7").mkdir(parents=True)
    stopped: list[str] = []
    numbers = {"blog-build@*": (gone, running), "blog-import@*": (2**22 + 1, os.getpid())}
    monkeypatch.setattr(
        contained.systemd,
        "loaded",
        lambda *patterns: [
            pattern.replace("*", str(number))
            for pattern in patterns
            for number in numbers[pattern.removesuffix(".service")]
        ],
    )
    monkeypatch.setattr(transient, "stop", stopped.append)
    contained.clear("blog")
    assert stopped == [f"blog-build@{gone}.service", f"blog-import@{2**22 + 1}.service"]
    left = [path.name for path in (tmp_path / "run" / "build").iterdir()]
    assert left == [f"blog@{running}.x7"]

"""Both ends of what the README claims: the oldest and the newest Ansible, Python and systemd."""

from __future__ import annotations

import os
import subprocess
import textwrap
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import programs
import pytest
import yaml
from sites import DOMAIN, ROOT, SECRET, Played, Site

#: Says what it got; a release that fails at its start is made from it.
APP = """
import json, os

RELEASE = "{release}"
FAILS = {fails}

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        if FAILS:
            message = "this release fails at its start"
            await send({{"type": "lifespan.startup.failed", "message": message}})
            return
        await send({{"type": "lifespan.startup.complete"}})
        await receive()
        await send({{"type": "lifespan.shutdown.complete"}})
    elif scope["type"] == "http":
        values = {{"release": RELEASE, "values": dict(os.environ)}}
        body = '{{"status":"ok"}}' if scope["path"] == "/healthz" else json.dumps(values)
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": body.encode()}})
"""
REQUIREMENTS = """
click==8.1.8
h11==0.16.0
typing-extensions==4.16.0 ; python_version < "3.11"
uvicorn==0.39.0
"""
#: Texts that YAML or Jinja could take for something else.
VALUES = {
    "text": SECRET,
    "json": '{"status":"ok"}',
    "list": "['a', 'b']",
    "boolean": "True",
    "number": "123",
    "nothing": "null",
}


@dataclass(frozen=True)
class End:
    """One end of what is claimed.

    Attributes:
        ansible_core: Version on the controller.
        python: Of the controller.
        image: Of the host.
    """

    ansible_core: str
    python: str
    image: str


def oldest_ansible_core() -> str:
    """The version that the collection names as its minimum."""
    runtime = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text())
    return str(runtime["requires_ansible"]).removeprefix(">=")


def newest_ansible_core() -> str:
    """The newest version in the lock."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    versions = [one["version"] for one in lock["package"] if one["name"] == "ansible-core"]
    return max(versions, key=lambda version: [int(part) for part in version.split(".")])


ENDS = {
    # systemd 247, Python 3.9
    "oldest": End(oldest_ansible_core(), "3.11", "debian11"),
    "newest": End(newest_ansible_core(), "3.13", "debian13"),
}


def make_environment(end: End, directory: Path) -> Path:
    """Makes a virtual environment with a version of ansible-core; returns where its programs are.

    The commands that pyenv puts into the PATH do not run unless their version is the chosen one.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    paths = [*map(str, pyenv.glob("versions/*/bin")), os.environ["PATH"]]
    uv = ROOT / ".cache" / "uv" / "bin" / "uv"
    install = ["pip", "install", "--system-certs", f"--python={directory}"]
    for words in (
        ["venv", f"--python={end.python}", str(directory)],
        [*install, f"ansible-core=={end.ansible_core}"],
    ):
        subprocess.run(
            [uv, "--quiet", *words], env={**os.environ, "PATH": os.pathsep.join(paths)}, check=True
        )
    return directory / "bin"


class Journey:
    """The app of this file on the host of one end, deployed by its controller.

    Args:
        site: The host.
    """

    def __init__(self, site: Site) -> None:
        self.site = site
        self.password = site.directory / "password"
        self.secrets = site.directory / "secrets.yml"
        self.password.write_text("the password of the vault")
        self.secrets.write_text(self.encrypted())

    def encrypted(self) -> str:
        """Returns the secrets as a user writes them: inline `!vault`, by a name, and plain."""
        names = [word for name in VALUES for word in ("--name", f"vault_{name}")]
        vaulted = subprocess.run(
            [
                self.site.programs / "ansible-vault",
                "encrypt_string",
                f"--vault-password-file={self.password}",
                *names,
                *VALUES.values(),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        named = {f"named_{name}": f"{{{{ vault_{name} }}}}" for name in VALUES}
        plain = {f"plain_{name}": value for name, value in VALUES.items()}
        nested = textwrap.indent(f"{vaulted}\n{yaml.safe_dump({**named, **plain})}", "  ")
        return f"{vaulted}\nasgi_app_secrets:\n{nested}"

    def play(self, playbook: str, **variables: Any) -> Played:
        """Runs a playbook with the secrets."""
        options = [f"--vault-password-file={self.password}", f"--extra-vars=@{self.secrets}"]
        return self.site.play(playbook, *options, **variables)

    def deploy(self, release: str, *, fails: bool = False, expect: int = 0) -> Played:
        """Deploys a release of the app."""
        source = self.site.directory / release
        source.mkdir(exist_ok=True)
        (source / "values.py").write_text(APP.format(release=release, fails=fails))
        (source / "requirements.txt").write_text(REQUIREMENTS)
        given = {"path": str(source)}
        return self.play("asgi.deploy.site", expect=expect, asgi_app_source=given)


@pytest.fixture(scope="module", params=ENDS)
def journey(
    request: pytest.FixtureRequest,
    new_host: Callable[[str, str], Site],
    tmp_path_factory: pytest.TempPathFactory,
) -> Journey:
    """A host and a controller of one end."""
    end = ENDS[request.param]
    site = new_host(request.param, end.image)
    site.programs = make_environment(end, tmp_path_factory.mktemp("controller"))
    site.variables = {
        "asgi_app_name": "blog",
        "asgi_app_entrypoint": "values:app",
        "asgi_app_ca_file": "/etc/ssl/certs/ca-certificates.crt",
        "asgi_app_environment": {"PLAIN_JSON": VALUES["json"]},
        "asgi_service_health_path": "/healthz",
        "asgi_service_health_body": VALUES["json"],
        "asgi_proxy_domains": [DOMAIN],
        **programs.variables("caddy"),
    }
    return Journey(site)


def test_the_controller_has_the_version_of_this_end(
    journey: Journey, request: pytest.FixtureRequest
) -> None:
    end = ENDS[request.node.callspec.params["journey"]]
    program = journey.site.programs / "ansible"
    shown = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert f"ansible [core {end.ansible_core}]" in shown.stdout
    assert f"python version = {end.python}." in shown.stdout


def test_every_value_arrives_as_it_is_written(journey: Journey) -> None:
    """Secrets and the text of the health check stay text, however they look."""
    journey.deploy("first")
    answer = journey.site.get("/")
    assert answer["release"] == "first"
    wanted = {
        f"{kind}_{name}": value
        for kind in ("vault", "named", "plain")
        for name, value in VALUES.items()
    }
    assert {name: answer["values"].get(name) for name in wanted} == wanted
    assert answer["values"]["PLAIN_JSON"] == VALUES["json"]


def test_a_second_run_changes_nothing(journey: Journey) -> None:
    again = journey.deploy("first")
    assert again.changed == 0, again.output


def test_a_failing_release_leaves_the_live_one(journey: Journey) -> None:
    journey.deploy("second")
    assert journey.site.get("/")["release"] == "second"
    before = journey.site.serving()
    failed = journey.deploy("third", fails=True, expect=2)
    assert "this release fails at its start" in failed.output
    assert journey.site.get("/")["release"] == "second"
    assert journey.site.serving() == before


def test_a_rollback_makes_the_previous_release_live(journey: Journey) -> None:
    journey.play("asgi.deploy.rollback")
    assert journey.site.get("/")["release"] == "first"

"""For which hosts the playbooks are: no run succeeds that leaves out a host that it was given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from contract.collection import REPOSITORY

INVENTORY = """
all:
  hosts:
    other:
  children:
    asgi:
      hosts:
        one:
        two:
    front:
      hosts:
        balancer:
    empty:
"""
PLAYBOOKS = sorted(path.stem for path in (REPOSITORY / "playbooks").glob("*.yml"))
BALANCERS_ONLY = "asgi_hosts='!all'"


def list_hosts(directory: Path, playbook: str, *options: str) -> tuple[int, str]:
    """Asks Ansible for which hosts the plays of a playbook are; none is reached for that."""
    inventory = directory / "hosts.yml"
    inventory.write_text(INVENTORY)
    done = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "ansible.cli.playbook",
                "--list-hosts",
                "--inventory",
                inventory,
            ),
            *(*options, REPOSITORY / "playbooks" / f"{playbook}.yml"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / ".cache")},
    )
    return done.returncode, " ".join(done.stdout.split())


@pytest.mark.parametrize("playbook", PLAYBOOKS)
def test_a_playbook_rejects_a_name_that_is_not_there(tmp_path: Path, playbook: str) -> None:
    code, output = list_hosts(tmp_path, playbook, "-e", "asgi_hosts=asgi,wbe")
    assert code != 0, output
    assert "asgi_hosts: the inventory has no host and no group wbe" in output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit=one,tow"], "--limit: the inventory has no host and no group tow"),
        (["--limit=other"], "--limit other: leaves no host of the app"),
        (["-e", "asgi_hosts=empty"], "asgi_hosts: empty matches no host"),
        (["-e", "asgi_balancers=fornt"], "asgi_balancers: the inventory has no host and no group"),
        (["-e", BALANCERS_ONLY], "asgi_balancers matches no host"),
    ],
)
def test_a_run_without_the_hosts_that_it_was_given_is_rejected(
    tmp_path: Path, options: list[str], message: str
) -> None:
    code, output = list_hosts(tmp_path, "site", *options)
    assert code != 0, output
    assert message in output


@pytest.mark.parametrize(
    ("options", "hosts"),
    [
        ([], ["one", "two"]),
        (["--limit=one"], ["one"]),
        (["-e", BALANCERS_ONLY, "-e", "asgi_balancers=front"], ["balancer"]),
    ],
)
def test_a_run_may_be_for_some_hosts(tmp_path: Path, options: list[str], hosts: list[str]) -> None:
    code, output = list_hosts(tmp_path, "site", *options)
    assert code == 0, output
    assert [name for name in ("one", "two", "balancer", "other") if f" {name} " in output] == hosts

"""A lost host is noticed, with options that ssh itself understands."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader
from ansible_collections.asgi.deploy.plugins.plugin_utils.connections import notice_loss


def connection(**options: str) -> Any:
    """Ansible's own plugin for SSH with options of a user."""
    found = connection_loader.get("ansible.builtin.ssh", PlayContext())
    found.set_options(direct={"host": "web1", "host_key_checking": True, **options})
    return found


def understood(command: list[bytes]) -> dict[str, str]:
    """What ssh makes of a command line, without the user's own configuration."""
    words = [word.decode() for word in command]
    done = subprocess.run(
        [words[0], "-F", "none", "-G", *words[1:]], check=True, capture_output=True, text=True
    )
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


def settings(found: Any) -> dict[str, str]:
    """What ssh would do for the next task of a connection."""
    return understood(found._build_command("ssh", "ssh", "web1"))


def test_a_silent_host_is_given_up() -> None:
    found = connection()
    before = settings(found)
    assert before["serveraliveinterval"] == "0"
    # Ansible's own, which another task has opened
    assert before["controlpath"]
    notice_loss(found)
    after = settings(found)
    assert (after["serveraliveinterval"], after["serveralivecountmax"]) == ("10", "3")
    assert after["controlpath"] != before["controlpath"]
    # the next task of ours need not connect again
    another = connection()
    notice_loss(another)
    assert settings(another)["controlpath"] == after["controlpath"]


@pytest.mark.parametrize("program", ["ssh", "sftp", "scp"])
def test_whichever_program_opens_the_connection(program: str) -> None:
    """A file is brought to the host by another program than the one that runs a module."""
    found = connection()
    notice_loss(found)
    words = [word.decode() for word in found._build_command(program, program, "web1")]
    assert {"ServerAliveInterval=10", "ServerAliveCountMax=3"} <= set(words)
    # the same one for all
    assert any(
        word.startswith("ControlPath=") and word.rstrip('"').endswith("-a") for word in words
    )


@pytest.mark.parametrize("name", ["ssh_args", "ssh_common_args", "ssh_extra_args"])
def test_what_the_user_has_set_counts(name: str) -> None:
    found = connection(
        **{name: "-o ServerAliveInterval=60 -o ControlPath=/run/shared -o User=anna"}
    )
    notice_loss(found)
    after = settings(found)
    wanted = {"serveraliveinterval": "60", "controlpath": "/run/shared", "user": "anna"}
    assert {key: after[key] for key in wanted} == wanted


def test_other_connections_are_left_alone() -> None:
    found = connection_loader.get("ansible.builtin.local", PlayContext())
    notice_loss(found)


def test_its_path_is_hardly_longer_than_ansibles() -> None:
    """A socket has a path of at most 108 bytes, and a home directory may take most of them."""
    found = connection()
    before = settings(found)["controlpath"]
    notice_loss(found)
    assert len(settings(found)["controlpath"]) <= len(before) + 2


def test_each_host_port_and_user_has_one_of_its_own() -> None:
    paths = set()
    for options in ({}, {"host": "web2"}, {"port": 2222}, {"remote_user": "ann"}):
        found = connection(**options)  # type: ignore[arg-type]
        notice_loss(found)
        paths.add(found.get_option("control_path"))
    assert len(paths) == 4

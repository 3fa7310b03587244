"""Package indexes and their credentials."""

from __future__ import annotations

import netrc
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.installers import indexes

INDEX = "https://pypi.example.com/simple"


def test_netrc_carries_each_index_with_credentials(tmp_path: Path) -> None:
    lines = indexes.netrc_lines(
        [
            {"url": INDEX, "username": "deploy", "password": "pa:ss/wo@rd'"},
            {"url": "https://open.example.com"},
            {"url": "https://other.example.com:8443/x", "username": "u", "password": "p"},
        ]
    )
    path = tmp_path / "netrc"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    hosts = netrc.netrc(str(path)).hosts
    assert {host: (login, password) for host, (login, _, password) in hosts.items()} == {
        "pypi.example.com": ("deploy", "pa:ss/wo@rd'"),
        "other.example.com": ("u", "p"),
    }


@pytest.mark.parametrize(
    ("username", "password"),
    [
        ("deploy", "s3 cret"),
        ("deploy", 's3"cret'),
        ("deploy", "s3\\cret"),
        ("deploy", "s3#cret"),
        ("deploy", "s3cret\nmachine other"),
        ("", "s3cret"),
        ("s3 cret", "x"),
        ("s3cret", ""),
    ],
)
def test_credentials_that_netrc_cannot_carry_are_refused_and_not_shown(
    username: str, password: str
) -> None:
    with pytest.raises(DeployError, match="asgi_app_index") as caught:
        indexes.netrc_lines([{"url": INDEX, "username": username, "password": password}])
    assert "pypi.example.com" in caught.value.message
    assert "s3" not in caught.value.message


def test_an_index_without_a_host_has_no_credentials() -> None:
    with pytest.raises(DeployError, match="an index need"):
        indexes.netrc_lines([{"url": "file:///x", "username": "u", "password": "p"}])

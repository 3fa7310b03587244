"""What makes another release of the same source, and what does not."""

from __future__ import annotations

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils.installers import Build, BuildSettings

INDEX = "https://pypi.example.com/simple"
BASE = BuildSettings(
    extras=["a", "b"], index={"url": INDEX, "username": "u", "password": "s3cret"}, uv_version="1"
)


def identity(
    settings: BuildSettings, entrypoint: str = "m:app", directory: str = "."
) -> dict[str, object]:
    """What makes a release another one."""
    return Build(settings, entrypoint, directory).identity()


@pytest.mark.parametrize(
    "other",
    [
        {"index": {"url": INDEX}},
        {"index": {"url": INDEX, "username": "v", "password": "other"}},
        {"extras": ["b", "a"]},
        {"timeout_seconds": 1},
        {"ca_file": "/x"},
    ],
)
def test_credentials_and_limits_make_no_other_release(other: dict[str, object]) -> None:
    changed = BuildSettings(**{**vars(BASE), **other})  # type: ignore[arg-type]
    assert identity(changed) == identity(BASE)


@pytest.mark.parametrize(
    "other",
    [
        {"index": {"url": "https://other.example.com"}},
        {"extra_indexes": [{"url": "https://other.example.com"}]},
        {"extras": ["a"]},
        {"groups": ["x"]},
        {"installer": "pip"},
        {"python": "3.13"},
        {"commands": ["make"]},
        {"package": "api"},
        {"requirements_files": ["requirements/production.txt"]},
    ],
)
def test_what_is_installed_makes_another_release(other: dict[str, object]) -> None:
    changed = BuildSettings(**{**vars(BASE), **other})  # type: ignore[arg-type]
    assert identity(changed) != identity(BASE)


def test_the_identity_has_no_credentials() -> None:
    assert "s3cret" not in str(identity(BASE))
    assert identity(BASE) != identity(BASE, "m:other")
    assert identity(BASE) != identity(BASE, directory="src")

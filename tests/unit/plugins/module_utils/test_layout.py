"""Names that systemd takes apart again."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout, other_slot


def test_the_other_slot() -> None:
    assert [other_slot("blue"), other_slot("green")] == ["green", "blue"]


def test_units_of_a_slot_are_numbered_from_one() -> None:
    found = Layout("my-app", Path("/srv/my-app"))
    assert found.units("green", 2) == ["my-app-green@1.service", "my-app-green@2.service"]
    assert found.units("blue", 1, "socket") == ["my-app-blue@1.socket"]
    assert found.units("blue", 0) == []


@pytest.mark.parametrize(
    ("name", "slice_name"),
    [("blog", "asgi-blog.slice"), ("my-app-2", r"asgi-my\x2dapp\x2d2.slice")],
)
def test_no_slice_lies_in_that_of_another_app(name: str, slice_name: str) -> None:
    assert Layout(name, Path("/srv/x")).slice == slice_name
    done = subprocess.run(
        ["systemd-escape", name], capture_output=True, check=True, encoding="utf-8"
    )
    assert slice_name == f"asgi-{done.stdout.strip()}.slice"


def test_only_whole_releases_are_staged(app: Layout, stage: Callable[..., None]) -> None:
    stage("2-b")
    stage("1-a")
    # half a release, and what a removal that was killed has left
    (app.releases / "3-c").mkdir()
    app.manifest("0-d").write_text("{}")
    assert app.staged_releases() == ["1-a", "2-b"]
    assert Layout("new", app.root / "new").staged_releases() == []


def test_a_slot_that_was_never_used_has_no_release(app: Layout) -> None:
    assert app.slot_release("blue") is None
    app.slot_link("blue").symlink_to("../releases/1-a")
    # the link counts, also where its release is gone
    assert app.slot_release("blue") == "1-a"

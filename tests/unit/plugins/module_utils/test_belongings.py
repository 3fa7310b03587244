"""A root, a user and a cache belong to one app of a host."""

from __future__ import annotations

import grp
import json
import pwd
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import belongings
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout


@pytest.fixture
def two(app: Layout, monkeypatch: pytest.MonkeyPatch) -> tuple[Layout, Layout]:
    """The blog, which is on the host, and a shop, which is not."""
    places = app.root.parent / "etc"
    monkeypatch.setattr(type(app), "configuration", property(lambda self: places / self.name))
    belongings.record(app, "blog", Path("/var/cache/asgi/blog"))
    return app, type(app)("shop", app.root.parent / "shop")


def test_a_record_is_roots_alone_and_is_written_once(two: tuple[Layout, Layout]) -> None:
    blog, _shop = two
    assert blog.record_file.stat().st_mode & 0o777 == 0o600
    before = blog.record_file.stat().st_ino
    belongings.record(blog, "blog", Path("/var/cache/asgi/blog"))
    assert blog.record_file.stat().st_ino == before
    # a cache may be moved
    belongings.record(blog, "blog", Path("/mnt/cache/blog"))
    assert json.loads(blog.record_file.read_text())["cache"] == "/mnt/cache/blog"


def test_another_root_is_rejected_with_how_to_move(two: tuple[Layout, Layout]) -> None:
    blog, _shop = two
    moved = type(blog)("blog", Path("/data/blog"))
    (problem,) = belongings.root_problems(moved)
    assert problem.startswith(f"asgi_app_root: blog is in {blog.root} on this host, not in /data/")
    assert "asgi.deploy.remove" in problem
    with pytest.raises(DeployError, match="asgi_app_root"):
        belongings.record(moved, "blog", Path("/var/cache/asgi/blog"))


def test_another_user_is_rejected(two: tuple[Layout, Layout]) -> None:
    blog, _shop = two
    (problem,) = belongings.own_problems(blog, "web", None)
    assert problem.startswith("asgi_app_user: blog runs as blog on this host, not as web; write")
    assert belongings.own_problems(blog, "blog", None) == []


@pytest.mark.parametrize("below", ["", "shop", "../root", ".."])
def test_a_root_that_another_app_has_is_rejected(two: tuple[Layout, Layout], below: str) -> None:
    """Or one in it, or one around it: what is removed with one app is the other's."""
    blog, shop = two
    root = Path(blog.root, below).resolve()
    (problem,) = belongings.root_problems(type(shop)("shop", root))
    assert problem.startswith(f"asgi_app_root: {root} is not of shop alone, asgi_app_root of blog")


def test_a_cache_or_a_user_of_another_app_is_rejected(two: tuple[Layout, Layout]) -> None:
    _blog, shop = two
    assert belongings.root_problems(shop) == []
    assert belongings.own_problems(shop, "shop", Path("/var/cache/asgi/shop")) == []
    problems = belongings.own_problems(shop, "blog", Path("/var/cache/asgi/blog"))
    assert [problem.split(":")[0] for problem in problems] == [
        *("asgi_app_cache_dir", "asgi_app_user")
    ]
    root = type(shop)("shop", Path("/var/cache/asgi/blog/shop"))
    assert "asgi_app_cache_dir of blog" in belongings.root_problems(root)[0]


def test_releases_of_another_app_are_enough(app: Layout, stage: Callable[..., None]) -> None:
    """As on a host whose disk of data was attached to a new one."""
    stage("1", app="shop")
    (problem,) = belongings.root_problems(app)
    assert problem.startswith(f"asgi_app_root: {app.root} has releases of another app, shop;")
    stage("2", app="blog")
    app.manifest("1").write_text("broken")
    assert belongings.root_problems(app) == []


def test_a_broken_record_is_named_with_what_to_write(two: tuple[Layout, Layout]) -> None:
    blog, shop = two
    blog.record_file.write_text("{}")
    for layout in (blog, shop):
        with pytest.raises(DeployError, match=r"app\.json cannot be read .* write the root"):
            belongings.root_problems(layout)


def account(name: str, gecos: str = "", home: str = "/", gid: int = 1) -> Any:
    return SimpleNamespace(pw_name=name, pw_gecos=gecos, pw_dir=home, pw_gid=gid)


@pytest.mark.parametrize(
    ("accounts", "groups", "problem"),
    [
        ([], [], ""),
        (
            [
                account("blog", "blog app", "/var/lib/asgi/blog"),
                account("blog-build", "blog build", "/nonexistent"),
            ],
            ["blog"],
            "",
        ),
        ([account("blog", "Backups", "/var/backups")], ["blog"], "blog is an account"),
        ([account("blog-build", "Somebody", "/home/x")], [], "blog-build is an account"),
        # docker, adm, ssl-cert, ...: the app would have the rights of that group
        ([], ["blog"], "blog is a group"),
        ([], ["blog-build"], "blog-build is a group"),
    ],
)
def test_an_account_or_group_of_something_else_is_rejected(
    app: Layout,
    monkeypatch: pytest.MonkeyPatch,
    accounts: list[Any],
    groups: list[str],
    problem: str,
) -> None:
    """Whether or not the root is there already."""
    monkeypatch.setattr(pwd, "getpwnam", {one.pw_name: one for one in accounts}.__getitem__)
    monkeypatch.setattr(grp, "getgrnam", dict.fromkeys(groups, "x").__getitem__)
    problems = belongings.account_problems(app, "blog")
    if problem:
        assert [text.startswith(f"asgi_app_user: {problem} that") for text in problems] == [True]
    else:
        assert problems == []

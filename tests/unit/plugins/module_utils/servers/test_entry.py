"""What an app sees that is served through the entry, and how the entry starts a server."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import slots
from ansible_collections.asgi.deploy.plugins.module_utils.servers import ENTRY_FILE, entry

#: As a server behind the proxy makes it of a request: it comes over a unix socket.
SCOPE: dict[str, Any] = {
    "type": "http",
    "scheme": "http",
    "path": "/a b",
    "raw_path": b"/a%20b",
    "root_path": "",
    "client": None,
    "server": ("/", "r"),
    "headers": [(b"host", b"blog.test")],
}
FORWARDED = [(b"x-forwarded-for", b"203.0.113.9"), (b"x-forwarded-proto", b"https")]


def seen(scope: dict[str, Any], root_path: str = "") -> dict[str, Any]:
    """Returns the scope that the app gets."""
    found: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        found.append(scope)

    asyncio.run(entry.behind_proxy(application, root_path)(scope, None, None))  # type: ignore[arg-type]
    (only,) = found
    return dict(only)


def test_the_client_and_the_scheme_are_those_of_the_proxy() -> None:
    got = seen({**SCOPE, "headers": [*SCOPE["headers"], *FORWARDED]})
    assert (got["client"], got["scheme"]) == (("203.0.113.9", 0), "https")
    # a unix socket has none, whatever the server says
    assert got["server"] is None
    # nothing of the server's own is changed
    assert SCOPE["client"] is None


@pytest.mark.parametrize(
    ("told", "kind", "scheme"),
    [
        # as Caddy tells it
        ("https", "websocket", "wss"),
        ("http", "websocket", "ws"),
        # as Traefik does
        ("wss", "websocket", "wss"),
        ("ws", "websocket", "ws"),
        ("wss", "http", "https"),
        ("ws", "http", "http"),
    ],
)
def test_a_websocket_has_a_scheme_of_its_own(told: str, kind: str, scheme: str) -> None:
    headers = [*SCOPE["headers"], (b"x-forwarded-proto", told.encode())]
    got = seen({**SCOPE, "type": kind, "scheme": "ws", "headers": headers})
    assert got["scheme"] == scheme


@pytest.mark.parametrize(
    "headers",
    [[], [(b"x-forwarded-for", b"")], [(b"x-forwarded-proto", b"gopher")]],
)
def test_without_a_word_of_the_proxy_nothing_is_made_up(headers: list[Any]) -> None:
    got = seen({**SCOPE, "headers": headers})
    assert (got["client"], got["scheme"]) == (None, "http")


def test_names_of_headers_may_be_written_in_any_case() -> None:
    got = seen({**SCOPE, "headers": [(b"X-Forwarded-For", b"203.0.113.9, 10.0.0.1")]})
    assert got["client"] == ("203.0.113.9", 0)


def test_the_root_path_is_put_in_front() -> None:
    got = seen(SCOPE, "/blog")
    assert (got["root_path"], got["path"], got["raw_path"]) == (
        "/blog",
        "/blog/a b",
        b"/blog/a%20b",
    )
    without_raw = {key: value for key, value in SCOPE.items() if key != "raw_path"}
    assert "raw_path" not in seen(without_raw, "/blog")


def test_lifespan_is_passed_on_untouched() -> None:
    """Its state is shared with the server, so it must be the same object."""
    scope: dict[str, Any] = {"type": "lifespan", "state": {}}
    got = seen(scope)
    assert got["state"] is scope["state"]


SERVER = """
import importlib, json, sys
def describe():
    app = importlib.import_module("_asgi_deploy_entry").app
    print(json.dumps({"argv": sys.argv[1:], "app": callable(app), "name": __name__}))
describe()
"""
APPLICATION = """
class Inner:
    @staticmethod
    async def app(scope, receive, send): ...
def create():
    print("made")
    return Inner.app
"""


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A directory with an app and a server, and the entry as a slot has it."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "shop.py").write_text(APPLICATION)
    package = tmp_path / "app" / "fakeserver"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(SERVER)
    (tmp_path / "entry").mkdir()
    (tmp_path / "entry" / ENTRY_FILE).write_text(slots.ENTRY)
    return tmp_path


def start(release: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Starts the entry as a unit does."""
    return subprocess.run(
        [sys.executable, str(release / "entry" / "_asgi_deploy_entry.py"), *arguments],
        cwd=release / "app",
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def test_the_entry_starts_a_server_with_its_arguments(release: Path) -> None:
    words = ["--workers", "0", "-x", "--factory", "_asgi_deploy_entry:app"]
    done = start(release, "shop:Inner.app", "fakeserver", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"argv": words, "app": True, "name": "__main__"}


def test_the_entry_calls_a_factory(release: Path) -> None:
    done = start(release, "--factory", "--root-path", "/shop", "shop:create", "fakeserver")
    assert done.stdout.splitlines()[0] == "made", done.stderr


def test_an_app_that_cannot_be_imported_ends_the_server(release: Path) -> None:
    done = start(release, "shop:nothing", "fakeserver")
    assert done.returncode == 1
    assert "has no attribute 'nothing'" in done.stderr
    done = start(release, "nowhere:app", "fakeserver")
    assert done.returncode == 1
    assert "No module named 'nowhere'" in done.stderr

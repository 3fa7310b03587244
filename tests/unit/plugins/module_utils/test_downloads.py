"""Files from elsewhere: with a checksum, and asked of package indexes."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import downloads
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError

PASSWORD = "nobody-sees-this-7"
CONTENT = b"an archive"
CHECKSUM = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
PAGE = """
<a href="x/y.tar.gz#sha256=0" data-requires-python="&gt;=3.9">blog_more-1.0.0.tar.gz</a>
<a href="x"> Blog_More-1.1.0-py3-none-any.whl </a>
<a href="x">blog_more-1.10.0-py3-none-any.whl</a>
<a href="x">blog-more-1.9.0.zip</a>
<a href="x">blog_more-1.10.0.tar.gz</a>
<a href="x">blog_more-2.0a1.tar.gz</a>
<a href="x">blog_more_else-3.0.0.tar.gz</a>
<a href="x">blog_more-1.10.0.tar.gz.asc</a>
"""
Answer = tuple[int, dict[str, str], bytes]


@contextlib.contextmanager
def server(answers: dict[str, Answer]) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A server on this machine; yields its URL, and paths and credentials of the requests."""
    seen: list[tuple[str, str | None]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers["Authorization"]))
            status, headers, body = answers.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{one.server_port}", seen
        finally:
            one.shutdown()
            thread.join()


def test_a_file_is_fetched_and_its_checksum_is_proven(tmp_path: Path) -> None:
    with server({"/a.zip": (200, {}, CONTENT)}) as (url, _):
        source = {"archive": f"{url}/a.zip", "checksum": CHECKSUM}
        assert downloads.obtain("archive", source, tmp_path).read_bytes() == CONTENT
        source["checksum"] = f"sha256:{'0' * 64}"
        with pytest.raises(DeployError, match=rf"^asgi_app_source\.checksum: .* has {CHECKSUM}"):
            downloads.obtain("archive", source, tmp_path)


def test_a_file_on_the_controller_is_checked_where_a_checksum_is_given(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(CONTENT)
    for checksum in ({}, {"checksum": CHECKSUM}):
        assert downloads.obtain("archive", {"archive": str(path), **checksum}, tmp_path) == path
    wrong = {"archive": str(path), "checksum": f"sha256:{'0' * 64}"}
    with pytest.raises(DeployError, match=r"^asgi_app_source\.checksum: "):
        downloads.obtain("archive", wrong, tmp_path)


@pytest.mark.parametrize("place", ["/nowhere/a.zip", "http://127.0.0.1:1/a.zip"])
def test_what_is_not_there_is_named(tmp_path: Path, place: str) -> None:
    with pytest.raises(DeployError, match=rf"^asgi_app_source\.wheel: .*{place}"):
        downloads.obtain("wheel", {"wheel": place, "checksum": CHECKSUM}, tmp_path)


def test_credentials_stay_with_the_server_that_they_are_for(tmp_path: Path) -> None:
    with server({"/file": (200, {}, CONTENT)}) as (other, others):
        moved = {"/a.zip": (302, {"Location": f"{other}/file"}, b"")}
        with server(moved) as (url, asked):
            source = {
                "archive": f"{url}/a.zip",
                "checksum": CHECKSUM,
                "username": "deploy",
                "password": PASSWORD,
            }
            downloads.obtain("archive", source, tmp_path)
    assert [path for path, given in asked if given] == ["/a.zip"]
    assert others == [("/file", None)]


def test_an_error_does_not_show_the_password(tmp_path: Path) -> None:
    with server({}) as (url, _):
        source = {"archive": f"{url}/none", "username": "deploy", "password": PASSWORD}
        with pytest.raises(DeployError, match=r"^asgi_app_source\.archive: .*404") as caught:
            downloads.obtain("archive", source, tmp_path)
    assert PASSWORD not in caught.value.message


@pytest.fixture
def index() -> Iterator[str]:
    """The URL of a package index."""
    with server({"/simple/blog-more/": (200, {}, PAGE.encode())}) as (url, _):
        yield f"{url}/simple"


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0", "1.10.0", "1.9.0", "2.0a1", "1.1", "1"])
def test_a_version_that_the_index_has_is_no_problem(index: str, version: str) -> None:
    assert downloads.index_problems("Blog.More", version, [{"url": index}], "") == []


@pytest.mark.parametrize("version", ["3.0.0", "1.10.1", "11", "2.0"])
def test_a_version_that_the_index_has_not_is_refused_with_the_newest(
    index: str, version: str
) -> None:
    [problem] = downloads.index_problems("blog_more", version, [{"url": index}], "")
    assert problem.startswith(f"asgi_app_source.version: {index} has no version '{version}'")
    assert problem.endswith("one of 1.10.0, 1.9.0, 1.1.0, 1.0.0")


def test_a_package_that_the_index_has_not_is_refused(index: str) -> None:
    [problem] = downloads.index_problems("shop", "1.0.0", [{"url": index}], "")
    assert problem.startswith(f"asgi_app_source.index: {index} has no package 'shop'")


def test_all_indexes_are_asked(index: str) -> None:
    with server({}) as (empty, _):
        both = [{"url": empty}, {"url": index}]
        assert downloads.index_problems("blog-more", "1.0.0", both, "") == []
        [problem] = downloads.index_problems("blog-more", "7", both, "")
        assert f"{empty}, {index} has no version" in problem


@pytest.mark.parametrize(
    "broken",
    [
        lambda url: f"{url}/broken",
        lambda url: "http://127.0.0.1:1/simple",
        lambda url: "file:///srv/simple",
    ],
)
def test_an_index_that_cannot_be_asked_refuses_nothing(
    index: str, broken: Callable[[str], str]
) -> None:
    """The release may be on the host already; if it is not, the build tells."""
    with server({"/broken/blog-more/": (503, {}, b"")}) as (url, _):
        indexes = [{"url": index}, {"url": broken(url)}]
        assert downloads.index_problems("blog-more", "7", indexes, "") == []


def test_an_index_gets_its_credentials(tmp_path: Path) -> None:
    with server({}) as (url, asked):
        index = {"url": url, "username": "deploy", "password": PASSWORD}
        [problem] = downloads.index_problems("shop", "1", [index], "")
    assert all(given and given.startswith("Basic ") for _, given in asked)
    assert PASSWORD not in problem

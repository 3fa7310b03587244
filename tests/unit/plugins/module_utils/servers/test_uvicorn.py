"""How uvicorn is started, and what is not for the user."""

from __future__ import annotations

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import servers
from ansible_collections.asgi.deploy.plugins.module_utils.servers import ServerSettings

UVICORN = servers.server("uvicorn")


def options(command: list[str]) -> dict[str, str]:
    """Returns which option has which value, and an empty one for a flag."""
    pairs = zip(command, [*command[1:], "--"], strict=True)
    return {
        word: "" if after.startswith("--") else after
        for word, after in pairs
        if word.startswith("--")
    }


def test_the_command() -> None:
    command = UVICORN.command(ServerSettings("blog.main:app", graceful_timeout_seconds=7))
    assert command[:3] == ["-m", "uvicorn", "blog.main:app"]
    found = options(command)
    # systemd's socket is the first descriptor that it passes
    assert found["--fd"] == "3"
    assert found["--timeout-graceful-shutdown"] == "7"
    assert "--proxy-headers" in found
    assert not {"--reload", "--workers", "--factory", "--root-path"} & set(found)


def test_settings_become_options() -> None:
    found = options(
        UVICORN.command(
            ServerSettings(
                "m:create",
                factory=True,
                root_path="/blog",
                log_level="debug",
                arguments=["--lifespan", "on"],
            )
        )
    )
    assert "--factory" in found
    assert found["--root-path"] == "/blog"
    assert found["--log-level"] == "debug"
    assert found["--lifespan"] == "on"


def test_an_idle_connection_of_the_proxy_is_never_closed_first() -> None:
    """The site keeps them for 2 s (roles/proxy); a server that is quicker loses requests."""
    command = UVICORN.command(ServerSettings("m:app"))
    assert int(options(command)["--timeout-keep-alive"]) > 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["--reload"],
        ["--reload=true"],
        ["--reload-dir", "src"],
        ["--reload-dir=src"],
        ["--reload-include", "*.html"],
        ["--workers", "4"],
        ["--workers=4"],
        ["--host", "0.0.0.0"],
        ["--port=8000"],
        ["--uds", "/x"],
        ["--fd=4"],
        ["--env-file", ".env"],
        ["--ssl-keyfile", "/x"],
        ["--ssl-certfile=/x"],
        ["--forwarded-allow-ips", "*"],
        ["--timeout-graceful-shutdown", "0"],
        ["--timeout-keep-alive=1"],
        ["--root-path", "/x"],
        ["--log-level=debug"],
        ["--factory"],
    ],
)
def test_refused_arguments(arguments: list[str]) -> None:
    (told,) = servers.refused_arguments("uvicorn", ["--lifespan", "on", *arguments])
    flag = arguments[0].split("=")[0]
    assert told.startswith(f"asgi_service_server_arguments: {flag} is refused: ")
    assert len(told) > len(f"asgi_service_server_arguments: {flag} is refused: ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--lifespan", "on"],
        ["--limit-concurrency=100"],
        ["--header", "X:--reload"],
        ["--ws=none"],
    ],
)
def test_accepted_arguments(arguments: list[str]) -> None:
    assert servers.refused_arguments("uvicorn", arguments) == []


def test_what_the_role_sets_is_refused_to_the_user() -> None:
    """One option given twice would leave to uvicorn which one counts."""
    ours = options(
        UVICORN.command(ServerSettings("m:app", factory=True, root_path="/x", log_level="info"))
    )
    ours = {flag: value for flag, value in ours.items() if not flag.startswith("--no-")}
    ours.pop("--proxy-headers")
    assert len(servers.refused_arguments("uvicorn", list(ours))) == len(ours)


@pytest.mark.parametrize(
    ("code", "told"), [(0, ""), (1, "imported"), (3, "start-up failed"), (137, "")]
)
def test_explain_exit(code: int, told: str) -> None:
    explained = UVICORN.explain_exit(code)
    assert told in explained
    assert bool(told) == bool(explained)

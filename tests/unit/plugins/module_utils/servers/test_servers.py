"""What all servers have in common, and what each is told in its own words."""

from __future__ import annotations

import dataclasses

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import servers
from ansible_collections.asgi.deploy.plugins.module_utils.servers import SERVERS, ServerSettings
from ansible_collections.asgi.deploy.plugins.module_utils.units import exec_line

SOCKET = "/run/asgi/blog/%j/%i.sock"
ENTRY = "/srv/blog/entry/%j/_asgi_deploy_entry.py"
PLAIN = ServerSettings("blog.main:app", socket=SOCKET, entry_directory="/srv/blog/entry/%j")
#: What each can keep of the defaults; daphne nothing of its end and of the app's start.
SETTINGS = dict.fromkeys(SERVERS, PLAIN)
SETTINGS["daphne"] = dataclasses.replace(PLAIN, lifespan=False, graceful_timeout_seconds=0)
THROUGH_ENTRY = sorted(set(SERVERS) - {"uvicorn"})


def command(name: str, **changes: object) -> list[str]:
    """Returns the command of a server, with some settings changed."""
    return servers.server(name).command(dataclasses.replace(SETTINGS[name], **changes))


def after(words: list[str], *flags: str) -> list[str]:
    """Returns the word after each flag."""
    return [words[words.index(flag) + 1] for flag in flags]


@pytest.mark.parametrize("name", SERVERS)
def test_its_own_settings_are_no_problem(name: str) -> None:
    assert servers.server(name).problems(SETTINGS[name]) == []


@pytest.mark.parametrize("name", THROUGH_ENTRY)
def test_the_entry_is_told_what_to_serve(name: str) -> None:
    words = command(name, factory=True, root_path="/blog")
    assert words[:5] == [ENTRY, "--factory", "--root-path", "/blog", "blog.main:app"]
    module = "gunicorn" if name == "gunicorn-uvicorn" else name
    assert words[5] == module
    assert words[-1].endswith("_asgi_deploy_entry:app") or words[-1] == f"{ENTRY}:app"
    assert command(name)[:2] == [ENTRY, "blog.main:app"]


@pytest.mark.parametrize("name", SERVERS)
def test_every_server_can_have_its_requests_counted(name: str) -> None:
    words = command(
        name, factory=True, root_path="/blog", count_file="/run/asgi/blog/%j/%i/requests"
    )
    assert words[:7] == [
        ENTRY,
        "--factory",
        "--root-path",
        "/blog",
        "--count",
        "/run/asgi/blog/%j/%i/requests",
        "blog.main:app",
    ]
    # the server itself is not told what the entry does
    assert words.count("/blog") == words.count("--factory") == words.count("blog.main:app") == 1
    assert "--count /run/asgi/blog/%j/%i/requests " in exec_line(words)


@pytest.mark.parametrize("name", SERVERS)
def test_users_arguments_come_whole_and_before_the_app(name: str) -> None:
    words = command(name, arguments=["--header", "X: 50% of $HOME"])
    assert words[words.index("--header") + 1] == "X: 50% of $HOME"
    line = exec_line(words)
    assert '"X: 50%% of $$HOME"' in line
    # systemd is to expand what is ours: the slot and the instance
    assert ("/srv/blog/entry/%j" in line) is (name != "uvicorn")
    assert "%%j" not in line
    assert "%%i" not in line


def test_each_takes_its_listener_as_it_can() -> None:
    assert after(command("uvicorn"), "--fd") == ["3"]
    assert after(command("hypercorn"), "--bind") == ["fd://3"]
    assert after(command("daphne"), "--endpoint") == [f"unix:{SOCKET}:lockfile=0"]
    assert after(command("granian"), "--uds") == [SOCKET]
    # it would change the mode when the socket is root's already
    assert "--uds-permissions" not in command("granian")
    # gunicorn finds it by the environment
    assert "--bind" not in command("gunicorn")
    inheriting = [name for name in SERVERS if SERVERS[name].INHERITS_SOCKET]
    assert sorted({*SERVERS} - {*inheriting}) == ["daphne", "granian"]
    assert SOCKET not in " ".join(word for name in inheriting for word in command(name))


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("uvicorn", "--timeout-graceful-shutdown"),
        ("granian", "--workers-kill-timeout"),
        ("hypercorn", "--graceful-timeout"),
        ("gunicorn", "--graceful-timeout"),
        ("gunicorn-uvicorn", "--graceful-timeout"),
    ],
)
def test_the_time_for_open_requests_is_always_limited(name: str, flag: str) -> None:
    assert after(command(name, graceful_timeout_seconds=7), flag) == ["7"]


@pytest.mark.parametrize(
    ("name", "flag", "unit"),
    [
        ("uvicorn", "--timeout-keep-alive", 1),
        ("hypercorn", "--keep-alive", 1),
        ("gunicorn", "--keep-alive", 1),
        ("gunicorn-uvicorn", "--keep-alive", 1),
        ("granian", "--http1-header-read-timeout", 1000),
    ],
)
def test_an_idle_connection_is_kept_longer_than_any_proxy_does(
    name: str, flag: str, unit: int
) -> None:
    """Ours keeps them for 2 s; a server that is quicker than its proxy loses requests."""
    (value,) = after(command(name), flag)
    assert int(value) >= 60 * unit


@pytest.mark.parametrize(
    ("name", "on", "off"),
    [
        ("uvicorn", [], ["--lifespan", "off"]),
        ("granian", ["--interface", "asgi"], ["--interface", "asginl"]),
        ("gunicorn", [], ["--asgi-lifespan", "off"]),
    ],
)
def test_lifespan(name: str, on: list[str], off: list[str]) -> None:
    with_it, without = command(name), command(name, lifespan=False)
    assert set(on) <= set(with_it)
    assert set(off) <= set(without)
    assert not (set(off) - set(on)) & set(with_it)


@pytest.mark.parametrize(
    ("name", "changes", "variable"),
    [
        ("daphne", {"lifespan": True}, "asgi_service_lifespan"),
        ("daphne", {"graceful_timeout_seconds": 10}, "asgi_service_graceful_timeout_seconds"),
        ("hypercorn", {"lifespan": False}, "asgi_service_lifespan"),
        ("gunicorn-uvicorn", {"lifespan": False}, "asgi_service_lifespan"),
        ("granian", {"graceful_timeout_seconds": 0}, "asgi_service_graceful_timeout_seconds"),
        ("granian", {"graceful_timeout_seconds": 1801}, "asgi_service_graceful_timeout_seconds"),
    ],
)
def test_what_a_server_cannot_keep_is_said(
    name: str, changes: dict[str, object], variable: str
) -> None:
    settings = dataclasses.replace(SETTINGS[name], **changes)
    (told,) = servers.server(name).problems(settings)
    assert told.startswith(f"{variable}: {name.split('-')[0]}") or "uvicorn" in told


def test_gunicorn_waits_for_an_app_as_long_as_the_gate_does() -> None:
    """It kills a worker that says nothing, also one that still imports the app."""
    assert after(command("gunicorn", start_timeout_seconds=180), "--timeout") == ["180"]
    assert after(command("gunicorn"), "--worker-class") == ["asgi"]
    uvicorn_worker = "uvicorn_worker.UvicornWorker"
    assert after(command("gunicorn-uvicorn"), "--worker-class") == [uvicorn_worker]


@pytest.mark.parametrize(("level", "verbosity"), [("warning", "0"), ("info", "1"), ("debug", "2")])
def test_daphne_logs_no_request_at_any_level(level: str, verbosity: str) -> None:
    words = command("daphne", log_level=level)
    assert after(words, "--verbosity", "--access-log") == [verbosity, "/dev/null"]


@pytest.mark.parametrize("name", SERVERS)
def test_what_the_role_sets_is_refused_to_the_user(name: str) -> None:
    """One option given twice would leave to the server which one counts."""
    ours = command(name, lifespan=True) + command(name, lifespan=False)
    known = {"--access-log", "--no-server-name", "--no-access-log", "--no-server-header"}
    known |= {"--proxy-headers", "--lifespan", "--timeout", "--endpoint"}
    flags = {word for word in ours if word.startswith("--")} - known
    refused = {flag for flag in flags if servers.refused_arguments(name, [flag])}
    assert refused == flags


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("granian", "--reload"),
        ("granian", "--reload-paths=src"),
        ("granian", "--workers=4"),
        ("granian", "--respawn-failed-workers"),
        ("hypercorn", "-w"),
        ("hypercorn", "-w4"),
        ("hypercorn", "--work"),
        ("hypercorn", "--reload"),
        ("daphne", "-u"),
        ("daphne", "--port=80"),
        ("gunicorn", "--reload"),
        ("gunicorn", "--reload-extra-file"),
        ("gunicorn", "--spew"),
        ("gunicorn", "-D"),
        ("gunicorn", "-w=2"),
        ("gunicorn", "--daem"),
        ("gunicorn-uvicorn", "-k"),
    ],
)
def test_refused_arguments(name: str, argument: str) -> None:
    (told,) = servers.refused_arguments(name, [argument])
    flag = argument.split("=")[0]
    assert told.startswith(f"asgi_service_server_arguments: {flag} is refused: ")


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("granian", ["--loop", "uvloop", "--backpressure=64"]),
        ("hypercorn", ["--worker-class", "uvloop", "--max-requests", "1000"]),
        ("daphne", ["--websocket_timeout", "3600", "--application-close-timeout=5", "-t", "30"]),
        ("gunicorn", ["--max-requests", "1000", "--max-requests-jitter", "100", "-c", "g.py"]),
        ("gunicorn-uvicorn", ["--timeout=90", "--log-config", "log.ini"]),
    ],
)
def test_accepted_arguments(name: str, arguments: list[str]) -> None:
    assert servers.refused_arguments(name, arguments) == []


@pytest.mark.parametrize("name", SERVERS)
def test_the_exit_of_an_app_that_cannot_be_imported_is_explained(name: str) -> None:
    code = 3 if name.startswith("gunicorn") else 1
    assert "imported" in servers.server(name).explain_exit(code)
    assert servers.server(name).explain_exit(0) == ""
    assert servers.server(name).explain_exit(137) == ""

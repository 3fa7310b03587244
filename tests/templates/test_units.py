"""The unit files of an app say what supervision, limits and sandbox need."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import systemd
from ansible_collections.asgi.deploy.plugins.module_utils.sandbox import FIXED
from ansible_collections.asgi.deploy.plugins.module_utils.servers import SERVERS
from templates.render import render, templates, value
from templates.scenarios import FULL, MINIMAL, SCENARIOS, TEXT
from templates.units import Unit, read_unit, seconds, size_bytes

UNITS = "etc/systemd/system"
PROCESSES = "__asgi_service_processes"
SANDBOX_KEYS = {key for key, _value in FIXED}


@pytest.fixture(params=SCENARIOS)
def given(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What a user has set."""
    return SCENARIOS[request.param]


def unit(role: str, name: str, given: dict[str, Any]) -> Unit:
    """Renders a unit file and reads it."""
    return read_unit(render(role, f"{UNITS}/{name}", given))


def only(values: list[str]) -> str:
    """Returns the one value of a key."""
    (found,) = values
    return found


@pytest.mark.parametrize(("role", "template"), templates(), ids="/".join)
def test_every_file_says_in_its_first_line_who_manages_it(role: str, template: str) -> None:
    text = render(role, template, FULL)
    assert re.match(r"# Managed by asgi\.deploy: changes here are lost at the next \w+\.\n", text)
    assert "{{" not in text
    assert "{%" not in text
    assert text.endswith("\n")
    assert not re.search(r"\n\n\n", text)


@pytest.mark.parametrize(
    ("role", "name"),
    [
        ("service", "slot@.service"),
        ("service", "process@.service"),
        ("service", "job@.service"),
        ("migrate", "migrate@.service"),
    ],
)
def test_all_that_runs_the_app_gets_its_credentials(role: str, name: str) -> None:
    wanted = ["signing.pem:/etc/ssl/my-app.pem", "api:/root/api"]
    assert unit(role, name, FULL)["Service"]["LoadCredential"] == wanted
    assert "LoadCredential" not in unit(role, name, MINIMAL)["Service"]


# --- an instance ----------------------------------------------------------------------------------


def test_an_instance_is_always_started_again(given: dict[str, Any]) -> None:
    found = unit("service", "slot@.service", given)
    service = found["Service"]
    assert only(service["Restart"]) == "always"
    assert 0 < seconds(only(service["RestartSec"])) <= 5
    # exec: a program that cannot be run is a failed start, not a later surprise
    assert only(service["Type"]) == "exec"
    # a start limit that is reached while the app is broken for a minute would give it up
    burst, interval = found["Unit"]["StartLimitBurst"], found["Unit"]["StartLimitIntervalSec"]
    assert int(only(burst)) >= 5
    assert seconds(only(interval)) >= 0


def test_an_instance_has_time_to_finish_and_all_of_it_is_killed_after(
    given: dict[str, Any],
) -> None:
    service = unit("service", "slot@.service", given)["Service"]
    command = shlex.split(only(service["ExecStart"]))
    graceful = float(command[command.index("--timeout-graceful-shutdown") + 1])
    assert graceful == float(given.get("asgi_service_graceful_timeout_seconds", 10))
    assert seconds(only(service["TimeoutStopSec"])) > graceful
    # SIGTERM goes to the server, SIGKILL to all that it started
    assert only(service["KillMode"]) == "mixed"
    # one process that the kernel killed ends the instance, which is then started whole
    assert only(service["OOMPolicy"]) == "stop"


def test_memory_is_limited_for_each_instance_and_for_all(given: dict[str, Any]) -> None:
    service = unit("service", "slot@.service", given)["Service"]
    whole = unit("service", "app.slice", given)["Slice"]
    each, total = (size_bytes(only(values["MemoryMax"])) for values in (service, whole))
    instances = int(given.get("asgi_service_instances", 1))
    # both slots during a rollout, and the migration before it
    assert total >= (2 * instances + 1) * each
    assert only(service["MemorySwapMax"]) == only(whole["MemorySwapMax"]) == "0"
    name = given["asgi_app_name"].replace("-", "\\x2d")
    assert only(service["Slice"]) == f"asgi-{name}.slice"


def test_as_many_instances_as_the_host_carries() -> None:
    """The number is decided on each host; until then the checks take it for one."""
    given = {**MINIMAL, "asgi_service_instances": "auto", "asgi_service_mode": "site"}
    given |= {"ansible_play_batch": ["web1"], "ansible_play_hosts_all": ["web1"]}
    assert value("service", "__asgi_service_problems", given) == []
    assert value("proxy", "__asgi_proxy_problems", given) == [
        "asgi_service_instances: auto is not decided yet; play the role service with"
        " tasks_from: validate first, or write a number"
    ]
    told = "3 instances (auto): 3 cores"
    given["asgi_service_auto"] = {"instances": 3, "reason": told}
    assert value("service", "__asgi_service_instances", given) == 3
    assert value("service", "asgi_service_memory_total", given) == f"{7 * 512}M"
    assert value("service", "__asgi_service_limits", given)["instances"] == 3
    assert value("service", "__asgi_service_instances_reason", given) == told
    assert value("proxy", "__asgi_proxy_problems", given) == []
    # a limit that was written for fewer is refused when the number is known
    (problem,) = value(
        "service", "__asgi_service_problems", {**given, "asgi_service_memory_total": "2G"}
    )
    assert "cannot hold two slots of 3 instances" in problem
    # another app of the same run has a number of its own
    given["asgi_service_instances"] = 2
    assert value("service", "__asgi_service_instances", given) == 2
    assert value("service", "__asgi_service_instances_reason", given) == ""


def test_an_instance_runs_the_release_of_its_slot_as_the_apps_user(given: dict[str, Any]) -> None:
    service = unit("service", "slot@.service", given)["Service"]
    root = given.get("asgi_app_root", f"/srv/{given['asgi_app_name']}")
    user = given.get("asgi_app_user", given["asgi_app_name"])
    assert only(service["User"]) == only(service["Group"]) == user
    assert only(service["WorkingDirectory"]) == f"{root}/slots/%j/app"
    assert only(service["ExecStart"]).startswith(f"{root}/slots/%j/venv/bin/python -m uvicorn ")
    # the environment that the slot was started with, not the one of the next rollout
    directory = f"/etc/asgi/{given['asgi_app_name']}/%j"
    assert service["EnvironmentFile"] == [
        f"{directory}/environment",
        f"{directory}/secrets",
        f"{root}/slots/%j.env",
    ]


def test_the_command_is_that_of_the_server_with_every_argument_whole(
    given: dict[str, Any],
) -> None:
    line = only(unit("service", "slot@.service", given)["Service"]["ExecStart"])
    assert "--reload" not in line
    assert "--workers" not in line
    # outside the interpreter's path no specifier and no variable is expanded
    arguments = line.split(" ", 1)[1].replace("%%", "").replace("$$", "")
    assert "%" not in arguments
    assert "$" not in arguments
    command = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line)]
    assert command[3] == given["asgi_app_entrypoint"]
    more = [str(word) for word in given.get("asgi_service_server_arguments", [])]
    assert command[len(command) - len(more) :] == more
    assert ("--factory" in command) is (given.get("asgi_app_factory") is True)


def test_the_sandbox_is_whole(given: dict[str, Any]) -> None:
    for role, name in (("service", "slot@.service"), ("migrate", "migrate@.service")):
        service = unit(role, name, given)["Service"]
        found = [(key, text) for key, texts in service.items() for text in texts]
        assert [pair for pair in FIXED if pair not in found] == []


def test_the_migration_runs_in_the_sandbox_of_the_app(given: dict[str, Any]) -> None:
    """What it may do beyond the fixed set is what the app may do, and it runs as its user."""
    app = unit("service", "slot@.service", given)["Service"]
    migration = unit("migrate", "migrate@.service", given)["Service"]
    same = SANDBOX_KEYS | {"MemoryDenyWriteExecute", "ProcSubset", "PrivateNetwork", "User"}
    same |= {"PrivateDevices", "DeviceAllow"}
    same |= {
        "RestrictAddressFamilies",
        "IPAddressDeny",
        "ReadWritePaths",
        "Slice",
        "StateDirectory",
    }
    assert {key: app.get(key) for key in same} == {key: migration.get(key) for key in same}


@pytest.mark.parametrize("name", ["process@.service", "job@.service"])
def test_a_process_runs_as_an_instance_does(given: dict[str, Any], name: str) -> None:
    """The same release, user, environment and sandbox, in the same slice."""
    app = unit("service", "slot@.service", given)["Service"]
    process = unit("service", name, given)["Service"]
    same = SANDBOX_KEYS | {"MemoryDenyWriteExecute", "ProcSubset", "PrivateNetwork", "User"}
    same |= {"RestrictAddressFamilies", "ReadWritePaths", "IPAddressDeny", "Group", "Slice"}
    same |= {"WorkingDirectory", "StateDirectory", "StateDirectoryMode", "Environment"}
    same |= {"EnvironmentFile", "KillMode", "MemorySwapMax"}
    assert {key: process.get(key) for key in same} == {key: app.get(key) for key in same}


def test_switches_of_the_sandbox_are_off_by_default() -> None:
    service = unit("service", "slot@.service", MINIMAL)["Service"]
    assert only(service["MemoryDenyWriteExecute"]) == "yes"
    assert only(service["ProcSubset"]) == "pid"
    assert only(service["PrivateDevices"]) == "yes"
    assert "DeviceAllow" not in service
    assert only(service["RestrictAddressFamilies"]) == "AF_UNIX AF_INET AF_INET6"
    assert "ReadWritePaths" not in service
    full = unit("service", "slot@.service", FULL)["Service"]
    assert only(full["RestrictAddressFamilies"]) == "AF_UNIX"
    assert full["ReadWritePaths"] == FULL["asgi_service_writable_paths"]
    assert "MemoryDenyWriteExecute" not in full
    assert "ProcSubset" not in full
    assert "PrivateDevices" not in full
    assert full["DeviceAllow"] == ["/dev/nvidia0 rw", "char-drm rw"]
    assert only(full["DevicePolicy"]) == "closed"


def test_the_listener_belongs_to_systemd_and_only_the_proxy_opens_it(given: dict[str, Any]) -> None:
    found = unit("service", "slot@.socket", given)
    listener, name = found["Socket"], given["asgi_app_name"]
    assert only(listener["ListenStream"]) == f"/run/asgi/{name}/%j/%i.sock"
    assert only(listener["SocketMode"]) == "0660"
    assert only(listener["SocketUser"]) == "root"
    assert only(listener["SocketGroup"]) == given.get("asgi_service_socket_group", "caddy")
    # connections wait here while an instance starts again
    assert int(only(listener["Backlog"])) >= 1024
    service = unit("service", "slot@.service", given)["Unit"]
    assert only(service["Requires"]) == "%p@%i.socket"
    assert "%p@%i.socket" in only(service["After"]).split()


@pytest.mark.parametrize("name", SERVERS)
def test_who_holds_the_listener_and_who_starts_a_process_again(name: str) -> None:
    given = {**FULL, "asgi_service_server": name, "asgi_service_server_arguments": []}
    found = unit("service", "slot@.service", given)
    service, held = found["Service"], SERVERS[name].INHERITS_SOCKET
    assert ("Requires" in found["Unit"]) is held
    assert ("%p@%i.socket" in only(found["Unit"]["After"]).split()) is held
    assert bool(value("service", "__asgi_service_socket_unit", given)) is held
    # where a master starts its worker again, the kernel's kill of one is not the end of all
    policy = "continue" if SERVERS[name].HAS_MASTER else "stop"
    assert only(service["OOMPolicy"]) == policy
    assert "ExecStartPre" not in service
    publishes = value("service", "__asgi_service_publish_unit", given)
    assert (publishes == "") is held
    assert ("my-app--publish-%j@%i.service" in only(found["Unit"]["Wants"]).split()) is not held
    if held:
        assert "RuntimeDirectory" not in service
        return
    line = only(service["ExecStart"])
    assert "/run/asgi/my-app/%j/%i/own.sock" in line
    assert f"python {FULL['asgi_app_root']}/entry/%j/_asgi_deploy_entry.py " in line
    # it may write nowhere where the proxy looks
    assert only(service["RuntimeDirectory"]) == "asgi/my-app/%j/%i"
    assert only(service["RuntimeDirectoryMode"]) == "0700"
    assert service["ReadWritePaths"] == FULL["asgi_service_writable_paths"]
    publishing = read_unit(publishes)
    # it begins when the instance runs and stops when that ends, as often as it is started again
    for key in ("BindsTo", "After"):
        assert only(publishing["Unit"][key]) == "my-app-%j@%i.service"
    assert only(publishing["Unit"]["StartLimitIntervalSec"]) == "0"
    assert only(publishing["Service"]["Restart"]) == "on-failure"
    names = [f"/run/asgi/my-app/%j/%i.{end}" for end in ("sock", "new")]
    assert only(publishing["Service"]["ExecStopPost"]).split() == ["/bin/rm", "-f", *names]


@pytest.mark.parametrize(("role", "template"), templates(), ids="/".join)
@pytest.mark.parametrize("server", ["uvicorn", "granian"])
def test_root_runs_nothing_with_the_environment_of_the_app(
    role: str, template: str, server: str
) -> None:
    """Its loader would run what LD_PRELOAD in it names, before any line of the program itself."""
    if not template.endswith(".service"):
        return
    arguments = {"asgi_service_server": server, "asgi_service_server_arguments": []}
    service = read_unit(render(role, template, {**FULL, **arguments}))["Service"]
    if not any(path.startswith("/etc/asgi/") for path in service.get("EnvironmentFile", [])):
        return
    assert only(service["User"]) == "web"
    assert "PermissionsStartOnly" not in service
    lines = [line for key, values in service.items() if key.startswith("Exec") for line in values]
    assert lines
    # what a unit may have before a program: `+` and `!` are those that leave root its rights
    assert [line for line in lines if re.match(r"[@\-:]*[+!]", line)] == []


@pytest.fixture
def slot_directory(tmp_path: Path) -> Path:
    """Stands in for /run/asgi/my-app/blue, with the directory of instance 1 in it."""
    (tmp_path / "1").mkdir()
    return tmp_path


def publish(directory: Path, pid: int) -> subprocess.CompletedProcess[str]:
    """Runs what root runs beside a server that makes its listener itself.

    Without the change of the owner, which this test may not be able to do, and without systemd.
    """
    service = unit("service", "publish@.service", FULL)
    prefix, script = only(service["Service"]["ExecStart"]).split(" -ec ")
    assert prefix == "/bin/sh"
    given = {
        "$$(systemctl show --value --property=MainPID my-app-%j@%i.service)": str(pid),
        "/run/asgi/my-app/%j": str(directory),
        "%i": "1",
        "$$": "$",
        "-user web": f"-user {os.getuid()}",
        "chown root:haproxy 1.new; ": "",
    }
    for text, here in given.items():
        assert text in script
        script = script.replace(text, here)
    return subprocess.run(
        ["/bin/sh", "-ec", script[1:-1]], capture_output=True, text=True, check=False, timeout=20
    )


def test_root_gives_the_socket_of_the_server_its_name(slot_directory: Path) -> None:
    own, asked = slot_directory / "1" / "own.sock", slot_directory / "1.sock"
    asked.symlink_to("/nowhere")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(own))
        own.chmod(0o700)
        listener.listen()
        done = publish(slot_directory, os.getpid())
        assert (done.returncode, done.stderr) == (0, "")
        assert asked.is_socket()
        assert not asked.is_symlink()
        assert asked.samefile(own)
        assert asked.stat().st_mode & 0o777 == 0o660
        # what the app does with its own name changes nothing any more
        own.unlink()
        own.symlink_to("/nowhere")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(asked))


def test_root_gives_no_name_to_a_link(slot_directory: Path) -> None:
    own = slot_directory / "1" / "own.sock"
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as listener:
        other.bind(str(slot_directory / "other.sock"))
        listener.bind(str(own))
        listener.listen()
        for target in (slot_directory / "other.sock", slot_directory):
            own.unlink()
            own.symlink_to(target)
            done = publish(slot_directory, os.getpid())
            assert done.returncode == 1
            assert f"{own} is no socket of web" in done.stderr
            assert not (slot_directory / "1.sock").exists()
        own.unlink()
        assert publish(slot_directory, os.getpid()).returncode == 1


def test_root_waits_for_no_process_that_has_ended(slot_directory: Path) -> None:
    """systemd tells how it ended."""
    with subprocess.Popen(["/bin/true"]) as ended:
        ended.wait()
    assert publish(slot_directory, ended.pid).returncode == 0
    assert [path.name for path in slot_directory.iterdir()] == ["1"]


@pytest.mark.parametrize("name", SERVERS)
def test_what_a_server_cannot_keep_is_refused_by_name(name: str) -> None:
    """daphne has to be told that nobody counts on what it has not."""
    given = {**MINIMAL, "asgi_service_server": name}
    told = value("service", "__asgi_service_problems", given)
    assert bool(told) is (name == "daphne")
    accepted = {"asgi_service_lifespan": False, "asgi_service_graceful_timeout_seconds": 0}
    if name == "daphne":
        assert sorted(line.split(":")[0] for line in told) == sorted(accepted)
        assert value("service", "__asgi_service_problems", {**given, **accepted}) == []


def test_both_units_can_be_enabled_for_the_next_boot(given: dict[str, Any]) -> None:
    for name, target in (("service", "multi-user.target"), ("socket", "sockets.target")):
        assert only(unit("service", f"slot@.{name}", given)["Install"]["WantedBy"]) == target


@pytest.mark.parametrize(
    ("provider", "group"), [("caddy", "caddy"), ("none", "www-data"), (None, "caddy")]
)
def test_the_group_of_the_sockets_is_that_of_the_proxy(provider: str | None, group: str) -> None:
    given = MINIMAL if provider is None else {**MINIMAL, "asgi_proxy_provider": provider}
    assert only(unit("service", "slot@.socket", given)["Socket"]["SocketGroup"]) == group


# --- the migration --------------------------------------------------------------------------------


def test_a_migration_runs_once_within_its_limits(given: dict[str, Any]) -> None:
    found = unit("migrate", "migrate@.service", given)
    service = found["Service"]
    assert only(service["Type"]) == "oneshot"
    # a oneshot unit has no limit of its own, and one that is started again is run twice
    timeout = int(given.get("asgi_migrate_timeout_seconds", 600))
    # with a lock the wait for it has the same limit
    limits = 2 if given.get("asgi_migrate_advisory_lock") else 1
    assert seconds(only(service["TimeoutStartSec"])) == limits * timeout
    assert "Restart" not in service
    assert "Install" not in found
    size = given.get("asgi_migrate_memory_max", given.get("asgi_service_memory_max", "512M"))
    assert only(service["MemoryMax"]) == size


def test_a_migration_runs_the_code_of_its_release(given: dict[str, Any]) -> None:
    service = unit("migrate", "migrate@.service", given)["Service"]
    root = given.get("asgi_app_root", f"/srv/{given['asgi_app_name']}")
    assert only(service["WorkingDirectory"]) == f"{root}/releases/%i/app"
    (path,) = [text for text in service["Environment"] if text.startswith("PATH=")]
    assert path.startswith(f"PATH={root}/releases/%i/venv/bin:")
    line = shlex.split(only(service["ExecStart"]).replace("%%", "%"))
    command = ["/usr/bin/env", *shlex.split(given["asgi_migrate_command"])]
    if given.get("asgi_migrate_advisory_lock"):
        assert line[:3] == [f"{root}/releases/%i/venv/bin/python", "-I", f"{root}/advisory_lock.py"]
        assert {"--name=shop-database", "--variable=SHOP_URL", "--seconds=30"} < set(line)
        assert "--holder=my-app %i on %H" in line
        line = line[line.index("--") + 1 :]
    assert line == command


def test_a_migration_that_has_succeeded_is_recorded_by_a_unit(given: dict[str, Any]) -> None:
    """As root, and after the command: also where the run that began it was killed."""
    found, service = (
        unit("migrate", "migrated@.service", given)[one] for one in ("Unit", "Service")
    )
    migrates = f"{given['asgi_app_name']}-migrate@%i.service"
    assert only(found["Requires"]) == only(found["After"]) == migrates
    assert only(service["Type"]) == "oneshot"
    assert not {"User", "Environment", "EnvironmentFile"} & set(service)
    root = given.get("asgi_app_root", f"/srv/{given['asgi_app_name']}")
    notes = f"{root}/migrations/%i"
    assert only(service["ExecStart"]) == f"-/bin/mv -f {notes}.begun {notes}.json"


# --- the proxy ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("install", "program"),
    [
        ("package", "/usr/bin/caddy"),
        ("binary", "/opt/asgi/caddy-3f2a9c81b0d4/caddy"),
        ("archive", "/opt/asgi/caddy-3f2a9c81b0d4/caddy"),
    ],
)
def test_the_unit_of_caddy(install: str, program: str) -> None:
    checksum = f"sha256:3f2a9c81b0d4{'0' * 52}"
    given = {
        **MINIMAL,
        "asgi_proxy_caddy_install": install,
        "asgi_proxy_caddy_checksum": checksum,
    }
    service = unit("proxy", "caddy.service", given)["Service"]
    main_file = render("proxy", "etc/caddy/Caddyfile", given)
    grace = re.search(r"grace_period (\d+)s", main_file)
    assert grace is not None
    assert seconds(only(service["TimeoutStopSec"])) > float(grace[1])
    assert only(service["Restart"]) == "always"
    assert only(service["ExecStart"]).split()[0] == program
    assert only(service["ExecReload"]).split()[0] == program
    assert only(service["User"]) == "caddy"
    # ports below 1024, and nothing else that root can do
    assert only(service["CapabilityBoundingSet"]) == "CAP_NET_BIND_SERVICE"
    # it makes a socket for its administration in there
    assert only(service["RuntimeDirectory"]) == "caddy"
    assert "unix//run/caddy/" in main_file


# --- the watch ------------------------------------------------------------------------------------


def test_the_watch_is_there_only_where_it_is_asked_for() -> None:
    assert value("service", "__asgi_service_watched", MINIMAL) is False
    for given in (
        {"asgi_service_recycle_memory": "300M"},
        {"asgi_service_recycle_age_seconds": "86400"},
        {"asgi_service_recycle_requests": "10000"},
        {"asgi_service_watch_hung": "yes"},
    ):
        assert value("service", "__asgi_service_watched", {**MINIMAL, **given}) is True
    assert value("service", "__asgi_service_watched", TEXT) is False


def test_the_watch_can_change_what_a_rollout_changes_and_little_else(given: dict[str, Any]) -> None:
    service = unit("service", "watch.service", given)["Service"]
    root = given.get("asgi_app_root", f"/srv/{given['asgi_app_name']}")
    assert only(service["ExecStart"]) == (
        f"/usr/bin/python3 -I {root}/watch/watch.pyz {root}/watch/watch.json"
    )
    assert only(service["ReadWritePaths"]).split() == [
        root,
        f"/etc/asgi/{given['asgi_app_name']}",
        "/etc/systemd/system",
        "-/etc/caddy",
        "-/etc/traefik",
    ]
    # what it has begun is put back before it is killed
    assert only(service["Restart"]) == "always"
    assert only(service["KillMode"]) == "mixed"
    assert seconds(only(service["TimeoutStopSec"])) >= 60
    # as much of the sandbox of the app as root can have that starts units
    others = {"AmbientCapabilities", "CapabilityBoundingSet", "PrivateUsers", "ProtectProc"}
    # it has no connections
    others |= {"LimitNOFILE"}
    for key, text in FIXED:
        if key not in {*others, "UMask", "SystemCallFilter"}:
            assert only(service[key]) == text


@pytest.mark.parametrize("server", SERVERS)
def test_requests_are_counted_only_where_it_is_asked_for(server: str) -> None:
    lasting = {"asgi_service_lifespan": False, "asgi_service_graceful_timeout_seconds": 0}
    given = {**MINIMAL, "asgi_service_server": server, **(lasting if server == "daphne" else {})}
    assert "--count" not in unit("service", "slot@.service", given)["Service"]["ExecStart"][0]
    counted = {**given, "asgi_service_recycle_requests": 10000}
    service = unit("service", "slot@.service", counted)["Service"]
    assert " --count /run/asgi/blog/%j/%i/requests " in only(service["ExecStart"])
    # where the instance may write, and nobody else may
    assert only(service["RuntimeDirectory"]) == "asgi/blog/%j/%i"
    assert only(service["RuntimeDirectoryMode"]) == "0700"


@pytest.mark.parametrize("name", ["slot@.service", "process@.service", "job@.service"])
def test_what_is_given_up_starts_the_unit_for_alerts(name: str) -> None:
    assert "OnFailure" not in unit("service", name, MINIMAL)["Unit"]
    assert only(unit("service", name, FULL)["Unit"]["OnFailure"]) == "alert@%n.service"


def test_a_run_that_a_release_ends_has_not_failed() -> None:
    """By the signal itself, or as a shell tells of it."""
    found = unit("service", "job@.service", MINIMAL)["Service"]
    assert only(found["SuccessExitStatus"]) == "SIGTERM 143"


@pytest.mark.parametrize("name", ["slot@.service", "process@.service"])
def test_the_pause_before_a_start_grows_where_it_can(name: str) -> None:
    service = unit("service", name, MINIMAL)["Service"]
    assert only(service["RestartMaxDelaySec"]) == "5"
    assert int(only(service["RestartSteps"])) > 0
    for given in ({"asgi_service_restart_max_seconds": 0}, {"asgi_service_restart_seconds": 5}):
        constant = unit("service", name, {**MINIMAL, **given})["Service"]
        assert not {"RestartSteps", "RestartMaxDelaySec"} & set(constant)


def test_the_proxy_ends_before_those_that_it_asks() -> None:
    """But it waits for none that is up only when it listens."""
    found = unit("service", "slot@.service", MINIMAL)["Unit"]
    assert only(found["Before"]) == "caddy.service traefik.service"
    slow = unit("service", "slot@.service", {**MINIMAL, "asgi_service_server": "granian"})
    assert "Before" not in slow["Unit"]


# --- together -------------------------------------------------------------------------------------


def test_what_a_rollout_is_told_is_typed_and_complete(given: dict[str, Any]) -> None:
    """Modules get it as a dictionary, whose values nobody converts."""
    found = value("service", "asgi_service_proxy", given)
    assert found["domain"] == "blog.test"
    assert isinstance(found["port"], int)
    assert isinstance(found["timeout_seconds"], float)
    # a name under .test is certified by Caddy's own authority
    assert found["ca_file"].endswith("/pki/authorities/local/root.crt")


@pytest.mark.parametrize(
    ("given", "authority"),
    [
        ({"asgi_proxy_domains": ["blog.example.com"]}, ""),
        ({"asgi_proxy_trusted_ca_file": "/etc/ssl/company.pem"}, "/etc/ssl/company.pem"),
        ({"asgi_proxy_certificate": "acme"}, ""),
        ({"asgi_proxy_provider": "none"}, ""),
    ],
)
def test_the_authority_is_the_systems_unless_caddy_is_its_own(
    given: dict[str, Any], authority: str
) -> None:
    assert value("service", "asgi_service_proxy", {**MINIMAL, **given})["ca_file"] == authority


def test_without_a_proxy_the_app_is_asked_as_localhost() -> None:
    given = {key: text for key, text in MINIMAL.items() if key != "asgi_proxy_domains"}
    assert value("service", "asgi_service_health_host", given) == "localhost"


def test_a_wildcard_as_the_first_domain_is_refused_with_what_to_do() -> None:
    """The health check takes its host from there, and nobody is called `*`."""
    given = {**MINIMAL, "asgi_proxy_domains": ["*.blog.test", "blog.test"]}
    (told,) = value("service", "__asgi_service_problems", given)
    assert told.startswith("asgi_service_health_host: ")
    assert "asgi_proxy_domains" in told
    other_order = {**given, "asgi_proxy_domains": ["blog.test", "*.blog.test"]}
    assert value("service", "__asgi_service_problems", other_order) == []


def test_a_migration_may_use_what_an_instance_may_unless_told() -> None:
    given = {**MINIMAL, "asgi_service_memory_max": "300M"}
    found = unit("migrate", "migrate@.service", given)["Service"]
    assert only(found["MemoryMax"]) == "300M"
    (told,) = value(
        "migrate", "__asgi_migrate_problems", {**MINIMAL, "asgi_migrate_memory_max": "1 GB"}
    )
    assert told.startswith("asgi_migrate_memory_max: ")


@pytest.mark.parametrize("role", ["app", "migrate", "service", "proxy"])
def test_no_scenario_has_a_problem(role: str, given: dict[str, Any]) -> None:
    assert value(role, f"__asgi_{role}_problems", given) == []


@pytest.mark.parametrize(
    ("changed", "most"),
    [
        ({}, 1.1),
        ({"asgi_service_outbound_network": False}, 0.3),
        ({"asgi_service_jit": True}, 1.2),
        ({"asgi_service_full_proc": True}, 1.2),
        ({"asgi_service_devices": ["/dev/nvidia0"]}, 1.2),
        ({"asgi_service_writable_paths": ["/data/media"]}, 1.1),
    ],
    ids=str,
)
def test_how_exposed_the_app_is(changed: dict[str, Any], most: float, tmp_path: Path) -> None:
    """Its instances, processes, jobs and migration, as the README of the role says."""
    kinds = {key: FULL[key] for key in ("asgi_service_processes", "asgi_service_timers")}
    given = {**MINIMAL, **kinds, **changed}
    texts = {
        "slot": render("service", f"{UNITS}/slot@.service", given),
        "migrate": render("migrate", f"{UNITS}/migrate@.service", given),
        **{one["name"]: one["service"] for one in value("service", PROCESSES, given)},
    }
    assert len(texts) == 4
    for name, text in texts.items():
        path = tmp_path / f"{name}@1.service"
        path.write_text(text, encoding="utf-8")
        words = [
            "systemd-analyze",
            "security",
            "--offline=true",
            f"--threshold={most * 10:.0f}",
            path,
        ]
        done = subprocess.run(words, capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, f"{name}: {done.stdout.splitlines()[-1:]} {done.stderr}"


def test_systemd_finds_no_fault(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = given["asgi_app_name"]
    root = given.get("asgi_app_root", f"/srv/{name}")
    escaped = name.replace("-", "\\x2d")
    binds = {**given, "asgi_service_server": "granian", "asgi_service_server_arguments": []}
    files = {
        f"{name}-green@1.service": render("service", f"{UNITS}/slot@.service", given),
        f"{name}-green@1.socket": render("service", f"{UNITS}/slot@.socket", given),
        f"asgi-{escaped}.slice": render("service", f"{UNITS}/app.slice", given),
        f"{name}-blue@1.service": render("service", f"{UNITS}/slot@.service", binds),
        f"{name}--publish-blue@1.service": render("service", f"{UNITS}/publish@.service", binds),
        f"{name}-migrate@1.0.0-abc.service": render("migrate", f"{UNITS}/migrate@.service", given),
        f"{name}-migrated@1.0.0-abc.service": render(
            "migrate", f"{UNITS}/migrated@.service", given
        ),
        "caddy.service": render("proxy", f"{UNITS}/caddy.service", given),
        f"asgi-{name}-watch.service": render("service", f"{UNITS}/watch.service", given),
        "alert@.service": "[Service]\nExecStart=/bin/true\n",
    }
    for process in value("service", PROCESSES, given):
        files[f"{name}.{process['name']}-green@1.service"] = process["service"]
        if process["timer"]:
            files[f"{name}.{process['name']}-green@1.timer"] = process["timer"]
    told = subprocess.run(
        ["systemd-analyze", "--version"], capture_output=True, text=True, check=True
    ).stdout
    monkeypatch.setattr(systemd, "version", lambda: int(told.split()[1]))
    understood = systemd.understood({tmp_path / name: text for name, text in files.items()})
    for path, text in understood.items():
        # the programs are not on this machine, and are none of this test
        runnable = text.replace(f"{root}/slots/%j/venv/bin/python", "/bin/true")
        runnable = runnable.replace(f"{root}/releases/%i/venv/bin/python", "/bin/true")
        path.write_text(runnable.replace("/usr/bin/caddy", "/bin/true"), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *understood],
        capture_output=True,
        encoding="utf-8",
        check=False,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:", "PATH": "/usr/bin:/bin"},
    )
    told = [line for line in done.stderr.splitlines() if any(file in line for file in files)]
    assert told == [], done.stderr
    assert done.returncode == 0, done.stderr

"""A run killed between and inside any two steps: one version serves, the next run converges.

The schedule is fixed: every hook of a deploy, the build, the migration, the configuration of the
proxy, and the list of steps of the rollout itself. At each of them a process on the host stops
the module that is at work (or a hook holds the run), then ansible-playbook is killed, the module,
both, or the network is cut.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sites import (
    CA_FILE,
    COUNTED,
    DOMAIN,
    PLAY_TIMEOUT_SECONDS,
    ROOT,
    assert_only_serving_slot_runs,
    client,
)

if TYPE_CHECKING:
    from sites import Site

#: Every step that a rollout writes down, and whether the new release serves once it is begun.
STEPS = {
    "prepare the slot": False,
    "start the slot": False,
    "prove its health": False,
    "enable it at boot": False,
    "switch the proxy": False,
    "confirm through the proxy": True,
    "stop the old slot": True,
}
#: Of a rollout that brings another site.
ADD_SITE = "add its site to the proxy"
#: Every place between the steps of a deploy: its hook, and what the next run does there.
BOUNDARIES = {
    "asgi_app_before_stage": "built it",
    "asgi_app_after_stage": "kept the build",
    "asgi_migrate_before": "migrated",
    "asgi_migrate_after": "did not migrate again",
    "asgi_service_before_rollout": "rolled it out",
    "asgi_service_after_rollout": "changed nothing",
}

#: Imported by every Python of the host: a module stops itself as soon as it has written that a
#: step of a rollout has begun. Whoever looked at the file from outside would miss a short step.
STOP_AT_STEP = """
import json, os, signal, sys
STATE = "/srv/blog/state.json"
written = False

def stop(event, arguments):
    global written
    if event == "os.rename":
        written = os.fspath(arguments[1]) == STATE
    elif written:
        written = False
        with open(STATE) as file:
            step = json.load(file)["operation"].get("step")
        if step == {step!r}:
            os.kill(os.getpid(), signal.SIGSTOP)

sys.addaudithook(stop)
"""

#: Runs on the host: stops a module of ours when it is at some place, says so, and does with it
#: what it is told. Arguments: `step` and the text of STOP_AT_STEP, by which the module stops
#: itself; `file` and one that is there then; `child` and the last words of a program that the
#: module runs then.
HOLDER = """
import glob, os, pathlib, signal, site, sys, time
kind, value = sys.argv[1:]
deadline = time.monotonic() + 240
packages = pathlib.Path(site.getsitepackages()[0])
packages.mkdir(parents=True, exist_ok=True)
hook = packages / "stop_at_step.py"
imported = packages / "stop_at_step.pth"
if kind == "step":
    hook.write_text(value)
    imported.write_text("import stop_at_step\\n")

def at_work():
    return int(open("/srv/blog/.lock").read().split()[1])

def stat_of(process):
    return open(f"/proc/{process}/stat").read().rsplit(")", 1)[1].split()

def found():
    if kind == "step":
        holder = at_work()
        return stat_of(holder)[0] == "T" and holder
    if kind == "file":
        return os.path.exists(value) and at_work()
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        # these words are at the end of this program's arguments too
        if path == f"/proc/{os.getpid()}/cmdline":
            continue
        if open(path).read().replace("\\0", " ").strip().endswith(value):
            return int(stat_of(path.split("/")[2])[1])

print("ready", flush=True)
while time.monotonic() < deadline:
    try:
        holder = found()
    except (ValueError, OSError, IndexError):
        # being written, or gone meanwhile
        continue
    if holder:
        os.kill(holder, signal.SIGSTOP)
        # what recovers from the kill is not stopped
        imported.unlink(missing_ok=True)
        hook.unlink(missing_ok=True)
        print("stopped", flush=True)
        os.kill(holder, getattr(signal, sys.stdin.readline().strip() or "SIGKILL"))
        break
    time.sleep(0.001)
"""

#: A Python that does not start while a file is there, so that a build can be met inside.
#: A build can write to its cache, which is its home.
HELD_PYTHON = """#!/bin/sh
touch "$HOME/begun"
while test -e /run/build-hold; do sleep 0.05; done
exec /usr/bin/python3 "$@"
"""
BEGUN = "/var/cache/asgi/blog/begun"
BUILD = {"asgi_app_python": "/usr/local/bin/held-python"}

#: Where it was killed, how, what served then, what the next run did.
TABLE: list[tuple[str, str, str, str]] = []


@contextlib.contextmanager
def held(site: Site, kind: str, value: str) -> Iterator[Callable[[str], None]]:
    """Yields a function that is called twice: with nothing, to wait until the module was stopped
    at a place; then with the name of a signal for it.
    """
    given = STOP_AT_STEP.format(step=value) if kind == "step" else value
    holder = subprocess.Popen(
        ["podman", "exec", "-i", site.host.container, "python3", "-c", HOLDER, kind, given],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def tell(word: str = "") -> None:
        if word:
            holder.communicate(f"{word}\n", timeout=30)
            assert holder.returncode == 0
            return
        assert holder.stdout is not None
        assert holder.stdout.readline() == "stopped\n"

    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        yield tell
    finally:
        holder.kill()
        holder.communicate()


def kill_at(
    site: Site, kind: str, value: str, version: Path, *, run: bool, **variables: Any
) -> str:
    """Deploys a version and kills the module at a place.

    Args:
        site: The blog.
        kind: What the place is known by (HOLDER).
        value: When.
        version: What to deploy.
        run: Kill ansible-playbook too, before the module.
        variables: For this run only.

    Returns:
        The output of ansible-playbook, which has failed.
    """
    source = {"path": str(version)}
    return killed_at(
        site,
        (kind, value),
        lambda: site.start("asgi.deploy.site", asgi_app_source=source, **variables),
        run=run,
    )


def killed_at(
    site: Site, place: tuple[str, str], start: Callable[[], subprocess.Popen[str]], *, run: bool
) -> str:
    """Starts a run and kills the module at a place, as `kill_at` does."""
    with held(site, *place) as tell:
        playing = start()
        tell()
        if run:
            os.killpg(playing.pid, signal.SIGKILL)
        tell("SIGKILL")
    output, _nothing = playing.communicate(timeout=PLAY_TIMEOUT_SECONDS)
    assert playing.returncode != 0
    return output


def wait_until(true: Callable[[], Any], what: str) -> None:
    """Waits for something on a host."""
    deadline = time.monotonic() + 300
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within 300 s"
        time.sleep(0.1)


def assert_no_leftover(site: Site) -> None:
    """Nothing of an interrupted build is there: each directory is a release."""
    manifests = site.run("ls -A /srv/blog/manifests").replace(".json\n", "\n")
    assert site.run("ls -A /srv/blog/releases") == manifests


# --- between the steps ----------------------------------------------------------------------------


HOOK = """
- name: Tell the test
  ansible.builtin.copy:
    dest: {directory}/at
    content: "{hook}"
    mode: "0644"
  delegate_to: localhost
- name: Wait to be killed
  ansible.builtin.wait_for:
    path: {directory}/go
    timeout: 120
  delegate_to: localhost
"""


def kill_between(site: Site, hook: str, version: Path, directory: Path, **variables: Any) -> None:
    """Deploys a version and kills ansible-playbook while a hook runs."""
    directory.mkdir()
    (directory / "hook.yml").write_text(HOOK.format(directory=directory, hook=hook))
    playing = site.start(
        "asgi.deploy.site",
        asgi_app_source={"path": str(version)},
        **{hook: [str(directory / "hook.yml")]},
        **variables,
    )
    wait_until((directory / "at").exists, hook)
    os.killpg(playing.pid, signal.SIGKILL)
    # what the run has started here ends too
    (directory / "go").touch()
    playing.communicate(timeout=PLAY_TIMEOUT_SECONDS)


def test_a_run_killed_between_its_steps_is_taken_up_by_the_next(
    one_site: Site, tmp_path: Path
) -> None:
    """One version, its run killed at one place after the other: no step is done twice."""
    one_site.count_migrations()
    before = one_site.serving()
    version = one_site.counted("killed between steps")
    steps = {}
    with one_site.load(rate_per_second=30) as load:
        for hook in BOUNDARIES:
            kill_between(one_site, hook, version, tmp_path / hook, **COUNTED)
            steps[hook] = one_site.get("/healthz")["release"]
        built = one_site.run("stat -c %y /srv/blog/manifests/*.json | sort | tail -1")
        again = one_site.deploy(version, **COUNTED)
        result = load.stop()
    new = one_site.serving()
    assert new != before
    assert set(list(steps.values())[:-1]) == {before}
    assert steps["asgi_service_after_rollout"] == new
    assert again.changed == 0, again.output
    assert built == one_site.run("stat -c %y /srv/blog/manifests/*.json | sort | tail -1")
    assert one_site.migrations() == [("blog", 0, True)]
    assert list(result.releases) == [before, new]
    assert result.failed == 0, result.report()
    assert_only_serving_slot_runs(one_site)
    for hook, told in BOUNDARIES.items():
        TABLE.append((hook, "run", "old" if steps[hook] == before else "new", told))


# --- inside the build -----------------------------------------------------------------------------


@pytest.fixture
def held_build(one_site: Site) -> Iterator[None]:
    """A build of this host waits in its first program."""
    one_site.host.run("cat > /usr/local/bin/held-python", stdin=HELD_PYTHON)
    one_site.run(f"chmod 755 /usr/local/bin/held-python; rm -f {BEGUN}; touch /run/build-hold")
    yield
    one_site.run("rm -f /run/build-hold")


@pytest.mark.parametrize(
    "run",
    [True, False],
    ids=["run and module", "module"],
)
def test_a_killed_build_is_done_again(one_site: Site, held_build: None, run: bool) -> None:
    """The steps of a build that was killed end before the next one begins."""
    before = one_site.serving()
    version = one_site.variant("same", f"build killed {run}")
    with one_site.load(rate_per_second=30) as load:
        kill_at(one_site, "file", BEGUN, version, run=run, **BUILD)
        serving = one_site.get("/healthz")["release"]
        steps = "systemctl list-units --plain --no-legend 'blog-build@*'"
        (unit,) = [line.split()[0] for line in one_site.run(steps).splitlines()]
        one_site.run("rm /run/build-hold")
        one_site.deploy(version, **BUILD)
        assert one_site.run(steps) == ""
        assert one_site.run(f"systemctl is-active {unit}", check=False).strip() == "inactive"
        result = load.stop()
    assert serving == before
    assert list(result.releases) == [before, one_site.serving()]
    assert result.failed == 0, result.report()
    assert_no_leftover(one_site)
    TABLE.append(("build", "run and module" if run else "module", "old", "built it"))


# --- inside the migration -------------------------------------------------------------------------

APP_HOME = "/var/lib/asgi/blog"


def kill_while_it_migrates(site: Site, version: Path, *, run: bool) -> str:
    """Kills the module inside a migration, which goes on under systemd until it may end.

    Returns:
        The unit.
    """
    site.count_migrations()
    site.run(f"rm -f {APP_HOME}/migrating && touch {APP_HOME}/hold")
    kill_at(site, "file", f"{APP_HOME}/migrating", version, run=run, **COUNTED)
    listed = site.run("systemctl list-units --all --plain --no-legend 'blog-migrate@*'")
    ((unit, _loaded, active, *_rest),) = [line.split() for line in listed.splitlines()]
    assert active == "activating"
    return unit


def deploy_while_it_migrates(site: Site, version: Path, directory: Path) -> None:
    """Deploys a version whose module meets a migration that still runs; then that one ends."""
    directory.mkdir()
    (directory / "hook.yml").write_text(HOOK.format(directory=directory, hook="migrate"))
    # this hook holds nothing up
    (directory / "go").touch()
    hook = {"asgi_migrate_before": [str(directory / "hook.yml")]}
    playing = site.start(
        "asgi.deploy.site", asgi_app_source={"path": str(version)}, **hook, **COUNTED
    )
    wait_until((directory / "at").exists, "the migration of the next run")
    wait_until(lambda: not is_unlocked(site), "its module")
    assert site.migrations() == [("blog", 0, False)]
    site.run(f"rm {APP_HOME}/hold")
    output, _nothing = playing.communicate(timeout=PLAY_TIMEOUT_SECONDS)
    assert playing.returncode == 0, output
    site.source = version


def is_unlocked(site: Site) -> bool:
    """No module of ours is at work on the blog; to try its lock could be in the way of one."""
    command = "find /proc/[0-9]*/fd -lname /srv/blog/.lock -print -quit 2>/dev/null"
    return site.run(command, check=False) == ""


def starts_of(site: Site, unit: str) -> int:
    """How often systemd has started a unit."""
    told = site.run(f"journalctl --output=json --unit={unit} _PID=1")
    messages = [json.loads(line)["MESSAGE"] for line in told.splitlines()]
    return sum(message.startswith("Starting") for message in messages)


def test_the_next_run_waits_for_a_migration_that_goes_on(one_site: Site, tmp_path: Path) -> None:
    """It is neither run a second time nor is a second one begun beside it."""
    before = one_site.serving()
    version = one_site.counted("killed while it migrates")
    with one_site.load(rate_per_second=30) as load:
        unit = kill_while_it_migrates(one_site, version, run=True)
        serving = one_site.get("/healthz")["release"]
        deploy_while_it_migrates(one_site, version, tmp_path / "next")
        result = load.stop()
    assert starts_of(one_site, unit) == 1
    assert one_site.migrations() == [("blog", 0, True)]
    record = f"/srv/blog/migrations/{one_site.serving()}.json"
    assert "begun by a run that was cut off" in one_site.run(f"cat {record}")
    assert serving == before
    assert list(result.releases) == [before, one_site.serving()]
    assert result.failed == 0, result.report()
    TABLE.append(("migration", "run and module", "old", "waited for it and rolled out"))


def test_a_migration_that_ended_unwatched_is_not_run_again(one_site: Site) -> None:
    """Its unit has noted that it succeeded."""
    before = one_site.serving()
    version = one_site.counted("module killed while it migrates")
    with one_site.load(rate_per_second=30) as load:
        unit = kill_while_it_migrates(one_site, version, run=False)
        serving = one_site.get("/healthz")["release"]
        one_site.run(f"rm {APP_HOME}/hold")
        state = f"systemctl show --value -p ActiveState {unit}"
        wait_until(lambda: one_site.run(state) == "inactive\n", unit)
        one_site.deploy(version, **COUNTED)
        result = load.stop()
    assert starts_of(one_site, unit) == 1
    assert one_site.migrations() == [("blog", 0, True)]
    assert serving == before
    assert list(result.releases) == [before, one_site.serving()]
    assert result.failed == 0, result.report()
    TABLE.append(("migration", "module", "old", "did not migrate again"))


def test_another_release_waits_for_it_too(one_site: Site, tmp_path: Path) -> None:
    """A mended version is deployed at once: its migration begins when the first has ended."""
    kill_while_it_migrates(one_site, one_site.counted("then given up"), run=True)
    deploy_while_it_migrates(one_site, one_site.counted("the next one"), tmp_path / "next")
    assert one_site.migrations() == [("blog", 0, True), ("blog", 0, True)]
    TABLE.append(("migration", "run and module", "old", "waited for it, then migrated another"))


# --- inside the configuration of the proxy --------------------------------------------------------


def test_a_run_killed_while_it_configures_the_proxy(one_site: Site) -> None:
    """The files are written and Caddy has not taken them up: the next run sees to it."""
    # the tests before have migrated for this release by another command
    one_site.deploy()
    changed = {"asgi_proxy_request_body_max": "11MB"}
    with one_site.held_reload():
        kill_at(one_site, "child", "reload caddy.service", one_site.source, run=True, **changed)
        one_site.run("test -e /etc/caddy/.pending")
        serving = one_site.get("/healthz")["release"]
    wait_until(lambda: "caddy" not in one_site.run("systemctl list-jobs --no-legend"), "reload")
    assert serving == one_site.serving()
    again = one_site.deploy(**changed)
    # the configuration is staged again, and rolled out
    assert again.changed == 2, again.output
    assert f"was cut off while it was to {ADD_SITE}" in again.unwrapped
    assert one_site.run("test -e /etc/caddy/.pending || echo gone") == "gone\n"
    assert one_site.get("/healthz")["release"] == serving
    # back again now: the reload would close connections under the load of the next test
    one_site.deploy()
    TABLE.append(("configure the proxy", "run and module", "old", "had Caddy take it up"))


# --- the network ----------------------------------------------------------------------------------


@contextlib.contextmanager
def load_inside(site: Site) -> Iterator[Callable[[], Any]]:
    """A load on the site from the host itself; what is yielded stops it and gives the result."""
    program = (ROOT / "tests" / "load" / "client.py").read_text()
    site.host.run("cat > /run/client.py && rm -f /run/load.json", stdin=program)
    site.run(
        "systemd-run --quiet --collect --unit=load python3 -I /run/client.py --address=127.0.0.1"
        f" --domain={DOMAIN} --ca-file={CA_FILE} --rate-per-second=40 --keepalive-get=2"
        " --new-get=1 --keepalive-post=1 --new-post=1 --json=/run/load.json"
    )

    def stop() -> Any:
        site.run("systemctl stop load")
        return client.Result.from_json(json.loads(site.run("cat /run/load.json")))

    try:
        yield stop
    finally:
        site.run("systemctl stop load", check=False)


def cut_off_at(site: Site, kind: str, value: str, version: Path, **variables: Any) -> str:
    """Deploys a version and loses the host at a place; its module goes on alone, to its end.

    Returns:
        The output of the run, which has failed.
    """
    alive = "-o ServerAliveInterval=4 -o ServerAliveCountMax=3"
    watched = {
        "ansible_ssh_extra_args": alive,
        "ansible_sftp_extra_args": alive,
        # a connection that is open already would not watch
        "ansible_control_path_dir": str(site.directory / "cp"),
        "ansible_timeout": 10,
    }
    with held(site, kind, value) as tell:
        playing = site.start(
            "asgi.deploy.site", asgi_app_source={"path": str(version)}, **variables, **watched
        )
        tell()
        site.host.disconnect()
        try:
            output, _nothing = playing.communicate(timeout=PLAY_TIMEOUT_SECONDS)
            site.run("rm -f /run/build-hold")
            tell("SIGCONT")
            wait_until(lambda: is_unlocked(site), "its end")
        finally:
            site.host.connect()
    assert playing.returncode != 0, output
    return output


@pytest.mark.parametrize("step", ["prove its health", "stop the old slot"])
def test_a_host_lost_in_its_rollout_ends_it_alone(one_site: Site, step: str) -> None:
    """The module needs no connection: one version serves, the next run has nothing to do."""
    before = one_site.serving()
    version = one_site.variant("same", f"network lost at {step}")
    # the module is stopped until the run has given up the host, which takes 30 s and more
    patient = {"asgi_service_health_timeout_seconds": 300}
    with load_inside(one_site) as stop:
        output = cut_off_at(one_site, "step", step, version, **patient)
        serving = one_site.serving()
        again = one_site.deploy(version, **patient)
        result = stop()
    assert "cannot be reached, what serves there is not known" in output
    assert serving != before
    assert again.changed == 0, again.output
    assert list(result.releases) == [before, serving]
    assert result.failed == 0, result.report()
    assert_only_serving_slot_runs(one_site)
    TABLE.append((step, "network", "new", "changed nothing"))


def test_a_host_lost_in_its_build_ends_it_alone(one_site: Site, held_build: None) -> None:
    """The release is built when the network is back, and is not built again."""
    before = one_site.serving()
    version = one_site.variant("same", "network lost in the build")
    with load_inside(one_site) as stop:
        cut_off_at(one_site, "file", BEGUN, version, **BUILD)
        assert one_site.serving() == before
        built = one_site.run("stat -c %y /srv/blog/manifests/*.json | sort | tail -1")
        one_site.deploy(version, **BUILD)
        result = stop()
    assert built == one_site.run("stat -c %y /srv/blog/manifests/*.json | sort | tail -1")
    assert list(result.releases) == [before, one_site.serving()]
    assert result.failed == 0, result.report()
    assert_no_leftover(one_site)
    TABLE.append(("build", "network", "old", "kept the build"))


# --- inside the rollout ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_releases(one_site: Site) -> None:
    """Both slots have a release, to go to and fro with nothing to build."""
    if one_site.run("ls /srv/blog/slots").split() != ["blue", "green"]:
        one_site.deploy(one_site.variant("same", "one of two"))


@pytest.mark.parametrize("step", STEPS)
def test_a_killed_run_is_finished_or_undone_by_the_next(
    one_site: Site, two_releases: None, step: str
) -> None:
    """No request fails, one version serves, and the next run brings what was asked for."""
    before, new = one_site.serving(), one_site.idle_release()
    assert new != before
    with one_site.load(rate_per_second=30) as load:
        killed_at(
            one_site,
            ("step", step),
            lambda: one_site.start_role("service", asgi_app_release=new),
            run=True,
        )
        serving = one_site.get("/healthz")["release"]
        again = one_site.role("service", asgi_app_release=new)
        result = load.stop()
    assert one_site.serving() == new
    # the switch itself is one file operation, done or not
    expected = {before, new} if step == "switch the proxy" else {new if STEPS[step] else before}
    assert serving in expected
    assert "was cut off while it was to" in again.output
    assert list(result.releases) == [before, new]
    assert result.failed == 0, result.report()
    assert_only_serving_slot_runs(one_site)
    told = "rolled it out" if serving == before else "kept it and stopped the old slot"
    TABLE.append((step, "run and module", "old" if serving == before else "new", told))


@pytest.mark.parametrize(
    "step",
    ["prove its health", "confirm through the proxy"],
)
def test_a_killed_module_is_taken_back_by_its_own_run(one_site: Site, step: str) -> None:
    """Only the module dies (out of memory, by hand): the run itself puts things right."""
    before = one_site.serving()
    version = one_site.variant("same", f"module killed while it was to {step}")
    with one_site.load(rate_per_second=30) as load:
        output = kill_at(one_site, "step", step, version, run=False)
        result = load.stop()
    assert "does not serve; it failed on" in output
    assert one_site.get("/healthz")["release"] == before
    assert result.failed == 0, result.report()
    assert_only_serving_slot_runs(one_site)


def test_a_reboot_in_the_middle_serves_one_version(one_site: Site, two_releases: None) -> None:
    """The power goes while both slots run: what the switch says is what comes up."""
    before, new = one_site.serving(), one_site.idle_release()
    killed_at(
        one_site,
        ("step", "confirm through the proxy"),
        lambda: one_site.start_role("service", asgi_app_release=new),
        run=True,
    )
    one_site.host.kill()
    one_site.host.start()
    assert one_site.serving() == new != before
    deadline = time.monotonic() + 240
    while True:
        with contextlib.suppress(OSError):
            assert one_site.get("/healthz")["release"] == new
            break
        assert time.monotonic() < deadline, "nothing serves after the power cut"
    one_site.role("service", asgi_app_release=new)
    assert_only_serving_slot_runs(one_site)


def test_the_table_of_kills(request: pytest.FixtureRequest) -> None:
    """Prints what was seen; where no test was left out, no step was."""
    form = "measured: {:<28} {:<15} {:<8} {}"
    print("\n" + form.format("cut off at", "killed", "serving", "the next run"))
    for line in TABLE:
        print(form.format(*line))
    rollout = [step for step, how, *_rest in TABLE if step in STEPS and how == "run and module"]
    if not request.config.getoption("markexpr"):
        assert rollout == list(STEPS)
        assert {*BOUNDARIES, "build", "migration"} <= {step for step, *_rest in TABLE}

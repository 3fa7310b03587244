"""A hostile build gains nothing that is not its own, and none takes the host down."""

from __future__ import annotations

import json
import re
import shutil
from typing import Any

import pytest
from sites import ROOT, Played, Site

HELLO = ROOT / "examples" / "hello"
NAME = "hostile"
APP_ROOT = f"/srv/{NAME}"
HOME = f"/var/cache/asgi/{NAME}"

#: The build backend of a dependency. What it tries is written to the cache of the app; it leaves
#: behind a process that waits until its own step is over, when root has its turn.
BACKEND = """
import json, os, signal, socket, time, zipfile
from pathlib import Path

release, home = Path.cwd().parents[1], Path(os.environ["HOME"])
root, installer = release.parent.parent, os.getppid()
tried = {}

def attempt(name, call):
    try:
        call()
    except OSError as error:
        tried[name] = error.strerror
    else:
        tried[name] = "done"

def leave_a_process():
    if os.fork():
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    # the installer waits for the end of what it can read
    os.closerange(0, 1024)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    (home / "left").touch()
    while os.path.exists(f"/proc/{installer}"):
        time.sleep(0.001)
    while True:
        (home / "attacked").touch()
        for name in ("source", "app", "venv"):
            attempt("late", lambda: (release / name).rename(release / f"{name}.old"))
            attempt("late", lambda: (release / name).symlink_to("/etc"))

def attack():
    (other,) = [path for path in release.parent.iterdir() if path != release]
    attempt("another release", lambda: (other / "source/hello.py").open("a"))
    attempt("names of another release", lambda: (other / "planted").touch())
    attempt("slots", lambda: (root / "slots/planted").touch())
    attempt("manifests", lambda: (root / "manifests/planted").touch())
    attempt("data of the app", lambda: os.listdir(f"/var/lib/asgi/{root.name}"))
    attempt("secrets", lambda: os.listdir(f"/etc/asgi/{root.name}"))
    attempt("system", lambda: Path("/etc/planted").touch())
    bus = socket.socket(socket.AF_UNIX)
    attempt("system bus", lambda: bus.connect("/run/dbus/system_bus_socket"))
    attempt("rights of its owner", lambda: os.chmod("backend.py", 0o4755))
    attempt("temporary files", lambda: Path("/tmp/planted").touch())
    attempt("own mode", lambda: os.chmod(release, 0o777))
    attempt("own source", lambda: os.chmod(release / "source", 0o777))
    attempt("own link", lambda: (release / "planted").symlink_to("/etc"))
    attempt("own pipe", lambda: os.mkfifo(release / "source/pipe"))
    leave_a_process()
    (home / "tried.json").write_text(json.dumps(tried))

def build_wheel(directory, config_settings=None, metadata_directory=None):
    attack()
    name, info = "evil-1.0-py3-none-any.whl", "evil-1.0.dist-info"
    with zipfile.ZipFile(Path(directory) / name, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: evil\\nVersion: 1.0\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""
PROJECT = """
[project]
name = "evil"
version = "1.0"

[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
NOT_ITS_OWN = (
    *("another release", "names of another release", "slots", "manifests", "data of the app"),
    # by the bus it could have a process started outside of its unit
    *("secrets", "system", "system bus", "rights of its owner"),
)
OWN = ("temporary files", "own mode", "own source", "own link", "own pipe")


@pytest.fixture(scope="module")
def hostile(one_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """An app beside the blog with one good release."""
    directory = tmp_path_factory.mktemp("hostile")
    found = one_site.another_app(
        directory,
        HELLO,
        {
            "asgi_app_name": NAME,
            "asgi_app_entrypoint": "hello:app",
            "asgi_app_ca_file": "/etc/ssl/certs/ca-certificates.crt",
        },
    )
    found.role("app", asgi_app_source={"path": str(HELLO)})
    return found


def build(site: Site, files: dict[str, str], *, expect: int = 0, **variables: Any) -> Played:
    """Builds a changed copy of the app."""
    number = len(list(site.directory.iterdir()))
    source = site.directory / f"source-{number}"
    shutil.copytree(HELLO, source)
    for name, text in files.items():
        path = source / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return site.role("app", expect=expect, asgi_app_source={"path": str(source)}, **variables)


def releases(site: Site) -> list[str]:
    """All that is in the directory of the releases."""
    return site.run(f"ls {APP_ROOT}/releases").split()


def assert_nothing_is_left(site: Site) -> None:
    """Neither a process of a build, nor a unit, nor a file of one."""
    assert site.run(f"pgrep --list-full --uid {NAME}-build", check=False) == ""
    units = f"systemctl list-units --all --plain --no-legend '{NAME}-build@*' '{NAME}-import@*'"
    assert site.run(units) == ""
    assert site.run("ls /run/asgi-deploy/build") == ""


def test_a_hostile_dependency_gains_nothing_that_is_not_its_own(hostile: Site) -> None:
    before = releases(hostile)
    hello = hostile.run(f"sha256sum {APP_ROOT}/releases/*/source/hello.py")
    # a directory has no hash, so nothing has one
    pins = re.findall(r"^[a-z].*==[^ ]+", (HELLO / "requirements.txt").read_text(), re.MULTILINE)
    requirements = "\n".join([*pins, "./evil", ""])
    build(
        hostile,
        {
            "requirements.txt": requirements,
            "evil/pyproject.toml": PROJECT,
            "evil/backend.py": BACKEND,
        },
    )
    tried = json.loads(hostile.run(f"cat {HOME}/tried.json"))
    assert [name for name in NOT_ITS_OWN if tried[name] == "done"] == []
    # so the backend was what it was meant to be
    assert [name for name in OWN if tried[name] != "done"] == []
    assert hostile.run(f"ls {HOME}/left")

    assert_nothing_is_left(hostile)
    assert "No such file" in hostile.run(f"ls {HOME}/attacked 2>&1", check=False)
    for path in ("/tmp/planted", "/etc/planted", f"{APP_ROOT}/slots/planted"):
        assert "No such file" in hostile.run(f"ls {path} 2>&1", check=False)
    assert hello in hostile.run(f"sha256sum {APP_ROOT}/releases/*/source/hello.py")

    (release,) = set(releases(hostile)) - set(before)
    path = f"{APP_ROOT}/releases/{release}"
    assert hostile.run(f"stat -c '%a %U %G' {path}").split() == ["750", "root", NAME]
    assert hostile.run(f"find {path} ! -user root") == ""
    assert hostile.run(f"find {path} ! -type l -perm /027") == ""
    assert hostile.run(f"find {path} ! -type f ! -type d ! -type l") == ""
    assert hostile.run("stat -c '%a %U' /etc").split() == ["755", "root"]


@pytest.mark.parametrize(
    ("variables", "text"),
    [
        ({"asgi_app_root": "/data/blog"}, f"asgi_app_root: {NAME} is in {APP_ROOT} on this host"),
        ({"asgi_app_user": "other"}, f"asgi_app_user: {NAME} runs as {NAME} on this host"),
        (
            {"asgi_app_name": "shop", "asgi_app_root": APP_ROOT},
            f"asgi_app_root: {APP_ROOT} is not of shop alone, asgi_app_root of {NAME} is",
        ),
        (
            {"asgi_app_name": "shop", "asgi_app_cache_dir": f"{HOME}/shop"},
            f"asgi_app_cache_dir: {HOME}/shop is not of shop alone, asgi_app_cache_dir of {NAME}",
        ),
        (
            {"asgi_app_name": "shop", "asgi_app_user": NAME},
            f"asgi_app_user: {NAME} is the user of another app on this host, {NAME}",
        ),
        # an account and a group of Debian
        ({"asgi_app_name": "backup"}, "asgi_app_user: backup is an account that this host already"),
        ({"asgi_app_name": "adm"}, "asgi_app_user: adm is a group that this host already has"),
        ({"asgi_app_root": "/home/hostile"}, "asgi_app_root: /home/hostile is out of reach for"),
    ],
    ids=["root", "user", "shared-root", "cache", "shared-user", "account", "group", "hidden"],
)
def test_what_another_app_has_is_rejected_before_anything_is_touched(
    hostile: Site, variables: dict[str, Any], text: str
) -> None:
    look = (
        "find /srv /etc/asgi /var/lib/asgi /var/cache/asgi -maxdepth 3 -printf '%p %u %g %m\\n';"
        " cat /etc/passwd /etc/group"
    )
    # there is a directory for the system's own account, as its home may be
    hostile.run("mkdir -p /srv/backup")
    before = hostile.run(look)
    played = build(hostile, {"marker": "never"}, expect=2, **variables)
    assert text in played.unwrapped
    assert hostile.run(look) == before


def test_what_a_killed_run_has_left_ends_before_the_next_build(hostile: Site) -> None:
    """No process can have that number."""
    for left in (f"{NAME}-build@99999999-1", f"{NAME}-import@99999999"):
        hostile.run(f"systemd-run --quiet --unit={left} --uid={NAME}-build sleep 3600")
    hostile.run(f"mkdir -p /run/asgi-deploy/build/{NAME}@99999999-1.x && ls {HOME}")
    build(hostile, {"marker": "after a killed run"})
    assert_nothing_is_left(hostile)


def test_a_link_in_the_place_of_the_app_is_rejected(hostile: Site) -> None:
    """Root reads the app's directory by it, for static files."""
    before = releases(hostile)
    played = build(
        hostile,
        {"build.sh": "rm ../app && ln -s /etc ../app\n"},
        expect=2,
        asgi_app_build_commands=["sh build.sh"],
    )
    assert "the build has changed app of the release" in played.output
    assert releases(hostile) == before


@pytest.mark.parametrize(
    ("script", "variables", "text"),
    [
        ("sleep 600 & exit 3", {}, "ended with code 3"),
        (
            "sleep 600 & sleep 601",
            {"asgi_app_build_timeout_seconds": 20},
            "took longer than 20 s (asgi_app_build_timeout_seconds) and was stopped",
        ),
        (
            "head -c 1G /dev/zero | tail",
            {"asgi_app_build_memory_max": "400M"},
            "used more memory than 400M (asgi_app_build_memory_max)",
        ),
        ("touch ../../planted", {}, "Read-only file system"),
        # in place of a build that only writes without end
        ("yes | head -c 1G; exit 3", {}, "ended with code 3"),
        # systemd takes these for a clean end of a service
        ("kill -TERM $$", {}, "was ended by SIGTERM"),
        ("kill -PIPE $$", {}, "was ended by SIGPIPE"),
    ],
    ids=["code", "time", "memory", "elsewhere", "output", "terminated", "pipe"],
)
def test_a_build_that_fails_leaves_nothing_and_says_why(
    hostile: Site, script: str, variables: dict[str, Any], text: str
) -> None:
    before = releases(hostile)
    played = build(
        hostile,
        {"build.sh": f"{script}\n"},
        expect=2,
        asgi_app_build_commands=["sh build.sh"],
        **variables,
    )
    assert "sh build.sh to build what asgi_app_build_commands names" in played.output
    assert text in played.unwrapped
    assert_nothing_is_left(hostile)
    assert releases(hostile) == before


#: Deeper than any path can be long, so nothing reaches its end by one.
DEEP = """
import os
for number in range(3000):
    os.mkdir("deep")
    os.chdir("deep")
"""


def test_a_tree_that_is_too_deep_is_rejected_and_removed(hostile: Site) -> None:
    before = releases(hostile)
    for _time in range(2):
        played = build(
            hostile,
            {"build.py": DEEP},
            expect=2,
            asgi_app_build_commands=["python build.py"],
        )
        assert "directories that are nested more than 200 deep" in played.unwrapped
        assert releases(hostile) == before


def test_nothing_of_a_source_is_read_as_root(hostile: Site) -> None:
    """What only root can read would be in the error: of the controller, or of the host."""
    before = releases(hostile)
    source = hostile.directory / "links"
    shutil.copytree(HELLO, source)
    (source / "requirements.txt").rename(source / "wanted.txt")
    (source / "requirements.txt").symlink_to("/etc/shadow")
    played = hostile.role("app", expect=2, asgi_app_source={"path": str(source)})
    assert "requirements.txt is a link that leads out of the source" in played.unwrapped
    assert (played.changed, "root:" in played.output) == (0, False)
    # one that the installer follows
    (source / "wanted.txt").rename(source / "requirements.txt")
    (source / "setup.cfg").symlink_to("/etc/shadow")
    played = hostile.role(
        "app",
        expect=2,
        asgi_app_source={"path": str(source)},
        asgi_app_build_commands=["cat setup.cfg"],
    )
    assert "Permission denied" in played.unwrapped
    assert "root:" not in played.output
    assert releases(hostile) == before


def test_an_import_that_needs_more_memory_than_an_instance_has_is_rejected(hostile: Site) -> None:
    text = (HELLO / "hello.py").read_text() + "\nEATEN = b'x' * 2**30\n"
    before = releases(hostile)
    played = build(hostile, {"hello.py": text}, expect=2)
    assert "used more memory than asgi_service_memory_max, 512M" in played.unwrapped
    assert releases(hostile) == before
    assert_nothing_is_left(hostile)


def test_a_file_that_does_not_compile_is_a_note(hostile: Site) -> None:
    before = releases(hostile)
    build(hostile, {"templates/new.py": "{% block name %}\n"})
    (release,) = set(releases(hostile)) - set(before)
    manifest = json.loads(hostile.run(f"cat {APP_ROOT}/manifests/{release}.json"))
    assert manifest["notes"] == ["not compiled, as they are no valid Python: templates/new.py"]


def test_a_second_release_shares_the_files_of_packages(hostile: Site) -> None:
    """With the release before it, and not with the cache, to which builds can write."""
    shared = hostile.run(f"find {APP_ROOT}/releases/*/venv -name '*.py*' -links +1 | wc -l")
    assert int(shared) > 100
    cached = hostile.run(f"find {HOME} -type f -links +1 | wc -l")
    owners = hostile.run(f"find {HOME} -type f -user root | wc -l")
    assert (int(cached), int(owners)) == (0, 0)

"""A fleet of three hosts: one version everywhere, whatever fails on one of them.

The tests go on from one another in their order. They begin where converge has ended: all hosts
serve the very first release.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lab
import pytest
from sites import Played, Site, collections_config, variants

SCENARIO = Path(__file__).resolve().parent
NAMES = ("one", "two", "three")
LOAD = {"rate_per_second": 40, "keepalive_get": 1, "keepalive_post": 1, "new_get": 1, "new_post": 1}
#: While it is on a host, the version that looks for it does not start there.
BROKEN = "/var/lib/asgi/blog/broken"
FAILS_WHERE_BROKEN = f"""\
    if __import__("pathlib").Path("{BROKEN}").exists():
        raise RuntimeError("broken on this host")
"""
CUT_SECONDS = 300


@dataclass
class Fleet:
    """The blog on three hosts.

    Args:
        all: All hosts.
        hosts: Each host by its name; a playbook is limited to it.
    """

    all: Site
    hosts: dict[str, Site]

    def deploy(self, source: Path | None = None, *, expect: int = 0, **variables: Any) -> Played:
        """Deploys a source on all hosts; the next version is made from the last that went well."""
        return self.all.deploy(source, expect=expect, **variables)

    def rollback(self, *, expect: int = 0, **variables: Any) -> Played:
        """Goes back."""
        return self.all.play("asgi.deploy.rollback", expect=expect, **variables)

    def serving(self) -> dict[str, str]:
        """The release that each host answers with through HTTPS."""
        return {name: site.get("/healthz")["release"] for name, site in self.hosts.items()}

    def release(self) -> str:
        """The one release that all hosts serve."""
        (release,) = set(self.serving().values())
        return release

    def migrations(self) -> list[str]:
        """For which release on which host a migration was run, as the database has it."""
        query = "SELECT release, host FROM migration_runs ORDER BY at"
        listed = self.hosts["one"].run(f"runuser -u postgres -- psql -d blog -Atc '{query}'")
        return listed.split()

    def broken_version(self) -> Path:
        """Makes a version with a migration that does not start where the file BROKEN is."""
        version = self.all.variant("column")
        main = version / "src" / "blog" / "main.py"
        text = main.read_text()
        assert variants.LIFESPAN in text
        main.write_text(text.replace(variants.LIFESPAN, variants.LIFESPAN + FAILS_WHERE_BROKEN))
        return version

    @contextlib.contextmanager
    def no_request_fails(self, *names: str) -> Iterator[None]:
        """Has a client that never retries on hosts, on all if none is named."""
        with contextlib.ExitStack() as stack:
            loads = {
                name: stack.enter_context(self.hosts[name].load(**LOAD)) for name in names or NAMES
            }
            yield
            results = {name: load.stop() for name, load in loads.items()}
        stored = self.hosts["one"].stored_ids()
        for result in results.values():
            assert result.failed == 0, result.report()
            ledger = result.ledger(stored)
            assert (ledger.lost, ledger.doubled) == ([], [])
        sent = sum(result.sent for result in results.values())
        print(f"measured: {sent} requests to {', '.join(results)}: 0 failed, lost or doubled")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    """What create, prepare and converge have made, with the variables of the scenario."""
    made = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
    where_they_are = made / "inventory" / "lab.yml"

    # the database is as new as the newest version, so the next one is made from that
    versions = made / "versions"
    versions.mkdir(exist_ok=True)
    sources = [made / "blog", *(path for path in versions.iterdir() if path.is_dir())]
    source = max(sources, key=lambda path: path.stat().st_ctime)

    def site(directory: Path, host: lab.Host | None = None) -> Site:
        collections = Path(os.environ["ANSIBLE_COLLECTIONS_PATH"])
        (directory / "ansible.cfg").write_text(collections_config(collections))
        return Site(
            host,
            directory,
            # in this order one, two, three is the order of the batches
            [SCENARIO / "inventory", where_they_are],
            source,
        )

    found = [lab.find(f"molecule-{SCENARIO.name}", name) for name in NAMES]
    hosts = {host.name: site(tmp_path_factory.mktemp(host.name), host) for host in found}
    return Fleet(site(versions), hosts)


@pytest.fixture(params=[1, "100%"], ids=["one by one", "all at once"])
def serial(request: pytest.FixtureRequest) -> int | str:
    """How many hosts are rolled out at once."""
    value: int | str = request.param
    return value


def last_events(site: Site) -> list[tuple[str, str]]:
    """Release and status of each event in the history of a host, the newest first."""
    return [(event["release"], event["status"]) for event in reversed(site.state()["history"])]


def good_releases(site: Site) -> list[str]:
    """The releases whose last event on a host is a good one, the one that serves first."""
    newest: dict[str, str] = {}
    for release, status in last_events(site):
        newest.setdefault(release, status)
    return [release for release, status in newest.items() if status == "good"]


def test_there_is_nothing_to_go_back_to(fleet: Fleet) -> None:
    """The very first release stays."""
    before = fleet.serving()
    played = fleet.rollback(expect=2)
    assert "there is nothing to go back to" in played.output
    assert fleet.serving() == before
    assert fleet.migrations() == [f"{fleet.release()}|one"]


def test_a_new_version_is_migrated_once(fleet: Fleet) -> None:
    """It serves on all hosts; its migration has run on one of them."""
    before, runs = fleet.release(), fleet.migrations()
    version = fleet.all.variant("column")
    with fleet.no_request_fails():
        fleet.deploy(version, asgi_serial=1)
    assert fleet.release() != before
    assert fleet.migrations() == [*runs, f"{fleet.release()}|one"]


def test_a_rollback_across_a_migration_is_to_be_allowed(fleet: Fleet) -> None:
    """It is refused, then done host by host; the database is left alone."""
    left, runs = fleet.release(), fleet.migrations()
    former = fleet.hosts["one"].state()["history"][-1]["previous"]
    refused = fleet.rollback(expect=2)
    assert "asgi_rollback_across_migration: true" in refused.output
    assert fleet.release() == left
    with fleet.no_request_fails():
        fleet.rollback(asgi_rollback_across_migration=True, asgi_serial=1)
    assert fleet.release() == former
    assert fleet.migrations() == runs


def test_a_host_that_fails_takes_the_others_back(fleet: Fleet, serial: int | str) -> None:
    """The second host cannot start it; when it can, the same release is not migrated again."""
    before, runs = fleet.release(), fleet.migrations()
    version = fleet.broken_version()
    one, two, three = fleet.hosts.values()
    two.run(f"touch {BROKEN}")
    with fleet.no_request_fails():
        played = fleet.deploy(version, expect=2, asgi_serial=serial)
    assert fleet.release() == before
    failed, _status = last_events(one)[1]
    moved = "after it had moved, taken back"
    for text in (
        f"release {failed} does not serve; it failed on two.",
        f"one: {before} serves in slot {one.slot()} ({moved})",
        f"two: {before} serves in slot {two.slot()} (not moved)",
        f"three: {before} serves in slot {three.slot()} ({'not moved' if serial == 1 else moved})",
        "broken on this host",
    ):
        assert text in told(played), played.output
    for site in fleet.hosts.values():
        assert (failed, "failed") in last_events(site)[:2]
    assert fleet.migrations() == [*runs, f"{failed}|one"]

    two.run(f"rm {BROKEN}")
    fleet.deploy(version, asgi_serial=serial)
    assert fleet.release() == failed
    assert fleet.migrations() == [*runs, f"{failed}|one"]


def told(played: Played) -> str:
    """The output in one line: Ansible breaks long lines where it likes."""
    return " ".join(played.output.split())


def when(happened: Callable[[], bool], act: Callable[[], None]) -> threading.Thread:
    """Acts in a thread as soon as something has happened."""

    def watch() -> None:
        deadline = time.monotonic() + CUT_SECONDS
        while not happened() and time.monotonic() < deadline:
            time.sleep(0.1)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_a_host_that_is_cut_off_leaves_no_mix(fleet: Fleet, serial: int | str) -> None:
    """The network of the third host ends while another one, or it itself, is rolled out."""
    before, runs = fleet.release(), fleet.migrations()
    version = fleet.all.variant("column")
    one, two, three = fleet.hosts.values()
    events = last_events(one)
    began: Callable[[], bool] = (
        (lambda: last_events(one) != events)
        if serial == 1
        else (lambda: bool(three.state()["operation"]))
    )
    cutter = when(began, three.host.disconnect)
    try:
        with fleet.no_request_fails("one", "two"):
            played = fleet.deploy(version, expect=2, asgi_serial=serial)
    finally:
        cutter.join()
        three.host.connect()
    print(f"measured: a host is cut off, serial {serial}: {played.seconds:.1f} s")
    unreached = "three: cannot be reached, what serves there is not known"
    assert unreached in told(played), played.output
    assert one.get("/healthz")["release"] == two.get("/healthz")["release"] == before

    # what was begun there goes on without the controller, to its own end
    three.run(f"flock --timeout {CUT_SECONDS} /srv/blog/.lock true")
    fleet.deploy(version)
    assert fleet.release() != before
    assert fleet.migrations() == [*runs, f"{fleet.release()}|one"]


@contextlib.contextmanager
def another_controller(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs playbooks with a home and an umask of their own."""
    with monkeypatch.context() as patch:
        patch.setenv("ANSIBLE_HOME", str(directory / "home"))
        patch.setenv("HOME", str(directory))
        former = os.umask(0o077)
        try:
            yield
        finally:
            os.umask(former)


def test_another_checkout_of_the_same_content_is_the_same_release(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another path, other times, no access for others: nothing is built, nothing rolled out."""
    before = fleet.serving()
    with another_controller(tmp_path, monkeypatch):
        copy = tmp_path / "elsewhere"
        # in this umask, and with the times of now
        shutil.copytree(fleet.all.source, copy, copy_function=shutil.copyfile)
        assert (copy / "migrate.py").stat().st_mode & 0o077 == 0
        played = fleet.deploy(copy)
    assert fleet.serving() == before
    assert played.changed == 0, played.output


def test_two_clones_of_one_commit_are_one_release(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit makes the release, not where it was cloned from."""
    origin, here, there = (tmp_path / name for name in ("origin", "here", "there"))
    shutil.copytree(fleet.all.source, origin)
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    git("init", "--quiet", "--initial-branch=main", origin)
    git("-C", origin, "add", "--all")
    git("-C", origin, *who, "commit", "--quiet", "--message=The blog")
    git("clone", "--quiet", origin, here)
    fleet.all.play("asgi.deploy.site", asgi_app_source={"git": str(here), "version": "main"})
    release = fleet.release()
    with another_controller(tmp_path, monkeypatch):
        git("clone", "--quiet", origin, there)
        commit = git("-C", there, "rev-parse", "HEAD").strip()
        played = fleet.all.play(
            "asgi.deploy.site", asgi_app_source={"git": str(there), "version": commit}
        )
    assert fleet.release() == release
    assert played.changed == 0, played.output


def git(*words: str | Path) -> str:
    """Runs git and returns its output."""
    done = subprocess.run(["git", *words], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def test_a_rollback_brings_a_host_along_that_is_ahead(fleet: Fleet) -> None:
    """One host was deployed alone; then all are on the release that the others have kept."""
    before = fleet.serving()
    ahead = fleet.hosts["three"]
    ahead.deploy(fleet.all.variant("same", "ahead"))
    assert fleet.serving() != before
    with fleet.no_request_fails():
        fleet.rollback()
    assert fleet.serving() == before


def test_a_rollback_works_where_the_active_release_is_broken(fleet: Fleet) -> None:
    """On two hosts nothing serves any more, in ways of their own."""
    broken = fleet.release()
    one, two, three = fleet.hosts.values()
    former = good_releases(one)[1]
    two.run(f"rm -r /srv/blog/releases/{broken}/venv/lib")
    three.run(f"rm -r /srv/blog/releases/{broken}")
    for site in (two, three):
        site.run(f"systemctl kill --signal=KILL 'blog-{site.slot()}@*.service'")
    with fleet.no_request_fails("one"):
        fleet.rollback(asgi_rollback_across_migration=True)
    assert fleet.release() == former
    assert broken not in good_releases(one)


def test_a_rollback_leaves_out_what_one_host_lacks(fleet: Fleet) -> None:
    """The last good release is gone on one host; a release may be named, too."""
    present, former, further, *_ = good_releases(fleet.hosts["one"])
    assert fleet.release() == present
    fleet.hosts["two"].run(f"rm -r /srv/blog/releases/{former}")
    fleet.rollback(asgi_rollback_across_migration=True)
    assert fleet.release() == further

    refused = fleet.rollback(expect=2, asgi_release=former)
    assert f"{former} is not on every host" in told(refused)
    fleet.rollback(asgi_release=present, asgi_rollback_across_migration=True, asgi_serial=1)
    assert fleet.release() == present


#: Has a lock of the database for its life; notes where it runs, and whether another one had it.
SCHEDULER = """
import os, signal, socket
from sqlalchemy import create_engine, text

with create_engine(os.environ["DATABASE_URL"], isolation_level="AUTOCOMMIT").connect() as database:
    database.execute(text("CREATE TABLE IF NOT EXISTS schedulers (host text, alone boolean)"))
    alone = database.execute(text("SELECT pg_try_advisory_lock(1)")).scalar()
    note = text("INSERT INTO schedulers (host, alone) VALUES (:host, :alone)")
    database.execute(note, {"host": socket.gethostname(), "alone": alone})
    signal.pause()
"""


def test_one_scheduler_in_the_whole_fleet(fleet: Fleet) -> None:
    """It stays on its host with a new version, and does not move while it runs on another."""

    def only_on(name: str) -> dict[str, Any]:
        scheduler = {"name": "scheduler", "command": "python scheduler.py", "only_on": name}
        return {"asgi_service_processes": [scheduler]}

    def running() -> list[str]:
        list_units = "systemctl list-units --plain --no-legend --state=active 'blog.scheduler*'"
        return [name for name, site in fleet.hosts.items() if site.run(list_units)]

    version = fleet.all.variant("same", "with a scheduler")
    (version / "scheduler.py").write_text(SCHEDULER)
    fleet.deploy(version, **only_on("two"))
    assert running() == ["two"]
    fleet.deploy(fleet.all.variant("same", "the next"), asgi_serial="100%", **only_on("two"))
    assert running() == ["two"]
    refused = fleet.deploy(expect=2, **only_on("three"))
    assert "scheduler would begin on three while two may still run it" in told(refused)
    assert refused.changed == 0
    assert running() == ["two"]
    # as the refusal tells
    fleet.deploy()
    fleet.deploy(**only_on("three"))
    assert running() == ["three"]
    query = "runuser -u postgres -- psql -d blog -Atc 'SELECT * FROM schedulers'"
    assert fleet.hosts["one"].run(query).split() == ["two|t", "two|t", "three|t"]

"""Migrations on a real host: one at a time in a database that two apps share, and only once."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sites import COUNTED, PLAY_TIMEOUT_SECONDS, ROOT, VARIABLES, load_module

if TYPE_CHECKING:
    from sites import Site

advisory_lock = load_module(
    "advisory_lock", ROOT / "roles" / "migrate" / "files" / "advisory_lock.py"
)
LOCK = {
    "asgi_migrate_command": "python counted.py 2",
    "asgi_migrate_advisory_lock": "shop-database",
}


@pytest.fixture(scope="module")
def shop(one_site: Site, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """An app of another name with the database of the blog, on the same host."""
    # PostgreSQL lets each in by its own name over the socket, and both to the same tables
    one_site.query("DROP ROLE IF EXISTS shop; CREATE ROLE shop LOGIN; GRANT blog TO shop;")
    directory = tmp_path_factory.mktemp("shop")
    return one_site.another_app(
        directory,
        one_site.source,
        {
            **VARIABLES,
            "asgi_app_name": "shop",
            "asgi_app_environment": {
                "DATABASE_URL": "postgresql+psycopg://shop@/blog?host=/run/postgresql"
            },
            "asgi_service_instances": 1,
            "asgi_proxy_domains": ["shop.test"],
        },
    )


@contextlib.contextmanager
def lock_is_held(site: Site) -> Iterator[None]:
    """Somebody else migrates in the same database."""
    holder = subprocess.Popen(
        [
            *("podman", "exec", "-i", site.host.container, "runuser", "--user=postgres", "--"),
            *("psql", "-d", "blog", "-At"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    key = advisory_lock.key_of(LOCK["asgi_migrate_advisory_lock"])
    holder.stdin.write(f"SELECT pg_advisory_lock({key});\nSELECT 'held';\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "\n"
    assert holder.stdout.readline() == "held\n"
    try:
        yield
    finally:
        # the end of its input is the end of its connection
        holder.communicate(timeout=30)


def said(site: Site, app: str) -> str:
    """What the migrations of an app have said."""
    # journalctl fails as long as there is no such unit
    return site.run(f"journalctl --output=cat --unit='{app}-migrate@*'", check=False)


def test_two_apps_with_one_database_migrate_one_after_the_other(one_site: Site, shop: Site) -> None:
    """Deployed at the same time while the lock is held: both wait, and both run in the end."""
    one_site.count_migrations()
    sites = {"blog": one_site, "shop": shop}
    versions = {app: site.counted("one database") for app, site in sites.items()}
    started = {}
    try:
        with lock_is_held(one_site):
            for app, site in sites.items():
                source = {"path": str(versions[app])}
                started[app] = site.start("asgi.deploy.site", asgi_app_source=source, **LOCK)
            deadline = time.monotonic() + PLAY_TIMEOUT_SECONDS
            for app, playing in started.items():
                while "waits for the lock 'shop-database'" not in said(one_site, app):
                    assert playing.poll() is None, playing.communicate()[0]
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
            assert one_site.migrations() == []
        for playing in started.values():
            output, _nothing = playing.communicate(timeout=PLAY_TIMEOUT_SECONDS)
            assert playing.returncode == 0, output
    finally:
        for playing in started.values():
            if playing.poll() is None:
                os.killpg(playing.pid, signal.SIGKILL)
    one_site.source = versions["blog"]
    assert sorted(one_site.migrations()) == [("blog", 0, True), ("shop", 0, True)]
    for app in sites:
        told = said(one_site, app)
        assert "has the lock 'shop-database' after" in told
        assert "held by psql (process" in told
    assert one_site.run("stat -c '%U %a' /srv/shop/advisory_lock.py") == "root 644\n"


def test_the_url_of_the_database_is_named_before_anything_is_touched(one_site: Site) -> None:
    """And where only the unit can know, nothing is run and the old release serves."""
    before = one_site.serving()
    refused = one_site.deploy(
        expect=2, **LOCK, asgi_migrate_database_url_variable="ANOTHER_DATABASE_URL"
    )
    assert "asgi_migrate_database_url_variable: ANOTHER_DATABASE_URL is neither in" in (
        refused.output
    )
    one_site.count_migrations()
    version = one_site.counted("a database that is not there")
    secret = "not-to-be-shown-7"
    failed = one_site.deploy(
        version,
        expect=2,
        **LOCK,
        asgi_migrate_database_url_variable="SHOP_URL",
        asgi_app_secrets={
            **VARIABLES["asgi_app_secrets"],
            "SHOP_URL": f"postgresql://shop:{secret}@127.0.0.1:1/shop",
        },
    )
    assert "cannot connect to the database with psycopg" in failed.output
    assert secret not in failed.output
    assert secret not in one_site.run("journalctl --no-pager --output=cat")
    assert one_site.migrations() == []
    assert one_site.get("/healthz")["release"] == before


def healthy_unless_told(version: Path) -> Path:
    """Makes a version fail its health check where its environment says so."""
    path = version / "src" / "blog" / "health.py"
    answer = "    return JSONResponse(answer)\n"
    text = path.read_text()
    assert text.count(answer) == 1
    told = '    return JSONResponse(answer, 500 if os.environ.get("BLOG_BROKEN") else 200)\n'
    path.write_text(text.replace(answer, told))
    return version


def test_a_migration_is_not_run_again_after_a_failed_rollout(one_site: Site) -> None:
    """The same release, first with an environment in which it is not healthy, then a right one."""
    one_site.count_migrations()
    before, source = one_site.serving(), one_site.source
    version = healthy_unless_told(one_site.counted("healthy unless told"))
    environment = {**VARIABLES["asgi_app_environment"], "BLOG_BROKEN": "1"}
    failed = one_site.deploy(
        version,
        expect=2,
        **COUNTED,
        asgi_app_environment=environment,
        asgi_service_health_timeout_seconds=30,
    )
    assert "status 500" in failed.output
    assert one_site.get("/healthz")["release"] == before
    assert one_site.migrations() == [("blog", 0, True)]
    one_site.deploy(version, **COUNTED)
    assert one_site.get("/healthz")["release"] == one_site.serving() != before
    assert one_site.migrations() == [("blog", 0, True)]
    # variants of other tests are made from one that nobody has changed by hand
    one_site.source = source


def test_a_migration_runs_again_for_another_command_or_database(one_site: Site) -> None:
    """And where it is forced; the plan says so each time, and then the record counts again."""
    source = one_site.source
    version = one_site.counted("another command")
    one_site.count_migrations()
    one_site.deploy(version, **COUNTED)
    given: dict[str, Any] = {**COUNTED, "asgi_app_source": {"path": str(version)}}
    url = VARIABLES["asgi_app_environment"]["DATABASE_URL"]
    again = [
        ("asgi_migrate_command has changed", {"asgi_migrate_command": "python counted.py 0.1"}),
        (
            "the database is another one",
            {
                "asgi_app_environment": {
                    **VARIABLES["asgi_app_environment"],
                    # the same one, by another name of it
                    "DATABASE_URL": url.replace("/run/", "/var/run/"),
                }
            },
        ),
    ]
    for runs, (reason, change) in enumerate(again, start=1):
        given |= change
        planned = one_site.play("asgi.deploy.site", "--check", **given)
        assert f"again: {reason}" in planned.unwrapped
        assert len(one_site.migrations()) == runs
        one_site.role("app", "migrate", **given)
        assert len(one_site.migrations()) == runs + 1
    assert one_site.role("app", "migrate", **given).changed == 0
    forced = one_site.play("asgi.deploy.site", "--check", **given, asgi_migrate_force=True)
    assert "again: asgi_migrate_force" in forced.unwrapped
    one_site.role("app", "migrate", **given, asgi_migrate_force=True)
    assert one_site.migrations() == [("blog", 0, True)] * 4
    record = one_site.run(f"cat /srv/blog/migrations/{one_site.serving()}.json")
    assert set(json.loads(record)) == {"at", "how", "command", "database"}
    one_site.deploy()
    one_site.source = source


def test_root_runs_nothing_with_the_environment_of_a_migration(one_site: Site) -> None:
    """The environment has the loader of each program that gets it leave a file: none is root's."""
    source, loaded = one_site.source, "/var/lib/asgi/blog/loaded"
    version = one_site.counted("libraries of its own")
    one_site.count_migrations()
    environment = {
        **VARIABLES["asgi_app_environment"],
        "LD_PRELOAD": "libm.so.6",
        "LD_DEBUG": "statistics",
        "LD_DEBUG_OUTPUT": loaded,
    }
    given = {**COUNTED, "asgi_app_source": {"path": str(version)}}
    given["asgi_app_environment"] = environment
    one_site.role("app", "migrate", **given)
    assert one_site.migrations() == [("blog", 0, True)]
    assert one_site.run(f"find {loaded}.* -printf '%u\\n' | sort -u") == "blog\n"
    # and that it has run is recorded
    assert one_site.role("app", "migrate", **given).changed == 0
    one_site.run(f"rm {loaded}.*")
    one_site.deploy(source)


def test_no_host_rolls_out_where_the_first_cannot_migrate(one_site: Site, tmp_path: Path) -> None:
    """In a play that goes on with the others; then without the one that is lost."""
    before, source = one_site.serving(), one_site.source
    version = one_site.counted("the first is lost")
    one_site.count_migrations()
    lost = tmp_path / "lost.yml"
    # a port that nobody listens on
    lost.write_text("asgi: {hosts: {lost: {ansible_host: 127.0.0.1, ansible_port: 1}}}\n")
    fleet = dataclasses.replace(one_site, host=None, inventories=[lost, *one_site.inventories])
    given = {**COUNTED, "asgi_app_source": {"path": str(version)}}
    played = fleet.play(fleet.playbook_of("app", "migrate", "service"), expect=None, **given)
    assert played.code != 0
    assert "has not succeeded on lost, the first host of the play" in played.unwrapped
    assert one_site.migrations() == []
    assert one_site.get("/healthz")["release"] == one_site.serving() == before
    one_site.role("app", "migrate", "service", **given)
    assert one_site.migrations() == [("blog", 0, True)]
    assert one_site.serving() != before
    one_site.deploy(source)


def test_the_second_app_goes_and_leaves_nothing(one_site: Site, shop: Site) -> None:
    """So that the tests after these find the host as it was."""
    shop.play("asgi.deploy.remove")
    one_site.query("DROP ROLE shop;")
    assert one_site.run("ls -d /srv/shop /etc/asgi/shop 2>/dev/null || true") == ""
    assert one_site.get("/healthz")["release"] == one_site.serving()

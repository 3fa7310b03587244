"""Check mode tells the plan and writes nothing; what a run tells of its steps and of the disk."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from sites import SECRET, VARIABLES, Played, Site, plan_of

#: All that the collection writes to on a host.
WATCHED = "/srv/blog /etc/asgi /etc/systemd/system /etc/caddy /var/lib/asgi /var/cache/asgi /opt"


#: Other than what the site has: one variable more, one less, and another secret.
CONFIGURATION: dict[str, Any] = {
    "asgi_app_environment": {
        **{
            key: value
            for key, value in VARIABLES["asgi_app_environment"].items()
            if key != "BLOG_TITLE"
        },
        "BLOG_ADDED": "a value of its own",
    },
    "asgi_app_secrets": {"BLOG_SECRET_KEY": "another-secret-altogether"},
}


def written(site: Site) -> str:
    """Every file that a run could write, with its times and size; processes, users, packages."""
    names = f"find {WATCHED} -printf '%p %u %g %m %s %T@ %C@ %l\\n' 2>/dev/null | sort"
    units = "systemctl show -p Id,ActiveState,MainPID,UnitFileState 'blog-*' 'asgi*' caddy.service"
    return site.run(f"{names}; {units}; cat /etc/passwd; dpkg-query --show")


def check(site: Site, playbook: str, *, expect: int = 0, **variables: Any) -> Played:
    """Plays in check mode with diffs, and sees that nothing was written."""
    before = written(site)
    played = site.play(playbook, "--check", "--diff", expect=expect, **variables)
    assert written(site) == before
    assert SECRET not in site.run("journalctl --no-pager --output=cat")
    return played


def test_a_deploy_with_nothing_to_do(one_site: Site) -> None:
    """What serves stays, and no part of the plan says anything else."""
    one_site.deploy()
    source = {"path": str(one_site.source)}
    plan = plan_of(check(one_site, "asgi.deploy.site", asgi_app_source=source))
    assert plan.pop("head").endswith(
        f"{one_site.serving()} serves in slot {one_site.slot()} and stays"
    )
    assert plan.pop("build").startswith(f"nothing, {one_site.serving()} is on the host since 20")
    assert plan == {
        "migration": f"none, it has run for {one_site.serving()}",
        "units": "no change",
        "proxy": "no change, no reload",
        "services": "nothing is started or stopped",
    }


def test_a_deploy_that_changes_everything(one_site: Site) -> None:
    """A version with a migration, other variables, other units, another site; and then it is so."""
    slot = one_site.slot()
    other = {"blue": "green", "green": "blue"}[slot]
    before = one_site.serving()
    changes = {
        **CONFIGURATION,
        "asgi_app_source": {"path": str(one_site.variant("v2"))},
        "asgi_service_memory_max": "300M",
        "asgi_proxy_domains": [*VARIABLES["asgi_proxy_domains"], "www.blog.test"],
    }
    planned = check(one_site, "asgi.deploy.site", **changes)
    plan = plan_of(planned)
    release = plan["head"].split(" -> ")[1].split()[0]
    assert plan["head"] == (
        f"{one_site.host.name}: {before} in slot {slot} -> {release} in slot {other}"
        f" (release {before} to {release})"
    )
    content = r"version 1\.1\.0, content [0-9a-f]{12} of "
    path = changes["asgi_app_source"]["path"]
    assert re.fullmatch(f"{release}, {content}{re.escape(path)}", plan["build"])
    assert plan["migration"] == (
        f"pending, alembic upgrade head on {one_site.host.name}"
        " (newest migration 0002 -> not known before it is built)"
    )
    assert plan["environment and secrets"] == (
        "added BLOG_ADDED; changed BLOG_SECRET_KEY; removed BLOG_TITLE"
    )
    assert set(plan["units"].split(", ")) >= {f"blog-{other}@.service", "asgi-blog.slice"}
    assert plan["proxy"] == "reload, for /etc/caddy/sites/blog.caddy"
    assert plan["services"].startswith(
        f"start slot {other}, then stop slot {slot}: 2 instances, at most 30 s"
    )
    output = planned.output
    for text in (
        f"--- before: /etc/systemd/system/blog-{slot}@.service",
        "-MemoryMax=256M",
        "+MemoryMax=300M",
    ):
        assert text in output
    assert "+++ after: /etc/caddy/sites/blog.caddy" in output
    for value in ("a value of its own", "another-secret-altogether", SECRET):
        assert value not in output

    # the run does what was told, and tells the same diff
    played = one_site.play("asgi.deploy.site", "--diff", **changes)
    one_site.source = type(one_site.source)(changes["asgi_app_source"]["path"])
    assert (one_site.serving(), one_site.slot()) == (release, other)
    assert "+MemoryMax=300M" in played.output
    for value in ("a value of its own", "another-secret-altogether", SECRET):
        assert value not in played.output
    assert re.search(
        r"started in [\d.]+ s, healthy after [\d.]+ s, drained in [\d.]+ s", played.output
    )
    for name in (
        "Build the release where it is missing, each step at most 900 s]",
        "Run the migration, at most 600 s: alembic upgrade head]",
        "drain and stop the old slot: 2 instances, at most 30 s until healthy, 3 s stable,"
        " at most 30 s until the proxy confirms, 3 s to 7 s for open requests]",
    ):
        assert name in played.output


def test_a_rollback_and_a_restart(one_site: Site) -> None:
    """They tell where they would go, and what would change."""
    slot = one_site.slot()
    other = {"blue": "green", "green": "blue"}[slot]
    serving = one_site.serving()
    former = one_site.idle_release()
    refused = check(one_site, "asgi.deploy.rollback", expect=2).output
    assert "asgi_rollback_across_migration: true" in refused
    planned = check(one_site, "asgi.deploy.rollback", asgi_rollback_across_migration=True)
    plan = plan_of(planned)
    assert plan["head"] == (
        f"{one_site.host.name}: {serving} in slot {slot} -> {former} in slot {other}"
        f" (release {serving} to {former})"
    )
    assert plan["migration"] == "none, a rollback runs none"
    # what served before comes back with what it had
    assert plan["environment and secrets"] == (
        "added BLOG_TITLE; changed BLOG_SECRET_KEY; removed BLOG_ADDED"
    )
    assert "+MemoryMax=256M" in planned.output
    assert "at most 30 s until healthy, 3 s stable" in planned.output

    plan = plan_of(check(one_site, "asgi.deploy.restart", **CONFIGURATION))
    assert plan["head"].endswith(f"{serving} in slot {slot} -> {serving} in slot {other} (restart)")
    assert plan["environment and secrets"] == "no variable changes"
    assert plan["units"] == "no change"
    plan = plan_of(check(one_site, "asgi.deploy.restart"))
    assert plan["head"].endswith("(environment; secrets; restart)")
    assert plan["environment and secrets"] == (
        "added BLOG_TITLE; changed BLOG_SECRET_KEY; removed BLOG_ADDED"
    )


@pytest.mark.parametrize("playbook", ["maintenance", "remove", "status"])
def test_other_playbooks_write_nothing_in_check_mode(one_site: Site, playbook: str) -> None:
    check(one_site, f"asgi.deploy.{playbook}", asgi_proxy_maintenance=True)


# --- the disk -------------------------------------------------------------------------------------


def releases(site: Site) -> set[str]:
    """The releases on the host."""
    return set(site.run("ls /srv/blog/releases").split())


def test_status_tells_of_the_disk(one_site: Site) -> None:
    """As du and df do; files that releases share are counted once."""
    table = one_site.play("asgi.deploy.status").output
    told = re.search(r"(\d+) in (\d+) MiB, (\d+) MiB free", table)
    assert told is not None, table
    assert int(told[1]) == len(releases(one_site))
    taken = int(one_site.run("du -sm /srv/blog/releases").split()[0])
    assert abs(int(told[2]) - taken) <= 1
    free = int(one_site.run("df --output=avail --block-size=1M /srv/blog | tail -1"))
    assert abs(int(told[3]) - free) < 500
    output = one_site.play("asgi.deploy.status", asgi_status_json=True).output
    found = re.search(r'^ *"msg": (".*")$', output, re.MULTILINE)
    assert found is not None, output
    disk = json.loads(json.loads(found[1]))[one_site.host.name]["disk"]
    assert set(disk) == {"releases", "releases_mebibytes", "free_mebibytes"}
    assert (disk["releases"], disk["releases_mebibytes"]) == (int(told[1]), int(told[2]))


def test_old_releases_go_but_never_what_is_needed(one_site: Site) -> None:
    """Even where one is to be kept: what serves stays, and what a rollback would go to."""
    for marker in ("one", "two"):
        first = one_site.serving()
        one_site.deploy(one_site.variant("same", marker), asgi_app_keep_releases=5)
    second = one_site.serving()
    assert len(releases(one_site)) > 2
    # the role alone takes the smallest number, which site refuses
    settings = {"asgi_app_keep_releases": 1, "asgi_app_release": second}
    one_site.role("service", **settings)
    assert releases(one_site) == {first, second}
    assert (one_site.serving(), one_site.state()["history"][-1]["release"]) == (second, second)
    # a newer one that failed is no reason to remove one that is needed
    one_site.deploy(
        one_site.variant("health_error"), expect=2, asgi_service_health_timeout_seconds=5
    )
    assert len(releases(one_site)) == 3
    one_site.role("service", **settings)
    assert {first, second} <= releases(one_site)
    one_site.play("asgi.deploy.rollback")
    assert one_site.serving() == first
    assert {first, second} <= releases(one_site)

"""What the proxy is configured with for a release: staged, kept in a slot, brought back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.files import link_atomic
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout
from ansible_collections.asgi.deploy.plugins.module_utils.proxies import driver, site

SITE = site.Site("caddy", {"/etc/caddy/sites/blog.caddy": "one"}, [], "/usr/bin/caddy")
OTHER = replace(SITE, files={"/etc/caddy/sites/blog.caddy": "two"})


def test_a_site_is_staged_only_where_another_one_is_live(app: Layout) -> None:
    assert not site.waits(app, SITE)
    # none serves yet: what is installed now is what the first rollout has
    site.record(app, SITE, waiting=False)
    assert site.read(app.slot_site("blue")) is None
    link_atomic(app.slot_link("blue"), "../releases/1-a")
    assert not site.waits(app, OTHER)
    site.record(app, SITE, waiting=False)
    assert site.live_site(app) == SITE
    assert not site.waits(app, SITE)
    assert site.waits(app, OTHER)
    site.record(app, OTHER, waiting=True)
    assert (site.live_site(app), site.staged(app, "caddy")) == (SITE, OTHER)
    assert site.staged(app, "traefik") is None
    for path in (app.staged_site, app.slot_site("blue")):
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_site_that_is_taken_away_is_forgotten_with_its_proxy_only(app: Layout) -> None:
    link_atomic(app.slot_link("blue"), "../releases/1-a")
    site.record(app, SITE, waiting=False)
    site.record(app, replace(SITE, provider="traefik", files={}), waiting=False)
    assert site.live_site(app) == SITE
    site.record(app, replace(SITE, files={}), waiting=False)
    assert (site.live_site(app), site.staged(app, "caddy")) == (None, None)


def test_a_site_is_not_renamed_while_it_is_live(app: Layout) -> None:
    """The former file would stay beside it, or a revert would leave both."""
    renamed = replace(SITE, files={"/etc/caddy/sites/www.caddy": "one"})
    site.refuse_renamed(app, renamed)
    link_atomic(app.slot_link("blue"), "../releases/1-a")
    site.record(app, SITE, waiting=False)
    with pytest.raises(DeployError, match=r"asgi_proxy_site: 'www'.* Write asgi_proxy_site: blog"):
        site.refuse_renamed(app, renamed)
    moved = replace(SITE, provider="traefik", files={"/etc/traefik/x": "y"})
    for allowed in (OTHER, moved, replace(renamed, files={})):
        site.refuse_renamed(app, allowed)
    site.refuse_renamed(app, OTHER)
    # once it was taken away nothing is live under the former name
    site.record(app, replace(SITE, files={}), waiting=False)
    site.refuse_renamed(app, renamed)


def test_a_site_of_traefik_is_not_renamed_while_it_is_live(app: Layout) -> None:
    """The role brings a file that is named after the app; the driver makes that of the site."""

    def named(name: str) -> site.Site:
        own = {"name": name, "file": f"/etc/traefik/dynamic/{name}.yml", "configuration": {}}
        files = {
            "/etc/traefik/sites/blog.json": f"# by a template\n{json.dumps(own)}\n",
            f"/etc/traefik/sites/{name}.users": "anna:x",
        }
        return site.Site("traefik", files, [], "/opt/traefik")

    link_atomic(app.slot_link("blue"), "../releases/1-a")
    site.record(app, named("blog"), waiting=False)
    site.refuse_renamed(app, named("blog"))
    with pytest.raises(DeployError, match="Write asgi_proxy_site: blog"):
        site.refuse_renamed(app, named("www"))


def test_a_damaged_file_is_told_with_what_to_do(app: Layout) -> None:
    app.staged_site.write_text("{")
    with pytest.raises(DeployError, match="remove it and deploy again"):
        site.read(app.staged_site)


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        # it is the app's alone
        ([], "of the release"),
        # the other app may need what is there, whoever has written it
        (["shop.caddy"], "ExecStart=/opt/newer/caddy run\n"),
    ],
)
def test_a_former_site_brings_no_shared_file_where_there_are_other_sites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, others: list[str], expected: str
) -> None:
    unit = tmp_path / "caddy.service"
    unit.write_text("ExecStart=/opt/newer/caddy run\n")
    monkeypatch.setattr(type(driver("caddy")), "SHARED_FILES", (unit,))
    monkeypatch.setitem(site.SITES, "caddy", tmp_path / "sites")
    (tmp_path / "sites").mkdir()
    for name in ("blog.caddy", "blog.certificate", *others):
        (tmp_path / "sites" / name).touch()
    former = replace(SITE, files={**SITE.files, str(unit): "of the release"})
    found = site.restorable(former)
    assert found.files == {**SITE.files, str(unit): expected}
    # the unit and its program belong together
    assert found.program == ("/opt/newer/caddy" if others else SITE.program)


def test_a_host_without_the_proxy_has_no_other_sites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(site.SITES, "caddy", tmp_path / "none")
    assert site.restorable(SITE) == SITE


def test_addresses_are_merged_with_those_of_the_same_proxy_only() -> None:
    assert site.merged(OTHER, None) == OTHER
    assert site.merged(OTHER, replace(SITE, provider="traefik")) == OTHER

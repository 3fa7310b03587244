"""What the proxy is configured with for a release: staged, kept in a slot, brought back."""

from __future__ import annotations

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


def test_a_damaged_file_is_told_with_what_to_do(app: Layout) -> None:
    app.staged_site.write_text("{")
    with pytest.raises(DeployError, match="remove it and deploy again"):
        site.read(app.staged_site)


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        # it came with the release that is not to be live any more
        ("of the failed one", "of the live one"),
        # somebody else has changed it since
        ("of another app", "of another app"),
        ("of the live one", "of the live one"),
    ],
)
def test_a_shared_file_is_restored_only_where_it_came_with_the_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, present: str, expected: str
) -> None:
    main = tmp_path / "Caddyfile"
    main.write_text(present)
    monkeypatch.setattr(type(driver("caddy")), "SHARED_FILES", (main,))
    live = replace(SITE, files={**SITE.files, str(main): "of the live one"})
    failed = replace(OTHER, files={**OTHER.files, str(main): "of the failed one"})
    found = site.restorable(live, failed)
    assert found == replace(live, files={**SITE.files, str(main): expected})

"""What is known of a migration before it runs."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.asgi.deploy.plugins.module_utils import migrations
from ansible_collections.asgi.deploy.plugins.module_utils.files import link_atomic
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout


def test_heads_of_what_serves_and_of_what_is_to_serve(
    app: Layout, stage: Callable[..., None]
) -> None:
    assert migrations.heads(app, "2-b") == {"before": None, "after": None}
    stage("1-a", migration_heads=["0001"])
    link_atomic(app.slot_link("blue"), "../releases/1-a")
    assert migrations.heads(app, "2-b") == {"before": ["0001"], "after": None}
    stage("2-b", migration_heads=["0002", "0003"])
    assert migrations.heads(app, "2-b") == {"before": ["0001"], "after": ["0002", "0003"]}
    # an app without a tool that can tell
    stage("3-c")
    assert migrations.heads(app, "3-c")["after"] is None


def test_the_diff_of_the_unit(app: Layout) -> None:
    (told,) = migrations.unit_diff(app, "[Service]\n")
    assert (told["before"], told["after"]) == ("", "[Service]\n")
    assert told["after_header"].endswith("/blog-migrate@.service")
    app.migrate_unit_file.write_text("[Service]\n", encoding="utf-8")
    assert migrations.unit_diff(app, "[Service]\n") == []
    (told,) = migrations.unit_diff(app, "[Other]\n")
    assert (told["before"], told["after"]) == ("[Service]\n", "[Other]\n")

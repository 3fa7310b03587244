"""What a deploy costs that changes nothing; nothing else may run beside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sites import Site


def test_site_again_changes_nothing_and_is_quick(one_site: Site, tmp_path: Path) -> None:
    """0 changed, within 6 times of an empty play with facts against the same host.

    It was 3.3 times before a run locked the app and asked its connection whether it is alive.
    """
    empty = tmp_path / "empty.yml"
    empty.write_text("- hosts: asgi\n  gather_facts: true\n  tasks: []\n")
    floor = min(one_site.play(str(empty)).seconds for _ in range(3))
    runs = [one_site.deploy() for _ in range(3)]
    again = min(run.seconds for run in runs)
    print(
        f"measured: {one_site.host.image}: empty play with facts {floor:.2f} s,"
        f" site again {again:.2f} s,"
        f" {again / floor:.2f} times"
    )
    assert [run.changed for run in runs] == [0, 0, 0], runs[0].output
    assert again <= 6 * floor

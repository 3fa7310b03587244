"""What a deploy costs that changes nothing; on a machine with nothing else to do, in time too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sites import RECAP

if TYPE_CHECKING:
    from sites import Site


#: What a run without a change may do; each costs from 0.05 s to a second, on every deploy.
TASKS = 40


def test_site_again_changes_nothing_and_is_quick(one_site: Site, tmp_path: Path) -> None:
    """0 changed, by few tasks; the time is told as a ratio, which another machine has too.

    It was 3.3 times an empty play with facts before a run locked the app and asked its connection
    whether it is alive.
    """
    empty = tmp_path / "empty.yml"
    empty.write_text("- hosts: asgi\n  gather_facts: true\n  tasks: []\n")
    floor = min(one_site.play(str(empty)).seconds for _ in range(2))
    again = one_site.deploy()
    ((_host, done, *_counts),) = RECAP.findall(again.output)
    print(
        f"measured: {one_site.host.image}: empty play with facts {floor:.2f} s,"
        f" site again {again.seconds:.2f} s,"
        f" {again.seconds / floor:.2f} times, {done} tasks"
    )
    assert again.changed == 0, again.output
    assert int(done) <= TASKS, again.output

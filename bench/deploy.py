#!/usr/bin/env python3
"""What a deploy costs, as ratios to an empty play that gathers facts on the same host.

    .venv/bin/python bench/deploy.py              three rounds; the best of each
    .venv/bin/python bench/deploy.py --rounds=9

A host of tools/lab.py gets the blog of the examples. Seconds are those of this machine, with
nothing else to do; the ratios are what another machine has too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests" / "hosts")]

import collection
import lab
import steps
from sites import VARIABLES, Site, collections_config, deploy_blog

GROUP = "bench"
IMAGE = "debian12-prepared"
#: What all others are compared with.
FLOOR = "empty play with facts"
#: As short as it gets: what a deploy waits for is not what it costs.
QUICK = {
    "asgi_service_drain_seconds": 0,
    "asgi_service_health_stable_seconds": 0,
}


def new_version(site: Site) -> float:
    """Deploys a version for the rollback after it; returns the seconds."""
    source = {"path": str(site.variant("same", str(time.monotonic_ns())))}
    return site.play("asgi.deploy.site", asgi_app_source=source).seconds


def actions(site: Site) -> dict[str, Callable[[], float]]:
    """What is measured, each as a function that does it and returns its seconds."""
    empty = site.directory / "empty.yml"
    empty.write_text("- hosts: all\n  gather_facts: true\n  tasks: []\n")
    return {
        FLOOR: lambda: site.play(str(empty)).seconds,
        "site, nothing to do": lambda: site.deploy().seconds,
        "site, a new version": lambda: new_version(site),
        "rollback": lambda: site.play("asgi.deploy.rollback").seconds,
        "restart": lambda: site.play("asgi.deploy.restart").seconds,
        "role app, nothing to do": lambda: (
            site.role("app", asgi_app_source={"path": str(site.source)}).seconds
        ),
        "role proxy, nothing to do": lambda: site.role("proxy").seconds,
    }


def table(seconds: Mapping[str, float]) -> str:
    """Seconds and ratios, in the order in which they were measured."""
    lines = [f"{'what':<28} {'seconds':>7}   times"]
    lines += [
        f"{name:<28} {took:7.2f}   {took / seconds[FLOOR]:.2f}" for name, took in seconds.items()
    ]
    return "\n".join(lines)


def measure(rounds: int, directory: Path) -> dict[str, float]:
    """Measures all on a host of its own; the best of the rounds is the least disturbed.

    Args:
        rounds: How often each is done.
        directory: For the files of the site; versions that lie in a checkout would be what Git
            knows of them.
    """
    collections = steps.CACHE / GROUP / "collections"
    collections.parent.mkdir(parents=True, exist_ok=True)
    collection.install(collections, collections.parent / "collection.log")
    (directory / "ansible.cfg").write_text(collections_config(collections))
    inventory = directory / "hosts.yml"
    lab.down(GROUP)
    try:
        (host,) = lab.up(GROUP, {"web": IMAGE}, inventory)
        site = Site(host, directory, [inventory], variables={**VARIABLES, **QUICK})
        deploy_blog(site)
        found: dict[str, float] = {}
        for _number in range(rounds):
            for name, action in actions(site).items():
                took = action()
                found[name] = min(took, found.get(name, took))
        return found
    finally:
        lab.down(GROUP)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each is done (3)")
    rounds = parser.parse_args().rounds
    if rounds < 1:
        parser.error("--rounds must be 1 or more")
    with tempfile.TemporaryDirectory(prefix="asgi-bench-") as directory:
        print(table(measure(rounds, Path(directory))))


if __name__ == "__main__":
    main()

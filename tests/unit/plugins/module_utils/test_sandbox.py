"""The switches of the sandbox: each lifts one thing and nothing else."""

from __future__ import annotations

from collections import Counter

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils.sandbox import FIXED, Sandbox

STRICTEST = Counter(Sandbox().directives())


@pytest.mark.parametrize(
    ("settings", "lifted", "added"),
    [
        ({}, [], []),
        ({"jit": True}, [("MemoryDenyWriteExecute", "yes")], []),
        ({"full_proc": True}, [("ProcSubset", "pid")], []),
        (
            {"outbound_network": False},
            [("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6")],
            [
                ("RestrictAddressFamilies", "AF_UNIX"),
                ("PrivateNetwork", "yes"),
                ("IPAddressDeny", "any"),
            ],
        ),
        (
            {"devices": ["/dev/nvidia0", "char-drm"]},
            [("PrivateDevices", "yes")],
            [("DeviceAllow", "/dev/nvidia0 rw"), ("DeviceAllow", "char-drm rw")],
        ),
        (
            {"writable_paths": ["/srv/media", "/srv/other"]},
            [],
            [("ReadWritePaths", "/srv/media"), ("ReadWritePaths", "/srv/other")],
        ),
        (
            {"hidden_paths": ["/var/cache/asgi/blog"]},
            [],
            [("InaccessiblePaths", "-/var/cache/asgi/blog")],
        ),
    ],
)
def test_a_switch_changes_what_it_says(
    settings: dict[str, object],
    lifted: list[tuple[str, str]],
    added: list[tuple[str, str]],
) -> None:
    chosen = Counter(Sandbox(**settings).directives())  # type: ignore[arg-type]
    assert STRICTEST - chosen == Counter(lifted)
    assert chosen - STRICTEST == Counter(added)


def test_no_switch_lifts_the_fixed_set() -> None:
    loosest = Sandbox(
        outbound_network=True, jit=True, full_proc=True, devices=["/dev/x"], writable_paths=["/x"]
    )
    assert Counter(FIXED) - Counter(loosest.directives()) == Counter()


def test_only_lists_stand_twice() -> None:
    """Systemd takes the last of two values, but adds lists up."""
    keys = Counter(key for key, _value in Sandbox(writable_paths=["/a", "/b"]).directives())
    assert {key for key, count in keys.items() if count > 1} == {
        "ReadWritePaths",
        "SystemCallFilter",
    }

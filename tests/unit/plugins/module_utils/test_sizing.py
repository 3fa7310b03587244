"""How many instances a host carries."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import sizing


@pytest.mark.parametrize(
    ("cores", "memory_mebibytes", "memory_max", "instances"),
    [
        (2, 16000, "512M", 2),
        (1, 16000, "512M", 1),
        # 6000 MiB are eleven times 512M: two slots of 5, and a migration
        (16, 8000, "512M", 5),
        (16, 8000, "1G", 2),
        # what the host cannot carry at all is one, as the default is
        (4, 1000, "512M", 1),
        (400, 10**7, "16M", 250),
    ],
)
def test_one_for_each_core_as_far_as_memory_goes(
    cores: int, memory_mebibytes: int, memory_max: str, instances: int
) -> None:
    host = {"cores": cores, "memory_mebibytes": memory_mebibytes}
    found = sizing.auto_instances(host, memory_max)
    assert found["instances"] == instances
    # what was decided for holds two slots and a migration
    each = {"512M": 512, "1G": 1024, "16M": 16}[memory_max]
    if instances > 1:
        assert (2 * instances + 1) * each <= memory_mebibytes * 3 / 4


def test_the_reason_is_told() -> None:
    host = {"cores": 16, "memory_mebibytes": 8000}
    large = sizing.auto_instances(host, "1G")["reason"]
    assert large == (
        "2 instances (auto): 16 cores, three quarters of 8000 MiB hold two slots of 2 with 1G each"
    )
    small = sizing.auto_instances({"cores": 1, "memory_mebibytes": 600}, "512M")["reason"]
    assert small == (
        "1 instance (auto): 1 core, three quarters of 600 MiB hold two slots of 0 with 512M each"
    )


def test_other_processes_of_the_app_take_their_part() -> None:
    host = {"cores": 16, "memory_mebibytes": 8000}
    found = sizing.auto_instances(host, "512M", 1024)
    assert found["instances"] == 4
    assert (2 * 4 + 1) * 512 + 1024 <= 6000
    assert found["reason"].endswith("with 512M each, beside 1024 MiB for other processes")
    assert sizing.auto_instances(host, "512M", 10**6)["instances"] == 1


def test_the_resources_of_a_host(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:        8142376 kB\nMemFree:          412376 kB\n")
    found = sizing.resources(meminfo)
    assert found["memory_mebibytes"] == 7951
    assert found["cores"] >= 1
    assert sizing.resources()["memory_mebibytes"] > 100

"""What the scan makes of the findings of testssl.sh."""

from __future__ import annotations

from typing import Any

import pytest
import tls_scan

SPOKEN = ("TLS1_2", "TLS1_3")
GOOD = [
    {"id": key, "severity": "OK", "finding": "offered" if key in SPOKEN else "not offered"}
    for key in tls_scan.VERSIONS
]


def rows(*changes: dict[str, Any]) -> dict[str, str]:
    """The rows of a proxy with some findings more, or others."""
    changed = {one["id"]: one for one in changes}
    kept = [one for one in GOOD if one["id"] not in changed]
    return tls_scan.summary("3.7.15", [*kept, *changes])


def test_low_findings_are_named_and_no_fault() -> None:
    found = rows({"id": "LUCKY13", "severity": "LOW", "finding": "potentially vulnerable"})
    assert found["LOW"] == "`LUCKY13`"
    assert found["MEDIUM"] == "none"
    assert tls_scan.faults({"Traefik": found}) == []
    assert "| LOW | `LUCKY13` |" in tls_scan.table({"Traefik": found})


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"id": "BREACH", "severity": "MEDIUM", "finding": ""}, "Traefik: MEDIUM `BREACH`"),
        ({"id": "x", "severity": "CRITICAL", "finding": ""}, "Traefik: CRITICAL `x`"),
        ({"id": "TLS1_1", "severity": "LOW", "finding": "offered"}, "Traefik: TLS 1.1 yes"),
        ({"id": "TLS1_3", "severity": "OK", "finding": "not offered"}, "Traefik: TLS 1.3 no"),
    ],
)
def test_what_is_worse_than_low_or_another_version_is_a_fault(
    change: dict[str, Any], fault: str
) -> None:
    assert tls_scan.faults({"Traefik": rows(change)}) == [fault]

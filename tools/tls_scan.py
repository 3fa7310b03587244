#!/usr/bin/env python3
"""What testssl.sh finds in the TLS of each proxy, as the collection sets it up.

    tools/tls_scan.py            scans all, compares with docs/tls.md
    tools/tls_scan.py --write    writes the table there

A host of tools/lab.py gets examples/hello behind one proxy after the other, with a certificate of
an authority of its own, and scans itself. Exits with 1 where a finding is above LOW, or the table
is no longer true.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import collection
import lab
import programs
import steps

import docs

GROUP = "tls-scan"
HOST = "scanned"
IMAGE = "debian13"
DOMAIN = "hello.test"
DIRECTORY = "/etc/ssl/scan"
DOCUMENT = steps.ROOT / "docs" / "tls.md"
MARKERS = (
    "<!-- begin of what tools/tls_scan.py has found -->",
    "<!-- end of what it has found -->",
)
SCAN_TIMEOUT_SECONDS = 900
#: Severities of testssl.sh that a proxy must not have; below them are OK, INFO and LOW.
ABOVE_LOW = ("MEDIUM", "HIGH", "CRITICAL", "FATAL")
#: Its own id of each version of the protocol.
VERSIONS = {
    "SSLv2": "SSL 2",
    "SSLv3": "SSL 3",
    "TLS1": "TLS 1.0",
    "TLS1_1": "TLS 1.1",
    "TLS1_2": "TLS 1.2",
    "TLS1_3": "TLS 1.3",
}
#: As an authority of the public would: 89 days, one name, where to ask for what was revoked.
AUTHORITY = f"""
set -e
apt-get update -q
export DEBIAN_FRONTEND=noninteractive
apt-get install -q -y --no-install-recommends testssl.sh openssl bsdextrautils dnsutils
grep -q {DOMAIN} /etc/hosts || echo '127.0.0.1 {DOMAIN}' >> /etc/hosts
mkdir -p {DIRECTORY}
cd {DIRECTORY}
new='openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
$new -x509 -days 365 -subj '/O=Scan/CN=Scan root' -addext keyUsage=critical,keyCertSign,cRLSign \
  -keyout ca.key -out ca.pem
$new -subj /CN={DOMAIN} -keyout key.pem -out request.pem
cat > extensions <<END
subjectAltName=DNS:{DOMAIN}
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
authorityInfoAccess=OCSP;URI:http://ocsp.test/
crlDistributionPoints=URI:http://crl.test/
END
openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 89 \
  -extfile extensions -out certificate.pem
cat certificate.pem ca.pem > chain.pem
for user in caddy traefik; do
  id $user 2>/dev/null || useradd --system --home-dir /var/lib/$user --shell /usr/sbin/nologin $user
  install -m 640 -g $user key.pem $user.pem
done
"""
SCAN = (
    "testssl --quiet --color 0 --warnings off --nodns none --ip 127.0.0.1"
    f" --add-ca {DIRECTORY}/ca.pem --jsonfile /tmp/scan.json --overwrite {DOMAIN} > /tmp/scan.log"
)
VARIABLES: dict[str, Any] = {
    "asgi_app_name": "hello",
    "asgi_app_source": {"path": str(steps.ROOT / "examples" / "hello")},
    "asgi_app_entrypoint": "hello:app",
    "asgi_app_ca_file": "/etc/ssl/certs/ca-certificates.crt",
    "asgi_proxy_domains": [DOMAIN],
    "asgi_proxy_certificate": "files",
    "asgi_proxy_certificate_file": f"{DIRECTORY}/chain.pem",
    "asgi_proxy_trusted_ca_file": f"{DIRECTORY}/ca.pem",
    # an answer that is compressed is MEDIUM to testssl.sh, whatever is in it: see docs/tls.md
    "asgi_proxy_compression": [],
}


def providers() -> dict[str, dict[str, Any]]:
    """The variables of each proxy, by what the table calls it."""
    caddy = {"asgi_proxy_certificate_key_file": f"{DIRECTORY}/caddy.pem"}
    return {
        "Caddy, Debian's": caddy,
        "Caddy, upstream's": {**caddy, **programs.variables("caddy")},
        "Traefik": {
            "asgi_proxy_provider": "traefik",
            "asgi_proxy_certificate_key_file": f"{DIRECTORY}/traefik.pem",
            **programs.variables("traefik"),
        },
    }


def summary(version: str, findings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The rows of one proxy: what is spoken, and what testssl.sh has against it."""
    by_id = {one["id"]: one for one in findings}
    rows = {"Version": version}
    for key, name in VERSIONS.items():
        rows[name] = "no" if by_id[key]["finding"].startswith("not offered") else "yes"
    for severity in (*reversed(ABOVE_LOW), "LOW"):
        found = [f"`{one['id']}`" for one in findings if one["severity"] == severity]
        rows[severity] = ", ".join(found) or "none"
    return rows


def table(found: Mapping[str, Mapping[str, str]]) -> str:
    """The table of the document."""
    lines = [f"| | {' | '.join(found)} |", f"|---|{'---|' * len(found)}"]
    rows = next(iter(found.values()))
    lines += [f"| {row} | {' | '.join(one[row] for one in found.values())} |" for row in rows]
    return "\n".join(lines)


def faults(found: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What is not as it should be."""
    told = []
    for name, rows in found.items():
        told += [f"{name}: {key} {rows[key]}" for key in ABOVE_LOW if rows[key] != "none"]
        for version in VERSIONS.values():
            wanted = "yes" if version in ("TLS 1.2", "TLS 1.3") else "no"
            if rows[version] != wanted:
                told.append(f"{name}: {version} {rows[version]}")
    return told


def scan(host: lab.Host, name: str, variables: Mapping[str, Any]) -> dict[str, str]:
    """Puts the app behind a proxy and scans it."""
    directory = steps.CACHE / GROUP
    given = directory / "variables.json"
    given.write_text(json.dumps({**VARIABLES, **variables}))
    with steps.timed(name):
        steps.demand(
            [
                steps.BIN / "ansible-playbook",
                f"--inventory={directory / 'hosts.yml'}",
                f"--extra-vars=@{given}",
                "asgi.deploy.site",
            ],
            directory / "play.log",
            changes={"ANSIBLE_COLLECTIONS_PATH": str(directory / "collections")},
            append=True,
        )
        provider = variables.get("asgi_proxy_provider", "caddy")
        program = host.run(f"readlink /proc/$(pidof {provider})/exe").stdout.strip()
        version = host.run(f"{program} version | grep -Eo '[0-9]+[.][0-9]+[.][0-9]+' | head -n 1")
        # it counts its findings in the exit code
        host.run(SCAN, check=False, timeout_seconds=SCAN_TIMEOUT_SECONDS)
        text = host.run("cat /tmp/scan.json").stdout
    (directory / f"{name}.json").write_text(text)
    return summary(version.stdout.strip(), json.loads(text))


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.name}")
    write = parser.parse_args().write
    directory = steps.CACHE / GROUP
    directory.mkdir(parents=True, exist_ok=True)
    collection.install(directory / "collections", directory / "collection.log")
    lab.down(GROUP)
    try:
        (host,) = lab.up(GROUP, {HOST: IMAGE}, directory / "hosts.yml")
        host.run(AUTHORITY, timeout_seconds=SCAN_TIMEOUT_SECONDS)
        found = {name: scan(host, name, variables) for name, variables in providers().items()}
    finally:
        lab.down(GROUP)
    former = DOCUMENT.read_text(encoding="utf-8")
    now = docs.filled(former, table(found), DOCUMENT.name, MARKERS)
    print(table(found))
    told = faults(found)
    if write:
        DOCUMENT.write_text(now, encoding="utf-8")
    elif former != now:
        told.append(f"{steps.shown(DOCUMENT)} is out of date, run tools/tls_scan.py --write")
    print("\n".join(told) or "no finding above LOW, TLS 1.2 and 1.3 only")
    return int(bool(told))


if __name__ == "__main__":
    sys.exit(main())

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Certificates that are given as files: what would make browsers refuse them, or a proxy fail.

OpenSSL's program reads them; Python's standard library cannot.
"""

from __future__ import annotations

import hashlib
import ssl
import stat
import time
from collections.abc import Sequence
from pathlib import Path

from .commands import run, tail

TIMEOUT_SECONDS = 30
CERTIFICATE = "asgi_proxy_certificate_file"
KEY = "asgi_proxy_certificate_key_file"
OTHERS_MAY_READ = stat.S_IROTH


def file_problems(certificate: Path, key: Path, domains: Sequence[str]) -> list[str]:
    """Returns why a certificate cannot serve an app; empty where it can. Nothing is touched.

    Args:
        certificate: The chain, PEM, the app's own certificate first.
        key: Its key, PEM.
        domains: Names that browsers will ask for.
    """
    missing = [
        f"{variable}: {path} is not a file on this host"
        for variable, path in ((CERTIFICATE, certificate), (KEY, key))
        if not path.is_file()
    ]
    if missing:
        return missing
    certificate_key, why = openssl("x509", "-in", str(certificate), "-noout", "-pubkey")
    if why:
        return [f"{CERTIFICATE}: {certificate} holds no certificate that can be read: {why}"]
    problems = [*time_problems(certificate), *name_problems(certificate, domains)]
    # an empty password, or openssl would ask for one
    own_key, why = openssl("pkey", "-in", str(key), "-pubout", "-passin", "pass:")
    if why:
        problems.append(
            f"{KEY}: {key} holds no key that can be read without a password: {why}",
        )
    elif own_key != certificate_key:
        problems.append(f"{KEY}: {key} is not the key of the certificate in {certificate}")
    if key.stat().st_mode & OTHERS_MAY_READ:
        problems.append(
            f"{KEY}: every user of this host can read {key}; let only root and the proxy's group"
            " read it (mode 0640)"
        )
    return problems


def fingerprint(certificate: Path, key: Path) -> str:
    """Names the content of a certificate and its key."""
    return hashlib.sha256(certificate.read_bytes() + key.read_bytes()).hexdigest()


def time_problems(certificate: Path) -> list[str]:
    """Returns whether a certificate is over, or not yet good."""
    told, _why = openssl("x509", "-in", str(certificate), "-noout", "-startdate", "-enddate")
    dates = dict(line.split("=", 1) for line in told.splitlines())
    now = time.time()
    problems = []
    if ssl.cert_time_to_seconds(dates["notAfter"]) <= now:
        problems.append(f"{CERTIFICATE}: {certificate} has expired on {dates['notAfter']}")
    if ssl.cert_time_to_seconds(dates["notBefore"]) > now:
        problems.append(f"{CERTIFICATE}: {certificate} is good from {dates['notBefore']} on")
    return problems


def name_problems(certificate: Path, domains: Sequence[str]) -> list[str]:
    """Returns the names that a certificate is not for."""
    problems = []
    for domain in domains:
        # a wildcard is asked with one of the names that it stands for
        name = domain.replace("*", "any", 1)
        told, _why = openssl("x509", "-in", str(certificate), "-noout", "-checkhost", name)
        if "does match" not in told:
            problems.append(
                f"{CERTIFICATE}: {certificate} is not for {domain} (asgi_proxy_domains);"
                f" it is for {', '.join(names(certificate)) or 'no name'}"
            )
    return problems


def names(certificate: Path) -> list[str]:
    """Returns the names that a certificate is for."""
    told, _why = openssl("x509", "-in", str(certificate), "-noout", "-ext", "subjectAltName")
    words = told.replace(",", " ").split()
    return [word.split(":", 1)[1] for word in words if word.startswith(("DNS:", "Address:"))]


def openssl(*arguments: str) -> tuple[str, str]:
    """Runs OpenSSL; returns what it says, and why it could not, in one line."""
    done = run(["openssl", *arguments], timeout_seconds=TIMEOUT_SECONDS, check=False)
    why = "" if done.returncode == 0 else tail(done.stderr, 1) or f"code {done.returncode}"
    return done.stdout, why

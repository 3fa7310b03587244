# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program uv in the wanted version, one for all apps of a host."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from ..commands import run
from ..contained import private_files, proxy_variables
from .indexes import index_credentials, index_variables
from .settings import BuildSettings

TOOL_DIRECTORY = Path("/opt/asgi")


def ensure_uv(settings: BuildSettings) -> Path:
    """Returns the path of uv in the wanted version, installed by pip where it is missing.

    Root installs it, as all apps use it: from a wheel, whose installation runs no code of it.
    """
    directory = TOOL_DIRECTORY / f"uv-{settings.uv_version}"
    program = directory / "bin" / "uv"
    if program.is_file():
        return program
    TOOL_DIRECTORY.mkdir(mode=0o755, parents=True, exist_ok=True)
    # apps are deployed at the same time; each makes its own and the first one stays
    aside = Path(tempfile.mkdtemp(dir=TOOL_DIRECTORY, prefix=".uv-"))
    aside.chmod(0o755)
    # root reads no configuration and no cache of the build user
    own = {"HOME": os.devnull, "PIP_CONFIG_FILE": os.devnull, "PIP_NO_CACHE_DIR": "1"}
    pip = [str(aside / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    try:
        run(
            ["python3", "-m", "venv", str(aside)],
            timeout_seconds=settings.timeout_seconds,
            doing="make an environment for uv",
        )
        with private_files(f"uv@{os.getpid()}-0", index_credentials(settings)) as files:
            run(
                [
                    *pip,
                    "--disable-pip-version-check",
                    "--only-binary=:all:",
                    "--no-deps",
                    f"uv=={settings.uv_version}",
                ],
                timeout_seconds=settings.timeout_seconds,
                environment={
                    **proxy_variables(),
                    **index_variables(settings),
                    **{name: str(path) for name, path in files.items()},
                    **own,
                },
                umask=0o022,
                doing="install uv",
            )
        if not directory.exists():
            aside.replace(directory)
    finally:
        # moved away where it is the one that stays; else what is left takes only room
        shutil.rmtree(aside, ignore_errors=True)
    return program

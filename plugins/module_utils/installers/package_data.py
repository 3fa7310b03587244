# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of a package that its build has left out, such as templates.

A project in `src` is installed as a copy. On a laptop it is editable, which hides that its package
data is incomplete.
"""

from __future__ import annotations

#: Run by the virtual environment's interpreter; prints what is in `src` of the source and not in
#: what was installed from it. Arguments: the virtual environment, and the directory `src`.
LEFT_OUT = """
import sys
from pathlib import Path
environment, source = map(Path, sys.argv[1:])
for packages in environment.glob("lib/python*/site-packages"):
    for package in source.iterdir():
        if not (packages / package.name).is_dir():
            continue
        for path in package.rglob("*"):
            name = path.relative_to(source)
            python = path.suffix in (".py", ".pyc", ".pyi") or path.name == "py.typed"
            if path.is_file() and not python and not (packages / name).exists():
                print(name)
"""

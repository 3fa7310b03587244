# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bytecode, compiled when a release is built: a service cannot write into its release."""

from __future__ import annotations

#: Run by the virtual environment's interpreter. A file that a former release has as well gets its
#: time, by which bytecode begins, so that the two releases can share the bytecode too. It is
#: compiled anew nevertheless: a package of the former release may have forged it. A package may
#: have files that are no Python: they are left. Arguments: the virtual environment, and that of
#: another release.
COMPILE_PACKAGES = """
import compileall, filecmp, os, sys
from pathlib import Path
new, *others = map(Path, sys.argv[1:])
for packages in new.glob("lib/python*/site-packages"):
    for other in others:
        former = other / packages.relative_to(new)
        for source in packages.rglob("*.py"):
            same = former / source.relative_to(packages)
            try:
                if filecmp.cmp(source, same, shallow=False):
                    time = same.stat().st_mtime_ns
                    os.utime(source, ns=(time, time))
            except OSError:
                continue
    # without the path of the release: an import puts the real one in
    # (Python 3.9 takes it only as text)
    compileall.compile_dir(packages, quiet=2, workers=0, force=True, stripdir=str(new))
"""

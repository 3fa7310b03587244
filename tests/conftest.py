"""Gives the plugins the names that they have in an installed collection.

The link is the one that tools/bootstrap.sh makes; it is made here too, so that pytest of any
environment works in a fresh clone. Ansible's own loader then finds modules, filters and
documentation by it, as on a controller.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest
from ansible.plugins.loader import init_plugin_loader

REPOSITORY = Path(__file__).resolve().parents[1]
COLLECTIONS = REPOSITORY / ".cache"
LINK = COLLECTIONS / "ansible_collections" / "asgi" / "deploy"

LINK.parent.mkdir(parents=True, exist_ok=True)
if not LINK.is_symlink():
    # another worker of the same run may have been quicker
    with contextlib.suppress(FileExistsError):
        LINK.symlink_to("../../..")
init_plugin_loader([str(COLLECTIONS)])
# helpers of the tests themselves: `from templates.render import ...`
sys.path.insert(0, str(REPOSITORY / "tests"))


def pytest_configure(config: pytest.Config) -> None:
    """Prints why a test was skipped: a machine without Caddy proves less, and says so."""
    if "s" not in config.option.reportchars:
        config.option.reportchars += "s"

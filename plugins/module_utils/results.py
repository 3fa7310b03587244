# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way by which the modules return: no secret of the app is in what they say."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

from .arguments import layout_from
from .errors import DeployError
from .masking import Mask, public_names, secret_values


class Module(Protocol):
    """What is needed of AnsibleModule."""

    params: dict[str, Any]
    no_log_values: set[str]

    def exit_json(self, **result: Any) -> None:
        """Ends the process."""

    def fail_json(self, msg: str, **result: Any) -> None:
        """Ends the process."""

    def warn(self, warning: str) -> None:
        """Adds a warning to the result."""


def texts_in(value: Any) -> Iterator[str]:
    """Yields all texts in options."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from texts_in(one)
    elif isinstance(value, Sequence):
        for one in value:
            yield from texts_in(one)


def secrets_of(module: Module) -> tuple[list[str], list[str]]:
    """Returns the secrets that a module can have met, and what is none of them.

    They are those of its app that are on the host now, and its own options that Ansible does not
    log. A whole environment file among those has its values on the host.
    """
    params = module.params
    own = [text for text in module.no_log_values if "\n" not in text]
    if not params.get("name"):
        return own, []
    try:
        layout = layout_from(params)
    except (DeployError, OSError):
        return own, []
    units = [text for text in texts_in(params) if "LoadCredential=" in text]
    credentials = map(str, (params.get("credentials") or {}).values())
    # one that is not staged yet
    release = params.get("release") or (params.get("plan") or {}).get("release") or ""
    public = [*public_names(layout), str(release)]
    return [*own, *secret_values(layout, units, credentials)], public


def finish(module: Module, act: Callable[[], dict[str, Any]]) -> None:
    """Does what a module is for and ends it, with no secret in its result or its error.

    Args:
        module: The module.
        act: Returns the result; `warnings` in it are shown as such.
    """
    before, _public = secrets_of(module)
    failed = True
    try:
        result, failed = act(), False
    except DeployError as error:
        result = {"msg": error.message, **error.facts}
    except OSError as error:
        result = {"msg": str(error)}
    except Exception as error:
        # Ansible would show an unexpected error without the mask
        result = {"msg": f"{type(error).__name__}: {error}", "exception": traceback.format_exc()}
    # both: the secrets on the host may be others now, or gone
    after, public = secrets_of(module)
    mask = Mask([*before, *after], public)
    # with -vvv Ansible shows them
    module.params = mask.all(module.params)
    result = mask.all(result)
    for warning in result.pop("warnings", []):
        module.warn(warning)
    # no error is pending here, whose traceback Ansible would add
    if failed:
        module.fail_json(**result)
    module.exit_json(**result)

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a server's flag is not for the user, in words that several servers share."""

from __future__ import annotations

OURS = "the role sets it, from asgi_service_* and asgi_app_*"
RELOAD = "a reloading server is for development: it restarts on any change of a file"
WORKERS = "one process is one instance; set asgi_service_instances"
ENVIRONMENT = "set asgi_app_environment and asgi_app_secrets"
FACTORY = "set asgi_app_factory"
ROOT_PATH = "set asgi_service_root_path"
LOG_LEVEL = "set asgi_service_log_level"
GRACEFUL = "set asgi_service_graceful_timeout_seconds"
KEEPALIVE = "it must be longer than the proxy's, and is"
LIFESPAN = "set asgi_service_lifespan"
TLS = "the proxy does HTTPS"
SUPERVISED = "systemd supervises the process and sets its user"
WORKING_DIRECTORY = "the working directory is that of the release; set asgi_app_directory"

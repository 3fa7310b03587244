# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The watch: a program on the host that replaces instances which grow, age or hang.

`rules.py` decides, `program.py` looks and acts, `install.py` puts both on the host. A slot that is
to be replaced is rolled out again, as the playbook `restart` does it, so no request fails. An
instance that hangs answers nobody, so it is killed, and systemd starts it again.
"""

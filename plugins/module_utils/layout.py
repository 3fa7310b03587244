# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where everything of an app lives on a host, and how its units are called."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .systemd import SYSTEM_UNITS

SLOTS = ("blue", "green")
#: Environment files of an app: what is set, and what is secret.
CONFIGURATION_FILES = ("environment", "secrets")
#: What the proxy is configured with for an app (proxies/site.py).
SITE_FILE = "site.json"


def other_slot(slot: str) -> str:
    """Returns the slot that is not the given one."""
    return SLOTS[1 - SLOTS.index(slot)]


@dataclass(frozen=True)
class Layout:
    """The paths and unit names of one app.

    Args:
        name: The app's name, which its units and users carry.
        root: Directory of its releases, slots and state.
    """

    name: str
    root: Path

    @property
    def releases(self) -> Path:
        """Directory of the releases, one directory each."""
        return self.root / "releases"

    def release(self, release: str) -> Path:
        """Directory of one release."""
        return self.releases / release

    @property
    def manifests(self) -> Path:
        """Directory of the manifests, outside the releases: no build can write there."""
        return self.root / "manifests"

    def manifest(self, release: str) -> Path:
        """What a release was built from; written last, it makes a directory a release."""
        return self.manifests / f"{release}.json"

    def unsealed(self, release: str) -> Path:
        """Exists from before a release is built until no build can write to it any more."""
        return self.manifests / f"{release}.unsealed"

    def slot_link(self, slot: str) -> Path:
        """The link from a slot to its release."""
        return self.root / "slots" / slot

    def slot_variables(self, slot: str) -> Path:
        """Environment file with the id of a slot's release (roles/service)."""
        return self.root / "slots" / f"{slot}.env"

    def static_release(self, release: str) -> Path:
        """What of a release the proxy may read; `current` in it leads to its files."""
        return self.root / "static" / "releases" / release

    def static_link(self, slot: str) -> Path:
        """The link from a slot to the static files of its release (roles/proxy)."""
        return self.root / "static" / slot

    @property
    def static_shared(self) -> Path:
        """Static files of all releases that are named after their content (roles/proxy)."""
        return self.root / "static" / "shared"

    @property
    def switch_file(self) -> Path:
        """The proxy's switch: green serves while it exists, blue otherwise.

        It lies outside /run, so that a reboot comes up with the slot that served.
        """
        return self.root / "serving" / "green"

    @property
    def draining_file(self) -> Path:
        """A balancer is told that this host is not ready while it exists.

        It lies in /run, so that a reboot does not leave the host out where the proxy is Caddy,
        whose site looks for it (roles/proxy); Traefik is told by a run.
        """
        return Path("/run/asgi-deploy") / f"{self.name}.draining"

    @property
    def state_file(self) -> Path:
        """History, recorded settings and the operation under way."""
        return self.root / "state.json"

    @property
    def lock_file(self) -> Path:
        """Held by the module that changes this app on this host."""
        return self.root / ".lock"

    @property
    def run_file(self) -> Path:
        """Says which run changes this app on this host, from its first step to its last."""
        return self.root / "lock.json"

    def migration_record(self, release: str) -> Path:
        """Exists when the release's migration has succeeded for this fleet."""
        return self.root / "migrations" / f"{release}.json"

    def migration_begun(self, release: str) -> Path:
        """The record of a migration that was begun; a unit renames it when it has succeeded."""
        return self.root / "migrations" / f"{release}.begun"

    @property
    def configuration(self) -> Path:
        """Directory of the environment and secrets that the next rollout takes."""
        return Path("/etc/asgi") / self.name

    @property
    def record_file(self) -> Path:
        """What of this host belongs to the app (belongings.py)."""
        return self.configuration / "app.json"

    def slot_configuration(self, slot: str) -> Path:
        """Environment and secrets that a slot was started with, so that a crash of the
        serving slot never comes back with a configuration that nobody has proven."""
        return self.configuration / slot

    @property
    def staged_site(self) -> Path:
        """What the proxy is configured with by the next rollout (proxies/site.py)."""
        return self.configuration / SITE_FILE

    def slot_site(self, slot: str) -> Path:
        """What the proxy was configured with when a slot was rolled out."""
        return self.slot_configuration(slot) / SITE_FILE

    def socket(self, slot: str, instance: int) -> Path:
        """The socket on which one instance listens."""
        return Path("/run/asgi") / self.name / slot / f"{instance}.sock"

    def count_file(self, slot: str, instance: int) -> Path:
        """Where one instance counts its requests, if it is told to; the app's user writes there."""
        return Path("/run/asgi") / self.name / slot / str(instance) / "requests"

    @property
    def slice(self) -> str:
        """The slice of all processes of the app. A dash would nest it in another slice."""
        escaped = self.name.replace("-", "\\x2d")
        return f"asgi-{escaped}.slice"

    def unit_file(self, slot: str, kind: str) -> Path:
        """Template unit file of a slot; kind is `service` or `socket`."""
        return SYSTEM_UNITS / f"{self.name}-{slot}@.{kind}"

    def publish_unit_file(self, slot: str) -> Path:
        """Template unit file that gives the socket of an instance its name for the proxy, where the
        server makes it. No name of an app has two dashes in a row."""
        return SYSTEM_UNITS / f"{self.name}--publish-{slot}@.service"

    def publish_unit(self, slot: str, instance: int | str) -> str:
        """The unit that does that for one instance."""
        return f"{self.name}--publish-{slot}@{instance}.service"

    @property
    def slice_file(self) -> Path:
        """Unit file of the app's slice."""
        return SYSTEM_UNITS / self.slice

    @property
    def migrate_unit_file(self) -> Path:
        """Template unit file of the migration; its instance is the release."""
        return SYSTEM_UNITS / f"{self.name}-migrate@.service"

    def migrate_unit(self, release: str) -> str:
        """The unit that migrates for one release."""
        return f"{self.name}-migrate@{release}.service"

    @property
    def migrated_unit_file(self) -> Path:
        """Template unit file that records a migration; its instance is the release."""
        return SYSTEM_UNITS / f"{self.name}-migrated@.service"

    def migrated_unit(self, release: str) -> str:
        """The unit that runs the one that migrates for a release, and records its success."""
        return f"{self.name}-migrated@{release}.service"

    @property
    def watch_unit(self) -> str:
        """The unit of the watch."""
        return f"asgi-{self.name}-watch.service"

    @property
    def watch_unit_file(self) -> Path:
        """Unit file of the watch; it is there where anything is watched."""
        return SYSTEM_UNITS / self.watch_unit

    @property
    def watch_program(self) -> Path:
        """The program of the watch with all that it needs, as one file."""
        return self.root / "watch" / "watch.pyz"

    @property
    def watch_settings(self) -> Path:
        """What is watched."""
        return self.root / "watch" / "watch.json"

    @property
    def watch_record(self) -> Path:
        """What the watch did last."""
        return self.root / "watch" / "last.json"

    def unit(self, slot: str, instance: int, kind: str = "service") -> str:
        """Name of one instance's unit."""
        return f"{self.name}-{slot}@{instance}.{kind}"

    def units(self, slot: str, instances: int, kind: str = "service") -> list[str]:
        """Names of the units of all instances of a slot."""
        return [self.unit(slot, number, kind) for number in range(1, instances + 1)]

    def serving_slot(self) -> str:
        """The slot that the proxy asks, by the same rule that the proxy uses."""
        return SLOTS[1] if self.switch_file.exists() else SLOTS[0]

    def slot_release(self, slot: str) -> str | None:
        """The release that a slot points at, or None for a slot never used."""
        try:
            return self.slot_link(slot).readlink().name
        except FileNotFoundError:
            return None

    def is_staged(self, release: str) -> bool:
        """Says whether a release is whole: half a release has no manifest."""
        return self.manifest(release).is_file() and self.release(release).is_dir()

    def staged_releases(self) -> list[str]:
        """All whole releases."""
        names = (path.name.removesuffix(".json") for path in self.manifests.glob("*.json"))
        return sorted(filter(self.is_staged, names))

# Copyright (c) the asgi.deploy maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rollout: start the idle slot, gate, switch, confirm, settle, stop the old slot.

Whatever fails, the slot that served goes on serving. The order makes a reboot at any moment
come up with one whole version: both slots are enabled around the switch, and the switch
decides which of them is asked.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from . import processes, proxies, slots, state, systemd
from .errors import DeployError
from .files import read_text, write_atomic
from .files import remove as remove_file
from .health import HealthCheck
from .layout import SLOTS, Layout, other_slot
from .masking import mask_of
from .proxies import site as sites
from .releases import (
    PYTHON_GONE,
    prune,
    python_problem,
    read_manifest,
    refuse_without_server,
    require_python,
)
from .servers import server

#: How often a serving app is asked before it is called unhealthy.
HEALTH_ATTEMPTS = 3
#: How long an undo waits for a module that is still at work, beyond what that one waits for.
UNDO_WAIT_SECONDS = 300
#: Steps that others look for by their names.
LEAVE_BALANCER = "leave the balancer"
RETURN_TO_BALANCER = "return to the balancer"
START = "start the slot"
PROVE = "prove its health"
ADD_SITE = "add its site to the proxy"
REVERT = "revert to the previous release"
HAND_OVER = "start its processes"
DRAIN_OLD = "drain the old slot"
STOP_OLD = "stop the old slot"


@dataclass(frozen=True)
class Settings:
    """How an app is rolled out; recorded on the host, so that a rollback needs no variables.

    Args:
        units: Text of the unit files.
        instances: Processes of a slot.
        server: Name of the ASGI server.
        health: What counts as healthy.
        access: How to ask through the proxy.
        settle_seconds: Shortest time between switch and stop of the old slot.
        drain_seconds: Longest time for the old slot's open connections.
        keep_releases: How many releases stay on the host.
        balancer_drain_seconds: How long a balancer has to notice that this host is not ready,
            before anything is done here; 0 where it is not told.
    """

    units: slots.SlotUnits
    instances: int
    server: str
    health: HealthCheck
    access: proxies.ProxyAccess
    settle_seconds: float = 3
    drain_seconds: float = 30
    keep_releases: int = 5
    balancer_drain_seconds: float = 0

    def limits(self) -> dict[str, float]:
        """Returns what a rollout waits for, and how long it may."""
        return {
            "instances": self.instances,
            "health_timeout_seconds": self.health.timeout_seconds,
            "stable_seconds": self.health.stable_seconds,
            "proxy_timeout_seconds": self.access.timeout_seconds,
            "settle_seconds": self.settle_seconds,
            "drain_seconds": self.drain_seconds,
            "balancer_drain_seconds": self.balancer_drain_seconds,
        }

    @staticmethod
    def read(values: Mapping[str, Any]) -> Settings:
        """Reads the settings from a module's options or from the state of a host."""
        return Settings(
            units=slots.SlotUnits.read(values["units"]),
            instances=int(values["instances"]),
            server=values["server"],
            health=HealthCheck(**values["health"]),
            access=proxies.access_from(values["proxy"]),
            settle_seconds=float(values["settle_seconds"]),
            drain_seconds=float(values["drain_seconds"]),
            keep_releases=int(values["keep_releases"]),
            # hosts whose last rollout was made by a former version have recorded none
            balancer_drain_seconds=float(values.get("balancer_drain_seconds", 0)),
        )


class Ended(DeployError):
    """This process was asked to end."""


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Turns a request to end this process into an error, so that what was begun is undone."""

    def refuse(number: int, _frame: object) -> NoReturn:
        raise Ended(f"ended by {signal.Signals(number).name}")

    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    former = {number: signal.signal(number, refuse) for number in numbers}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def needed_because(
    layout: Layout,
    release: str,
    settings: Settings,
    force: str,
    unwritten: Mapping[str, str] | None = None,
    site_changes: bool = False,
) -> list[str]:
    """Says why a rollout is needed; empty where what serves is what is asked for."""
    serving = layout.serving_slot()
    present = layout.slot_release(serving)
    if present is None:
        return ["first release"]
    if present == f"{release}{PYTHON_GONE}" or (
        present == release and python_problem(layout, release)
    ):
        return [f"release {release} is built again, as its Python was gone"]
    if present != release:
        return [f"release {present} to {release}"]
    reasons = slots.differences(layout, serving, settings.units, settings.instances, unwritten)
    reasons += ["site"] if site_changes else []
    return [*reasons, force] if force else reasons


def healthy_now(layout: Layout, settings: Settings) -> str:
    """Says what is wrong with the serving slot at this moment; empty where nothing is."""
    slot = layout.serving_slot()
    statuses = systemd.show(layout.units(slot, settings.instances))
    for status in statuses:
        if not status.running:
            return f"{status.name} is {status.active_state}"
    trouble = processes.trouble(layout, slot, settings.units.processes)
    if trouble:
        return trouble
    ask = proxies.driver(settings.access.provider).ask
    for attempt in range(HEALTH_ATTEMPTS):
        if attempt:
            time.sleep(1)
        answer = ask(layout, settings.access, through_proxy(settings))
        if answer.healthy:
            return ""
    return f"through the proxy: {answer.text}"


def through_proxy(settings: Settings) -> HealthCheck:
    """The health check as it is asked for the app's domain."""
    return settings.access.check(settings.health)


def leave_balancer(layout: Layout) -> None:
    """Has the proxy of this host tell a balancer that it is not ready."""
    layout.draining_file.parent.mkdir(mode=0o755, exist_ok=True)
    write_atomic(layout.draining_file, "")
    tell_balancer(layout)


def return_to_balancer(layout: Layout) -> None:
    """Has the proxy of this host tell a balancer again what the app says of itself."""
    remove_file(layout.draining_file)
    tell_balancer(layout)


def tell_balancer(layout: Layout) -> None:
    """Has each proxy look at the file: the app may be on its way from one to another."""
    for driver in proxies.DRIVERS.values():
        driver.tell_balancer(layout)


def recover(layout: Layout, current: state.State) -> str:
    """Finishes or undoes what a run that was killed left behind.

    The slot that the proxy asks has passed its gate, so it stays; the other one is stopped.

    Returns:
        What was found, in words; empty where nothing was.
    """
    operation = current.operation
    if not operation:
        return ""
    settings = Settings.read(operation["settings"])
    serving = layout.serving_slot()
    idle = other_slot(serving)
    new = operation["slot"]
    # the release had failed, whatever the proxy asks
    failed = operation["step"] == REVERT and operation["previous"] is not None
    if failed and serving == new:
        serving, idle = idle, serving
    # a switch may be more than one file: it is done whole before the idle slot is stopped
    moved = serving == new or not current.settings
    access = settings.access if moved else proxies.access_from(current.settings["proxy"])
    proxies.driver(access.provider).switch(layout, serving)
    site_told = recover_site(layout, serving, new, access.provider) if operation.get("site") else ""
    if slots.connections(layout, idle):
        slots.settle(layout, idle, settings.settle_seconds, settings.drain_seconds)
    slots.stop(layout, idle)
    slots.disable(layout, idle)
    if serving == new:
        systemd.install_unit_files({layout.slice_file: settings.units.slice})
    told = f"slot {serving} serves and stays"
    # after the last step but one the rollout is written down, and the first has no old slot
    written = operation["step"] == STOP_OLD
    if operation["previous"] is None and not written:
        slots.stop(layout, serving)
        slots.forget(layout, serving)
        told = "it was the first and had not served, it was taken away"
    elif failed or (serving == new and not written):
        status, reason = state.GOOD, f"cut off while it was to {operation['step']}"
        if failed:
            status = status_of_failure(current, operation["release"], operation["previous"])
            reason = operation["reason"]
        else:
            current.former_settings = current.settings
            current.settings = operation["settings"]
        record(
            layout,
            current,
            release=operation["release"],
            previous=operation["previous"],
            slot=new,
            status=status,
            reason=reason,
            by=operation["by"],
            run=operation.get("run", ""),
        )
    if layout.slot_release(serving) is not None and current.settings:
        # one that does not stay up is the next rollout's reason, not this one's end
        with contextlib.suppress(DeployError):
            hand_over(layout, serving, Settings.read(current.settings), [])
    return_to_balancer(layout)
    current.operation = {}
    state.save(layout.state_file, current)
    return (
        f"a rollout of {operation['release']} that began at {operation['at']} was cut off while"
        f" it was to {operation['step']}; {told}{site_told}"
    )


def status_of_failure(current: state.State, release: str, previous: str | None) -> str:
    """Returns what a release is from now on that did not come to serve.

    One that has served well is not bad because of what it meets today.
    """
    served = release == previous or current.has_served_well(release)
    return state.REFUSED if served else state.FAILED


def conclude(layout: Layout) -> dict[str, Any]:
    """Removes from the proxy what only the release before has needed; for a run that was good.

    Returns:
        `changed`, and `warnings` where that failed: the release serves all the same, and its next
        deploy tries again.
    """
    settings = state.load(layout.state_file).settings
    try:
        provider = proxies.access_from(settings["proxy"]).provider if settings else "none"
        site = former_site(layout, layout.serving_slot(), provider)
        return {"changed": site is not None and sites.install(layout, site)}
    except (DeployError, OSError) as error:
        told = f"the addresses of the release before could not be removed: {error}"
        return {"changed": False, "warnings": [told]}


def recover_site(layout: Layout, serving: str, new: str, provider: str) -> str:
    """Has the proxy run with the site of what serves, after a run that was killed.

    Args:
        layout: The app.
        serving: The slot that serves.
        new: The slot that was to serve. Its site stays with the addresses of the other one: the
            run may still be reverted.
        provider: The proxy.

    Returns:
        What is to be told, in words.
    """
    try:
        site = former_site(layout, serving, provider)
        if site:
            other = sites.of_slot(layout, other_slot(serving), provider)
            sites.install(layout, sites.merged(site, other) if serving == new else site)
    except (DeployError, OSError) as error:
        # what serves goes on; the next deploy tells what is wrong with its site
        return f", but the proxy is not configured for it: {error}"
    return ""


def former_site(layout: Layout, slot: str, provider: str) -> sites.Site | None:
    """Returns the site that a slot was rolled out with, as it can be installed today."""
    site = sites.of_slot(layout, slot, provider)
    return sites.restorable(site) if site else None


def refuse_lost_site(layout: Layout, release: str, site: sites.Site) -> None:
    """Raises where the proxy would no longer accept the site of a former release.

    Another app may have one of its domains by now, or a certificate may be gone.

    Raises:
        DeployError: Why, and how to have the release all the same.
    """
    try:
        sites.install(layout, site, validate_only=True)
    except DeployError as error:
        raise DeployError(
            f"{release} cannot be rolled back to with the proxy's site that it had:"
            f" {error.message}\nTo bring it back with the site of today, deploy its version again:"
            " asgi_app_source with that version, and the variables of today."
        ) from error


def record(layout: Layout, current: state.State, reason: str, **event: Any) -> None:
    """Adds an event to the history, which outlives the secrets that could be in its reason."""
    current.record(**event, reason=mask_of(layout).text(reason))


def stands_as_it_was(layout: Layout, release: str, current: state.State) -> bool:
    """Whether going back to a release is going back to its units and environment too."""
    serving = layout.serving_slot()
    if layout.slot_release(serving) is None:
        return False
    idle = other_slot(serving)
    return layout.slot_release(idle) == release and bool(current.former_settings)


def hand_over(
    layout: Layout, slot: str, settings: Settings, former: Sequence[processes.Process]
) -> None:
    """Has the processes of a slot run, and those of the other one no longer.

    Args:
        layout: The app.
        slot: The slot that serves.
        settings: Those of the slot.
        former: Processes of the other slot that may go on until it is stopped.
    """
    processes.serve(
        layout,
        slot,
        settings.units.processes,
        former,
        stable_seconds=settings.health.stable_seconds,
        stop_timeout_seconds=slots.STOP_TIMEOUT_SECONDS,
    )


def rollout(
    layout: Layout,
    release: str,
    settings: Settings,
    *,
    recorded: Mapping[str, Any],
    by: str,
    force: str = "",
    leave: bool = False,
    others_serve: bool = True,
    run: str = "",
    check_mode: bool = False,
    unwritten: Mapping[str, str] | None = None,
    of_variables: bool = True,
    site_changes: bool = False,
) -> dict[str, Any]:
    """Brings one release to serve on this host.

    Args:
        layout: The app.
        release: A staged release.
        settings: How to roll out.
        recorded: The settings as they are kept for a rollback.
        by: Who asked for it, for the history.
        force: Why to roll out what already serves (restart); empty to leave that alone.
        leave: The release that serves now is not to be gone back to (rollback).
        others_serve: A balancer has other hosts to ask while this one is worked on.
        run: Names the run of the fleet; only in the same run is this undone.
        check_mode: Say what would be done.
        unwritten: Environment and secrets by the names of their files, where those on the host are
            not to be taken: check mode has not written them, and the watch keeps what serves.
        of_variables: The site of the app is the one that was staged, not that of what serves.
        site_changes: The site is going to be another one; for check mode, which stages none.

    Returns:
        `changed`, `release`, `previous`, `slot` (that serves afterwards), `reasons`, `diff`,
        `variables`, `steps`, `seconds`, memory, `cut_connections`, `proxy_gap_seconds`, `pruned`,
        `recovered`, `watched`, `to_conclude` (the proxy has addresses that only the release before
        needs); in check mode only what is known before.

    Raises:
        DeployError: What failed, what was put back, and the journal lines.
    """
    started = time.monotonic()
    # in check mode nothing has been built
    if not check_mode:
        require_python(layout, release)
        read_manifest(layout, release)
    current = state.load(layout.state_file)
    recovered = left_behind(current) if check_mode else recover(layout, current)
    serving = layout.serving_slot()
    previous = layout.slot_release(serving)
    provider = settings.access.provider
    live_site = sites.of_slot(layout, serving, provider)
    # check mode stages none: what is there may be of a deploy that has failed
    site = sites.staged(layout, provider) if of_variables and not check_mode else live_site
    site_changes = site_changes or (previous is not None and site != live_site)
    reasons = needed_because(layout, release, settings, force, unwritten, site_changes)
    if not reasons:
        trouble = healthy_now(layout, settings)
        reasons = [trouble] if trouble else []
    result: dict[str, Any] = {
        "changed": bool(reasons or recovered),
        "release": release,
        "previous": previous,
        "slot": serving,
        "reasons": reasons,
        "diff": [],
        "variables": {},
        "steps": [],
        "cut_connections": 0,
        "proxy_gap_seconds": 0,
        "pruned": [],
        "recovered": recovered,
        "watched": layout.watch_unit_file.exists(),
        "to_conclude": False,
    }
    if reasons:
        former = serving if previous is not None else None
        target = serving if former is None else other_slot(serving)
        as_it_was = leave and stands_as_it_was(layout, release, current)
        if as_it_was:
            recorded = current.former_settings
            settings = Settings.read(recorded)
            site = former_site(layout, target, settings.access.provider)
            if site and site != live_site:
                refuse_lost_site(layout, release, sites.merged(site, live_site))
        # the site playbook finds it out earlier; a rollback may go back to another proxy
        own = [Path(path).stem for path in site.files] if site else []
        proxies.driver(settings.access.provider).refuse_switch(layout, own)
        if not others_serve:
            settings = replace(settings, balancer_drain_seconds=0)
        result["slot"] = target
        result.update(to_change(layout, former, target, settings, as_it_was, unwritten))
    if reasons and layout.is_staged(release):
        # a former release may have been made for another server
        refuse_without_server(layout, release, server(settings.server).MODULE)
    if check_mode:
        return {**result, "limits": settings.limits()}
    if reasons:
        doing = Run(
            layout,
            release,
            settings,
            recorded,
            current,
            target,
            previous,
            reasons,
            by,
            left_status=state.LEFT if leave else "",
            as_it_was=as_it_was,
            run=run,
            unwritten=unwritten,
            site=site,
        )
        result["cut_connections"] = doing.all_steps()
        result["steps"] = doing.steps
        result["proxy_gap_seconds"] = doing.gap_seconds
        if doing.merged and run:
            # another host of the run may fail, and this one then goes back
            result["to_conclude"] = True
        elif doing.merged:
            result["warnings"] = conclude(layout).get("warnings", [])
    elif current.settings != recorded:
        current.settings = dict(recorded)
        state.save(layout.state_file, current)
    try:
        result["pruned"] = prune(layout, settings.keep_releases, needed_releases(layout, current))
        result.update(slots.memory(layout, result["slot"], settings.instances))
    except (DeployError, OSError) as error:
        # the release serves; what could not be tidied up is told, not undone
        told = f"old releases could not be removed: {error}"
        result["warnings"] = [*result.get("warnings", []), told]
    result["changed"] = bool(reasons or recovered or result["pruned"])
    result["seconds"] = round(time.monotonic() - started, 1)
    return result


def left_behind(current: state.State) -> str:
    """Says what a run that was killed left behind, for check mode, which mends nothing."""
    if not current.operation:
        return ""
    return (
        f"a rollout of {current.operation['release']} was cut off while it was to"
        f" {current.operation['step']}; that is finished or undone first"
    )


def to_change(
    layout: Layout,
    former: str | None,
    target: str,
    settings: Settings,
    as_it_was: bool,
    unwritten: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Says how a slot will differ from the one that serves.

    Args:
        layout: The app.
        former: The slot that serves; None where none does.
        target: The slot that is to serve.
        settings: How.
        as_it_was: The target slot is started with what it has.
        unwritten: As for `rollout`.

    Returns:
        `diff` of the unit files; `variables`, the names of those of environment and secrets.
    """
    units, files = settings.units, slots.configuration_files(layout, target, unwritten)
    if as_it_was:
        units = slots.own_units(layout, target, units)
        files = {path: read_text(path) or "" for path in files}
    return {
        "diff": slots.unit_diff(layout, former, target, units),
        "variables": slots.configuration_changes(layout, former, files),
    }


def remaining_seconds(layout: Layout) -> float:
    """Returns how long a rollout that is under way on this host may still need; at least 300 s."""
    operation = state.load(layout.state_file).operation
    if not operation:
        return UNDO_WAIT_SECONDS
    limits = Settings.read(operation["settings"]).limits()
    waits = sum(seconds for name, seconds in limits.items() if name != "instances")
    return UNDO_WAIT_SECONDS + waits


def undo(layout: Layout, release: str, reason: str, by: str, run: str = "") -> dict[str, Any]:
    """Takes back what the last rollout of a release did on this host.

    For the hosts of a fleet that moved before another one failed. The other slot still has all
    that it served with: its release, its units, its environment.

    Args:
        layout: The app.
        release: What was rolled out; it is failed from now on.
        reason: Why, for the history.
        by: Who asked for it.
        run: Names the run of the fleet; what a former run did stays.

    Returns:
        As `rollout`.

    Raises:
        DeployError: The way back failed too; what serves was left alone.
    """
    started = time.monotonic()
    current = state.load(layout.state_file)
    recover(layout, current)
    serving = layout.serving_slot()
    other = other_slot(serving)
    last = current.history[-1] if current.history else {}
    moved = (
        layout.slot_release(serving) == release
        and last.get("release") == release
        and last.get("status") == state.GOOD
        and last.get("run", "") == run
    )
    previous = last.get("previous") if moved else None
    result: dict[str, Any] = {
        "changed": moved,
        "previous": release if moved else None,
        "release": layout.slot_release(serving),
        "slot": serving,
        "reasons": [reason] if moved else [],
        "steps": [],
        "cut_connections": 0,
    }
    # a release that has served well in another run is not bad because one host failed
    served = current.has_served_well(release, except_run=run)
    failed = state.REFUSED if served or previous == release else state.FAILED
    if moved and previous is None:
        slots.stop(layout, serving)
        slots.forget(layout, serving)
        result["release"] = None
        record(layout, current, release=release, status=failed, reason=reason, by=by)
    elif moved:
        back = layout.slot_release(other)
        if back != previous:
            raise DeployError(
                f"{release} serves and cannot be undone: slot {other} has {back}, not {previous};"
                " roll back with the rollback playbook"
            )
        require_python(layout, str(previous))
        recorded = current.former_settings or current.settings
        # all hosts that had moved go back at once, and a balancer must have somebody to ask
        settings = replace(Settings.read(recorded), balancer_drain_seconds=0)
        proxies.driver(settings.access.provider).refuse_switch(layout)
        back_again = Run(
            layout,
            str(previous),
            settings,
            recorded,
            current,
            other,
            release,
            [reason],
            by,
            left_status=failed,
            as_it_was=True,
            site=former_site(layout, other, settings.access.provider),
        )
        result["cut_connections"] = back_again.all_steps()
        if back_again.merged:
            result["warnings"] = conclude(layout).get("warnings", [])
        result.update(release=previous, slot=other, steps=back_again.steps)
    elif result["release"] != release and not served and current.status(release) != failed:
        record(layout, current, release=release, status=failed, reason=reason, by=by)
    state.save(layout.state_file, current)
    result["seconds"] = round(time.monotonic() - started, 1)
    return result


def needed_releases(layout: Layout, current: state.State) -> Sequence[str]:
    """Releases that are never pruned: what serves, and what a rollback would go to."""
    serving = layout.slot_release(layout.serving_slot())
    staged = set(layout.staged_releases())
    good = [
        release
        for release in current.good_releases()
        if release != serving and release in staged and not python_problem(layout, release)
    ]
    slots_hold = [layout.slot_release(slot) for slot in SLOTS]
    return [release for release in dict.fromkeys((serving, *good[:1], *slots_hold)) if release]


@dataclass
class Run:
    """One rollout under way.

    Args:
        layout: The app.
        release: What is to serve.
        settings: How.
        recorded: The settings as the state keeps them.
        current: State of the host; the step under way is written to it.
        target: The slot that is to serve.
        previous: The release that serves now; None for the first.
        reasons: Why.
        by: Who asked for it.
        left_status: What the previous release is from now on, if it is to be noted.
        as_it_was: Start the target slot with all that it has (undo), not with what is new.
        run: Names the run of the fleet that it belongs to.
        unwritten: As for `rollout`.
        site: What the proxy is to be configured with; None where that is not the rollout's.
        site_added: That was begun.
        merged: The proxy has addresses that only the release before has.
        shared_before: What the sites of the host shared before.
        switched: The proxy was turned.
        handed_over: The processes of the old slot were stopped.
        steps: The steps that were done, with the seconds that each took.
    """

    layout: Layout
    release: str
    settings: Settings
    recorded: Mapping[str, Any]
    current: state.State
    target: str
    previous: str | None
    reasons: Sequence[str]
    by: str
    left_status: str = ""
    as_it_was: bool = False
    run: str = ""
    unwritten: Mapping[str, str] | None = None
    site: sites.Site | None = None
    site_added: bool = False
    merged: bool = False
    shared_before: Mapping[str, str] = field(default_factory=dict)
    switched: bool = False
    handed_over: bool = False
    gap_seconds: float = 0
    steps: list[dict[str, Any]] = field(default_factory=list)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Notes how long a step takes, where it succeeds."""
        started = time.monotonic()
        yield
        self.steps.append({"name": name, "seconds": round(time.monotonic() - started, 1)})

    def operation(self, name: str, reason: str = "") -> dict[str, Any]:
        """What the run that finds this one killed needs to know."""
        return {
            "step": name,
            "reason": reason,
            "site": self.site_added or name == ADD_SITE,
            "release": self.release,
            "previous": self.previous,
            "slot": self.target,
            "at": state.now(),
            "by": self.by,
            "run": self.run,
            "settings": self.recorded,
        }

    def step(self, name: str, reason: str = "") -> None:
        """Writes down what is about to be done, and why where it is the way back."""
        self.current.operation = self.operation(name, reason)
        state.save(self.layout.state_file, self.current)

    def finish(self, status: str, reason: str, seconds: float, then: str = "") -> None:
        """Writes down how it ended, and the step that is still to be done, if any."""
        self.current.operation = self.operation(then) if then else {}
        record(
            self.layout,
            self.current,
            release=self.release,
            previous=self.previous,
            slot=self.target,
            status=status,
            reason=reason,
            by=self.by,
            run=self.run,
            seconds=round(seconds, 1),
        )
        state.save(self.layout.state_file, self.current)

    def all_steps(self) -> int:
        """Does the whole rollout; puts everything back where a step fails.

        Returns:
            How many connections to the old slot were cut.
        """
        layout, settings, target = self.layout, self.settings, self.target
        started = time.monotonic()
        before = slots.snapshot(layout, target, settings.units)
        name = ""
        try:
            with ended_by_signals():
                for name, action in self.steps_to_serve():
                    self.step(name)
                    with self.timed(name):
                        action()
        except Exception as error:
            # whatever failed, the way back is the same; it is raised again below
            mask = mask_of(layout, [settings.units.service])
            cause = mask.text(str(error) or repr(error))
            reason = f"{name}: {cause.splitlines()[0]}"
            try:
                # a full disk must not keep what served from being put back
                with contextlib.suppress(OSError):
                    self.step(REVERT, reason)
                told = self.put_back(before)
            except Exception as second:
                told = f"the way back failed too, look at the host: {second}"
            status = status_of_failure(self.current, self.release, self.previous)
            try:
                # also where the way back failed: then the app says itself that it is not healthy
                return_to_balancer(layout)
            except (DeployError, OSError) as second:
                told += f"; the balancer may not ask this host: {second}"
            try:
                self.finish(status, reason, time.monotonic() - started)
            except OSError as second:
                told += f"; that could not be written down: {second}"
            raise DeployError(
                f'release {self.release} was refused at the step "{name}": {cause}\n'
                f"{mask.text(told)}.\n"
                "Mend the cause and deploy again. The journal stays on the host:"
                f" journalctl -u '{layout.name}-{target}@*'",
                step=name,
                failed_release=self.release,
                serving_release=self.previous,
            ) from error
        self.current.former_settings = self.current.settings
        self.current.settings = dict(self.recorded)
        if self.left_status and self.previous not in (None, self.release):
            record(
                layout,
                self.current,
                release=self.previous,
                status=self.left_status,
                reason="; ".join(self.reasons),
                by=self.by,
            )
        # one write: a run that is killed here is known to have an old slot to stop
        then = STOP_OLD if self.previous is not None else ""
        self.finish(state.GOOD, "; ".join(self.reasons), time.monotonic() - started, then)
        if self.previous is None:
            return 0
        old = other_slot(target)
        with self.timed(DRAIN_OLD):
            cut = slots.settle(layout, old, settings.settle_seconds, settings.drain_seconds)
        with self.timed(STOP_OLD):
            slots.stop(layout, old)
        slots.disable(layout, old)
        systemd.install_unit_files({layout.slice_file: settings.units.slice})
        self.current.operation = {}
        state.save(layout.state_file, self.current)
        return cut

    def steps_to_serve(self) -> list[tuple[str, Callable[[], None]]]:
        """The steps until the new release serves, in their order, by their names."""
        layout, settings, target = self.layout, self.settings, self.target
        program = server(settings.server)
        explain = program.explain_exit
        since = time.time()

        def prepare() -> None:
            slots.stop(layout, target)
            slots.disable(layout, target)
            # the one file that both slots share
            both = settings.units.slice
            if self.previous is not None:
                both = slots.slice_for_both(layout, both)
            if self.as_it_was:
                systemd.install_unit_files({layout.slice_file: both})
            else:
                units = replace(settings.units, slice=both)
                slots.prepare(layout, target, self.release, units, self.unwritten)
                sites.write(layout.slot_site(target), self.site)
            processes.refuse_calendars(settings.units.processes)

        def leave() -> None:
            leave_balancer(layout)
            time.sleep(settings.balancer_drain_seconds)

        drains = self.previous is not None and settings.balancer_drain_seconds > 0
        hands_over = settings.units.processes or self.former_processes()
        return [
            *([(LEAVE_BALANCER, leave)] if drains else []),
            ("prepare the slot", prepare),
            (
                START,
                lambda: slots.start(layout, target, settings.instances, explain),
            ),
            (
                PROVE,
                lambda: slots.prove(
                    layout,
                    target,
                    settings.instances,
                    settings.health,
                    explain,
                    since,
                    program.HAS_MASTER,
                ),
            ),
            ("enable it at boot", lambda: slots.enable(layout, target, settings.instances)),
            *([(ADD_SITE, self.add_site)] if self.site and self.site != self.live_site() else []),
            ("switch the proxy", self.switch),
            ("confirm through the proxy", lambda: self.confirm(target)),
            *([(HAND_OVER, self.hand_over)] if hands_over else []),
            *([(RETURN_TO_BALANCER, lambda: return_to_balancer(layout))] if drains else []),
        ]

    def former_processes(self) -> Sequence[processes.Process]:
        """The processes of the old slot."""
        if self.previous is None or not self.current.settings:
            return ()
        return Settings.read(self.current.settings).units.processes

    def hand_over(self) -> None:
        """Starts the processes of the new release, which is confirmed by now."""
        self.handed_over = True
        hand_over(self.layout, self.target, self.settings, self.former_processes())

    def live_site(self) -> sites.Site | None:
        """What the old slot was rolled out with."""
        if self.previous is None:
            return None
        return sites.read(self.layout.slot_site(other_slot(self.target)))

    def add_site(self) -> None:
        """Configures the proxy for the new release; the old one keeps its addresses."""
        assert self.site is not None
        both = sites.merged(self.site, self.live_site())
        self.shared_before = sites.shared_files(self.site.provider)
        self.site_added, self.merged = True, both != self.site
        sites.install(self.layout, both)

    def put_site_back(self) -> str:
        """Configures the proxy as for the old release; returns what to tell of it."""
        live = self.live_site()
        if not self.site_added or live is None:
            return ""
        try:
            sites.install(self.layout, sites.with_shared(live, self.shared_before))
        except (DeployError, OSError) as error:
            return f", but the proxy is not configured as before: {error}"
        return ", and the proxy is configured as before"

    def switch(self) -> None:
        """Turns the proxy; from here on the way back includes turning it again."""
        driver = proxies.driver(self.access(self.target).provider)
        # once more: another app may have come to the other proxy meanwhile
        driver.refuse_switch(self.layout)
        self.switched = True
        self.gap_seconds = driver.switch(self.layout, self.target)

    def access(self, slot: str) -> proxies.ProxyAccess:
        """How a slot is asked: the old one as it was, also where the proxy is another now."""
        if slot == self.target or not self.current.settings:
            return self.settings.access
        return proxies.access_from(self.current.settings["proxy"])

    def confirm(self, slot: str) -> None:
        """Asks from outside until the answer comes from the given slot.

        Raises:
            DeployError: It did not within the time for the proxy.
        """
        access = self.access(slot)
        check = access.check(self.settings.health)
        ask = proxies.driver(access.provider).ask
        deadline = time.monotonic() + access.timeout_seconds
        while True:
            answer = ask(self.layout, access, check)
            if answer.healthy and answer.slot == slot:
                return
            if time.monotonic() > deadline:
                raise DeployError(
                    f"https://{access.domain}{check.path} did not answer from slot {slot} within"
                    f" {access.timeout_seconds:g} s: {answer.text}"
                    f"{f' (from slot {answer.slot})' if answer.slot else ''}"
                )
            time.sleep(slots.POLL_SECONDS)

    def put_back(self, before: slots.Snapshot) -> str:
        """Makes everything what it was before the rollout.

        Returns:
            What was put back, in words.
        """
        layout, settings, target = self.layout, self.settings, self.target
        old = other_slot(target)
        if self.previous is None:
            told = "this was the first release, so nothing serves"
        elif self.switched:
            proxies.driver(self.access(old).provider).switch(layout, old)
            told = f"release {self.previous} was put back and serves in slot {old}"
            told += self.put_site_back()
            try:
                self.confirm(old)
            except DeployError as second:
                told += f", but that could not be confirmed: {second.message}"
            slots.settle(layout, target, settings.settle_seconds, settings.drain_seconds)
        else:
            told = f"release {self.previous} was not touched and serves in slot {old}"
            told += self.put_site_back()
        slots.stop(layout, target)
        slots.disable(layout, target)
        slots.restore(layout, target, before)
        if self.handed_over and self.previous is not None:
            hand_over(layout, old, Settings.read(self.current.settings), ())
            told += ", its processes run again"
        return told


def remove(layout: Layout) -> bool:
    """Stops both slots and removes their units; releases and state are left alone.

    Returns:
        Whether there was anything to remove.
    """
    present = any(
        layout.unit_file(slot, kind).exists() for slot in SLOTS for kind in ("service", "socket")
    )
    if layout.watch_unit_file.exists():
        systemd.systemctl("disable", "--quiet", "--now", layout.watch_unit)
    for slot in SLOTS:
        slots.stop(layout, slot)
        slots.forget(layout, slot)
    systemd.systemctl("stop", layout.slice, check=False)
    for path in (
        layout.slice_file,
        layout.migrate_unit_file,
        layout.migrated_unit_file,
        layout.draining_file,
        layout.watch_unit_file,
    ):
        present = remove_file(path) or present
    if present:
        systemd.systemctl("daemon-reload")
    return present

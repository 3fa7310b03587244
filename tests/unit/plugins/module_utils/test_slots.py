"""Slots, as far as no systemd is needed."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.asgi.deploy.plugins.module_utils import slots, systemd
from ansible_collections.asgi.deploy.plugins.module_utils.errors import DeployError
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout

UNITS = slots.SlotUnits(service="[Service]\n", socket="[Socket]\n", slice="[Slice]\n")
#: /proc/net/unix of a host with two instances of blue: listeners (01), connections (03), one that
#: is being closed, clients without a path, an abstract name, another app and another slot.
TABLE = """\
Num       RefCount Protocol Flags    Type St Inode Path
ffff8881a1b2c000: 00000002 00000000 00010000 0001 01 20101 /run/asgi/blog/blue/1.sock
ffff8881a1b2c400: 00000002 00000000 00010000 0001 01 20102 /run/asgi/blog/blue/2.sock
ffff8881a1b2c800: 00000003 00000000 00000000 0001 03 20201 /run/asgi/blog/blue/1.sock
ffff8881a1b2cc00: 00000003 00000000 00000000 0001 03 20202 /run/asgi/blog/blue/1.sock
ffff8881a1b2d000: 00000003 00000000 00000000 0001 03 20203 /run/asgi/blog/blue/2.sock
ffff8881a1b2d400: 00000003 00000000 00000000 0001 04 20204 /run/asgi/blog/blue/2.sock
ffff8881a1b2d800: 00000003 00000000 00000000 0001 03 20205
ffff8881a1b2dc00: 00000003 00000000 00000000 0001 03 20206 /run/asgi/blog/green/1.sock
ffff8881a1b2e000: 00000003 00000000 00000000 0001 03 20207 /run/asgi/blog2/blue/1.sock
ffff8881a1b2e400: 00000003 00000000 00000000 0001 03 20208 @/run/asgi/blog/blue/1.sock
ffff8881a1b2e800: 00000003 00000000 00000000 0001 03 20209 /run/a name with spaces/1.sock
"""


@pytest.mark.parametrize(
    ("name", "slot", "count"),
    [("blog", "blue", 3), ("blog", "green", 1), ("blog2", "blue", 1), ("other", "blue", 0)],
)
def test_connections_are_those_to_the_instances_of_the_slot(
    tmp_path: Path, name: str, slot: str, count: int
) -> None:
    table = tmp_path / "unix"
    table.write_text(TABLE, encoding="utf-8")
    assert slots.connections(Layout(name, tmp_path), slot, table) == count


def test_connections_reads_the_table_of_this_kernel(tmp_path: Path) -> None:
    assert slots.connections(Layout("no-such-app", tmp_path), "blue") == 0


def test_unit_files_of_both_slots_share_the_slice(app: Layout) -> None:
    blue, green = (slots.unit_files(app, slot, UNITS) for slot in ("blue", "green"))
    assert sorted(path.name for path in blue) == [
        "asgi-blog.slice",
        "blog--publish-blue@.service",
        "blog-blue@.service",
        "blog-blue@.socket",
    ]
    assert set(blue) & set(green) == {app.slice_file}
    assert blue[app.unit_file("blue", "service")] == UNITS.service
    assert blue[app.unit_file("blue", "socket")] == UNITS.socket
    assert blue[app.slice_file] == UNITS.slice


@pytest.fixture
def started(app: Layout) -> Layout:
    """An app whose slot blue was started with one instance and is as it should be."""
    for path, text in slots.unit_files(app, "blue", UNITS).items():
        path.write_text(text, encoding="utf-8")
    app.slot_configuration("blue").mkdir()
    for name in ("environment", "secrets"):
        for directory in (app.configuration, app.slot_configuration("blue")):
            (directory / name).write_text(f'{name.upper()}="s3cret"\n', encoding="utf-8")
    enable(app, 1)
    return app


def enable(app: Layout, number: int) -> None:
    """Enables one instance of blue as systemctl does."""
    wants = app.slice_file.parent / "multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / app.unit("blue", number)).symlink_to(app.unit_file("blue", "service"))


def test_a_slot_as_it_should_be_has_no_difference(started: Layout) -> None:
    assert slots.differences(started, "blue", UNITS, 1) == []


@pytest.mark.parametrize("kind", ["service", "socket", "slice"])
def test_another_unit_is_a_difference(started: Layout, kind: str) -> None:
    changed = slots.SlotUnits(**{**vars(UNITS), kind: "[Other]\n"})
    (told,) = slots.differences(started, "blue", changed, 1)
    assert told.startswith("unit ")
    assert told.endswith(kind)


@pytest.mark.parametrize("name", ["environment", "secrets"])
def test_another_configuration_is_a_difference_and_not_shown(started: Layout, name: str) -> None:
    (started.configuration / name).write_text('X="0th3r"\n', encoding="utf-8")
    assert slots.differences(started, "blue", UNITS, 1) == [name]


def test_another_number_of_instances_is_a_difference(started: Layout) -> None:
    assert slots.differences(started, "blue", UNITS, 3) == ["instances 1 to 3"]
    enable(started, 2)
    assert slots.differences(started, "blue", UNITS, 1) == ["instances 2 to 1"]


def test_all_differences_of_a_slot_that_was_never_started(app: Layout) -> None:
    told = slots.differences(app, "green", UNITS, 2)
    assert sorted(told) == [
        "environment",
        "instances 0 to 2",
        "secrets",
        "unit asgi-blog.slice",
        "unit blog-green@.service",
        "unit blog-green@.socket",
    ]


# --- what would be different ----------------------------------------------------------------------


def test_what_check_mode_has_not_written_takes_the_place_of_what_is_there(started: Layout) -> None:
    secrets = (started.configuration / "secrets").read_text(encoding="utf-8")
    (started.configuration / "environment").write_text('X="0ld"\n', encoding="utf-8")
    assert slots.differences(started, "blue", UNITS, 1, {"secrets": secrets}) == ["environment"]
    unwritten = {"environment": 'ENVIRONMENT="s3cret"\n', "secrets": 'X="new"\n'}
    assert slots.differences(started, "blue", UNITS, 1, unwritten) == ["secrets"]


def test_the_diff_is_that_of_what_serves_and_what_is_to_serve(started: Layout) -> None:
    assert slots.unit_diff(started, "blue", "green", UNITS) == []
    changed = slots.SlotUnits(service="[New]\n", socket="[Socket]\n", slice="[Wide]\n")
    service, slice_ = slots.unit_diff(started, "blue", "green", changed)
    assert service["before_header"].endswith("/blog-blue@.service")
    assert service["after_header"].endswith("/blog-green@.service")
    assert (service["before"], service["after"]) == ("[Service]\n", "[New]\n")
    assert slice_["before_header"] == slice_["after_header"] == str(started.slice_file)
    assert (slice_["before"], slice_["after"]) == ("[Slice]\n", "[Wide]\n")


def test_the_diff_of_a_first_slot_is_all_new(started: Layout) -> None:
    """Files that a first try left behind are nothing that has served."""
    told = slots.unit_diff(started, None, "blue", UNITS)
    assert [one["before"] for one in told] == ["", "", ""]
    assert [one["after"] for one in told] == ["[Service]\n", "[Socket]\n", "[Slice]\n"]


def test_a_slot_has_units_of_its_own(started: Layout) -> None:
    given = slots.SlotUnits(service="[New]\n", socket="[New]\n", slice="[Wide]\n")
    own = slots.own_units(started, "blue", given)
    assert own == slots.SlotUnits(service="[Service]\n", socket="[Socket]\n", slice="[Wide]\n")


def test_changed_variables_are_named_and_their_values_are_not(started: Layout) -> None:
    after = slots.configuration_files(started, "green", {"secrets": 'KEY="0th3r"\n'})
    told = slots.configuration_changes(started, "blue", after)
    assert told == {"added": ["KEY"], "changed": [], "removed": ["SECRETS"]}
    assert slots.configuration_changes(started, None, after)["added"] == ["ENVIRONMENT", "KEY"]
    # a secret that becomes a setting is the same variable
    moved = slots.configuration_files(
        started, "green", {"environment": 'SECRETS="s3cret"\nENVIRONMENT="s3cret"\n', "secrets": ""}
    )
    assert slots.configuration_changes(started, "blue", moved) == {
        "added": [],
        "changed": [],
        "removed": [],
    }


#: Of a server that makes its listener itself.
OWN_LISTENER = slots.SlotUnits(**{**vars(UNITS), "socket": "", "publish": "[Unit]\n"})


def test_a_slot_has_no_socket_units_where_the_server_makes_its_listener(started: Layout) -> None:
    assert slots.listeners(started, "blue", 2) == ["blog-blue@1.socket", "blog-blue@2.socket"]
    # one that a former server has left behind is a difference
    publish = started.publish_unit_file("blue")
    assert slots.differences(started, "blue", OWN_LISTENER, 1) == [
        "unit blog-blue@.socket",
        "unit blog--publish-blue@.service",
    ]
    started.unit_file("blue", "socket").unlink()
    publish.unlink()
    assert slots.publishers(started, "blue", 2) == []
    publish.write_text(OWN_LISTENER.publish)
    assert slots.listeners(started, "blue", 2) == []
    assert slots.publishers(started, "blue", 2) == [
        "blog--publish-blue@1.service",
        "blog--publish-blue@2.service",
    ]
    assert slots.differences(started, "blue", OWN_LISTENER, 1) == []
    assert slots.own_units(started, "blue", UNITS) == OWN_LISTENER
    assert slots.unit_diff(started, "blue", "green", OWN_LISTENER) == []
    (service, publishes, slice_) = slots.unit_diff(started, None, "blue", OWN_LISTENER)
    assert (service["after"], slice_["after"]) == ("[Service]\n", "[Slice]\n")
    assert publishes["after"] == OWN_LISTENER.publish


@pytest.mark.parametrize(
    ("state", "refused"),
    [
        ("ActiveState=activating\nResult=success", False),
        ("ActiveState=activating\nResult=exit-code", True),
        ("ActiveState=activating\nResult=success\nNRestarts=1", True),
    ],
)
def test_an_instance_whose_socket_gets_no_name_is_refused(
    started: Layout, monkeypatch: pytest.MonkeyPatch, state: str, refused: bool
) -> None:
    """As soon as that fails, with what root has found: the instance itself runs."""
    text = (
        "Id=blog-blue@1.service\nActiveState=active\nSubState=running\nResult=success\n\n"
        f"Id=blog--publish-blue@1.service\n{state}\n"
    )
    started.publish_unit_file("blue").write_text(OWN_LISTENER.publish)
    monkeypatch.setattr(slots.systemd, "systemctl", lambda *_words, **_options: text)
    monkeypatch.setattr(slots.systemd, "journal", lambda units, _since: f"of {' '.join(units)}")
    if not refused:
        slots.refuse_exited(started, "blue", 1, lambda _code: "", 0)
        return
    with pytest.raises(DeployError) as raised:
        slots.refuse_exited(started, "blue", 1, lambda _code: "", 0)
    assert raised.value.message == (
        "blog-blue@1.service has no socket that the proxy may use: blog--publish-blue@1.service has"
        " failed\nlast lines of its journal:\nof blog-blue@1.service blog--publish-blue@1.service"
    )


class Started:
    """A systemd that cannot start an instance.

    Args:
        result: What it says of the instance.
        code: How its process has ended.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, result: str, code: int) -> None:
        self.result = result
        self.code = code
        monkeypatch.setattr(slots.systemd, "systemctl", self.systemctl)
        monkeypatch.setattr(slots.systemd, "journal", lambda units, _since: f"of {units[0]}")

    def systemctl(self, verb: str, *units: str) -> str:
        """Fails to start services, and tells of them."""
        if verb == "show":
            return (
                f"Id={units[-1]}\nActiveState=activating\nSubState=auto-restart\n"
                f"Result={self.result}\nNRestarts=0\nExecMainStatus={self.code}\n"
            )
        if units[0].endswith(".service"):
            raise DeployError("Job failed")
        return ""

    def start(self, layout: Layout) -> str:
        """Returns the error of a start of one instance in slot blue."""
        with pytest.raises(DeployError) as raised:
            slots.start(layout, "blue", 1, lambda code: f"code {code} explained")
        return raised.value.message


def test_a_start_that_fails_tells_how_the_process_has_ended(
    started: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that cannot be run, for example."""
    told = Started(monkeypatch, "exit-code", 1).start(started)
    assert told.startswith("blog-blue@1.service did not stay up: exit code 1 (code 1 explained)")
    assert told.endswith("of blog-blue@1.service")


def test_a_start_that_systemd_does_not_even_try_tells_what_it_says(
    started: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Started(monkeypatch, "success", 0).start(started)
    assert told == "Job failed\nof blog-blue@1.service"


#: Of a server that serves through the entry.
THROUGH_ENTRY = slots.SlotUnits(
    **{**vars(UNITS), "service": "[Service]\nExecStart=python _asgi_deploy_entry.py\n"}
)


def test_a_slot_gets_the_entry_of_today_whatever_the_age_of_its_release(
    app: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots.systemd, "install_unit_files", lambda _files: [])
    app.release("1-a").mkdir()
    slots.prepare(app, "blue", "1-a", THROUGH_ENTRY)
    file = slots.entry_file(app, "blue")
    assert file.read_text() == slots.ENTRY
    # root's, and the app's user may read it
    assert [path.stat().st_mode & 0o777 for path in (file, file.parent)] == [0o644, 0o755]
    assert list(file.parent.iterdir()) == [file]
    assert not list(app.release("1-a").iterdir())


def test_a_slot_may_get_the_configuration_of_what_serves(
    app: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for the next deploy nobody has proven; the watch does not take it up."""
    monkeypatch.setattr(slots.systemd, "install_unit_files", lambda _files: [])
    app.release("1-a").mkdir()
    (app.configuration / "environment").write_text("of a failed deploy")
    slots.prepare(app, "blue", "1-a", UNITS, {"environment": "serves", "secrets": "its own"})
    found = app.slot_configuration("blue")
    assert (found / "environment").read_text() == "serves"
    assert (found / "secrets").read_text() == "its own"
    slots.prepare(app, "blue", "1-a", UNITS)
    assert (found / "environment").read_text() == "of a failed deploy"


def test_another_entry_is_a_difference_where_the_server_is_started_by_it(
    started: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = slots.entry_file(started, "blue")
    # uvicorn has no use for one
    assert slots.differences(started, "blue", UNITS, 1) == []
    started.unit_file("blue", "service").write_text(THROUGH_ENTRY.service)
    assert slots.differences(started, "blue", THROUGH_ENTRY, 1) == [file.name]
    file.parent.mkdir(parents=True)
    file.write_text(slots.ENTRY)
    assert slots.differences(started, "blue", THROUGH_ENTRY, 1) == []
    # a collection with a mended one
    file.write_text("# former\n")
    assert slots.differences(started, "blue", THROUGH_ENTRY, 1) == [file.name]
    before = slots.snapshot(started, "blue", slots.SlotUnits("", "", ""))
    monkeypatch.setattr(slots.systemd, "systemctl", lambda *_arguments, **_options: "")
    file.write_text(slots.ENTRY)
    slots.restore(started, "blue", before)
    assert file.read_text() == "# former\n"


def test_a_slot_is_forgotten_with_what_a_killed_run_has_left(
    app: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every later removal would fail."""
    monkeypatch.setattr(systemd, "systemctl", lambda *_arguments, **_options: "")
    directory = app.slot_configuration("blue")
    directory.mkdir()
    for name in ("secrets", ".secrets.a1b2c3d4"):
        (directory / name).touch()
    slots.forget(app, "blue")
    assert not directory.exists()


def test_links_of_enabled_units_are_on_disk_before_the_switch(
    app: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(systemd, "systemctl", lambda *words, **_options: asked.append(words[0]))
    monkeypatch.setattr(systemd, "sync_links", lambda: asked.append("on disk"))
    slots.enable(app, "blue", 1)
    assert asked == ["enable", "on disk"]

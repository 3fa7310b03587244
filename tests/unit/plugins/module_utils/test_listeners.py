"""Where slots listen, read from their socket units and from the kernel's own tables."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

from ansible_collections.asgi.deploy.plugins.module_utils import listeners, slots
from ansible_collections.asgi.deploy.plugins.module_utils.health import HealthCheck, ask_listener
from ansible_collections.asgi.deploy.plugins.module_utils.layout import Layout

UNIX = slots.SlotUnits("", "[Socket]\nListenStream=/run/asgi/blog/%j/%i.sock\n", "")
HEAD = "  sl  local_address rem_address   st\n"


def tcp(port: int) -> slots.SlotUnits:
    """Units of an app that listens on ports."""
    return slots.SlotUnits("", "[Socket]\nListenStream=127.0.1.%i:@port@\n", "", port)


def install(app: Layout, slot: str, units: slots.SlotUnits) -> None:
    """Writes the unit files of a slot."""
    for path, text in slots.unit_files(app, slot, units).items():
        path.write_text(text, encoding="utf-8")


def row(address: str, port: int, state: str) -> str:
    """A line of the kernel's table."""
    return f"   0: {address}:{port:04X} 0100007F:D431 {state} 00000000:00000000\n"


def test_a_slot_listens_where_its_unit_says(app: Layout) -> None:
    """Also while an app moves from one kind to the other."""
    assert listeners.listener(app, "blue", 1) == app.socket("blue", 1)
    install(app, "blue", UNIX)
    install(app, "green", tcp(20000))
    assert listeners.listener(app, "blue", 2) == app.socket("blue", 2)
    assert listeners.listener(app, "green", 2) == ("127.0.1.2", 20001)
    install(app, "blue", tcp(20000))
    assert listeners.listener(app, "blue", 1) == ("127.0.1.1", 20000)


def test_the_text_of_a_slot_with_ports_is_the_same_on_every_look(app: Layout) -> None:
    install(app, "green", tcp(20000))
    different = slots.differences(app, "green", tcp(20000), 0)
    assert [word for word in different if word.startswith("unit ")] == []
    assert "unit blog-green@.socket" in slots.differences(app, "green", tcp(20002), 0)


def test_open_connections_of_a_slot_are_counted_at_its_own_addresses(tmp_path: Path) -> None:
    table = tmp_path / "tcp"
    table.write_text(
        HEAD
        + row("0101007F", 20001, "01")
        + row("0201007F", 20001, "01")
        + row("0101007F", 20001, "0A")  # listens
        + row("0101007F", 20001, "06")  # is over
        + row("0101007F", 20000, "01")  # the other slot
        + row("0100007F", 20001, "01")  # somebody who was given this port by chance
    )
    assert listeners.tcp_connections(20001, table) == 2
    assert listeners.tcp_connections(20003, table) == 0


def test_the_kernels_own_table_is_understood() -> None:
    with socket.socket() as server:
        server.bind(("127.0.1.3", 0))
        server.listen()
        port = server.getsockname()[1]
        assert listeners.tcp_connections(port) == 0
        with socket.create_connection(("127.0.1.3", port)):
            # before anybody has accepted it: such a request waits
            assert listeners.tcp_connections(port) == 1


def test_an_instance_is_asked_at_its_port() -> None:
    with socket.socket() as server:
        server.bind(("127.0.1.1", 0))
        server.listen()

        def answer_once() -> None:
            connection, _peer = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        instance = threading.Thread(target=answer_once)
        instance.start()
        answer = ask_listener(("127.0.1.1", server.getsockname()[1]), HealthCheck())
        instance.join()
    assert answer.healthy


def test_ports_of_others_are_refused_and_the_apps_own_are_not(app: Layout, tmp_path: Path) -> None:
    table = tmp_path / "tcp"
    units = app.unit_file("blue", "socket").parent
    table.write_text(HEAD)

    def told(port: int) -> list[str]:
        return listeners.port_problems(app, port, [table, tmp_path / "no-tcp6"], units)

    assert told(20000) == []
    (units / "shop-green@.socket").write_text("ListenStream=127.0.1.%i:20001\n")
    (problem,) = told(20000)
    assert problem.startswith("asgi_service_port: port 20001, for slot green, is taken by shop-gr")
    assert told(20002) == []
    table.write_text(HEAD + row("00000000", 20002, "0A"))
    (problem,) = told(20002)
    assert "is taken by another program" in problem
    # the app's own slot listens there
    install(app, "blue", tcp(20002))
    assert told(20002) == []

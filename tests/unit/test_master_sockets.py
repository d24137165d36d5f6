"""Where services listen: names of master.cf to addresses, and sockets that outlive a change of configuration."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from fastmta.config import Config, ConfigError, load
from fastmta.master.sockets import Endpoint, Listeners, endpoints, is_left, port_number, split_name
from tests.live import free_port

V4, V6 = socket.AF_INET, socket.AF_INET6


def config(folder: Path, services: str, **parameters: str) -> Config:
    values = {"inet_protocols": "ipv4", "myhostname": "mail.example", **parameters}
    (folder / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in values.items()))
    (folder / "master.cf").write_text("".join(f"{name} inet n - n - - smtpd\n" for name in services.split()))
    return load(folder)


@pytest.mark.parametrize(
    ("name", "host", "port"),
    [
        ("smtp", "", "smtp"),
        ("25", "", "25"),
        ("127.0.0.1:2525", "127.0.0.1", "2525"),
        ("[127.0.0.1]:2525", "127.0.0.1", "2525"),
        ("[::1]:2525", "::1", "2525"),
        ("::1:2525", "::1", "2525"),
        ("localhost:submission", "localhost", "submission"),
    ],
)
def test_service_names(name: str, host: str, port: str) -> None:
    assert split_name(name) == (host, port)


@pytest.mark.parametrize("name", ["[127.0.0.1]", "[]:25", "[::1"])
def test_bad_service_names(name: str) -> None:
    with pytest.raises(ValueError, match="bad service name"):
        split_name(name)


@pytest.mark.parametrize(("text", "port"), [("smtp", 25), ("submission", 587), ("1", 1), ("65535", 65535)])
def test_ports(text: str, port: int) -> None:
    assert port_number(text) == port


@pytest.mark.parametrize("text", ["0", "65536", "-1", "nosuchservice", "", "²"])
def test_bad_ports(text: str) -> None:
    with pytest.raises(ValueError, match="unknown TCP port or service"):
        port_number(text)


def test_a_service_without_a_host_listens_at_our_own_addresses() -> None:
    assert endpoints("25", ("0.0.0.0", "::"), (V4, V6)) == [Endpoint(V4, "0.0.0.0", 25), Endpoint(V6, "::", 25)]


def test_a_host_is_looked_up_for_the_families_that_may_be() -> None:
    assert endpoints("127.0.0.1:25", ("::",), (V4,)) == [Endpoint(V4, "127.0.0.1", 25)]
    with pytest.raises(ValueError, match="no address of the families"):
        endpoints("[::1]:25", ("::",), (V4,))


def test_an_unknown_host_is_named() -> None:
    with pytest.raises(ValueError, match=r"host not found: nosuchhost\.invalid"):
        endpoints("nosuchhost.invalid:25", (), (V4,))


def test_a_wildcard_takes_the_place_of_an_address_and_gives_it(tmp_path: Path) -> None:
    port = free_port()
    listeners = Listeners()
    for name in (f"127.0.0.1:{port}", f"0.0.0.0:{port}", f"127.0.0.1:{port}", f"0.0.0.0:{port}"):
        bound = listeners.bind(config(tmp_path, name), 16)
        listeners.keep(bound)
        assert listeners.addresses() == [name]
        with socket.create_connection(("127.0.0.1", port), timeout=5):
            bound[0][1][0].accept()[0].close()
        # somebody else is kept out as ever
        with pytest.raises(ConfigError, match="Address already in use"):
            Listeners().bind(config(tmp_path, name), 16)
    with pytest.raises(ConfigError, match=r"line 2: bind .* Address already in use"):
        listeners.bind(config(tmp_path, f"0.0.0.0:{port} 127.0.0.1:{port}"), 16)
    assert listeners.addresses() == [f"0.0.0.0:{port}"]
    listeners.close()


def test_who_waits_at_an_address_that_is_left_is_not_cut(tmp_path: Path) -> None:
    port = free_port()
    listeners = Listeners()
    ((_, (sock,)),) = listeners.bind(config(tmp_path, f"127.0.0.1:{port}"), 16)
    at_worker = sock.dup()
    with at_worker, socket.create_connection(("127.0.0.1", port), timeout=5) as early:
        assert not is_left(at_worker)
        listeners.leave(())
        assert is_left(at_worker)
        with pytest.raises(TimeoutError):
            socket.create_connection(("127.0.0.1", port), timeout=0.2)
        connection, _ = at_worker.accept()
        with connection:
            connection.sendall(b"220 welcome\r\n")
            assert early.recv(100) == b"220 welcome\r\n"
            early.sendall(b"QUIT\r\n")
            assert connection.recv(100) == b"QUIT\r\n"
        with pytest.raises(BlockingIOError):
            at_worker.accept()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_a_change_of_configuration_keeps_the_sockets_in_common(tmp_path: Path) -> None:
    first, second, third = free_port(), free_port(), free_port()
    listeners = Listeners()
    before = listeners.bind(config(tmp_path, f"127.0.0.1:{first} 127.0.0.1:{second}"), 16)
    after = listeners.bind(config(tmp_path, f"127.0.0.1:{second} 127.0.0.1:{third}"), 16)
    assert after[0][1][0] is before[1][1][0]
    listeners.keep(after)
    assert listeners.addresses() == [f"127.0.0.1:{second}", f"127.0.0.1:{third}"]
    assert before[0][1][0].fileno() == -1
    listeners.close()


def test_a_failed_change_leaves_everything_as_it_was(tmp_path: Path) -> None:
    ours, new, taken = free_port(), free_port(), free_port()
    listeners = Listeners()
    listeners.bind(config(tmp_path, f"127.0.0.1:{ours}"), 16)
    with socket.create_server(("127.0.0.1", taken)):
        with pytest.raises(
            ConfigError, match=rf"master\.cf, line 2: bind 127\.0\.0\.1 port {taken}: Address already in use"
        ):
            listeners.bind(config(tmp_path, f"127.0.0.1:{new} 127.0.0.1:{taken}"), 16)
    assert listeners.addresses() == [f"127.0.0.1:{ours}"]
    with socket.create_server(("127.0.0.1", new)):
        pass  # not ours any more
    listeners.close()


def test_two_services_cannot_share_an_address(tmp_path: Path) -> None:
    port = free_port()
    listeners = Listeners()
    with pytest.raises(ConfigError, match=rf"line 2: line 1 listens at 127\.0\.0\.1:{port}, too"):
        listeners.bind(config(tmp_path, f"127.0.0.1:{port} [127.0.0.1]:{port}"), 16)
    assert listeners.addresses() == []


def test_an_address_that_is_not_ours_is_an_error(tmp_path: Path) -> None:
    listeners = Listeners()
    with pytest.raises(ConfigError, match=r"bind 192\.0\.2\.1 port 2525: Cannot assign requested address"):
        listeners.bind(config(tmp_path, "192.0.2.1:2525"), 16)


def test_loopback_only_listens_at_loopback_only(tmp_path: Path) -> None:
    port = free_port()
    listeners = Listeners()
    listeners.bind(config(tmp_path, str(port), inet_interfaces="loopback-only"), 16)
    assert listeners.addresses() == [f"127.0.0.1:{port}"]
    listeners.close()


def test_ipv6_sockets_do_not_take_ipv4_connections(tmp_path: Path) -> None:
    try:
        with socket.socket(V6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 on this host")
    port = free_port("::1")
    listeners = Listeners()
    listeners.bind(config(tmp_path, f"[::]:{port}", inet_protocols="ipv6"), 16)
    socket.create_connection(("::1", port), timeout=5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    listeners.close()


def test_the_backlog_holds_connections_that_nobody_accepts_yet(tmp_path: Path) -> None:
    port = free_port()
    listeners = Listeners()
    listeners.bind(config(tmp_path, f"127.0.0.1:{port}"), 64)
    waiting = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(60)]
    for sock in waiting:
        sock.close()
    listeners.close()

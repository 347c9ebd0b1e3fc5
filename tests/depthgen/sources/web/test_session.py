"""The session: whom it connects to, and what it says of itself."""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import requests

import depthgen
from depthgen.sources.web import session as module
from depthgen.sources.web.session import PrivateAddressError, is_public, open_session
from tests.depthgen.sources.web.raw import RawServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.depthgen.sources.web.raw import Connection

    Resolve = Callable[..., None]

BODY = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nSet-Cookie: a=b; Path=/\r\n\r\nhi"


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Resolve:
    """Have every name stand for these addresses; addresses stand for themselves."""
    real = socket.getaddrinfo

    def set_addresses(*addresses: str) -> None:
        def look_up(host: Any, port: Any, *rest: Any, **named: Any) -> list[Any]:
            try:
                return real(host, port, *rest, **{**named, "flags": socket.AI_NUMERICHOST})
            except socket.gaierror:
                found = [real(each, port, type=socket.SOCK_STREAM) for each in addresses]
                return [each for one in found for each in one]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return set_addresses


@contextlib.contextmanager
def serving(requests_seen: list[bytes] | None = None) -> Iterator[RawServer]:
    seen = [] if requests_seen is None else requests_seen

    def answer(connection: Connection) -> None:
        while request := connection.request():
            seen.append(request)
            connection.send(BODY)

    with RawServer(answer) as server:
        yield server


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True),
        ("1.1.1.1", True),
        ("172.15.0.1", True),
        ("172.32.0.1", True),
        ("100.63.0.1", True),
        ("2606:4700:4700::1111", True),
        ("2a00:1450:4001:81b::200e", True),
        ("::ffff:8.8.8.8", True),
        ("2002:808:808::1", True),
        ("64:ff9b::808:808", True),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("172.31.255.255", False),
        ("192.168.1.1", False),
        ("127.0.0.1", False),
        ("127.255.255.254", False),
        ("0.0.0.0", False),
        ("0.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("100.127.255.255", False),
        ("192.0.2.1", False),
        ("198.18.0.1", False),
        ("224.0.0.1", False),
        ("239.255.255.250", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("::ffff:100.64.0.1", False),
        ("::127.0.0.1", False),
        ("2002:7f00:1::", False),
        ("2002:a00:1::", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("2001:0:7f00:1::", False),
        ("2001:db8::1", False),
        ("fc00::1", False),
        ("fd12:3456::1", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("ff0e::1", False),
    ],
)
def test_what_is_public(address: str, expected: bool) -> None:
    assert is_public(address) is expected


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "LOCALHOST", "2130706433", "127.1", "0177.0.0.1", "0x7f.1"),
        *("0.0.0.0", "0", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "user:pw@127.0.0.1"),
    ],
)
def test_this_machine_sees_not_even_a_connection(host: str) -> None:
    with serving() as server, open_session(1, False) as session:
        with pytest.raises(PrivateAddressError):
            session.get(f"http://{host}:{server.port}/", timeout=2)
        assert server.connections == 0


@pytest.mark.parametrize(
    "addresses",
    [("127.0.0.1",), ("8.8.8.8", "127.0.0.1"), ("127.0.0.1", "8.8.8.8"), ("::ffff:127.0.0.1",)],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_name_with_any_private_address_is_refused(
    resolve: Resolve, addresses: tuple[str, ...], scheme: str
) -> None:
    resolve(*addresses)
    with serving() as server, open_session(1, False) as session:
        with pytest.raises(PrivateAddressError, match=r"harmless\.example"):
            session.get(f"{scheme}://harmless.example:{server.port}/", timeout=2)
        assert server.connections == 0


def test_a_name_is_looked_up_once_so_that_it_cannot_change_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, asked = socket.getaddrinfo, []

    def rebind(host: Any, port: Any, *rest: Any, **named: Any) -> Any:
        asked.append(host)
        if host == "rebinding.example":
            host = "127.0.0.3" if asked.count(host) == 1 else "127.0.0.1"
        return real(host, port, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", rebind)
    monkeypatch.setattr(module, "is_public", lambda address: address == "127.0.0.3")
    # Nobody listens at the address that was looked at.
    with serving() as server, open_session(1, False) as session:
        with pytest.raises(requests.ConnectionError):
            session.get(f"http://rebinding.example:{server.port}/", timeout=2)
        assert server.connections == 0
    assert asked.count("rebinding.example") == 1
    assert set(asked) == {"rebinding.example", "127.0.0.3"}


def test_a_private_address_is_reached_where_that_is_allowed() -> None:
    with serving() as server, open_session(1, True) as session:
        assert session.get(f"http://localhost:{server.port}/", timeout=2).content == b"hi"


def test_a_name_without_an_address_is_a_connection_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (socket.gaierror(socket.EAI_NONAME, "unknown"), UnicodeError("label too long")):

        def fail(*_: Any, error: Exception = error, **__: Any) -> Any:
            raise error

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        with open_session(1, False) as session, pytest.raises(requests.ConnectionError):
            session.get("http://nowhere.example/", timeout=2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    with open_session(1, False) as session, pytest.raises(requests.ConnectionError):
        session.get("http://nowhere.example/", timeout=2)


@contextlib.contextmanager
def deaf(port: int) -> Iterator[None]:
    """127.0.0.2 at this port takes no connection, and does not say so: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.2", port))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.2", port))
        yield


@pytest.mark.parametrize("first", ["127.0.0.3", "127.0.0.2"], ids=["refusing", "deaf"])
def test_the_next_address_is_tried_where_the_first_does_not_answer(
    resolve: Resolve, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    monkeypatch.setattr(module, "is_public", lambda _: True)
    resolve(first, "127.0.0.1")
    with serving() as server, deaf(server.port), open_session(1, False) as session:
        answer = session.get(f"http://two.example:{server.port}/", timeout=0.5)
        assert answer.content == b"hi"


def test_it_names_itself_keeps_no_cookies_and_wants_nothing_packed() -> None:
    seen: list[bytes] = []
    with serving(seen) as server, open_session(1, True) as session:
        for _ in range(2):
            session.get(f"{server.origin}/", timeout=2)
        assert len(session.cookies) == 0
    for request in seen:
        lines = request.decode().lower().split("\r\n")
        agents = [each for each in lines if each.startswith("user-agent:")]
        assert len(agents) == 1
        assert f"depthgen/{depthgen.__version__}" in agents[0]
        assert [each for each in lines if each.startswith("accept-encoding:")] == [
            "accept-encoding: identity"
        ]
        assert not any(each.startswith(("cookie:", "referer:")) for each in lines)


def test_the_host_header_is_the_name_though_the_connection_is_to_the_address(
    resolve: Resolve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "is_public", lambda _: True)
    resolve("127.0.0.1")
    seen: list[bytes] = []
    with serving(seen) as server, open_session(1, False) as session:
        session.get(f"http://name.example:{server.port}/", timeout=2)
        assert f"Host: name.example:{server.port}\r\n".encode() in seen[0]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of right.example in one file, signed by itself."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not there")
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = [
        *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-days", "2", "-subj", "/CN=right.example", "-keyout", str(key)),
        *("-out", str(cert), "-addext", "subjectAltName=DNS:right.example"),
    ]
    subprocess.run(command, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    return both


@pytest.mark.parametrize(
    ("name", "trusted", "fine"),
    [
        ("right.example", True, True),
        ("wrong.example", True, False),
        ("right.example", False, False),
    ],
)
def test_tls_checks_the_name_and_not_the_address(
    resolve: Resolve,
    monkeypatch: pytest.MonkeyPatch,
    certificate: Path,
    name: str,
    trusted: bool,
    fine: bool,
) -> None:
    monkeypatch.setattr(module, "is_public", lambda _: True)
    resolve("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    asked_for: list[str | None] = []
    context.sni_callback = lambda _, server_name, __: asked_for.append(server_name)

    def answer(connection: Connection) -> None:
        with context.wrap_socket(connection.stream, server_side=True) as stream:
            stream.recv(1 << 16)
            stream.sendall(BODY)

    with RawServer(answer) as server, open_session(1, False) as session:
        address = f"https://{name}:{server.port}/"
        verify = str(certificate) if trusted else True
        if fine:
            assert session.get(address, timeout=2, verify=verify).content == b"hi"
        else:
            with pytest.raises(requests.exceptions.SSLError):
                session.get(address, timeout=2, verify=verify)
        assert asked_for == [name]

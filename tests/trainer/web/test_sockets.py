"""Connections pass dead addresses and proxies; certificates are those that the environment names."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bot.config import MastodonSettings
from bot.instance.client import Client
from tests.web import serving, status
from trainer.config import WebSettings
from trainer.errors import FetchError
from trainer.web import sockets
from trainer.web.fetch import Fetcher, _join
from trainer.web.sockets import open_socket

PUBLIC = "93.184.215.14"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the addresses that every name has; no addresses: the name server does not know it."""

    def to(*addresses: tuple[int, tuple[Any, ...]]) -> None:
        def look_up(*_: object, **__: object) -> list[object]:
            if not addresses:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in addresses]

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return to


def fetch(url: str, **web: object) -> bytes:
    settings = WebSettings.model_validate({"max_attempts": 1, "total_timeout_s": 5.0} | web)
    with Fetcher(settings) as fetcher:
        return fetcher.get(url, max_bytes=1000).body


# Dead addresses


@contextmanager
def dropping_packets(address: str) -> Iterator[int]:
    """A port to which no connection comes about: its queue is full, so the kernel drops what asks for one."""
    with socket.socket() as listener:
        listener.bind((address, 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        callers = []
        for _ in range(4):
            caller = socket.socket()
            caller.setblocking(False)
            caller.connect_ex((address, port))
            callers.append(caller)
        yield port
        for caller in callers:
            caller.close()


def test_a_first_address_that_drops_packets_holds_nothing_up(
    resolve: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with dropping_packets("127.0.0.2") as port, socket.create_server(("127.0.0.1", port)):
        resolve((socket.AF_INET, ("127.0.0.2", port)), (socket.AF_INET, ("127.0.0.1", port)))
        with open_socket("dual.example", port, timeout_s=20, allow_private=True) as sock:
            assert sock.getpeername()[0] == "127.0.0.1"
            assert sock.gettimeout() == 20
        # The next time the good one comes first: with this delay, the other would have the whole time to itself.
        monkeypatch.setattr(sockets, "ATTEMPT_DELAY_S", 3600.0)
        with open_socket("dual.example", port, timeout_s=5, allow_private=True) as sock:
            assert sock.getpeername()[0] == "127.0.0.1"


def test_an_address_that_refuses_is_left_at_once(resolve: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "ATTEMPT_DELAY_S", 3600.0)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        resolve((socket.AF_INET, ("127.0.0.2", port)), (socket.AF_INET, ("127.0.0.1", port)))
        open_socket("refusing.example", port, timeout_s=5, allow_private=True).close()


def test_dead_addresses_alone_end_at_the_deadline(resolve: Callable[..., None]) -> None:
    with dropping_packets("127.0.0.2") as port:
        resolve((socket.AF_INET, ("127.0.0.2", port)))
        with pytest.raises(TimeoutError):
            open_socket("dead.example", port, timeout_s=0.5, allow_private=True)


def test_families_take_turns() -> None:
    six, four = socket.AF_INET6, socket.AF_INET
    found = sockets._alternating([(six, 1), (six, 2), (six, 3), (four, 4), (four, 5)])
    assert [address for _, address in found] == [1, 4, 2, 5, 3]


def test_no_private_address_is_tried_beside_a_public_one(resolve: Callable[..., None]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        resolve((socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET, ("240.0.0.1", port)))
        with pytest.raises(FetchError, match="not a public internet address"):
            open_socket("mixed.example", port, timeout_s=2, allow_private=False)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


# Proxies


class Proxy:
    """A proxy that opens tunnels, all of them to one server.

    Attributes:
        heads: what it was asked, up to the empty line.
        answer: its answer instead of a tunnel, if not empty.
    """

    def __init__(self, to: int) -> None:
        self.heads: list[str] = []
        self.answer = b""
        self._to = to
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += client.recv(1)
            self.heads.append(head.decode())
            if self.answer:
                client.sendall(self.answer)
                return
            with socket.create_connection(("127.0.0.1", self._to)) as server:
                client.sendall(b"HTTP/1.1 200 Connection established\r\nX: y\r\n\r\n")
                back = threading.Thread(target=_pump, args=(server, client), daemon=True)
                back.start()
                _pump(client, server)
                back.join()

    def close(self) -> None:
        self._listener.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def server() -> Iterator[Any]:
    with serving({"/a": b"a photo"}) as server:
        yield server


@pytest.fixture
def proxy(server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    proxy = Proxy(server.server_address[1])
    monkeypatch.setenv("HTTP_PROXY", f"http://us%20er:s3cret@127.0.0.1:{proxy.port}")  # pragma: allowlist secret
    yield proxy
    proxy.close()


@pytest.fixture
def public(monkeypatch: pytest.MonkeyPatch) -> None:
    """gallery.example has a public address, which is not called; the proxy's own is looked up as ever."""
    real = socket.getaddrinfo

    def look_up(host: str, port: int, *more: Any, **named: Any) -> list[Any]:
        if host == "gallery.example":
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (PUBLIC, port))]
        return real(host, port, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.usefixtures("public")
def test_a_photo_comes_through_the_proxy_from_the_checked_address(proxy: Proxy) -> None:
    assert fetch("http://gallery.example/a") == b"a photo"
    (head,) = proxy.heads
    assert head.startswith(f"CONNECT {PUBLIC}:80 HTTP/1.1\r\n")
    assert "Proxy-Authorization: Basic dXMgZXI6czNjcmV0\r\n" in head


def test_a_private_address_is_not_asked_of_a_proxy(proxy: Proxy) -> None:
    with pytest.raises(FetchError, match="not a public internet address"):
        fetch("http://127.0.0.1/a")
    assert not proxy.heads


def test_a_photos_host_that_cannot_be_checked_is_explained(proxy: Proxy) -> None:
    with pytest.raises(FetchError, match="NO_PROXY"):
        fetch("http://nowhere.invalid/a")
    assert not proxy.heads


def test_what_no_proxy_names_is_fetched_directly(server: Any, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert fetch(f"{server.url}/a", allow_private_addresses=True) == b"a photo"
    assert not proxy.heads


@pytest.mark.usefixtures("public")
@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 403 \x1b[2Jno\r\n\r\n", b"", b"x" * 20_000, b"SSH-2.0-x\r\n\r\n", b"\r\n\r\n"]
)
def test_a_proxy_that_refuses_or_is_none_is_a_clear_error(proxy: Proxy, answer: bytes) -> None:
    proxy.answer = answer or b" "
    with pytest.raises(FetchError, match="the proxy") as caught:
        fetch("http://gallery.example/a")
    assert str(caught.value).isprintable()
    assert "s3cret" not in str(caught.value)


@pytest.mark.usefixtures("public")
@pytest.mark.parametrize("address", ["socks5://127.0.0.1:1", "https://127.0.0.1:1", "http://[", "http://:1", "::"])
def test_a_proxy_of_another_kind_is_a_clear_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", address)
    with pytest.raises(FetchError, match="HTTPS_PROXY"):
        fetch("http://gallery.example/a")


def test_api_calls_go_through_the_same_proxy_which_looks_the_name_up(server: Any, proxy: Proxy) -> None:
    me = status(200, b'{"id": 1, "username": "me"}', Content_Type="application/json")
    server.answers["/api/v1/accounts/verify_credentials"] = me
    settings = MastodonSettings(base_url="http://bots.invalid", allow_http=True)
    assert Client(settings, "t0ken", user_agent="test").home.me().acct == "me"
    (head,) = proxy.heads
    assert head.startswith("CONNECT bots.invalid:80 HTTP/1.1\r\n")
    assert "t0ken" not in head


# Redirects, certificates, ports


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of its own for localhost, with its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl here to make a certificate with")
    path = tmp_path / "both.pem"
    kind = ["-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(path), "-out", str(path)]
    subprocess.run([openssl, "req", *kind, *name, *files], check=True, capture_output=True)
    return path


@contextmanager
def serving_tls(certificate: Path, answers: dict[str, Any]) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with serving(answers) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        yield f"https://localhost:{server.server_address[1]}"


def test_the_environments_certificates_count_for_photos_as_for_calls(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = status(200, b'{"id": 1, "username": "me"}', Content_Type="application/json")
    with serving_tls(certificate, {"/a": b"a photo", "/api/v1/accounts/verify_credentials": me}) as url:
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
        with pytest.raises(FetchError, match="certificate verify failed"):
            fetch(f"{url}/a", allow_private_addresses=True)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        assert fetch(f"{url}/a", allow_private_addresses=True) == b"a photo"
        assert Client(MastodonSettings(base_url=url), "t0ken", user_agent="test").home.me().acct == "me"
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
        with pytest.raises(FetchError, match="CA"):
            fetch(f"{url}/a", allow_private_addresses=True)


def test_no_redirect_leads_back_from_https_to_http(
    certificate: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with (
        serving_tls(certificate, {"/": status(302, Location=f"{server.url}/a")}) as url,
        pytest.raises(FetchError, match="from https to http") as caught,
    ):
        fetch(url, allow_private_addresses=True)
    assert caught.value.retry_after_s is None
    assert not server.requests


@pytest.mark.parametrize("location", ["http://host/", "HTTP://HOST/", "\thttp://host/"])
def test_a_step_back_is_seen_in_every_spelling(location: str) -> None:
    with pytest.raises(FetchError, match="from https to http"):
        _join("https://host/a", location)


@pytest.mark.parametrize("location", ["/写真.jpg", "/全.jpg", "/%E5%86%99.jpg", "/caf\u00e9.jpg"])
def test_a_redirect_in_raw_utf8_is_followed(location: str, server: Any) -> None:
    from urllib.parse import quote

    server.answers["/"] = status(302, Location=location.encode().decode("latin-1"))
    server.answers[quote(location, safe="/%")] = b"it"
    assert fetch(server.url, allow_private_addresses=True) == b"it"


def test_a_redirect_in_latin_1_is_followed_too(server: Any) -> None:
    server.answers["/"] = status(302, Location="/caf\u00e9.jpg")  # sent as one byte, which is no UTF-8
    server.answers["/caf%C3%A9.jpg"] = b"it"
    assert fetch(server.url, allow_private_addresses=True) == b"it"


@pytest.mark.usefixtures("public")
@pytest.mark.parametrize("ports", [[80, 443], []])
def test_only_the_configured_ports_are_fetched_from(ports: list[int], proxy: Proxy) -> None:
    for url in ("http://gallery.example:22/", "https://gallery.example:8443/"):
        with pytest.raises(FetchError, match=r"web\.ports") as caught:
            fetch(url, ports=ports)
        assert caught.value.retry_after_s is None
    assert not proxy.heads
    assert fetch("http://gallery.example:8080/a", ports=[8080]) == b"a photo"

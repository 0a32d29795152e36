"""Fetches have limits on time, size and addresses, and retry only if that is useful."""

import gzip
import ipaddress
import itertools
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.web import Exchange, Server, in_turn, serving, status
from trainer.config import WebSettings
from trainer.errors import FetchError
from trainer.web import sockets
from trainer.web.fetch import MAX_PAUSE_S, Fetcher, safe_url, user_agent
from trainer.web.sockets import is_public, open_socket

NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
HEAD = b"HTTP/1.1 200 OK\r\n"
FOREVER = itertools.repeat


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


class Patient(Fetcher):
    """A fetcher that allows loopback and records its pauses instead of sleeping."""

    def __init__(self, **web: object) -> None:
        self.slept: list[float] = []
        settings = WebSettings.model_validate({"allow_private_addresses": True, "backoff_s": 2.0} | web)
        super().__init__(settings, sleep=self.slept.append, now=lambda: NOW)


def error_of(fetcher: Fetcher, url: str, *, max_bytes: int = 1000, deadline_s: float | None = None) -> FetchError:
    with pytest.raises(FetchError) as caught:
        fetcher.get(url, max_bytes=max_bytes, deadline_s=deadline_s)
    return caught.value


def test_a_response_has_url_status_headers_and_body(server: Server) -> None:
    server.answers["/a"] = status(203, b"hello", X_Robots_Tag="noai")
    with Patient() as fetcher:
        fetched = fetcher.get(f"{server.url}/a", max_bytes=5)
    assert (fetched.url, fetched.status, fetched.body) == (f"{server.url}/a", 203, b"hello")
    assert fetched.headers["x-robots-tag"] == "noai"


def test_the_user_agent_has_name_and_contact(server: Server) -> None:
    server.answers["/"] = b""
    with Patient(contact="mailto:alice@example.social") as fetcher:
        fetcher.get(server.url, max_bytes=5)
    sent = server.requests[0].headers
    assert sent["User-Agent"].startswith("dokocos/")
    assert sent["User-Agent"].endswith(" (+mailto:alice@example.social)")
    assert user_agent(WebSettings()).count(" ") == 0


def test_no_cookie_and_no_credential_is_ever_sent(server: Server) -> None:
    server.answers["/"] = status(200, b"x", Set_Cookie="a=b; Path=/")
    with Patient() as fetcher:
        for _ in range(2):
            fetcher.get(server.url, max_bytes=5)
    assert not {"cookie", "authorization", "referer"} & {name.lower() for name in server.requests[1].headers}


# Deadlines


def test_a_slow_endless_body_ends_at_the_deadline(server: Server) -> None:
    server.answers["/"] = lambda exchange: exchange.drip(itertools.chain([HEAD + b"\r\n"], FOREVER(b"x")))
    with Patient(max_attempts=1) as fetcher:
        error = error_of(fetcher, server.url, max_bytes=10**9, deadline_s=0.3)
    assert "no complete answer within" in str(error)
    assert error.retry_after_s is not None


def test_slow_endless_headers_end_at_the_deadline(server: Server) -> None:
    server.answers["/"] = lambda exchange: exchange.drip(itertools.chain([HEAD + b"X-A: "], FOREVER(b"x")))
    with Patient(max_attempts=1) as fetcher:
        assert "no complete answer" in str(error_of(fetcher, server.url, deadline_s=0.3))


def test_a_slow_endless_chunk_size_ends_at_the_deadline(server: Server) -> None:
    head = HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;"
    server.answers["/"] = lambda exchange: exchange.drip(itertools.chain([head], FOREVER(b"x")))
    with Patient(max_attempts=1) as fetcher:
        assert "no complete answer" in str(error_of(fetcher, server.url, deadline_s=0.3))


def test_a_server_that_never_answers_ends_at_the_deadline(server: Server) -> None:
    server.answers["/"] = lambda exchange: exchange.server.over.wait(60)
    with Patient(max_attempts=1) as fetcher:
        assert "no complete answer" in str(error_of(fetcher, server.url, deadline_s=0.2))


def test_a_name_server_that_never_answers_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [over.wait(60)][1:])
    with Patient(max_attempts=1) as fetcher:
        assert "no complete answer" in str(error_of(fetcher, "http://a.example/", deadline_s=0.2))
    over.set()


def test_redirects_share_one_deadline(server: Server) -> None:
    def step(exchange: Exchange) -> None:
        exchange.server.over.wait(0.15)
        exchange.reply(status=302, Location="/")

    server.answers["/"] = step
    with Patient(max_attempts=1, max_redirects=1000) as fetcher:
        assert "no complete answer" in str(error_of(fetcher, server.url, deadline_s=0.4))


# Size limits


def test_a_body_with_a_too_large_content_length_is_not_read(server: Server) -> None:
    server.answers["/"] = lambda exchange: exchange.drip(
        itertools.chain([HEAD + b"Content-Length: 1001\r\n\r\n"], FOREVER(b"x"))
    )
    with Patient() as fetcher:
        error = error_of(fetcher, server.url)
    assert "more than 1,000 bytes" in str(error)
    assert error.retry_after_s is None


def test_a_body_without_a_length_is_cut_off_at_the_limit(server: Server) -> None:
    server.answers["/"] = lambda exchange: exchange.drip(itertools.chain([HEAD + b"\r\n"], FOREVER(b"x" * 1000)))
    with Patient() as fetcher:
        assert "more than 1,000 bytes" in str(error_of(fetcher, server.url))


def test_the_decompressed_size_of_a_body_is_limited(server: Server) -> None:
    server.answers["/"] = status(200, gzip.compress(bytes(10_000_000)), Content_Encoding="gzip")
    with Patient() as fetcher:
        assert "more than 100,000 bytes" in str(error_of(fetcher, server.url, max_bytes=100_000))


def test_an_unrequested_compressed_body_is_decompressed(server: Server) -> None:
    server.answers["/"] = status(200, gzip.compress(b"hello" * 100), Content_Encoding="gzip")
    with Patient() as fetcher:
        assert fetcher.get(server.url, max_bytes=500).body == b"hello" * 100
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


def test_a_truncated_body_is_an_error_and_retried(server: Server) -> None:
    cut = lambda exchange: exchange.drip(iter([HEAD + b"Content-Length: 10\r\n\r\nhel"]))  # noqa: E731
    server.answers["/"] = in_turn(cut, b"hello")
    with Patient() as fetcher:
        assert fetcher.get(server.url, max_bytes=10).body == b"hello"
        assert len(fetcher.slept) == 1


def test_a_response_that_is_not_http_is_an_error(server: Server) -> None:
    server.answers["/"] = lambda exchange: exchange.drip(iter([b"SSH-2.0-OpenSSH_9.2\r\n"]))
    with Patient(max_attempts=1) as fetcher:
        error_of(fetcher, server.url)


# Addresses


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.5.5", "169.254.169.254", "100.64.0.1", "0.1.2.3", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1",
        "::ffff:10.0.0.1", "::7f00:1", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::", "2002:c0a8:1::1",
        "2001:db8::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    ],
)  # fmt: skip
def test_private_and_special_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::"]
)
def test_internet_addresses_are_public(address: str) -> None:
    assert is_public(address)


@given(st.ip_addresses(v=4))
def test_an_ipv6_address_is_as_public_as_its_embedded_ipv4_address(address: ipaddress.IPv4Address) -> None:
    six_to_four = ipaddress.IPv6Address((0x2002 << 112) | int(address) << 80)
    for carrier in (f"::ffff:{address}", f"64:ff9b::{address}", str(six_to_four)):
        assert is_public(carrier) == is_public(str(address))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "[::1]", "[::ffff:127.0.0.1]"]
)
def test_loopback_is_refused_in_every_notation(server: Server, host: str) -> None:
    with Patient(allow_private_addresses=False, ports=[server.server_address[1]]) as fetcher:
        error = error_of(fetcher, f"http://{host}:{server.server_address[1]}/")
    assert "allow_private_addresses" in str(error)
    assert error.retry_after_s is None
    assert not server.requests


def test_the_address_is_checked_on_each_redirect(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "is_public", lambda address: address == "127.0.0.1")
    server.answers["/"] = status(302, Location=f"http://127.0.0.2:{server.server_address[1]}/secret")
    with Patient(allow_private_addresses=False, ports=[server.server_address[1]]) as fetcher:
        assert "127.0.0.2" in str(error_of(fetcher, server.url))
    assert server.paths == ["/"]


def test_the_checked_address_is_the_connected_one(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that resolves to another address the second time has no effect: it is looked up once."""
    looked_up = []

    def look_up(*args: object, **kwargs: object) -> list[object]:
        looked_up.append((args, kwargs))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", server.server_address)]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    open_socket("rebinding.example", server.server_address[1], timeout_s=5, allow_private=True).close()
    assert len(looked_up) == 1


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://127.0.0.1/", "gopher://127.0.0.1/", "//127.0.0.1/", "x", ""]
)
def test_only_http_is_fetched(url: str) -> None:
    with Patient() as fetcher:
        assert error_of(fetcher, url).retry_after_s is None


@pytest.mark.parametrize("target", ["file:///etc/passwd", "http://[", "http://u:p@127.0.0.1/", "http://"])
def test_a_redirect_to_another_scheme_is_not_followed(server: Server, target: str) -> None:
    server.answers["/"] = status(301, Location=target)
    with Patient() as fetcher:
        assert error_of(fetcher, server.url).retry_after_s is None


def test_redirects_are_followed_up_to_a_limit(server: Server) -> None:
    server.answers |= {"/1": status(302, Location="2"), "/2": status(308, Location="/3"), "/3": b"here"}
    with Patient(max_redirects=2) as fetcher:
        fetched = fetcher.get(f"{server.url}/1", max_bytes=10)
    assert (fetched.url, fetched.body) == (f"{server.url}/3", b"here")
    with Patient(max_redirects=1) as fetcher:
        assert "more than 1 redirects" in str(error_of(fetcher, f"{server.url}/1"))


def test_a_redirect_to_a_host_that_is_not_allowed_is_refused(server: Server) -> None:
    server.answers["/"] = status(302, Location="http://localhost:1/")
    with Patient() as fetcher, pytest.raises(FetchError, match=r"host localhost is not one of 127\.0\.0\.1"):
        fetcher.get(server.url, max_bytes=10, allowed_hosts=["127.0.0.1"])
    with Patient() as fetcher, pytest.raises(FetchError, match="is not one of"):
        fetcher.get(server.url, max_bytes=10, allowed_hosts=["127.0.0.1:1"])
    assert len(server.requests) == 1


def test_credentials_in_a_url_are_not_used_and_not_logged(server: Server) -> None:
    with Patient() as fetcher:
        error = error_of(fetcher, f"http://alice:hunter2@{server.url.removeprefix('http://')}/?token=hunter3")
    assert "hunter" not in str(error)


@given(st.text(), st.text())
def test_no_query_and_no_password_is_ever_shown(path: str, secret: str) -> None:
    shown = safe_url(f"https://u:{'S3CRET' + secret}@a.example/?t=S3CRET{path}")
    assert "S3CRET" not in shown
    assert shown.isprintable()


# Retries


def test_a_server_error_is_retried_with_growing_pauses(server: Server) -> None:
    server.answers["/"] = in_turn(status(500), status(502), status(503), b"well")
    with Patient() as fetcher:
        assert fetcher.get(server.url, max_bytes=10).body == b"well"
    assert len(fetcher.slept) == 3
    assert all(low <= slept <= 1.25 * low for slept, low in zip(fetcher.slept, [2, 4, 8], strict=True))


def test_a_repeated_server_error_ends_after_the_last_attempt(server: Server) -> None:
    server.answers["/"] = status(500)
    with Patient(max_attempts=3) as fetcher:
        error = error_of(fetcher, server.url)
    assert (len(server.requests), error.status, error.retry_after_s) == (3, 500, 2.0)


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 451])
def test_a_client_error_is_not_retried(server: Server, code: int) -> None:
    server.answers["/"] = status(code)
    with Patient() as fetcher:
        error = error_of(fetcher, f"{server.url}/?secret=1")
    assert (len(server.requests), error.status, error.retry_after_s) == (1, code, None)
    assert str(code) in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "40"},
        {"Retry-After": format_datetime(NOW.replace(second=40), usegmt=True)},
        {"X-RateLimit-Reset": "2026-03-02T12:00:40.000000Z"},
        {"X-RateLimit-Reset": str(int(NOW.timestamp()) + 40)},
        {"X-RateLimit-Reset": "40"},
    ],
)
def test_the_wait_time_of_the_server_is_used(server: Server, headers: dict[str, str]) -> None:
    server.answers["/"] = in_turn(status(429, b"", **headers), b"now")
    with Patient() as fetcher:
        assert fetcher.get(server.url, max_bytes=10).body == b"now"
    assert 40 <= fetcher.slept[0] <= 50


@pytest.mark.parametrize("asked", ["soon", "-5", "", "9" * 400, "nan", "Mon, 02 Mar 2026 12:00:00 +99999999999999"])
def test_an_invalid_wait_time_is_replaced_by_the_default(server: Server, asked: str) -> None:
    server.answers["/"] = in_turn(status(503, Retry_After=asked, X_RateLimit_Reset="x" + asked), b"now")
    with Patient() as fetcher:
        assert fetcher.get(server.url, max_bytes=10).body == b"now"
    assert 2 <= fetcher.slept[0] <= 2.5


def test_a_very_long_wait_is_left_to_the_caller(server: Server) -> None:
    server.answers["/"] = status(429, Retry_After=str(int(MAX_PAUSE_S) + 1))
    with Patient() as fetcher:
        assert error_of(fetcher, server.url).retry_after_s == MAX_PAUSE_S + 1
        assert not fetcher.slept


def test_an_unreachable_host_is_retried() -> None:
    with serving() as gone:
        url = gone.url
    with Patient(max_attempts=2) as fetcher:
        error = error_of(fetcher, url)
    assert len(fetcher.slept) == 1
    assert error.retry_after_s == 2.0
    assert "ConnectionRefusedError" in str(error)


def test_threads_can_share_a_fetcher(server: Server) -> None:
    barrier = threading.Barrier(8)
    server.answers |= {f"/{n}": str(n).encode() for n in range(80)}
    with Patient() as fetcher, ThreadPoolExecutor(8) as pool:

        def ten(start: int) -> list[bytes]:
            barrier.wait()
            return [fetcher.get(f"{server.url}/{n}", max_bytes=9).body for n in range(start, start + 10)]

        bodies = [body for ten_bodies in pool.map(ten, range(0, 80, 10)) for body in ten_bodies]
    assert bodies == [str(n).encode() for n in range(80)]

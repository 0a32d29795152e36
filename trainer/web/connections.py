"""Opens connections to allowed addresses only, each with a total deadline.

urllib3 alone has two problems. It connects to whatever address a name resolves to, and a name can point into the
private network (even after an earlier check, by DNS rebinding). And its timeout restarts with each read, so a slow
server can hold a reader forever. So this module checks the address when the socket is opened, and reads everything,
including status line and chunk sizes, under one deadline per request.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import queue
import socket
import threading
import time
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from trainer.errors import FetchError
from trainer.quoting import quoted

NAT64 = ipaddress.ip_network("64:ff9b::/96")
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")


def innermost(error: BaseException) -> str:
    """The innermost cause of an error, below requests, urllib3 and Mastodon.py; its words may be a server's: quoted."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return f"{type(error).__name__}: {quoted(str(error))}"


def is_public(address: str) -> bool:
    """Whether an IP address is on the public internet.

    For an IPv6 address that contains an IPv4 address (mapped, 6to4, NAT64), the IPv4 address is checked.

    Source: https://www.iana.org/assignments/iana-ipv6-special-registry
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in NAT64:
            carried: ipaddress.IPv4Address | None = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        else:
            carried = ip.ipv4_mapped or ip.sixtofour
        if carried is None:
            return ip in GLOBAL_UNICAST and ip.is_global
        ip = carried
    return ip.is_global and not ip.is_multicast


def open_socket(host: str, port: int, *, timeout_s: float, allow_private: bool) -> socket.socket:
    """Open a TCP socket to the first address of `host` that is allowed and accepts a connection.

    The host is looked up once, so the checked address is the one used.

    Args:
        timeout_s: seconds for the look-up and all addresses together; also the timeout of the socket.

    Raises:
        FetchError: the host has only private addresses.
        OSError: the look-up or the connection failed; `TimeoutError` if it took too long.
    """
    deadline = time.monotonic() + timeout_s
    failure: Exception | None = None
    for family, address in _look_up(host, port, timeout_s):
        if not allow_private and not is_public(str(address[0])):
            failure = failure or FetchError(
                f"{host}: is {address[0]}, which is not a public internet address; not fetched "
                "(web.allow_private_addresses: true allows it)"
            )
            continue
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(deadline - time.monotonic(), 0.001))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(timeout_s)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure or OSError(f"{host} has no address")


def _look_up(host: str, port: int, timeout_s: float) -> list[tuple[int, Any]]:
    """Look up the addresses of a host: (family, socket address) in the system's order.

    The look-up runs in its own thread, because a hanging look-up cannot be stopped.
    """
    answers: queue.SimpleQueue[list[tuple[int, Any]] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([(family, address) for family, _, _, _, address in found])
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=ask, name="look-up", daemon=True).start()
    try:
        answer = answers.get(timeout=timeout_s)
    except queue.Empty:
        raise TimeoutError(f"no answer from the name server after {timeout_s:.0f} s") from None
    if isinstance(answer, UnicodeError):
        raise OSError(f"not a host name: {answer}") from answer
    if isinstance(answer, Exception):
        raise answer
    return answer


class _TimedReader(io.RawIOBase):
    """A raw socket reader; the timeout of each read is the time left until one deadline."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock = sock
        self._raw = raw
        self._deadline = time.monotonic() + (sock.gettimeout() or 0.0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the deadline has passed")
        self._sock.settimeout(left_s)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    """A response that is read under one deadline, taken from the socket's timeout when the response begins."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_TimedReader(sock, self.fp.detach()))


class GuardedAdapter(HTTPAdapter):
    """A requests adapter with guarded connections; without proxies, cookies, redirects and retries.

    Call `send` with a `urllib3.Timeout` with a total, which limits the whole request.
    """

    def __init__(self, *, allow_private: bool, n_connections: int = 16) -> None:
        super().__init__(pool_connections=n_connections, pool_maxsize=n_connections, max_retries=0)
        self.poolmanager.pool_classes_by_scheme = _pool_classes(allow_private=allow_private)


def _pool_classes(*, allow_private: bool) -> dict[str, type[HTTPConnectionPool]]:
    def connect(connection: HTTPConnection) -> socket.socket:
        timeout_s = connection.timeout or 0.001
        try:
            return open_socket(connection._dns_host, connection.port, timeout_s=timeout_s, allow_private=allow_private)
        except socket.gaierror as error:
            raise NameResolutionError(connection.host, connection, error) from error
        except TimeoutError as error:
            raise ConnectTimeoutError(connection, str(error)) from error
        except OSError as error:
            raise NewConnectionError(connection, str(error)) from error

    class GuardedHTTP(HTTPConnection):
        response_class = _TimedResponse
        _new_conn = connect

    class GuardedHTTPS(HTTPSConnection):
        response_class = _TimedResponse
        _new_conn = connect

    class HTTPPool(HTTPConnectionPool):
        ConnectionCls = GuardedHTTP

    class HTTPSPool(HTTPSConnectionPool):
        ConnectionCls = GuardedHTTPS

    return {"http": HTTPPool, "https": HTTPSPool}

"""Connections to allowed addresses only, each with a total deadline.

urllib3 looks a host up, connects, and then waits for each piece of an answer again. Both are holes here: a name can
point into the private network (or begin to, between a check and the connection), and a server that sends a byte now
and then holds its reader for ever. So the address is checked where the socket is opened, and everything that is read,
status line and chunk sizes included, is read under the one deadline that the request started with.
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

NAT64 = ipaddress.ip_network("64:ff9b::/96")
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")


def innermost(error: BaseException) -> str:
    """The message of the innermost cause of an error, below requests, urllib3 and Mastodon.py."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return f"{type(error).__name__}: {error}"


def is_public(address: str) -> bool:
    """Whether an IP address, as text, belongs to the public internet.

    An IPv6 address that carries an IPv4 address (mapped, 6to4, NAT64) is judged by what it carries.

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
    """A connected TCP socket to the first address of `host` that may be reached and answers.

    The address that was checked is the one that is connected to; nothing is looked up twice.

    Args:
        timeout_s: seconds for the look-up and all addresses together; the socket keeps it as its timeout.

    Raises:
        FetchError: the name stands for private addresses only.
        OSError: the look-up or the connection failed; `TimeoutError` when it took too long.
    """
    deadline = time.monotonic() + timeout_s
    failure: Exception | None = None
    for family, address in _look_up(host, port, timeout_s):
        if not allow_private and not is_public(str(address[0])):
            failure = failure or FetchError(
                f"{host}: is {address[0]}, which is not an address of the public internet; not fetched "
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
    """(family, socket address) for each address of a host, in the system's order.

    The look-up runs in a thread of its own, as nothing else can end one that hangs.
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
    """A socket's raw reader whose timeouts shrink with what is left of one deadline."""

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
    """An answer that is read under one deadline: when it begins, the socket's timeout is all the time that is left."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_TimedReader(sock, self.fp.detach()))


class GuardedAdapter(HTTPAdapter):
    """requests' transport on guarded connections; it knows no proxies, cookies or redirects, and tries once.

    Give `send` a `urllib3.Timeout` with a total: that is the time for everything.
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

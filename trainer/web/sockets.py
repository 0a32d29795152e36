"""Opens TCP sockets to allowed addresses, directly or through the proxy that the environment names.

One rule for API calls, photos and scraping: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY count as elsewhere. A
proxy is asked for a tunnel (CONNECT), so that deadlines hold and it cannot read what is encrypted. Where only public
addresses are allowed, this machine looks the host up itself and asks for a tunnel to the address that it has checked.
"""

from __future__ import annotations

import ipaddress
import os
import queue
import selectors
import socket
import threading
import time
from contextlib import suppress
from itertools import chain, zip_longest
from typing import Any
from urllib.parse import unquote, urlsplit

from cachetools import LRUCache
from requests.auth import _basic_auth_str
from requests.utils import get_environ_proxies, select_proxy

from trainer.errors import FetchError
from trainer.quoting import quoted

NAT64 = ipaddress.ip_network("64:ff9b::/96")
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")
# The pause before the next address of a host is tried beside the first; RFC 8305, section 5.
ATTEMPT_DELAY_S = 0.25
MAX_PROXY_ANSWER = 16 * 1024  # bytes

Address = tuple[int, Any]  # the socket's family, and what `connect` takes

# (host, port) -> the address that answered last. It is tried first, so that a dead one is waited for once.
_answered: LRUCache[tuple[str, int], Any] = LRUCache(1024)
_answered_lock = threading.Lock()


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


def open_socket(
    host: str, port: int, *, timeout_s: float, allow_private: bool, scheme: str | None = None
) -> socket.socket:
    """Open a TCP socket to an address of `host` that is allowed and accepts a connection.

    The host is looked up once, so the checked address is the one used. Its addresses are tried in turn, each
    `ATTEMPT_DELAY_S` after the one before; the first that answers is taken.

    Args:
        timeout_s: seconds for the look-up and all addresses together; also the timeout of the socket.
        scheme: "http" or "https": through the proxy that the environment names for it; None means no proxy.

    Raises:
        FetchError: the host has only private addresses, or the proxy cannot be used.
        OSError: the look-up or the connection failed; `TimeoutError` if it took too long.
    """
    deadline = time.monotonic() + timeout_s
    name = f"[{host}]" if ":" in host else host
    proxy = _proxy_for(f"{scheme}://{name}:{port}/") if scheme else None
    if proxy is None:
        sock = _connect(host, port, _allowed(host, port, deadline, allow_private=allow_private), deadline)
    else:
        target = host
        if not allow_private:
            try:
                target = str(_allowed(host, port, deadline, allow_private=False)[0][1][0])
            except OSError as error:
                raise FetchError(
                    f"{host}: cannot be looked up here ({error}). Through a proxy too, a photo's address is checked on "
                    "this machine; let it reach a name server, or name the host in NO_PROXY",
                    retry_after_s=0.0,
                ) from error
        sock = _tunnel(proxy, target, port, deadline)
    sock.settimeout(timeout_s)
    return sock


def _allowed(host: str, port: int, deadline: float, *, allow_private: bool) -> list[Address]:
    """The addresses of a host that may be connected to; at least one. Raises FetchError, OSError."""
    found = _look_up(host, port, deadline)
    allowed = [each for each in found if allow_private or is_public(str(each[1][0]))]
    if found and not allowed:
        raise FetchError(
            f"{host}: is {found[0][1][0]}, which is not a public internet address; not fetched "
            "(web.allow_private_addresses: true allows it)"
        )
    if not allowed:
        raise OSError(f"{host} has no address")
    return allowed


def _connect(host: str, port: int, addresses: list[Address], deadline: float) -> socket.socket:
    """A socket to the first address that accepts a connection; the one that did so last time is tried first.

    Source: RFC 8305 (Happy Eyeballs), sections 4 and 5.
    """
    with _answered_lock:
        last = _answered.get((host, port))
    waiting = sorted(_alternating(addresses), key=lambda each: each[1] != last)
    failure: OSError = TimeoutError("no address has accepted a connection in time")
    with selectors.DefaultSelector() as selector:
        try:
            next_at = time.monotonic()
            while waiting or selector.get_map():
                now = time.monotonic()
                if now >= deadline:
                    break
                if waiting and (now >= next_at or not selector.get_map()):
                    family, address = waiting.pop(0)
                    next_at = now + ATTEMPT_DELAY_S
                    try:
                        _begin(selector, family, address)
                    except OSError as error:
                        failure, next_at = error, now
                    continue
                for key, _ in selector.select(min(next_at if waiting else deadline, deadline) - now):
                    sock: socket.socket = key.fileobj  # type: ignore[assignment]  # only sockets are registered
                    selector.unregister(sock)
                    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if code == 0:
                        with _answered_lock:
                            _answered[host, port] = key.data
                        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        return sock
                    sock.close()
                    failure, next_at = _os_error(code), now
            raise failure
        finally:
            for key in list(selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]


def _alternating(addresses: list[Address]) -> list[Address]:
    """The addresses with their families in turn, the first one's family first."""
    families = dict.fromkeys(family for family, _ in addresses)
    by_family = [[each for each in addresses if each[0] == family] for family in families]
    return [each for each in chain.from_iterable(zip_longest(*by_family)) if each is not None]


def _begin(selector: selectors.BaseSelector, family: int, address: Any) -> None:
    """Start a connection without waiting for it."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        with suppress(BlockingIOError):
            sock.connect(address)
        selector.register(sock, selectors.EVENT_WRITE, address)
    except BaseException:
        sock.close()
        raise


def _os_error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def _look_up(host: str, port: int, deadline: float) -> list[Address]:
    """Look up the addresses of a host, in the system's order.

    The look-up runs in its own thread, because a hanging look-up cannot be stopped.
    """
    answers: queue.SimpleQueue[list[Address] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            answers.put([(family, address) for family, _, _, _, address in found])
        except (OSError, ValueError, OverflowError) as error:
            answers.put(error)

    threading.Thread(target=ask, name="look-up", daemon=True).start()
    timeout_s = max(deadline - time.monotonic(), 0.001)
    try:
        answer = answers.get(timeout=timeout_s)
    except queue.Empty:
        raise TimeoutError(f"no answer from the name server after {timeout_s:.0f} s") from None
    if isinstance(answer, ValueError | OverflowError):
        raise OSError(f"not a host name: {answer}") from answer
    if isinstance(answer, Exception):
        raise answer
    return answer


def _proxy_for(url: str) -> str | None:
    proxy: str | None = select_proxy(url, get_environ_proxies(url))
    return proxy


def _tunnel(proxy: str, target: str, port: int, deadline: float) -> socket.socket:
    """A socket through a proxy, which passes everything on to the target. Raises FetchError, OSError."""
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        host, proxy_port = parts.hostname, parts.port or 80
    except ValueError:
        host = None
    if not host or parts.scheme != "http":
        raise FetchError("the environment's proxy must be an http:// address (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY)")
    sock = _connect(host, proxy_port, _allowed(host, proxy_port, deadline, allow_private=True), deadline)
    try:
        authority = f"[{target}]:{port}" if ":" in target else f"{target}:{port}"
        lines = [f"CONNECT {authority} HTTP/1.1", f"Host: {authority}"]
        if parts.username is not None:
            login = _basic_auth_str(unquote(parts.username), unquote(parts.password or ""))
            lines.append(f"Proxy-Authorization: {login}")
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        sock.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        answer = _head(sock, deadline)
    except BaseException:
        sock.close()
        raise
    words = answer.partition(b"\r\n")[0].decode("latin-1").split(" ", 2)
    if len(words) < 2 or words[1] != "200":
        sock.close()
        raise OSError(f"the proxy {host} opens no connection to {authority}: {quoted(' '.join(words[1:]))}")
    return sock


def _head(sock: socket.socket, deadline: float) -> bytes:
    """What a proxy answers, up to the empty line; not a byte of what follows is read."""
    answer = bytearray()
    while not answer.endswith(b"\r\n\r\n"):
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the proxy has not answered in time")
        sock.settimeout(left_s)
        byte = sock.recv(1)
        if not byte or len(answer) >= MAX_PROXY_ANSWER:
            raise OSError("the proxy has not answered as a proxy does")
        answer += byte
    return bytes(answer)

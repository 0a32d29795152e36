"""HTTP connections to allowed addresses only, each with a total deadline.

urllib3 alone has three problems. It connects to whatever address a name resolves to, and a name can point into the
private network (even after an earlier check, by DNS rebinding). It waits for a dead address as long as for all. And its
timeout restarts with each read, so a slow server can hold a reader forever. So sockets come from `trainer.web.sockets`,
and this module reads everything, including status line and chunk sizes, under one deadline per request.
"""

from __future__ import annotations

import http.client
import io
import socket
import time
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from trainer.quoting import quoted
from trainer.web.sockets import open_socket


def innermost(error: BaseException) -> str:
    """The innermost cause of an error, below requests, urllib3 and Mastodon.py; its words may be a server's: quoted."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return f"{type(error).__name__}: {quoted(str(error))}"


class TimedReader(io.RawIOBase):
    """A raw socket reader under one deadline, taken from the socket's timeout when it is made."""

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
        self.fp = io.BufferedReader(TimedReader(sock, self.fp.detach()))


class CookielessAdapter(HTTPAdapter):
    """A requests adapter that reads no cookies: none are needed, and of odd ones http.cookiejar prints tracebacks."""

    def build_response(self, req: Any, resp: Any) -> requests.Response:
        """Build a response from urllib3's, without its cookies."""
        for name in ("Set-Cookie", "Set-Cookie2"):
            del resp._original_response.msg[name]
        return super().build_response(req, resp)


class GuardedAdapter(CookielessAdapter):
    """A requests adapter with guarded connections; without redirects and retries.

    Call `send` with a `urllib3.Timeout` with a total, which limits the whole request.
    """

    def __init__(self, *, allow_private: bool, n_connections: int = 64) -> None:
        super().__init__(pool_connections=n_connections, pool_maxsize=n_connections, max_retries=0)
        self.poolmanager.pool_classes_by_scheme = _pool_classes(allow_private=allow_private)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        """Send a request. Proxies are those of the environment, whatever `requests` has found out about them."""
        return super().send(request, **kwargs | {"proxies": None})


def _pool_classes(*, allow_private: bool) -> dict[str, type[HTTPConnectionPool]]:
    def connect(connection: HTTPConnection) -> socket.socket:
        timeout_s = connection.timeout or 0.001
        try:
            scheme = "https" if isinstance(connection, HTTPSConnection) else "http"
            return open_socket(
                connection._dns_host, connection.port, timeout_s=timeout_s, allow_private=allow_private, scheme=scheme
            )
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

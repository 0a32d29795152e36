"""Fetches URLs for the scraper and the bot, with limits on time, size, redirects and addresses.

Each fetch has a total deadline and a size limit, before and after decompression. Only public addresses and the ports of
`web.ports` are allowed, also after redirects, and no redirect leads from https back to http. Requests have an honest
User-Agent and no cookies or credentials; proxies and certificates are those of the environment, as for API calls
(`trainer.web.sockets`). Retries depend on the error: after the time that the server asks for, with exponential backoff
for network errors, and not at all if a retry is no use.
"""

from __future__ import annotations

import email.utils
import http
import io
import logging
import os
import random
import re
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Self
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from trainer import __version__
from trainer.config import WebSettings
from trainer.errors import FetchError
from trainer.quoting import quoted
from trainer.web.connections import GuardedAdapter, innermost

logger = logging.getLogger(__name__)

PORTS = {"http": 80, "https": 443}
REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Statuses after which a retry may succeed: too early, too many requests, or a server error.
PASSING = frozenset({408, 425, 429})
# For a longer wait, `get` raises at once: the caller decides, from `FetchError.retry_after_s`.
MAX_PAUSE_S = 300.0
READ_BYTES = 64 * 1024
SMALL_BYTES = 1024 * 1024  # a body of so many, or one that never comes to so many, needs no room made for it


@dataclass(frozen=True, slots=True)
class Fetched:
    """One complete response.

    Attributes:
        url: the final URL, after redirects.
        status: 200 to 299.
        headers: names in lower case; repeated headers are joined by commas.
        body: decompressed.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes


def user_agent(web: WebSettings) -> str:
    """The User-Agent header, e.g. "dokocos/0.1.0 (+mailto:alice@example.social)"."""
    return f"dokocos/{__version__}" + (f" (+{web.contact})" if web.contact else "")


def safe_url(url: str) -> str:
    """A URL for a log line: without credentials, query and unprintable characters, and shortened."""
    try:
        parts = urlsplit(url)
        host = f"{parts.hostname or ''}{'' if parts.port is None else f':{parts.port}'}"
    except ValueError:
        return "(not a URL)"
    text = f"{parts.scheme}://{host}{parts.path}" + ("?..." if parts.query else "")
    return "".join(char if char.isprintable() else "?" for char in text)[:200]


def invalid_url(url: str, error: ValueError) -> FetchError:
    """The error about a URL that a library cannot parse."""
    return FetchError(f"{safe_url(url)}: not a valid URL: {quoted(str(error))}")


def without_address(error: FetchError, url: str) -> FetchError:
    """The same error in words of ours, with nothing of the URL but its host, and nothing that a server said."""
    try:
        host = (urlsplit(url).hostname or "")[:100]
    except ValueError:
        host = ""
    kind, _, _ = innermost(error).partition(":")
    if error.too_large:
        what = "too large"
    elif error.status is not None:
        what = f"HTTP {error.status}"
    else:
        what = "not fetched" if kind == FetchError.__name__ else kind
    shown = "".join(char for char in host if char.isalnum() or char in ".-:") or "(not a URL)"
    return FetchError(
        f"{shown}: {what}", retry_after_s=error.retry_after_s, status=error.status, too_large=error.too_large
    )


class Fetcher:
    """Fetches URLs with GET; thread-safe. Use it as a context manager, or call `close`."""

    def __init__(
        self,
        web: WebSettings,
        *,
        private: bool = False,
        sleep: Callable[[float], object] = time.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """With `private`, neither errors nor log lines hold more of an address than its host."""
        self._web = web
        self._private = private
        self._sleep = sleep
        self._now = now
        self._jitter = random.SystemRandom()
        self._adapter = GuardedAdapter(allow_private=web.allow_private_addresses)
        # As `requests` reads them for API calls.
        self._verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
        self._headers = {"User-Agent": user_agent(web), "Accept": "*/*", "Accept-Encoding": "identity"}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._adapter.close()

    def get(
        self,
        url: str,
        *,
        max_bytes: int,
        allowed_hosts: Collection[str] | None = None,
        deadline_s: float | None = None,
        make_room: Callable[[int], object] = lambda _: None,
    ) -> Fetched:
        """Fetch a URL, with up to `web.max_attempts` attempts.

        Args:
            max_bytes: of the body, both compressed and decompressed.
            allowed_hosts: "host" or "host:port", checked on each redirect; None or empty allows any.
            deadline_s: seconds for one attempt, including redirects; None means `web.total_timeout_s`.
            make_room: called when a body has more than `SMALL_BYTES`, with the bytes that it may have; may wait.

        Raises:
            FetchError: all attempts failed; `retry_after_s` is None if a retry is no use.
        """
        attempt = 1
        while True:
            try:
                return self._follow(url, max_bytes, allowed_hosts, deadline_s or self._web.total_timeout_s, make_room)
            except FetchError as full_error:
                error = without_address(full_error, url) if self._private else full_error
                asked_s = error.retry_after_s
                if asked_s is None or asked_s > MAX_PAUSE_S or attempt >= self._web.max_attempts:
                    raise error from (None if self._private else full_error.__cause__)
                pause_s = max(asked_s, self._web.backoff_s * 2 ** (attempt - 1)) * self._jitter.uniform(1.0, 1.25)
                logger.warning("retrying attempt=%d pause_s=%.1f error=%s", attempt, pause_s, error)
            self._sleep(pause_s)
            attempt += 1

    def _follow(
        self,
        url: str,
        max_bytes: int,
        allowed_hosts: Collection[str] | None,
        total_s: float,
        make_room: Callable[[int], object],
    ) -> Fetched:
        deadline = time.monotonic() + total_s
        for _ in range(self._web.max_redirects + 1):
            request = self._prepare(url, allowed_hosts)
            left_s = deadline - time.monotonic()
            try:
                response = self._send(request, left_s)
                with response:
                    target = response.headers.get("Location") if response.status_code in REDIRECTS else None
                    if target is None:
                        self._check_status(response, url)
                        body = _read(response, url, max_bytes, make_room)
                        headers = {name.lower(): value for name, value in response.headers.items()}
                        return Fetched(url=url, status=response.status_code, headers=headers, body=body)
            except ValueError as error:  # includes those of requests and urllib3 about URLs
                raise invalid_url(url, error) from error
            except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
                raise self._network_error(error, url, total_s) from error
            url = _join(url, target)
        raise FetchError(f"{safe_url(url)}: more than {self._web.max_redirects} redirects; not followed further")

    def _prepare(self, url: str, allowed_hosts: Collection[str] | None) -> requests.PreparedRequest:
        """Check the URL and prepare the request."""
        try:
            request = requests.Request("GET", url, headers=self._headers).prepare()
            parts = urlsplit(request.url or "")
            host, port = parts.hostname, parts.port
            has_login = "@" in parts.netloc or "@" in urlsplit(url).netloc
        except ValueError as error:  # includes requests' own URL errors
            raise invalid_url(url, error) from error
        if parts.scheme not in PORTS or not host:
            raise FetchError(f"{safe_url(url)}: only http and https are fetched")
        if has_login:
            raise FetchError(f"{safe_url(url)}: a URL with a user name or a password is not fetched")
        if not self._is_port_allowed(PORTS[parts.scheme] if port is None else port):
            raise FetchError(f"{safe_url(url)}: nothing is fetched from port {port} (web.ports)")
        if allowed_hosts and not {host, f"{host}:{port}"} & {allowed.lower() for allowed in allowed_hosts}:
            raise FetchError(f"{safe_url(url)}: host {host} is not one of {', '.join(sorted(allowed_hosts))}")
        return request

    def _is_port_allowed(self, port: int) -> bool:
        # A test's or a sandbox's server has whatever port is free.
        return port in self._web.ports or self._web.allow_private_addresses

    def _send(self, request: requests.PreparedRequest, left_s: float) -> requests.Response:
        if left_s <= 0:
            raise TimeoutError("no time left after redirects")
        connect_s = min(self._web.connect_timeout_s, left_s)
        timeout = urllib3.Timeout(connect=connect_s, read=left_s, total=left_s)
        return self._adapter.send(request, stream=True, timeout=timeout, verify=self._verify)

    def _check_status(self, response: requests.Response, url: str) -> None:
        status = response.status_code
        if 200 <= status < 300:
            return
        try:
            answer = f"{status} {http.HTTPStatus(status).phrase}"
        except ValueError:
            answer = str(status)
        retry_after_s = None
        if status >= 500 or status in PASSING:
            asked_s = _retry_after_s(response.headers, self._now())
            retry_after_s = self._web.backoff_s if asked_s is None else asked_s
        hint = "no retry" if retry_after_s is None else f"retry after {retry_after_s:.0f} s"
        raise FetchError(
            f"{safe_url(url)}: the server answered {answer}; {hint}", retry_after_s=retry_after_s, status=status
        )

    def _network_error(self, error: Exception, url: str, total_s: float) -> FetchError:
        if _is_timeout(error):
            what = f"no complete answer within {total_s:.0f} s (web.total_timeout_s, web.connect_timeout_s)"
        else:
            what = f"{innermost(error)}; check the address and the network"
        return FetchError(f"{safe_url(url)}: {what}", retry_after_s=self._web.backoff_s)


def _join(url: str, location: str) -> str:
    """The URL that a Location header leads to. Raises FetchError if there is none, or if it gives up TLS."""
    with suppress(UnicodeError):
        location = location.encode("latin-1").decode("utf-8")  # as some servers send it; http.client reads Latin-1
    try:
        target = urljoin(url, location)
        steps_back = urlsplit(url).scheme == "https" and urlsplit(target).scheme == "http"
    except ValueError as error:
        raise invalid_url(location, error) from error
    if steps_back:
        raise FetchError(f"{safe_url(url)}: redirects from https to http; not followed")
    return target


def _read(response: requests.Response, url: str, max_bytes: int, make_room: Callable[[int], object]) -> bytes:
    """Read the body in pieces of any size: waiting for full chunks could exceed the deadline."""
    too_large = FetchError(f"{safe_url(url)}: more than {max_bytes:,} bytes; not fetched", too_large=True)
    length = response.headers.get("Content-Length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > max_bytes):
        raise too_large
    is_known = length.isdecimal() and "Content-Encoding" not in response.headers
    is_small = True
    body = io.BytesIO()  # hands its bytes on without a copy
    while chunk := response.raw.read1(READ_BYTES, decode_content=True):
        body.write(chunk)
        if body.tell() > max_bytes:
            raise too_large
        if is_small and body.tell() > SMALL_BYTES:
            is_small = False
            make_room(int(length) if is_known else max_bytes)
    return body.getvalue()


def _retry_after_s(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds to wait according to Retry-After or X-RateLimit-Reset; None without such a header.

    Source: RFC 9110, section 10.2.3; https://docs.joinmastodon.org/api/rate-limits/
    """
    asked = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", asked):
        return float(asked)
    try:
        at = email.utils.parsedate_to_datetime(asked) if asked else _reset_at(headers, now)
        if at is None:
            return None
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return max((at - now).total_seconds(), 0.0)
    except (ValueError, OverflowError):  # the latter for absurd years and zones
        return None


def _reset_at(headers: Mapping[str, str], now: datetime) -> datetime | None:
    """Parse X-RateLimit-Reset: an ISO 8601 time, seconds since 1970, or seconds from now."""
    reset = headers.get("X-RateLimit-Reset", "").strip()
    if not reset:
        return None
    if re.fullmatch(r"\d{1,10}", reset):
        seconds = int(reset)
        return datetime.fromtimestamp(seconds if seconds > 1_000_000_000 else now.timestamp() + seconds, UTC)
    return datetime.fromisoformat(reset)


def _is_timeout(error: BaseException | None) -> bool:
    """Whether an error is a timeout; urllib3's ConnectTimeoutError can also mean a refused connection."""
    while error is not None:
        if isinstance(error, urllib3.exceptions.ReadTimeoutError | TimeoutError):
            return True
        error = error.__cause__ or error.__context__
    return False

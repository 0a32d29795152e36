"""The `requests` session under Mastodon.py, adapted to servers that differ from Mastodon.

- Mastodon.py adds a slash to `/api/v2/instance/`, which not every server accepts: it is removed.
- A redirect is followed only on the same server and with the same method. Otherwise `requests` would drop the token, or
  turn a POST into a GET; the caller gets the redirect itself.
- With an https base URL nothing is requested without TLS, whatever address a server gives for its streams.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from trainer.web.connections import CookielessAdapter, GuardedAdapter

STREAMS = "/api/v1/streaming"
_KEEPS_METHOD = (307, 308)


class Transport(requests.Session):
    """A session for one base URL; not thread-safe."""

    def __init__(self, base_url: str) -> None:
        super().__init__()
        # Passwords in ~/.netrc are not the bot's to send: with `auth` set, requests does not look there.
        self.auth = _no_auth
        self._secure = urlsplit(base_url).scheme == "https"
        # Slow answers are cut off by a deadline. The stream has no end; its heartbeats are watched instead.
        self.mount(base_url, GuardedAdapter(allow_private=True))
        self.mount(f"{base_url.rstrip('/')}{STREAMS}", CookielessAdapter())

    def request(self, method: Any, url: Any, *args: Any, **kwargs: Any) -> requests.Response:
        """Sends a request as `requests` does, without a slash at the end of the URL."""
        return super().request(method, str(url).rstrip("/"), *args, **kwargs)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Sends a request as `requests` does. Raises InvalidSchema if the token would be sent unencrypted."""
        if self._secure and urlsplit(request.url or "").scheme != "https":
            raise requests.exceptions.InvalidSchema("the server gave an address without https; not requested")
        return super().send(request, **kwargs)

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """The redirect's target; None if it must not be followed."""
        target = super().get_redirect_target(resp)
        if target is None or redirect_origin(resp) != origin(resp.url):
            return None
        keeps_method = resp.request.method in ("GET", "HEAD") or resp.status_code in _KEEPS_METHOD
        return target if keeps_method else None


def _no_auth(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


def redirect_origin(response: requests.Response) -> str | None:
    """Where a redirect leads, as `origin`; None if that is no URL."""
    try:
        return origin(urljoin(response.url, response.headers["Location"]))
    except ValueError:
        return None


def origin(url: str) -> str:
    """A URL without path and credentials, e.g. "https://example.social:8443"."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".lower()

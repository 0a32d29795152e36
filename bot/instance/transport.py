"""The `requests` session under Mastodon.py, made fit for servers that are not quite Mastodon.

- Mastodon.py puts a slash behind `/api/v2/instance/`, which not every server knows: it is left out.
- A redirect is followed where it leads to the same server and keeps the request what it is. Elsewhere `requests` would
  take the token off, or turn a post into a mere look: such an answer stays the redirect it is, for the caller to tell.
- What is asked over https is never asked in the open, whatever address a server names for its streams.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter

from trainer.web.connections import GuardedAdapter

STREAMS = "/api/v1/streaming"
_KEEPS_METHOD = (307, 308)


class Transport(requests.Session):
    """A session at home at one base URL; not for several threads at once."""

    def __init__(self, base_url: str) -> None:
        super().__init__()
        self._secure = urlsplit(base_url).scheme == "https"
        # An answer that drips ends in time; the stream, which has no end, is watched by its heartbeats.
        self.mount(base_url, GuardedAdapter(allow_private=True))
        self.mount(f"{base_url.rstrip('/')}{STREAMS}", HTTPAdapter())

    def request(self, method: Any, url: Any, *args: Any, **kwargs: Any) -> requests.Response:
        """As requests', without a slash at the end of the address."""
        return super().request(method, str(url).rstrip("/"), *args, **kwargs)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """As requests'. Raises InvalidSchema where the token would travel in the open."""
        if self._secure and urlsplit(request.url or "").scheme != "https":
            raise requests.exceptions.InvalidSchema("the server names an address without https; not asked")
        return super().send(request, **kwargs)

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Where to go on; None where the redirect is not to be followed."""
        target = super().get_redirect_target(resp)
        if target is None or origin(urljoin(resp.url, target)) != origin(resp.url):
            return None
        keeps_method = resp.request.method in ("GET", "HEAD") or resp.status_code in _KEEPS_METHOD
        return target if keeps_method else None


def origin(url: str) -> str:
    """An address without path and credentials, e.g. "https://example.social:8443"."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}".lower()

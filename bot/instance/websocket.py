"""Opens a WebSocket over the same kind of connection as all other calls."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_websocket
from websockets.typing import Subprotocol

from trainer.web.sockets import open_socket

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
CLOSE_TIMEOUT_S = 1.0
# The library logs the headers it sends, and the token is one of them.
_SILENT = logging.Logger("websocket", level=logging.CRITICAL + 1)


def connect(
    url: str,
    *,
    token: str,
    as_protocol: bool,
    user_agent: str,
    open_timeout_s: float,
    silence_s: float,
    session: requests.Session,
) -> ClientConnection:
    """Opens a WebSocket; follows no redirect, as the token would go with it.

    Args:
        url: ws:// or wss://, without the token.
        as_protocol: send the token in Sec-WebSocket-Protocol, not in Authorization.
        open_timeout_s: for the look-up, the connection, TLS and the handshake together.
        silence_s: the connection ends when a server answers no ping for so long.
        session: whose rules about proxies and certificates apply.

    Raises:
        InvalidStatus: the server refused.
        WebSocketException, OSError, FetchError: it could not be opened.
    """
    parts = urlsplit(url)
    is_secure = parts.scheme == "wss"
    rules = session.merge_environment_settings(url.replace("ws", "http", 1), {}, True, None, None)
    proxy = rules["proxies"].get("https" if is_secure else "http")
    port = parts.port or (443 if is_secure else 80)
    host = parts.hostname or ""
    return open_websocket(
        url,
        sock=None if proxy else open_socket(host, port, timeout_s=open_timeout_s, allow_private=True),
        proxy=proxy,
        ssl=_trust(rules["verify"]) if is_secure else None,
        additional_headers={} if as_protocol else {"Authorization": f"Bearer {token}"},
        subprotocols=[Subprotocol(token)] if as_protocol else None,
        user_agent_header=user_agent,
        open_timeout=open_timeout_s,
        ping_interval=silence_s / 2,
        ping_timeout=silence_s / 2,
        close_timeout=CLOSE_TIMEOUT_S,
        max_size=MAX_MESSAGE_BYTES,
        logger=_SILENT,
        legacy=True,
    )


def _trust(bundle: str | bool | None) -> ssl.SSLContext:
    """Trusts the certificates that `requests` does: those of a file or folder, or its own."""
    path = Path(bundle if isinstance(bundle, str) else DEFAULT_CA_BUNDLE_PATH)
    return ssl.create_default_context(capath=path) if path.is_dir() else ssl.create_default_context(cafile=path)

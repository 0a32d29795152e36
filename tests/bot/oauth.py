"""Allows access as a person would; a server that knows coarse scopes alone."""

from __future__ import annotations

import html
import json
import re
from urllib.parse import parse_qs

import requests

from tests.web import Exchange, Server, status

APP = {"client_id": "an-app", "client_secret": "a-secret"}


def authorize(url: str) -> str:
    """Allows access as a person would in the browser; returns the code that the page shows."""
    page = requests.get(url, timeout=10)
    hidden = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]*)"', page.text))
    form = {name: html.unescape(value) for name, value in hidden.items()}
    choice = {"account": "dokocos", "decision": "approve"}
    shown = requests.post(url.partition("?")[0], data=form | choice, timeout=10)
    found = re.search(r'class="oauth-code" readonly value="([^"]+)"', shown.text)
    assert found, shown.text
    return found[1]


class CoarseServer:
    """A server that knows `read write follow push` alone: finer scopes are taken, and grant nothing.

    Attributes:
        apps: the scopes of each app that was registered.
        refuses: fine scopes are refused when an app is registered.
        lacks: paths that are refused to every token.
    """

    def __init__(self, server: Server, *, refuses: bool = False, lacks: tuple[str, ...] = ()) -> None:
        self.apps: list[str] = []
        self._refuses = refuses
        self._lacks = lacks
        server.posted = self._post
        refusable = ("/api/v1/accounts/verify_credentials", "/api/v1/notifications", "/api/v1/statuses/0/context")
        for path in refusable:
            server.answers[path] = self._get
        server.answers["/api/v2/instance"] = status(200, b"{}", Content_Type="application/json")

    def _post(self, exchange: Exchange) -> None:
        form = {name: values[0] for name, values in parse_qs(exchange.body.decode()).items()}
        if exchange.path == "/api/v1/apps":
            if self._refuses and ":" in form["scopes"]:
                status(422, b'{"error": "unknown scopes"}', Content_Type="application/json")(exchange)
                return
            self.apps.append(form["scopes"])
            exchange.reply(json.dumps(APP | {"client_id": f"app-{len(self.apps)}"}).encode())
        elif form.get("grant_type") == "client_credentials":
            exchange.reply(b"{}")
        else:
            number = int(form["client_id"].removeprefix("app-"))
            token = "fine" if ":" in self.apps[number - 1] else "coarse"
            exchange.reply(json.dumps({"access_token": token}).encode())

    def _get(self, exchange: Exchange) -> None:
        is_allowed = exchange.headers["Authorization"] == "Bearer coarse" and exchange.path not in self._lacks
        body = b'{"id": "1", "username": "me"}' if "verify" in exchange.path else b"[]"
        refusal = b'{"error": "insufficient_scope"}'
        exchange.reply(
            body if is_allowed else refusal, status=200 if is_allowed else 403, Content_Type="application/json"
        )

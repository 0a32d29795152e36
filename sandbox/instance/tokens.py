"""Stores apps, authorization codes and access tokens."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass

from sandbox.instance.errors import ApiError
from sandbox.instance.host import Host
from sandbox.instance.records import Account, App, Token

ALL_SCOPES = ("read", "write", "follow", "push", "profile")
# Source: app/models/concerns and doorkeeper's initializer of Mastodon: "follow" includes these.
_FOLLOW = {f"{kind}:{what}" for kind in ("read", "write") for what in ("blocks", "follows", "mutes")}
OUT_OF_BAND = "urn:ietf:wg:oauth:2.0:oob"
CODE_TTL_S = 600


def covers(scopes: Iterable[str], wanted: str) -> bool:
    """Whether one of `scopes` includes `wanted`: "read" includes "read:accounts"."""
    return any(scope in (wanted, wanted.split(":")[0]) or (scope == "follow" and wanted in _FOLLOW) for scope in scopes)


@dataclass(frozen=True, slots=True)
class Grant:
    """The user's consent on the authorization page."""

    app: App
    account: Account
    scopes: tuple[str, ...]
    redirect_uri: str
    challenge: str | None  # PKCE, method S256
    expires_at: float


class Tokens:
    """The apps and tokens of an instance."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._apps: dict[str, App] = {}
        self._grants: dict[str, Grant] = {}
        self._tokens: dict[str, Token] = {}
        self._revoked: set[str] = set()

    def register(self, name: str, redirect_uris: Iterable[str], scopes: Iterable[str], website: str | None) -> App:
        with self._host.lock:
            app = App(
                id=len(self._apps) + 1,
                name=name,
                website=website,
                redirect_uris=tuple(redirect_uris),
                scopes=tuple(scopes),
                client_id=secrets.token_urlsafe(32),
                client_secret=secrets.token_urlsafe(32),
            )
            self._apps[app.client_id] = app
            return app

    def app(self, client_id: str) -> App | None:
        return self._apps.get(client_id)

    def grant(
        self, app: App, account: Account, scopes: Iterable[str], redirect_uri: str, challenge: str | None = None
    ) -> str:
        """Create an authorization code, valid once and for ten minutes."""
        code = secrets.token_urlsafe(32)
        expires_at = self._host.clock() + CODE_TTL_S
        with self._host.lock:
            self._grants[code] = Grant(app, account, tuple(scopes), redirect_uri, challenge, expires_at)
        return code

    def redeem(self, code: str, app: App, redirect_uri: str, verifier: str | None) -> Token | None:
        """Exchange a code for a token; None if the code is unknown, used, expired or of another app."""
        with self._host.lock:
            grant = self._grants.pop(code, None)
            if grant is None or grant.app is not app or grant.redirect_uri != redirect_uri:
                return None
            if grant.expires_at < self._host.clock() or not _proves(verifier, grant.challenge):
                return None
            return self.issue(grant.account, scopes=grant.scopes, app=app)

    def issue(self, account: Account | None, *, scopes: Iterable[str] = ALL_SCOPES, app: App | None = None) -> Token:
        with self._host.lock:
            token = Token(
                id=len(self._tokens) + 1,
                value=secrets.token_urlsafe(32),
                account=account,
                app=app,
                scopes=tuple(scopes),
                created_at=self._host.now(),
            )
            self._tokens[token.value] = token
            return token

    def granted(self, token: Token) -> tuple[str, ...]:
        """The scopes of a token that mean something here."""
        coarse = self._host.settings.profile.coarse_scopes
        return tuple(scope for scope in token.scopes if not (coarse and ":" in scope))

    def find(self, value: str) -> Token | None:
        """The token, or None if it is unknown or revoked."""
        return None if value in self._revoked else self._tokens.get(value)

    def get(self, value: str) -> Token:
        """The token. Raises ApiError 401 with the text of the real server."""
        token = self.find(value)
        if token is not None:
            return token
        words = "The access token was revoked" if value in self._revoked else "The access token is invalid"
        realm = f'Bearer realm="Doorkeeper", error="invalid_token", error_description="{words}"'
        raise ApiError(401, words, {"WWW-Authenticate": realm})

    def revoke(self, value: str) -> Token | None:
        """Revoke a token; returns it, or None if it was unknown."""
        with self._host.lock:
            self._revoked.add(value)
            return self._tokens.get(value)


def _proves(verifier: str | None, challenge: str | None) -> bool:
    if challenge is None:
        return True
    digest = hashlib.sha256((verifier or "").encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == challenge

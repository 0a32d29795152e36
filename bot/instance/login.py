"""Gets an access token by OAuth, with a browser and a pasted code, tries it, and writes it to a file.

The app's secret, the code and the token go to the instance alone: no redirect to another address is followed. A code
can be exchanged only together with a secret that never leaves this machine (PKCE), and a `state` that comes back with
it must be the one that was sent.

Source: https://docs.joinmastodon.org/client/authorized/, RFC 6749, RFC 7636, RFC 8414
"""

from __future__ import annotations

import base64
import hashlib
import logging
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import requests

from bot.config import MastodonSettings
from bot.errors import InstanceError, Transient
from bot.instance.client import Client
from bot.instance.credentials import (
    APP_FILE,
    TOKEN_FILE,
    is_token,
    read_private_json,
    remove_private_file,
    write_private_json,
)
from bot.instance.scopes import COARSE, FINE, MORE, Tried, try_scopes
from bot.instance.transport import Transport, origin, redirect_origin
from trainer.quoting import quoted
from trainer.web.connections import innermost

logger = logging.getLogger(__name__)

OUT_OF_BAND = "urn:ietf:wg:oauth:2.0:oob"
LOGIN_FILE = "mastodon_login.json"
METADATA = "/.well-known/oauth-authorization-server"
_UNKNOWN_SCOPES = (400, 422)  # what an app with scopes that a server does not know is refused with


class CoarseScopesError(InstanceError):
    """A token with fine scopes is of no use here; another login, with coarse ones, is needed."""


@dataclass(frozen=True, slots=True)
class _App:
    client_id: str
    client_secret: str
    scopes: str


@dataclass(frozen=True, slots=True)
class Login:
    """One login, in two steps: `url` for the browser, then `finish` with the code it shows.

    Attributes:
        data_dir: where the app, the login that has begun and the token are stored.
    """

    base_url: str
    data_dir: Path
    user_agent: str
    timeout_s: float

    def url(self, *, coarse: bool = False) -> str:
        """The URL to open in a browser; registers the app at the instance the first time.

        Args:
            coarse: ask for `COARSE` scopes; otherwise for those of the registered app, `FINE` at first.

        Raises:
            InstanceError: the instance cannot be reached, or refuses.
        """
        app = self._app(coarse=coarse)
        page = self._endpoint("authorization_endpoint", "/oauth/authorize")
        verifier, state = secrets.token_urlsafe(64), secrets.token_urlsafe(32)
        write_private_json(
            self.data_dir / LOGIN_FILE,
            {"base_url": self.base_url, "client_id": app.client_id, "verifier": verifier, "state": state},
        )
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        asked = {
            "response_type": "code",
            "client_id": app.client_id,
            "redirect_uri": OUT_OF_BAND,
            "scope": app.scopes,
            "force_login": "true",
            "state": state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        return f"{page}?{urlencode(asked)}"

    def finish(self, pasted: str) -> tuple[Path, list[Tried]]:
        """Exchanges the code for a token, tries it and stores it.

        Args:
            pasted: the code, or the whole address of the page that shows it.

        Returns:
            the token's file, and what the token may do.

        Raises:
            CoarseScopesError: the token with fine scopes allows too little; it is not stored.
            InstanceError: the code is wrong or was used before, or the token allows too little.
            StorageError: the file cannot be written.
        """
        app = self._app()
        begun = read_private_json(self.data_dir / LOGIN_FILE) or {}
        if (begun.get("base_url"), begun.get("client_id")) != (self.base_url, app.client_id):
            begun = {}
        token = self._exchange(app, _code(pasted, state=begun.get("state")), begun.get("verifier"))
        tried = self._try(token)
        missing = [each for each in tried if each.outcome == "missing"]
        if missing and app.scopes != " ".join(COARSE):
            names = ", ".join(each.scope for each in missing)
            raise CoarseScopesError(
                f"{self.base_url} gave a token that lacks {names}; it seems to know coarse scopes alone. Please allow "
                f"access once more, with the scopes {' and '.join(COARSE)}. {MORE}."
            )
        if needed := [each for each in missing if each.is_needed]:
            faults = "; ".join(f"{each.scope} is missing, so {each.without} ({each.why})" for each in needed)
            raise InstanceError(f"{self.base_url}: the token cannot work and is not stored: {faults}")
        path = self.data_dir / TOKEN_FILE
        write_private_json(path, {"base_url": self.base_url, "access_token": token, "scopes": app.scopes})
        remove_private_file(self.data_dir / LOGIN_FILE)
        return path, tried

    def _exchange(self, app: _App, code: str, verifier: object) -> str:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "client_id": app.client_id,
            "client_secret": app.client_secret,
            "redirect_uri": OUT_OF_BAND,
            "scope": app.scopes,
        }
        if isinstance(verifier, str):
            form["code_verifier"] = verifier
        what = f"{self.base_url}: no token for this code"
        answer = self._post(self._endpoint("token_endpoint", "/oauth/token"), form, what=what)
        if not answer.ok:
            raise InstanceError(f"{what}: {_reason(answer)}; run login again for a new one")
        token = _json(answer).get("access_token")
        if not isinstance(token, str) or not is_token(token):
            raise InstanceError(f"{what}: the answer holds no access_token; is it a Mastodon server?")
        return token

    def _try(self, token: str) -> list[Tried]:
        settings = MastodonSettings(base_url=self.base_url, allow_http=True, request_timeout_s=self.timeout_s)
        return list(try_scopes(Client(settings, token, user_agent=self.user_agent)))

    def _app(self, *, coarse: bool = False) -> _App:
        """This bot's app; registered anew if the instance or the scopes have changed."""
        path = self.data_dir / APP_FILE
        held = read_private_json(path) or {}
        choices = [" ".join(scopes) for scopes in ((COARSE,) if coarse else (FINE, COARSE))]
        if held.get("base_url") == self.base_url and held.get("scopes") in choices and held.get("client_id"):
            app = _App(str(held["client_id"]), str(held.get("client_secret", "")), str(held["scopes"]))
            if self._is_known(app):
                return app
            logger.warning("%s has forgotten this bot's app; it is registered again", self.base_url)
        app = self._register(choices)
        write_private_json(path, {"base_url": self.base_url, **asdict(app)})
        return app

    def _is_known(self, app: _App) -> bool:
        """Whether the instance still knows an app; one that does not say so clearly does."""
        form = {"grant_type": "client_credentials", "client_id": app.client_id, "client_secret": app.client_secret}
        scope = "read" if app.scopes == " ".join(COARSE) else "read:accounts"
        try:
            answer = self._post(self._endpoint("token_endpoint", "/oauth/token"), form | {"scope": scope}, what="")
        except InstanceError:
            return True
        return not (answer.status_code in (400, 401) and _json(answer).get("error") == "invalid_client")

    def _register(self, choices: list[str]) -> _App:
        """Registers an app with the first of these scopes that the server accepts."""
        what = f"{self.base_url}: no app can be registered"
        for scopes in choices:
            form = {"client_name": "dokocos", "redirect_uris": OUT_OF_BAND, "scopes": scopes}
            answer = self._post(f"{self.base_url}/api/v1/apps", form, what=what)
            if answer.status_code not in _UNKNOWN_SCOPES:
                break
        if not answer.ok:
            raise Transient(f"{what}: {_reason(answer)}; is it a Mastodon server, and reachable?", outage=True)
        app = _json(answer)
        client_id, client_secret = app.get("client_id"), app.get("client_secret")
        if not isinstance(client_id, str) or not client_id:
            raise Transient(f"{what}: the answer holds no client_id; is it a Mastodon server?", outage=True)
        return _App(client_id, client_secret if isinstance(client_secret, str) else "", scopes)

    def _endpoint(self, name: str, usual: str) -> str:
        """A URL from the server's metadata, else the usual one, which most servers have.

        Raises:
            InstanceError: the server cannot be reached, or names an address that is not its own.
        """
        what = f"{self.base_url}: no login page"
        answer = self._send("GET", f"{self.base_url}{METADATA}", what=what)
        named = _json(answer).get(name) if answer.ok else None
        if named is None:
            return f"{self.base_url}{usual}"
        with suppress(ValueError):
            if isinstance(named, str) and origin(named) == origin(self.base_url) and not urlsplit(named).query:
                return named.partition("#")[0]
        raise Transient(
            f"{self.base_url}: its {name} is {quoted(str(named))}, which is not an address of {self.base_url}; if the "
            "instance is there, log in to that address",
            outage=True,
        )

    def _post(self, url: str, form: dict[str, str], *, what: str) -> requests.Response:
        return self._send("POST", url, what=what, data=form)

    def _send(self, method: str, url: str, *, what: str, **more: Any) -> requests.Response:
        """Sends a request; a redirect to another address is an error, and nothing is sent there."""
        try:
            with Transport(self.base_url) as session:
                headers = {"User-Agent": self.user_agent}
                answer = session.request(method, url, headers=headers, timeout=self.timeout_s, **more)
        except (requests.RequestException, ValueError, OSError) as error:
            raise Transient(
                f"{what}: {innermost(error)}; is it a Mastodon server, and reachable?", outage=True
            ) from error
        if answer.is_redirect:
            where = quoted(redirect_origin(answer) or "")
            raise Transient(
                f"{what}: {self.base_url} redirects to {where}, where no secret is sent; if the instance is there, log "
                "in to that address",
                outage=True,
            )
        return answer


def _code(pasted: str, *, state: object) -> str:
    """The code in what was pasted. Raises InstanceError if it is of another login, or none."""
    text = pasted.strip()
    if "://" not in text:
        return text
    try:
        found = parse_qs(urlsplit(text).query, keep_blank_values=True)
    except ValueError as error:
        raise InstanceError("what was pasted is neither a code nor the address of a page with one") from error
    if "error" in found:
        raise InstanceError(f"access was not allowed: {quoted(found['error'][0])}; run login again")
    if "state" in found and found["state"] != [state]:
        raise InstanceError("this code belongs to another login, perhaps somebody else's; run login again")
    if not found.get("code", [""])[0]:
        raise InstanceError("the address that was pasted holds no code; run login again")
    return found["code"][0]


def _json(answer: requests.Response) -> dict[str, Any]:
    """A JSON object; an empty one for any other answer."""
    try:
        found = answer.json()
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _reason(answer: requests.Response) -> str:
    """The server's words about a refusal, else its status."""
    said = _json(answer)
    words = said.get("error_description") or said.get("error") or answer.reason
    return f"HTTP {answer.status_code} {quoted(str(words or ''))}".strip()

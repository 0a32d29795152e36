"""Gets an access token by OAuth, with a browser and a pasted code, and writes it to a file.

Source: https://docs.joinmastodon.org/client/authorized/
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import requests
from mastodon import Mastodon
from mastodon.errors import MastodonError

from bot.errors import InstanceError, Transient
from bot.instance.credentials import APP_FILE, TOKEN_FILE, read_private_json, write_private_json
from bot.instance.transport import Transport
from trainer.quoting import quoted
from trainer.web.connections import innermost

logger = logging.getLogger(__name__)

# In this order for: the bot's account; threads and the stream; mentions; mutes and blocks; replies; pictures; the
# policy for private mentions. No other scope is requested.
SCOPES = (
    "read:accounts",
    "read:statuses",
    "read:notifications",
    "read:follows",
    "write:statuses",
    "write:media",
    "write:notifications",
)
OUT_OF_BAND = "urn:ietf:wg:oauth:2.0:oob"


@dataclass(frozen=True, slots=True)
class Login:
    """One login, in two steps: `url` for the browser, then `finish` with the code it shows.

    Attributes:
        data_dir: where the app and the token are stored.
    """

    base_url: str
    data_dir: Path
    allow_http: bool
    user_agent: str
    timeout_s: float

    def url(self) -> str:
        """The URL to open in a browser; registers the app at the instance the first time.

        Raises:
            InstanceError: the instance cannot be reached, or refuses.
        """
        client_id, client_secret = self._app()
        try:
            address: str = self._api(client_id, client_secret).auth_request_url(
                scopes=list(SCOPES), redirect_uris=OUT_OF_BAND, allow_http=self.allow_http
            )
        except (MastodonError, KeyError) as error:
            raise Transient(
                f"{self.base_url}: no login page: {_detail(error)}; is it a Mastodon server?", outage=True
            ) from error
        return address

    def finish(self, code: str) -> Path:
        """Exchanges the code for a token and stores it; returns the token's file.

        Raises:
            InstanceError: the code is wrong or was used before, or a scope was not granted.
            StorageError: the file cannot be written.
        """
        api = self._api(*self._app())
        try:
            token = api.log_in(
                code=code.strip(), redirect_uri=OUT_OF_BAND, scopes=list(SCOPES), allow_http=self.allow_http
            )
        except (KeyError, AttributeError, TypeError):
            # A token without a readable list of scopes has those that were requested (RFC 6749, 5.1).
            token = api.access_token
        except MastodonError as error:
            raise InstanceError(
                f"{self.base_url}: no token for this code: {_detail(error)}; run login again for a new one"
            ) from error
        path = self.data_dir / TOKEN_FILE
        write_private_json(path, {"base_url": self.base_url, "access_token": token, "scopes": " ".join(SCOPES)})
        return path

    def _app(self) -> tuple[str, str]:
        """Client id and secret of this bot's app; registered anew if the instance or the scopes have changed."""
        path = self.data_dir / APP_FILE
        wanted = {"base_url": self.base_url, "scopes": " ".join(SCOPES)}
        held = read_private_json(path) or {}
        if all(held.get(name) == value for name, value in wanted.items()) and held.get("client_id"):
            app = str(held["client_id"]), str(held.get("client_secret", ""))
            if self._is_known(*app):
                return app
            logger.warning("%s has forgotten this bot's app; it is registered again", self.base_url)
        client_id, client_secret = self._register()
        write_private_json(path, wanted | {"client_id": client_id, "client_secret": client_secret})
        return client_id, client_secret

    def _is_known(self, client_id: str, client_secret: str) -> bool:
        """Whether the instance still knows an app; one that does not say so clearly does."""
        form = {"grant_type": "client_credentials", "client_id": client_id, "client_secret": client_secret}
        try:
            answer = self._post("/oauth/token", form | {"scope": "read:accounts"})
            return not (answer.status_code in (400, 401) and answer.json().get("error") == "invalid_client")
        except (requests.RequestException, ValueError, AttributeError):
            return True

    def _register(self) -> tuple[str, str]:
        # Not by Mastodon.py, which keeps the server's reason for a refusal to itself.
        form = {"client_name": "dokocos", "redirect_uris": OUT_OF_BAND, "scopes": " ".join(SCOPES)}
        try:
            answer = self._post("/api/v1/apps", form)
            if not answer.ok:
                raise MastodonError("no app", _reason(answer))
            app = answer.json()
            return str(app["client_id"]), str(app.get("client_secret", ""))
        except (MastodonError, requests.RequestException, KeyError, TypeError, ValueError) as error:
            raise Transient(
                f"{self.base_url}: no app can be registered: {_detail(error)}; is it a Mastodon server, and reachable?",
                outage=True,
            ) from error

    def _post(self, path: str, form: dict[str, str]) -> requests.Response:
        with Transport(self.base_url) as session:
            headers = {"User-Agent": self.user_agent}
            return session.post(f"{self.base_url}{path}", data=form, headers=headers, timeout=self.timeout_s)

    def _api(self, client_id: str, client_secret: str) -> Mastodon:
        return Mastodon(
            client_id=client_id,
            client_secret=client_secret,
            api_base_url=self.base_url,
            ratelimit_method="throw",
            request_timeout=self.timeout_s,
            mastodon_version="4.0.0",
            user_agent=self.user_agent,
        )


def _reason(answer: requests.Response) -> str:
    """The server's words about a refusal, else its status."""
    try:
        said = answer.json()
        words = said.get("error_description") or said.get("error")
    except (ValueError, AttributeError):
        words = None
    return f"HTTP {answer.status_code} {words or answer.reason}".strip()


def _detail(error: BaseException) -> str:
    """The server's error text if there is one, else the innermost exception."""
    if isinstance(error, KeyError):
        return f"the answer has no {error}"
    while len(error.args) < 2 and (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    if isinstance(error, MastodonError) and len(error.args) > 1:
        return quoted(" ".join(str(word) for word in error.args[1:] if word))
    return innermost(error)

"""Gets an access token by OAuth, with a browser and a pasted code, and writes it to a file.

Source: https://docs.joinmastodon.org/client/authorized/
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mastodon import Mastodon
from mastodon.errors import MastodonError

from bot.errors import InstanceError, Transient
from bot.instance.credentials import APP_FILE, TOKEN_FILE, read_private_json, write_private_json
from trainer.web.connections import innermost

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
        except KeyError:
            # A token without a list of scopes has those that were requested (RFC 6749, 5.1).
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
            return str(held["client_id"]), str(held.get("client_secret", ""))
        try:
            client_id, client_secret = Mastodon.create_app(
                "dokocos",
                scopes=list(SCOPES),
                redirect_uris=OUT_OF_BAND,
                api_base_url=self.base_url,
                request_timeout=self.timeout_s,
                user_agent=self.user_agent,
            )
        except (MastodonError, KeyError, TypeError) as error:
            raise Transient(
                f"{self.base_url}: no app can be registered: {_detail(error)}; is it a Mastodon server, and reachable?",
                outage=True,
            ) from error
        write_private_json(path, wanted | {"client_id": client_id, "client_secret": client_secret})
        return client_id, client_secret

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


def _detail(error: BaseException) -> str:
    """The server's error text if there is one, else the innermost exception."""
    if isinstance(error, KeyError):
        return f"the answer has no {error}"
    while len(error.args) < 2 and (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    if isinstance(error, MastodonError) and len(error.args) > 1:
        return " ".join(str(word) for word in error.args[1:] if word)
    return innermost(error)

"""Facts about the bot's instance and its own account there."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mastodon import Mastodon
from mastodon.errors import MastodonAPIError

from bot.entities import Account
from bot.errors import InstanceError, NoSuchPage, NotFound, RateLimited, Refused, Transient
from bot.instance import parse
from bot.instance.calls import Calls
from bot.instance.neighbours import description

logger = logging.getLogger(__name__)

# An instance that is down at the start is asked again at least this often.
MAX_START_PAUSE_S = 60.0
# Its forks have versions like 4.5.2+glitch. Others say "2.7.2 (compatible; Pleroma 2.6)", "0.20.0", "takahe/0.11.0".
_MASTODON = re.compile(r"[3-9]\.\d+\.\d+[\w.+-]*")


@dataclass(frozen=True, slots=True)
class Instance:
    """What the instance says about itself.

    Source: https://docs.joinmastodon.org/entities/Instance/
    """

    version: str
    max_characters: int
    characters_per_url: int
    is_mastodon: bool = False
    description: str = ""  # as plain text
    streaming: str = ""  # the address of its streams, as it says; often wrong


@dataclass(eq=False)
class Home:
    """The instance and the bot's account; each is fetched once.

    Raises (all methods that call the server):
        RateLimited, Unauthorized, NotFound, Refused, Transient: see `bot.errors`.
    """

    calls: Calls

    def __post_init__(self) -> None:
        self._instance: Instance | None = None
        self._me: Account | None = None

    def me(self, *, again: bool = False) -> Account:
        """The bot's own account; cached, unless `again`."""
        if self._me is None or again:
            what = "checking the token"
            try:
                raw = self.calls.call("call", what, lambda api: api.me(), double_check=False)
            except Refused as error:
                said = f"{error}; if the token lacks the scope read:accounts, run `python -m bot login` again"
                raise Refused(said, status=error.status) from error
            self._me = self.calls.readable(what, parse.account, raw)
        return self._me

    def instance(self) -> Instance:
        """The instance's facts; cached. Without a description Mastodon's defaults apply."""
        if self._instance is None:
            what = "the instance's description"
            self._instance = self.calls.readable(what, _instance, self._describe(what))
        return self._instance

    def wait_for(self, *, sleep: Callable[[float], object] = time.sleep) -> tuple[Instance, Account]:
        """The instance and the bot's account; waits while the instance is down.

        Raises:
            Unauthorized, NotFound, Refused: the instance is up and refuses the call.
        """
        settings = self.calls.settings
        pause = settings.reconnect_pause_s
        while True:
            try:
                instance, me = self.instance(), self.me()
            except (RateLimited, Transient) as error:
                until_s = error.until - time.time() if isinstance(error, RateLimited) else 0.0
                wait_s = max(pause, until_s)
                logger.warning(
                    "%s does not answer, next try in_s=%.0f (if it never does, is mastodon.base_url right?): %s",
                    settings.base_url,
                    wait_s,
                    error,
                )
                sleep(wait_s)
                pause = min(pause * 2.0, MAX_START_PAUSE_S, settings.max_reconnect_pause_s)
            else:
                logger.info("connected on=%s version=%s as=%s", settings.base_url, instance.version, me.acct)
                return instance, me

    def _describe(self, what: str) -> parse.Json:
        for version in ("v2", "v1"):  # Mastodon before 4.0, and some other servers, have only v1

            def ask(api: Mastodon, version: str = version) -> Any:
                answer = api.session.get(
                    f"{api.api_base_url}/api/{version}/instance",
                    headers={"User-Agent": self.calls.user_agent, "Authorization": f"Bearer {self.calls.token}"},
                    timeout=self.calls.settings.request_timeout_s,
                )
                if not answer.ok:
                    raise MastodonAPIError(answer.reason)
                return answer.json()

            try:
                return self.calls.call("call", what, ask, double_check=False)
            except (NotFound, Refused, NoSuchPage) as error:
                missing: InstanceError = error
            except Transient as error:
                if version == "v1" or error.outage:
                    raise
                missing = error
        try:
            self.me()
        except InstanceError:
            raise missing from None
        logger.warning("%s; using Mastodon's defaults", missing)
        return {}

    def private_mention_policy(self) -> str | None:
        """What happens to private mentions from strangers: accept, filter or drop; None if the server has no policy."""
        try:
            policy = self.calls.call("call", "the notification policy", lambda api: api.notifications_policy())
        except (NotFound, NoSuchPage):
            return None
        return str(policy.get("for_private_mentions") or "accept")

    def accept_private_mentions(self) -> None:
        """Accepts private mentions from strangers; needs the scope write:notifications."""
        self.calls.call(
            "call",
            "changing the notification policy",
            lambda api: api.update_notifications_policy(for_private_mentions="accept"),
        )


def _instance(raw: parse.Json) -> Instance:
    configuration = raw.get("configuration") or {}
    statuses = configuration.get("statuses") or {}
    version = str(raw.get("version") or "unknown")
    urls = {"streaming": (raw.get("urls") or {}).get("streaming_api")} | (configuration.get("urls") or {})  # v1 | v2
    return Instance(
        version=version,
        max_characters=int(statuses.get("max_characters") or raw.get("max_toot_chars") or 500),
        characters_per_url=int(statuses.get("characters_reserved_per_url") or 23),
        is_mastodon=_MASTODON.fullmatch(version) is not None,
        description=description(raw),
        streaming=str(urls["streaming"] or ""),
    )

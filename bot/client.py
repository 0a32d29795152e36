"""The only caller of Mastodon.py: our entities in and out, its errors sorted by what to do about them.

What is known of Mastodon.py 2.3 and lived with here:

- Without a version it asks the instance on every call, and where that fails `media_post` recurses a thousand times: so
  it is given one. The calls used here exist since 4.0 or have their own way round.
- It sleeps inside a call when told to wait for a rate limit, and its objects are not thread-safe: it is told to throw,
  and each thread has its own.
- Each transport failure looks the same and a stream that is refused hides its status: a hook on the `requests` session
  keeps the last answer, and with it the rate-limit headers.
- It cannot ask for filtered notifications: the session adds that parameter.
"""

from __future__ import annotations

import logging
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import requests
from mastodon import Mastodon, MastodonNetworkError, MastodonRatelimitError
from mastodon.errors import MastodonWarning
from requests.adapters import HTTPAdapter

from bot import parse
from bot.config import MastodonSettings
from bot.entities import Account, Mention, Reply, Status, Thread, id_order
from bot.errors import InstanceError, NoSuchPage, NotFound, OutOfScope, RateLimited, Refused, Transient, Unauthorized
from bot.limits import BLIND_WAIT_S, Family, Limits
from bot.listener import Listener
from trainer.connections import GuardedAdapter

logger = logging.getLogger(__name__)
T = TypeVar("T")

PAGE_SIZE = 80  # the most that Mastodon hands out
MAX_PAGES_BACK = 10
_OUTAGES = frozenset({502, 503, 504})
_NO_ANSWERS = frozenset({502, 504})  # a proxy's, which waited for the server in vain
_ASSUMED_VERSION = (4, 0, 0)
# What Mastodon says with a 403 that has nothing to do with the thing asked for: a missing scope, a disabled account.
_SHUT = ("outside the authorized scopes", "login is currently disabled")


@dataclass(frozen=True, slots=True)
class Instance:
    """What the instance says about itself.

    Source: https://docs.joinmastodon.org/entities/Instance/
    """

    version: str
    max_characters: int
    characters_per_url: int


@dataclass(frozen=True, slots=True)
class Page:
    """One page of notifications.

    Attributes:
        mentions: those of them that are mentions and can be read.
        ids: of all notifications on the page, oldest first; empty at the end.
    """

    mentions: tuple[Mention, ...]
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """How our account stands to another."""

    shut_out: bool  # one of the two has blocked or muted the other


class Client:
    """One account on one instance; every method may be called from any thread.

    Raises (all methods that call the server):
        RateLimited, Unauthorized, NotFound, Refused, Transient: see `bot.errors`.
    """

    def __init__(
        self,
        settings: MastodonSettings,
        token: str,
        *,
        user_agent: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.limits = Limits(now=now)
        self._settings = settings
        self._token = token
        self._user_agent = user_agent
        self._now = now
        self._local = threading.local()
        self._stream: requests.Response | None = None
        self._closing = False
        self._instance: Instance | None = None
        self._me: Account | None = None
        self._heard: tuple[float | None, float] = (None, 0.0)  # the server's clock, and ours that never jumps, together

    def server_time(self) -> float:
        """Seconds since the epoch by the server's clock, which dates its statuses; ours may be wrong, or jump."""
        server, monotonic = self._heard
        return self._now() if server is None else server + time.monotonic() - monotonic

    # What the bot knows about itself and its home

    def me(self, *, again: bool = False) -> Account:
        """The bot's own account; asked for once, unless `again`."""
        if self._me is None or again:
            self._me = parse.account(self._call("call", "whose token this is", lambda api: api.me()))
        return self._me

    def instance(self) -> Instance:
        """The instance's facts; asked for once."""
        if self._instance is None:
            try:
                raw = self._call("call", "the instance's description", lambda api: api.instance_v2())
            except (NotFound, Refused, NoSuchPage):  # servers before 4.0, and some others of the same API
                raw = self._call("call", "the instance's description", lambda api: api.instance_v1())
            statuses = (raw.get("configuration") or {}).get("statuses") or {}
            self._instance = Instance(
                version=str(raw.get("version") or "unknown"),
                max_characters=int(statuses.get("max_characters") or raw.get("max_toot_chars") or 500),
                characters_per_url=int(statuses.get("characters_reserved_per_url") or 23),
            )
        return self._instance

    def private_mention_policy(self) -> str | None:
        """What happens to private mentions from strangers: accept, filter or drop; None where there is no policy."""
        try:
            policy = self._call("call", "the notification policy", lambda api: api.notifications_policy())
        except (NotFound, NoSuchPage):
            return None
        return str(policy.get("for_private_mentions") or "accept")

    def accept_private_mentions(self) -> None:
        """Let private mentions from strangers through; needs the scope write:notifications."""
        self._call(
            "call",
            "changing the notification policy",
            lambda api: api.update_notifications_policy(for_private_mentions="accept"),
        )

    # Reading

    def notifications(self, *, min_id: str | None = None, max_id: str | None = None) -> Page:
        """The page right after `min_id`, or right before `max_id`, or the newest; filtered ones too."""

        def ask(api: Mastodon) -> Any:
            api.session.params = {"include_filtered": "true"}
            try:
                return api.notifications(types=["mention"], min_id=min_id, max_id=max_id, limit=PAGE_SIZE)
            finally:
                api.session.params = {}

        items = self._call("page", "notifications", ask)
        mentions = (readable_mention(item) for item in items)
        ids = sorted((str(item["id"]) for item in items), key=id_order)
        return Page(tuple(mention for mention in mentions if mention), tuple(ids))

    def status(self, status_id: str) -> Status:
        """One status, as it is now."""
        what = f"status {status_id}"
        return self._readable(what, parse.status, self._call("call", what, lambda api: api.status(status_id)))

    def existing(self, status_ids: Sequence[str]) -> set[str]:
        """Which of these statuses (20 at most) still exist and are shown to us."""
        items = self._call("call", "several statuses", lambda api: api.statuses(list(status_ids)))
        return {str(item["id"]) for item in items}

    def thread(self, status_id: str) -> Thread:
        """What stands before and after a status."""
        what = f"the thread of status {status_id}"
        return self._readable(what, parse.thread, self._call("call", what, lambda api: api.status_context(status_id)))

    def left_behind(self, account_id: str, *, since: str) -> list[str]:
        """Our answers to an account, posted after the status `since`, whose question is gone.

        With a status, the server takes the link to it out of its answers; whom they answered stays.
        """
        me, position = self.me().id, since
        found: list[str] = []

        def ask(api: Mastodon) -> Any:
            return api.account_statuses(me, min_id=position, limit=40)

        for _ in range(MAX_PAGES_BACK):
            items = self._call("page", "our own statuses", ask)
            if not items:
                break
            position = max((str(item["id"]) for item in items), key=id_order)
            found += [
                str(item["id"])
                for item in items
                if str(item.get("in_reply_to_account_id")) == account_id and not item.get("in_reply_to_id")
            ]
        return found

    def relation(self, account_id: str) -> Relation:
        """How we stand to an account; needs the scope read:follows."""
        items = self._call("call", "the relation to an account", lambda api: api.account_relationships([account_id]))
        names = ("blocking", "blocked_by", "muting", "domain_blocking")
        return Relation(shut_out=any(item.get(name) for item in items for name in names))

    def lookup(self, acct: str) -> Account:
        """The account of that name, as this instance knows it; NotFound where it knows none."""
        found = self._call("call", f"the account {acct}", lambda api: api.account_lookup(acct))
        return self._readable(f"the account {acct}", parse.account, found)

    # Writing

    def post(
        self, reply: Reply, *, in_reply_to: str | None, idempotency_key: str, media_ids: Sequence[str] = ()
    ) -> str:
        """Post a reply, or a status that answers nobody; returns its id."""
        posted = self._call(
            "post",
            "posting",
            lambda api: api.status_post(
                reply.text,
                in_reply_to_id=in_reply_to,
                media_ids=list(media_ids) or None,
                sensitive=reply.sensitive,
                visibility=reply.visibility,
                spoiler_text=reply.spoiler_text or None,
                language=reply.language,
                idempotency_key=idempotency_key,
            ),
        )
        return str(posted["id"])

    def upload(self, jpeg: bytes, *, description: str, timeout_s: float) -> str | None:
        """Upload a picture; returns its id, or None when the server is not done with it at once, as it should be."""

        def send(api: Mastodon) -> Any:
            api.request_timeout = min(timeout_s, self._settings.request_timeout_s)
            try:
                return api.media_post(jpeg, mime_type="image/jpeg", description=description)
            finally:
                api.request_timeout = self._settings.request_timeout_s

        uploaded = self._call("upload", "uploading a picture", send)
        return str(uploaded["id"]) if uploaded.get("url") else None

    def delete(self, status_id: str) -> None:
        """Delete a status of ours; one that is gone already is fine."""
        try:
            self._call("delete", f"deleting status {status_id}", lambda api: api.status_delete(status_id))
        except NotFound:
            logger.debug("already gone status=%s", status_id)

    # Trying out what the token may do, without doing anything

    def probe_posting(self) -> None:
        """Post nothing at all: Refused where we may post, OutOfScope where not."""
        self._call("call", "trying to post", lambda api: api.status_post(""))

    def probe_media(self) -> None:
        """Change an attachment that is not there: NotFound where we may upload, OutOfScope where not."""
        self._call("call", "trying to upload", lambda api: api.media_update("0"))

    # Streaming

    def stream(self, listener: Listener) -> None:
        """Hand the user stream's events to the listener until it ends; blocks, and returns on a clean end.

        Raises:
            Unauthorized: the token is refused.
            NotFound, Refused: there is no such stream here.
            Transient, RateLimited: it broke, fell silent or could not be opened.
        """
        api = self._api()
        self._local.answer = None
        try:
            with warnings.catch_warnings():
                # Whether strangers may read the public timeline is no concern of ours.
                warnings.simplefilter("ignore", MastodonWarning)
                api.stream_user(listener, timeout=self._settings.stream_timeout_s)
        except Exception as error:
            raise self._sorted(error, "call", "the stream") from error
        finally:
            self._stream = None

    def close_stream(self) -> None:
        """End a stream that another thread is reading, and let none begin."""
        self._closing = True
        stream = self._stream
        if stream is not None:
            try:
                stream.raw.shutdown()
            except (OSError, RuntimeError, ValueError):
                logger.debug("the stream was closed already")

    # How a call is made

    def _call(self, family: Family, what: str, function: Callable[[Mastodon], T]) -> T:
        """Run one call on this thread's object; `family` and `what` are for limits and for messages."""
        self.require(family, what)
        api = self._api()
        self._local.answer = None
        self._local.family = family
        try:
            return function(api)
        except Exception as error:
            raise self._sorted(error, family, what) from error

    def require(self, family: Family, what: str) -> None:
        """Make sure that the server would listen to such a call now. Raises RateLimited."""
        blocked = self.limits.blocked_until(family)
        if blocked is not None:
            raise RateLimited(f"{what}: the server's limit is used up for now", until=blocked, family=family)

    def _api(self) -> Mastodon:
        if not hasattr(self._local, "api"):
            session = requests.Session()
            session.hooks["response"].append(self._seen)
            # An answer that drips ends in time; the stream, which has no end, is watched by its heartbeats.
            session.mount(self._settings.base_url, GuardedAdapter(allow_private=True))
            session.mount(f"{self._settings.base_url.rstrip('/')}/api/v1/streaming", HTTPAdapter())
            api = Mastodon(
                api_base_url=self._settings.base_url,
                access_token=self._token,
                ratelimit_method="throw",
                request_timeout=self._settings.request_timeout_s,
                mastodon_version=".".join(map(str, _ASSUMED_VERSION)),
                user_agent=self._user_agent,
                session=session,
            )
            # The constructor's version only keeps it from asking; these three choose the endpoints.
            api.mastodon_major, api.mastodon_minor, api.mastodon_patch = _ASSUMED_VERSION
            self._local.api = api
        return self._local.api

    def _seen(self, response: requests.Response, **_: object) -> None:
        """The session's hook: every answer passes here, also those that Mastodon.py makes nothing of."""
        self._local.answer = response
        with suppress(KeyError, TypeError, ValueError):
            self._heard = (parsedate_to_datetime(response.headers["Date"]).timestamp(), time.monotonic())
        self.limits.note(getattr(self._local, "family", "call"), response.headers, status=response.status_code)
        if response.headers.get("Content-Type", "").startswith("text/event-stream"):
            self._stream = response
            if self._closing:
                response.close()

    def _readable(self, what: str, function: Callable[[parse.Json], T], raw: parse.Json) -> T:
        try:
            return function(raw)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Transient(f"{what}: the server's answer cannot be read: {error!r}", outage=False) from error

    def _sorted(self, error: Exception, family: Family, what: str) -> InstanceError:
        """The member of our tree that a failure belongs to."""
        answer: requests.Response | None = self._local.answer
        status = None if answer is None else answer.status_code
        if status == 429 or isinstance(error, MastodonRatelimitError):
            until = self.limits.blocked_until(family) or self._now() + BLIND_WAIT_S
            return RateLimited(f"{what}: too many requests", until=until, family=family)
        detail = _said(answer, error)
        if status is None or status < 400:
            broken = isinstance(error, MastodonNetworkError)
            return Transient(f"{what}: {detail}", outage=status is None or broken, under_way=True)
        message = f"{what}: HTTP {status} {detail}".strip()
        if status == 401:
            return Unauthorized(message)
        if status == 403 and any(sign in detail for sign in _SHUT):
            return OutOfScope(message)
        if status == 404 and not _is_json(answer):
            return NoSuchPage(message, outage=True)
        if status in (404, 410):
            return NotFound(message)
        if status >= 500 or status == 408:
            return Transient(message, outage=status in _OUTAGES, under_way=status in _NO_ANSWERS)
        return Refused(message, status=status)


def readable_mention(raw: parse.Json) -> Mention | None:
    """A notification as a mention, or None; one that cannot be read is said so and passed over."""
    try:
        return parse.mention(raw)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        logger.warning("unreadable notification=%s error=%r", raw.get("id"), error)
        return None


def _is_json(answer: requests.Response | None) -> bool:
    return answer is not None and "json" in answer.headers.get("Content-Type", "")


def _said(answer: requests.Response | None, error: Exception) -> str:
    """The server's own words, which Mastodon.py does not always hand on; else the error's."""
    words: object = error
    if answer is not None and not answer.ok and _is_json(answer):
        with suppress(ValueError, AttributeError):
            words = answer.json().get("error")
    return " ".join(str(words or "").split())[:200]

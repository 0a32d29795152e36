"""The only caller of Mastodon.py: our entities in and out, its errors sorted by what to do about them.

What is known of Mastodon.py 2.3 and lived with here:

- Without a version it asks the instance on every call, and where that fails `media_post` recurses a thousand times: so
  it is given one. The calls used here exist since 4.0 or have their own way round.
- It sleeps inside a call when told to wait for a rate limit, and its objects are not thread-safe: it is told to throw,
  and each thread has its own.
- Each transport failure looks the same and a stream that is refused hides its status: a hook on the `requests` session
  keeps the last answer, and with it the rate-limit headers.
- It cannot ask for filtered notifications: the session adds that parameter.
- It takes rate-limit headers that it cannot read for a refusal, even of a post that arrived: the hook takes them away.
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
from urllib.parse import urljoin

import requests
from mastodon import Mastodon, MastodonNetworkError, MastodonRatelimitError
from mastodon.errors import MastodonAPIError, MastodonWarning

from bot.config import MastodonSettings
from bot.entities import Account, Mention, Reply, Status, Thread, id_order
from bot.errors import InstanceError, NoSuchPage, NotFound, OutOfScope, RateLimited, Refused, Transient, Unauthorized
from bot.instance import parse
from bot.instance.limits import BLIND_WAIT_S, Family, Limits
from bot.instance.listener import Listener
from bot.instance.transport import STREAMS, Transport, origin
from trainer.web.connections import innermost

logger = logging.getLogger(__name__)
T = TypeVar("T")

PAGE_SIZE = 80  # the most that Mastodon hands out
MAX_PAGES_BACK = 10
MEDIA_PAUSE_S = 0.5  # between looks at an upload that the server is not done with
_OUTAGES = frozenset({502, 503, 504})
_NO_ANSWERS = frozenset({502, 504})  # a proxy's, which waited for the server in vain
_ASSUMED_VERSION = (4, 0, 0)
_OLD_VERSION = (3, 0, 0)  # of the calls that Mastodon.py makes to servers that know no /api/v2/media
# What a 403 says that has nothing to do with the thing asked for: a missing scope, a disabled account. Mastodon's words
# come first; "Insufficient permissions: ..." is Pleroma's, "token has insufficient scope" GoToSocial's.
_SHUT = ("outside the authorized scopes", "login is currently disabled", "insufficient")


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
        self._is_plain = False  # the server refuses to choose among notifications
        self._knows_media_v2 = True
        self._heard: tuple[float | None, float] = (None, 0.0)  # the server's clock, and ours that never jumps, together

    def server_time(self) -> float:
        """Seconds since the epoch by the server's clock, which dates its statuses; ours may be wrong, or jump."""
        server, monotonic = self._heard
        return self._now() if server is None else server + time.monotonic() - monotonic

    # What the bot knows about itself and its home

    def me(self, *, again: bool = False) -> Account:
        """The bot's own account; asked for once, unless `again`."""
        if self._me is None or again:
            what = "whose token this is"
            try:
                raw = self._call("call", what, lambda api: api.me(), doubt=False)
            except Refused as error:
                said = f"{error}; if the token lacks the scope read:accounts, run `python -m bot login` again"
                raise Refused(said, status=error.status) from error
            self._me = self._readable(what, parse.account, raw)
        return self._me

    def instance(self) -> Instance:
        """The instance's facts; asked for once. One that does not describe itself is taken for Mastodon as it comes."""
        if self._instance is None:
            what = "the instance's description"
            self._instance = self._readable(what, _instance, self._describe(what))
        return self._instance

    def _describe(self, what: str) -> parse.Json:
        for version in ("v2", "v1"):  # servers before 4.0, and some others of the same API, have only the second

            def ask(api: Mastodon, version: str = version) -> Any:
                answer = api.session.get(
                    f"{api.api_base_url}/api/{version}/instance",
                    headers={"User-Agent": self._user_agent, "Authorization": f"Bearer {self._token}"},
                    timeout=self._settings.request_timeout_s,
                )
                if not answer.ok:
                    raise MastodonAPIError(answer.reason)
                return answer.json()

            try:
                return self._call("call", what, ask, doubt=False)
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
        logger.warning("%s; it is taken for Mastodon as it comes", missing)
        return {}

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

        def ask_plainly(api: Mastodon) -> Any:
            return api.notifications(min_id=min_id, max_id=max_id)

        what = "notifications"
        if self._is_plain:
            return self._readable(what, _page, self._call("page", what, ask_plainly))
        try:
            return self._readable(what, _page, self._call("page", what, ask))
        except (Refused, NoSuchPage) as error:  # by a server that takes no parameter it does not know
            if isinstance(error, NoSuchPage) and error.outage:
                raise
            page = self._readable(what, _page, self._call("page", what, ask_plainly))
            self._is_plain = True
            return page

    def status(self, status_id: str) -> Status:
        """One status, as it is now."""
        what = f"status {status_id}"
        return self._readable(what, parse.status, self._call("call", what, lambda api: api.status(status_id)))

    def existing(self, status_ids: Sequence[str]) -> set[str]:
        """Which of these statuses (20 at most) still exist and are shown to us."""
        what = "several statuses"
        items = self._call("call", what, lambda api: api.statuses(list(status_ids)))
        return self._readable(what, lambda found: {str(item["id"]) for item in found}, items)

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
            later = [item for item in items if id_order(str(item["id"])) > id_order(position)]
            if not later:  # the end, or a server that knows no min_id
                break
            position = max((str(item["id"]) for item in later), key=id_order)
            found += [
                str(item["id"])
                for item in later
                if str(item.get("in_reply_to_account_id")) == account_id and not item.get("in_reply_to_id")
            ]
        return found

    def relation(self, account_id: str) -> Relation:
        """How we stand to an account; needs the scope read:follows."""
        what = "the relation to an account"
        items = self._call("call", what, lambda api: api.account_relationships([account_id]))
        names = ("blocking", "blocked_by", "muting", "domain_blocking")
        shut_out = self._readable(what, lambda found: any(item.get(name) for item in found for name in names), items)
        return Relation(shut_out=shut_out)

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
        return self._readable("posting", lambda status: str(status["id"]), posted)

    def upload(self, jpeg: bytes, *, description: str, timeout_s: float) -> str | None:
        """Upload a picture; returns its id, or None when the server is not done with it in time."""

        def send(api: Mastodon) -> Any:
            api.request_timeout = min(timeout_s, self._settings.request_timeout_s)
            api.mastodon_major, api.mastodon_minor, api.mastodon_patch = (
                _ASSUMED_VERSION if self._knows_media_v2 else _OLD_VERSION
            )
            try:
                return api.media_post(jpeg, mime_type="image/jpeg", description=description)
            finally:
                api.request_timeout = self._settings.request_timeout_s
                api.mastodon_major, api.mastodon_minor, api.mastodon_patch = _ASSUMED_VERSION

        what = "uploading a picture"
        deadline = time.monotonic() + timeout_s
        try:
            uploaded = self._call("upload", what, send)
        except (NotFound, NoSuchPage):
            if not self._knows_media_v2:
                raise
            self._knows_media_v2 = False
            uploaded = self._call("upload", what, send)
        media_id = self._readable(what, lambda found: str(found["id"]), uploaded)
        while not uploaded.get("url"):  # Mastodon is done with a picture at once; others let it wait its turn
            if time.monotonic() + MEDIA_PAUSE_S > deadline:
                return None
            time.sleep(MEDIA_PAUSE_S)
            uploaded = self._call("call", what, lambda api: api.media(media_id))
        return media_id

    def delete(self, status_id: str) -> None:
        """Delete a status of ours; one that is gone already is fine."""
        try:
            self._call("delete", f"deleting status {status_id}", lambda api: api.status_delete(status_id))
        except NotFound:
            logger.debug("already gone status=%s", status_id)

    # Trying out what the token may do, without doing anything

    def probe_posting(self) -> None:
        """Delete a status that is not there: NotFound where we may post, OutOfScope where not.

        An empty post would do for Mastodon, which refuses it; not every server does.
        """
        self._call("delete", "trying to post", lambda api: api.status_delete("0"))

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
        self._local.family = "stream"  # often another server's, with limits of its own
        try:
            with warnings.catch_warnings():
                # Whether strangers may read the public timeline is no concern of ours.
                warnings.simplefilter("ignore", MastodonWarning)
                api.stream_user(listener, timeout=self._settings.stream_timeout_s)
        except Exception as error:
            raise self._sorted(error, "stream", "the stream") from error
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

    def _call(self, family: Family, what: str, function: Callable[[Mastodon], T], *, doubt: bool = True) -> T:
        """Run one call on this thread's object; `family` and `what` are for limits and for messages.

        Args:
            doubt: whether a refusal that may be the whole server's, or this one call's, is looked into.
        """
        self.require(family, what)
        api = self._api()
        self._local.answer = None
        self._local.family = family
        try:
            return function(api)
        except Exception as error:
            failure = self._sorted(error, family, what)
            raise (self._doubted(failure) if doubt else failure) from error

    def _doubted(self, failure: InstanceError) -> InstanceError:
        """What a 401, or a no that is not the API's own, means beside a call that ought to work.

        Some servers answer so to one thing only: to a status that is gone, to what a scope does not reach. They are not
        away, and the token is good; that one thing may fail for good, or just now.
        """
        if not isinstance(failure, NoSuchPage) and type(failure) is not Unauthorized:
            return failure
        try:
            self.me(again=True)
        except Unauthorized as error:
            return error if type(error) is Unauthorized else failure
        except InstanceError:
            return failure if isinstance(failure, NoSuchPage) else Transient(str(failure), outage=True)
        if isinstance(failure, NoSuchPage):
            return NoSuchPage(str(failure), outage=False, status=failure.status)
        return Transient(f"{failure}, though the token is good", outage=False)

    def require(self, family: Family, what: str) -> None:
        """Make sure that the server would listen to such a call now. Raises RateLimited."""
        blocked = self.limits.blocked_until(family)
        if blocked is not None:
            raise RateLimited(f"{what}: the server's limit is used up for now", until=blocked, family=family)

    def _api(self) -> Mastodon:
        if not hasattr(self._local, "api"):
            session = Transport(self._settings.base_url)
            session.hooks["response"].append(self._seen)
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
        for name in [name for name in response.headers if name.lower().startswith("x-ratelimit-")]:
            del response.headers[name]
        if response.ok and STREAMS in response.url:
            self._stream = response
            if self._closing:
                response.close()

    def _readable(self, what: str, function: Callable[[Any], T], raw: Any) -> T:
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
        if answer is not None and answer.is_redirect:
            target = origin(urljoin(answer.url, answer.headers["Location"]))
            return Transient(
                f"{what}: {self._settings.base_url} sends us on to {target}; if it has moved there for good, make that "
                "mastodon.base_url",
                outage=True,
            )
        if status is None or status < 400:
            broken = isinstance(error, MastodonNetworkError)
            return Transient(f"{what}: {detail}", outage=status is None or broken, under_way=True)
        message = f"{what}: HTTP {status} {detail}".strip()
        if status == 401:
            return Unauthorized(message)
        if status == 403 and any(sign in detail.lower() for sign in _SHUT):
            return OutOfScope(message)
        if status >= 500 or status == 408:
            return Transient(message, outage=status in _OUTAGES, under_way=status in _NO_ANSWERS)
        if not _is_json(answer):
            return NoSuchPage(message, outage=True, status=status)
        return NotFound(message) if status in (404, 410) else Refused(message, status=status)


def _instance(raw: parse.Json) -> Instance:
    statuses = (raw.get("configuration") or {}).get("statuses") or {}
    return Instance(
        version=str(raw.get("version") or "unknown"),
        max_characters=int(statuses.get("max_characters") or raw.get("max_toot_chars") or 500),
        characters_per_url=int(statuses.get("characters_reserved_per_url") or 23),
    )


def _page(items: Sequence[parse.Json]) -> Page:
    mentions = (readable_mention(item) for item in items)
    ids = sorted((str(item["id"]) for item in items), key=id_order)
    return Page(tuple(mention for mention in mentions if mention), tuple(ids))


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
    """The server's own words, which Mastodon.py does not always hand on; else what really happened."""
    words: object = innermost(error)
    if answer is not None and not answer.ok:
        words = answer.reason
        if _is_json(answer):
            with suppress(ValueError, AttributeError):
                words = answer.json().get("error")
    elif answer is not None and not _is_json(answer):
        words = f"the answer is {answer.headers.get('Content-Type') or 'of no kind'}, not JSON ({words})"
    return " ".join(str(words or "").split())[:200]

"""How one call of the API is made through Mastodon.py, and what to do about each way it can fail.

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
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urljoin

import requests
from mastodon import Mastodon, MastodonNetworkError, MastodonRatelimitError

from bot.config import MastodonSettings
from bot.errors import InstanceError, NoSuchPage, NotFound, OutOfScope, RateLimited, Refused, Transient, Unauthorized
from bot.instance import parse
from bot.instance.limits import BLIND_WAIT_S, Family, Limits
from bot.instance.transport import STREAMS, Transport, origin
from trainer.web.connections import innermost

logger = logging.getLogger(__name__)
T = TypeVar("T")

ASSUMED_VERSION = (4, 0, 0)
_OUTAGES = frozenset({502, 503, 504})
_NO_ANSWERS = frozenset({502, 504})  # a proxy's, which waited for the server in vain
# What a 403 says that has nothing to do with the thing asked for: a missing scope, a disabled account. Mastodon's words
# come first; "Insufficient permissions: ..." is Pleroma's, "token has insufficient scope" GoToSocial's.
_SHUT = ("outside the authorized scopes", "login is currently disabled", "insufficient")


class Calls:
    """Calls to one instance with one account's token; every method may be called from any thread.

    Attributes:
        limits: what the server's rate-limit headers said last.
        stream: the stream's response while one is open.
        closing: no stream is to be opened any more.
    """

    def __init__(
        self, settings: MastodonSettings, token: str, *, user_agent: str, now: Callable[[], float] = time.time
    ) -> None:
        self.limits = Limits(now=now)
        self.settings = settings
        self.token = token
        self.user_agent = user_agent
        self.stream: requests.Response | None = None
        self.closing = False
        self._now = now
        self._local = threading.local()
        self._heard: tuple[float | None, float] = (None, 0.0)  # the server's clock, and ours that never jumps, together

    def server_time(self) -> float:
        """Seconds since the epoch by the server's clock, which dates its statuses; ours may be wrong, or jump."""
        server, monotonic = self._heard
        return self._now() if server is None else server + time.monotonic() - monotonic

    def call(self, family: Family, what: str, function: Callable[[Mastodon], T], *, doubt: bool = True) -> T:
        """Run one call on this thread's object; `family` and `what` are for limits and for messages.

        Args:
            doubt: whether a refusal that may be the whole server's, or this one call's, is looked into.
        """
        self.require(family, what)
        api = self.api()
        self.begin(family)
        try:
            return function(api)
        except Exception as error:
            failure = self.sorted_error(error, family, what)
            raise (self._doubted(failure) if doubt else failure) from error

    def begin(self, family: Family) -> None:
        """What is answered on this thread from now on belongs to a call of this family."""
        self._local.answer = None
        self._local.family = family

    def _doubted(self, failure: InstanceError) -> InstanceError:
        """What a 401, or a no that is not the API's own, means beside a call that ought to work.

        Some servers answer so to one thing only: to a status that is gone, to what a scope does not reach. They are not
        away, and the token is good; that one thing may fail for good, or just now.
        """
        if not isinstance(failure, NoSuchPage) and type(failure) is not Unauthorized:
            return failure
        try:
            what = "whose token this is"
            self.readable(what, parse.account, self.call("call", what, lambda api: api.me(), doubt=False))
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

    def api(self) -> Mastodon:
        """This thread's object of Mastodon.py."""
        if not hasattr(self._local, "api"):
            session = Transport(self.settings.base_url)
            session.hooks["response"].append(self._seen)
            api = Mastodon(
                api_base_url=self.settings.base_url,
                access_token=self.token,
                ratelimit_method="throw",
                request_timeout=self.settings.request_timeout_s,
                mastodon_version=".".join(map(str, ASSUMED_VERSION)),
                user_agent=self.user_agent,
                session=session,
            )
            # The constructor's version only keeps it from asking; these three choose the endpoints.
            api.mastodon_major, api.mastodon_minor, api.mastodon_patch = ASSUMED_VERSION
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
            self.stream = response
            if self.closing:
                response.close()

    def read(self, family: Family, what: str, function: Callable[[Mastodon], Any], parse: Callable[[Any], T]) -> T:
        """Make one call and parse its answer; as `call`, and Transient where the answer cannot be read."""
        return self.readable(what, parse, self.call(family, what, function))

    def readable(self, what: str, parse: Callable[[Any], T], raw: Any) -> T:
        """What `parse` makes of an answer. Raises Transient where it cannot be read."""
        try:
            return parse(raw)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Transient(f"{what}: the server's answer cannot be read: {error!r}", outage=False) from error

    def sorted_error(self, error: Exception, family: Family, what: str) -> InstanceError:
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
                f"{what}: {self.settings.base_url} sends us on to {target}; if it has moved there for good, make that "
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

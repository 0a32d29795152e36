"""Makes API calls through Mastodon.py and turns each failure into an `InstanceError`.

Problems of Mastodon.py 2.3 and their workarounds here:

- Without a version it asks the instance on every call, and if that fails `media_post` recurses a thousand times. So it
  is given a version. The calls used here exist since 4.0 or have their own fallback.
- It sleeps inside a call when told to wait for a rate limit, and its objects are not thread-safe. So it is told to
  throw, and each thread has its own object.
- All transport failures look the same, and a refused stream hides its status. So a hook on the `requests` session keeps
  the last response and its rate-limit headers.
- It cannot request filtered notifications. So the session adds that parameter.
- It takes unreadable rate-limit headers for an error, even after a successful post. So the hook removes them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import requests
from mastodon import MastodonNetworkError, MastodonRatelimitError

from bot.config import MastodonSettings
from bot.errors import InstanceError, NoSuchPage, NotFound, OutOfScope, RateLimited, Refused, Transient, Unauthorized
from bot.instance import parse
from bot.instance.api import Api
from bot.instance.limits import DEFAULT_WAIT_S, Family, Limits
from bot.instance.transport import Transport, redirect_origin
from bot.shares import asker
from trainer.quoting import escaped, quoted
from trainer.web.connections import innermost

logger = logging.getLogger(__name__)
T = TypeVar("T")

ASSUMED_VERSION = (4, 0, 0)
_OUTAGES = frozenset({502, 503, 504})
_NO_ANSWERS = frozenset({502, 504})  # from a proxy that got no answer from the server
# Texts of a 403 that is about the token, not the resource: a missing scope, a disabled account. Mastodon's come first;
# "Insufficient permissions: ..." is Pleroma's, "token has insufficient scope" GoToSocial's.
_SCOPE_ERRORS = (
    "outside the authorized scopes",
    "login is currently disabled",
    "insufficient",
    "pending approval",
    "confirm",
)


class Calls:
    """Calls one instance with one account's token; every method may be called from any thread.

    Attributes:
        limits: the newest rate-limit headers of the server.
    """

    def __init__(
        self, settings: MastodonSettings, token: str, *, user_agent: str, now: Callable[[], float] = time.time
    ) -> None:
        self.limits = Limits(now=now)
        self.settings = settings
        self.token = token
        self.user_agent = user_agent
        self._now = now
        self._local = threading.local()
        self._server_clock: tuple[float | None, float] = (
            None,
            0.0,
        )  # the server's time and our monotonic time at one moment

    def server_time(self) -> float:
        """Seconds since the epoch by the server's clock, which dates its statuses; our clock may be wrong or jump."""
        server, monotonic = self._server_clock
        return self._now() if server is None else server + time.monotonic() - monotonic

    def call(self, family: Family, what: str, function: Callable[[Api], T], *, double_check: bool = True) -> T:
        """Runs one call on this thread's object.

        Args:
            family: whose limit counts.
            what: the call's name in messages.
            double_check: after an ambiguous refusal, find out whether it concerns the whole server or only this call.

        Raises:
            InstanceError: the call failed.
        """
        self.require(family, what)
        api = self.api()
        self.begin(family)
        try:
            return function(api)
        except Exception as error:
            failure = self.instance_error(error, family, what)
            raise (self._double_checked(failure) if double_check else failure) from error

    def begin(self, family: Family) -> None:
        """Assigns the next responses on this thread to a family of calls."""
        self._local.answer = None
        self._local.family = family

    def _double_checked(self, failure: InstanceError) -> InstanceError:
        """Interprets a 401, or an error page not from the API, by a second call that ought to work.

        Some servers answer so to one request only: for a deleted status, or for a missing scope. Then the server is up
        and the token is valid; the request may fail for good or only now.
        """
        if not isinstance(failure, NoSuchPage) and type(failure) is not Unauthorized:
            return failure
        try:
            what = "checking the token"
            answer = self.call("call", what, lambda api: api.me(), double_check=False)
            self.readable(what, parse.account, answer)
        except Unauthorized as error:
            return error if type(error) is Unauthorized else failure
        except InstanceError:
            return failure if isinstance(failure, NoSuchPage) else Transient(str(failure), outage=True)
        if isinstance(failure, NoSuchPage):
            return NoSuchPage(str(failure), outage=False, status=failure.status)
        return Transient(f"{failure}, though the token is valid", outage=False)

    def require(self, family: Family, what: str) -> None:
        """Raises RateLimited if the limit of this family of calls is used up, or the share of the asker's host."""
        blocked = self.limits.blocked_until(family)
        if blocked is not None:
            raise RateLimited(f"{what}: the server's rate limit is used up", until=blocked, family=family)
        host = _host()
        blocked = None if host is None else self.limits.share_used_until(family, host)
        if blocked is not None:
            said = f"{what}: the rest of the server's rate limit is kept for other hosts"
            raise RateLimited(said, until=blocked, family=family, host=host)

    def api(self) -> Api:
        """The `Api` object of this thread."""
        if not hasattr(self._local, "api"):
            session = Transport(self.settings.base_url)
            session.hooks["response"].append(self.on_response)
            api = Api(
                api_base_url=self.settings.base_url,
                access_token=self.token,
                ratelimit_method="throw",
                request_timeout=self.settings.request_timeout_s,
                mastodon_version=".".join(map(str, ASSUMED_VERSION)),
                user_agent=self.user_agent,
                session=session,
            )
            # The constructor's version only stops the version request; these three choose the endpoints.
            api.mastodon_major, api.mastodon_minor, api.mastodon_patch = ASSUMED_VERSION
            self._local.api = api
        found: Api = self._local.api
        return found

    def on_response(self, response: requests.Response, **_: object) -> None:
        """Hook of the session: sees every response, also those that Mastodon.py cannot use."""
        self._local.answer = response
        with suppress(KeyError, TypeError, ValueError, OverflowError):
            self._server_clock = (parsedate_to_datetime(response.headers["Date"]).timestamp(), time.monotonic())
        family: Family = getattr(self._local, "family", "call")
        self.limits.note(family, response.headers, status=response.status_code, host=_host())
        for name in [name for name in response.headers if name.lower().startswith("x-ratelimit-")]:
            del response.headers[name]

    def read(self, family: Family, what: str, function: Callable[[Api], Any], parse: Callable[[Any], T]) -> T:
        """Makes one call and parses its answer. Raises as `call`, and Transient if the answer cannot be parsed."""
        return self.readable(what, parse, self.call(family, what, function))

    def readable(self, what: str, parse: Callable[[Any], T], raw: Any) -> T:
        """Parses an answer. Raises Transient if that fails."""
        try:
            return parse(raw)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise Transient(
                f"{what}: the server's answer cannot be read: {quoted(repr(error))}", outage=False
            ) from error

    def instance_error(self, error: Exception, family: Family, what: str) -> InstanceError:
        """The `InstanceError` for a failed call."""
        answer: requests.Response | None = self._local.answer
        status = None if answer is None else answer.status_code
        if status == 429 or isinstance(error, MastodonRatelimitError):
            until = self.limits.blocked_until(family) or self._now() + DEFAULT_WAIT_S
            return RateLimited(f"{what}: too many requests", until=until, family=family)
        detail = _detail(answer, error)
        if answer is not None and answer.is_redirect:
            target = escaped(redirect_origin(answer) or "an address that is none")
            return Transient(
                f"{what}: {self.settings.base_url} redirects to {target}; if it has moved there for good, set "
                "mastodon.base_url to that",
                outage=True,
            )
        if status is None or status < 400:
            # A web page in place of JSON is a proxy's, which answers for a server that is away.
            broken = isinstance(error, MastodonNetworkError) or not _is_json(answer)
            return Transient(f"{what}: {detail}", outage=status is None or broken, under_way=True)
        message = f"{what}: HTTP {status} {detail}".strip()
        if status == 401:
            return Unauthorized(message)
        if status == 403 and any(sign in detail.lower() for sign in _SCOPE_ERRORS):
            return OutOfScope(message)
        if status >= 500 or status == 408:
            return Transient(message, outage=status in _OUTAGES, under_way=status in _NO_ANSWERS)
        if not _is_json(answer):
            return NoSuchPage(message, outage=True, status=status)
        return NotFound(message) if status in (404, 410) else Refused(message, status=status)


def _host() -> str | None:
    """The host of whom the calling thread works for; None: for the bot itself."""
    who = asker()
    return None if who is None else who.host


def _is_json(answer: requests.Response | None) -> bool:
    return answer is not None and "json" in answer.headers.get("Content-Type", "")


def _detail(answer: requests.Response | None, error: Exception) -> str:
    """The server's error text, which Mastodon.py does not always pass on; else the innermost exception."""
    if answer is not None and not answer.ok:
        words: object = answer.reason
        if _is_json(answer):
            with suppress(ValueError, AttributeError):
                words = answer.json().get("error")
        return quoted(str(words or ""))
    if answer is not None and not _is_json(answer):
        kind = quoted(answer.headers.get("Content-Type", ""), 80) or "of unknown type"
        return f"the answer is {kind}, not JSON ({innermost(error)})"
    return innermost(error)

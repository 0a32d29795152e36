"""What a token may do, tried call by call; no call changes anything.

What a server says about a token's scopes is not enough: some grant scopes that they do not know, which allow nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from bot.errors import InstanceError, NoSuchPage, NotFound, Refused, Unauthorized
from bot.instance.client import Client

# In this order for: the bot's account; threads and the stream; mentions; mutes and blocks; replies; pictures; the
# policy for private mentions. No other scope is requested, unless the server does not know these.
FINE = (
    "read:accounts",
    "read:statuses",
    "read:notifications",
    "read:follows",
    "write:statuses",
    "write:media",
    "write:notifications",
)
# The same as servers know it that have these, `follow` and `push` alone.
COARSE = ("read", "write")
MORE = (
    "That also allows, what the bot never does: reading its account's bookmarks, lists, filters and private data, and "
    "changing its profile, follows, blocks and lists"
)
FORBIDDEN = 403

Outcome = Literal["granted", "missing", "unknown"]


@dataclass(frozen=True, slots=True)
class Tried:
    """The outcome of the call for one scope.

    Attributes:
        without: what does not work without it.
        is_needed: the bot cannot do its work without it.
        why: the error, unless it is granted.
    """

    scope: str
    without: str
    is_needed: bool
    outcome: Outcome
    why: str = ""


def try_scopes(client: Client) -> Iterator[Tried]:
    """Tries each scope that has a call which changes nothing."""
    reader, poster = client.reader, client.poster
    calls: tuple[tuple[str, str, bool, Callable[[], object]], ...] = (
        ("read:accounts", "the bot cannot tell who it is", True, lambda: client.home.me(again=True)),
        ("read:notifications", "mentions cannot be read", True, reader.notifications),
        ("read:statuses", "threads cannot be read", True, lambda: reader.thread("0")),
        ("read:follows", "muted accounts are answered too", False, lambda: reader.relation(client.home.me().id)),
        ("write:statuses", "nothing can be posted", True, poster.probe_posting),
        ("write:media", "answers come without pictures", False, poster.probe_media),
    )
    for scope, without, is_needed, call in calls:
        yield Tried(scope, without, is_needed, *_outcome(scope, call))


def _outcome(scope: str, call: Callable[[], object]) -> tuple[Outcome, str]:
    try:
        call()
    except Unauthorized as error:
        return "missing", str(error)
    except NotFound:
        return "granted", ""
    except Refused as error:
        # The bot's own data can be refused for lack of a scope alone, whatever the words; a deletion for more.
        is_missing = error.status == FORBIDDEN and scope.startswith("read:")
        return ("missing", str(error)) if is_missing else ("granted", "")
    except InstanceError as error:
        is_there = isinstance(error, NoSuchPage) and not error.outage  # an old server that lacks this call
        return ("granted", "") if is_there else ("unknown", str(error))
    return "granted", ""

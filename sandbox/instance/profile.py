"""How servers with Mastodon's API differ from Mastodon: a switch for each rule, and who keeps it."""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass

CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # pragma: allowlist secret
ULID_LENGTH = 26


class Numbers:
    """Ids as decimal numbers in strings."""

    def show(self, number: int, _kind: str) -> str:
        """The id of a record; `_kind` is the type of a notification, or "" for other records."""
        return str(number)

    def read(self, text: str) -> int | None:
        """The number of a record, or None for a text that is no id."""
        return int(text) if text.isascii() and text.isdigit() else None


class Ulids:
    """Ids as ULIDs: 48 bits of time and 80 others, in Crockford's base 32."""

    def show(self, number: int, _kind: str) -> str:
        noise = hashlib.sha256(str(number).encode()).digest()[:8]
        value = number << 64 | int.from_bytes(noise, "big")
        return "".join(CROCKFORD[value >> 5 * place & 31] for place in reversed(range(ULID_LENGTH)))

    def read(self, text: str) -> int | None:
        if len(text) != ULID_LENGTH or not set(text) <= set(CROCKFORD):
            return None
        value = 0
        for letter in text:
            value = value << 5 | CROCKFORD.index(letter)
        number = value >> 64
        return number if self.show(number, "") == text else None


class Mixed(Numbers):
    """Notifications as time/type/uuid, whose order as text says nothing; other records as numbers."""

    def show(self, number: int, kind: str) -> str:
        if not kind:
            return str(number)
        return f"{number >> 16}/{kind}/{_scattered(number)}"

    def read(self, text: str) -> int | None:
        if "/" not in text:
            return super().read(text)
        try:
            return _scattered(uuid.UUID(text.rpartition("/")[2])).int
        except ValueError:
            return None


def _scattered(number: int | uuid.UUID) -> uuid.UUID:
    """A UUID for a number, and back: the lower half says how the upper one is hidden."""
    value = number if isinstance(number, int) else number.int
    low = value & (1 << 64) - 1
    high = int.from_bytes(hashlib.sha256(str(low).encode()).digest()[:8], "big")
    return uuid.UUID(int=low if value >> 64 else high << 64 | low)


NUMBERS = Numbers()


@dataclass(frozen=True, slots=True)
class Profile:
    """A server's rules. The defaults are Mastodon's; each line names who does otherwise."""

    name: str = "mastodon"
    version: str = ""  # what others call themselves; empty: the version of `InstanceSettings`
    server_sent_events: bool = True  # not GoToSocial, Pleroma, Akkoma (WebSocket alone), Takahe (neither)
    websocket: bool = True  # not Takahe
    bearer_sockets: bool = True  # not Pleroma, Akkoma: a WebSocket's token is read from Sec-WebSocket-Protocol alone
    says_wss: bool = False  # GoToSocial names a wss:// stream, even where it is served over plain http
    ids: Numbers | Ulids = NUMBERS  # ULIDs: GoToSocial; time/type/uuid and others: small servers
    full_names: bool = False  # Takahe: acct has the host for the server's own accounts too
    coarse_scopes: bool = False  # Takahe: read, write, follow and push alone; a finer scope grants nothing
    counts_code_points: bool = False  # GoToSocial: code points; links and @user@host count whole
    lists_statuses: bool = True  # GET /api/v1/statuses?id[]=...: Mastodon from 4.3 on alone
    quotes: bool = True  # Mastodon from 4.5 on; not GoToSocial, Takahe; others show the quoted status itself
    filters_notifications: bool = True  # policies and include_filtered: Mastodon from 4.3 on alone


MASTODON = Profile()
POLLING = Profile(
    name="polling",
    version="takahe/0.11.0",
    server_sent_events=False,
    websocket=False,
    ids=Mixed(),
    full_names=True,
    coarse_scopes=True,
    lists_statuses=False,
    quotes=False,
    filters_notifications=False,
)
ULIDS = Profile(
    name="ulids",
    version="0.20.0",
    server_sent_events=False,
    says_wss=True,
    ids=Ulids(),
    counts_code_points=True,
    lists_statuses=False,
    quotes=False,
    filters_notifications=False,
)
PROFILES = (MASTODON, POLLING, ULIDS)

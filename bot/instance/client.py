"""The client of the bot's instance, in parts by purpose; nothing outside this folder knows Mastodon.py."""

from __future__ import annotations

import time
from collections.abc import Callable

from bot.config import MastodonSettings
from bot.instance.calls import Calls
from bot.instance.home import Home
from bot.instance.posting import Poster
from bot.instance.reading import Reader
from bot.instance.streaming import EventStream


class Client:
    """A client for one account on one instance; its parts share limits and may be used from any thread."""

    def __init__(
        self, settings: MastodonSettings, token: str, *, user_agent: str, now: Callable[[], float] = time.time
    ) -> None:
        self.calls = Calls(settings, token, user_agent=user_agent, now=now)
        self.home = Home(self.calls)
        self.reader = Reader(self.calls, self.home)
        self.poster = Poster(self.calls)
        self.stream = EventStream(self.calls, self.home)

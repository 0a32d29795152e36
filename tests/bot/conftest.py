"""A bot in the sandbox: a real instance over HTTP, real Mastodon.py, a real database, a fake classifier."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from bot.admin.subprocesses import Subprocesses
from bot.app import Bot
from bot.config import ScheduleSettings, Settings
from bot.instance.client import Client
from bot.storage.inbox import Entry
from bot.storage.store import Store
from sandbox.instance import Account, Instance, Status
from sandbox.instance.profile import PROFILES
from sandbox.instance.records import Media
from tests.fakes import FakeClassifier, FakeDecoder, FakeLoader

ROOT = Path(__file__).parent.parent.parent
PATIENCE_S = 30.0
# `python -m bot run`, but with a fake classifier.
FAKE_RUN = (
    "import bot.photos.predict, bot.__main__\nfrom tests.fakes import FakeLoader\n"
    "bot.photos.predict.ServingLoader = lambda settings: FakeLoader()\nbot.__main__.app(['run'])"
)
COLOURS = {
    "brazil": (220, 40, 40),
    "china": (40, 200, 40),
    "japan": (40, 60, 220),
    "unsure": (128, 128, 128),
    "unknown": (0, 0, 0),
}
QUICK: dict[str, dict[str, Any]] = {
    "mastodon": {
        "allow_http": True,
        "request_timeout_s": 1.5,
        "reconnect_pause_s": 0.05,
        "max_reconnect_pause_s": 0.2,
        "poll_every_s": 0.2,
    },
    "web": {"allow_private_addresses": True, "max_attempts": 1, "backoff_s": 0.01},
    "bot": {"retry_pause_s": 0.05, "max_retry_pause_s": 0.2, "concurrent_mentions": 4, "pictures": False},
    "schedule": {name: {"enabled": False} for name in ("scrape", "train", "report", "watch")}
    | {"child_niceness": 0},  # on a busy machine, children of low priority take too long
}


def photo(label: str = "japan", *, size: tuple[int, int] = (96, 96), format_: str = "JPEG") -> bytes:
    """A picture of one colour that the fake classifier assigns to the label."""
    out = io.BytesIO()
    Image.new("RGB", size, COLOURS[label]).save(out, format_)
    return out.getvalue()


def until(condition: Callable[[], Any]) -> Any:
    """Waits until a condition is true; returns its value."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = condition()
        if found:
            return found
        time.sleep(0.01)
    raise AssertionError("it did not come")


class World:
    """The instance, the bot's account on it, and a user who asks."""

    def __init__(self, instance: Instance, url: str, tmp_path: Path) -> None:
        self.instance = instance
        self.url = url
        self.data_dir = tmp_path / "data"
        self.log = tmp_path / "bot.log"
        self.classifier = FakeClassifier()
        self.loader = FakeLoader(self.classifier)
        self.decoder = FakeDecoder()
        self.log_lines: list[str] = []
        self.me = instance.add_account("dokocos", bot=True)
        self.alice = self.person("alice")

    def person(self, acct: str, **options: Any) -> Account:
        """Creates an account that is not new."""
        options.setdefault("created_at", datetime.now(UTC) - timedelta(days=400))
        return self.instance.add_account(acct, **options)

    def settings(self, **sections: dict[str, Any]) -> Settings:
        """Settings for tests; each section's values replace the quick defaults."""
        merged = {name: QUICK.get(name, {}) | sections.get(name, {}) for name in QUICK | sections}
        merged["mastodon"] = {"base_url": self.url} | merged["mastodon"]
        return Settings.model_validate({"data_dir": self.data_dir} | merged)

    @contextmanager
    def bot(self, **sections: dict[str, Any]) -> Iterator[Bot]:
        """Runs a bot while the context lasts."""
        settings = self.settings(**sections)
        bot = Bot(
            settings,
            self.me.token,
            self.loader,
            self.decoder,
            subprocesses=self.subprocesses(settings.schedule),
            log_lines=lambda: self.log_lines,
        )
        try:
            bot.start()
            yield bot
        finally:
            bot.stop()

    def subprocesses(self, settings: ScheduleSettings) -> Subprocesses:
        """Runs a fake trainer instead of the slow real one."""
        command = (sys.executable, "-m", "tests.fake_trainer", str(self.data_dir))
        environ = self.environment(PYTHONPATH=str(ROOT))
        return Subprocesses(settings, self.data_dir / "log", command=command, environ=environ)

    def environment(self, **more: str) -> dict[str, str]:
        """The environment for a bot process on this instance, without its token."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DOKOCOS_")}
        ours = {
            "DOKOCOS_DATA_DIR": str(self.data_dir),
            "DOKOCOS_MASTODON__BASE_URL": self.url,
            "DOKOCOS_MASTODON__ALLOW_HTTP": "true",
            "DOKOCOS_WEB__ALLOW_PRIVATE_ADDRESSES": "true",
            "COLUMNS": "200",
        }
        return kept | ours | more

    def spawn(self, **more: str) -> subprocess.Popen[bytes]:
        """Starts `python -m bot run` as a child process; it logs to the file `log`."""
        environment = self.environment(DOKOCOS_MASTODON__ACCESS_TOKEN=self.me.token, **more)
        command = [sys.executable, "-c", FAKE_RUN]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log)

    def photo(self, label: str = "japan", *, of: Account | None = None) -> Media:
        """Uploads an attachment."""
        return self.instance.attach(of or self.alice, photo(label))

    def ask(self, text: str = "@dokocos which gallery?", label: str | None = "japan", **options: Any) -> Status:
        """Alice mentions the bot, with a photo unless the label is None."""
        attachments = [] if label is None else [self.photo(label)]
        options.setdefault("attachments", attachments)
        return self.instance.post(options.pop("by", self.alice), text, **options)

    def answers(self, question: Status) -> list[Status]:
        """The bot's replies to a status."""
        return [each for each in self.instance.replies_to(question) if each.account is self.me]

    def answer(self, question: Status) -> Status:
        """Waits for the bot's one reply to a status."""
        until(lambda: self.answers(question))
        (only,) = self.answers(question)
        return only

    def add_photo(self, question: Status, label: str = "china") -> None:
        """Alice edits a question to hold a photo."""
        question.media.append(self.photo(label))
        self.instance.edit(question, "@dokocos now with a photo")

    def other_answer(self, question: Status, than: Status) -> Status:
        """Waits until the bot's one reply to a status is another than before."""
        until(lambda: self.answers(question) and self.answers(question) != [than])
        return self.answer(question)

    def client(self, token: str | None = None) -> Client:
        """A client with the bot's token, without a running bot."""
        return Client(self.settings().mastodon, token or self.me.token, user_agent="test")

    def store(self) -> Store:
        """The bot's database, while the bot is not running."""
        self.data_dir.mkdir(exist_ok=True)
        return Store(self.data_dir / "bot.sqlite3")


@pytest.fixture
def world(instance: Instance, instance_url: str, tmp_path: Path) -> World:
    return World(instance, instance_url, tmp_path)


def entry_of(bot: Bot, question: Status) -> Entry | None:
    """The row of a question in the bot's inbox, whatever its id looks like on the instance."""
    return next(
        (
            entry
            for entry in bot.store.inbox.entries(limit=1000)
            if question.id in {profile.ids.read(entry.status_id) for profile in PROFILES}
        ),
        None,
    )


def settle(bot: Bot) -> None:
    """Waits until the bot has nothing to do."""
    until(bot.worker.is_idle)

"""`python -m benchmarks.quick_bot`: runs `python -m bot run` with a stand-in for the classifier.

The stand-in chooses a gallery by the photo's mean colour, without a network, so that 1,000 mentions take minutes.
Everything else is the real bot: settings from the environment, Mastodon.py, SQLite, decoding processes, signals, exit
status. Measurements with it do not include the time of classification.
"""

from __future__ import annotations

from unittest import mock

import bot.__main__
from bot.config import Settings
from tests.fakes import FakeLoader

STAND_IN = "a photo's mean colour, no network"


def _stand_in(settings: Settings) -> FakeLoader:  # noqa: ARG001 - replaces `ServingLoader`
    return FakeLoader()


if __name__ == "__main__":
    with mock.patch("bot.photos.predict.ServingLoader", _stand_in):
        bot.__main__.app(["run"], prog_name="python -m benchmarks.quick_bot")

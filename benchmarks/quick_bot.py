"""`python -m benchmarks.quick_bot`: `python -m bot run` as it is, with a stand-in for the classifier.

The stand-in tells galleries by a photo's mean colour and has no network behind it, so that a thousand mentions take
minutes. All else is the real bot: settings from the environment, Mastodon.py, SQLite, decoding processes, signals, exit
status. What is measured with it says nothing about how fast photos are judged.
"""

from __future__ import annotations

from unittest import mock

import bot.__main__
from bot.config import Settings
from tests.fakes import FakeLoader

STAND_IN = "a photo's mean colour, no network"


def _stand_in(settings: Settings) -> FakeLoader:  # noqa: ARG001 - takes the place of `ServingLoader`
    return FakeLoader()


if __name__ == "__main__":
    with mock.patch("bot.photos.predict.ServingLoader", _stand_in):
        bot.__main__.app(["run"], prog_name="python -m benchmarks.quick_bot")

"""The access token stays in the bot's environment: not in a debug log, a process list, a child or a file."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from benchmarks.home import draw_photos, quick_home, running


@pytest.mark.slow
def test_the_token_is_only_in_the_bots_own_environment(tmp_path: Path) -> None:
    with quick_home(tmp_path, LOG__LEVEL="DEBUG") as place:
        token = place.me.token
        with running(place) as (process, _):
            place.wait_for_answer(place.ask(place.person("asker"), draw_photos(1)[0]))
            bot = psutil.Process(process.pid)
            with suppress(psutil.AccessDenied):  # the bot closes it to its own user; root may look
                assert token in bot.environ().values()
            children = bot.children(recursive=True)
            assert children
            for child in children:
                with suppress(psutil.AccessDenied):  # a decoder closes it to its own user
                    assert token not in child.environ().values()
            assert not any(token in word for each in (bot, *children) for word in each.cmdline())
            place.instance.revoke(token)
            process.wait(60)
        files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert b"replied notification" in files[place.data_dir / "bot.log"]
    assert [path for path, content in files.items() if token.encode() in content] == []

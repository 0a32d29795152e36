"""No other user of the machine can read what the programs write, whatever the umask they are started with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bot.admin.test_orders import order
from tests.bot.conftest import World, until
from tests.trainer.collection import paint_photos
from tests.trainer.test_cli import config_file, trainer


@pytest.fixture(autouse=True)
def _open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def readable_by_others(data_dir: Path) -> list[str]:
    """Files that somebody else could read, as "name mode"."""
    paths = [path for path in data_dir.rglob("*") if path.is_file()]
    return [f"{path.name} {path.stat().st_mode & 0o777:o}" for path in paths if path.stat().st_mode & 0o077]


def test_what_the_trainer_writes_is_for_its_user_alone(tmp_path: Path) -> None:
    paint_photos(tmp_path / "photos", per_label=1)
    config = config_file(tmp_path / "photos", tmp_path / "data")
    assert trainer("scrape", config=config).returncode == 0
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert readable_by_others(tmp_path / "data") == []
    assert (tmp_path / "data/manifest.sqlite3").exists()


def test_what_the_bot_and_its_children_write_is_for_their_user_alone(world: World) -> None:
    world.client().home.accept_private_mentions()
    process = world.spawn(DOKOCOS_BOT__ADMINS='["alice"]', DOKOCOS_SCHEDULE__SCRAPE__ENABLED="false")
    try:
        asked = world.answer(order(world, "rollback"))
        world.answer(order(world, "yes", in_reply_to=asked))
        until(lambda: (world.data_dir / "log/rollback.log").exists())
        names = {path.name for path in world.data_dir.rglob("*")}
        assert names >= {"bot.sqlite3", "bot.sqlite3-wal", "bot.sqlite3-shm", "bot.lock", "registry.lock"}
        assert world.data_dir.stat().st_mode & 0o777 == 0o700
        assert readable_by_others(world.data_dir) == []
    finally:
        process.terminate()
        process.wait()

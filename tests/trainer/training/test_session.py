"""A run with --gentle pauses as long as it works; every run writes the journal."""

from pathlib import Path

import pytest

from trainer.errors import StorageError
from trainer.training.session import MAX_REST_S, SCRAPING, session


class Shown:
    """A watcher that records its calls."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def step(self, name: str, total: int | None = None) -> None:
        self.told.append((name, total))

    def update(self, done: int, total: int) -> None:
        self.told.append((done, total))


@pytest.mark.parametrize(("gentle", "rests"), [(True, [3.0, 2.0, MAX_REST_S]), (False, [])])
def test_a_gentle_run_pauses_after_each_batch_for_as_long_as_it_took(
    tmp_path: Path, gentle: bool, rests: list[float]
) -> None:
    time = iter([0.0, 1.0, 4.0, 7.0, 9.0, 11.0, 1000.0, 2000.0])
    slept: list[float] = []
    with session(tmp_path, "train", gentle=gentle) as run:
        watcher = run.watcher(Shown(), sleep=slept.append, clock=lambda: next(time))
        watcher.step("features", 3)
        for done in range(3):
            watcher.update(done, 3)
    assert slept == rests


def test_steps_are_shown_and_journalled(tmp_path: Path) -> None:
    shown = Shown()
    with session(tmp_path, "features") as run:
        watcher = run.watcher(shown)
        watcher.step("features", 10)
        watcher.update(4, 10)
        (entry,) = run.journal.runs()
    assert shown.told == [("features", 10), (4, 10)]
    assert (entry.command, entry.step) == ("features", "features")


def test_only_a_run_interrupted_during_its_scrape_resumes_the_scrape(tmp_path: Path) -> None:
    with session(tmp_path, "train") as run:
        assert not run.resumes_scrape
        run.journal.step(SCRAPING)
    with session(tmp_path, "train") as run:
        assert not run.resumes_scrape  # that one ended in order
    lines = (tmp_path / "journal.jsonl").read_text().splitlines(keepends=True)
    first_run = [line for line in lines if '"event": "end"' not in line][:3]
    (tmp_path / "journal.jsonl").write_text("".join(line for line in first_run if '"reading"' not in line))
    with session(tmp_path, "train") as run:
        assert run.resumes_scrape


def test_a_second_session_is_refused(tmp_path: Path) -> None:
    with session(tmp_path, "train"), pytest.raises(StorageError, match="another training is running"):  # noqa: SIM117
        with session(tmp_path, "features"):
            pass

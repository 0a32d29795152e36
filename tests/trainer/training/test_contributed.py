"""A contributed photo is learned from once a person has accepted it, and leaves no trace once it is taken back."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.trainer.collection import Silent, gather, paint_photos, settings_for
from trainer.__main__ import app
from trainer.config import Settings
from trainer.errors import StorageError
from trainer.lock import only_one
from trainer.photos.contributions import SOURCE, Contribution, Contributions, draw, new_id
from trainer.photos.decisions import Decision, Decisions, Verdict
from trainer.photos.manifest import FILE_NAME, Manifest
from trainer.registry.registry import PHOTOS
from trainer.registry.serving import n_contributed
from trainer.review.contributed import waiting
from trainer.review.settling import Settling
from trainer.review.suspects import Review, find_suspects
from trainer.review.take_out import undo
from trainer.training.contributed import UNDO, held, tidy
from trainer.training.reproduce import reproduce
from trainer.training.session import LOCK
from trainer.training.train import train
from trainer.training.training_data import read_photos, sort_photos

NOW = datetime.now(UTC)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A small collection, in which each label may have contributed photos."""
    monkeypatch.setattr("trainer.photos.dataset.MAX_SHARE", 0.2)
    paint_photos(tmp_path / "photos", per_label=14)
    settings = settings_for(tmp_path / "photos", tmp_path / "data")
    gather(settings)
    return settings


def offer(settings: Settings, seed: int = 0, *, at: datetime = NOW) -> Contribution:
    """What the bot does when an author lets it learn from a photo; its answer was china."""
    blocks = np.random.default_rng(1000 + seed).integers(0, 255, (8, 6, 3)).astype(np.uint8)
    data = draw(blocks.repeat(16, axis=0).repeat(16, axis=1))
    sha256 = hashlib.sha256(data).hexdigest()
    made = Contribution(new_id(), sha256, "china", "7", "11", "12", "13", "14", 96, 128, len(data), at)
    Contributions(settings.data_dir).put(made, data)
    tidy(settings, now=NOW)
    return made


def decide(settings: Settings, made: Contribution, verdict: Verdict, label: str | None = None) -> None:
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        Decisions(manifest).put([Decision(SOURCE, made.id, made.sha256, verdict, label, "person", "", NOW)])


def used(settings: Settings) -> dict[str, str]:
    """SHA-256 -> label of the contributed photos that a training uses."""
    dataset = sort_photos(read_photos(settings), settings)
    return {item.sha256: item.label for item in dataset.items if item.sha256 in dataset.contributed}


def holding(folder: Path, word: str) -> list[str]:
    """The files with these bytes in them."""
    words = (word.encode(), bytes.fromhex(word)) if len(word) == 64 else (word.encode(),)
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and any(each in path.read_bytes() for each in words)
    ]


def test_nothing_is_learned_before_a_person_has_decided_and_the_label_is_that_persons(settings: Settings) -> None:
    made = offer(settings)
    assert used(settings) == {}
    decide(settings, made, "keep")
    assert used(settings) == {made.sha256: "china"}
    decide(settings, made, "relabel", "brazil")
    assert used(settings) == {made.sha256: "brazil"}
    assert undo(settings, [made.id], now=NOW) == [f"photo {made.id}: waits again"]
    assert used(settings) == {made.sha256: "china"}  # the decision before it stands again
    decide(settings, made, "drop")
    assert used(settings) == {}
    gather(settings)  # a scrape changes nothing about it
    assert [each.state for each in held(settings, now=NOW)] == ["dropped"]


def test_a_version_learns_from_it_says_so_and_is_reproduced_and_after_a_deletion_no_trace_is_left(
    settings: Settings,
) -> None:
    made = offer(settings)
    decide(settings, made, "relabel", "japan")
    outcome = train(settings, Silent())
    version = outcome.version
    assert version.metrics["contributed"] == {"japan": 1}
    assert "Contributed by their authors, for training alone: 1." in (version.folder / "report.html").read_text()
    assert made.sha256 in (version.folder / PHOTOS).read_text()
    assert {item.split for item in outcome.training_data.dataset.items if item.sha256 == made.sha256} == {"train"}
    assert not reproduce(version.name, settings, Silent()).differing
    assert len(holding(settings.data_dir, made.sha256)) >= 3  # its features, the version's list, the manifest
    Contributions(settings.data_dir).take_back(made.id)
    assert used(settings) == {}  # at once
    with only_one(settings.data_dir / LOCK, "training"), pytest.raises(StorageError, match="another training"):
        tidy(settings, now=NOW)
    assert tidy(settings, now=NOW) == 1
    for trace in (made.sha256, made.id):
        assert holding(settings.data_dir, trace) == []
    again = train(settings, Silent())
    assert again.version.metrics["contributed"] == {}
    assert again.version.facts.n_photos == version.facts.n_photos - 1


def test_what_nobody_settles_goes_in_time_and_what_was_dropped_after_a_day(settings: Settings) -> None:
    old, dropped, accepted = (offer(settings, seed) for seed in range(3))
    decide(settings, dropped, "drop")
    decide(settings, accepted, "keep")
    for days, left in ((0.9, {old, dropped, accepted}), (1.1, {old, accepted}), (30.5, {accepted}), (900, {accepted})):
        tidy(settings, now=NOW + timedelta(days=days))
        assert set(Contributions(settings.data_dir).all()) == left
    assert timedelta(days=0.9) < UNDO < timedelta(days=1.1)
    assert used(settings) == {accepted.sha256: "china"}


def test_it_stands_first_on_the_review_page_until_it_is_settled_and_a_decision_can_be_taken_back(
    settings: Settings,
) -> None:
    made, accepted = offer(settings), offer(settings, 1)
    decide(settings, accepted, "keep")
    (suspect,) = waiting(settings, now=NOW)
    assert "the bot's answer was china" in str(suspect.reason)
    assert n_contributed(settings) == 1
    found = find_suspects(settings, Silent())
    assert accepted.id not in {photo.photo_id for photo in found.examined.photos}  # a person has looked at it
    review = Review((suspect, *found.suspects), found.examined)
    settling = Settling(review, settings.source.kind, settings.data_dir)
    assert settling.next() == 0
    settling.decide(0, "relabel", "japan")
    assert used(settings)[made.sha256] == "japan"
    assert (waiting(settings, now=datetime.now(UTC)), n_contributed(settings)) == ((), 0)
    assert settling.undo(1) == 0
    assert made.sha256 not in used(settings)


def test_a_photo_whose_file_is_damaged_goes(settings: Settings) -> None:
    made = offer(settings)
    folder = Contributions(settings.data_dir)
    (settings.data_dir / made.path).write_bytes(b"no photo")
    (folder.folder / f"{made.id}.phash").unlink()
    tidy(settings, now=NOW)
    assert (folder.all(), folder.taken_back()) == ([], [made])
    assert tidy(settings, now=NOW) == 1
    assert folder.is_empty()


def test_the_command_lists_and_deletes(settings: Settings, tmp_path: Path) -> None:
    made, other = offer(settings), offer(settings, 1)
    decide(settings, other, "keep")
    config = tmp_path / "config.yaml"
    config.write_text(settings.model_dump_json(), encoding="utf-8")

    def run(*arguments: str) -> str:
        return CliRunner().invoke(app, ["contributions", "--config", str(config), *arguments]).output

    assert f"{made.id}  {NOW:%Y-%m-%d}  waits" in run()
    shown = run("--delete", made.id)
    assert made.id not in shown
    assert f"{other.id}  {NOW:%Y-%m-%d}  accepted as china" in shown
    assert "1 contributed photo deleted" in shown
    assert "there is no" in run("--delete", "../manifest")

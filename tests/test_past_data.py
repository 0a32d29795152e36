"""A data folder of a past version still works: nothing is lost or computed again.

tests/past/2026_11.tar.xz was written by version 0.1.0, before bot and trainer had folders: 36 photos of three labels, a
random VGG16 cut after its first layer, two trainings, and a bot that had five mentions. The JSON beside it says what
that version itself read from there.
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bot.storage.records import Records
from bot.storage.store import DATABASE, Store
from tests.trainer.collection import Silent, settings_for
from trainer.config import Settings
from trainer.photos.manifest import FILE_NAME, Manifest
from trainer.registry.registry import Registry
from trainer.registry.serving import Classifier
from trainer.training.journal import Journal
from trainer.training.train import train
from trainer.training.training_data import TrainingData

PAST = Path(__file__).parent / "past"
EXPECTED: dict[str, Any] = json.loads((PAST / "2026_11.json").read_text())
LABELS = ("brazil", "china", "japan")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The settings that the folder was written with."""
    with tarfile.open(PAST / "2026_11.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    return settings_for(tmp_path / "photos", tmp_path / "data", split={"min_photos_per_label": 5})


def test_the_bot_continues_where_it_was(settings: Settings) -> None:
    now = 1_800_000_000.0
    store = Store(settings.data_dir / DATABASE, now=lambda: now)
    try:
        assert store.inbox.counts() == {"answered": 1, "refused": 1, "failed": 1, "deferred": 1, "new": 1}
        answered, refused, failed, deferred, new = (store.inbox.entry(str(number)) for number in range(1, 6))
        assert answered is not None
        assert (answered.acct, answered.reply_id, answered.label, answered.score) == ("ann", "9001", "japan", 0.91)
        assert (refused and refused.reason) == "opted out"
        assert (failed and failed.reason) == "HTTP 422"
        assert (deferred and deferred.next_try_at) == now + 60
        assert (new and new.visibility) == "unlisted"
        assert "2" in store.opt_outs
        assert store.cursor.position(overlap_s=0) == "5"
        store.belongs_to("https://example.social", "77")
        assert [entry.notification_id for entry in store.inbox.take(5)] == ["5"]
    finally:
        store.close()
    records = Records(settings.data_dir / DATABASE, now=lambda: now)
    try:
        assert [(run.job, run.outcome) for run in records.runs(limit=5)] == [("train", ""), ("scrape", "done")]
        assert records.close_runs() == 1
        assert [message.text for message in records.queued()] == ["Scrape done."]
        assert records.switch("paused") == "yes"
        assert not records.should_report("disk")
    finally:
        records.close()


def test_photos_and_their_features_are_kept(settings: Settings) -> None:
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        assert manifest.count_by_label("folder") == dict.fromkeys(LABELS, 12)
        assert [refusal.photo_id for refusal in manifest.refusals("folder")] == ["japan/broken.png"]
    data = TrainingData.gather(settings, Silent())
    assert data.n_new == 0
    assert len(data.cache) == EXPECTED["n_cached"]


def test_versions_are_intact_and_the_champion_scores_the_same(settings: Settings) -> None:
    registry = Registry(settings.data_dir)
    assert registry.names() == EXPECTED["versions"]
    assert registry.champion_name() == EXPECTED["champion"]
    for name in registry.names():
        registry.load(name)
    classifier = Classifier.load(settings)
    photos = [
        np.asarray(Image.open(settings.source.folder.path / label / "3.png").resize((224, 224)), dtype=float)
        for label in LABELS
    ]
    blends = [
        (share * photos[first] + (1 - share) * photos[second]).astype(np.uint8)
        for first, second in ((0, 1), (1, 2), (2, 0))
        for share in np.linspace(0, 1, 9)
    ]
    scores = [one.scores for one in classifier.predict(np.stack(blends))]
    np.testing.assert_allclose(scores, EXPECTED["blends"], atol=1e-3)


def test_a_training_continues_from_it_and_keeps_the_splits(settings: Settings) -> None:
    before = (settings.data_dir / "versions" / EXPECTED["champion"] / "photos.txt").read_text()
    outcome = train(settings, Silent())
    assert outcome.training_data.n_new == 0
    assert (outcome.version.folder / "photos.txt").read_text() == before
    (run,) = Journal(settings.data_dir).runs()
    assert (run.command, run.ended) == ("train", "done")

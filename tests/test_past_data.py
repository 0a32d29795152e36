"""The data_dir of version 0.1.0 (November 2026) still works: nothing is lost, and nothing is computed again.

data_dir_2026_11.tar.gz holds a data_dir as that version's own code wrote it (commit fe5aca5), and the file of VGG16
weights that two of its versions were trained on; almost all of these are zero, which keeps block5 and block4's maps
small. data_dir_2026_11.json says what a reader must find there. Neither is ever made again for a later version.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bot.config import MastodonSettings
from bot.config import Settings as BotSettings
from bot.instance.credentials import find_token
from bot.storage.records import Records
from bot.storage.store import Store
from trainer.config import FeatureSettings, Settings
from trainer.errors import ConfigError
from trainer.photos.images import prepare
from trainer.photos.manifest import FILE_NAME, Manifest, Photo
from trainer.registry.registry import PHOTOS, Registry
from trainer.registry.serving import Classifier, champion, holdings
from trainer.training.crash_report import explain_crash
from trainer.training.journal import Journal
from trainer.training.train import evaluate_version, train
from trainer.training.training_data import TrainingData
from trainer.vgg16.backbone import Backbone
from trainer.vgg16.cache import FeatureCache, Features
from trainer.vgg16.precision import choose_precision

HERE = Path(__file__).parent / "past"
EXPECTED: dict[str, Any] = json.loads((HERE / "data_dir_2026_11.json").read_text(encoding="utf-8"))
BOT, TRAINER = EXPECTED["bot"], EXPECTED["trainer"]
SOURCE = "worldcosplay"
VERSIONS = sorted(TRAINER["versions"])
# The settings of those trainings.
COMMON: dict[str, Any] = {"split": {"min_photos_per_label": 6}, "evaluate": {"resamples": 200}}
PLAIN: dict[str, Any] = {
    "features": {"weights": "random", "layers": ["block1_conv1"], "views": ["whole"], "precision": "float32"},
    "head": {"hidden_units": 0, "max_epochs": 20, "learning_rate": 0.01},
}
TUNED: dict[str, Any] = {
    "features": {"weights": "vgg16_sparse.npz", "precision": "float32"},
    "head": {"hidden_units": 0, "fine_tune": "block5"},
}


class Unwatched:
    """A watcher that shows nothing."""

    def step(self, name: str, total: int | None = None) -> None: ...

    def update(self, done: int, total: int) -> None: ...


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of that run, with its `data`; must not be changed."""
    folder = tmp_path_factory.mktemp("past")
    with tarfile.open(HERE / "data_dir_2026_11.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def data_dir(past: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data_dir; must not be changed. Paths in it, such as the weights', are relative to the working folder."""
    monkeypatch.chdir(past)
    return past / "data"


@pytest.fixture
def copy(data_dir: Path, tmp_path: Path) -> Path:
    """A data_dir that may be changed."""
    return Path(shutil.copytree(data_dir, tmp_path / "data"))


@pytest.fixture
def database(past: Path, tmp_path: Path) -> Path:
    """The bot's database, which may be changed."""
    return Path(shutil.copy(past / "data" / "bot.sqlite3", tmp_path))


@pytest.fixture
def store(database: Path) -> Iterator[Store]:
    """The inbox at the moment when a power cut ended the bot."""
    store = Store(database, now=lambda: float(BOT["now"]))
    yield store
    store.close()


@pytest.fixture
def records(database: Path) -> Iterator[Records]:
    """The operations' records at the same moment."""
    records = Records(database, now=lambda: float(BOT["now"]))
    yield records
    records.close()


@pytest.fixture
def _no_network_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes any computation of a feature fail."""

    def extract(*_: object, **__: object) -> None:
        raise AssertionError("a photo's features were computed again")

    monkeypatch.setattr(Backbone, "extract", extract)


def settings_for(data_dir: Path, sections: dict[str, Any]) -> Settings:
    return Settings.model_validate({"data_dir": data_dir, **COMMON, **sections})


def photo_in(data_dir: Path) -> Photo:
    """The photo whose features and scores were recorded."""
    with Manifest(data_dir / FILE_NAME) as manifest:
        photo = manifest.photo(SOURCE, TRAINER["photo_id"])
    assert photo is not None
    return photo


def digest(features: Features) -> str:
    return f"sha256:{hashlib.sha256(np.ascontiguousarray(features, dtype='<f4').tobytes()).hexdigest()}"


# The bot


def test_every_mention_is_in_the_inbox_as_it_was_left(store: Store) -> None:
    found = [asdict(entry) for entry in store.inbox.entries()]
    keys = {entry["notification_id"]: entry.pop("idempotency_key") for entry in found}
    assert found == BOT["inbox"]
    assert {entry["state"] for entry in found} == {"answered", "refused", "failed", "deferred", "posting", "new"}
    assert keys == {
        entry["notification_id"]: hashlib.sha256(
            f"{entry['notification_id']} {entry['status_id']}".encode()
        ).hexdigest()[:32]
        for entry in found
    }


def test_a_mention_in_progress_is_requeued_and_its_thread_checked_first(store: Store) -> None:
    assert store.inbox.requeue([], look_first=True) == 1
    taken = {entry.notification_id: entry for entry in store.inbox.take(10)}
    assert set(taken) == {"106", "107"}  # 105 is not due
    assert all(entry.look_first for entry in taken.values())
    assert taken["106"].attempts == 2
    waiting = next(entry for entry in BOT["inbox"] if entry["state"] == "deferred")
    assert store.inbox.next_due() == waiting["next_try_at"]
    assert store.inbox.retry() == 1


def test_answers_of_the_last_hour_count_against_the_limits(store: Store) -> None:
    for account_id, n_admitted in BOT["admitted"].items():
        assert not store.inbox.admit("none", account_id=account_id, limit=n_admitted)
        assert store.inbox.admit("none", account_id=account_id, limit=n_admitted + 1)
    assert not store.inbox.claim_notice("none", account_id=BOT["told_of_the_limit"], kind="limit")


def test_answers_are_found_by_their_questions_and_the_other_way_round(store: Store) -> None:
    answered = [entry for entry in BOT["inbox"] if entry["reply_id"]]
    for entry in answered:
        by_reply, by_status = store.inbox.by_reply(entry["reply_id"]), store.inbox.by_status(entry["status_id"])
        assert by_reply == by_status == store.inbox.entry(entry["notification_id"])
    assert len(store.inbox.followed_since(0)) == len(answered)


def test_the_cursor_is_kept_and_the_inbox_belongs_to_the_same_account(store: Store) -> None:
    assert store.cursor.position(overlap_s=300.0) == BOT["cursor"] == "101"
    store.belongs_to(*BOT["home"])
    with pytest.raises(ConfigError, match="belongs to"):
        store.belongs_to("https://elsewhere.example", "109")


def test_opt_outs_are_kept(store: Store) -> None:
    assert [account_id in store.opt_outs for account_id in BOT["opt_outs"]] == [True, True]
    assert [account_id in store.opt_outs for account_id in BOT["opted_in"]] == [False, False]


def test_job_runs_are_kept_and_the_interrupted_one_has_failed(records: Records) -> None:
    assert [asdict(run) for run in records.runs(limit=100)] == BOT["runs"]
    assert {job: records.last_turn(job) for job in BOT["last_turns"]} == BOT["last_turns"]
    assert records.n_failures("scrape") == 1
    assert records.close_runs() == 1


def test_waiting_messages_and_switches_are_kept(records: Records) -> None:
    letters = [asdict(letter) for letter in records.queued()]
    pictures = [letter.pop("picture") for letter in letters]
    keys = {letter.pop("idempotency_key") for letter in letters}
    expected = [{name: value for name, value in one.items() if name != "n_picture_bytes"} for one in BOT["letters"]]
    assert letters == expected
    assert [len(picture or b"") for picture in pictures] == [one["n_picture_bytes"] for one in BOT["letters"]]
    assert all(len(key) == 32 for key in keys)
    assert len(keys) == len(letters) == 2
    assert {name: records.switch(name) for name in BOT["switches"]} == BOT["switches"]


def test_a_reported_fault_is_not_reported_again(records: Records) -> None:
    assert [records.should_report(kind) for kind in BOT["faults_told"]] == [False]
    assert records.should_report("train")  # that fault was resolved


def test_the_token_is_found(data_dir: Path) -> None:
    settings = BotSettings(data_dir=data_dir, mastodon=MastodonSettings(base_url=BOT["home"][0]))
    assert find_token(settings).token == BOT["token"]


# The photos


def test_the_manifest_lists_the_same_photos_refusals_and_take_downs(data_dir: Path) -> None:
    expected = TRAINER["manifest"]
    with Manifest(data_dir / FILE_NAME) as manifest:
        photos, refused = list(manifest.photos(SOURCE)), list(manifest.refusals(SOURCE))
        assert manifest.count_by_label(SOURCE) == expected["count_by_label"]
        pages = {label: manifest.next_page(SOURCE, label) for label in expected["next_pages"]}
        known = [manifest.knows(SOURCE, photo_id) for photo_id in expected["forgotten"][-1:]]
        of_member = manifest.knows(SOURCE, expected["forgotten"][0], member_id=expected["forgotten_member"])
    assert [photo.photo_id for photo in photos] == expected["photo_ids"]
    assert [[one.photo_id, one.label, one.reason, one.final, one.attempts] for one in refused] == expected["refused"]
    assert pages == expected["next_pages"]
    assert (known, of_member) == (["forgotten"], "forgotten")


def test_every_photo_is_the_file_that_was_admitted(data_dir: Path) -> None:
    with Manifest(data_dir / FILE_NAME) as manifest:
        photos = list(manifest.photos(SOURCE))
    assert all(hashlib.sha256((data_dir / photo.path).read_bytes()).hexdigest() == photo.sha256 for photo in photos)


@pytest.mark.parametrize("key", TRAINER["features"])
def test_cached_features_and_maps_are_bit_identical(data_dir: Path, key: str) -> None:
    expected = TRAINER["features"][key]
    folder = data_dir / "features" / key
    cache = FeatureCache(folder, views=expected["views"], n_features=expected["n_features"], kind=expected["kind"])
    assert len(cache) == expected["n_rows"]
    assert digest(cache.load_rows([(photo_in(data_dir).sha256, "whole")])) == expected["whole"]


@pytest.mark.usefixtures("_no_network_runs")
@pytest.mark.parametrize("sections", [PLAIN, TUNED], ids=["plain", "tuned"])
def test_no_features_are_computed_again(data_dir: Path, sections: dict[str, Any]) -> None:
    training_data = TrainingData.gather(settings_for(data_dir, sections), Unwatched())
    assert training_data.n_new == 0
    assert len(training_data.dataset.items) == sum(TRAINER["manifest"]["count_by_label"].values())
    assert (training_data.maps is not None) == (sections is TUNED)


def test_the_measured_precision_is_kept(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("trainer.vgg16.precision.machine_key", lambda: TRAINER["machine"])
    monkeypatch.setattr("trainer.vgg16.precision.measure", measure)
    assert choose_precision(FeatureSettings(precision="auto"), data_dir) == TRAINER["precision"]


# The versions


def test_versions_and_their_history_are_intact_and_the_champion_is_the_same(data_dir: Path) -> None:
    registry = Registry(data_dir)
    assert registry.names() == VERSIONS
    assert registry.champion_name() == TRAINER["champion"]
    assert [asdict(reign) for reign in registry.history()] == TRAINER["history"]
    for name, expected in TRAINER["versions"].items():
        version = registry.load(name)  # every file is compared with its recorded hash
        facts = version.facts
        assert (list(facts.labels), list(facts.layers)) == (expected["labels"], expected["layers"])
        assert (facts.weights, facts.precision, facts.n_photos) == (
            expected["weights"],
            expected["precision"],
            expected["n_photos"],
        )
        assert version.metrics["report"]["balanced_accuracy"]["value"] == expected["balanced_accuracy"]
        assert (version.block5() is not None) == expected["is_tuned"]
        assert len((version.folder / PHOTOS).read_text(encoding="utf-8").split()) > 0
    found = champion(settings_for(data_dir, TUNED))
    assert found is not None
    assert found.name == TRAINER["champion"]


def test_a_rollback_leads_to_the_first_champion(copy: Path) -> None:
    assert Registry(copy).rollback().name == VERSIONS[0]


@pytest.mark.parametrize("name", VERSIONS)
def test_each_version_gives_a_photo_the_same_scores(data_dir: Path, name: str) -> None:
    settings = settings_for(data_dir, {})
    expected = TRAINER["versions"][name]
    classifier = Classifier.load(settings, name)
    assert list(classifier.labels) == expected["labels"]
    assert set(classifier.thresholds) == {expected["threshold"]}  # from before each label had its own
    pixels = prepare((data_dir / photo_in(data_dir).path).read_bytes(), settings.images, [classifier.view])[0]
    (scored,) = classifier.predict(pixels[None])
    np.testing.assert_allclose(scored.scores, expected["scores"], atol=1e-4)


@pytest.mark.usefixtures("_no_network_runs")
def test_evaluating_the_champion_from_cached_features_gives_the_same_figures(data_dir: Path) -> None:
    version, report = evaluate_version(None, settings_for(data_dir, TUNED), Unwatched())
    assert version.name == TRAINER["champion"]
    assert report.balanced_accuracy.value == TRAINER["versions"][version.name]["balanced_accuracy"]


@pytest.mark.usefixtures("_no_network_runs")
def test_a_training_continues_from_there(copy: Path) -> None:
    settings = settings_for(copy, PLAIN)
    assert holdings(settings).n_new == 0
    outcome = train(settings, Unwatched(), now=lambda: datetime(2026, 11, 23, tzinfo=UTC))
    assert (outcome.training_data.n_new, outcome.version.name) == (0, "2026-11-23-1")
    assert outcome.version.metrics["compared_with"] == TRAINER["champion"]
    assert outcome.verdict.gain is not None  # the champion could answer
    assert Registry(copy).names() == [*VERSIONS, "2026-11-23-1"]


def test_the_journal_lists_all_runs_and_the_one_that_was_killed(data_dir: Path) -> None:
    runs = Journal(data_dir).runs()
    assert [[run.command, run.step, run.ended] for run in runs] == TRAINER["runs"]
    told = explain_crash(runs, current_boot_id="another")
    assert told is not None
    assert 'in the step "features"' in told
    assert "load 1.5 on 2 CPUs" in told

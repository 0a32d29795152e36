"""A review lists what was planted, takes out of training what is beyond doubt, and can take that back."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.trainer.collection import Silent, gather, paint_photos, settings_for
from trainer.__main__ import app
from trainer.config import Settings
from trainer.photos.dataset import TAKEN_OUT
from trainer.photos.decisions import Decision, Decisions
from trainer.photos.manifest import FILE_NAME, Manifest
from trainer.registry.registry import METRICS
from trainer.review.command import take_out_before_training
from trainer.review.giveaways import find_giveaways
from trainer.review.oddities import find_oddities
from trainer.review.suspects import Review, Suspect, find_suspects
from trainer.review.take_out import take_out_sure, undo
from trainer.review.words import Words
from trainer.review_state import last_review
from trainer.training.advice import advise, draw_curve
from trainer.training.reproduce import reproduce
from trainer.training.train import train

N_BLANK = 4


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A data folder with blank photos and a mirrored copy, to which nothing is added but what a review computes."""
    folder = tmp_path_factory.mktemp("photos")
    paint_photos(folder, per_label=30)
    rng = np.random.default_rng(0)
    for number in range(N_BLANK):
        plain = np.clip(40 * number + 30 + rng.normal(0, 1, (128, 96, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(plain).save(folder / "china" / f"blank{number}.png")
    with Image.open(folder / "brazil" / "0-3.png") as original:
        original.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "japan" / "zz-copy.png")
    settings = settings_for(folder, tmp_path_factory.mktemp("data"), review={"max_share": 0.5})
    gather(settings)
    return settings


@pytest.fixture(scope="module")
def review(planted: Settings) -> Review:
    """Its review, which leaves the features and the compared pairs in it."""
    return find_suspects(planted, Silent())


@pytest.fixture
def settings(planted: Settings, review: Review, tmp_path: Path) -> Settings:  # noqa: ARG001 - for what it leaves
    """A copy of that data folder."""
    shutil.copytree(planted.data_dir, tmp_path / "data")
    return planted.model_copy(update={"data_dir": tmp_path / "data"})


def named(review: Review, kind: str) -> set[str]:
    return {each.photo.photo_id for each in review.suspects if each.kind == kind}


def test_what_was_planted_is_listed_with_its_reason(review: Review) -> None:
    assert named(review, "blank") == {f"china/blank{number}.png" for number in range(N_BLANK)}
    (copy,) = (each for each in review.suspects if each.kind == "repost")
    assert {copy.photo.photo_id, copy.neighbours[0].photo_id} == {"japan/zz-copy.png", "brazil/0-3.png"}
    assert "mirrored" in str(copy.reason)
    sureness = [each.is_sure for each in review.suspects]
    assert sureness == sorted(sureness, reverse=True)


def test_what_is_beyond_doubt_leaves_training_alone_and_a_person_may_say_no(settings: Settings) -> None:
    review = find_suspects(settings, Silent())
    kept = next(each for each in review.suspects if each.is_sure and each.split == "train").photo
    now = datetime.now(UTC)
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        Decisions(manifest).put(
            [Decision(kept.source, kept.photo_id, kept.sha256, "keep", None, "person", "it is snow", now)]
        )
    taken = take_out_sure(review, settings, now=now)
    assert kept not in [each.photo for each in taken]
    assert {each.split for each in taken} <= {"train"}
    outcome = train(settings, Silent())
    gone = [reason for _, reason in outcome.training_data.dataset.excluded]
    assert gone.count(TAKEN_OUT["program", "train"]) == len(taken) > 0
    assert TAKEN_OUT["program", "train"] in (outcome.version.folder / METRICS).read_text()
    assert TAKEN_OUT["program", "train"] in (outcome.version.folder / "report.html").read_text()
    assert not reproduce(outcome.version.name, settings, Silent()).differing


def test_what_was_decided_is_not_listed_again(settings: Settings) -> None:
    now = datetime.now(UTC)
    taken = take_out_sure(find_suspects(settings, Silent()), settings, now=now)
    left = {each.photo.sha256 for each in find_suspects(settings, Silent()).suspects}
    assert not left & {each.photo.sha256 for each in taken}


def test_of_a_repost_across_splits_the_copy_in_training_is_the_suspect(review: Review) -> None:
    splits = {item.sha256: item.split for item in review.examined.dataset.items}
    (copy,) = (each for each in review.suspects if each.kind == "repost")
    assert "train" not in {splits[copy.photo.sha256], splits[copy.neighbours[0].sha256]} or copy.split == "train"


def test_as_many_photos_stay_as_a_training_needs(settings: Settings) -> None:
    review = find_suspects(settings, Silent())
    n_china = sum(item.label == "china" for item in review.examined.dataset.items)
    split = settings.split.model_copy(update={"min_photos_per_label": n_china - 1})
    careful = settings.model_copy(update={"split": split})
    taken = take_out_sure(review, careful, now=datetime.now(UTC))
    assert sum(each.photo.label == "china" and each.split == "train" for each in taken) <= 1


def test_a_decision_about_the_same_bytes_under_another_id_is_taken_back_by_the_new_id(settings: Settings) -> None:
    taken = take_out_sure(find_suspects(settings, Silent()), settings, now=datetime.now(UTC))[0].photo
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        manifest.replace(taken, replace(taken, photo_id="china/again.png"))
    (said,) = undo(settings, ["china/again.png"], now=datetime.now(UTC))
    assert "no longer decided" in said


def test_no_more_than_a_share_of_a_label_is_taken_out(settings: Settings) -> None:
    careful = settings.model_copy(update={"review": settings.review.model_copy(update={"max_share": 0.05})})
    review = find_suspects(careful, Silent())
    assert len(take_out_sure(review, careful, now=datetime.now(UTC))) <= 3
    assert take_out_sure(review, careful, now=datetime.now(UTC)) == []


def test_a_version_of_before_a_decision_is_reproduced_without_it(settings: Settings) -> None:
    first = train(settings, Silent())
    take_out_sure(find_suspects(settings, Silent()), settings, now=datetime.now(UTC))
    assert not reproduce(first.version.name, settings, Silent()).differing


def test_the_command_lists_takes_out_and_takes_back(settings: Settings, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(settings.model_dump_json(), encoding="utf-8")
    shown = CliRunner().invoke(app, ["review", "--config", str(config), "--drop-sure"], env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    for words in ("china/blank0.png", "shows next to nothing", "Have I enough photos?", "What would help most"):
        assert words in shown.output
    assert "taken out of training: " in shown.output
    counted = CliRunner().invoke(app, ["review", "--config", str(config), "--count"], env={"COLUMNS": "200"})
    last = last_review(settings.data_dir)
    assert last is not None
    (line,) = counted.stdout.splitlines()
    assert line.startswith(f"{last.n_suspects} suspects among {last.n_photos} photos: ")
    assert last.n_suspects == sum(last.by_label.values()) > 0
    back = CliRunner().invoke(app, ["review", "--config", str(config), "--undo", "all", "--undo", "brazil/0-3.png"])
    assert "decisions of the program are taken back" in back.output
    assert "nothing was decided about it" in back.output


def test_training_takes_out_what_is_beyond_doubt_only_if_it_is_told_to(settings: Settings) -> None:
    assert take_out_before_training(settings, Silent()) is None
    told = settings.model_copy(update={"review": settings.review.model_copy(update={"drop_sure": True})})
    assert take_out_before_training(told, Silent()) is not None
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        assert Decisions(manifest).count("folder")["program", "drop"] > 0


def test_the_advice_puts_balance_first(review: Review, planted: Settings) -> None:
    examined = review.examined
    curve = draw_curve(examined.dataset, examined.features, planted, lambda *_: None)
    assert [point.share for point in curve] == [0.25, 0.5, 0.75, 1.0]
    assert curve[0].n_photos < curve[-1].n_photos
    rare = [item for item in examined.dataset.items if item.label != "japan"]
    rare += [item for item in examined.dataset.items if item.label == "japan"][:6]
    thin = replace(examined.dataset, items=tuple(rare))
    said = advise(thin, 50, 100, curve)
    assert said[0].startswith("balance: japan")
    assert said[1].startswith("labels: those of 50 of 100 photos")
    assert advise(examined.dataset, 0, 100, curve)[-1].startswith("more photos")


def test_one_camera_that_gives_a_label_away_is_told(review: Review) -> None:
    labels = {photo.sha256: photo.label for photo in review.examined.used}
    own = {sha256: "Nikon D90" if label == "japan" else "Canon A1" for sha256, label in labels.items()}
    said = [str(each) for each in find_giveaways(replace(review.examined, cameras=own))]
    assert "100% of the members of japan use the camera Nikon D90, of the others 0%" in said
    everyones = dict.fromkeys(labels, "Nikon D90")
    assert find_giveaways(replace(review.examined, cameras=everyones)) == []
    few = dict(list(own.items())[:5])
    assert find_giveaways(replace(review.examined, cameras=few)) == []


def test_a_label_with_many_suspects_is_odd_as_a_whole(review: Review) -> None:
    japan = [photo for photo in review.examined.used if photo.label == "japan"]
    suspects = [Suspect(photo, "train", "alone", Words("alone", {"label": "japan"}), 0.5) for photo in japan[::2]]
    said = [str(each) for each in find_oddities(review.examined, suspects)]
    assert any(line.startswith(f"japan as a whole: {len(suspects)} of {len(japan)} photos") for line in said)
    assert not any(line.startswith(("brazil as a whole", "china as a whole")) for line in said)
    assert not any("as a whole" in str(each) for each in find_oddities(replace(review.examined, scores=None), ()))


def test_a_label_that_looks_like_another_is_told(review: Review) -> None:
    assert review.examined.scores is not None
    scores = np.tile(np.array([0.2, 0.3, 0.5], dtype=np.float32), (len(review.examined.used), 1))
    said = [str(each) for each in find_oddities(replace(review.examined, scores=scores), ())]
    assert any(line.startswith("brazil as a whole: 100% of its photos look like japan") for line in said)


def test_a_brighter_label_is_told(review: Review) -> None:
    assert find_giveaways(review.examined) == []
    labels = {photo.sha256: photo.label for photo in review.examined.used}
    lit = {
        sha256: figures + (np.arange(len(figures)) == 0) * (labels[sha256] == "japan")
        for sha256, figures in review.examined.statistics.items()
    }
    (found, *_) = find_giveaways(replace(review.examined, statistics=lit))
    assert str(found).startswith("photos of japan are brighter")

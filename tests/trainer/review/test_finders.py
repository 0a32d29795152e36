"""Each kind of suspect is found in pictures and features that have it, and not in others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from sandbox.gallery import Gallery
from trainer.config import HeadSettings
from trainer.errors import DatasetError
from trainer.review import copies
from trainer.review.copies import Pixels, Shrunk, likeness, mirrored, small_brightness
from trainer.review.neighbours import distance_under_label, nearest
from trainer.review.out_of_fold import find_contradictions, score_out_of_fold
from trainer.review.reposts import SAME, SURELY_SAME
from trainer.review.statistics import is_blank, is_text, measure

LABELS = ("brazil", "china", "japan")
SIDE = 224


@pytest.fixture(scope="module")
def drawings() -> list[Image.Image]:
    import io

    gallery = Gallery()
    return [Image.open(io.BytesIO(gallery.draw_fresh("japan", seed, width_px=300))).convert("RGB") for seed in range(4)]


def view(image: Image.Image) -> Pixels:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def shrunk(image: Image.Image) -> Shrunk:
    return Shrunk.of(view(image))


def cropped(image: Image.Image) -> Image.Image:
    width, height = image.size
    return image.crop((0.04 * width, 0.02 * height, 0.93 * width, 0.97 * height))


@pytest.mark.parametrize(
    "change",
    [ImageOps.mirror, cropped, lambda image: ImageOps.expand(image, 14, "navy"), lambda image: image.resize((90, 160))],
    ids=["mirrored", "cropped", "framed", "small"],
)
def test_a_changed_copy_is_the_same_picture_and_another_picture_is_not(
    drawings: list[Image.Image], change: object
) -> None:
    assert callable(change)
    for number, drawing in enumerate(drawings):
        copy = shrunk(change(drawing))
        assert likeness(shrunk(drawing), copy) > SAME
        assert likeness(shrunk(drawings[number - 1]), copy) < SAME
    assert likeness(shrunk(drawings[0]), shrunk(drawings[0])) > SURELY_SAME


def test_a_copy_is_found_whose_plain_background_ended_in_a_frame(drawings: list[Image.Image]) -> None:
    plain = Image.new("RGB", (300, 500), (90, 90, 90))
    plain.paste(drawings[0].resize((280, 420)), (10, 75))
    framed = ImageOps.expand(ImageOps.mirror(plain.crop((10, 20, 292, 496))), 14, "white")
    assert likeness(shrunk(plain), shrunk(framed)) > SURELY_SAME


def test_photos_that_differ_at_a_coarse_look_are_not_looked_at_again(
    drawings: list[Image.Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    closer: list[object] = []
    fitted = copies._fitted

    def counted(*args: Any) -> float:
        closer.append(args)
        return fitted(*args)

    monkeypatch.setattr(copies, "_fitted", counted)
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8).repeat(28, axis=0).repeat(28, axis=1)
    assert likeness(shrunk(drawings[0]), Shrunk.of(blocks)) < SAME
    assert not closer
    assert likeness(shrunk(drawings[0]), shrunk(ImageOps.mirror(drawings[0]))) > SAME
    assert closer


def test_plain_pictures_are_like_nothing() -> None:
    plain = Shrunk.of(np.full((SIDE, SIDE, 3), 128, dtype=np.uint8))
    assert likeness(plain, plain) <= 0


def test_the_small_picture_of_a_mirrored_photo_is_the_mirrored_small_picture(drawings: list[Image.Image]) -> None:
    small = np.stack([small_brightness(view(drawing)) for drawing in drawings])
    turned = np.stack([small_brightness(view(drawing)[:, ::-1]) for drawing in drawings])
    assert np.allclose(mirrored(small), turned, atol=1e-5)


def test_blank_and_text_are_told_from_drawings(drawings: list[Image.Image]) -> None:
    noise = np.random.default_rng(0).normal(0, 1.5, (SIDE, SIDE, 3))
    assert is_blank(measure(np.clip(200 + noise, 0, 255).astype(np.uint8)))
    page = Image.new("RGB", (600, 800), "white")
    pen = ImageDraw.Draw(page)
    for row in range(20, 780, 14):
        pen.text((20, row), "the quick brown fox jumps over the lazy dog and runs away again " * 2, fill="black")
    assert is_text(measure(view(page)))
    assert not is_blank(measure(view(page)))
    for drawing in drawings:
        figures = measure(view(drawing))
        assert not is_blank(figures)
        assert not is_text(figures)


def features(n: int = 60, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Three clouds of points: features, classes, and members with three photos each."""
    rng = np.random.default_rng(seed)
    classes = np.repeat(np.arange(3), n)
    centres = rng.normal(0, 1, (3, 24))
    rows = np.abs(centres[classes] + rng.normal(0, 0.5, (3 * n, 24))).astype(np.float32)
    return rows, classes, [f"{label}{number // 3}" for label in LABELS for number in range(n)]


def test_swapped_labels_are_found_by_heads_that_did_not_learn_them() -> None:
    rows, classes, members = features()
    wrong = np.arange(5, 180, 20)
    given = classes.copy()
    given[wrong] = (given[wrong] + 1) % 3
    seen: list[tuple[int, int]] = []
    scores = score_out_of_fold(
        rows, given, members, labels=LABELS, settings=HeadSettings(), progress=lambda *step: seen.append(step)
    )
    assert np.allclose(scores.sum(axis=1), 1, atol=1e-5)
    found = {each.row: each.other for each in find_contradictions(scores, given)}
    assert set(wrong.tolist()) <= found.keys()
    assert len(found) <= len(wrong) + 3
    assert all(found[row] == classes[row] for row in wrong.tolist())
    assert seen[-1] == (5, 5)


def test_the_scores_of_a_member_do_not_depend_on_its_own_labels() -> None:
    rows, classes, members = features(30)
    settings = HeadSettings()
    given = classes.copy()
    given[:3] = 2  # all photos of one member
    own, other = (
        score_out_of_fold(rows, each, members, labels=LABELS, settings=settings, progress=lambda *_: None)
        for each in (classes, given)
    )
    assert (own[:3].argmax(axis=1) == other[:3].argmax(axis=1)).all()


def test_too_few_members_are_an_error_that_names_the_label() -> None:
    rows, classes, _ = features(6)
    members = ["one"] * 6 + [str(number) for number in range(12)]
    with pytest.raises(DatasetError, match="brazil"):
        score_out_of_fold(rows, classes, members, labels=LABELS, settings=HeadSettings(), progress=lambda *_: None)


def test_neighbours_are_of_other_members_and_the_nearest_come_first() -> None:
    rows = np.eye(4, dtype=np.float32)
    rows[1] = rows[0]
    rows[2, 0] = 1
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    places, distances = nearest(rows, np.array([0, 0, 1, 2]), n=2)
    assert places[0, 0] == 2
    assert distances[0, 0] < distances[0, 1]
    assert 1 not in places[0]


def test_a_photo_that_is_like_nothing_else_under_its_label_is_far_from_it() -> None:
    rows, classes, members = features()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    odd = rows[0].copy()
    rows[0] = np.roll(odd[::-1], 5)
    numbers = np.unique(members, return_inverse=True)[1]
    distances = distance_under_label(rows, numbers, classes)
    assert distances[:60].argmax() == 0

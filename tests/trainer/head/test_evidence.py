"""A heat map's values add up to what they explain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.config import FeatureSettings
from trainer.head.evidence import against_others, evidence, evidence_by_layer, heat, spread
from trainer.head.head import Head
from trainer.vgg16.backbone import Backbone, Extracted

LAYERS = ("block3_conv3", "block4_conv3", "block5_conv3")
LABELS = ("brazil", "china", "japan")
SIDE_PX = 64


@pytest.fixture(scope="module")
def extracted() -> Extracted:
    """Four noisy images, seen by the layers that are used by default."""
    settings = FeatureSettings(weights="random", layers=LAYERS)
    backbone = Backbone.load(settings, precision="float32", side_px=SIDE_PX)
    images = np.random.default_rng(0).integers(0, 256, (4, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    return backbone.extract(images, with_maps=True)


def head_for(extracted: Extracted, *, hidden: int = 0) -> Head:
    """A head with random weights, standardised around something else than these images."""
    rng = np.random.default_rng(3)
    n = extracted.features.shape[1]

    def layer(n_in: int, n_out: int) -> tuple[Any, Any]:
        kernel = rng.normal(0, n_in**-0.5, (n_in, n_out)).astype(np.float32)
        return kernel, rng.normal(0, 1, n_out).astype(np.float32)

    mean = (extracted.features.mean(axis=0) * rng.uniform(0.5, 1.5, n)).astype(np.float32)
    scale = (extracted.features.std(axis=0) + 1).astype(np.float32)
    layers = (layer(n, hidden), layer(hidden, 3)) if hidden else (layer(n, 3),)
    return Head(LABELS, mean, scale, layers, temperature=1.7)


def log_odds(head: Head, features: Any) -> Any:
    """Of the best label's calibrated score, (n,), times the temperature."""
    logits = head.logits(features).astype(np.float64) / head.temperature
    best = logits.argmax(axis=1)
    others = np.array([np.delete(row, index) for row, index in zip(logits, best, strict=True)])
    return head.temperature * (logits.max(axis=1) - np.log(np.exp(others).sum(axis=1)))


def test_the_answer_is_weighed_against_the_others_by_their_scores() -> None:
    head = Head(LABELS, np.zeros(1, np.float32), np.ones(1, np.float32), (), temperature=2.0)
    logits = np.log(np.array([[1, 9, 36], [36, 4, 4]], dtype=np.float32))
    np.testing.assert_allclose(against_others(head, logits), [[-0.25, -0.75, 1], [1, -0.5, -0.5]], rtol=1e-5)


def test_for_a_linear_head_the_places_and_the_biases_add_up_to_the_difference_of_the_logits(
    extracted: Extracted,
) -> None:
    head = head_for(extracted)
    logits, bias = head.logits(extracted.features), head.layers[0][1]
    weights = against_others(head, logits)
    found = evidence(head, extracted)
    assert found.shape == (4, SIDE_PX // 4, SIDE_PX // 4)
    assert found.dtype == np.float32
    expected = (weights * (logits - bias)).sum(axis=1)
    np.testing.assert_allclose(found.sum(axis=(1, 2)), expected, rtol=1e-3, atol=1e-3)


def test_each_place_counts_as_much_as_it_changes_the_odds_of_the_answer(extracted: Extracted) -> None:
    """Compare with the definition: what the odds lose without a place's difference from the training photos."""
    head = head_for(extracted)
    assert extracted.layer_maps is not None
    parts = evidence_by_layer(head, extracted)
    start = 0
    for layer_map, part in zip(extracted.layer_maps, parts, strict=True):
        columns = slice(start, start + layer_map.shape[-1])
        start = columns.stop
        without = extracted.features[:1].copy()
        n_places = layer_map.shape[1] * layer_map.shape[2]
        without[0, columns] -= (layer_map[0, 1, 0] - head.mean[columns]) / n_places
        before, after = (log_odds(head, features)[0] for features in (extracted.features[:1], without))
        assert part[0, 1, 0] == pytest.approx(before - after, rel=0.02, abs=1e-3)


def test_for_a_head_with_a_hidden_layer_the_slope_at_this_photo_counts(extracted: Extracted) -> None:
    head = head_for(extracted, hidden=16)
    step = 1e-3 * (extracted.features - head.mean)
    slope = (log_odds(head, extracted.features + step) - log_odds(head, extracted.features - step)) / 2e-3
    np.testing.assert_allclose(evidence(head, extracted).sum(axis=(1, 2)), slope, rtol=0.02, atol=0.02)


def test_a_rounding_that_makes_another_label_second_hardly_changes_the_evidence(extracted: Extracted) -> None:
    head = head_for(extracted)
    kernel, bias = head.layers[0]
    logits = head.logits(extracted.features[:1])[0]
    best, second, third = np.argsort(-logits)
    found = []
    for ahead in (second, third):
        moved = bias.copy()
        moved[third] += logits[second] - logits[third]  # a tie
        moved[ahead] += 1e-3
        near = replace(head, layers=((kernel, moved),))
        assert np.argsort(-near.logits(extracted.features[:1])[0]).tolist()[:2] == [best, ahead]
        found.append(evidence(near, extracted)[0])
    np.testing.assert_allclose(found[0], found[1], atol=2e-3 * np.abs(found[0]).max())


def test_evidence_is_smooth_and_lies_where_the_map_has_it() -> None:
    """One active cell in the coarsest map makes one round spot."""
    maps = [np.zeros((1, side, side, channels), dtype=np.float32) for side, channels in ((16, 256), (8, 512), (4, 512))]
    maps[2][0, 1, 3] = 1
    n = sum(layer_map.shape[-1] for layer_map in maps)
    kernel = np.zeros((n, 2), dtype=np.float32)
    kernel[:, 1] = 1
    head = Head(("a", "b"), np.zeros(n, np.float32), np.ones(n, np.float32), ((kernel, np.zeros(2, np.float32)),))
    features = np.concatenate([layer_map.mean(axis=(1, 2)) for layer_map in maps], axis=1)
    spot = heat(evidence(head, Extracted(features, tuple(maps))))[0]
    rows, columns = np.nonzero(spot > 0.5)
    assert (rows.min(), rows.max()) == (4, 7)  # cell 1 of 4 is rows 4 to 7 of 16
    assert (columns.min(), columns.max()) == (12, 15)
    assert np.abs(np.diff(spot, axis=0)).max() < 0.4


@given(n=st.integers(1, 40), more=st.integers(0, 200))
def test_to_enlarge_a_map_adds_and_loses_nothing(n: int, more: int) -> None:
    size = n + more
    matrix = spread(n, size)
    assert matrix.shape == (size, n)
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(axis=0), 1, rtol=1e-5)


def test_a_heat_map_is_the_share_of_what_the_hottest_places_have() -> None:
    given = np.full((4, 10, 10), -1, dtype=np.float32)
    given[0, 0] = [8, 100, 8, 8, 4, 2, 0, -4, -9, -100]
    given[1, 5, 5] = 3  # a single place
    given[2] = 7
    found = heat(given)
    np.testing.assert_allclose(found[0, 0], [1, 1, 1, 1, 0.5, 0.25, 0, 0, 0, 0], rtol=1e-6)
    assert (found[1] > 0).sum() == found[1, 5, 5] == 1
    assert (found[2] == 1).all()
    assert (found[3] == 0).all()

"""A head is fitted reproducibly, scores as fitted, and does not overfit small data."""

import itertools
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from trainer.config import HeadSettings
from trainer.errors import ModelError, StorageError
from trainer.evaluation.evaluate import balanced_accuracy
from trainer.head.fit import class_weights, fit_head
from trainer.head.head import FILE_NAME, Floats, Head, Indexes, softmax
from trainer.head.linear import BETTER, STRENGTHS
from trainer.vgg16.backend import load_keras
from trainer.vgg16.stored_rows import StoredRows

ROOT = Path(__file__).parents[3]
LABELS = ("brazil", "china", "japan")
QUICK = HeadSettings()


def drawn(counts: list[int], *, n_features: int = 40, seed: int = 1, n_views: int = 1) -> tuple[Floats, Indexes]:
    """Features of three equally difficult classes, equal in all views; positive, with different scales."""
    centres = np.array([[0.5 * (column % 3 == index) for column in range(n_features)] for index in range(3)])
    rng = np.random.default_rng(seed)
    indexes = np.repeat(np.arange(3), counts)
    photos = centres[indexes] + rng.normal(0, 1, (len(indexes), n_features))
    views = photos[:, None] + rng.normal(0, 0.1, (len(indexes), n_views, n_features))
    sizes = 10.0 ** np.random.default_rng(2).uniform(-2, 2, n_features)
    return ((views + 10) * sizes).astype(np.float32), indexes


def fit(
    features: Floats, indexes: Indexes, chosen: HeadSettings = QUICK, *, n_validation: int = 30, **options: Any
) -> Any:
    validation, validation_indexes = drawn([n_validation] * 3, n_features=features.shape[2], seed=2)
    return fit_head(
        features,
        indexes,
        validation_features=validation[:, 0],
        validation_class_indexes=validation_indexes,
        labels=LABELS,
        settings=chosen,
        **options,
    )


def random_head(seed: int, *, hidden_units: int, n_features: int = 6) -> Head:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Floats:
        return rng.normal(0, 1, shape).astype(np.float32)

    sizes = [n_features, *([hidden_units] if hidden_units else []), 3]
    layers = tuple((draw(n_in, n_out), draw(n_out)) for n_in, n_out in itertools.pairwise(sizes))
    return Head(
        LABELS, draw(n_features), np.abs(draw(n_features)) + np.float32(0.1), layers, temperature=1.7, doubt=0.1
    )


def test_a_linear_head_is_as_accurate_as_a_logistic_regression() -> None:
    features, indexes = drawn([40, 40, 40], n_features=200, n_views=2)
    unseen, unseen_indexes = drawn([200, 200, 200], n_features=200, seed=3)
    fitted = fit(features, indexes)
    head = balanced_accuracy(unseen_indexes, fitted.head.scores(unseen[:, 0]).argmax(axis=1))
    mean, scale = features[:, 0].mean(axis=0), features[:, 0].std(axis=0)
    regression = LogisticRegression(C=0.01, max_iter=500).fit((features[:, 0] - mean) / scale, indexes)
    reference = balanced_accuracy(unseen_indexes, regression.predict((unseen[:, 0] - mean) / scale))
    assert head > reference - 0.02
    assert head > 0.8


@pytest.mark.parametrize("hidden_units", [0, 8])
def test_the_same_photos_and_seed_give_a_bit_identical_head(tmp_path: Path, hidden_units: int) -> None:
    features, indexes = drawn([20, 20, 20], n_views=2)
    chosen = HeadSettings(hidden_units=hidden_units, max_epochs=5, batch_size=32)
    contents, histories = [], []
    for name in ("first", "second"):
        np.random.seed(len(name))  # the state of the global generator does not matter
        fitted = fit(features, indexes, chosen)
        fitted.head.save(tmp_path / name)
        contents.append((tmp_path / name / FILE_NAME).read_bytes())
        histories.append(fitted.history)
    assert contents[0] == contents[1]
    assert histories[0] == histories[1]
    other = fit(features, indexes, chosen.model_copy(update={"seed": 1}))
    assert (other.history == histories[0]) == (hidden_units == 0)  # only a hidden layer has something to draw


FIT = """
import hashlib
from tests.trainer.head.test_head import drawn, fit
for n in (150, 500):  # fewer rows than features, and more
    linear = fit(*drawn([n, n, n], n_features=1000)).linear
    kernel, bias = linear.head.layers[0]
    print(hashlib.sha256(kernel.tobytes() + bias.tobytes()).hexdigest(), linear.path)
"""


def test_the_bits_of_a_linear_head_do_not_depend_on_the_number_of_threads() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", FIT],
            env={**os.environ, "OPENBLAS_NUM_THREADS": n_threads, "MKL_NUM_THREADS": n_threads},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for n_threads in ("1", "2")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("n_rows", [60, 300])  # fewer rows than features, and more
def test_a_linear_head_is_fitted_to_the_optimum_that_another_solver_finds(n_rows: int) -> None:
    features, indexes = drawn([n_rows // 3] * 3, n_features=100)
    strength = 0.1
    fitted = fit(features, indexes, HeadSettings(l2=strength))
    head = fitted.head
    regression = LogisticRegression(C=1 / (strength * n_rows), tol=1e-8, max_iter=10_000)
    regression.fit(head.standardise(features[:, 0]).astype(np.float64), indexes)
    kernel, bias = head.layers[0]
    np.testing.assert_allclose(kernel, regression.coef_.T, atol=2e-4)
    np.testing.assert_allclose(bias - bias.mean(), regression.intercept_ - regression.intercept_.mean(), atol=2e-4)


def test_the_penalty_with_the_lowest_validation_loss_is_chosen() -> None:
    features, indexes = drawn([40, 40, 40], n_features=200)
    linear = fit(features, indexes).linear
    assert not linear.cross_validated
    losses = [point.loss for point in linear.path]
    assert losses[linear.chosen] <= min(losses) / BETTER
    assert [point.value for point in linear.path] == list(STRENGTHS[: len(losses)])
    assert sorted((point.train_loss for point in linear.path), reverse=True) == [p.train_loss for p in linear.path]


def test_where_validation_is_small_members_of_training_decide_and_none_is_in_two_folds() -> None:
    features, indexes = drawn([40, 40, 40], n_features=60)
    groups = [f"{index}-{number // 4}" for number, index in enumerate(indexes)]
    few = slice(None, None, 10)
    validation, validation_indexes = drawn([30, 30, 30], n_features=60, seed=2)
    linear = fit_head(
        features,
        indexes,
        validation_features=validation[few, 0],
        validation_class_indexes=validation_indexes[few],
        labels=LABELS,
        settings=QUICK,
        groups=groups,
    ).linear
    assert linear.cross_validated
    assert linear.n_steps == len(STRENGTHS)


@pytest.mark.parametrize("hidden_units", [0, 8])
@pytest.mark.parametrize("n_validation", [30, 3])  # chosen by validation, and by members
def test_rows_on_disk_give_the_same_head_but_for_rounding(tmp_path: Path, n_validation: int, hidden_units: int) -> None:
    features, indexes = drawn([900, 900, 900], n_views=2)  # several blocks
    chosen = HeadSettings(hidden_units=hidden_units, max_epochs=2, learning_rate=0.001)
    groups = [str(number // 3) for number in range(len(indexes))]
    here = fit(features, indexes, chosen, n_validation=n_validation, groups=groups)
    rows = features.reshape(-1, features.shape[2])
    stored = StoredRows.write([(np.arange(len(rows)), rows)], rows.shape, folder=tmp_path)
    validation, validation_indexes = drawn([n_validation] * 3, seed=2)
    there = fit_head(
        stored,
        indexes,
        validation_features=StoredRows.write(
            [(np.arange(len(validation)), validation[:, 0])], validation[:, 0].shape, folder=tmp_path
        ),
        validation_class_indexes=validation_indexes,
        labels=LABELS,
        settings=chosen,
        groups=groups,
    )
    assert there.linear.cross_validated == here.linear.cross_validated == (n_validation < 30)
    assert there.linear.chosen == here.linear.chosen
    assert (there.head.mean == here.head.mean).all()
    assert [epoch.validation_loss for epoch in there.history] == [epoch.validation_loss for epoch in here.history]
    np.testing.assert_allclose(there.linear.head.logits(stored), here.linear.head.logits(rows), atol=2e-3)
    if there.linear.out_of_fold is not None:
        np.testing.assert_allclose(there.linear.out_of_fold[0], here.linear.out_of_fold[0], atol=2e-3)


def test_photos_of_one_member_are_not_what_a_penalty_is_chosen_by() -> None:
    """Each member's photos are one picture: a fold that split members would call the weakest penalty perfect."""
    pictures, kinds = drawn([8, 8, 8], n_features=80)
    features = np.repeat(pictures, 6, axis=0) * np.random.default_rng(0).normal(1, 1e-4, (144, 1, 80)).astype("f4")
    groups = [str(number // 6) for number in range(144)]
    validation, validation_indexes = drawn([2, 2, 2], n_features=80, seed=2)

    def lowest_loss(groups: list[str] | None) -> float:
        fitted = fit_head(
            features,
            np.repeat(kinds, 6),
            validation_features=validation[:, 0],
            validation_class_indexes=validation_indexes,
            labels=LABELS,
            settings=QUICK,
            groups=groups,
        )
        return fitted.linear.path[fitted.linear.chosen].loss

    assert lowest_loss(groups) > 0.3
    assert lowest_loss(None) < 0.05


@pytest.mark.parametrize("hidden_units", [0, 5])
def test_scores_equal_those_of_the_same_network_in_keras(hidden_units: int) -> None:
    keras = load_keras()
    head = random_head(0, hidden_units=hidden_units)
    features = np.random.default_rng(1).normal(0, 3, (17, 6)).astype(np.float32)
    layers = [keras.layers.Normalization(mean=head.mean, variance=head.scale**2)]
    if hidden_units:
        layers.append(keras.layers.Dense(hidden_units, activation="relu"))
    network = keras.Sequential([keras.Input((6,)), *layers, keras.layers.Dense(3)])
    for layer, arrays in zip(network.layers[1:], head.layers, strict=True):
        layer.set_weights(arrays)
    shares = keras.ops.softmax(network(features) / head.temperature)
    expected = (1 - head.doubt) * shares + head.doubt / 3
    np.testing.assert_allclose(head.scores(features), np.asarray(expected), atol=1e-5)
    assert head.hidden_units == hidden_units


@given(seed=st.integers(0, 10_000), hidden_units=st.sampled_from([0, 4]))
@settings(max_examples=30, deadline=None)
def test_the_gradient_equals_numerical_differences_of_weighted_logits(seed: int, hidden_units: int) -> None:
    head = random_head(seed, hidden_units=hidden_units)
    rng = np.random.default_rng(seed)
    features, weights = (rng.normal(0, 1, (2, n)).astype(np.float32) for n in (6, 3))
    gradient = head.gradient(features, weights)
    step = 1e-6 * np.eye(6)
    exact = replace(
        head,
        mean=head.mean.astype(np.float64),
        layers=tuple((kernel.astype(np.float64), bias.astype(np.float64)) for kernel, bias in head.layers),
    )
    for row in range(2):
        here = features[row].astype(np.float64)
        slopes = (exact.logits(here + step) - exact.logits(here - step)) @ weights[row] / 2e-6
        np.testing.assert_allclose(gradient[row], slopes, rtol=1e-3, atol=1e-3)


def test_scores_add_up_to_one_and_survive_large_logits() -> None:
    scores = softmax(np.array([[1000.0, 0.0, -1000.0], [1.0, 1.0, 1.0]], dtype=np.float32))
    np.testing.assert_allclose(scores, np.array([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]]), atol=1e-6)


def test_scores_do_not_depend_on_the_chunk_size() -> None:
    head = random_head(0, hidden_units=4)
    features = np.random.default_rng(0).normal(0, 1, (5000, 6)).astype(np.float32)
    np.testing.assert_allclose(head.logits(features)[4500:], head.logits(features[4500:]), rtol=1e-5, atol=1e-5)
    assert head.logits(features[:0]).shape == (0, 3)


def test_a_head_saved_before_doubt_existed_loads_with_zero_doubt(tmp_path: Path) -> None:
    random_head(3, hidden_units=0).save(tmp_path)
    with np.load(tmp_path / FILE_NAME) as file:
        arrays = {name: file[name] for name in file.files if name != "doubt"}
    np.savez(tmp_path / FILE_NAME, **arrays)
    assert Head.load(tmp_path).doubt == 0


@pytest.mark.parametrize("hidden_units", [0, 5])
def test_a_saved_head_scores_the_same_when_loaded(tmp_path: Path, hidden_units: int) -> None:
    head = random_head(3, hidden_units=hidden_units)
    features = np.random.default_rng(1).normal(0, 3, (9, 6)).astype(np.float32)
    head.save(tmp_path)
    loaded = Head.load(tmp_path)
    assert np.array_equal(loaded.scores(features), head.scores(features))
    assert loaded.labels == LABELS


def test_labels_in_any_script_are_kept(tmp_path: Path) -> None:
    replace(random_head(0, hidden_units=0), labels=("日本", "a b/c", "é")).save(tmp_path)
    assert Head.load(tmp_path).labels == ("日本", "a b/c", "é")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"\x80\x04K\x01."])
def test_a_damaged_file_is_an_error_that_says_what_to_do(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(ModelError, match="roll back, or train again"):
        Head.load(tmp_path)


def test_a_missing_file_is_an_error_too(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"head\.npz"):
        Head.load(tmp_path)


def test_a_failed_save_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file where the folder should be")
    with pytest.raises(StorageError):
        random_head(0, hidden_units=0).save(tmp_path / "folder")


def test_features_of_another_length_are_refused() -> None:
    with pytest.raises(ModelError, match="trained on other layers"):
        random_head(0, hidden_units=0).scores(np.zeros((1, 7), dtype=np.float32))


def test_features_that_are_not_finite_are_refused() -> None:
    features, indexes = drawn([5, 5, 5])
    features[3, 0, 2] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        fit(features, indexes)


def test_a_constant_feature_does_no_harm() -> None:
    features, indexes = drawn([20, 20, 20])
    features[:, :, 5] = 7.0
    assert np.isfinite(fit(features, indexes).head.scores(features[:, 0])).all()


@pytest.mark.parametrize("balance", ["weights", "none"])
def test_a_rare_class_has_about_the_same_recall_as_the_others(balance: str) -> None:
    """Twelve photos beside fifty, in more features than photos, where everything is separable."""
    n_draws, recalls = 6, np.zeros(3)
    for draw in range(n_draws):
        features, indexes = drawn([50, 50, 12], n_features=200, seed=10 + draw)
        unseen, unseen_indexes = drawn([200, 200, 200], n_features=200, seed=100 + draw)
        fitted = fit(features, indexes, HeadSettings.model_validate({"balance": balance}))
        answers = fitted.head.scores(unseen[:, 0]).argmax(axis=1)
        recalls += [float((answers[unseen_indexes == index] == index).mean()) / n_draws for index in range(3)]
        assert fitted.linear.path[fitted.linear.chosen].tau > 0
    assert recalls[2] > recalls[:2].mean() - 0.15


def test_labels_with_as_many_photos_each_are_not_adjusted() -> None:
    features, indexes = drawn([40, 40, 40])
    linear = fit(features, indexes).linear
    assert linear.path[linear.chosen].tau == 0


def test_class_weights_give_every_class_the_same_total() -> None:
    indexes = np.array([0] * 6 + [1] * 3 + [2])
    weights = class_weights(indexes, n_classes=3, settings=HeadSettings())
    totals = {index: n * weights[index] for index, n in Counter(indexes.tolist()).items()}
    np.testing.assert_allclose(list(totals.values()), 10 / 3, rtol=1e-6)
    with pytest.raises(ModelError, match="class 2 has no training photo"):
        class_weights(indexes[:-1], n_classes=3, settings=HeadSettings())


def test_fitting_a_hidden_layer_stops_when_validation_no_longer_improves() -> None:
    features, indexes = drawn([10, 10, 10], n_features=300)
    fitted = fit(features, indexes, HeadSettings(hidden_units=32, learning_rate=0.05, patience=3, max_epochs=100))
    losses = [epoch.validation_loss for epoch in fitted.history]
    assert len(losses) < 100
    assert fitted.best_epoch == int(np.argmin(losses)) == len(losses) - 4


def test_a_hidden_layer_is_kept_only_if_it_helps() -> None:
    chosen = HeadSettings(hidden_units=16, learning_rate=0.01, max_epochs=80, dropout=0.1)
    linear, indexes = drawn([40, 40, 40])
    assert fit(linear, indexes, chosen).head.hidden_units == 0

    def corners(seed: int) -> tuple[Floats, Indexes]:
        points = np.random.default_rng(seed).uniform(-1, 1, (400, 2)).astype(np.float32)
        return points, (points[:, 0] * points[:, 1] > 0).astype(np.int64)  # not linearly separable

    (points, kinds), (other_points, other_kinds) = corners(0), corners(1)
    fitted = fit_head(
        points[:, None],
        kinds,
        validation_features=other_points,
        validation_class_indexes=other_kinds,
        labels=("even", "odd"),
        settings=chosen,
    )
    assert fitted.head.hidden_units == 16


def test_progress_counts_strengths_and_then_epochs() -> None:
    features, indexes = drawn([10, 10, 10])
    seen: list[tuple[int, int]] = []
    fitted = fit(
        features,
        indexes,
        HeadSettings(hidden_units=4, max_epochs=3),
        progress=lambda done, total: seen.append((done, total)),
    )
    n_steps = fitted.linear.n_steps
    assert {total for _, total in seen} == {n_steps + 3}
    assert [done for done, _ in seen] == [*range(1, len(seen) - 2), n_steps + 1, n_steps + 2, n_steps + 3]


@pytest.mark.parametrize(
    "changes",
    [
        {"mean": np.full(6, np.nan, np.float32)},
        {"kernel_0": np.full((6, 3), np.inf, np.float32)},
        {"temperature": np.float64("nan")},
        {"temperature": np.float64(0)},
        {"doubt": np.float64(1.5)},
        {"scale": np.zeros(6, np.float32)},
        {"scale": np.ones(5, np.float32)},
        {"bias_0": np.zeros(4, np.float32)},
        {"kernel_0": np.zeros((5, 3), np.float32)},
        {"labels": np.array(["a", "b"])},
        {"labels": np.array(["a", "a", "b"])},
        {"mean": np.zeros((6, 1), np.float32)},
        {"kernel_1": np.zeros((4, 4), np.float32), "bias_1": np.zeros(4, np.float32)},
        {"kernel_5": np.zeros((4, 4), np.float32)},
    ],
)
def test_a_head_that_cannot_give_scores_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    random_head(3, hidden_units=0).save(tmp_path)
    with np.load(tmp_path / FILE_NAME) as file:
        arrays = dict(file)
    np.savez(tmp_path / FILE_NAME, **(arrays | changes))
    with pytest.raises(ModelError, match="roll back, or train again"):
        Head.load(tmp_path)


def test_a_link_in_the_heads_place_is_refused(tmp_path: Path) -> None:
    random_head(3, hidden_units=0).save(tmp_path / "a")
    (tmp_path / FILE_NAME).symlink_to(tmp_path / "a" / FILE_NAME)
    with pytest.raises(ModelError, match="cannot be read"):
        Head.load(tmp_path)

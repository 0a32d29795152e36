"""Shows which places of a photo decided: a heat map over all layers that the head uses.

The answer's logit is compared with those of all other labels, each weighted by its share of the score that the answer
leaves to them: this is how the odds of the answer change. (Against the second best label alone, a rounding that makes
another label second would show another map.)

A feature is the average of a layer's map. So a difference of logits of a linear head is a sum over places, plus
the bias: each map, less the average of the training photos, times the slope of the difference. The maps of all layers
are brought to one size and added. For a head with a hidden layer, the slope at this photo is used: the head is linear
around it.

Measured by the benchmark `heat`: without the places that it shows, a score falls further than without those that the
last layer shows alone; and by `int8`: its maps are those of float32.

Source: Zhou et al., "Learning Deep Features for Discriminative Localization", arXiv:1512.04150, for one layer.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from trainer.head.head import Floats, Head, softmax
from trainer.vgg16.backbone import Extracted

HOTTEST = 0.02  # share of the places
SMOOTHING = 4 / 224  # standard deviation, as share of the side: a place has no sharper edge than a cell of block3


def evidence(head: Head, extracted: Extracted) -> Floats:
    """The evidence at each place for the best label against the others, in nats, over all layers; see `against_others`.

    Args:
        extracted: of n images, with `layer_maps`.

    Returns:
        (n, h, w), as large as the largest map. For a linear head, the sum over all places is the weighted sum of the
        logits less that of the biases.
    """
    parts = evidence_by_layer(head, extracted)
    size = max(part.shape[1] for part in parts)
    enlarged = [spread(part.shape[1], size) @ part @ spread(part.shape[2], size).T for part in parts]
    total: Floats = np.sum(enlarged, axis=0)
    return total


def evidence_by_layer(head: Head, extracted: Extracted) -> list[Floats]:
    """As `evidence`: the part (n, h, w) of each layer, as large as its map."""
    assert extracted.layer_maps is not None  # noqa: S101 - the caller asks for them
    slopes = head.gradient(extracted.features, against_others(head, head.logits(extracted.features)))
    parts, start = [], 0
    for layer_map in extracted.layer_maps:
        n, height, width, channels = layer_map.shape
        columns = slice(start, start + channels)
        start = columns.stop
        slope, n_places = slopes[:, columns], height * width
        places = (layer_map.reshape(n, n_places, channels) @ slope[..., None])[..., 0]
        parts.append(((places - slope @ head.mean[columns, None]) / n_places).reshape(n, height, width))
    return parts


def against_others(head: Head, logits: Floats) -> Floats:
    """Weights (n, k) of the logits (n, k): 1 for the best label, and -1 divided among the others by their scores."""
    is_best = np.arange(logits.shape[1]) == logits.argmax(axis=1)[:, None]
    others = softmax(np.where(is_best, -np.inf, logits / np.float32(head.temperature)))
    weights: Floats = np.where(is_best, np.float32(1), -others)
    return weights


def heat(evidence: Floats) -> Floats:
    """The positive part of (n, h, w) evidence, in 0..1: the share of what the hottest places have.

    These are the hottest 2%, which are all 1: beside a single hottest place, all others would look cold. Without
    positive evidence, all is 0.
    """
    positive = np.maximum(evidence, 0)
    ranked = np.sort(positive.reshape(len(positive), np.prod(positive.shape[1:])), axis=1)
    hot, hottest = ranked[:, int((1 - HOTTEST) * ranked.shape[1])], ranked[:, -1]
    level = np.where(hot > 0, hot, hottest)[:, None, None]
    return np.minimum(np.divide(positive, level, out=np.zeros_like(positive), where=level > 0), 1)


@cache
def spread(n: int, size: int) -> Floats:
    """A matrix (size, n) that enlarges n <= size values and smooths them; their sum stays the same.

    It interpolates linearly between the centres of the n cells, then smooths with a Gaussian.
    """
    centres, cells = (np.arange(size) + 0.5) / size, (np.arange(n) + 0.5) / n
    linear = np.stack([np.interp(centres, cells, unit) for unit in np.eye(n)], axis=1)
    gaussian = np.exp(-(((centres[:, None] - centres) / SMOOTHING) ** 2) / 2)
    matrix = gaussian / gaussian.sum(axis=0) @ linear
    kept: Floats = (matrix / matrix.sum(axis=0)).astype(np.float32)
    return kept

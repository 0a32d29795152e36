"""The head: the small classifier on top of bottleneck features, as it serves and lies on disk.

A head is standardisation, at most one hidden layer, and a softmax that is calibrated. That is two matrix products, so
serving needs no Keras for it, and the file is plain arrays: it outlives any version of Keras.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.arrays import read_arrays
from trainer.errors import ModelError
from trainer.files import read_file, write_file
from trainer.head.calibration import Calibration
from trainer.vgg16.stored_rows import Table

Floats = npt.NDArray[np.float32]
Indexes = npt.NDArray[np.int64]
Layer = tuple[Floats, Floats]  # kernel (n_in, n_out) and bias (n_out,)

FILE_NAME = "head.npz"
MAX_BYTES = 256 * 1024 * 1024  # a hidden layer of 1024 units on all of VGG16 takes 18 MB
CHUNK = 4096  # rows looked at at a time; bounds the memory


@dataclass(frozen=True, eq=False)
class Head:
    """Bottleneck features -> calibrated scores.

    Attributes:
        labels: in the order of the scores.
        mean: (d,), of the training features; so is `scale`, their standard deviation.
        layers: one, or two with a relu in between.
        temperature: logits are divided by it; above 0.
        doubt: 0..1, the share of the photos that may be anything; see `trainer.head.calibration`.
    """

    labels: tuple[str, ...]
    mean: Floats
    scale: Floats
    layers: tuple[Layer, ...]
    temperature: float = 1.0
    doubt: float = 0.0

    @property
    def n_features(self) -> int:
        """Length of the features it takes."""
        return int(self.mean.shape[0])

    @property
    def hidden_units(self) -> int:
        """0 for a linear head."""
        return int(self.layers[0][0].shape[1]) if len(self.layers) == 2 else 0

    def logits(self, features: Table) -> Floats:
        """(n, d) -> (n, k), before the temperature.

        Raises:
            ModelError: features of another length.
        """
        starts = range(0, len(features), CHUNK) or [0]
        return np.concatenate([self._forward(features[start : start + CHUNK])[1] for start in starts])

    def scores(self, features: Table) -> Floats:
        """(n, d) -> (n, k) in 0..1, rows that add up to one: calibrated probabilities."""
        return self.calibrated_scores(self.logits(features))

    def calibrated_scores(self, logits: Floats) -> Floats:
        """(n, k) logits -> (n, k) in 0..1, rows that add up to one."""
        shares = softmax(logits / np.float32(self.temperature))
        scores: Floats = np.float32(1 - self.doubt) * shares + np.float32(self.doubt / shares.shape[1])
        return scores

    def gradient(self, features: Floats, weights: Floats) -> Floats:
        """How each feature moves a weighted sum of the logits.

        Args:
            features: (n, d).
            weights: (n, k), of the labels' logits in each row.

        Returns:
            (n, d): d (weights * logits).sum() / d features.
        """
        hidden, _ = self._forward(features)
        slope = weights @ self.layers[-1][0].T
        if hidden is not None:
            slope = (slope * (hidden > 0)) @ self.layers[0][0].T
        gradient: Floats = slope / self.scale
        return gradient

    def calibrated(self, calibration: Calibration) -> Head:
        """The same head with other scores."""
        return replace(self, temperature=calibration.temperature, doubt=calibration.doubt)

    def save(self, folder: Path) -> None:
        """Write head.npz in one step.

        Raises:
            StorageError: the disk is full; what was there before is untouched.
        """
        arrays: dict[str, Any] = {
            "labels": np.array(self.labels),
            "mean": self.mean,
            "scale": self.scale,
            "temperature": np.float64(self.temperature),
            "doubt": np.float64(self.doubt),
        }
        for number, (kernel, bias) in enumerate(self.layers):
            arrays[f"kernel_{number}"], arrays[f"bias_{number}"] = kernel, bias
        write_file(folder / FILE_NAME, lambda file: np.savez(file, **arrays))

    @classmethod
    def load(cls, folder: Path) -> Head:
        """Read head.npz.

        Raises:
            ModelError: it is missing, damaged, or no head.
        """
        file = folder / FILE_NAME
        try:
            data = read_file(file, max_bytes=MAX_BYTES)
        except OSError as error:
            raise ModelError(f"{file}: cannot be read as a head ({error}); roll back, or train again") from error
        return cls.parse(data, file)

    @classmethod
    def parse(cls, data: bytes, file: Path) -> Head:
        """A head from the content of head.npz.

        Args:
            file: where it was read, for messages.

        Raises:
            ModelError: it is damaged, or no head that can compute scores.
        """
        try:
            arrays = read_arrays(data, max_bytes=MAX_BYTES)
            n_layers = sum(name.startswith("kernel_") for name in arrays)
            head = cls(
                labels=tuple(str(label) for label in arrays["labels"]),
                mean=arrays["mean"],
                scale=arrays["scale"],
                layers=tuple((arrays[f"kernel_{n}"], arrays[f"bias_{n}"]) for n in range(n_layers)),
                temperature=float(arrays["temperature"]),
                doubt=float(arrays["doubt"]) if "doubt" in arrays else 0.0,  # heads were written without, once
            )
            head._check()
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise ModelError(f"{file}: cannot be read as a head ({error}); roll back, or train again") from error
        return head

    def _check(self) -> None:
        """Raise ValueError if the parts do not fit together, or cannot give scores of 0..1."""
        shapes = [(kernel.shape, bias.shape) for kernel, bias in self.layers]
        widths = [self.n_features, *(kernel.shape[1] for kernel, _ in self.layers)]
        fitting = [((n_in, n_out), (n_out,)) for n_in, n_out in pairwise(widths)]
        if self.mean.ndim != 1 or self.scale.shape != self.mean.shape or shapes != fitting:
            raise ValueError(f"mean {self.mean.shape}, scale {self.scale.shape} and layers {shapes} do not fit")
        if not 1 <= len(self.layers) <= 2 or len(set(self.labels)) != widths[-1]:
            raise ValueError(f"{len(self.layers)} layers, {len(set(self.labels))} labels for {widths[-1]} scores")
        if not (self.temperature > 0 and 0 <= self.doubt <= 1 and (self.scale > 0).all()):
            raise ValueError("temperature, doubt or scale are out of range")

    def standardise(self, features: Floats) -> Floats:
        """(n, d) -> (n, d): each feature with mean 0 and deviation 1 on the training photos."""
        rows: Floats = (features - self.mean) / self.scale
        return rows

    def _forward(self, features: Floats) -> tuple[Floats | None, Floats]:
        """The hidden layer's activations, None where there is none, and the logits."""
        if features.ndim != 2 or features.shape[1] != self.n_features:
            raise ModelError(
                f"features are {features.shape}, this head takes (n, {self.n_features}); it was trained on other layers"
            )
        rows = self.standardise(features)
        hidden = None
        if len(self.layers) == 2:
            kernel, bias = self.layers[0]
            rows = hidden = np.maximum(rows @ kernel + bias, 0)
        kernel, bias = self.layers[-1]
        return hidden, rows @ kernel + bias


def softmax(logits: Floats) -> Floats:
    """(n, k) -> (n, k), rows that add up to one."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    scores: Floats = powers / powers.sum(axis=1, keepdims=True)
    return scores

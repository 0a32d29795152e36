"""Rows of features in the coordinates of their principal axes: in memory, or, if there are too many, block by block.

A fit reads its rows some hundred times, and needs no more of them than two products: with the kernel, and with the
errors. Both are sums over rows, so rows on disk give the same fit as rows in memory, but for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trainer.head.head import CHUNK, Floats, Head
from trainer.vgg16.stored_rows import StoredRows, Table

IN_DOUBLE = 20_000_000  # maximum number of values for float64
SMALLEST_AXIS = 1e-9  # share of the largest variance
BLOCK = 1024  # rows on disk that are read at a time: they stay in the processor's cache for both products

Doubles = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class Turned(Protocol):
    """(n, r): n standardised rows on r axes."""

    def __len__(self) -> int: ...

    def blocks(self) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """All rows, in order, a block at a time, in the coordinates of `kernel` and `slope`."""

    def kernel(self, kernel: Doubles) -> npt.NDArray[Any]:
        """A kernel on the axes, (r, k), in the coordinates and precision of the blocks."""

    def slope(self, slope: Doubles) -> Doubles:
        """Products of blocks with errors, summed, back on the axes: (r, k)."""

    def logits(self, kernel: Doubles, bias: Doubles, among: Flags | None = None) -> Doubles:
        """(n, k), or of the flagged rows alone, for a kernel (r, k) on the axes."""


def axes_of(empty: Head, features: Table) -> tuple[Doubles, Doubles]:
    """Principal axes (d, r) of the standardised rows, and the variance (r,) along each; r <= min(n, d)."""
    n_rows, n_features = features.shape
    if n_rows < n_features:  # the axes from the products of rows, which are fewer
        standardised: npt.NDArray[Any] = empty.standardise(features[:]).astype(np.float64)
        variances, turns = np.linalg.eigh(standardised @ standardised.T / n_rows)
        kept = variances > SMALLEST_AXIS * variances.max()
        return standardised.T @ (turns[:, kept] / np.sqrt(n_rows * variances[kept])), variances[kept]
    products = np.zeros((n_features, n_features))
    for part in _parts(n_rows, CHUNK):
        standardised = empty.standardise(features[part])
        products += standardised.T @ standardised
    variances, axes = np.linalg.eigh(products / n_rows)
    kept = variances > SMALLEST_AXIS * variances.max()
    return axes[:, kept], variances[kept]


def turned(empty: Head, features: Table, axes: Doubles) -> Turned:
    """Rows (n, d) on the axes (d, r)."""
    if isinstance(features, StoredRows):
        return _OnDisk(empty, features, axes)
    dtype = np.float64 if len(features) * axes.shape[1] <= IN_DOUBLE else np.float32
    rows = np.empty((len(features), axes.shape[1]), dtype=dtype)
    turn: npt.NDArray[Any] = axes.astype(dtype)
    for part in _parts(len(features), CHUNK):
        rows[part] = empty.standardise(features[part]) @ turn
    return _InMemory(rows)


@dataclass(frozen=True, eq=False)
class _InMemory:
    """Rows that were turned once, (n, r); all are one block."""

    rows: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.rows)

    def blocks(self) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        yield slice(None), self.rows

    def kernel(self, kernel: Doubles) -> npt.NDArray[Any]:
        return kernel.astype(self.rows.dtype)

    def slope(self, slope: Doubles) -> Doubles:
        return slope

    def logits(self, kernel: Doubles, bias: Doubles, among: Flags | None = None) -> Doubles:
        rows = self.rows if among is None else self.rows[among]
        found: Doubles = rows @ self.kernel(kernel) + bias
        return found


@dataclass(frozen=True, eq=False)
class _OnDisk:
    """Rows that stay as they are, on disk: kernels and slopes are turned instead, to the features and back."""

    empty: Head
    features: StoredRows
    axes: Doubles

    def __len__(self) -> int:
        return len(self.features)

    def blocks(self) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        for part in _parts(len(self.features), BLOCK):
            rows: Floats = self.features[part]
            rows -= self.empty.mean
            rows /= self.empty.scale
            yield part, rows

    def kernel(self, kernel: Doubles) -> npt.NDArray[Any]:
        return (self.axes @ kernel).astype(np.float32)

    def slope(self, slope: Doubles) -> Doubles:
        turned_back: Doubles = self.axes.T @ slope
        return turned_back

    def logits(self, kernel: Doubles, bias: Doubles, among: Flags | None = None) -> Doubles:
        turned_kernel = self.kernel(kernel)
        found: Doubles = np.concatenate([rows @ turned_kernel + bias for _, rows in self.blocks()])
        return found if among is None else found[among]


def _parts(n_rows: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, n_rows, size))

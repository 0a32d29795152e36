"""Perceptual hashes, and which photos are near-duplicates by them.

Two copies of a photo that differ in size, compression or a caption have hashes that differ in few of their 256 bits;
two different photos differ in about half of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

HASH_BITS = 256
HASH_SIDE = 16
MIN_BANDS = 4  # so that a band's bits fit into one integer
MAX_BANDS = 25  # narrower bands are shared by so many hashes that comparing all of them is quicker
ROWS_AT_ONCE = 64

Ids = npt.NDArray[np.intp]
Words = npt.NDArray[np.uint64]  # (n, 4): 256 bits a row


def perceptual_hash(photo: npt.NDArray[np.uint8]) -> str:
    """The hash of one photo: 64 hex digits, one bit for each low frequency of its brightness.

    Args:
        photo: (h, w, 3) uint8, or what `trainer.photos.images.measure` leaves of it, which has the same hash.

    Source: https://www.hackerfactor.com/blog/index.php?/archives/432-Looks-Like-It.html
    """
    import imagehash  # it brings SciPy along

    return str(imagehash.phash(Image.fromarray(photo), hash_size=HASH_SIDE))


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Which distinct hashes are near which.

    Attributes:
        ids: (n,) for each hash that was given, the number of its distinct value; equal hashes have the same.
    """

    ids: Ids
    _others: Ids
    _starts: Ids

    def near(self, number: int) -> Ids:
        """The numbers of the distinct hashes near one of them, itself among them; ascending."""
        return self._others[self._starts[number] : self._starts[number + 1]]

    @property
    def n_distinct(self) -> int:
        """Number of distinct hashes, m."""
        return len(self._starts) - 1

    def over_near(self, combine: np.ufunc, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Combine, for each distinct hash, the values (m,) of those near it, its own among them: (m,)."""
        combined: npt.NDArray[Any] = combine.reduceat(values[self._others], self._starts[:-1])
        return combined


def find_neighbours(hashes: Sequence[str], *, max_bits: int) -> Neighbours:
    """All hashes that differ in no more than `max_bits` bits.

    Two hashes that differ in up to d bits agree in at least one of d + 1 bands of bits, so only those that share a band
    are compared: a few seconds for 100,000. From 25 bits on all are compared with all: a minute for as many.

    Args:
        hashes: each 64 hex digits.

    Source: "Fast exact search in Hamming space with multi-index hashing", arXiv:1307.2982.
    """
    packed = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8).reshape(len(hashes), HASH_BITS // 8)
    distinct, ids = np.unique(packed, axis=0, return_inverse=True)
    words = np.ascontiguousarray(distinct).view(np.uint64)
    search = _within_bands if max_bits < MAX_BANDS else _among_all
    found = [np.arange(len(words)) * (len(words) + 1)]  # each is near itself; a pair (i, j) is the number i * n + j
    for left, right in search(words, max_bits):
        found += [left * len(words) + right, right * len(words) + left]
    pairs = np.unique(np.concatenate(found))
    owners, others = np.divmod(pairs, max(len(words), 1))
    return Neighbours(ids.reshape(-1), others, np.searchsorted(owners, np.arange(len(words) + 1)))


def _within_bands(words: Words, max_bits: int) -> Iterator[tuple[Ids, Ids]]:
    # Low frequencies agree more often than high ones: shuffled, each band gets some of both.
    order = np.random.default_rng(0).permutation(HASH_BITS)
    bits = np.unpackbits(words.view(np.uint8), axis=1)
    for band in np.array_split(order, max(max_bits + 1, MIN_BANDS)):
        keys = bits[:, band].astype(np.uint64) @ (np.uint64(1) << np.arange(len(band), dtype=np.uint64))
        by_key = np.argsort(keys, kind="stable")
        keys = keys[by_key]
        at = np.arange(len(keys))
        for step in count(1):  # compare each with its next, second next, ... as long as some share their key
            at = at[: np.searchsorted(at, len(keys) - step)]
            at = at[keys[at] == keys[at + step]]
            if not len(at):
                break
            left, right = by_key[at], by_key[at + step]
            close = _distances(words, left, right) <= max_bits
            yield left[close], right[close]


def _distances(words: Words, left: Ids, right: Ids) -> npt.NDArray[np.uint16]:
    """(n,) in how many bits the rows `left` differ from the rows `right`."""
    total = np.zeros(np.broadcast_shapes(left.shape, right.shape), dtype=np.uint16)
    for word in words.T:
        total += np.bitwise_count(word[left] ^ word[right])
    return total


def _among_all(words: Words, max_bits: int) -> Iterator[tuple[Ids, Ids]]:
    for start in range(0, len(words), ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, len(words)))
        columns = np.arange(start + 1, len(words))
        close = _distances(words, rows[:, None], columns[None, :]) <= max_bits
        left, right = rows[np.nonzero(close)[0]], columns[np.nonzero(close)[1]]
        yield left[left < right], right[left < right]

"""Saves checkpoints of a long fit, so that a crash or kill -9 loses only a few seconds of work.

Arrays and figures are in one file that is replaced atomically. It is written every few seconds, or less often if
writing is slow, so that it takes a few percent of the time at most. A damaged file, or one of another fit, is ignored.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.files import write_file

logger = logging.getLogger(__name__)

Arrays = dict[str, npt.NDArray[Any]]
Json = dict[str, Any]

EVERY_S = 5.0
LARGEST_SHARE = 1 / 30  # of the total time that may be spent on writing
FIGURES = "figures"


class Checkpoint:
    """The checkpoint file of one fit."""

    def __init__(self, path: Path, key: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Store the arguments; nothing is read or written yet.

        Args:
            path: of the file.
            key: identifies everything that determines the result of the fit; a file with another key is ignored.
            clock: seconds.
        """
        self._path = path
        self._key = key
        self._clock = clock
        self._written_at = clock()
        self._took_s = 0.0

    def load(self) -> tuple[Arrays, Json] | None:
        """The arrays and figures that were written last; None when there is no checkpoint of this fit."""
        try:
            with self._path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                figures: Json = json.loads(str(file[FIGURES]))
                if figures.pop("key") != self._key:
                    return None
                return {name: file[name] for name in file.files if name != FIGURES}, figures
        except FileNotFoundError:
            return None
        except Exception as error:  # zipfile and NumPy raise many exception types for a damaged file
            logger.warning("checkpoint not readable file=%s reason=%s; starting over", self._path, error)
            return None

    def is_due(self) -> bool:
        """Whether it is time to write the next checkpoint."""
        return self._clock() - self._written_at >= max(EVERY_S, self._took_s / LARGEST_SHARE)

    def write(self, arrays: Mapping[str, npt.NDArray[Any]], figures: Json) -> None:
        """Replace the checkpoint.

        Raises:
            StorageError: the disk is full; the previous checkpoint is unchanged.
        """
        started = self._clock()
        content: dict[str, Any] = {**arrays, FIGURES: np.array(json.dumps({"key": self._key, **figures}))}
        write_file(self._path, lambda file: np.savez(file, **content))
        self._written_at = self._clock()
        self._took_s = self._written_at - started

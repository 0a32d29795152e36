"""Checkpoints of a long fit, so that kill -9 costs the work of a few seconds.

Arrays and figures stand in one file that changes in one step. It is written every few seconds, less often where writing
takes long, so that it costs a few percent of the time at most. A file of another fit, or a damaged one, counts as none.
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
LARGEST_SHARE = 1 / 30  # of the time that may go into writing
FIGURES = "figures"


class Checkpoint:
    """One fit's file."""

    def __init__(self, path: Path, key: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is read or written yet.

        Args:
            path: of the file.
            key: names all that decides what the fit comes to; a file with another key is of another fit.
            clock: seconds.
        """
        self._path = path
        self._key = key
        self._clock = clock
        self._written_at = clock()
        self._took_s = 0.0

    def load(self) -> tuple[Arrays, Json] | None:
        """Arrays and figures as they were written last; None where there are none of this fit."""
        try:
            with self._path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                figures: Json = json.loads(str(file[FIGURES]))
                if figures.pop("key") != self._key:
                    return None
                return {name: file[name] for name in file.files if name != FIGURES}, figures
        except FileNotFoundError:
            return None
        except Exception as error:  # zipfile and NumPy raise whatever they like about a damaged file
            logger.warning("checkpoint not readable file=%s reason=%s; starting over", self._path, error)
            return None

    def is_due(self) -> bool:
        """Whether it is time to write again."""
        return self._clock() - self._written_at >= max(EVERY_S, self._took_s / LARGEST_SHARE)

    def write(self, arrays: Mapping[str, npt.NDArray[Any]], figures: Json) -> None:
        """Replace the checkpoint.

        Raises:
            StorageError: the disk is full; what was written before is untouched.
        """
        started = self._clock()
        content: dict[str, Any] = {**arrays, FIGURES: np.array(json.dumps({"key": self._key, **figures}))}
        write_file(self._path, lambda file: np.savez(file, **content))
        self._written_at = self._clock()
        self._took_s = self._written_at - started

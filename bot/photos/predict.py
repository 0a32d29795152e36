"""Classifies prepared photos in batches on one thread, and swaps in a new champion without a pause.

Loading the classifier imports TensorFlow; importing this module does not.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from bot.config import Settings
from bot.entities import Prediction
from trainer.errors import ModelError, ProjectError

logger = logging.getLogger(__name__)

Photo = npt.NDArray[np.uint8]  # (224, 224, 3)
WATCH_EVERY_S = 5.0


class Scored(Protocol):
    """A classifier's result for one photo."""

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """Scores, (k,) in 0..1, in the order of the labels."""

    @property
    def is_known(self) -> bool:
        """Whether the photo looks like those that the version learned from."""

    @property
    def heatmap(self) -> npt.NDArray[np.float32]:
        """Heat map for the highest score, (h, w) in 0..1."""


class Classifier(Protocol):
    """A version in memory: `trainer.registry.serving.Classifier`, or a fake in tests."""

    @property
    def labels(self) -> Sequence[str]:
        """The labels, in the order of the scores."""

    @property
    def version(self) -> str:
        """The version's name."""

    @property
    def view(self) -> str:
        """The view that is classified; see `trainer.photos.views`."""

    @property
    def thresholds(self) -> Sequence[float]:
        """The threshold of each label, 0..1; below it the answer is "not sure"."""

    def predict(self, images: Photo) -> Sequence[Scored]:
        """Classifies (n, 224, 224, 3) uint8; returns one `Scored` for each."""


class Loader(Protocol):
    """Loads the classifier."""

    def stamp(self) -> object:
        """A value that changes when another version becomes the champion; cheap."""

    def load(self) -> Classifier:
        """The champion. Raises ModelError."""


class ServingLoader:
    """Loads the registry's champion."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def stamp(self) -> object:
        """The registry file's time, size and inode; None if there is no file."""
        try:
            stat = (self._settings.data_dir / "registry.json").stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def load(self) -> Classifier:
        """Loads the champion after checking its hashes. Raises ModelError."""
        from trainer.registry import serving

        version = serving.champion(self._settings)
        if version is None:  # checked before TensorFlow is loaded, which is slow
            raise ModelError(f"{self._settings.data_dir}: no version to serve yet; run `python -m trainer train`")
        return serving.Classifier.load(self._settings, version.name)


class ViewChangedError(Exception):
    """The new champion classifies another view; the photo must be prepared again."""


@dataclass(frozen=True, slots=True)
class _Job:
    photo: Photo
    view: str
    future: Future[Prediction] = field(default_factory=Future)


class Predictor:
    """Runs the champion on one thread, in batches of the waiting photos, at most `batch_size` each."""

    def __init__(self, loader: Loader, *, batch_size: int, watch_every_s: float = WATCH_EVERY_S) -> None:
        self._loader = loader
        self.batch_size = batch_size
        self._watch_every_s = watch_every_s
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self.has_tried = threading.Event()  # set after the first load of the champion, also if that failed
        self._failure: Exception | None = None
        self._stamp: object = None
        self._classifier: Classifier | None = None
        self._threads = [
            threading.Thread(target=self._work, name="predict", daemon=True),
            threading.Thread(target=self._watch, name="champion", daemon=True),
        ]

    def start(self) -> None:
        """Starts loading the champion; returns at once."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finishes the current batch; waiting photos end in a ProjectError."""
        self._stopping.set()
        self._jobs.put(None)
        self.has_tried.set()

    def wait_until_ready(self, timeout_s: float | None = None) -> Classifier:
        """Waits for the classifier and returns it.

        Raises:
            ModelError: there is no champion, or it cannot be loaded.
            ProjectError: not ready in time, or stopped.
        """
        self.has_tried.wait(timeout_s)
        if self._classifier is not None:
            return self._classifier
        if isinstance(self._failure, ProjectError):
            raise self._failure
        if self._failure is not None:
            raise ModelError(f"the champion cannot be loaded: {self._failure!r}") from self._failure
        raise ProjectError("the classifier is not ready")

    def submit(self, photo: Photo, *, view: str) -> Future[Prediction]:
        """Queues a photo; the future holds its prediction.

        Args:
            photo: (224, 224, 3) uint8.
            view: how it was prepared; the future ends in `ViewChangedError` if the champion uses another view.
        """
        job = _Job(photo, view)
        self._jobs.put(job)
        if self._stopping.is_set():
            self._fail_waiting()
        return job.future

    def _watch(self) -> None:
        """Loads the champion, and each new one; the old one serves meanwhile."""
        while not self._stopping.is_set():
            stamp = self._loader.stamp()
            if self._classifier is None or stamp != self._stamp:
                self._load(stamp)
            self._stopping.wait(self._watch_every_s)

    def _load(self, stamp: object) -> None:
        started = time.monotonic()
        try:
            classifier = self._loader.load()
        except Exception as error:
            if self._failure is None or stamp != self._stamp:
                logger.error(
                    "champion not loaded error=%s serving=%s", error, self._classifier and self._classifier.version
                )
            self._failure = error
        else:
            changed = self._classifier is None or self._classifier.version != classifier.version
            if changed:
                self._classifier = classifier
                logger.info("serving version=%s load_ms=%d", classifier.version, (time.monotonic() - started) * 1000)
        self._stamp = stamp
        self.has_tried.set()

    def _work(self) -> None:
        while not self._stopping.is_set():
            batch = self._next_batch()
            if batch:
                self._classify(batch)
        self._fail_waiting()

    def _next_batch(self) -> list[_Job]:
        """Waits for a photo, then takes the other waiting ones too."""
        jobs: list[_Job | None] = [self._jobs.get()]
        while len(jobs) < self.batch_size:
            try:
                jobs.append(self._jobs.get_nowait())
            except queue.Empty:
                break
        return [job for job in jobs if job is not None]

    def _classify(self, batch: list[_Job]) -> None:
        try:
            classifier = self.wait_until_ready()
        except ProjectError as error:
            _fail(batch, error)
            return
        stale = [job for job in batch if job.view != classifier.view]
        _fail(stale, ViewChangedError())
        batch = [job for job in batch if job.view == classifier.view]
        try:
            for job, prediction in zip(batch, _predict(classifier, batch), strict=True):
                job.future.set_result(prediction)
        except Exception as error:
            logger.exception("a batch failed n=%d", len(batch))
            if len(batch) == 1:
                _fail(batch, error)
            else:  # one photo must not fail the others
                for job in batch:
                    self._classify([job])

    def _fail_waiting(self) -> None:
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            if job is not None:
                _fail([job], ProjectError("the bot is stopping"))


def _predict(classifier: Classifier, batch: Sequence[_Job]) -> list[Prediction]:
    if not batch:
        return []
    found = classifier.predict(np.stack([job.photo for job in batch]))
    return [prediction(classifier, scored) for scored in found]


def prediction(classifier: Classifier, scored: Scored) -> Prediction:
    """Converts a classifier's result to a `Prediction`."""
    order = np.argsort(-scored.scores, kind="stable")
    scores = tuple((str(classifier.labels[n]), float(scored.scores[n])) for n in order)
    return Prediction(
        scores=scores,
        sure=scores[0][1] >= classifier.thresholds[order[0]],
        is_known=scored.is_known,
        version=classifier.version,
        view=classifier.view,
        heatmap=scored.heatmap,
    )


def _fail(jobs: Sequence[_Job], error: Exception) -> None:
    for job in jobs:
        job.future.set_exception(error)

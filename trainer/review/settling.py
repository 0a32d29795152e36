"""Suspects one after another, as a person settles them: each decision is on the disk before the next photo shows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from trainer.photos.decisions import Decision, Decisions, Verdict
from trainer.photos.manifest import FILE_NAME, Manifest
from trainer.review.suspects import Review, Suspect


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(eq=False)
class Settling:
    """The suspects about which no person has decided yet; every method may be called from any thread.

    Attributes:
        labels: those that a photo can get.
        suspects: the most useful first.

    Raises (all methods):
        StorageError: the manifest cannot be read or written; nothing was decided.
    """

    review: Review
    source: str
    data_dir: Path
    now: Callable[[], datetime] = _now
    suspects: tuple[Suspect, ...] = field(init=False)
    _settled: set[int] = field(init=False, default_factory=set)
    _skipped: set[int] = field(init=False, default_factory=set)
    _done: list[tuple[int, bool]] = field(init=False, default_factory=list)  # index, and whether it was decided
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        sources = {each.photo.source for each in self.review.suspects}
        with Manifest(self.data_dir / FILE_NAME) as manifest:
            standing = {source: Decisions(manifest).standing(source, at=self.now()) for source in sources}
        self.suspects = tuple(
            each
            for each in self.review.suspects
            if (found := standing[each.photo.source].find(each.photo)) is None or found.by == "program"
        )

    @property
    def labels(self) -> tuple[str, ...]:
        return self.review.examined.dataset.labels

    @property
    def n_settled(self) -> int:
        """How many were decided."""
        return len(self._settled)

    @property
    def n_steps(self) -> int:
        """How many steps can be taken back."""
        return len(self._done)

    def next(self, after: int = -1) -> int | None:
        """The next suspect after this one that is neither decided nor skipped; None if there is none."""
        order = [*range(after + 1, len(self.suspects)), *range(after + 1)]
        return next((at for at in order if at not in self._settled and at not in self._skipped), None)

    def decide(self, at: int, verdict: Verdict, label: str | None = None) -> None:
        """Decide about a suspect; a second decision, as after a double tap, changes nothing.

        Raises:
            ValueError: there is no such suspect or label.
        """
        if not 0 <= at < len(self.suspects) or (label not in self.labels if verdict == "relabel" else label):
            raise ValueError(f"no such suspect or label: {at}, {label}")
        photo = self.suspects[at].photo
        reason = f"settled by hand: {self.suspects[at].reason}"
        with self._lock, Manifest(self.data_dir / FILE_NAME) as manifest:
            if at in self._settled:
                return
            decision = Decision(
                photo.source, photo.photo_id, photo.sha256, verdict, label, "person", reason, self.now()
            )
            Decisions(manifest).put([decision])
            self._settled.add(at)
            self._skipped.discard(at)
            self._done.append((at, True))

    def skip(self, at: int) -> None:
        """Leave a suspect for later."""
        with self._lock:
            if at not in self._settled | self._skipped:
                self._skipped.add(at)
                self._done.append((at, False))

    def unskip(self) -> None:
        """Take up again what was skipped."""
        with self._lock:
            self._skipped.clear()

    def undo(self, step: int) -> int | None:
        """Take back the last step, if it is the one with this number; returns its suspect, or None.

        A second call with the same number, as after a double tap, changes nothing.
        """
        with self._lock:
            if not self._done or step != len(self._done):
                return None
            at, was_decided = self._done[-1]
            if was_decided:
                with Manifest(self.data_dir / FILE_NAME) as manifest:
                    photo = self.suspects[at].photo
                    Decisions(manifest).undo(photo.source, photo.photo_id, now=self.now())
            self._done.pop()
            self._settled.discard(at)
            self._skipped.discard(at)
            return at

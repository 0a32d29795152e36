"""Decides which photos a worker gets next, and what its end means for the photos that it had. Nothing here knows Ray.

A photo that was being computed when its worker died is a suspect: it is sent again alone, once no other photos wait. If
it is there when `MAX_DEATHS` workers die, it is refused, with the reason of the last death. Photos of a lost node, and
those that a dead worker had not begun, are sent again like new ones.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trainer.vgg16.engines.engine import Refused, Todo

logger = logging.getLogger(__name__)

MAX_DEATHS = 3  # workers that one photo may cost
CPUS_PER_WORKER = 4  # more threads for one network gain little; more workers take memory

Task = tuple[Todo, ...]  # photos that are sent together


@dataclass(eq=False)
class Assignment:
    """The photos that are still to be sent, and what happened to those that came back without features."""

    todo: Sequence[Todo]
    n_sent_again: int = 0
    n_refused: int = 0
    _suspects: deque[Todo] = field(default_factory=deque)
    _deaths: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._new = deque(self.todo)

    def __bool__(self) -> bool:
        """Whether photos wait to be sent."""
        return bool(self._new or self._suspects)

    def take(self, n_photos: int, *, is_idle: bool) -> Task:
        """The next task for a worker; empty if there is none.

        Args:
            n_photos: at most; a suspect comes alone.
            is_idle: the worker has no other task. Only then it may get a suspect, so that it is clear which photo was
                there when it dies.
        """
        if self._new:
            return tuple(self._new.popleft() for _ in range(min(n_photos, len(self._new))))
        return (self._suspects.popleft(),) if self._suspects and is_idle else ()

    def send_again(self, task: Task) -> None:
        """Put back photos that are not to blame."""
        self.n_sent_again += len(task)
        suspects = [photo for photo in task if self._deaths[photo.sha256]]
        self._suspects.extend(suspects)
        self._new.extendleft(photo for photo in reversed(task) if photo not in suspects)

    def blame(self, task: Task, reason: str) -> tuple[Refused, ...]:
        """Put back the photos that were being computed when a worker died; returns those that are refused now."""
        refused = []
        for photo in task:
            self._deaths[photo.sha256] += 1
            if self._deaths[photo.sha256] < MAX_DEATHS:
                self._suspects.append(photo)
                self.n_sent_again += 1
            else:
                said = f"{MAX_DEATHS} workers died while they computed it; the last: {reason}"
                refused.append(Refused(photo.sha256, photo.path, said))
        self.n_refused += len(refused)
        return tuple(refused)


@dataclass(frozen=True, slots=True)
class Place:
    """Room for one worker on a node: a GPU with some CPUs for decoding, or CPUs alone."""

    node_id: str
    number: int
    n_cpus: int
    n_gpus: int = 0


def places(resources: Mapping[str, Mapping[str, float]], *, on_gpu: bool) -> tuple[Place, ...]:
    """The workers that a cluster has room for.

    Args:
        resources: node id -> the node's "CPU" and "GPU".
        on_gpu: a worker for each GPU, and none elsewhere, as other processors compute other last bits; otherwise one
            for every `CPUS_PER_WORKER` CPUs, and the node's CPUs are shared out among them.
    """
    found = []
    for node_id, has in sorted(resources.items()):
        n_cpus, n_gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
        n_workers = min(n_gpus, n_cpus) if on_gpu else -(-n_cpus // CPUS_PER_WORKER)
        for number in range(n_workers):
            share = n_cpus // n_workers + (number < n_cpus % n_workers)
            found.append(Place(node_id, number, share, int(on_gpu)))
    return tuple(found)

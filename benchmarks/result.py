"""Defines the result of a benchmark: figures, goals, and facts about the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from trainer.training.train import LIBRARIES, library_versions
from trainer.vgg16.precision import processor

Figure = float | int | str | bool | None


@dataclass(frozen=True, slots=True)
class Goal:
    """The bounds of a figure; at least one of the two is set."""

    figure: str
    at_least: float | None = None
    at_most: float | None = None

    def is_met(self, value: Figure) -> bool:
        """Whether a figure is within the bounds; False if it could not be measured."""
        if not isinstance(value, int | float) or value != value:
            return False
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        bounds = [("at least", self.at_least), ("at most", self.at_most)]
        return " and ".join(f"{words} {bound:g}" for words, bound in bounds if bound is not None)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one run.

    Attributes:
        figures: by name, with the unit in the name (`images_per_s`, `peak_mb`); floats are printed with three digits.
        goals: by name of a figure. A goal that does not apply to this machine is omitted, and a figure says why.
    """

    figures: Mapping[str, Figure]
    goals: tuple[Goal, ...] = ()

    @property
    def met(self) -> bool:
        """Whether every goal is met."""
        return all(goal.is_met(self.figures.get(goal.figure)) for goal in self.goals)

    def as_json(self, name: str) -> dict[str, Any]:
        """The last line of a benchmark's output; the figures include the facts about the machine."""
        goals = {
            goal.figure: {
                "wanted": str(goal),
                "got": self.figures.get(goal.figure),
                "met": goal.is_met(self.figures.get(goal.figure)),
            }
            for goal in self.goals
        }
        return {"name": name, "figures": {**self.figures, "machine": machine()}, "goals": goals, "met": self.met}


def machine() -> dict[str, Figure]:
    """Processor, cores, memory and library versions, needed to interpret the figures."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_1min": round(psutil.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        **library_versions((*LIBRARIES, "mastodon-py")),
    }

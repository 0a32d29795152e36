"""What a review says, in each language of `texts.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ENGLISH = "en"


@cache
def texts() -> dict[str, dict[str, Any]]:
    """Language -> the texts of the page; "said" holds those of `Words`."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("texts.yaml").read_text("utf-8"))
    return found


@dataclass(frozen=True, slots=True)
class Words:
    """A sentence that can be said in each language; `str` says it in English.

    Attributes:
        name: of the text, under "said".
        values: what is filled in; words among them are said in the same language.
    """

    name: str
    values: Mapping[str, object] = field(default_factory=dict)

    def say(self, language: str = ENGLISH) -> str:
        """The sentence in a language."""
        values = {
            name: value.say(language) if isinstance(value, Words) else value for name, value in self.values.items()
        }
        return str(texts()[language]["said"][self.name]).format(**values)

    def __str__(self) -> str:
        return self.say()

"""Loads and checks the bot's texts (texts.yaml), and chooses their language.

Format strings come only from the file, never from users; the values filled in are plain text.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainer.errors import ConfigError

DEFAULT_PATH = Path(__file__).with_name("texts.yaml")
FALLBACK = "en"
REQUESTS = ("stop", "start", "delete", "agree", "right", "wrong", "learn")
WORDS = (*REQUESTS, "named")  # "named" has the name of a gallery in each of its texts
# Texts and words that came later: a language of an admin's own file that lacks them has ours, or the English ones.
ADDED = ("unknown", "picture_unknown", "thanks", "picture_figure", "contributed", "not_contributed")
ADDED_WORDS = ("right", "wrong", "learn", "named")
PLACEHOLDERS: dict[str, frozenset[str]] = {
    "sure": frozenset({"gallery"}),
    "unsure": frozenset({"gallery"}),
    "unknown": frozenset(),
    "numbered": frozenset({"number", "sentence"}),
    "bar": frozenset({"gallery", "bar", "percent"}),
    "version": frozenset({"version"}),
    "help": frozenset(),
    "limit": frozenset(),
    "consent": frozenset(),
    "opted_out": frozenset(),
    "opted_in": frozenset(),
    "sensitive": frozenset(),
    "thanks": frozenset(),
    "contributed": frozenset(),
    "not_contributed": frozenset(),
    "unseen_gone": frozenset(),
    "unseen_unreadable": frozenset(),
    "unseen_too_large": frozenset(),
    "unseen_too_small": frozenset(),
    "unseen_no_preview": frozenset(),
    "picture": frozenset({"scores"}),
    "picture_figure": frozenset({"scores"}),
    "picture_unknown": frozenset(),
    "cold": frozenset(),
    "hot": frozenset(),
    "score": frozenset({"gallery", "percent"}),
    "separator": frozenset(),
}
_EMOJI_CODE = re.compile(r":[a-z0-9_+-]+(@[a-z0-9.-]*)?:")  # a custom emoji
_KANA = re.compile(r"[぀-ヿㇰ-ㇿｦ-ﾟ]")
_KANJI = re.compile(r"[一-鿿㐀-䶿]")


@dataclass(frozen=True, slots=True)
class Texts:
    """All texts in all languages."""

    templates: Mapping[str, Mapping[str, str]]  # language -> name -> template
    requests: Mapping[str, str]  # a normalized text -> one of REQUESTS
    named: tuple[str, ...]  # templates of texts that name a gallery

    def say(self, language: str, name: str, **values: object) -> str:
        """One text with its values filled in."""
        return self.templates[language][name].format(**values)

    def request(self, text: str) -> str | None:
        """Which of REQUESTS a status' text is, in any language; None if it is none of them."""
        return self.requests.get(normalized(text))

    def named_in(self, text: str, names: Iterable[str]) -> str | None:
        """Which of these names a status' text gives for a gallery, in any language; None if it is no such text."""
        said = normalized(text)
        return next(
            (name for name in names if said in (normalized(each.format(gallery=name)) for each in self.named)), None
        )

    def language(self, code: str | None, text: str) -> str:
        """The language to answer in: the status' own, else guessed from its letters, else English."""
        if code:
            whole = code.lower().replace("_", "-")
            return next((each for each in (whole, _base(whole)) if each in self.templates), FALLBACK)
        japanese = "ja" in self.templates and (_KANA.search(text) or _KANJI.search(text))
        return "ja" if japanese else FALLBACK


def load_texts(path: Path | None = None) -> Texts:
    """Loads the bot's texts; a file at `path` may replace any of them.

    Raises:
        ConfigError: the file cannot be read, or a language lacks a text or a placeholder; names every fault.
    """
    ours = _read(DEFAULT_PATH)
    blocks = ours
    if path is not None:
        added = {name: ours[FALLBACK][name] for name in ADDED}
        blocks = {language: {**added, **block} for language, block in _merged(ours, _read(path)).items()}
    # pt-br lacks what pt has; only a language of which nothing is here must be complete.
    blocks = {language: {**blocks.get(_base(language), {}), **block} for language, block in blocks.items()}
    blocks = {
        language: _with_added_words(block, ours.get(_base(language), ours[FALLBACK]))
        for language, block in blocks.items()
    }
    faults = [fault for language, block in blocks.items() for fault in _faults(language, block)]
    if faults:
        raise ConfigError("\n".join(f"{path or DEFAULT_PATH}: {fault}" for fault in faults))
    templates = {language: {name: block[name] for name in PLACEHOLDERS} for language, block in blocks.items()}
    requests = {
        normalized(word): request
        for block in blocks.values()
        for request, words in block["words"].items()
        for word in words
        if request in REQUESTS
    }
    named = tuple(dict.fromkeys(each for block in blocks.values() for each in block["words"]["named"]))
    return Texts(templates, requests, named)


def _read(file: Path) -> dict[Any, Any]:
    """Reads a file's blocks, one for each language. Raises ConfigError."""
    try:
        blocks = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(blocks, dict) or not all(isinstance(block, dict) and block for block in blocks.values()):
        raise ConfigError(f"{file}: must contain a block of `name: text` lines for each language, e.g. {FALLBACK}")
    for language in blocks:
        if not isinstance(language, str):
            raise ConfigError(f"{file}: the language {language} is no text; in YAML `no` means false: write `'no':`")
    return {language.lower().replace("_", "-"): block for language, block in blocks.items()}


def _base(language: str) -> str:
    """The language without a region or script: pt for pt-br."""
    return language.split("-")[0]


def _merged(below: Mapping[Any, Any], above: Mapping[Any, Any]) -> dict[Any, Any]:
    """Merges two files' blocks; texts of `above` replace those of `below`."""
    return {language: {**below.get(language, {}), **above.get(language, {})} for language in {**below, **above}}


def _with_added_words(block: dict[Any, Any], ours: Mapping[Any, Any]) -> dict[Any, Any]:
    """A language's block, with those words of our block that came later if its own lack them."""
    words = block.get("words")
    if not isinstance(words, dict):
        return block
    return {**block, "words": {**{name: ours["words"][name] for name in ADDED_WORDS}, **words}}


def _faults(language: object, block: Mapping[Any, Any]) -> list[str]:
    """What is wrong with one language's block, one line each."""
    faults = [f"{language}.{name}: no such text" for name in block if name not in PLACEHOLDERS and name != "words"]
    for name, expected in PLACEHOLDERS.items():
        found = _placeholders(block.get(name))
        if found is None:
            faults.append(f"{language}.{name}: missing, or not a text with {{placeholders}}")
        elif found != expected:
            faults.append(f"{language}.{name}: placeholders are {sorted(found)}, must be {sorted(expected)}")
    words = block.get("words")
    lists: dict[Any, Any] = words if isinstance(words, dict) and set(words) == set(WORDS) else {"named": None}
    if not all(
        isinstance(each, list) and each and all(isinstance(word, str) for word in each) for each in lists.values()
    ):
        faults.append(
            f"{language}.words: must contain a list of texts (quote yes and no) for each of {', '.join(WORDS)}"
        )
    elif any(_placeholders(each) != {"gallery"} for each in lists["named"]):
        faults.append(f"{language}.words.named: each text must have the placeholder {{gallery}} and no other")
    return faults


def _placeholders(template: object) -> set[str] | None:
    """The plain names in braces; None if it is no template, or one with format specs or attribute access."""
    if not isinstance(template, str):
        return None
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError:
        return None
    names = {name for _, name, _, _ in parts if name is not None}
    plain = all(name.isidentifier() for name in names) and not any(
        spec or conversion for _, _, spec, conversion in parts
    )
    return names if plain else None


def normalized(text: str) -> str:
    """Normalizes a text for comparison: width, case, white space; no custom emoji, no signs at its ends."""
    folded = _EMOJI_CODE.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    start = next((n for n, letter in enumerate(folded) if letter.isalnum()), len(folded))
    end = next((n for n in range(len(folded), start, -1) if folded[n - 1].isalnum()), start)
    return " ".join(folded[start:end].split())

"""Writes the reply to findings: text, visibility and content warning; pure.

A reply mentions only the asker and is no wider than the mention and the photo. If it is too long for the instance, the
bars become one line, then scores and version are left out, then the end is cut. The shorter forms go with the reply, in
case the instance counts in another way.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bot.config import LabelText
from bot.entities import VISIBILITIES, Finding, Prediction, Reply, Status, Unseen, Visibility
from bot.reply.length import cut, length
from bot.reply.texts import Texts
from trainer.quoting import visible

BAR_LENGTH = 10
MAX_BARS = 4
MAX_LABEL_LENGTH = 40
# Characters in others' texts that would mention, tag or link. A full-width number sign tags too.
_HARMLESS = {"@": "＠", "#": "♯", "＃": "♯", "://": "：//"}
_UNSEEN = {
    "gone": "unseen_gone",
    "no_preview": "unseen_no_preview",
    "too_large": "unseen_too_large",
    "too_many_pixels": "unseen_too_large",
    "animated_too_long": "unseen_too_large",
    "too_heavy": "unseen_too_large",
    "too_slow": "unseen_too_large",
    "too_small": "unseen_too_small",
}


_Scores = Callable[[Prediction, str], list[str]]  # a prediction's scores in a language, as lines


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes replies.

    Attributes:
        widest: the widest visibility a reply may have.
        max_characters, characters_per_url: the instance's.
        counts_strictly: the instance is not Mastodon and may count more; see `bot.reply.length`.
    """

    texts: Texts
    labels: Mapping[str, LabelText]
    widest: Visibility
    max_characters: int = 500
    characters_per_url: int = 23
    counts_strictly: bool = False

    def answer(self, findings: Sequence[Finding], *, to: Status, shown: Status | None = None) -> Reply:
        """The reply to a mention with photos.

        Args:
            findings: one for each photo, in the order shown; at least one.
            to: the mention's status.
            shown: the status with the photos, if it is another.
        """
        language = self.language(to)
        version = self._version(findings, language)
        variants = [
            [*self._lines(findings, language, scores=self._bars), *version],
            [*self._lines(findings, language, scores=self._one_line), *version],
            self._lines(findings, language, scores=lambda *_: []),
        ]
        return self._fit(["\n".join(lines) for lines in variants], to=to, shown=shown or to)

    def notice(self, name: str, *, to: Status) -> Reply:
        """A reply with one text of texts.yaml, e.g. "help" or "limit"."""
        return self._fit([self.texts.say(self.language(to), name)], to=to, shown=to)

    def plain(self, text: str, *, to: Status) -> Reply:
        """A reply with a given text, which fits into `room`."""
        return self._fit([text], to=to, shown=to)

    def room(self, to: Status) -> int:
        """How many characters, counted strictly, the text of a reply may have, without the mention."""
        return self._room(self._warning(to, to), self._head(to), strictly=True)

    def describe(self, prediction: Prediction, *, language: str) -> str:
        """The alt text of a prediction's picture."""
        if not prediction.is_known:
            return self.texts.say(language, "picture_unknown")
        (scores,) = self._one_line(prediction, language)
        name = "picture" if prediction.crop is None else "picture_figure"
        return self.texts.say(language, name, scores=scores)

    def gallery(self, label: str, language: str) -> str:
        """A label as it is displayed: flag and name."""
        flag = self.labels.get(label, LabelText()).flag
        return cut(harmless(f"{flag} {self.name(label, language)}"), MAX_LABEL_LENGTH)

    def name(self, label: str, language: str) -> str:
        """A label's name in a language; the label itself if the configuration has none."""
        words = self.labels.get(label, LabelText())
        return {"en": words.en, "ja": words.ja}.get(language) or words.en or label

    def _lines(self, findings: Sequence[Finding], language: str, *, scores: _Scores) -> list[str]:
        lines = []
        for number, finding in enumerate(findings, start=1):
            sentence = self.sentence(finding, language)
            if len(findings) > 1:
                sentence = self.texts.say(language, "numbered", number=number, sentence=sentence)
            lines.append(sentence)
            if isinstance(finding, Prediction) and finding.is_known:
                lines += scores(finding, language)
        return lines

    def sentence(self, finding: Finding, language: str) -> str:
        """The sentence about one photo."""
        if isinstance(finding, Unseen):
            return self.texts.say(language, _UNSEEN.get(finding.reason, "unseen_unreadable"))
        if not finding.is_known:
            return self.texts.say(language, "unknown")
        name = "sure" if finding.sure else "unsure"
        return self.texts.say(language, name, gallery=self.gallery(finding.label, language))

    def _bars(self, prediction: Prediction, language: str) -> list[str]:
        """The highest scores as bars, a line each."""
        lines = []
        for label, score in prediction.scores[:MAX_BARS]:
            n_full = round(score * BAR_LENGTH)
            values = {"gallery": self.gallery(label, language), "percent": percent(score)}
            lines.append(self.texts.say(language, "bar", bar="█" * n_full + "░" * (BAR_LENGTH - n_full), **values))
        return lines

    def _one_line(self, prediction: Prediction, language: str) -> list[str]:
        """The highest scores, in one line."""
        scores = [
            self.texts.say(language, "score", gallery=self.gallery(label, language), percent=percent(score))
            for label, score in prediction.scores[:MAX_BARS]
        ]
        return [self.texts.say(language, "separator").join(scores)]

    def _version(self, findings: Sequence[Finding], language: str) -> list[str]:
        """The line with the version; no line without a prediction."""
        versions = sorted({finding.version for finding in findings if isinstance(finding, Prediction)})
        names = harmless(self.texts.say(language, "separator").join(versions))
        return [self.texts.say(language, "version", version=names)] if versions else []

    def _fit(self, variants: Sequence[str], *, to: Status, shown: Status) -> Reply:
        """A reply with the first variant that fits with the mention and the content warning, else the last one cut."""
        warning, head = self._warning(to, shown), self._head(to)

        def fitting(*, strictly: bool) -> list[str]:
            room = self._room(warning, head, strictly=strictly)
            found = [each for each in variants if self._length(each, strictly=strictly) <= room]
            return found or [cut(variants[-1], room, strictly=strictly)]

        text, *shorter = dict.fromkeys(fitting(strictly=self.counts_strictly) + fitting(strictly=True))
        return Reply(
            text=head + text,
            visibility=_visibility(narrower(narrower(to.visibility, shown.visibility), self.widest)),
            spoiler_text=warning,
            sensitive=to.sensitive or shown.sensitive,
            language=self.language(to),
            shorter=tuple(head + each for each in shorter),
        )

    def _room(self, warning: str, head: str, *, strictly: bool) -> int:
        """How many characters are left beside the content warning and the mention."""
        return self.max_characters - sum(self._length(each, strictly=strictly) for each in (warning, head))

    def _length(self, text: str, *, strictly: bool) -> int:
        return length(text, characters_per_url=self.characters_per_url, strictly=strictly)

    def _warning(self, to: Status, shown: Status) -> str:
        return cut(harmless(to.spoiler_text or shown.spoiler_text), self.max_characters // 2, strictly=True)

    def _head(self, to: Status) -> str:
        return f"@{to.account.acct} "

    def language(self, status: Status) -> str:
        """The language to answer a status in."""
        return self.texts.language(status.language, status.text)


def _visibility(narrowest: Visibility) -> Visibility:
    """A reply's visibility: `private` would show it to the bot's own followers, whatever the question's author has."""
    return "direct" if narrowest == "private" else narrowest


def narrower(one: Visibility, other: Visibility) -> Visibility:
    """The narrower of two visibilities."""
    return max(one, other, key=VISIBILITIES.index)


def percent(score: float) -> str:
    """A score of 0..1 in whole percent; <1 and >99 instead of a rounded 0 or 100."""
    if 0 < score < 0.01:
        return "<1"
    if 0.99 < score < 1:
        return ">99"
    return str(round(score * 100))


def harmless(words: str) -> str:
    """Makes others' text one line that cannot mention, tag, link or turn the direction of what follows."""
    shown = "".join(" " if unicodedata.category(letter) in ("Cc", "Zl", "Zp") else letter for letter in visible(words))
    for mark, look_alike in _HARMLESS.items():
        shown = shown.replace(mark, look_alike)
    return " ".join(shown.split())

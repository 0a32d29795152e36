"""Texts of the reports to admins (trainings, scrapes, the week) and of announcements; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bot.admin.confusion_matrix import describe_matrix, draw_matrix

Metrics = Mapping[str, Any]  # of a version, as metrics.json holds them


@dataclass(frozen=True, slots=True)
class Message:
    """A message, perhaps with a picture (a JPEG and its alt text); `link`: an address on the bot's own instance."""

    text: str
    picture: bytes | None = None
    alt_text: str = ""
    link: str = ""


def training_message(
    name: str, n_photos: int, metrics: Metrics, before: tuple[str, Metrics] | None, *, more: str = ""
) -> Message:
    """The report of a training: verdict and reasons, per-class figures of both versions, and the confusion matrix.

    Args:
        name: the trained version's.
        metrics: the trained version's.
        before: name and metrics of the version it was compared with.
        more: a last line.
    """
    verdict, report = metrics["verdict"], metrics["report"]
    end = "is the champion now" if verdict["promoted"] else "is kept, but does not serve"
    lines = [f"Training done: {name}, from {n_photos:,} photos, {end}.", f"Why: {'; '.join(verdict['reasons'])}."]
    lines += figures(report, before=before[1]["report"] if before else None)
    if before:
        lines.append(f"(In brackets: the champion so far, {before[0]}, on its own holdout.)")
    if metrics.get("rarest"):
        lines.append(metrics["rarest"])
    if more:
        lines.append(more)
    labels = [each["label"] for each in report["classes"]]
    title = f"{name} on {report['n_photos']:,} held-out photos"
    matrix = report["confusion"]
    return Message(
        "\n".join(lines), draw_matrix(labels, matrix, title=title), describe_matrix(labels, matrix, title=title)
    )


def announcement(name: str, n_photos: int, report: Metrics) -> Message:
    """The public post about a new champion."""
    right = report["balanced_accuracy"]["value"] or 0.0
    return Message(
        f"I have learned from {n_photos:,} photos, and answer as version {name} from now on. Shown 100 photos of each "
        f"gallery that I had never seen, I name the right gallery for about {100 * right:.0f}; guessing blindly, it "
        f"would be {100 / len(report['classes']):.0f}."
    )


def figures(report: Metrics, *, before: Metrics | None = None) -> list[str]:
    """A version's figures, a line for each class, then one for all; those of `before` in brackets."""
    earlier = {each["label"]: each for each in before["classes"]} if before else {}
    lines = [
        f"{each['label']}: recall {_share(each['recall'], earlier, each['label'], 'recall')}, "
        f"precision {_share(each['precision'], earlier, each['label'], 'precision')}"
        for each in report["classes"]
    ]
    balanced = _figure(report["balanced_accuracy"])
    was = f" ({_figure(before['balanced_accuracy'])})" if before else ""
    return [*lines, f"Balanced accuracy {balanced}{was}, sure enough to answer in {report['coverage']:.0%}."]


def scrape_message(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """A scrape's result in one line."""
    new = {label: n - before.get(label, 0) for label, n in after.items()}
    kept = ", ".join(f"{label} {n:+,}" for label, n in new.items() if n) or "nothing new"
    return f"{kept}; {sum(after.values()):,} photos held"


def week_message(
    counts: Sequence[tuple[str, int]],
    *,
    champion: str,
    figures: Sequence[str],
    opinions: Sequence[str],
    jobs: Sequence[str],
) -> str:
    """The weekly report: mentions by outcome, the champion, what people say about answers, the jobs' last outcomes."""
    ended = ", ".join(f"{n:,} {state}" for state, n in counts) or "no mentions"
    return "\n".join([f"The last seven days: {ended}.", f"Champion: {champion}.", *figures, *opinions, *jobs])


def _share(figure: Metrics, earlier: Mapping[str, Any], label: str, name: str) -> str:
    was = f" ({_figure(earlier[label][name])})" if label in earlier else ""
    return f"{_figure(figure)}{was}"


def _figure(figure: Metrics) -> str:
    return "-" if figure["value"] is None else f"{figure['value']:.2f}"

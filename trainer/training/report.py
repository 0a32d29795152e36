"""Renders a version's report as one HTML file without external resources, for small and wide screens, dark and light.

Charts use `currentColor`, so that they follow the colours of the page.
"""

from __future__ import annotations

import base64
import io
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from PIL import Image

from trainer.errors import ImageError
from trainer.evaluation.evaluate import Figure
from trainer.evaluation.promotion import Verdict
from trainer.head.calibration import coverage_curve, reliability
from trainer.head.fine_tuning import Tuning
from trainer.head.head import Floats, Indexes
from trainer.photos.dataset import SPLITS, Item
from trainer.photos.decode import Decoder
from trainer.registry.registry import Version, VersionFacts
from trainer.training.advice import Advice
from trainer.training.charts import Chart, line_chart
from trainer.training.figures import Cropped
from trainer.training.fitting import Trained
from trainer.training.training_data import TrainingData, class_indexes

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATE = Path(__file__).with_name("report.html.j2")
N_EXAMPLES = 6  # of each kind, for each label
THUMBNAIL_PX = 180
TAKEN_DOWN = "taken down since"  # in a picture's place
LEFT_BEHIND = "not exported"  # the same
_PICTURE = re.compile(r'<figure(?: data-photo="(?P<sha256>\w+)")?><img src="data:image/jpeg')
WORD_JOINER = "\N{WORD JOINER}"  # prevents a line break in a narrow table


@dataclass(frozen=True, slots=True)
class Example:
    """A holdout photo and its predicted label."""

    sha256: str  # of the photo; `without` finds it by this
    picture: str  # a data URI
    answer: str
    score: float


@dataclass(frozen=True, slots=True)
class Examples:
    """Photos of a label: right and wrong answers with the highest scores."""

    label: str
    right: tuple[Example, ...]
    wrong: tuple[Example, ...]


def render(
    name: str,
    facts: VersionFacts,
    training_data: TrainingData,
    trained: Trained,
    verdict: Verdict,
    champion: Version | None,
    *,
    decoder: Decoder,
    advice: Advice | None = None,
    cropped: Cropped | None = None,
    read: Callable[[Path], bytes] = Path.read_bytes,
) -> str:
    """Render the report of a version as an HTML page.

    Args:
        name: of the version.
        champion: the version it was compared with; None if there was none.
        decoder: for the thumbnails; photos that can no longer be read are skipped.
        advice: what would help most; None if that was not asked.
        cropped: how many photos were cropped to the figure; None if none was to be.
        read: a photo's bytes, as `trainer.photos.photo_files.PhotoFiles.read`.
    """
    dataset = training_data.dataset
    holdout = dataset.split("holdout")
    scores, indexes = trained.holdout_scores, class_indexes(holdout)
    counts = Counter((item.label, item.split) for item in dataset.items)
    return _template().render(
        name=name,
        facts=facts,
        report=trained.report,
        verdict=verdict,
        champion=champion,
        champion_figures=_figures_of(champion),
        threshold=trained.threshold,
        thresholds=trained.thresholds,
        doubt=trained.head.doubt,
        refused=trained.holdout_refused,
        rarest=trained.rarest.describe() if trained.rarest else "",
        splits=SPLITS,
        counts={label: [counts[label, split] for split in SPLITS] for label in dataset.labels},
        members={label: len({item.group for item in dataset.items if item.label == label}) for label in dataset.labels},
        cropped=cropped,
        excluded=sorted(Counter(reason for _, reason in dataset.excluded).items()),
        relabelled=sorted(Counter(split for _, split in dataset.relabelled).items()),
        n_contributed=len(dataset.contributed),
        advice=advice,
        learning=_learning_charts(trained),
        tuning=trained.tuning,
        tuning_chart=_tuning_chart(trained.tuning) if trained.tuning else "",
        calibration=_calibration_chart(scores, indexes),
        coverage=_coverage_chart(scores, indexes, trained.report.coverage),
        examples=[
            _examples(label, index, holdout, scores, dataset.labels, decoder, read)
            for index, label in enumerate(dataset.labels)
        ],
        config=yaml.safe_dump(facts.settings, allow_unicode=True, sort_keys=False),
    )


def without(sha256s: Collection[str], page: str) -> str:
    """A report without the pictures of some photos; all else stays as it is.

    In reports from before the pictures were marked with their photo's SHA-256, nobody can tell which one shows it, so
    all pictures go.
    """

    def is_unwanted(line: str) -> bool:
        marked = _PICTURE.match(line)
        return marked is not None and (marked["sha256"] is None or marked["sha256"] in sha256s)

    return _replace_pictures(page, is_unwanted, TAKEN_DOWN)


def without_pictures(page: str) -> str:
    """A report without pictures of photos and their hashes, for another machine; all else stays as it is."""
    return _replace_pictures(page, lambda line: _PICTURE.match(line) is not None, LEFT_BEHIND)


def _replace_pictures(page: str, is_unwanted: Callable[[str], bool], words: str) -> str:
    figure = f"<figure><figcaption>{words}</figcaption></figure>\n"
    return "".join(figure if is_unwanted(line) else line for line in page.splitlines(keepends=True))


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        "percent": _percent,
        "figure": _figure,
        "interval": _interval,
        "points_above": _points_above,
    }
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f}%"


def _figure(figure: Figure) -> str:
    """A metric with its interval, e.g. "71% (64–78)"."""
    if figure.value is None or figure.low is None or figure.high is None:
        return "–"
    return f"{100 * figure.value:.0f}% ({_interval(figure)})"


def _interval(figure: Figure) -> str:
    """An interval in percent, e.g. "64–78", without line breaks."""
    if figure.low is None or figure.high is None:
        return "–"
    return f"{100 * figure.low:.0f}{WORD_JOINER}–{WORD_JOINER}{100 * figure.high:.0f}"


def _points_above(share: float | None, other: float | None) -> str:
    """The difference of two rounded percentages, e.g. "12 points above"."""
    if share is None or other is None:
        return "compared with"
    points = round(100 * share) - round(100 * other)
    return f"{abs(points)} point{'s' if abs(points) != 1 else ''} {'above' if points >= 0 else 'below'}"


def _figures_of(champion: Version | None) -> dict[str, Figure]:
    """The metrics in the champion's own report, by name; empty if it has none."""
    found: dict[str, Any] = champion.metrics.get("report", {}) if champion else {}
    return {name: Figure(**found[name]) for name in ("balanced_accuracy", "macro_f1") if name in found}


def _learning_charts(trained: Trained) -> list[str]:
    """Chart of the linear head's loss by penalty; with a hidden layer, also of its loss by epoch."""
    linear, history = trained.fitted.linear, trained.fitted.history
    powers = [float(np.log10(point.value)) for point in linear.path]
    deciders = "left-out folds" if linear.cross_validated else "validation, after calibration"
    charts = [
        Chart(
            title="loss by strength of the linear head's penalty",
            x_label="log10 of the strength",
            y_label="loss, nats",
            lines={
                "training photos": (powers, [point.train_loss for point in linear.path]),
                deciders: (powers, [point.loss for point in linear.path]),
            },
            mark_x=powers[linear.chosen],
        )
    ]
    if history:
        epochs = list(range(1, len(history) + 1))
        charts.append(
            Chart(
                title=f"loss by epoch with a hidden layer; the best is epoch {trained.fitted.best_epoch + 1}",
                x_label="epoch",
                y_label="loss, nats",
                lines={
                    "training photos": (epochs, [epoch.train_loss for epoch in history]),
                    "validation": (epochs, [epoch.validation_loss for epoch in history]),
                },
                mark_x=trained.fitted.best_epoch + 1,
            )
        )
    return [line_chart(chart) for chart in charts]


def _tuning_chart(tuning: Tuning) -> str:
    epochs = list(range(1, len(tuning.history) + 1))
    return line_chart(
        Chart(
            title="validation loss by epoch of fine-tuning; 0 is the head alone",
            x_label="epoch",
            y_label="loss, nats",
            lines={"validation": ([0, *epochs], [tuning.before[0], *(one.validation_loss for one in tuning.history)])},
            mark_x=0 if tuning.best_epoch is None else tuning.best_epoch + 1,
        )
    )


def _calibration_chart(scores: Floats, indexes: Indexes) -> str:
    bins = reliability(scores, indexes)
    return line_chart(
        Chart(
            title="accuracy of answers by score",
            x_label="score",
            y_label="share of right answers",
            lines={"holdout": ([part.mean_score for part in bins], [part.accuracy for part in bins])},
            reference=("perfect", [0, 1], [0, 1]),
            sizes={"holdout": [part.n_photos for part in bins]},
            x_range=(0, 1),
            y_range=(0, 1),
        )
    )


def _coverage_chart(scores: Floats, indexes: Indexes, answered: float) -> str:
    _, precision, coverage = coverage_curve(scores, indexes)
    return line_chart(
        Chart(
            title="accuracy when only answers with high scores are given",
            x_label="share of photos with an answer",
            y_label="share of right answers",
            lines={"holdout": (coverage.tolist(), precision.tolist())},
            mark_x=answered,
            x_range=(0, 1),
            y_range=(0, 1.02),
        )
    )


def _examples(
    label: str,
    index: int,
    items: Sequence[Item],
    scores: Floats,
    labels: Sequence[str],
    decoder: Decoder,
    read: Callable[[Path], bytes],
) -> Examples:
    answers, best = scores.argmax(axis=1), scores.max(axis=1)
    of_label = [at for at in np.argsort(-best, kind="stable").tolist() if items[at].class_index == index]

    def shown(places: list[int]) -> tuple[Example, ...]:
        found: list[Example] = []
        for at in places:
            picture = _data_uri(items[at].path, decoder, read)
            if picture is not None:
                found.append(Example(items[at].sha256, picture, labels[answers[at]], float(best[at])))
            if len(found) == N_EXAMPLES:
                break
        return tuple(found)

    return Examples(
        label,
        right=shown([at for at in of_label if answers[at] == index]),
        wrong=shown([at for at in of_label if answers[at] != index]),
    )


def _data_uri(path: Path, decoder: Decoder, read: Callable[[Path], bytes]) -> str | None:
    try:
        pixels = decoder.thumbnail(read(path), max_width=THUMBNAIL_PX, max_height=THUMBNAIL_PX)
    except (OSError, ImageError):
        return None
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=70)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"

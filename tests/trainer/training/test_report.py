"""The report is one file that a browser can show without a network, with any label names."""

import re
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.trainer.collection import Silent, gather, paint_photos, settings_for
from trainer.config import Settings
from trainer.photos.decode import Decoder
from trainer.registry.registry import REPORT
from trainer.training.charts import Chart, line_chart
from trainer.training.report import N_EXAMPLES, _points_above, render
from trainer.training.train import Outcome, train

EVIL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Settings, Outcome]:
    """Two versions; the name of one label is markup."""
    folder = tmp_path_factory.mktemp("photos")
    paint_photos(folder, labels=("brazil", EVIL.replace("/", "∕"), "日本"))
    settings = settings_for(folder, tmp_path_factory.mktemp("data"))
    gather(settings)
    train(settings, Silent(), now=lambda: datetime(2026, 11, 23, tzinfo=UTC))
    return settings, train(settings, Silent(), now=lambda: datetime(2026, 11, 24, tzinfo=UTC))


@pytest.fixture(scope="module")
def page(trained: tuple[Settings, Outcome]) -> str:
    return (trained[1].version.folder / REPORT).read_text(encoding="utf-8")


class Parser(HTMLParser):
    """Collects tags, their attributes, and unclosed tags."""

    VOID = frozenset({"meta", "img", "br", "use", "path", "rect"})

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_the_page_is_valid_and_needs_no_network(page: str) -> None:
    parser = Parser()
    parser.feed(page)
    assert parser.open == []
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in parser.links)
    assert "url(http" not in page
    assert not {"script", "link", "iframe"} & set(parser.tags)


def test_a_label_that_is_markup_is_shown_as_text(page: str) -> None:
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "日本" in page


def test_the_report_has_all_sections(page: str, trained: tuple[Settings, Outcome]) -> None:
    _, outcome = trained
    for words in (
        f"Version {outcome.version.name}",
        "Saved, but not promoted",
        "Not clearly better",
        "Compared with 2026-11-23-1",
        "balanced accuracy",
        "macro F1",
        "Confusion matrix",
        "majority class",
        "colour histogram",
        "Calibration of the scores",
        "Right, with the highest scores",
        "right if sure",
        "What would help most",
        "More photos",
        "training photos",
        "prefers-color-scheme: dark",
        "width=device-width",
        "VGG16 has random weights",
        "min_photos_per_label: 10",
        outcome.version.facts.fingerprint[:16],
    ):
        assert words in page, words
    assert len(re.findall('<svg role="img" aria-label="', page)) == 4
    assert re.search(r'aria-label="balanced accuracy on validation by photos learned from: \d+% from \d+, ', page)
    assert 1 <= page.count("data:image/jpeg") <= 3 * 2 * N_EXAMPLES


def test_a_deleted_photo_is_omitted_from_the_examples(trained: tuple[Settings, Outcome], tmp_path: Path) -> None:
    settings, outcome = trained
    for item in outcome.training_data.dataset.split("holdout"):
        item.path.rename(tmp_path / item.sha256)
    try:
        with Decoder(settings.images) as decoder:
            page = render(
                "1",
                outcome.version.facts,
                outcome.training_data,
                outcome.trained,
                outcome.verdict,
                None,
                decoder=decoder,
            )
    finally:
        for item in outcome.training_data.dataset.split("holdout"):
            (tmp_path / item.sha256).rename(item.path)
    assert "data:image/jpeg" not in page
    assert "Version 1" in page


@pytest.mark.parametrize(
    ("share", "other", "words"),
    [
        (0.96, 0.834, "13 points above"),
        (0.5, 0.51, "1 point below"),
        (0.7, 0.7, "0 points above"),
        (None, 0.5, "compared with"),
    ],
)
def test_a_difference_is_that_of_the_rounded_percentages(share: float | None, other: float | None, words: str) -> None:
    assert _points_above(share, other) == words


def test_charts_use_the_colours_of_the_page_and_are_reproducible() -> None:
    chart = Chart("a < b", "x & y", "z", lines={"one": ([1, 2], [0.5, 0.7])}, reference=("two", [1, 2], [1, 1]))
    svg = line_chart(chart)
    assert svg == line_chart(chart)
    assert "currentColor" in svg
    assert "#000000" not in svg
    assert 'aria-label="a &lt; b"' in svg
    ElementTree.fromstring(svg)  # noqa: S314 - our own text


def test_a_fit_of_one_epoch_has_charts_too() -> None:
    ElementTree.fromstring(line_chart(Chart("t", "x", "y", lines={"one": ([1], [0.5])}, mark_x=1)))  # noqa: S314

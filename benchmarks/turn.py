"""A full turn, as people live it: wrong labels come in, a person settles them in a browser, a better champion serves.

A champion has learned from the first photos of a gallery. The next scrape brings four times as many, among them those
of some members who declared the wrong country. Somebody opens the page of `python -m trainer review --serve` in
headless Chromium and settles the first ten suspects by keys, each with the label that the gallery knows. The training
that follows replaces the champion if the usual gate finds its version clearly better, of which most comes from there
being more photos: `retrained_unsettled` is what the same training reaches without the decisions. The bot serves the
champion; an asker says that an answer is wrong, and an admin asks for the report, which must say so.

All of it are the real programs, but for the two sites. VGG16 has ImageNet's weights, unless `--weights` says otherwise.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.browser import BROWSERS, QUIET, find_browser
from benchmarks.home import Home, running, until
from benchmarks.pictures import real_weights
from benchmarks.result import Figure, Goal, Result
from benchmarks.studio import PHOTOS_PER_MEMBER, ROOT, Silent, Studio, describe_weights, studio
from bot.reply.texts import load_texts
from sandbox.child import stop
from sandbox.gallery import Gallery
from sandbox.instance import NO_RATE_LIMITS, Account, Instance, InstanceSettings, create_app
from sandbox.server import serve
from trainer.errors import ConfigError
from trainer.photos.dataset import build_dataset
from trainer.photos.manifest import FILE_NAME, Manifest
from trainer.registry.registry import Registry
from trainer.review.suspects import find_suspects
from trainer.training.fitting import fit_and_evaluate
from trainer.training.training_data import TrainingData, read_photos, sort_photos

PHOTOS_PER_LABEL, QUICK_PER_LABEL = 160, 80
GROWTH = 4
N_MEMBERS = 3
N_SETTLED = 10
OPTIONS = {"FEATURES__VIEWS": "[whole]", "SPLIT__HOLDOUT": "0.45"}  # many to judge by, few to learn from
ADMIN, ASKER = "admin", "asker"


def run(*, quick: bool, work_dir: Path, say: Callable[[str], None], weights: str | None = None) -> Result:
    """Play a turn.

    Args:
        quick: fewer photos.
        work_dir: an empty folder.
        say: shows a line of progress.
        weights: as `features.weights`; None: ImageNet's.

    Raises:
        ConfigError: there is no Chromium.
    """
    browser = find_browser()
    if browser is None:
        raise ConfigError(f"this benchmark needs one of these programs: {', '.join(BROWSERS)}")
    weights = weights or real_weights()
    n_photos = QUICK_PER_LABEL if quick else PHOTOS_PER_LABEL
    gallery = Gallery.of_size(n_photos, photos_per_member=PHOTOS_PER_MEMBER)
    with studio(
        work_dir / "data", photos_per_label=n_photos // GROWTH, gallery=gallery, options=OPTIONS, weights=weights
    ) as place:
        say("the first photos, and a champion that learns from them")
        place.run("scrape")
        place.run("train")
        first = place.champion()
        place.photos_per_label = n_photos
        say("the next photos")
        place.run("scrape")
        truth = _declare_wrongly(place)
        say(f"{len(truth)} photos have a wrong label")
        verdicts = _settle(place, browser, truth, say)
        unsettled = _accuracy_without_decisions(place)
        say("the next training")
        place.run("train")
        registry = Registry(place.data_dir)
        made = registry.load(registry.names()[-1])
        verdict = made.metrics["verdict"]
        say(verdict["reasons"][0])
        said = _disagree(place, say)
    gain = verdict["gain"] or 0.0
    figures: dict[str, Figure] = {
        "weights": describe_weights(weights),
        "photos": 3 * n_photos,
        "wrong_labels": len(truth),
        "settled_by_hand": sum(verdicts.values()),
        **{f"of_which_{name}": n for name, n in sorted(verdicts.items())},
        "first_balanced_accuracy": first.metrics["report"]["balanced_accuracy"]["value"],
        "retrained_unsettled": unsettled,
        "second_balanced_accuracy": made.metrics["report"]["balanced_accuracy"]["value"],
        "points_gained_on_the_same_holdout": 100 * gain,
        "promoted": int(verdict["promoted"]),
        "asker_thanked": int(said["thanked"]),
        "report_tells_of_disagreement": int(said["reported"]),
    }
    goals = (
        Goal("settled_by_hand", at_least=N_SETTLED),
        Goal("promoted", at_least=1),
        Goal("asker_thanked", at_least=1),
        Goal("report_tells_of_disagreement", at_least=1),
    )
    return Result(figures, goals)


def _declare_wrongly(place: Studio) -> dict[str, str]:
    """Give the training photos of some members another label; returns photo id -> the gallery's label."""
    settings = place.settings()
    photos = read_photos(settings)
    in_training = {item.sha256 for item in sort_photos(photos, settings).items if item.split == "train"}
    right, *_, wrong = place.gallery.labels
    by_member = defaultdict(list)
    for photo in photos:
        if photo.label == right and photo.sha256 in in_training:
            by_member[photo.member_id].append(photo)
    chosen = sorted(by_member, key=lambda member: (-len(by_member[member]), str(member)))[:N_MEMBERS]
    moved = [photo for member in chosen for photo in by_member[member]]
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        for photo in moved:
            manifest.replace(photo, replace(photo, label=wrong))
    return {photo.photo_id: right for photo in moved}


def _settle(place: Studio, browser: str, truth: dict[str, str], say: Callable[[str], None]) -> Counter[str]:
    """Settle the first suspects on the page by keys; returns how often each was pressed, by what it does."""
    from playwright.sync_api import sync_playwright

    labels = place.gallery.labels
    named = {photo.sha256: truth.get(photo.photo_id, photo.label) for photo in read_photos(place.settings())}
    suspects = find_suspects(place.settings(), Silent()).suspects  # the same as those of the page, in the same order
    verdicts = Counter[str]()
    with _served_page(place) as address, sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=browser, args=list(QUIET))
        page = chromium.new_page()
        page.goto(address)
        while verdicts.total() < N_SETTLED and page.locator("section.photos").count():
            suspect = suspects[int(page.locator("input[name=at]").first.get_attribute("value") or 0)]
            right = named[suspect.photo.sha256]
            key = "k" if right == suspect.photo.label else str(labels.index(right) + 1)
            verdicts["keep" if key == "k" else "relabel"] += 1
            with page.expect_navigation():
                page.keyboard.press(key)
        chromium.close()
    say(f"settled: {dict(verdicts)}")
    return verdicts


def _accuracy_without_decisions(place: Studio) -> float:
    """Balanced accuracy, on the same holdout, of a head that learns as if nobody had settled anything."""
    settings = place.settings()
    data = TrainingData.gather(settings, Silent())
    data = replace(data, dataset=build_dataset(read_photos(settings), split=settings.split, data_dir=settings.data_dir))
    return fit_and_evaluate(data, settings, Silent()).report.balanced_accuracy.value or 0.0


@contextmanager
def _served_page(place: Studio) -> Iterator[str]:
    """Run `python -m trainer review --serve`; yields the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer", "review", "--serve"],
        cwd=place.data_dir,
        env={**place.environment(), "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield next(line.strip() for line in process.stdout if line.startswith("http://"))
    finally:
        stop(process)
        process.stdout.close()


def _disagree(place: Studio, say: Callable[[str], None]) -> dict[str, bool]:
    """An asker gets an answer and calls it wrong; an admin asks for the report."""
    say("the bot serves; an asker disagrees")
    instance = Instance(InstanceSettings(rate_limits=NO_RATE_LIMITS))
    me = instance.add_account("dokocos", bot=True)
    with serve(create_app(instance)) as url:
        home = Home(instance, url, me, place.data_dir, {"BOT__ADMINS": f"[{ADMIN}]", **place.options})
        asker, admin = home.person(ASKER), home.person(ADMIN)
        with running(home):
            question = home.ask(asker, place.gallery.draw_fresh(place.gallery.labels[0], 7))
            home.wait_for_answer(question)
            opinion = instance.post(asker, "@dokocos wrong", in_reply_to=home.answers(question)[0])
            until(lambda: home.answers(opinion))
            thanks = load_texts().say("en", "thanks")
            report = _order(home, admin, "report")
    return {"thanked": thanks in home.answers(opinion)[0].text, "reported": "agreed with 0 of 1" in report}


def _order(home: Home, admin: Account, word: str) -> str:
    """The answer to an admin's order, as plain text."""
    order = home.instance.post(admin, f"@dokocos {word}", visibility="direct")
    until(lambda: home.answers(order))
    return " ".join(status.text for status in home.answers(order))

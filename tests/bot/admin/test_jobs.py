"""The recurring jobs and their messages to admins: the right ones and no more. The clock is passed in."""

from __future__ import annotations

import io
import shutil
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bot.admin import confusion_matrix
from bot.admin.messages import announcement, training_message
from bot.admin.outbox import parts
from bot.reply import fonts
from bot.storage.records import DAY_S
from tests.bot.admin.conftest import Office
from tests.bot.conftest import World
from tests.fake_trainer import add_photos, add_version, plan, report
from trainer.registry.registry import Registry
from trainer.review_state import LastReview, save_review

EVENING = datetime(2026, 11, 23, 20, tzinfo=UTC)


def test_admins_are_told_once_that_a_source_is_down_and_once_that_it_is_back(office: Office) -> None:
    plan(office.data_dir, scrape=["no such host", "no such host", "the listing is empty", 4])
    add_photos(office.data_dir, 5, fetched_at=EVENING)
    heard = [(office.run("scrape"), office.waiting()) for _ in range(4)]
    assert ["The scrape failed: japan: https" in outcome for outcome, _ in heard] == [True, True, True, False]
    assert [len(messages) for _, messages in heard] == [1, 0, 0, 1]
    assert "can be read again: " in heard[3][1][0]
    assert "9 photos held" in heard[3][1][0]


def test_a_training_waits_for_enough_new_photos(office: Office) -> None:
    add_version(office.data_dir, right=0.6, promoted=True, created_at=EVENING)
    add_photos(office.data_dir, 9, fetched_at=datetime(2026, 11, 24, tzinfo=UTC))
    assert office.run("train") == "not needed: 9 new photos, 10 are required"
    plan(office.data_dir, train=["better"])
    add_photos(office.data_dir, 1, fetched_at=datetime(2026, 11, 24, tzinfo=UTC))
    assert "is the champion now" in office.run("train")


def test_a_training_on_demand_needs_no_new_photos(office: Office) -> None:
    plan(office.data_dir, train=["worse"])
    assert "is kept, but does not serve" in office.run("train", asked=True)
    assert "is kept, but does not serve" in office.waiting()[0]


def test_the_report_of_a_training_names_the_photos_worth_a_second_look(office: Office) -> None:
    save_review(office.data_dir, LastReview(datetime.now(UTC), 90, {"label": 5}, {"japan": 5}))
    plan(office.data_dir, train=["worse"])
    office.run("train", asked=True)
    assert "Photos worth a second look: 5 (“review” tells more)." in office.waiting()[0]


def test_admins_are_told_of_three_crashes_in_a_row_but_not_of_one(office: Office) -> None:
    add_version(office.data_dir, right=0.6, promoted=True, created_at=EVENING)
    add_photos(office.data_dir, 20, fetched_at=datetime(2026, 11, 24, tzinfo=UTC))
    champion = Registry(office.data_dir).champion_name()
    plan(office.data_dir, train=["crash", "crash", "crash", "better"])
    heard = [(office.run("train"), office.waiting()) for _ in range(4)]
    assert [len(messages) for _, messages in heard][:3] == [0, 0, 1]
    assert "3 in a row: killed by SIGABRT" in heard[2][1][0]
    assert heard[3][1][0] == "Training works again."
    assert Registry(office.data_dir).champion_name() != champion


def test_admins_are_told_of_a_full_disk_once_a_day(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(office.data_dir)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=1000))
    for _ in range(3):
        office.jobs.watch(False)
    assert len(office.waiting()) == 1
    office.clock.now += DAY_S
    office.jobs.watch(False)
    assert "nearly full" in office.waiting()[0]
    monkeypatch.undo()
    office.jobs.watch(False)
    assert office.waiting() == ["Resolved: disk."]


def test_admins_are_told_of_a_damaged_champion_and_of_the_version_that_serves_instead(office: Office) -> None:
    names = [add_version(office.data_dir, right=right, promoted=True, created_at=EVENING) for right in (0.5, 0.8)]
    assert "champion whole" in office.jobs.watch(False)
    (office.data_dir / "versions" / names[1] / "head.npz").write_bytes(b"damaged")
    office.jobs.watch(False)
    assert office.waiting() == [f"⚠ Champion {names[1]} is damaged or missing; {names[0]} serves instead."]


def test_messages_are_sent_in_order_after_an_outage(office: Office, world: World) -> None:
    office.outbox.tell_admins(training_message("v2", 30, _metrics(), None))
    world.instance.revoke(world.me.token)
    assert office.outbox.send() == 0
    assert office.records.queued()
    office.outbox._client = world.client(world.instance.token(world.me, "read", "write"))
    n_letters = len(office.records.queued())
    assert office.outbox.send() == n_letters
    sent = world.instance.statuses_of(world.me)
    assert min(sent, key=lambda each: each.id).text.startswith("@alice Training done: v2")
    assert {each.visibility for each in sent} == {"direct"}
    assert office.records.queued() == []


def _metrics() -> dict[str, Any]:
    return {"report": report(0.7).as_json(), "verdict": {"promoted": True, "reasons": ["it is the first version"]}}


def test_the_report_of_a_training_says_how_a_rare_label_does() -> None:
    words = "The rarest label, china (12 training photos), lies 45 points below the others."
    assert words in training_message("v2", 30, {**_metrics(), "rarest": words}, None).text
    assert "rarest" not in training_message("v2", 30, {**_metrics(), "rarest": None}, None).text


def test_the_confusion_matrix_has_an_alt_text() -> None:
    news = training_message("v2", 30, _metrics(), ("v1", {"report": report(0.5).as_json()}))
    assert news.picture is not None
    assert news.picture.startswith(b"\xff\xd8")
    assert "20 of china answered: 14 as china, 6 as japan." in news.alt_text
    assert "china: recall 0.70 (0.50)" in news.text


def test_a_new_champion_is_announced_in_plain_words() -> None:
    assert announcement("2026-11-22-1", 15_000, report(0.6).as_json()).text == (
        "I have learned from 15,000 photos, and answer as version 2026-11-22-1 from now on. Shown 100 photos of each "
        "gallery that I had never seen, I name the right gallery for about 60; guessing blindly, it would be 33."
    )


def test_the_labels_above_the_matrix_share_a_baseline() -> None:
    with Image.open(io.BytesIO(confusion_matrix.draw_matrix(["xxx", "ppp"], [[1, 0], [0, 1]], title=""))) as picture:
        names = np.asarray(picture.convert("L"), dtype=np.int64)[
            confusion_matrix.MARGIN + 57 : confusion_matrix.MARGIN + 80
        ]
    left = confusion_matrix.MARGIN + confusion_matrix.LABEL_PX
    tops = [
        int(np.argmax(names[:, start : start + confusion_matrix.CELL_PX].max(axis=1) > 160))
        for start in (left, left + confusion_matrix.CELL_PX)
    ]
    assert tops[0] == tops[1] > 0


def test_long_texts_are_split_at_line_ends_and_cannot_mention_anybody() -> None:
    text = "\n".join(f"line {number} by @bob" for number in range(100))
    pieces = parts(text, 200)
    assert all(len(piece) <= 200 for piece in pieces)
    assert "\n".join(pieces) == text.replace("@", "＠")
    assert parts("x" * 450, 200) == ["x" * 200, "x" * 200, "x" * 50]
    assert parts("", 10) == [""]


def test_old_runs_and_mentions_are_deleted(office: Office) -> None:
    office.records.note("train", "done", "")
    office.records.note("train", "done", "")
    office.clock.now += 40 * DAY_S
    assert office.jobs.prune(False) == "0 mentions, 1 runs deleted"


def test_a_matrix_shows_the_number_of_a_label_that_no_font_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_face", lambda text: None if "ሴ" in text else fonts._faces()[0])
    drawn = confusion_matrix.draw_matrix(["ሴ", "b"], [[1, 0], [0, 1]], title="")
    assert drawn == confusion_matrix.draw_matrix(["1", "b"], [[1, 0], [0, 1]], title="")

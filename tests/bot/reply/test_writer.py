"""Replies fit, have the right text in the right language, and mention only the asker."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bot.config import BotSettings, LabelText
from bot.entities import VISIBILITIES, Account, Finding, Prediction, Status, Unseen
from bot.reply.length import BYTES_PER_CHARACTER, clusters, cut, length
from bot.reply.texts import load_texts
from bot.reply.writer import Writer, harmless, narrower, percent

TEXTS = load_texts()
WRITER = Writer(TEXTS, BotSettings().labels, widest="unlisted")
HEATMAP = np.zeros((2, 2), np.float32)


def status(**changes: Any) -> Status:
    account = Account(id="7", acct="alice@far.example", bot=False, created_at=None, profile="")
    values: dict[str, Any] = {
        "id": "1",
        "account": account,
        "created_at": datetime(2026, 1, 1, tzinfo=UTC),
        "visibility": "public",
        "text": "which gallery?",
        "language": "en",
        "spoiler_text": "",
        "sensitive": False,
        "attachments": (),
        "in_reply_to_id": None,
        "mentioned_ids": frozenset(),
        "is_boost": False,
    }
    return Status(**(values | changes))


def prediction(*scores: tuple[str, float], sure: bool = True, version: str = "v1") -> Prediction:
    return Prediction(scores, sure=sure, version=version, view="whole", heatmap=HEATMAP)


FINDINGS = st.lists(
    st.one_of(
        st.builds(Unseen, st.sampled_from(["gone", "truncated", "too_large", "no_preview", "something new"])),
        st.lists(
            st.tuples(st.text(max_size=30), st.floats(0, 1)), min_size=1, max_size=6, unique_by=lambda score: score[0]
        ).map(lambda scores: prediction(*sorted(scores, key=lambda score: -score[1]), version="v")),
    ),
    min_size=1,
    max_size=4,
)
PINGS = re.compile(r"(?<![\w/])@\w")


@given(
    findings=FINDINGS,
    limit=st.integers(60, 600),
    warning=st.text(max_size=700),
    language=st.sampled_from(["en", "ja"]),
    strictly=st.booleans(),
)
def test_every_answer_fits_and_mentions_only_the_asker(
    findings: list[Finding], limit: int, warning: str, language: str, strictly: bool
) -> None:
    writer = Writer(TEXTS, {}, widest="public", max_characters=limit, counts_strictly=strictly)
    reply = writer.answer(findings, to=status(spoiler_text=warning, language=language))
    assert min(map(len, (reply.text, *reply.shorter))) + len(reply.spoiler_text) <= limit
    assert not strictly or len(reply.text) + len(reply.spoiler_text) <= limit
    assert length(reply.text) + length(reply.spoiler_text) <= limit
    assert PINGS.findall(reply.text) == ["@a"]
    assert reply.text.startswith("@alice@far.example ")
    assert not PINGS.search(reply.spoiler_text)


@given(st.text())
@example("＃タグ")
def test_texts_of_others_cannot_mention_tag_or_link(words: str) -> None:
    shown = harmless(words)
    assert not set("@#＃\n\r") & set(shown)
    assert "://" not in shown


@pytest.mark.parametrize(
    "label", ["@everyone", "#tag", "＃タグ", "https://evil.example", "<b>", "a_b", "日本語" * 50, "{label}"]
)
def test_a_folder_name_as_label_is_shown_unchanged_and_cannot_mention_or_link(label: str) -> None:
    text = WRITER.answer([prediction((label, 0.9), ("b", 0.1))], to=status()).text
    assert PINGS.findall(text) == ["@a"]
    assert not set("#＃") & set(text)
    assert "://" not in text
    assert len(text) <= 500
    assert text.count("gallery.") == 1


def test_an_answer_shows_flag_bars_percentages_and_version() -> None:
    reply = WRITER.answer([prediction(("japan", 0.71), ("china", 0.2), ("brazil", 0.09))], to=status())
    assert reply.text == (
        "@alice@far.example This photo looks like the 🇯🇵 Japan gallery.\n"
        "🇯🇵 Japan ███████░░░ 71%\n"
        "🇨🇳 China ██░░░░░░░░ 20%\n"
        "🇧🇷 Brazil █░░░░░░░░░ 9%\n"
        "(version v1)"
    )


def test_an_answer_below_the_threshold_says_that_it_is_not_sure() -> None:
    reply = WRITER.answer([prediction(("china", 0.4), ("japan", 0.35), sure=False)], to=status(language="ja"))
    assert "自信がありません。しいて言えば🇨🇳 中国のギャラリーに似ています。" in reply.text


def test_a_label_without_a_text_is_shown_as_it_is() -> None:
    assert "the atlantis gallery" in WRITER.answer([prediction(("atlantis", 1.0))], to=status()).text


def test_four_photos_fit_within_a_small_instances_limit() -> None:
    findings: list[Finding] = [prediction(("japan", 0.6), ("china", 0.3), ("brazil", 0.1))] * 4
    text = WRITER.answer(findings, to=status()).text
    assert length(text) <= 500
    assert text.count("Japan 60%") == 4


def test_the_content_warning_of_the_status_above_is_kept() -> None:
    above = status(spoiler_text="eyes", sensitive=True)
    reply = WRITER.answer([prediction(("japan", 1.0))], to=status(), shown=above)
    assert (reply.spoiler_text, reply.sensitive) == ("eyes", True)


@given(st.sampled_from(VISIBILITIES), st.sampled_from(VISIBILITIES))
def test_the_narrower_of_two_visibilities_is_no_wider_than_either(one: Any, other: Any) -> None:
    order = VISIBILITIES.index
    assert order(narrower(one, other)) == max(order(one), order(other))


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        ("ja", "which?", "ja"),
        ("ja-JP", "which?", "ja"),
        ("en_GB", "どこ", "en"),
        ("de", "welche?", "en"),
        (None, "どこ", "ja"),
        (None, "何処", "ja"),
        (None, "ｺｽ", "ja"),
        (None, "which?", "en"),
        ("", "", "en"),
    ],
)
def test_the_language_is_the_mentions_own_or_guessed_from_its_letters(
    code: str | None, text: str, expected: str
) -> None:
    assert TEXTS.language(code, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("abc", 3),
        ("🇯🇵🇨🇳", 2),
        ("👩‍👩‍👧‍👦", 1),
        ("👍🏽", 1),
        ("é", 1),
        ("e\u0301", 1),
        ("が", 1),
        ("か\u3099", 1),
        ("❤️", 1),
        ("🏴󠁧󠁢󠁥󠁮󠁧󠁿", 1),
        ("\u1112\u1161\u11ab", 1),
        ("a\u200db", 2),
        ("हिन्दी", 3),  # 2 on a server with Ruby 4
        ("क्\u200dष", 2),
        ("a\nb", 3),
        ("see https://example.social/a/very/long/path/that/goes/on/and/on ok", 30),
        ("@alice@far.example hi", 9),
        ("", 0),
    ],
)
def test_characters_are_counted_as_mastodon_does(text: str, expected: int) -> None:
    assert length(text) == expected


@given(st.text(), st.integers(0, 50))
def test_cutting_never_exceeds_the_limit_nor_breaks_a_cluster(text: str, limit: int) -> None:
    assert len(list(clusters(cut(text, limit)))) <= limit
    strictly = cut(text, limit, strictly=True)
    assert len(strictly) <= limit
    whole = ["".join(list(clusters(text))[:n]) for n in range(len(text) + 1)]
    assert strictly in (text, "") or strictly[:-1] in whole


def test_a_flag_is_never_cut_in_half() -> None:
    assert cut("🇯🇵🇨🇳🇧🇷", 2) == "🇯🇵…"


def test_a_long_text_is_cut_without_being_read_to_its_end() -> None:
    assert cut("🇯🇵" * 100_000, 3) == "🇯🇵🇯🇵…"  # reading all of it would take minutes


def test_labels_in_config_cannot_mention_anybody() -> None:
    writer = Writer(TEXTS, {"japan": LabelText(en="@admin #tag https://x.example")}, widest="public")
    assert PINGS.findall(writer.answer([prediction(("japan", 1.0))], to=status()).text) == ["@a"]


SCOTLAND = "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("a\u202eb\u2066c\u200bd\ufeff\u200e\u061c", "abcd"),
        ("\ud800x\udfff", "x"),
        ("\u115f\u3164\uffa0\u034fx", "x"),
        ("\U000e0041x\U000e0020", "x"),
        ("👩\u200d👩\u200d👧 می\u200cخواهم क्\u200dष ❤\ufe0f", "👩\u200d👩\u200d👧 می\u200cخواهم क्\u200dष ❤\ufe0f"),
        (SCOTLAND, SCOTLAND),
        ("ที่ ệ བྷྲཱུྃ", "ที่ ệ བྷྲཱུྃ"),
        ("e" + "\u0301" * 100_000, "e" + "\u0301" * 8),
    ],
)  # fmt: skip
def test_what_cannot_be_seen_in_others_texts_is_left_out(words: str, shown: str) -> None:
    assert harmless(words) == shown


@given(st.text(st.characters()))
def test_no_text_of_others_turns_the_direction_or_breaks_the_request(words: str) -> None:
    shown = harmless(words)
    shown.encode()  # no lone surrogate
    assert not set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c\u200b\ufeff") & set(shown)


@pytest.mark.parametrize("cluster", ["e" + "\u0301" * 100_000, "👩" + "\u200d👩" * 50_000, "\u1100" * 100_000])
def test_one_letter_of_any_length_is_cut_by_its_bytes(cluster: str) -> None:
    assert length(cluster) == 1
    assert len(cut(f"ab{cluster}cd", 40).encode()) <= 40 * BYTES_PER_CHARACTER
    assert cut(f"ab{cluster}cd", 40) == "ab…"
    warning = WRITER.answer([prediction(("a", 0.9), ("b", 0.1))], to=status(spoiler_text=cluster)).spoiler_text
    assert len(warning.encode()) <= 250 * BYTES_PER_CHARACTER


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "0"), (0.001, "<1"), (0.012, "1"), (0.5, "50"), (0.724, "72"), (0.9951, ">99"), (1, "100")],
)
def test_a_percentage_is_whole_and_not_rounded_to_0_or_100(share: float, shown: str) -> None:
    assert percent(share) == shown


def test_text_and_alt_text_have_the_percentages_of_the_picture() -> None:
    certain = prediction(("japan", 0.996), ("china", 0.004))
    assert "🇨🇳 China ░░░░░░░░░░ <1%" in WRITER.answer([certain], to=status()).text
    assert "🇯🇵 Japan >99%, 🇨🇳 China <1%" in WRITER.describe(certain, language="en")

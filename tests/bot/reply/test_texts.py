"""The texts: complete in every language, safe as templates, with clear errors about a faulty file."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
import yaml

from bot.reply.texts import ADDED, DEFAULT_PATH, PLACEHOLDERS, REQUESTS, load_texts
from trainer.errors import ConfigError

BLOCKS: dict[str, Any] = yaml.safe_load(DEFAULT_PATH.read_text(encoding="utf-8"))


def write(tmp_path: Path, change: dict[str, Any], *, language: str = "en") -> Path:
    """Writes a file with a few texts of one language."""
    path = tmp_path / "texts.yaml"
    path.write_text(yaml.safe_dump({language: change}, allow_unicode=True), encoding="utf-8")
    return path


@pytest.mark.parametrize("language", sorted(BLOCKS))
def test_every_language_has_every_text_with_the_same_placeholders(language: str) -> None:
    for name, text in BLOCKS[language].items():
        if name != "words":
            found = {field for _, field, _, _ in string.Formatter().parse(text) if field}
            assert found == PLACEHOLDERS[name], name


def test_japanese_and_english_are_there() -> None:
    assert {"en", "ja"} <= set(load_texts().templates)


@pytest.mark.parametrize(
    ("written", "request_"),
    [
        ("stop", "stop"),
        ("STOP!!", "stop"),
        ("  ｓｔｏｐ ", "stop"),
        ("やめて", "stop"),
        ("やめて。", "stop"),
        ("Start", "start"),
        ("消して", "delete"),
        ("ok 👍", "agree"),
        ("yes", "agree"),
        ("いいよ！", "agree"),
        ("please do not stop", None),
        ("please stop 🙏🏽", "stop"),
        ("opt-out", "stop"),
        ("stop :blobcat_sad:", "stop"),
        (":ablobbye: やめてね〜！", "stop"),
        ("削除してください🙇", "delete"),
        ("", None),
        ("!!!", None),
    ],
)
def test_a_request_is_recognized_as_the_only_text_of_a_mention(written: str, request_: str | None) -> None:
    assert load_texts().request(written) == request_


def test_a_custom_file_replaces_only_the_texts_it_contains(tmp_path: Path) -> None:
    texts = load_texts(write(tmp_path, {"help": "Show me!"}))
    assert texts.say("en", "help") == "Show me!"
    assert texts.say("en", "limit") == BLOCKS["en"]["limit"]
    assert texts.say("ja", "help") == BLOCKS["ja"]["help"]


def test_words_that_came_later_are_ours_where_a_file_from_before_lacks_them(tmp_path: Path) -> None:
    words = {name: [f"my {name}"] for name in ("stop", "start", "delete", "agree")}
    texts = load_texts(write(tmp_path, {"words": words}))
    assert [texts.request(text) for text in ("my stop", "wrong", "unsubscribe")] == ["stop", "wrong", None]
    assert texts.named_in("It’s Brazil!", ["China", "Brazil"]) == "Brazil"
    german = {name: text for name, text in BLOCKS["en"].items() if name not in ADDED} | {"words": words}
    assert load_texts(write(tmp_path, german, language="de")).request("wrong") == "wrong"


def test_a_gallery_is_named_in_any_language(tmp_path: Path) -> None:
    texts = load_texts(write(tmp_path, {"words": BLOCKS["en"]["words"] | {"named": ["clearly {gallery}"]}}))
    said = ["clearly brazil", "ＣＬＥＡＲＬＹ　Brazil 🇧🇷", "Brazilです。", "it is Brazil", "clearly", "Brazil clearly"]
    assert [texts.named_in(text, ["Brazil"]) is not None for text in said] == [True, True, True, False, False, False]


def test_a_further_language_must_be_complete(tmp_path: Path) -> None:
    german = {name: text for name, text in BLOCKS["en"].items() if name != "hot"}
    with pytest.raises(ConfigError, match=r"de\.hot: missing"):
        load_texts(write(tmp_path, german, language="de"))
    texts = load_texts(write(tmp_path, german | {"hot": "zählte viel"}, language="de"))
    assert texts.language("de-AT", "") == "de"
    assert texts.say("de", "hot") == "zählte viel"


def test_a_language_from_before_a_text_was_added_has_the_english_one(tmp_path: Path) -> None:
    german = {name: text for name, text in BLOCKS["en"].items() if name not in ADDED}
    assert load_texts(write(tmp_path, german, language="de")).say("de", "unknown") == BLOCKS["en"]["unknown"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"help": None}, "en.help: missing"),
        ({"sure": "This is it."}, "en.sure: placeholders are [], must be ['gallery']"),
        ({"sure": "{gallery} {name}"}, "en.sure: placeholders are ['gallery', 'name']"),
        ({"sure": "{gallery.__class__}"}, "en.sure: missing, or not a text"),
        ({"sure": "{gallery!r}"}, "en.sure: missing, or not a text"),
        ({"sure": "{gallery:>99999999}"}, "en.sure: missing, or not a text"),
        ({"sure": "{gallery"}, "en.sure: missing, or not a text"),
        ({"sure": 5}, "en.sure: missing, or not a text"),
        ({"shure": "x"}, "en.shure: no such text"),
        ({"words": {"stop": ["stop"]}}, "en.words: must contain"),
        ({"words": BLOCKS["en"]["words"] | {"named": ["it is {country}"]}}, "en.words.named: each text must have"),
        ({"words": {name: [True] for name in REQUESTS}}, "en.words: must contain"),
    ],
)
def test_the_error_about_a_faulty_file_names_the_text(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_texts(write(tmp_path, change))
    assert expected in str(caught.value)


@pytest.mark.parametrize("content", ["", "- a", "en: text", "ja: {}", "{", "\x00"])
def test_a_file_without_texts_is_a_clear_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "texts.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"texts\.yaml"):
        load_texts(path)


@pytest.mark.parametrize("text", ["stop :blob-cat:", "stop :+1:", ":x@example.social: Stop!", "stop :blob_cat:"])
def test_a_custom_emoji_beside_a_word_changes_nothing(text: str) -> None:
    assert load_texts().request(text) == "stop"


def test_a_language_that_yaml_takes_for_false_is_told_to_be_quoted(tmp_path: Path) -> None:
    path = tmp_path / "texts.yaml"
    path.write_text("no:\n  sure: '{gallery}'\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="write `'no':`"):
        load_texts(path)


def test_a_language_with_a_region_is_used_and_falls_back_to_the_language_and_to_english(tmp_path: Path) -> None:
    portuguese = BLOCKS["en"] | {"sure": "pt {gallery}", "unsure": "pt? {gallery}"}
    path = tmp_path / "texts.yaml"
    path.write_text(yaml.safe_dump({"pt": portuguese, "pt-BR": {"sure": "br {gallery}"}}), encoding="utf-8")
    texts = load_texts(path)
    assert [texts.language(code, "") for code in ("pt-BR", "pt_BR", "pt-PT", "pt", "fr-CA")] == [
        "pt-br",
        "pt-br",
        "pt",
        "pt",
        "en",
    ]
    assert texts.say("pt-br", "sure", gallery="x") == "br x"
    assert texts.say("pt-br", "unsure", gallery="x") == "pt? x"

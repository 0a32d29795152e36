"""What admins may tell the bot by direct mention: every word, its meaning and its help in one place; pure.

`help` answers from this table, and the README's is made from it.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

from bot.reply.texts import normalized

Kind = Literal["none", "version", "hours", "on/off", "job", "id", "command"]
# What may stand behind a word; (pattern, whether it may be left out).
ARGUMENTS: dict[Kind, tuple[str, bool]] = {
    "none": ("", True),
    "version": (r"\d{4}-\d{2}-\d{2}-\d+", False),
    "hours": (r"\d{1,3}", False),
    "on/off": (r"on|off|オン|オフ", False),
    "job": (r"[a-z_]+", True),
    "id": (r"\w+", True),
    "command": (r"\w+", True),
}


@dataclass(frozen=True, slots=True)
class Command:
    """An order.

    Attributes:
        name: of one of `WORDS`.
        argument: what stood behind the word, as `ARGUMENTS` allows it; None when nothing did.
    """

    name: str
    argument: str | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """One command as it is written and explained.

    Attributes:
        japanese: other ways to write it.
        confirm: it is done only after a "yes".
    """

    name: str
    japanese: tuple[str, ...]
    english_help: str
    japanese_help: str
    takes: Kind = "none"
    shown: str = ""  # the argument in the help
    confirm: bool = False

    @property
    def usage(self) -> str:
        """How it is written, e.g. "quiet HOURS"."""
        return f"{self.name} {self.shown}".strip()


WORDS = (
    Word("status", ("状態", "ステータス"), "how things stand", "今の様子"),
    Word("scrape", ("収集", "集めて"), "gather new photos now", "写真を集める"),
    Word("train", ("学習", "学習して"), "train now, however few photos are new", "今すぐ学習する"),
    Word("models", ("モデル", "モデル一覧"), "versions and their figures", "バージョンと成績"),
    Word("promote", ("採用",), "let a version serve", "そのバージョンを使う", "version", "V", confirm=True),
    Word("rollback", ("戻して", "巻き戻し"), "back to the champion before", "前のバージョンに戻す", confirm=True),
    Word(
        "pause", ("休んで", "一時停止"), "answer nobody but admins; mentions wait", "返事を止める（届いた分は後で返す）"
    ),
    Word("resume", ("起きて", "復帰"), "go on, with what has waited", "返事を続ける"),
    Word("report", ("報告", "レポート"), "the last week in figures", "この一週間のまとめ"),
    Word("jobs", ("予定", "ジョブ"), "what runs when, and how it went", "予定と結果"),
    Word("inbox", ("受信箱",), "what waits or was set aside", "待っているものと失敗したもの"),
    Word("retry", ("再試行", "やり直して"), "try failed mentions again", "失敗した返事をやり直す", "id", "[ID]"),
    Word("log", ("ログ", "記録"), "the last warnings and errors", "最近の警告とエラー"),
    Word("quiet", ("静かに",), "no reports and warnings for so long", "その時間は知らせない", "hours", "HOURS"),
    Word(
        "announce", ("お知らせ",), "post publicly about new champions", "新しい版を公開で知らせる", "on/off", "on|off"
    ),
    Word("help", ("ヘルプ", "使い方"), "this list, or one command", "この一覧", "command", "[COMMAND]"),
)
YES = Word("yes", ("はい", "実行"), "do what I was asked to confirm", "確認した操作を行う")
NO = Word("no", ("いいえ", "やめる"), "do not", "行わない")

_BY_NAME = {word.name: word for word in (*WORDS, YES, NO)}
_BY_SPELLING = {normalized(spelling): word for word in _BY_NAME.values() for spelling in (word.name, *word.japanese)}
_ON = {"on": "on", "オン": "on", "off": "off", "オフ": "off"}


def parse(text: str) -> Command | None:
    """The command that a status' text is; None for any other text.

    A known word with something behind it that does not fit asks for help about that word.
    """
    whole = normalized(text)
    if whole in _BY_SPELLING:
        word = _BY_SPELLING[whole]
        return _missing(word) if not ARGUMENTS[word.takes][1] else Command(word.name)
    spelling, _, rest = whole.partition(" ")
    found = _BY_SPELLING.get(spelling)
    if found is None or found.takes == "none":
        return None
    if not re.fullmatch(ARGUMENTS[found.takes][0], rest):
        return _missing(found)
    if found.takes == "command":
        named = _BY_SPELLING.get(rest)
        return Command(found.name, named.name if named else None)
    return Command(found.name, _ON.get(rest, rest))


def needs_confirmation(command: Command) -> bool:
    """Whether it is done only after a "yes"."""
    return _BY_NAME[command.name].confirm


def help_text(language: str, name: str | None = None) -> str:
    """All commands, or one, a line each; in Japanese for "ja", else in English."""
    words = [_BY_NAME[name]] if name in _BY_NAME else list(WORDS)
    if language == "ja":
        return "\n".join(f"{_japanese_usage(word)}：{word.japanese_help}" for word in words)
    return "\n".join(f"{word.usage}: {word.english_help}" for word in words)


def nearest(text: str) -> str | None:
    """The usage of the command that was perhaps meant."""
    first = normalized(text).partition(" ")[0]
    near = difflib.get_close_matches(first, _BY_SPELLING, n=1, cutoff=0.7)
    return _BY_SPELLING[near[0]].usage if near else None


def table() -> str:
    """The commands as the README shows them, in Markdown."""
    rows = []
    for word in WORDS:
        usage = word.usage.replace("|", r"\|")
        extra = "; asks for a “yes” first" if word.confirm else ""
        rows.append(f"| `{usage}` | {'、'.join(word.japanese)} | {word.english_help}{extra} |")
    return "\n".join(["| command | in Japanese | what it does |", "| --- | --- | --- |", *rows])


def _missing(word: Word) -> Command:
    return Command("help", word.name)


def _japanese_usage(word: Word) -> str:
    return f"{word.japanese[0]} {word.shown}".strip()

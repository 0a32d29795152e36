"""The commands that admins send by direct mention: names, arguments and help texts; pure.

`help` answers from this table, and the README's table is made from it.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

from bot.reply.texts import normalized

Kind = Literal["none", "version", "hours", "on/off", "job", "id", "command"]
# Kinds of arguments: (pattern, whether it is optional).
ARGUMENTS: dict[Kind, tuple[str, bool]] = {
    "none": ("", True),
    "version": (r"\d{4}-\d{2}-\d{2}-\d+", False),
    "hours": (r"\d{1,3}", False),
    "on/off": (r"on|off|オン|オフ", False),
    "job": (r"[a-z_]+", True),
    "id": (r"[\w/:.-]+", True),
    "command": (r"\w+", True),
}


@dataclass(frozen=True, slots=True)
class Command:
    """An order.

    Attributes:
        name: of one of `WORDS`, "yes" or "no".
        argument: as `ARGUMENTS` allows it; None if there was none.
    """

    name: str
    argument: str | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """One command, with its spellings and help texts.

    Attributes:
        japanese: other spellings.
        confirm: it is executed only after a "yes".
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
        """How to write it, e.g. "quiet HOURS"."""
        return f"{self.name} {self.shown}".strip()


WORDS = (
    Word("status", ("状態", "ステータス"), "the bot's current state", "今の様子"),
    Word("scrape", ("収集", "集めて"), "scrape new photos now", "写真を集める"),
    Word("train", ("学習", "学習して"), "train now, even with few new photos", "今すぐ学習する"),
    Word("models", ("モデル", "モデル一覧"), "versions and their figures", "バージョンと成績"),
    Word("promote", ("採用",), "let a version serve", "そのバージョンを使う", "version", "V", confirm=True),
    Word("rollback", ("戻して", "巻き戻し"), "return to the previous champion", "前のバージョンに戻す", confirm=True),
    Word(
        "pause", ("休んで", "一時停止"), "answer nobody but admins; mentions wait", "返事を止める（届いた分は後で返す）"
    ),
    Word("resume", ("起きて", "復帰"), "answer again, waiting mentions first", "返事を続ける"),
    Word("review", ("確認", "見直し"), "photos worth a second look, and the page for it", "見直す写真の数とページ"),
    Word("report", ("報告", "レポート"), "the last week in figures", "この一週間のまとめ"),
    Word("jobs", ("予定", "ジョブ"), "when each job runs, and its last result", "予定と結果"),
    Word("inbox", ("受信箱",), "mentions that wait or have failed", "待っているものと失敗したもの"),
    Word("retry", ("再試行", "やり直して"), "try failed mentions again", "失敗した返事をやり直す", "id", "[ID]"),
    Word("log", ("ログ", "記録"), "the last warnings and errors", "最近の警告とエラー"),
    Word("quiet", ("静かに",), "no reports and warnings for HOURS hours", "その時間は知らせない", "hours", "HOURS"),
    Word(
        "announce", ("お知らせ",), "post publicly about new champions", "新しい版を公開で知らせる", "on/off", "on|off"
    ),
    Word("help", ("ヘルプ", "使い方"), "this list, or one command", "この一覧", "command", "[COMMAND]"),
)
YES = Word("yes", ("はい", "実行"), "execute the order that waits for confirmation", "確認した操作を行う")
NO = Word("no", ("いいえ", "やめる"), "cancel that order", "行わない")

_BY_NAME = {word.name: word for word in (*WORDS, YES, NO)}
_BY_SPELLING = {normalized(spelling): word for word in _BY_NAME.values() for spelling in (word.name, *word.japanese)}
_ON = {"on": "on", "オン": "on", "off": "off", "オフ": "off"}


def parse(text: str) -> Command | None:
    """Parses a status' text as a command; None for any other text.

    A known word with a wrong argument becomes a request for help about that word.
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
    # Ids of some servers tell upper case from lower case.
    return Command(found.name, text.split()[-1] if found.takes == "id" else _ON.get(rest, rest))


def needs_confirmation(command: Command) -> bool:
    """Whether a command is executed only after a "yes"."""
    return _BY_NAME[command.name].confirm


def help_text(language: str, name: str | None = None) -> str:
    """The help for all commands, or for one, a line each; in Japanese for "ja", else in English."""
    words = [_BY_NAME[name]] if name in _BY_NAME else list(WORDS)
    if language == "ja":
        return "\n".join(f"{_japanese_usage(word)}：{word.japanese_help}" for word in words)
    return "\n".join(f"{word.usage}: {word.english_help}" for word in words)


def nearest(text: str) -> str | None:
    """The usage of the most similar command, or None."""
    first = normalized(text).partition(" ")[0]
    near = difflib.get_close_matches(first, _BY_SPELLING, n=1, cutoff=0.7)
    return _BY_SPELLING[near[0]].usage if near else None


def table() -> str:
    """The README's table of commands, in Markdown."""
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

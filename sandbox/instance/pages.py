"""Provides templates, texts in two languages, and language selection for the HTML pages."""

from __future__ import annotations

import colorsys
import hashlib
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request

WORDS = {
    "en": {
        "lead": "A small Mastodon on this machine. Post a photo to the bot and watch its answer arrive.",
        "ask": "Ask the bot",
        "as": "as",
        "question": "which gallery does this look like?",
        "text": "Text",
        "photos": "Photos",
        "description": "What the photo shows, for those who cannot see it",
        "post": "Post",
        "nothing": "Nothing has been posted yet.",
        "bot": "bot",
        "edited": "edited",
        "sensitive": "Sensitive media",
        "unlisted": "unlisted",
        "private": "followers only",
        "direct": "private mention",
        "no_alt": "no description",
        "file": "File",
        "back": "All threads",
        "threads": "Threads",
        "answer": "Answer",
    },
    "ja": {
        "lead": "このマシンの中だけの小さなMastodonです。ボットに写真を送ると、返事がここに届きます。",
        "ask": "ボットにきいてみる",
        "as": "投稿者:",
        "question": "どこコス?",
        "text": "本文",
        "photos": "写真",
        "description": "写真の説明(見えない人のために)",
        "post": "投稿",
        "nothing": "まだ投稿がありません。",
        "bot": "ボット",
        "edited": "編集済み",
        "sensitive": "閲覧注意のメディア",
        "unlisted": "未収載",
        "private": "フォロワー限定",
        "direct": "非公開の返信",
        "no_alt": "説明なし",
        "file": "ファイル",
        "back": "すべてのスレッド",
        "threads": "スレッド",
        "answer": "返信",
    },
}


def language_of(request: Request) -> str:
    """The language of the page: `?lang=`, else the browser's first supported language, else English."""
    wished = [request.query_params.get("lang", "")]
    ranked = []
    for part in request.headers.get("accept-language", "").split(","):
        tag, _, quality = part.strip().partition(";q=")
        try:
            ranked.append((float(quality or 1), tag))
        except ValueError:
            continue
    wished += [tag for _, tag in sorted(ranked, key=lambda pair: -pair[0])]
    return next((tag[:2].lower() for tag in wished if tag[:2].lower() in WORDS), "en")


def clock_time(at: datetime) -> str:
    """Hours and minutes in the time zone of this machine."""
    return at.astimezone().strftime("%H:%M")


def colour(name: str) -> str:
    """The colour of an account, dark enough for white text."""
    hue = hashlib.sha256(name.encode()).digest()[0] / 256
    red, green, blue = colorsys.hls_to_rgb(hue, 0.36, 0.5)
    return f"rgb({red * 255:.0f} {green * 255:.0f} {blue * 255:.0f})"


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
TEMPLATES.filters |= {"clock_time": clock_time, "colour": colour}

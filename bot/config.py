"""The bot's sections of config.yaml, beside the trainer's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr

import trainer.config
from trainer.config import Count, FromText, Seconds, Section


class MastodonSettings(Section):
    """The instance the bot lives on, and how patiently it is spoken to."""

    base_url: Annotated[str, Field(pattern=r"^https?://[^/\s]+/?$")] = "https://friends.nico"
    access_token: SecretStr | None = None
    access_token_file: Path | None = None
    allow_http: bool = False
    request_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    stream_timeout_s: Annotated[float, Field(gt=15)] = 40.0
    streaming: bool = True
    reconnect_pause_s: Annotated[float, Field(gt=0)] = 1.0
    max_reconnect_pause_s: Annotated[float, Field(gt=0)] = 300.0
    catch_up_every_s: Annotated[float, Field(gt=0)] = 120.0
    poll_every_s: Annotated[float, Field(gt=0)] = 15.0
    overlap_s: Seconds = 300.0


class LabelText(Section):
    """How one label is shown to people."""

    flag: str = ""
    en: str = ""
    ja: str = ""


DEFAULT_LABELS = {
    "japan": LabelText(flag="🇯🇵", en="Japan", ja="日本"),
    "china": LabelText(flag="🇨🇳", en="China", ja="中国"),
    "brazil": LabelText(flag="🇧🇷", en="Brazil", ja="ブラジル"),
}


class BotSettings(Section):
    """Who is answered, and how."""

    labels: Annotated[dict[str, LabelText], FromText] = DEFAULT_LABELS
    texts: Path | None = None
    admins: Annotated[tuple[str, ...], FromText] = ()
    visibility: Literal["public", "unlisted", "private", "direct"] = "unlisted"
    max_mention_age_h: Annotated[float, Field(gt=0)] = 48.0
    max_images: Annotated[int, Field(ge=1, le=4)] = 4
    batch_size: Annotated[int, Field(ge=1, le=64)] = 8
    concurrent_mentions: Annotated[int, Field(ge=1, le=64)] = 16
    decode_max_bytes: Annotated[int, Field(ge=256 * 1024 * 1024)] = 1024 * 1024 * 1024
    decode_timeout_s: Annotated[float, Field(gt=0)] = 20.0
    pictures: bool = True
    spare_uploads: Annotated[int, Field(ge=0)] = 3
    answer_sensitive: bool = True
    max_answers_per_hour: Count = 20
    max_answers_per_hour_new: Count = 5
    max_answers_in_a_row: Count = 10
    max_attempts: Count = 8
    retry_pause_s: Seconds = 10.0
    max_retry_pause_s: Seconds = 900.0
    keep_days: Annotated[int, Field(ge=1)] = 30


class Settings(trainer.config.Settings):
    """All of config.yaml."""

    mastodon: MastodonSettings = MastodonSettings()
    bot: BotSettings = BotSettings()


def load_settings(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read config.yaml and the environment; see `trainer.config.load_settings`."""
    return trainer.config.load_settings(Settings, path, environ)

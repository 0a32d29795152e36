"""The bot's sections of config.yaml, added to the trainer's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

import trainer.config
from bot.timetable import Timetable
from trainer.config import Count, FromText, Seconds, Section


def home_url(text: str) -> str:
    """Normalizes an instance's address: lower case, no slash at the end, no default port.

    Raises:
        ValueError: it is not such an address.
    """
    expected = "an instance's address and nothing more, like https://example.social"
    try:
        parts = urlsplit(text.strip())
        host, port = (parts.hostname or "").rstrip("."), parts.port
    except ValueError as error:
        raise ValueError(f"{expected} ({error})") from error
    if parts.scheme not in ("http", "https") or not host or re.search(r"\s", host):
        raise ValueError(expected)
    if "@" in parts.netloc or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError(expected)
    try:
        name = f"[{host}]" if ":" in host else host.encode("idna").decode()  # one spelling for bücher.example
    except UnicodeError as error:
        raise ValueError(f"{expected} ({error})") from error
    is_usual = port is None or port == {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{name}{'' if is_usual else f':{port}'}"


def host_name(text: str) -> str:
    """Normalizes the name of a host: lower case, in letters of ASCII, without "@" or "*." before it.

    Raises:
        ValueError: it is no such name.
    """
    name = text.strip().lstrip("@*.").rstrip(".")
    try:
        found = name.encode("idna").decode().lower()  # one spelling for bücher.example
    except UnicodeError as error:
        raise ValueError(f"{text!r}: a host's name is expected, like example.social ({error})") from error
    if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", found):
        raise ValueError(f"{text!r}: a host's name and nothing more is expected, like example.social")
    return found


def _off(value: object) -> object:
    """What `off` is without quotes in YAML, which means false by it."""
    return "off" if value is False else value


def without_token(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without the variables that hold, or were meant to hold, the access token."""
    held = ("dokocos_mastodon", "dokocos_mastodon__access_token")
    return {name: value for name, value in environ.items() if name.lower() not in held}


class MastodonSettings(Section):
    """The bot's instance, the token, and the timing of calls."""

    base_url: Annotated[str, AfterValidator(home_url)] = "https://friends.nico"
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
    """How one label is displayed."""

    flag: str = ""
    en: str = ""
    ja: str = ""


DEFAULT_LABELS = {
    "japan": LabelText(flag="🇯🇵", en="Japan", ja="日本"),
    "china": LabelText(flag="🇨🇳", en="China", ja="中国"),
    "brazil": LabelText(flag="🇧🇷", en="Brazil", ja="ブラジル"),
}


class BotSettings(Section):
    """Who is answered, and how; limits and retries."""

    labels: Annotated[dict[str, LabelText], FromText] = DEFAULT_LABELS
    texts: Path | None = None
    admins: Annotated[tuple[str, ...], FromText] = ()
    blocked_domains: Annotated[tuple[Annotated[str, AfterValidator(host_name)], ...], FromText] = ()
    ask_instances: bool = True
    visibility: Literal["public", "unlisted", "private", "direct"] = "unlisted"
    max_mention_age_h: Annotated[float, Field(gt=0)] = 48.0
    max_images: Annotated[int, Field(ge=1, le=4)] = 4
    batch_size: Annotated[int, Field(ge=1, le=64)] = 8
    concurrent_mentions: Annotated[int, Field(ge=1, le=64)] = 16
    refuse_unknown: bool = True
    pictures: bool = True
    spare_uploads: Annotated[int, Field(ge=0)] = 3
    answer_sensitive: bool = True
    max_answers_per_hour: Count = 20
    max_answers_per_hour_new: Count = 5
    max_answers_in_a_row: Count = 10
    max_attempts: Count = 16
    retry_pause_s: Seconds = 10.0
    max_retry_pause_s: Seconds = 900.0
    keep_days: Annotated[int, Field(ge=1)] = 30
    contributions: Annotated[Literal["off", "ask"], BeforeValidator(_off)] = "off"
    sample_answers_per_week: Annotated[int, Field(ge=0, le=100)] = 0
    http_port: Annotated[int, Field(ge=0, le=65535)] = 0
    http_host: str = "127.0.0.1"
    http_names: Annotated[tuple[str, ...], FromText] = ()
    min_free_bytes: Annotated[int, Field(ge=0)] = 500 * 1024 * 1024


class JobSettings(Section):
    """One recurring job; `when` is a cron line or an interval, see `bot.timetable`."""

    enabled: bool = True
    when: str
    jitter_s: Seconds = 0.0
    misfire_grace_h: Annotated[float, Field(gt=0)] = 1.0


class ScheduleSettings(Section):
    """The recurring jobs, and the limits of their child processes."""

    time_zone: str = "UTC"
    scrape: JobSettings = JobSettings(when="0 1 * * *", jitter_s=7200.0, misfire_grace_h=18.0)
    train: JobSettings = JobSettings(when="0 4 * * sun", jitter_s=3600.0, misfire_grace_h=120.0)
    review: JobSettings = JobSettings(enabled=False, when="0 8 * * mon", misfire_grace_h=120.0)
    report: JobSettings = JobSettings(when="0 9 * * mon", misfire_grace_h=48.0)
    prune: JobSettings = JobSettings(when="every 6 h", misfire_grace_h=24.0)
    tidy: JobSettings = JobSettings(when="every 6 h", misfire_grace_h=24.0)
    sweep: JobSettings = JobSettings(when="every 1 h", misfire_grace_h=24.0)
    catch_up: JobSettings = JobSettings(when="every 1 h", misfire_grace_h=1.0)
    watch: JobSettings = JobSettings(when="every 15 min", misfire_grace_h=1.0)
    sample: JobSettings = JobSettings(when="every 1 h", misfire_grace_h=24.0)
    min_new_photos: Annotated[int, Field(ge=0)] = 300
    child_niceness: Annotated[int, Field(ge=0, le=19)] = 19
    child_threads: Annotated[int, Field(ge=0)] = 0
    child_max_bytes: Annotated[int, Field(ge=512 * 1024 * 1024)] = 6 * 1024 * 1024 * 1024
    child_max_h: Annotated[float, Field(gt=0)] = 48.0

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        """Fills a job's missing settings with that job's own defaults, not those of `JobSettings`."""
        if not isinstance(given, Mapping):
            return given
        filled = dict(given)
        for name, field in cls.model_fields.items():
            if isinstance(field.default, JobSettings) and isinstance(given.get(name), Mapping):
                filled[name] = field.default.model_dump() | dict(given[name])
        return filled

    @model_validator(mode="after")
    def _understand_times(self) -> Self:
        for name, job in self.jobs().items():
            try:
                Timetable(job.when, time_zone=self.time_zone)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        return self

    def jobs(self) -> dict[str, JobSettings]:
        """All jobs by name."""
        return {name: value for name, value in self if isinstance(value, JobSettings)}


class Settings(trainer.config.Settings):
    """All of config.yaml."""

    mastodon: MastodonSettings = MastodonSettings()
    bot: BotSettings = BotSettings()
    schedule: ScheduleSettings = ScheduleSettings()


def load_settings(path: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Reads config.yaml and the environment; see `trainer.config.load_settings`."""
    return trainer.config.load_settings(Settings, path, environ)

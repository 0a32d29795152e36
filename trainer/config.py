"""Reads config.yaml and the environment into frozen, typed settings.

The trainer's sections live here; `bot.config` adds its own to the same file. An unknown key or an invalid value is an
error. The message names the key, the value, the allowed values and the closest known key.
"""

from __future__ import annotations

import difflib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from trainer.errors import ConfigError

logger = logging.getLogger(__name__)

ENV_PREFIX = "DOKOCOS_"
FOR_TESTS = "DOKOCOS_TEST_"
# What orchestrators set for every service, here one called dokocos: DOKOCOS_PORT=tcp://..., DOKOCOS_SERVICE_HOST, ...
SERVICE_LINK = re.compile(r"PORT(_\d+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?|SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)")
DEFAULT_PATH = Path("config.yaml")
# Sections of the same file that other packages read; the trainer ignores them.
FOREIGN_SECTIONS = frozenset({"mastodon", "bot", "schedule"})

VGG16_LAYERS = tuple(
    f"block{block}_{layer}"
    for block, convs in enumerate((2, 2, 3, 3, 3), start=1)
    for layer in (*(f"conv{i}" for i in range(1, convs + 1)), "pool")
)
BUCKET_URL = re.compile(r"s3://[a-z0-9][a-z0-9.-]+[a-z0-9](/[A-Za-z0-9_-][A-Za-z0-9._-]*)*/?")
ENDPOINT_URL = re.compile(r"https?://[A-Za-z0-9.-]+(:\d+)?/?|https?://\[[0-9a-fA-F:]+\](:\d+)?/?")
VIEWS = ("whole", "mirror", "top", "middle", "bottom")
# The crop to the figure, in the names of its views; counted up when it changes (`trainer.photos.figure`).
FIGURE = "figure1"


def _from_yaml_text(value: object) -> object:
    """Parse a list or a mapping given as text in the environment; return any other value unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value  # the next validator reports it, with the allowed values


T = TypeVar("T")
FromText = BeforeValidator(_from_yaml_text)
Fraction = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


def _plain_path(path: Path) -> Path:
    """Refuse what a file with Windows line ends makes of a path. Raises ValueError."""
    if any(ord(letter) < ord(" ") for letter in str(path)):
        raise ValueError(f"{str(path)!r} holds a control character; was it copied from a file with other line ends?")
    return path


class Section(BaseModel):
    """One section of config.yaml: frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LogSettings(Section):
    """Log lines on standard error."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["plain", "json"] = "plain"


class WebSettings(Section):
    """HTTP requests of the scraper and the bot."""

    contact: str = ""
    connect_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    total_timeout_s: Annotated[float, Field(gt=0)] = 30.0
    max_redirects: Annotated[int, Field(ge=0)] = 3
    max_attempts: Count = 4
    backoff_s: Seconds = 2.0
    ports: Annotated[tuple[Annotated[int, Field(ge=1, le=65535)], ...], FromText] = (80, 443)
    allow_private_addresses: bool = False


class ImageSettings(Section):
    """Limits for a photo, checked before it is decoded, and for decoding one; and what trainings see of it."""

    max_bytes: Count = 16 * 1024 * 1024
    max_pixels: Count = 33_177_600
    min_side_px: Count = 32
    max_frames: Count = 1000
    decode_max_bytes: Annotated[int, Field(ge=64 * 1024 * 1024)] = 1024 * 1024 * 1024
    decode_timeout_s: Annotated[float, Field(gt=0)] = 20.0
    crop: Literal["none", "figure"] = "none"


class Country(Section):
    """The pair of ids by which the site lists the members of one country."""

    region: Annotated[int, Field(ge=0)]
    country: Annotated[int, Field(ge=0)]


class WorldCosplaySettings(Section):
    """The site Cure WorldCosplay, or a server with the same API."""

    base_url: Annotated[str, Field(pattern=r"^https?://[^/\s]+")] = "https://worldcosplay.net"
    countries: Annotated[dict[str, Country], FromText, Field(min_length=2)] = {
        "japan": Country(region=19, country=114),
        "china": Country(region=19, country=48),
        "brazil": Country(region=9, country=31),
    }
    image_hosts: Annotated[tuple[str, ...], FromText] = ("wc-ahba9see.c.sakurastorage.jp",)
    image_size: Annotated[str, Field(pattern=r"^\d+(x\d+)?$")] = "350x600"
    page_size: Annotated[int, Field(ge=1, le=24)] = 16


class FolderSettings(Section):
    """A folder with one sub-folder for each label, or with train/validation/holdout folders that hold them."""

    path: Path = Path("photos")


class SourceSettings(Section):
    """Where the photos come from."""

    kind: Literal["worldcosplay", "folder"] = "worldcosplay"
    worldcosplay: WorldCosplaySettings = WorldCosplaySettings()
    folder: FolderSettings = FolderSettings()


class ScrapeSettings(Section):
    """How many photos to scrape, and how fast."""

    photos_per_label: Count = 6000
    page_pause_s: Seconds = 10.0
    image_pause_s: Seconds = 0.5
    concurrent_images: Annotated[int, Field(ge=1, le=8)] = 2
    stop_after_known: Count = 200


class SplitSettings(Section):
    """Shares of the members (of the files, if there are no members) that are not used for training."""

    validation: Annotated[float, Field(gt=0, lt=0.5)] = 0.2
    holdout: Annotated[float, Field(gt=0, lt=0.5)] = 0.2
    near_duplicate_bits: Annotated[int, Field(ge=0, le=64)] = 12
    min_photos_per_label: Count = 20


class FeatureSettings(Section):
    """The frozen VGG16 and the features it computes."""

    weights: str = "imagenet"
    weights_seed: Annotated[int, Field(ge=0)] = 0
    layers: Annotated[tuple[Literal[VGG16_LAYERS], ...], FromText, Field(min_length=1)] = (  # type: ignore[valid-type]
        "block3_conv3",
        "block4_conv3",
        "block5_conv3",
    )
    views: Annotated[tuple[Literal[VIEWS], ...], FromText, Field(min_length=1)] = ("whole", "mirror")  # type: ignore[valid-type]
    precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    batch_size: Annotated[int, Field(ge=0)] = 0


class HeadSettings(Section):
    """The small classifier on top of VGG16, and how it is fitted."""

    l2: Literal["auto"] | Annotated[float, Field(gt=0)] = "auto"
    hidden_units: Annotated[int, Field(ge=0)] = 0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    learning_rate: Annotated[float, Field(gt=0)] = 0.0003
    batch_size: Count = 128
    max_epochs: Count = 200
    patience: Count = 20
    balance: Literal["weights", "none"] = "weights"
    seed: Annotated[int, Field(ge=0)] = 0
    fine_tune: Literal["none", "block5"] = "none"
    fine_tune_learning_rate: Annotated[float, Field(gt=0)] = 0.00001
    fine_tune_max_epochs: Count = 8


class EvaluateSettings(Section):
    """How a version is evaluated."""

    target_precision: Annotated[float, Field(gt=0, lt=1)] = 0.8
    min_answers_per_label: Count = 20
    resamples: Annotated[int, Field(ge=100)] = 2000
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    max_class_loss: Fraction = 0.05


class ExchangeSettings(Section):
    """Versions that travel from one machine to another."""

    trusted_keys: Annotated[
        tuple[Annotated[str, Field(pattern=r"^RW[Q-T][A-Za-z0-9+/]{53}$")], ...],
        FromText,
    ] = ()
    key_file: Path | None = None
    password_file: Path | None = None


def _object_url(url: str) -> str:
    """Refuse what does not name a bucket. Raises ValueError."""
    if not BUCKET_URL.fullmatch(url):
        raise ValueError("s3://BUCKET or s3://BUCKET/PREFIX; credentials do not belong here")
    return url


def _endpoint_url(url: str) -> str:
    """Refuse what does not name a server. Raises ValueError."""
    if not ENDPOINT_URL.fullmatch(url):
        raise ValueError("http(s)://HOST or http(s)://HOST:PORT; credentials do not belong here")
    return url


class BucketSettings(Section):
    """An S3 bucket for scraped photos and features; its credentials are where AWS's own programs look for them."""

    url: Annotated[str, AfterValidator(_object_url)] | None = None
    endpoint_url: Annotated[str, AfterValidator(_endpoint_url)] | None = None


class ReviewSettings(Section):
    """Photos that are taken out of training before it, and how long contributed ones wait for a decision."""

    drop_sure: bool = False
    max_share: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    keep_contributions_days: Annotated[float, Field(gt=0)] = 30.0


class Settings(Section):
    """All settings of the trainer; the program writes only into `data_dir`."""

    data_dir: Annotated[Path, AfterValidator(_plain_path)] = Path("data")
    log: LogSettings = LogSettings()
    web: WebSettings = WebSettings()
    images: ImageSettings = ImageSettings()
    source: SourceSettings = SourceSettings()
    scrape: ScrapeSettings = ScrapeSettings()
    split: SplitSettings = SplitSettings()
    features: FeatureSettings = FeatureSettings()
    head: HeadSettings = HeadSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    review: ReviewSettings = ReviewSettings()
    exchange: ExchangeSettings = ExchangeSettings()
    bucket: BucketSettings = BucketSettings()

    @property
    def views(self) -> tuple[str, ...]:
        """The views of a training, of the figure if `images.crop` says so; the first is the one that is classified."""
        crop = "" if self.images.crop == "none" else f"{FIGURE}/"
        return tuple(f"{crop}{name}" for name in self.features.views)

    @model_validator(mode="after")
    def _check_fine_tuned_layers(self) -> Self:
        if self.head.fine_tune != "none" and not any(name.startswith("block5") for name in self.features.layers):
            raise ValueError("head.fine_tune: block5 needs a block5 layer in features.layers, or set it to none")
        return self

    @model_validator(mode="after")
    def _check_training_share(self) -> Self:
        if self.split.validation + self.split.holdout >= 0.8:
            raise ValueError("split.validation and split.holdout together must leave more than 20% for training")
        return self


S = TypeVar("S", bound=Settings)


def load_settings(
    model: type[S],
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    root: Path | None = None,
) -> S:
    """Load the settings: defaults, overridden by config.yaml, overridden by the environment.

    Args:
        model: `Settings`, or a subclass with more sections.
        path: the file; None means `config.yaml` in `root`, where a missing file means all defaults.
        environ: variables like DOKOCOS_DATA_DIR or DOKOCOS_IMAGES__MAX_BYTES; None means `os.environ`.
        root: folder of the default path; None means the working directory.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong. The message has one line for each problem.
    """
    environ = os.environ if environ is None else environ
    file = path if path is not None else (root or Path()) / DEFAULT_PATH
    raw = _read_yaml(file, required=path is not None)
    _refuse_secrets(raw, file)
    origin = _merge_environment(raw, environ)
    for section in FOREIGN_SECTIONS - model.model_fields.keys():
        raw.pop(section, None)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        lines = [_explain(detail, model, origin, file) for detail in error.errors(include_url=False)]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None  # the cause would show the values


def _read_yaml(file: Path, *, required: bool) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not required:
            return {}
        raise ConfigError(f"{file}: no such file; copy config.yaml from the repository, or omit --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from error
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{file}: must contain `key: value` lines, not a {type(raw).__name__}")
    return raw


def _refuse_secrets(raw: dict[str, Any], file: Path) -> None:
    section = raw.get("mastodon")
    if isinstance(section, dict) and section.get("access_token") is not None:
        raise ConfigError(
            f"{file}: mastodon.access_token: a secret does not belong in this file; set the environment variable "
            f"{ENV_PREFIX}MASTODON__ACCESS_TOKEN, or run `python -m bot login`"
        )


def _merge_environment(raw: dict[str, Any], environ: Mapping[str, str]) -> dict[tuple[str, ...], str]:
    """Write DOKOCOS_A__B=value into raw["a"]["b"]; returns which variable set which key."""
    origin = {}
    for name, value in sorted(environ.items()):
        if not name.startswith(ENV_PREFIX) or name.startswith(FOR_TESTS):
            continue
        if SERVICE_LINK.fullmatch(name.removeprefix(ENV_PREFIX)):
            logger.debug("ignored the variable of a service link name=%s", name)
            continue
        keys = tuple(name.removeprefix(ENV_PREFIX).lower().split("__"))
        level = raw
        for key in keys[:-1]:
            if not isinstance(level.get(key), dict):
                level[key] = {}
            level = level[key]
        level[keys[-1]] = value
        origin[keys] = name
    return origin


def _explain(detail: ErrorDetails, model: type[BaseModel], origin: Mapping[tuple[str, ...], str], file: Path) -> str:
    """Describe one problem in a line: where it is, what is wrong, and what is allowed."""
    keys = tuple(str(key) for key in detail["loc"])
    place = next(
        (f"environment variable {origin[keys[:n]]}" for n in range(len(keys), 0, -1) if keys[:n] in origin),
        None,
    )
    where = f"{place or file}: {'.'.join(keys) or 'settings'}"
    if detail["type"] == "extra_forbidden":
        return f"{where}: no such key; {_nearest(keys, model)}"
    allowed = re.sub(r"^(Input should be |Value error, )", "", detail["msg"])
    # A secret may have been put in the place of the section that it belongs to.
    of_section = detail["type"] in ("model_type", "model_attributes_type")
    if of_section or (keys and (keys[-1] == "access_token" or keys[0] == "bucket")):
        return f"{where}: allowed: {allowed}"
    given = detail["input"]
    shown = "" if isinstance(given, dict | BaseModel) else f"{given!r} is not allowed; "
    return f"{where}: {shown}allowed: {allowed}"


def _nearest(keys: tuple[str, ...], model: type[BaseModel]) -> str:
    known = list(_known_keys(model))
    siblings = [key for key in known if key[:-1] == keys[:-1]]
    near = difflib.get_close_matches(keys[-1], [key[-1] for key in siblings], n=1)
    if near:
        return f"did you mean {near[0]}?"
    elsewhere = [".".join(key) for key in known if key[-1] == keys[-1]]
    near = elsewhere or difflib.get_close_matches(".".join(keys), [".".join(key) for key in known], n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"known here: {', '.join(key[-1] for key in siblings) or 'nothing'}"


def _known_keys(model: type[BaseModel], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        yield (*prefix, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _known_keys(field.annotation, (*prefix, name))

"""Finds the access token: in the environment, or in a file that no other user can read."""

from __future__ import annotations

import json
import logging
import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot.config import Settings, home_url
from trainer.errors import ConfigError, StorageError

logger = logging.getLogger(__name__)

TOKEN_FILE = "mastodon_token"  # noqa: S105 - a file's name
APP_FILE = "mastodon_app.json"


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """A token and where it was found (for messages)."""

    token: str
    origin: str


def token_path(settings: Settings) -> Path:
    """The path of the token's file, which may not exist."""
    return settings.mastodon.access_token_file or settings.data_dir / TOKEN_FILE


def find_token(settings: Settings) -> Credentials:
    """The token for the configured instance.

    Raises:
        ConfigError: there is none, other users can read its file, it belongs to another instance, or it would be sent
            unencrypted.
    """
    base_url = settings.mastodon.base_url
    if not base_url.startswith("https://") and not settings.mastodon.allow_http:
        raise ConfigError(f"mastodon.base_url: {base_url} is not https://; the token would be sent unencrypted")
    if settings.mastodon.access_token is not None and settings.mastodon.access_token.get_secret_value().strip():
        return _usable(settings.mastodon.access_token.get_secret_value(), "the environment")
    path = token_path(settings)
    held = read_private_json(path)
    if held is None:
        raise ConfigError(
            f"{path}: no access token yet; run `python -m bot login {base_url}`, or set DOKOCOS_MASTODON__ACCESS_TOKEN"
        )
    token, home = held.get("access_token"), str(held.get("base_url", base_url))
    with suppress(ValueError):
        home = home_url(home)
    if not isinstance(token, str) or not token:
        raise ConfigError(f"{path}: holds no access_token; run `python -m bot login {base_url}`")
    if home != base_url:
        raise ConfigError(
            f"{path}: this token is for {home}, mastodon.base_url is {base_url}; change it in config.yaml, "
            f"or run `python -m bot login {base_url}`"
        )
    return _usable(token, str(path))


def _usable(token: str, origin: str) -> Credentials:
    """Checks that a token may be sent in a header (RFC 6750). Raises ConfigError, without showing the token."""
    stripped = token.strip()
    if not re.fullmatch(r"[\w.~+/-]+=*", stripped, re.ASCII):
        raise ConfigError(
            f"{origin}: the access token contains a line break, a space or a character that no token has; copy the "
            "token alone, or run `python -m bot login`"
        )
    return Credentials(stripped, origin)


def read_private_json(path: Path) -> dict[str, Any] | None:
    """Reads a JSON object, or a bare token as {"access_token": ...}, from a private file; None without a file.

    Raises:
        ConfigError: other users can read it, or it cannot be read.
    """
    try:
        with path.open(encoding="utf-8") as file:
            facts = os.fstat(file.fileno())
            text = file.read()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    mode = stat.S_IMODE(facts.st_mode)
    if mode & 0o077 and facts.st_uid != os.geteuid() and not mode & 0o022:
        # A mounted secret: readable by a group, and not ours to change.
        logger.warning("%s: others can read it (mode %04o), and it is not this user's to change", path, mode)
    elif mode & 0o077:
        raise ConfigError(f"{path}: others can read it (mode {mode:04o}); run `chmod 600 {path}`")
    try:
        held = json.loads(text)
    except ValueError:
        return {"access_token": text.strip()}
    return held if isinstance(held, dict) else {"access_token": text.strip()}


def write_private_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON object to a file that only this user can read, in one step.

    Raises:
        StorageError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise StorageError(f"{path}: cannot be written: {error}") from error

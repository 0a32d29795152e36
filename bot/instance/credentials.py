"""Finds the access token: in the environment, or in a file that no other user can read."""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
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
MAX_FILE_CHARACTERS = 64 * 1024


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


def is_token(text: str) -> bool:
    """Whether a text has the form of a bearer token. Source: RFC 6750, section 2.1."""
    return re.fullmatch(r"[\w.~+/-]+=*", text, re.ASCII) is not None


def _usable(token: str, origin: str) -> Credentials:
    """Checks that a token may be sent in a header. Raises ConfigError, without showing the token."""
    stripped = token.strip()
    if not is_token(stripped):
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
        # Opening a pipe would wait for its other end.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), encoding="utf-8") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise ConfigError(f"{path}: is not a file")
            text = file.read(MAX_FILE_CHARACTERS)
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
        StorageError: it cannot be written, it belongs to another user, or others could exchange it.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_place(path)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o600)  # whatever the umask
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise StorageError(f"{path}: cannot be written: {error}") from error


def _check_place(path: Path) -> None:
    """Raises StorageError where another user has put the file, or could replace it afterwards."""
    folder = path.parent.stat()
    if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
        raise StorageError(f"{path.parent}: every user can write there; run `chmod o-w {path.parent}`")
    with suppress(FileNotFoundError):
        facts = path.lstat()
        if facts.st_uid != os.geteuid():
            raise StorageError(f"{path}: belongs to another user; nothing was written. Is data_dir the right folder?")
        if not stat.S_ISREG(facts.st_mode):
            raise StorageError(f"{path}: is not a file of its own; nothing was written. Move it away")


def remove_private_file(path: Path) -> None:
    """Deletes a file of `write_private_json`, if it is there."""
    with suppress(OSError):
        path.unlink()

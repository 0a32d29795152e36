"""Checks what is missing or wrong before the bot can run; one result for each check."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal

from bot.config import LabelText, Settings
from bot.errors import InstanceError, OutOfScope, Unauthorized
from bot.instance.client import Client
from bot.instance.credentials import find_token
from bot.instance.listener import Listener
from bot.instance.scopes import try_scopes
from bot.mentions.etiquette import has_no_bots_tag
from bot.reply.fonts import writable
from bot.reply.texts import load_texts
from trainer.errors import ConfigError, ProjectError
from trainer.photos.decode import Decoder
from trainer.photos.figure import check_detector
from trainer.web.fetch import user_agent

STREAM_WAIT_S = 10.0
MIN_FREE_BYTES = 500 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one check.

    Attributes:
        level: ok; note: it works, but a person should know; fault: the bot cannot run, or not as it should.
        fix: fixes it, if the bot can do so itself.
    """

    level: Literal["ok", "note", "fault"]
    text: str
    fix: Callable[[], None] | None = None


def offline(settings: Settings) -> Iterator[Result]:
    """What can be told without any network: texts, folder, token, decoding, the version that would serve."""
    yield Result("ok", "config: every setting is known and allowed")
    yield _texts(settings)
    yield _folder(settings)
    yield _token(settings)
    yield _decoding(settings)
    yield from _champion(settings)


def online(settings: Settings) -> Iterator[Result]:
    """Checks with the instance: address, token, scopes, private mentions, streaming."""
    try:
        token = find_token(settings).token
    except ConfigError:
        return  # reported by `offline`
    client = Client(settings.mastodon, token, user_agent=user_agent(settings.web))
    try:
        instance = client.home.instance()
        yield Result(
            "ok",
            f"instance: {settings.mastodon.base_url} answers, version {instance.version}, "
            f"{instance.max_characters} characters",
        )
        if has_no_bots_tag(instance.description):
            yield Result("note", "instance: its description asks bots to stay away, so its accounts are not answered")
        yield _account(client)
    except OutOfScope:
        yield from _scopes(settings, client)
        return
    except Unauthorized as error:
        yield Result("fault", f"token: {error}; run `python -m bot login {settings.mastodon.base_url}` for a new one")
        return
    except InstanceError as error:
        hint = "is that the address of a Mastodon server, and is it up?"
        yield Result("fault", f"instance: {settings.mastodon.base_url}: {error}; {hint}")
        return
    yield from _scopes(settings, client)
    yield _private_mentions(client)
    yield _streaming(settings, client)


def _texts(settings: Settings) -> Result:
    try:
        texts = load_texts(settings.bot.texts)
    except ConfigError as error:
        return Result("fault", f"texts: {error}")
    return Result("ok", f"texts: {', '.join(texts.templates)}")


def _folder(settings: Settings) -> Result:
    folder = settings.data_dir
    existing = next((each for each in (folder, *folder.absolute().parents) if each.exists()), folder)
    if not os.access(existing, os.W_OK | os.X_OK):
        return Result("fault", f"data_dir: this user cannot write {folder}; change data_dir, or its owner")
    free = shutil.disk_usage(existing).free
    if free < MIN_FREE_BYTES:
        return Result("note", f"data_dir: {folder} has only {free / 1e6:.0f} MB left")
    return Result("ok", f"data_dir: {folder} can be written, {free / 1e9:.0f} GB free")


def _token(settings: Settings) -> Result:
    try:
        found = find_token(settings)
    except ConfigError as error:
        return Result("fault", f"token: {error}")
    return Result("ok", f"token: from {found.origin}")


def _decoding(settings: Settings) -> Result:
    """Whether the processes that see strangers' files can do nothing else."""
    with closing(Decoder(settings.images, n_children=1)) as decoder:
        try:
            lacks = decoder.lacks()
        except ProjectError as error:
            return Result("fault", f"photos: {error}")
    if lacks:
        return Result(
            "note",
            "photos: a file that takes its decoder over is not shut in as it should be (docs/SECURITY.md); "
            f"this system lacks: {'; '.join(lacks)}",
        )
    return Result("ok", "photos: decoded where no file, network or other process can be reached")


def _champion(settings: Settings) -> Iterator[Result]:
    from trainer.registry.serving import champion  # with it come the parts of the trainer, though not TensorFlow

    try:
        version = champion(settings)
    except ProjectError as error:
        yield Result("fault", f"model: {error}")
        return
    if version is None:
        yield Result("fault", f"model: {settings.data_dir} holds no version yet; run `python -m trainer train`")
        return
    try:
        check_detector(version.facts.view)
    except ProjectError as error:
        yield Result("fault", f"model: {version.name}: {error}")
        return
    seen = "" if version.facts.crop == "none" else "; it sees photos cropped to the figure"
    yield Result("ok", f"model: version {version.name} is whole; galleries: {', '.join(version.facts.labels)}{seen}")
    nameless = [
        label for label in version.facts.labels if not writable(settings.bot.labels.get(label, LabelText()).en or label)
    ]
    if nameless:
        yield Result(
            "note",
            f"pictures: no font here can write {', '.join(nameless)}, so they come without bars; install fonts and "
            "libfribidi0 (on Debian: fonts-noto-core, fonts-noto-cjk), or give an English name in bot.labels",
        )


def _account(client: Client) -> Result:
    me = client.home.me()
    if not me.bot:
        return Result("note", f"account: @{me.acct} is not marked as a bot; set that in its profile, people expect it")
    return Result("ok", f"account: @{me.acct}, marked as a bot")


def _scopes(settings: Settings, client: Client) -> Iterator[Result]:
    """Checks each scope by a call that changes nothing."""
    tried = list(try_scopes(client))
    for each in tried:
        if each.outcome == "missing":
            again = f"run `python -m bot login {settings.mastodon.base_url}` again"
            yield Result("fault", f"scopes: {each.scope} is missing, so {each.without} ({each.why}); {again}")
        elif each.outcome == "unknown":
            yield Result("note", f"scopes: {each.scope} could not be checked: {each.why}")
    if all(each.outcome != "missing" for each in tried):
        yield Result("ok", f"scopes: {', '.join(each.scope for each in tried)}")


def _private_mentions(client: Client) -> Result:
    try:
        policy = client.home.private_mention_policy()
    except InstanceError as error:
        return Result("note", f"private mentions: the policy could not be read: {error}")
    if policy in (None, "accept"):
        return Result("ok", "private mentions: from strangers too")
    if policy == "drop":
        return Result(
            "note",
            "private mentions: the account's notification policy drops those from strangers; the bot never sees them",
            client.home.accept_private_mentions,
        )
    return Result(
        "note",
        "private mentions: the account's notification policy filters those from strangers; the bot reads them, but "
        f"only every few minutes, as the stream omits them (policy: {policy})",
        client.home.accept_private_mentions,
    )


def _streaming(settings: Settings, client: Client) -> Result:
    every = f"the bot polls every {settings.mastodon.poll_every_s:g} s"
    if not settings.mastodon.streaming:
        return Result("ok", f"streaming: off by config; {every}")
    probe = Probe()
    ended = "connected, but silent"

    def listen() -> None:
        nonlocal ended
        try:
            client.stream.read(Listener(probe))
            ended = "closed by the server at once"
        except InstanceError as error:
            ended = str(error)
        probe.over.set()

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    probe.over.wait(STREAM_WAIT_S)
    client.stream.close()
    thread.join(STREAM_WAIT_S)
    way = client.stream.way.speech if client.stream.way else ""
    return Result("ok", f"streaming: open ({way})") if probe.is_open else Result("note", f"streaming: {ended}; {every}")


class Probe:
    """Receives a stream's events; only records whether the stream opens."""

    def __init__(self) -> None:
        self.is_open = False
        self.over = threading.Event()

    def opened(self) -> None:
        self.is_open = True
        self.over.set()

    def notified(self, raw: dict[str, Any]) -> None:
        pass

    def edited(self, raw: dict[str, Any]) -> None:
        pass

    def deleted(self, status_id: str) -> None:
        pass

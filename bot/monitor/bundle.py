"""Collects what a bug report needs and nothing that is about a person: no id, no name, no text, no address.

Nothing is looked for and taken out; what is shown was allowed. Settings are shown by value only where they are numbers,
switches or one of a few words. Of messages only words that the program's own code says are left: whatever else stands
in them, a name, a host, what somebody wrote, came from outside.
"""

from __future__ import annotations

import ast
import builtins
import errno
import os
import platform
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import cache
from http import HTTPStatus
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Literal, get_origin

import trainer
from bot.admin.status import StatusReader
from bot.config import Settings
from bot.monitor.health import problem
from bot.storage.database import SQLITE_VERSION
from bot.storage.records import DAY_S, Records
from bot.storage.store import DATABASE, Store
from trainer.config import Section
from trainer.errors import ProjectError

PACKAGES = (
    "Mastodon.py", "Pillow", "pillow-heif", "keras", "tensorflow", "tensorflow-cpu", "numpy", "requests", "urllib3",
    "APScheduler", "pydantic", "typer",
)  # fmt: skip
MASTODON_SAYS = (
    "Record not found", "Validation failed", "Text character limit of exceeded", "Text can't be blank",
    "The access token is invalid", "The access token was revoked", "The access token expired", "Too many requests",
    "This action is outside the authorized scopes", "This action is not allowed", "Your login is currently disabled",
    "Your login is currently pending approval", "Your login is missing a confirmed e-mail address",
    "The post you are trying to reply to does not appear to exist",
    "There was a temporary problem serving your request, please try again",
    "Remote data could not be fetched", "status too long, characters provided but limit is",
)  # fmt: skip
N_ERRORS = 30
DAYS = 14
ELSEWHERE = "…"
_FROM_OUTSIDE = re.compile(
    r"\S*[@/\\]\S*"  # handles, addresses, paths
    r"|\w[\w-]*(?:[.:]\w[\w-]*)+"  # hosts, file names, IP addresses
    r"|\"[^\"]*\"|“[^”]*”|«[^»]*»|「[^」]*」|(?<!\w)'[^']*'"  # what somebody else said
)
_PIECE = re.compile(
    r"(?P<status>HTTP \d{3}\b)|(?P<word>[A-Za-z]+)|(?P<other>[^\W_a-zA-Z]+)|(?P<sign>[ .,:;()=-])|.", re.DOTALL
)
_TROUBLE = re.compile(r"\b(?:WARNING|ERROR|CRITICAL)\b|^\w*(?:Error|Exception)\b")


def write_bundle(settings: Settings, checks: Iterable[tuple[str, str]], *, now: float) -> str:
    """The bundle's text.

    Args:
        checks: what `python -m bot check --offline` says: level and text.
        now: seconds since the epoch.
    """
    parts = {
        "Versions": _versions(),
        "Settings that are not the default, without texts, names and addresses": _settings(settings),
        "Checks": (f"{level}: {redacted(text)}" for level, text in checks),
        "State": _state(settings, now),
        "Last errors": _errors(settings),
        "Jobs": _runs(settings),
    }
    lines = ["What dokocos says about itself for a bug report. It holds no id, name, text or address."]
    for title, found in parts.items():
        lines += ["", f"## {title}", "", *(_readable(found) or ["none"])]
    return "\n".join(lines) + "\n"


def redacted(text: str) -> str:
    """A message with the words of the program's own code alone; numbers become #, everything else an ellipsis.

    A word is left if it stands beside one that it stands beside in the code, or alone before a colon, as in "posting:".
    """
    pieces = list(_PIECE.finditer(_FROM_OUTSIDE.sub(ELSEWHERE, text)))
    shown = [_kept(piece) for piece in pieces]
    words = [at for at, piece in enumerate(pieces) if piece["word"]]
    own = {
        at
        for first, second in pairwise(words)
        if ELSEWHERE not in shown[first:second] and (shown[first].lower(), shown[second].lower()) in _vocabulary()
        for at in (first, second)
    }
    own |= {at for at in words if shown[at + 1 : at + 2] in ([":"], ["="]) and (shown[at].lower(),) in _vocabulary()}
    others = set(words) - own
    line = "".join(ELSEWHERE if at in others else piece for at, piece in enumerate(shown))
    return " ".join(re.sub(rf"{ELSEWHERE}(?:[\s{ELSEWHERE}#-]*{ELSEWHERE})+", ELSEWHERE, line).split())[:300]


def _kept(piece: re.Match[str]) -> str:
    if piece["other"]:
        return "#" if piece["other"].isdecimal() else ELSEWHERE
    return piece["word"] or piece["status"] or piece["sign"] or (ELSEWHERE if piece[0] == ELSEWHERE else " ")


@cache
def _vocabulary() -> frozenset[tuple[str, ...]]:
    """What messages of this program consist of: words, and pairs of words, in lower case.

    They are its own, those of HTTP, of the system, of Python's errors, and of Mastodon's usual ones.
    """
    said = [*MASTODON_SAYS, *(status.phrase for status in HTTPStatus), *map(os.strerror, errno.errorcode)]
    said += [name for name, value in vars(builtins).items() if isinstance(value, type) and issubclass(value, Exception)]
    folders = [Path(str(module.__file__)).parent for module in (trainer, _own_package())]
    for file in (each for folder in folders for each in folder.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        comments = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in comments:
                said.append(_FROM_OUTSIDE.sub(ELSEWHERE, node.value))
            elif isinstance(node, ast.ClassDef):
                said.append(node.name)
    phrases = [re.findall(rf"[A-Za-z]+|{ELSEWHERE}", text.lower()) for text in said]
    pairs = (pair for words in phrases for pair in pairwise(words))
    return frozenset((*((word,) for words in phrases for word in words), *pairs))


def _own_package() -> ModuleType:
    return sys.modules[__name__.partition(".")[0]]


def _versions() -> Iterator[str]:
    yield f"dokocos {trainer.__version__}"
    yield f"Python {platform.python_version()}, SQLite {SQLITE_VERSION}"
    yield f"{platform.system()} {platform.release()} {platform.machine()}, {os.cpu_count()} processors"
    for name in PACKAGES:
        try:
            yield f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            continue


def _settings(section: Section, default: Section | None = None, at: str = "") -> Iterator[str]:
    default = default or type(section)()
    for name, value in section:
        usual = getattr(default, name)
        if isinstance(value, Section):
            yield from _settings(value, usual, f"{at}{name}.")
        elif value != usual:
            is_choice = get_origin(type(section).model_fields[name].annotation) is Literal
            is_plain = is_choice or isinstance(value, bool | int | float) or value is None
            yield f"{at}{name}: {value if is_plain else 'set'}"


def _state(settings: Settings, now: float) -> Iterator[str]:
    yield "heartbeat: " + ("none" if problem(settings.data_dir, now=now) else "fresh")
    if not (settings.data_dir / DATABASE).exists():
        yield "no database yet"
        return
    store, records = _opened(settings)
    try:
        view = StatusReader(settings, store, records).read()
        yield f"champion: {'none' if view.report is None else 'there is one'}"
        yield f"free: {view.free_bytes // 10**6} MB; paused: {view.paused}; quiet: {view.quiet_until is not None}"
        yield from (f"inbox: {n} {state}" for state, n in sorted(view.counts.items()))
        ended: Counter[tuple[str, str]] = Counter()
        for tally in store.inbox.ended_since(now - DAYS * DAY_S):
            ended[tally.state, redacted(tally.reason)] += tally.n
        yield from (f"in {DAYS} days: {n} {state} {reason}".rstrip() for (state, reason), n in sorted(ended.items()))
        yield f"messages that wait: {len(records.queued())}"
    finally:
        store.close()
        records.close()
    yield f"damaged databases kept: {len(list(settings.data_dir.glob(f'{DATABASE}.damaged-*')))}"


def _errors(settings: Settings) -> Iterator[str]:
    """The last errors of mentions that wait or have failed, and of scrapes and trainings; equal ones are counted."""
    if (settings.data_dir / DATABASE).exists():
        store, records = _opened(settings)
        try:
            entries = [entry for entry in store.inbox.entries(open_only=True, limit=N_ERRORS) if entry.reason]
        finally:
            store.close()
            records.close()
        found = Counter(f"mention {entry.state} in try {entry.tries}: {redacted(entry.reason)}" for entry in entries)
        yield from (f"{text} ({n} times)" if n > 1 else text for text, n in found.items())
    for path in sorted((settings.data_dir / "log").glob("*.log")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        for line in [line for line in lines if _TROUBLE.search(line)][-N_ERRORS:]:
            yield f"{redacted(path.stem)}: {redacted(line)}"


def _runs(settings: Settings) -> Iterator[str]:
    if not (settings.data_dir / DATABASE).exists():
        return
    store, records = _opened(settings)
    try:
        for run in records.runs(limit=N_ERRORS):
            took = "" if run.ended_at is None else f" after {run.ended_at - run.started_at:.0f} s"
            began = datetime.fromtimestamp(run.started_at, UTC)
            yield f"{began:%Y-%m-%d %H:%M} {run.job}: {run.outcome or 'running'}{took} {redacted(run.detail)}".rstrip()
    finally:
        store.close()
        records.close()


def _opened(settings: Settings) -> tuple[Store, Records]:
    path = settings.data_dir / DATABASE
    return Store(path, heal=False), Records(path)


def _readable(lines: Iterable[str]) -> list[str]:
    """All lines up to the first error, and that one: the report matters most where things are broken."""
    found: list[str] = []
    try:
        for line in lines:
            found.append(line)
    except (ProjectError, OSError) as error:
        found.append(f"could not be read: {type(error).__name__}: {redacted(str(error))}")
    return found

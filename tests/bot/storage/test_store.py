"""The inbox, the cursor and the opt-outs, and their safety when the database is locked, full or damaged."""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bot.entities import Account, Mention, Status
from bot.storage.inbox import Outcome
from bot.storage.schema import MIGRATIONS
from bot.storage.store import Store
from trainer.errors import ConfigError, StorageError


class Clock:
    """A clock that only moves when told to."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    store = Store(tmp_path / "bot.sqlite3", now=clock)
    yield store
    store.close()


def mention(number: int, *, status_id: str | None = None, account_id: str = "7") -> Mention:
    account = Account(id=account_id, acct="alice", bot=False, created_at=None, profile="secret profile")
    status = Status(
        id=status_id or f"{number}00",
        account=account,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        visibility="direct",
        text="secret text",
        language="en",
        spoiler_text="secret warning",
        sensitive=False,
        attachments=(),
        in_reply_to_id=None,
        mentioned_ids=frozenset(),
        is_boost=False,
    )
    return Mention(str(number), status)


def put(store: Store, *numbers: int, account_id: str = "7") -> None:
    for number in numbers:
        assert store.inbox.put(mention(number, account_id=account_id), look_first=False)


def test_a_mention_that_arrives_twice_is_stored_once(store: Store) -> None:
    put(store, 1)
    assert not store.inbox.put(mention(1), look_first=False)
    assert not store.inbox.put(mention(2, status_id="100"), look_first=False)  # the same status, notified again
    assert store.inbox.counts() == {"new": 1}


def test_no_text_of_a_status_is_stored(store: Store, tmp_path: Path) -> None:
    put(store, 1)
    assert all(b"secret" not in file.read_bytes() for file in tmp_path.iterdir())


def test_a_mention_is_taken_by_one_thread_only(store: Store) -> None:
    put(store, *range(1, 41))
    taken: list[str] = []

    def take() -> None:
        for _ in range(10):
            taken.extend(entry.notification_id for entry in store.inbox.take(1))

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken, key=int) == [str(n) for n in range(1, 41)]


def test_a_deferred_mention_is_due_when_its_time_has_come(store: Store, clock: Clock) -> None:
    put(store, 1)
    store.inbox.take(1)
    store.inbox.defer("1", until=clock.now + 10, reason="later", charged=True)
    assert store.inbox.take(1) == []
    assert store.inbox.next_due() == clock.now + 10
    clock.now += 10
    (entry,) = store.inbox.take(1)
    assert (entry.attempts, entry.tries, entry.reason) == (2, 2, "later")


def test_a_failure_that_is_not_charged_counts_as_no_attempt(store: Store, clock: Clock) -> None:
    put(store, 1)
    for _ in range(3):
        store.inbox.take(1)
        store.inbox.defer("1", until=clock.now, reason="", charged=False)
    (entry,) = store.inbox.take(1)
    assert (entry.attempts, entry.tries) == (1, 4)


def test_a_mention_in_state_posting_keeps_look_first_from_then_on(store: Store, clock: Clock) -> None:
    put(store, 1)
    store.inbox.take(1)
    store.inbox.mark_posting("1")
    store.inbox.defer("1", until=clock.now, reason="", charged=True)
    assert store.inbox.take(1)[0].look_first


def test_only_mentions_that_are_not_in_progress_are_requeued(store: Store) -> None:
    put(store, 1, 2, 3, 4)
    store.inbox.take(3)
    store.inbox.mark_posting("2")
    store.inbox.finish("3", Outcome("answered"))
    assert store.inbox.requeue(["1"]) == 1
    states = {entry.notification_id: entry.state for entry in store.inbox.entries()}
    assert states == {"1": "working", "2": "deferred", "3": "answered", "4": "new"}


def test_a_retry_resets_a_failed_mentions_attempts(store: Store) -> None:
    put(store, 1, 2)
    store.inbox.take(2)
    store.inbox.finish("1", Outcome("failed", reason="poison"))
    store.inbox.finish("2", Outcome("answered"))
    assert store.inbox.retry("2") == 0
    assert store.inbox.retry() == 1
    assert store.inbox.take(5)[0].attempts == 1


def test_an_account_has_an_hourly_limit_and_a_retry_is_not_counted(store: Store, clock: Clock) -> None:
    put(store, 1, 2, 3)
    put(store, 4, account_id="8")
    assert store.inbox.admit("1", account_id="7", limit=2)
    assert store.inbox.admit("1", account_id="7", limit=2)
    assert store.inbox.admit("2", account_id="7", limit=2)
    assert not store.inbox.admit("3", account_id="7", limit=2)
    assert store.inbox.admit("4", account_id="8", limit=2)
    assert store.inbox.admit("1", account_id="7", limit=2)
    clock.now += 3601
    assert store.inbox.admit("3", account_id="7", limit=2)


def test_a_clock_that_was_set_back_keeps_nobody_over_the_limit(store: Store, clock: Clock) -> None:
    put(store, 1, 2)
    clock.now += 10 * 86400
    store.inbox.admit("1", account_id="7", limit=1)
    store.inbox.finish("1", Outcome("answered", kind="limit", reply_id="5"))
    clock.now -= 10 * 86400
    assert store.inbox.claim_notice("2", account_id="7", kind="limit")
    assert store.inbox.admit("2", account_id="7", limit=1)


@pytest.mark.parametrize(
    "ids", [("9", "10", "99", "100"), ("01JZ", "9", "1700000000/mention/0f0e", "ffff-0f", "7"), ("b", "a", "aaa", "c")]
)
def test_the_cursor_is_what_was_read_last_whatever_the_ids_look_like(
    store: Store, clock: Clock, ids: tuple[str, ...]
) -> None:
    for each in ids:  # in one moment, as by one look
        store.cursor.move(each, overlap_s=0)
    assert store.cursor.position(overlap_s=0) == ids[-1]
    for each in ids[:-1]:
        clock.now += 1
        store.cursor.move(f"later {each}", overlap_s=0)
        assert store.cursor.position(overlap_s=0) == f"later {each}"


def test_the_cursor_reaches_back_by_the_overlap(store: Store, clock: Clock) -> None:
    for number in range(10, 20):
        store.cursor.move(str(number), overlap_s=300)
        clock.now += 60
    assert store.cursor.position(overlap_s=300) == "15"  # the newest that was read five minutes ago
    assert store.cursor.position(overlap_s=0) == "19"


def test_the_cursor_keeps_few_rows(store: Store, clock: Clock, tmp_path: Path) -> None:
    for number in range(1000):
        store.cursor.move(str(number), overlap_s=300)
        clock.now += 15
    with closing(sqlite3.connect(tmp_path / "bot.sqlite3")) as database:
        assert database.execute("SELECT count(*) FROM cursor").fetchone()[0] <= 300 / 15 + 2


def test_a_clock_that_is_set_back_does_not_stop_the_cursor(store: Store, clock: Clock) -> None:
    store.cursor.move("5", overlap_s=300)
    clock.now -= 10_000_000
    store.cursor.move("6", overlap_s=300)
    clock.now += 400
    assert store.cursor.position(overlap_s=300) == "6"


def test_a_clock_that_is_set_back_keeps_no_mention_waiting(store: Store, clock: Clock) -> None:
    put(store, 1)
    store.inbox.take(1)
    store.inbox.defer("1", until=clock.now + 60, reason="", charged=True)
    clock.now -= 10_000_000
    assert len(store.inbox.take(1)) == 1


def test_an_inbox_stays_with_one_account_on_one_instance(store: Store) -> None:
    store.belongs_to("https://a.example", "1")
    store.belongs_to("https://a.example", "1")
    for base_url, account_id in (("https://b.example", "1"), ("https://a.example", "2")):
        with pytest.raises(ConfigError, match=r"belongs to account https://a\.example id 1"):
            store.belongs_to(base_url, account_id)


def test_finished_mentions_are_deleted_in_time_and_open_ones_never(store: Store, clock: Clock) -> None:
    put(store, 1, 2, 3)
    store.inbox.finish("1", Outcome("answered"))
    clock.now += 100
    store.inbox.finish("2", Outcome("refused"))
    assert store.inbox.prune(before=clock.now - 50) == 1
    assert {entry.notification_id for entry in store.inbox.entries()} == {"2", "3"}


def test_pruning_ten_thousand_mentions_leaves_a_small_file(store: Store, clock: Clock, tmp_path: Path) -> None:
    for number in range(300):
        put(store, number)
        store.inbox.finish(str(number), Outcome("answered", reply_id=str(number)))
        if number % 100 == 99:
            clock.now += 100
            store.inbox.prune(before=clock.now)
    assert store.inbox.counts() == {}
    store.close()
    assert (tmp_path / "bot.sqlite3").stat().st_size < 120_000


def test_no_other_user_can_read_the_database(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = tmp_path / "data" / "bot.sqlite3"
        Store(path).close()
        path.chmod(0o644)  # as versions from before left it
        with closing(Store(path)) as store:
            put(store, 1)
            modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in (path.parent, *path.parent.iterdir())}
    finally:
        os.umask(before)
    assert modes == {"data": 0o700, "bot.sqlite3": 0o600, "bot.sqlite3-wal": 0o600, "bot.sqlite3-shm": 0o600}


def test_what_is_pruned_is_in_no_file_any_more(store: Store, clock: Clock, tmp_path: Path) -> None:
    put(store, 1, account_id="pruned-account")
    store.inbox.finish("1", Outcome("answered"))

    def held() -> bool:
        return any(b"pruned-account" in each.read_bytes() for each in tmp_path.iterdir())

    assert held()
    clock.now += 100
    assert store.inbox.prune(before=clock.now) == 1
    assert not held()


def test_a_locked_database_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.storage.schema.BUSY_TIMEOUT_S", 0.05)
    impatient = Store(tmp_path / "bot.sqlite3")
    with closing(sqlite3.connect(tmp_path / "bot.sqlite3", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="locked"):
            impatient.inbox.put(mention(1), look_first=False)
        other.execute("ROLLBACK")
    assert impatient.inbox.put(mention(1), look_first=False)
    impatient.close()


def test_a_full_disk_is_a_clear_error_and_damages_nothing(store: Store) -> None:
    store._database._connection.execute("PRAGMA max_page_count = 1")  # for SQLite the same as a full disk
    with pytest.raises(StorageError, match="full"):
        put(store, *range(2, 2000))
    store._database._connection.execute("PRAGMA max_page_count = 1000000")
    before = store.inbox.counts()["new"]
    put(store, 5000)
    assert store.inbox.counts()["new"] == before + 1


@pytest.mark.parametrize("damage", ["text", "middle", "empty header"])
def test_a_damaged_file_is_renamed_and_its_readable_opt_outs_are_kept(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "bot.sqlite3"
    store = Store(path)
    store.opt_outs.add("77")
    assert store.opt_outs.moved("77", to="78")
    store.opt_outs.remove("78")  # it said "start"
    for number in range(500):
        store.inbox.put(mention(number), look_first=False)
    store.close()
    content = bytearray(path.read_bytes())
    if damage == "text":
        content[:] = b"no database at all" * 300
    elif damage == "middle":
        middle = len(content) // 2
        content[middle : middle + 8192] = b"\xff" * 8192
    else:
        content[:100] = bytes(100)
    path.write_bytes(content)
    store = Store(path)
    assert store.inbox.counts() == {}
    assert store.inbox.put(mention(1), look_first=True)
    assert ("77" in store.opt_outs) == (damage == "middle")
    assert not store.opt_outs.moved("77", to="78")  # for the second time
    store.close()
    assert [file.name.split("-")[0] for file in tmp_path.glob("*.damaged-*")] == ["bot.sqlite3.damaged"]


def test_a_file_of_a_newer_format_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "bot.sqlite3"
    Store(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(StorageError, match="update dokocos"):
        Store(path)
    assert not list(tmp_path.glob("*.damaged-*"))


@pytest.mark.parametrize("version", range(len(MIGRATIONS)))
def test_a_file_of_any_past_format_is_migrated(tmp_path: Path, version: int) -> None:
    path = tmp_path / "bot.sqlite3"
    with closing(sqlite3.connect(path)) as database:
        for number, script in enumerate(MIGRATIONS[:version], start=1):
            database.executescript(f"{script} PRAGMA user_version = {number};")
    store = Store(path)
    put(store, 1)
    store.close()


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"bot\.sqlite3: cannot be opened"):
        Store(tmp_path / "file" / "bot.sqlite3")


def test_while_only_some_accounts_are_served_the_others_wait(store: Store) -> None:
    store.inbox.put(mention(1, account_id="7"), look_first=False)
    store.inbox.put(mention(2, account_id="8"), look_first=False)
    assert store.inbox.next_due(only={"9"}) is None
    assert [entry.account_id for entry in store.inbox.take(5, only={"8"})] == ["8"]
    assert store.inbox.take(5, only={"8"}) == []
    assert [entry.account_id for entry in store.inbox.take(5)] == ["7"]


def test_of_mentions_that_are_answered_at_once_one_gets_the_notice(store: Store, clock: Clock) -> None:
    put(store, 1, 2, 3)
    store.inbox.take(3)
    claimed = [store.inbox.claim_notice(number, account_id="7", kind="limit") for number in ("2", "1", "3", "2")]
    assert claimed == [True, False, False, True]
    store.inbox.finish("2", Outcome("answered", kind="limit", reply_id="5"))
    assert not store.inbox.claim_notice("3", account_id="7", kind="limit")
    clock.now += 3601
    assert store.inbox.claim_notice("3", account_id="7", kind="limit")


def test_an_sqlite_that_is_too_old_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(StorageError, match=r"SQLite \S+ is too old for bot\.sqlite3, which needs 3\.37\.0 or newer"):
        Store(tmp_path / "bot.sqlite3")


def test_the_schema_fits_into_the_first_page_so_that_damage_elsewhere_leaves_the_opt_outs_readable(
    store: Store, tmp_path: Path
) -> None:
    store._database.vacuum()
    kind_of_page = (tmp_path / "bot.sqlite3").read_bytes()[100]
    assert kind_of_page == 13  # a leaf: no further page belongs to the schema

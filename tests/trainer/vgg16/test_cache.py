"""The cache stores features atomically and returns them bit-identical."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.errors import StorageError
from trainer.vgg16 import cache as cache_module
from trainer.vgg16.cache import FeatureCache, Features, remove_everywhere

VIEWS = ("whole", "mirror")
N_FEATURES = 6
few = settings(max_examples=25, deadline=None)  # each example writes to disk


def sha256(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def features_of(numbers: list[int]) -> Features:
    """Features that identify their photo and view."""
    grid = np.arange(len(VIEWS) * N_FEATURES, dtype=np.float32).reshape(len(VIEWS), N_FEATURES)
    return np.stack([np.float32(number) * 100 + grid for number in numbers])


def fill(cache: FeatureCache, *batches: list[int]) -> None:
    for numbers in batches:
        cache.append([sha256(number) for number in numbers], features_of(numbers))


def opened(folder: Path, views: tuple[str, ...] = VIEWS) -> FeatureCache:
    return FeatureCache(folder, views=views, n_features=N_FEATURES)


def holds(cache: FeatureCache, numbers: list[int]) -> bool:
    return np.array_equal(cache.load([sha256(number) for number in numbers]), features_of(numbers))


def test_opening_a_cache_writes_nothing(tmp_path: Path) -> None:
    assert opened(tmp_path / "features").missing([sha256(1)]) == [sha256(1)]
    assert not (tmp_path / "features").exists()


def test_appended_features_can_be_loaded_after_reopening(tmp_path: Path) -> None:
    fill(opened(tmp_path), [1, 2], [3])
    assert holds(opened(tmp_path), [3, 1, 2, 1])


def test_shards_that_were_merged_meanwhile_are_found_again(tmp_path: Path) -> None:
    """A training compares with a champion of other views, and goes on with its own features."""
    cache = opened(tmp_path)
    fill(cache, [1, 2], [3])
    other = opened(tmp_path, ("figure1/whole",))
    other.append([sha256(1)], features_of([1])[:, :1])
    other.compact()
    assert holds(cache, [3, 1, 2])


def test_missing_lists_each_photo_once_in_the_given_order(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    fill(cache, [1])
    assert cache.missing([sha256(number) for number in (4, 1, 2, 4)]) == [sha256(4), sha256(2)]


def test_adding_a_view_does_not_change_the_others(tmp_path: Path) -> None:
    fill(opened(tmp_path), [1, 2])
    cache = opened(tmp_path, views=("whole", "top"))
    assert cache.missing_views(sha256(1)) == ("top",)
    cache.append_rows([(sha256(1), "top")], np.full((1, N_FEATURES), 7, dtype=np.float32))
    loaded = cache.load([sha256(1)])
    assert np.array_equal(loaded[0, 0], features_of([1])[0, 0])
    assert (loaded[0, 1] == 7).all()
    assert cache.missing([sha256(1), sha256(2)]) == [sha256(2)]


def test_float16_values_are_rounded_once_and_can_be_removed(tmp_path: Path) -> None:
    halves = FeatureCache(tmp_path / "maps", views=VIEWS, n_features=N_FEATURES, kind="<f2")
    fill(halves, [1, 2])
    again = FeatureCache(tmp_path / "maps", views=VIEWS, n_features=N_FEATURES, kind="<f2")
    loaded = again.load_rows([(sha256(2), "mirror"), (sha256(1), "whole"), (sha256(2), "mirror")])
    assert loaded.dtype == np.float32
    assert np.array_equal(loaded, features_of([2, 1])[[0, 1, 0], [1, 0, 1]])  # small integers are not changed
    assert remove_everywhere(tmp_path, [sha256(1)]) == len(VIEWS)
    left = FeatureCache(tmp_path / "maps", views=VIEWS, n_features=N_FEATURES, kind="<f2")
    assert left.missing([sha256(1), sha256(2)]) == [sha256(1)]
    with pytest.raises(StorageError, match="expected"):
        opened(tmp_path / "maps")


def test_one_view_can_be_loaded_alone(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    fill(cache, [1, 2])
    assert np.array_equal(cache.load([sha256(2)], views=["mirror"]), features_of([2])[:, 1:])


def test_loading_a_missing_photo_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(KeyError, match=sha256(9)):
        opened(tmp_path).load([sha256(9)])


def test_features_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(1, 2, 6\)"):
        opened(tmp_path).append([sha256(1)], np.zeros((1, 2, 5), dtype=np.float32))


@few
@given(cut=st.floats(0, 1, exclude_max=True))
def test_a_truncated_shard_is_set_aside_and_its_photos_are_missing(cut: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        fill(opened(path), [1, 2], [3])
        shard = min(path.iterdir())
        shard.write_bytes(shard.read_bytes()[: int(cut * shard.stat().st_size)])
        cache = opened(path)
        assert cache.missing([sha256(1), sha256(2), sha256(3)]) == [sha256(1), sha256(2)]
        assert holds(cache, [3])
        fill(cache, [1, 2])
        assert holds(opened(path), [1, 2, 3])


@few
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_always_detected(position: float, bit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        fill(opened(path), [1, 2])
        (shard,) = path.iterdir()
        data = bytearray(shard.read_bytes())
        data[int(position * len(data))] ^= 1 << bit
        shard.write_bytes(data)
        cache = opened(path)
        assert cache.missing([sha256(1), sha256(2)]) == [sha256(1), sha256(2)]


def test_a_full_disk_is_an_error_and_damages_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = opened(tmp_path)
    fill(cache, [1, 3])

    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", no_space)
        with pytest.raises(StorageError, match="disk is full"):
            fill(cache, [2])
        with pytest.raises(StorageError, match="disk is full"):
            cache.remove([sha256(1)])
    assert holds(cache, [1, 3])
    assert len(list(tmp_path.iterdir())) == 1
    fill(cache, [2])
    assert holds(opened(tmp_path), [1, 2, 3])


def test_small_shards_are_merged_and_nothing_changes(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    fill(cache, *([number] for number in range(20)))
    cache.compact()
    assert len(list(tmp_path.iterdir())) == 1
    assert holds(cache, list(range(20)))
    assert holds(opened(tmp_path), list(range(20)))


def test_merging_looks_at_each_row_a_few_times_however_many_shards_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = opened(tmp_path)
    fill(cache, *([number] for number in range(40)))
    monkeypatch.setattr(cache_module, "MERGED_BYTES", 2 * next(tmp_path.iterdir()).stat().st_size)
    looked_at: list[int] = []
    rows = cache_module._rows

    def counted(number: int, table: cache_module.Table) -> Any:
        looked_at.append(len(table))
        return rows(number, table)

    monkeypatch.setattr(cache_module, "_rows", counted)
    cache.compact()
    assert len(list(tmp_path.iterdir())) == 20
    assert sum(looked_at) == 2 * len(cache)
    assert holds(cache, list(range(40)))


def test_rows_on_disk_are_those_that_are_loaded(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    fill(cache, [1, 2], [3], [4, 5])
    sha256s = [sha256(number) for number in (5, 1, 3, 1)]
    before = sorted(tmp_path.iterdir())
    for views in (VIEWS, ("mirror",)):
        stored = cache.load_to_disk(sha256s, views=views)
        np.testing.assert_array_equal(stored[:], cache.load(sha256s, views=views).reshape(-1, N_FEATURES))
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(KeyError, match=f"{sha256(6)}, view whole"):
        cache.load_to_disk([sha256(6)], views=VIEWS)


def test_merging_stops_at_the_size_of_a_large_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = opened(tmp_path)
    fill(cache, *([number] for number in range(8)))
    one = next(tmp_path.iterdir()).stat().st_size
    monkeypatch.setattr(cache_module, "MERGED_BYTES", 3 * one)
    cache.compact()
    assert len(list(tmp_path.iterdir())) == 3
    assert holds(opened(tmp_path), list(range(8)))


def test_an_interrupted_merge_does_no_harm(tmp_path: Path) -> None:
    cache = opened(tmp_path)
    fill(cache, [1], [2], [3])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    cache.compact()
    for path, data in before.items():
        path.write_bytes(data)
    again = opened(tmp_path)
    assert holds(again, [1, 2, 3])
    again.remove([sha256(2)])
    assert opened(tmp_path).missing([sha256(1), sha256(2), sha256(3)]) == [sha256(2)]


@few
@given(unwanted=st.sets(st.integers(0, 9)))
def test_remove_deletes_only_the_given_photos_from_disk(unwanted: set[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        cache = opened(path)
        fill(cache, [0, 1, 2], [3, 4, 5], [6, 7, 8, 9])
        assert cache.remove(sha256(number) for number in unwanted) == len(VIEWS) * len(unwanted)
        kept = [number for number in range(10) if number not in unwanted]
        assert cache.missing(sha256(number) for number in range(10)) == [sha256(number) for number in sorted(unwanted)]
        data = b"".join(file.read_bytes() for file in path.iterdir())
        assert not any(bytes.fromhex(sha256(number)) in data for number in unwanted)
        if kept:
            assert holds(opened(path), kept)


def test_a_take_down_reaches_the_caches_of_past_backbones(tmp_path: Path) -> None:
    fill(opened(tmp_path / "old"), [1, 2])
    FeatureCache(tmp_path / "new", views=("whole",), n_features=3).append([sha256(2)], np.ones((1, 1, 3), np.float32))
    (tmp_path / "note.txt").write_text("not a cache")
    (tmp_path / "empty").mkdir()
    (tmp_path / "old" / "00000001-x.npy.damaged").write_bytes(bytes.fromhex(sha256(2)))
    assert remove_everywhere(tmp_path, [sha256(2), sha256(9)]) == 3
    assert not list(tmp_path.rglob("*.damaged"))
    assert opened(tmp_path / "old").missing([sha256(1), sha256(2)]) == [sha256(2)]
    assert not list((tmp_path / "new").iterdir())
    assert remove_everywhere(tmp_path / "none", [sha256(2)]) == 0


ENDLESS_WRITER = """
import sys
from pathlib import Path
from tests.trainer.vgg16.test_cache import fill, opened
cache = opened(Path(sys.argv[1]))
for number in range(10_000_000):
    fill(cache, [number])
    if number % 50 == 49:
        cache.compact()
    print(number, flush=True)
"""


def test_a_writer_killed_at_any_moment_leaves_only_complete_shards(tmp_path: Path) -> None:
    for kill_after in (3, 49, 77):
        folder = tmp_path / str(kill_after)
        with subprocess.Popen(
            [sys.executable, "-c", ENDLESS_WRITER, str(folder)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            for line in writer.stdout:
                if int(line) >= kill_after:
                    break
            writer.send_signal(signal.SIGKILL)
        assert holds(opened(folder), list(range(kill_after + 1)))
        assert not list(folder.glob("*.damaged"))

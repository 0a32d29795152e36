"""Photos and features in a bucket of a real S3 server: the same version, and what happens when the server fails."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("pyarrow", reason="the extra `bucket` is not installed")
pytest.importorskip("moto", reason="moto's server is not installed")

from tests.fakes import FakeDecoder
from tests.trainer.collection import Silent
from tests.trainer.s3 import NAME, S3, serve_s3
from tests.web import Server, serving
from trainer import bucket as bucket_module
from trainer.bucket import OWN_ID, Bucket, open_bucket
from trainer.config import FeatureSettings, Settings, load_settings
from trainer.errors import ConfigError, StorageError
from trainer.photos.decode import Decoder
from trainer.photos.manifest import FILE_NAME, Manifest
from trainer.photos.photo_files import open_files, read_photo
from trainer.registry.registry import HELD_OUT, PHOTOS, REPORT
from trainer.scrape.maintenance import forget, named, verify
from trainer.scrape.scrape import Scrape
from trainer.scrape.sites.choose import open_site
from trainer.training.train import train
from trainer.vgg16.cache import SET_ASIDE, FeatureCache
from trainer.vgg16.engines.engine import Todo, joined
from trainer.vgg16.engines.local import LocalEngine
from trainer.vgg16.engines.worker import THREADS, Order, Worker
from trainer.vgg16.int8 import Int8Backbone
from trainer.vgg16.mirror import drop, mirrored
from trainer.vgg16.quantise import quantise
from trainer.vgg16.weights import load_weights
from trainer.web.fetch import Fetcher

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 3, 2, tzinfo=UTC)
COUNTRIES = {"japan": {"region": 19, "country": 114}, "brazil": {"region": 9, "country": 31}}
PER_LABEL = 14
LOGIN = "AKIAKEY:s3cret"
WRONG = "x" * 20  # a key that is not the account's


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with serve_s3() as server:
        yield server


@pytest.fixture(autouse=True)
def logged_in(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.log_in(monkeypatch)
    monkeypatch.setattr(bucket_module, "MAX_ATTEMPTS", 1)


@pytest.fixture(scope="module")
def site() -> Iterator[Server]:
    """A site with a few photos of two countries, each of another member."""
    rng = np.random.default_rng(0)
    with serving() as server:
        server.answers["/robots.txt"] = b""
        for index, pair in enumerate(COUNTRIES.values()):
            ids = range(100 * index + 1, 100 * index + 1 + PER_LABEL)
            items = [{"id": n, "img_url": f"/{n}-350x600.jpg", "member_id": n, "member": {"id": n}} for n in ids]
            body = {"has_error": 0, "list": items, "pager": {"next_page": None}}
            server.answers[f"/api/regions/{pair['region']}/countries/{pair['country']}/photos.json"] = json.dumps(
                body
            ).encode()
            for n in ids:
                pixels = rng.integers(0, 160, (6, 4, 3))
                pixels[..., index] += 90
                out = io.BytesIO()
                Image.fromarray(pixels.astype(np.uint8)).resize((48, 72)).save(out, "JPEG")
                server.answers[f"/{n}-350x600.jpg"] = out.getvalue()
        yield server


def settings_for(site: Server, data_dir: Path, s3: S3 | None, prefix: str = "") -> Settings:
    sections: dict[str, Any] = {
        "source": {"worldcosplay": {"base_url": site.url, "countries": COUNTRIES, "image_hosts": []}},
        "web": {"allow_private_addresses": True, "backoff_s": 0.01},
        "scrape": {"page_pause_s": 0, "image_pause_s": 0},
        "split": {"min_photos_per_label": 5, "near_duplicate_bits": 0},
        "features": {"weights": "random", "layers": ["block1_conv1"], "views": ["whole"], "precision": "float32"},
        "evaluate": {"resamples": 100},
    }
    if s3 is not None:
        sections["bucket"] = {"url": f"s3://{NAME}/{prefix or data_dir.parent.name}", "endpoint_url": s3.url}
    return Settings.model_validate({"data_dir": data_dir, **sections})


def scrape(settings: Settings) -> None:
    with Fetcher(settings.web) as fetcher, Manifest(settings.data_dir / FILE_NAME) as manifest:
        Scrape(open_site(settings, fetcher), manifest, settings, FakeDecoder()).run()


def photos_of(settings: Settings) -> list[Any]:
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        return list(manifest.photos())


def keys(s3: S3, settings: Settings, folder: str) -> list[str]:
    prefix = f"{str(settings.bucket.url).removeprefix(f's3://{NAME}/')}/"
    return [key for key in s3.content() if key.startswith(f"{prefix}{folder}/")]


@pytest.mark.slow
def test_a_version_from_a_bucket_has_the_bits_of_one_from_files(site: Server, s3: S3, tmp_path: Path) -> None:
    here, there = settings_for(site, tmp_path / "here", None), settings_for(site, tmp_path / "there", s3)
    versions = []
    for settings in (here, there):
        scrape(settings)
        versions.append(train(settings, Silent(), now=lambda: NOW).version)
    for name in ("head.npz", "novelty.npz", PHOTOS, HELD_OUT, REPORT):
        same = {(version.folder / name).read_bytes() for version in versions}
        assert len(same) == 1, name
    assert versions[0].metrics == versions[1].metrics
    assert "bucket" not in versions[1].facts.settings
    assert len(keys(s3, there, "images")) == 2 * PER_LABEL
    assert not (tmp_path / "there/images").exists()
    shards = {path.name for path in (tmp_path / "there/features").glob("*/*.npy")}
    assert {key.rpartition("/")[2] for key in keys(s3, there, "features")} == shards
    for key, data in s3.content().items():
        if "/images/" in key:
            assert hashlib.sha256(data).hexdigest() in key


def test_missing_and_truncated_objects_are_found_and_fetched_again(site: Server, s3: S3, tmp_path: Path) -> None:
    settings = settings_for(site, tmp_path / "data", s3)
    scrape(settings)
    missing, cut, large = keys(s3, settings, "images")[:3]
    before = s3.content()
    s3.delete(missing)
    s3.put(cut, before[cut][:-20])
    s3.put(large, bytes(settings.images.max_bytes + 1))
    files = open_files(settings)
    said = []
    for photo in photos_of(settings):
        try:
            read_photo(type("Placed", (), {"sha256": photo.sha256, "path": settings.data_dir / photo.path})(), files)
        except Exception as error:
            said.append(f"{type(error).__name__} {error}")
    assert sorted(said) == [
        "ImageError cannot be read: 16,777,217 bytes, more than 16,777,216",
        "ImageError cannot be read: no such object",
        "ImageError the file has changed since it was added: its SHA-256 differs",
    ]
    with Fetcher(settings.web) as fetcher, Manifest(settings.data_dir / FILE_NAME) as manifest:
        report = verify(open_site(settings, fetcher), manifest, settings, FakeDecoder())
    assert len(report.restored) == 3
    assert {key: data for key, data in s3.content().items() if key in (missing, cut, large)} == {
        key: before[key] for key in (missing, cut, large)
    }


def test_a_photo_that_is_taken_down_leaves_the_bucket_and_every_cache_in_it(
    site: Server, s3: S3, tmp_path: Path
) -> None:
    settings = settings_for(site, tmp_path / "data", s3)
    scrape(settings)
    photos = photos_of(settings)
    folder = settings.data_dir / "features/backbone"
    cache = FeatureCache(folder, views=["whole"], n_features=2, bucket=open_bucket(settings))
    cache.append([photo.sha256 for photo in photos], np.ones((len(photos), 1, 2), np.float32))
    for path in folder.iterdir():
        path.unlink()  # as on another disk
    gone = photos[0]
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        found = named(manifest, "worldcosplay", "photo", gone.photo_id)
        forget(manifest, settings, "worldcosplay", "photo", gone.photo_id, found, now=NOW)
    assert len(keys(s3, settings, "images")) == 2 * PER_LABEL - 1
    assert not any(gone.sha256 in key for key in keys(s3, settings, "images"))
    shards = [np.load(io.BytesIO(s3.get(key))) for key in keys(s3, settings, "features")]
    assert sum(len(shard) for shard in shards) == len(photos) - 1
    assert not any(bytes.fromhex(gone.sha256) == bytes(row["sha256"]) for shard in shards for row in shard)


def test_what_was_stored_before_there_was_a_bucket_moves_into_it(site: Server, s3: S3, tmp_path: Path) -> None:
    scrape(settings_for(site, tmp_path / "data", None))
    settings = settings_for(site, tmp_path / "data", s3)
    cache = FeatureCache(tmp_path / "data/features/old", views=["whole"], n_features=2)
    cache.append(["ab" * 32], np.ones((1, 1, 2), np.float32))
    stray = tmp_path / "data/images/japan/notes.txt"
    stray.write_text("mine")
    n_fetched = len(site.requests)
    scrape(settings)
    FeatureCache(tmp_path / "data/features/old", views=["whole"], n_features=2, bucket=open_bucket(settings))
    assert not [path for path in site.requests[n_fetched:] if ".jpg" in str(path)]
    assert len(keys(s3, settings, "images")) == 2 * PER_LABEL
    assert list((tmp_path / "data/images").glob("*/*")) == [stray]
    assert len(keys(s3, settings, "features")) == 1


def shards_of(s3: S3, settings: Settings) -> list[str]:
    return sorted(keys(s3, settings, "features"))


def test_a_cache_is_whole_after_the_loss_or_damage_of_either_side(site: Server, s3: S3, tmp_path: Path) -> None:
    settings = settings_for(site, tmp_path / "data", s3)
    folder = settings.data_dir / "features/backbone"

    def opened() -> FeatureCache:
        return FeatureCache(folder, views=["whole"], n_features=2, bucket=open_bucket(settings))

    opened().append(["01" * 32], np.full((1, 1, 2), 1, np.float32))
    opened().append(["02" * 32], np.full((1, 1, 2), 2, np.float32))
    both = ["01" * 32, "02" * 32]
    for path in folder.iterdir():
        path.unlink()
    assert opened().load(both)[:, 0, 0].tolist() == [1, 2]  # copied back
    here = sorted(folder.iterdir())
    here[0].write_bytes(here[0].read_bytes()[:-4])
    assert opened().load(both)[:, 0, 0].tolist() == [1, 2]  # damaged here alone
    s3.delete(shards_of(s3, settings)[1])
    assert opened().missing(both) == []
    assert len(shards_of(s3, settings)) == 2  # lost there alone
    key = shards_of(s3, settings)[0]
    s3.put(key, s3.get(key)[:-4])
    here[0].unlink()
    assert opened().missing(both) == ["01" * 32]  # no whole one is left: computed again
    assert len(shards_of(s3, settings)) == 1
    assert [path.name for path in folder.glob(f"*{SET_ASIDE}")] == [here[0].name + SET_ASIDE]
    opened().append(["01" * 32], np.full((1, 1, 2), 1, np.float32))
    opened().compact()
    assert [key.rpartition("/")[2] for key in shards_of(s3, settings)] == [path.name for path in folder.glob("*.npy")]
    assert opened().load(both)[:, 0, 0].tolist() == [1, 2]


def test_two_collections_cannot_share_a_prefix(site: Server, s3: S3, tmp_path: Path) -> None:
    mine = settings_for(site, tmp_path / "mine", s3)
    other = settings_for(site, tmp_path / "other", s3)
    scrape(mine)
    before = s3.content()
    with pytest.raises(StorageError, match=r"holds the photos of another data_dir; give bucket\.url a prefix"):
        scrape(other)
    assert s3.content() == before
    (tmp_path / "other" / OWN_ID).write_bytes((tmp_path / "mine" / OWN_ID).read_bytes())  # it takes its place
    bucket = open_bucket(other)
    assert bucket is not None
    bucket.write("images/japan/note", b"x")
    with pytest.raises(StorageError, match="only the process that was started by hand writes"):
        Bucket(mine.bucket).delete("images/japan/note")


@pytest.mark.parametrize("trouble", ["no server", "wrong key", "no bucket"])
def test_a_bucket_that_does_not_answer_stops_the_run_and_refuses_no_photo(
    site: Server,
    s3: S3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    trouble: str,
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = settings_for(site, tmp_path / "data", s3)
    bucket = {
        "no server": {"endpoint_url": "http://127.0.0.1:1"},
        "wrong key": {},
        "no bucket": {"url": "s3://nobody-has-this/photos"},
    }[trouble]
    if trouble == "wrong key":
        s3.log_in(monkeypatch, secret=WRONG)
    broken = settings.model_copy(update={"bucket": settings.bucket.model_copy(update=bucket)})
    data_dir = tmp_path / "elsewhere"
    with pytest.raises(StorageError) as caught:
        scrape(broken.model_copy(update={"data_dir": data_dir}))
    assert {
        "no server": "does not answer as it should",
        "wrong key": "refuses the credentials",
        "no bucket": "there is no such bucket; make it, or correct bucket.url",
    }[trouble] in str(caught.value)
    said = [record.getMessage() for record in caplog.records if record.name.startswith(("trainer", "pyarrow"))]
    for word in (s3.secret, s3.key_id, WRONG):
        assert word not in "\n".join([str(caught.value), *said])
    s3.log_in(monkeypatch)
    good = settings.model_copy(update={"data_dir": data_dir})
    assert photos_of(good) == []
    with Manifest(data_dir / FILE_NAME) as manifest:
        assert list(manifest.refusals()) == []
    scrape(good)
    assert len(photos_of(good)) == 2 * PER_LABEL


@pytest.mark.parametrize(
    "keys",
    [
        {"url": f"s3://{LOGIN}@photos/a"},
        {"url": "https://photos.example"},
        {"url": "s3://photos/../other"},
        {"endpoint_url": f"http://{LOGIN}@127.0.0.1:9000"},
        {"endpoint_url": "ftp://127.0.0.1"},
    ],
)
def test_an_address_with_credentials_is_refused_and_not_repeated(tmp_path: Path, keys: dict[str, str]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"bucket": keys}))
    with pytest.raises(ConfigError, match="credentials do not belong here") as caught:
        load_settings(Settings, path, {})
    assert "s3cret" not in str(caught.value)


def test_a_cache_that_is_dropped_leaves_the_bucket_and_the_others_stay(site: Server, s3: S3, tmp_path: Path) -> None:
    settings = settings_for(site, tmp_path / "data", s3)
    bucket = open_bucket(settings)
    assert bucket is not None
    for key in ("kept", "past"):
        cache = FeatureCache(settings.data_dir / "features" / key, views=["whole"], n_features=2, bucket=bucket)
        cache.append(["ab" * 32], np.ones((1, 1, 2), np.float32))
    assert mirrored(bucket) == {"kept", "past"}
    drop(bucket, "past")
    assert mirrored(bucket) == {"kept"}


def test_a_worker_needs_no_disk_of_the_process_that_writes(
    site: Server, s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads photos with its own credentials, and gets the int8 network with its order."""
    pytest.importorskip("nncf", reason="the extra `int8` is not installed")
    for name in THREADS:
        monkeypatch.setenv(name, "1")  # restored afterwards: a worker sets them
    settings = settings_for(site, tmp_path / "data", s3)
    scrape(settings)
    features = FeatureSettings(weights="random", layers=("block1_conv1",), precision="int8", views=("whole",))
    path = tmp_path / "network.npz"
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    quantise(path, load_weights(features), images, settings=features, progress=lambda *_: None)
    network = Int8Backbone(path)
    todo = [Todo(photo.sha256, settings.data_dir / photo.path, ("whole",)) for photo in photos_of(settings)[:3]]
    here = LocalEngine(network, FakeDecoder(settings.images), batch_size=2, files=open_files(settings))
    expected = joined(here.run(todo))
    order = Order.of(network, features, settings.images, todo[0], bucket=settings.bucket, data_dir=settings.data_dir)
    path.unlink()
    worker = Worker(pickle.loads(pickle.dumps(order)), n_cpus=1)  # noqa: S301 - as Ray sends it
    with closing(Decoder(settings.images, n_children=1)) as decoder:
        monkeypatch.setattr(Decoder, "in_bulk", lambda *_, **__: decoder)
        worker.open()
        found = worker.compute(todo, with_maps=False)
    assert found.rows == expected.rows
    assert found.features is not None
    assert expected.features is not None
    assert np.array_equal(found.features, expected.features)
    s3.log_in(monkeypatch, secret=WRONG)
    with pytest.raises(StorageError, match="refuses the credentials"):
        Worker(order, n_cpus=1).open()


def test_nothing_of_a_bucket_is_imported_without_one() -> None:
    program = (
        "import sys; from trainer.config import Settings; from trainer.photos.photo_files import open_files;"
        "open_files(Settings()); sys.exit('pyarrow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.trainer import test_bucket as tests
from trainer.bucket import Bucket
from trainer.config import Settings

settings = Settings.model_validate_json(Path(sys.argv[1]).read_text())
put, n_put = Bucket.write, 0

def write(self, name, data):
    global n_put
    put(self, name, data)
    n_put += 1
    if n_put == 5:
        os.kill(os.getpid(), signal.SIGKILL)

Bucket.write = write
tests.scrape(settings)
"""


def test_a_scrape_that_is_killed_after_a_put_loses_nothing_and_keeps_nothing_twice(
    site: Server, s3: S3, tmp_path: Path
) -> None:
    settings = settings_for(site, tmp_path / "data", s3)
    (tmp_path / "settings.json").write_text(settings.model_dump_json())
    command = [sys.executable, "-c", KILLED, str(tmp_path / "settings.json")]
    assert subprocess.run(command, cwd=ROOT, env=os.environ, check=False).returncode == -signal.SIGKILL
    assert len(photos_of(settings)) == 4
    assert len(keys(s3, settings, "images")) == 5
    scrape(settings)
    stored = {f"{key.rpartition('/')[2]}" for key in keys(s3, settings, "images")}
    assert stored == {photo.path.name for photo in photos_of(settings)}
    assert len(stored) == 2 * PER_LABEL

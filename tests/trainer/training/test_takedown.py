"""A photo that was taken down is in no file of data_dir any more; versions that learned from it go on serving."""

import base64
import hashlib
import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.fakes import FakeDecoder
from tests.trainer.collection import LABELS, Silent, paint_photos, settings_for
from tests.trainer.test_cli import trainer
from trainer.config import Settings
from trainer.errors import StorageError
from trainer.files import write_file
from trainer.photos.duplicates import perceptual_hash
from trainer.photos.manifest import FILE_NAME, Manifest, Photo, Refusal
from trainer.registry.registry import PHOTOS, REPORT, UNFINISHED, Registry
from trainer.registry.rewrite import SUMS
from trainer.registry.serving import Classifier
from trainer.training.report import TAKEN_DOWN
from trainer.training.train import train
from trainer.vgg16.cache import FeatureCache

DAY = datetime(2026, 11, 23, tzinfo=UTC)
MARK = re.compile(r'data-photo="(\w{64})"')


def photo_of(path: Path, data_dir: Path, label: str, number: int) -> Photo:
    """Store a drawn photo as a scrape does; two photos of each member."""
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    kept = Path("images") / label / f"{sha256}.png"
    (data_dir / kept).parent.mkdir(parents=True, exist_ok=True)
    (data_dir / kept).write_bytes(data)
    measured = FakeDecoder().measure(data)
    return Photo(
        sha256=sha256,
        label=label,
        source="worldcosplay",
        photo_id=f"77{LABELS.index(label)}{number:03d}",
        member_id=f"member-{label}-{number // 2}",
        page_url=f"https://gallery.example/photo/77{LABELS.index(label)}{number:03d}",
        image_url=f"https://images.example/{sha256[:8]}.png",
        path=kept,
        n_bytes=len(data),
        width=measured.width,
        height=measured.height,
        phash=perceptual_hash(measured.brightness),
        split=None,
        fetched_at=DAY,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A data folder with two versions; not modified."""
    tmp_path = tmp_path_factory.mktemp("takedown")
    paint_photos(tmp_path / "drawn", per_label=36)
    settings = settings_for(tmp_path, tmp_path / "data", source={"kind": "worldcosplay"})
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        for label in LABELS:
            for number in range(36):
                path = tmp_path / "drawn" / label / f"0-{number}.png"
                manifest.add(photo_of(path, settings.data_dir, label, number))
    for day in (23, 24):
        train(settings, Silent(), now=lambda day=day: datetime(2026, 11, day, tzinfo=UTC))  # type: ignore[misc]
    return settings


@pytest.fixture
def settings(trained: Settings, tmp_path: Path) -> Settings:
    """A copy of that data folder."""
    shutil.copytree(trained.data_dir, tmp_path / "data")
    return trained.model_copy(update={"data_dir": tmp_path / "data"})


def photos(settings: Settings) -> dict[str, Photo]:
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        return {photo.sha256: photo for photo in manifest.photos()}


def shown(settings: Settings) -> Photo:
    """A photo that both versions' reports show."""
    registry = Registry(settings.data_dir)
    pages = [(registry.folder / name / REPORT).read_text() for name in registry.names()]
    (first, *_) = set.intersection(*(set(MARK.findall(page)) for page in pages))
    return photos(settings)[first]


def learned(settings: Settings) -> Photo:
    """A photo that both versions learned from."""
    first, *_ = (Registry(settings.data_dir).folder / "2026-11-23-1" / PHOTOS).read_text().split()
    return photos(settings)[first]


def thumbnails(settings: Settings, photo: Photo) -> list[bytes]:
    """How the reports show a photo."""
    found = []
    for page in settings.data_dir.glob(f"versions/*/{REPORT}"):
        found += re.findall(rf'data-photo="{photo.sha256}"[^\n]*base64,([\w+/=]+)', page.read_text())
    return [base64.b64decode(each) for each in found]


def leave_traces(settings: Settings, photo: Photo) -> None:
    """Name and show a photo everywhere that a run, or its sudden end, can."""
    data_dir, data = settings.data_dir, (settings.data_dir / photo.path).read_bytes()
    (data_dir / photo.path).with_name(f".{photo.sha256}.png.99.tmp").write_bytes(data)
    unfinished = data_dir / "versions" / f"{UNFINISHED}2026-11-25-1"
    unfinished.mkdir()
    (unfinished / PHOTOS).write_text(f"{photo.sha256}\n")
    (data_dir / "versions/2026-11-23-1" / f".{PHOTOS}.99.tmp").write_text(f"{photo.sha256}\n")
    features = data_dir / "features/old-backbone"
    FeatureCache(features, views=["whole"], n_features=2).append([photo.sha256], np.ones((1, 1, 2), np.float32))
    (shard,) = features.glob("*.npy")
    (features / f".{shard.name}.99.tmp").write_bytes(shard.read_bytes())
    shard.rename(features / f"{shard.name}.damaged")
    ends = [f"error: {photo.page_url}: 503", f"error: {data_dir / photo.path}: is missing", "done"]
    lines = [{"run": f"1-{n}", "at": DAY.isoformat(), "event": "end", "ended": end} for n, end in enumerate(ends)]
    (data_dir / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (data_dir / "log").mkdir()
    (data_dir / "log/scrape.log").write_text(f"DEBUG refused photo_id={photo.photo_id} reason=gone\nINFO scraped\n")
    refusal = Refusal("worldcosplay", "9", "japan", "duplicate", f"the same file as photo {photo.photo_id} of japan",
                      photo.sha256, True, DAY)  # fmt: skip
    with Manifest(data_dir / FILE_NAME) as manifest:
        manifest.refuse(refusal)
        manifest.replace(photo, replace(photo, width=1))  # what a row held before stays in the file


def names_of(photo: Photo, data: bytes, pictures: list[bytes]) -> dict[str, bytes]:
    """What none of the files may hold."""
    return {
        "hash": photo.sha256.encode(),
        "raw hash": bytes.fromhex(photo.sha256),
        "page": photo.page_url.encode(),
        "address": photo.image_url.encode(),
        "member": (photo.member_id or "").encode(),
        "perceptual hash": photo.phash.encode(),
        "bytes": near_end(data),
        **{f"thumbnail {n}": near_end(base64.b64encode(picture)) for n, picture in enumerate(pictures)},
    }


def near_end(data: bytes) -> bytes:
    """What is in no other picture: their tables, at the beginning, are all the same."""
    return data[-120:-20]


def holders(settings: Settings, names: dict[str, bytes]) -> set[tuple[str, str]]:
    """(file, what of the photo it holds), for every file under data_dir."""
    files = {path: path.read_bytes() for path in settings.data_dir.rglob("*") if path.is_file()}
    return {
        (str(path.relative_to(settings.data_dir)), what)
        for path, content in files.items()
        for what, value in names.items()
        if value in content or value.decode("latin-1") in str(path)
    }


def forget(settings: Settings, *arguments: str) -> str:
    config = settings.data_dir.with_suffix(".yaml")
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    done = trainer("forget", *arguments, config=config)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("choose", [shown, learned])
def test_a_photo_that_was_taken_down_is_in_no_file(settings: Settings, choose: Callable[[Settings], Photo]) -> None:
    photo = choose(settings)
    names = names_of(photo, (settings.data_dir / photo.path).read_bytes(), thumbnails(settings, photo))
    leave_traces(settings, photo)
    before = {file for file, _ in holders(settings, names)}
    assert {"manifest.sqlite3", "journal.jsonl", str(photo.path)} <= before
    assert (f"versions/2026-11-24-1/{REPORT if choose is shown else PHOTOS}") in before

    said = forget(settings, "--photo", photo.photo_id)

    del names["member"]  # whose other photo is still held
    assert holders(settings, names) == set()
    with sqlite3.connect(settings.data_dir / FILE_NAME) as db:
        assert db.execute("SELECT id FROM forgotten").fetchall() == [(photo.photo_id,)]
        assert db.execute("SELECT sha256, final FROM refusals").fetchall() == [(None, 1)]  # does not come back
    elsewhere = [path for path in settings.data_dir.rglob("*") if path.is_file() and path.name != FILE_NAME]
    assert not [path for path in elsewhere if re.search(rf"(?<!\w){photo.photo_id}(?!\w)".encode(), path.read_bytes())]
    assert "1 photo deleted" in said
    assert "figures and number of photos" in said


def test_a_member_who_was_taken_down_is_in_no_file_but_the_list_of_those(settings: Settings) -> None:
    photo = shown(settings)
    names = names_of(photo, (settings.data_dir / photo.path).read_bytes(), thumbnails(settings, photo))
    leave_traces(settings, photo)
    assert "2 photos deleted" in forget(settings, "--member", photo.member_id or "")
    assert holders(settings, names) == {(FILE_NAME, "member")}  # what keeps them from coming back


def test_the_versions_stay_the_same_but_for_the_photo(settings: Settings) -> None:
    photo, registry = shown(settings), Registry(settings.data_dir)
    before = {name: registry.load(name) for name in registry.names()}
    heads = {name: (registry.folder / name / "head.npz").read_bytes() for name in before}
    pages = {name: (registry.folder / name / REPORT).read_text() for name in before}
    forget(settings, "--photo", photo.photo_id)
    for name, version in before.items():
        assert registry.load(name) == version  # facts and figures, and all hashes are right
        assert (registry.folder / name / "head.npz").read_bytes() == heads[name]
        page = (registry.folder / name / REPORT).read_text()
        assert TAKEN_DOWN in page
        assert set(MARK.findall(page)) == set(MARK.findall(pages[name])) - {photo.sha256}
    assert Classifier.load(settings).version == registry.champion_name()


def test_reports_from_before_their_pictures_were_marked_lose_all_of_them(settings: Settings) -> None:
    photo, registry = shown(settings), Registry(settings.data_dir)
    old, new = registry.names()
    page = registry.folder / old / REPORT
    page.write_text(MARK.sub("", page.read_text()).replace("<figure >", "<figure>"))
    reseal(registry.folder / old)
    forget(settings, "--photo", photo.photo_id)
    assert "data:image/jpeg" not in page.read_text()
    assert "data:image/jpeg" in (registry.folder / new / REPORT).read_text()


def reseal(folder: Path) -> None:
    """Make the recorded hashes those of the files."""
    files = [path for path in sorted(folder.iterdir()) if path.name != SUMS]
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (folder / SUMS).write_text("".join(lines))


def test_a_champion_serves_at_every_moment_of_a_takedown(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each single write, as if the power went then, and again when the command is repeated."""
    photo, registry = shown(settings), Registry(settings.data_dir)
    champion, written = registry.champion_name(), 0

    class PowerCutError(Exception):
        pass

    def cut(path: Path, write: Callable[..., object]) -> None:
        nonlocal written
        write_file(path, write)
        written += 1
        assert registry.champion() is not None
        assert registry.champion_name() == champion
        raise PowerCutError

    from trainer.registry import rewrite
    from trainer.training.takedown import take_down

    monkeypatch.setattr(rewrite, "write_file", cut)
    for _ in range(20):
        try:
            take_down(settings.data_dir, [photo], id_=photo.photo_id)
        except PowerCutError:
            assert registry.champion_name() == champion
        else:
            break
    assert written >= 6  # two versions, each with a report and its hashes before and after
    assert holders(settings, {"hash": photo.sha256.encode()}) >= {(str(photo.path), "hash")}
    assert not [file for file, _ in holders(settings, {"hash": photo.sha256.encode()}) if file.startswith("versions")]


def test_a_damaged_version_is_not_made_whole_by_a_takedown(settings: Settings) -> None:
    photo, registry = learned(settings), Registry(settings.data_dir)
    for name, file in zip(registry.names(), (PHOTOS, "head.npz"), strict=True):
        with (registry.folder / name / file).open("ab") as opened:
            opened.write(b"damage\n")
    forget(settings, "--photo", photo.photo_id)
    for name in registry.names():
        assert photo.sha256 not in (registry.folder / name / PHOTOS).read_text()
        with pytest.raises(Exception, match="does not match its SHA-256"):
            registry.load(name)


def test_what_another_process_still_reads_is_told(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.photos.database.BUSY_TIMEOUT_S", 0.1)
    photo = shown(settings)
    reader = sqlite3.connect(settings.data_dir / FILE_NAME, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM photos").fetchone()
    with Manifest(settings.data_dir / FILE_NAME) as manifest:
        with pytest.raises(StorageError, match="run it again"):
            manifest.forget("worldcosplay", "photo", photo.photo_id, now=DAY)
        reader.close()
        manifest.forget("worldcosplay", "photo", photo.photo_id, now=DAY)
    assert photo.sha256.encode() not in (settings.data_dir / FILE_NAME).read_bytes()

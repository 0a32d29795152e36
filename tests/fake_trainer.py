"""A fake of `python -m trainer`, as a training takes too long: `python -m tests.fake_trainer DATA_DIR ...`.

plan.json lists the results of the next scrapes and trainings, the next one first:
{"scrape": [5, "down"], "train": ["better", "worse", "crash", "hang"], "review": [3]}; "now" may set the time.
Manifest, registry and figures are real.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from trainer.config import EvaluateSettings
from trainer.errors import ProjectError
from trainer.evaluation.evaluate import Report, evaluate
from trainer.photos.contributions import Contributions
from trainer.photos.manifest import FILE_NAME, Manifest, Photo
from trainer.registry.registry import Registry, VersionFacts
from trainer.review_state import LastReview, save_review

LABELS = ("brazil", "china", "japan")
N_HELD_OUT = 60
START = datetime(2026, 1, 1, tzinfo=UTC)


def plan(data_dir: Path, **steps: Any) -> None:
    """Sets the results of the next runs."""
    data_dir.mkdir(parents=True, exist_ok=True)
    (data_dir / "plan.json").write_text(json.dumps(steps))


def add_photos(data_dir: Path, n: int, *, fetched_at: datetime) -> None:
    """Adds photos to the manifest, without files."""
    with Manifest(data_dir / FILE_NAME) as manifest:
        held = manifest.count_by_label("worldcosplay").total()
        for number in range(held, held + n):
            manifest.add(
                Photo(
                    sha256=f"{number:064x}",
                    label=LABELS[number % len(LABELS)],
                    source="worldcosplay",
                    photo_id=str(number),
                    member_id=str(number // 4),
                    page_url="",
                    image_url="",
                    path=Path(f"images/{number}.jpg"),
                    n_bytes=1,
                    width=350,
                    height=600,
                    phash=f"{number:064x}",
                    split=None,
                    fetched_at=fetched_at,
                )
            )


def add_version(data_dir: Path, *, right: float, promoted: bool, created_at: datetime | None = None) -> str:
    """Adds a version that classifies a share of the held-out photos correctly."""
    created_at = created_at or datetime.now(UTC)
    registry = Registry(data_dir, now=lambda: created_at)
    champion = registry.champion()
    facts = VersionFacts(
        labels=LABELS,
        weights="random",
        weights_seed=0,
        fingerprint="0" * 64,
        layers=("block5_conv3",),
        view="whole",
        precision="float32",
        threshold=0.5,
        temperature=1.0,
        seed=0,
        n_photos=300,
        created_at=created_at.isoformat(timespec="seconds"),
        libraries={},
        settings={},
        tuned=None,
    )
    figures = report(right).as_json()
    gain = (
        figures["balanced_accuracy"]["value"] - champion.metrics["report"]["balanced_accuracy"]["value"]
        if champion
        else None
    )
    reason = "balanced accuracy rises by 9.0 points" if promoted else "not surely better"
    metrics = {
        "report": figures,
        "verdict": {"promoted": promoted, "reasons": [reason], "gain": gain, "gain_low": None, "class_gains": None},
        "compared_with": champion.name if champion else None,
    }
    version = registry.add(facts, metrics, lambda folder: (folder / "head.npz").write_bytes(b"head"))
    if promoted:
        registry.promote(version.name, reason=reason)
    return version.name


def report(right: float) -> Report:
    """Computes the real figures of made-up scores."""
    truth = np.arange(N_HELD_OUT) % len(LABELS)
    answers = np.where(np.arange(N_HELD_OUT) < right * N_HELD_OUT, truth, (truth + 1) % len(LABELS))
    scores = np.full((N_HELD_OUT, len(LABELS)), 0.1, dtype=np.float32)
    scores[np.arange(N_HELD_OUT), answers] = 0.8
    members = [str(number // 3) for number in range(N_HELD_OUT)]
    return evaluate(scores, truth, members, labels=LABELS, threshold=0.5, settings=EvaluateSettings(resamples=100))


def main(data_dir: Path, command: str, *arguments: str) -> None:
    steps = json.loads((data_dir / "plan.json").read_text()) if (data_dir / "plan.json").exists() else {}
    now = datetime.fromisoformat(steps["now"]) if "now" in steps else datetime.now(UTC)
    registry = Registry(data_dir, now=lambda: now)
    if command == "promote":
        print(f"{registry.promote(arguments[0], reason='promoted by hand').name} is the champion now")
        return
    if command == "rollback":
        print(f"{registry.rollback().name} is the champion again")
        return
    if command == "contributions":
        folder = Contributions(data_dir)
        gone = folder.taken_back()
        for each in gone:
            folder.forget(each.id)
        print(f"{len(gone)} contributed photos deleted, with all traces")
        return
    step = steps[command].pop(0)
    (data_dir / "plan.json").write_text(json.dumps(steps))
    if step == "crash":
        os.abort()
    if step == "hang":
        signal.pause()
    if command == "review":
        if arguments != ("--count",) or not isinstance(step, int):
            raise ProjectError(str(step))
        with Manifest(data_dir / FILE_NAME) as manifest:
            n_photos = manifest.count_by_label("worldcosplay").total()
        save_review(data_dir, LastReview(now, n_photos, {"label": step - 1, "blank": 1}, {"japan": step}))
        print(f"{step} suspects among {n_photos} photos: label {step - 1}, blank 1")
        return
    if command == "scrape" and not isinstance(step, int):
        raise ProjectError(f"japan: https://worldcosplay.net: {step}")
    if command == "scrape":
        add_photos(data_dir, step, fetched_at=now)
    else:
        add_version(data_dir, right=0.9 if step == "better" else 0.4, promoted=step == "better", created_at=now)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), *sys.argv[2:])
    except ProjectError as error:
        sys.exit(f"error: {error}")

"""Decisions about photos stand until they are undone; a person's stand before a program's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.trainer.photos.test_manifest import NOW, PHOTO, number
from trainer.photos.decisions import Decision, Decisions
from trainer.photos.manifest import FILE_NAME, Manifest

SOURCE = PHOTO.source
DROP = Decision(SOURCE, PHOTO.photo_id, PHOTO.sha256, "drop", None, "program", "blank", NOW)
KEEP = replace(DROP, verdict="keep", by="person", reason="it is snow", decided_at=NOW + timedelta(hours=1))
LATER = NOW + timedelta(days=1)


@pytest.fixture
def manifest(tmp_path: Path) -> Iterator[Manifest]:
    with Manifest(tmp_path / FILE_NAME) as manifest:
        manifest.add(PHOTO)
        yield manifest


def test_a_person_s_decision_stands_before_a_later_one_of_the_program(manifest: Manifest) -> None:
    decisions = Decisions(manifest)
    decisions.put([KEEP, replace(DROP, decided_at=NOW + timedelta(hours=2))])
    assert decisions.standing(SOURCE, at=LATER).find(PHOTO) == KEEP
    assert decisions.count(SOURCE) == {("person", "keep"): 1, ("program", "drop"): 1}


def test_an_undone_decision_leaves_the_one_before_it(manifest: Manifest) -> None:
    decisions = Decisions(manifest)
    decisions.put([DROP, KEEP])
    assert decisions.undo(SOURCE, PHOTO.photo_id, now=LATER) == KEEP
    assert decisions.standing(SOURCE, at=LATER).find(PHOTO) == DROP
    assert decisions.undo_programs(SOURCE, now=LATER) == 1
    assert decisions.standing(SOURCE, at=LATER).find(PHOTO) is None
    assert decisions.undo(SOURCE, PHOTO.photo_id, now=LATER) is None


def test_what_stood_at_an_earlier_moment_can_be_told(manifest: Manifest) -> None:
    decisions = Decisions(manifest)
    decisions.put([DROP, KEEP])
    decisions.undo(SOURCE, PHOTO.photo_id, now=LATER)
    assert decisions.standing(SOURCE, at=NOW - timedelta(hours=1)).find(PHOTO) is None
    assert decisions.standing(SOURCE, at=NOW + timedelta(minutes=1)).find(PHOTO) == DROP
    assert decisions.standing(SOURCE, at=NOW + timedelta(hours=2)).find(PHOTO) == KEEP


@pytest.mark.parametrize("kind", ["photo", "member"])
def test_a_take_down_deletes_what_was_decided_about_the_photo(manifest: Manifest, kind: str) -> None:
    other = replace(DROP, photo_id="2", sha256=number(2).sha256)
    decisions = Decisions(manifest)
    decisions.put([DROP, replace(DROP, photo_id="under another id"), other])
    manifest.forget(SOURCE, kind, PHOTO.photo_id if kind == "photo" else str(PHOTO.member_id), now=LATER)  # type: ignore[arg-type]
    standing = decisions.standing(SOURCE, at=LATER)
    assert list(standing.of_id.values()) == [other]


def test_decisions_of_another_source_do_not_count(manifest: Manifest) -> None:
    Decisions(manifest).put([DROP])
    assert Decisions(manifest).standing("folder", at=LATER).find(PHOTO) is None

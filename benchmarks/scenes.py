"""Composes scenes from photos of people, photos of places, and things that a person holds.

Each scene has a label of its thing and, independent of it, one of its place. No place and no thing is in two scenes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (900, 600)
PERSON = (0.45, 0.65)  # height of the person's picture, as shares of the scene's: lowest, highest
THING = 0.3  # of the scene's height
CHEST = (0.5, 0.8)  # where on the person's picture the middle of the thing is


@dataclass(frozen=True, slots=True)
class Scenes:
    """Scenes in a folder.

    Attributes:
        folder: with a sub-folder for each label of things.
        places: name of a file, as "label/number.jpg" -> label of its place.
    """

    folder: Path
    places: Mapping[str, str]


def compose(source: Path, target: Path, *, n: int) -> Scenes:
    """Write up to n scenes, JPEGs of 900 x 600 px; the same files give the same scenes.

    Args:
        source: has the folder `people`, and `places` and `things` with a sub-folder for each label.
    """
    rng = np.random.default_rng(0)
    people = [_opened(path) for path in _files(source / "people")]
    places, things = (_shuffled(source / name, rng, n) for name in ("places", "things"))
    rng.shuffle(places)
    found = {}
    for number, (place, thing) in enumerate(zip(places, things, strict=False)):
        scene = _opened(place).convert("RGB").resize(SIZE)
        _put(scene, people[number % len(people)], _opened(thing), rng)
        name = f"{thing.relative_to(source / 'things').parts[0]}/{number}.jpg"
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        scene.save(target / name, quality=92)
        found[name] = place.relative_to(source / "places").parts[0]
    return Scenes(target, found)


def _put(scene: Image.Image, person: Image.Image, thing: Image.Image, rng: np.random.Generator) -> None:
    """Put a person at a random place, perhaps mirrored, and the thing before its chest."""
    height = round(rng.uniform(*PERSON) * SIZE[1])
    person = person.resize((round(person.width * height / person.height), height))
    if rng.random() < 0.5:
        person = person.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    left = int(rng.integers(0, SIZE[0] - person.width))
    top = int(rng.integers(0, SIZE[1] - person.height))
    scene.paste(person.convert("RGB"), (left, top))
    thing = thing.convert("RGBA")
    thing.thumbnail((round(THING * SIZE[1]),) * 2)
    middle = (left + CHEST[0] * person.width, top + CHEST[1] * person.height)
    corner = (round(middle[0] - thing.width / 2), round(middle[1] - thing.height / 2))
    scene.paste(thing, corner, thing)


def _shuffled(folder: Path, rng: np.random.Generator, n: int) -> list[Path]:
    """Up to n files, the labels in turn, those of a label in random order."""
    by_label = [_files(label) for label in sorted(folder.iterdir())]
    for paths in by_label:
        rng.shuffle(paths)
    longest = max(map(len, by_label))
    return [paths[at] for at in range(longest) for paths in by_label if at < len(paths)][:n]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in (".jpg", ".png"))


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        picture.load()
        return picture

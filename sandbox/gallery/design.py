"""Chooses at random the style of a member, the parts of a costume, and the pose.

Labels differ only in tendencies: one pattern, one palette and one prop are more frequent. They depend only on the order
of the labels, and do not represent any real country.
"""

from __future__ import annotations

import colorsys
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from sandbox.gallery.cloth import PATTERNS, Cloth
from sandbox.gallery.pen import Colour, mix

BACKDROPS = ("studio", "bokeh", "curtain", "hills", "blocks", "window")
HEADGEAR = ("cat", "rabbit", "horns", "antennae", "hat", "crown", "bear", "plume")
PROPS = ("gear", "key", "kite", "bell", "hoop", "bolt")
# Hues (0..1) of the cloth's ground and of its motif.
PALETTES = ((0.02, 0.45), (0.38, 0.85), (0.70, 0.12), (0.20, 0.60), (0.54, 0.05), (0.87, 0.28))

MANNERS = {
    "bands": (0.24, 0),
    "pinstripes": (0.13, 90),
    "dots": (0.2, 45),
    "checks": (0.24, 45),
    "zigzags": (0.22, 0),
    "rings": (0.24, 0),
}

WHITE: Colour = (252, 250, 245)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tendency:
    """The favoured pattern, palette and prop of a label, and how often (0..1) each is used."""

    pattern: str
    palette: int
    prop: str
    pattern_share: float = 0.92
    palette_share: float = 0.35
    prop_share: float = 0.7

    @classmethod
    def of(cls, index: int) -> Tendency:
        """The tendency of the label at `index` in the sorted labels."""
        turn = index // len(PATTERNS)  # from the seventh label on, patterns repeat with other palettes and props
        return cls(
            PATTERNS[index % len(PATTERNS)],
            (index + turn) % len(PALETTES),
            PROPS[(index + 2 * turn) % len(PROPS)],
        )


@dataclass(frozen=True, slots=True)
class Style:
    """The style of all photos of a member; lengths in units, a figure is about 2.5 units high."""

    backdrop: str
    wall: Colour
    floor: Colour
    face: Colour
    ink: Colour
    line: float  # width of outlines
    head: float  # radius
    girth: float  # of the dress, relative
    legs: float  # length
    zoom: float  # of the camera
    eyes: str
    noise: float  # standard deviation of the grain, in grey levels
    light: tuple[float, float, float]  # factor on red, green and blue
    quality: int  # of the JPEG


@dataclass(frozen=True, slots=True)
class Costume:
    """What a figure wears and holds."""

    dress: Cloth
    trim: Colour
    caped: bool
    boots: Colour
    headgear: str
    prop: str
    prop_colour: Colour
    skirted: bool


@dataclass(frozen=True, slots=True)
class Pose:
    """The pose of a figure, and the position of the camera."""

    tilt: float  # degrees
    shift: tuple[float, float]  # units
    zoom: float
    prop_side: int  # -1: left in the picture, 1: right
    raised: float  # of the hand with the prop: 0 hangs, 1 is up
    free_hand: str
    mood: str
    aspect: float  # width over height


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that determines an image; the same scene gives the same pixels."""

    style: Style
    costume: Costume
    pose: Pose
    seed: int


def design_style(rng: random.Random) -> Style:
    """Choose a member's style."""
    wall = _tone(rng.random(), rng.uniform(0.03, 0.09), rng.uniform(0.87, 0.93))
    return Style(
        backdrop=rng.choice(BACKDROPS),
        wall=wall,
        floor=mix(wall, _tone(rng.random(), 0.2, 0.55), rng.uniform(0.2, 0.35)),
        face=_tone(rng.random(), rng.uniform(0.06, 0.2), rng.uniform(0.9, 1.0)),
        ink=_tone(rng.random(), 0.4, rng.uniform(0.12, 0.3)),
        line=rng.uniform(0.02, 0.03),
        head=rng.uniform(0.36, 0.47),
        girth=rng.uniform(0.9, 1.2),
        legs=rng.uniform(0.24, 0.42),
        zoom=rng.uniform(0.98, 1.04),
        eyes=rng.choice(("round", "tall", "closed", "sleepy")),
        noise=rng.uniform(0, 3),
        light=(rng.uniform(0.96, 1.02), rng.uniform(0.97, 1.01), rng.uniform(0.95, 1.03)),
        quality=rng.randint(72, 93),
    )


def design_costume(rng: random.Random, tendency: Tendency) -> Costume:
    """Choose a costume with a label's tendency."""
    ground_hue, motif_hue = PALETTES[_lean(rng, range(len(PALETTES)), tendency.palette, tendency.palette_share)]
    ground = _tone(ground_hue + rng.gauss(0, 0.03), rng.uniform(0.45, 0.6), rng.uniform(0.55, 0.65))
    motif = _tone(motif_hue + rng.gauss(0, 0.03), rng.uniform(0.3, 0.5), 1.0)
    trim = _tone(motif_hue + rng.gauss(0, 0.05), rng.uniform(0.4, 0.8), rng.uniform(0.6, 0.95))
    pattern = _lean(rng, PATTERNS, tendency.pattern, tendency.pattern_share)
    period, angle = MANNERS[pattern]
    return Costume(
        dress=Cloth(
            pattern=pattern,
            ground=ground,
            motif=mix(motif, WHITE, rng.uniform(0.5, 0.8)),
            period=period * rng.uniform(0.93, 1.08),
            angle=angle + rng.gauss(0, 4),
            weight=rng.uniform(0.45, 0.5),
        ),
        trim=trim,
        caped=rng.random() < 0.92,
        boots=_tone(rng.random(), 0.45, rng.uniform(0.3, 0.7)),
        headgear=rng.choice(HEADGEAR),
        prop=_lean(rng, PROPS, tendency.prop, tendency.prop_share),
        prop_colour=_tone(rng.random(), rng.uniform(0.4, 0.75), rng.uniform(0.75, 1.0)),
        skirted=rng.random() < 0.6,
    )


def design_pose(rng: random.Random) -> Pose:
    """Choose a pose and a camera position."""
    return Pose(
        tilt=rng.gauss(0, 3),
        shift=(rng.gauss(0, 0.03), rng.gauss(0, 0.03)),
        zoom=rng.uniform(0.97, 1.05),
        prop_side=rng.choice((-1, 1)),
        raised=rng.random(),
        free_hand=rng.choice(("hip", "wave", "down")),
        mood=rng.choice(("smile", "open", "calm")),
        aspect=rng.choice((2 / 3, 2 / 3, 3 / 4, 3 / 4, 7 / 12, 4 / 5)),
    )


def _lean(rng: random.Random, choices: Sequence[T], favourite: T, share: float) -> T:
    return favourite if rng.random() < share else rng.choice(choices)


def _tone(hue: float, saturation: float, value: float) -> Colour:
    r, g, b = (round(255 * part) for part in colorsys.hsv_to_rgb(hue % 1, saturation, value))
    return r, g, b

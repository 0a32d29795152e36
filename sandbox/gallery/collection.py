"""Creates the gallery's members and photos from a seed."""

from __future__ import annotations

import random
import string
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Literal, Self

from sandbox.gallery.design import Scene, Style, Tendency, design_costume, design_pose, design_style
from sandbox.gallery.drawing import draw, jpeg

Flaw = Literal["truncated", "html", "tiny"]
FLAWS: tuple[Flaw, ...] = ("truncated", "html", "tiny")

SPARE_PHOTOS = 8  # of each label, because some files are broken on purpose
# The ids of the real site if they are known; other labels get other ids.
KNOWN_COUNTRIES = {"japan": (19, 114), "china": (19, 48), "brazil": (9, 31)}
KNOWN_FLAGS = {"japan": "jp", "china": "cn", "brazil": "br"}

# Ids from here on give an even 60:20:20 split by hash. In a small gallery, random ids rarely do: two holdout members of
# 24 would give useless figures.
_FIRST_MEMBER_ID = 22_619
_FIRST_UPLOAD = datetime(2024, 1, 6, 9, 0, tzinfo=UTC)
NAMES = ["Momo", "Kiki", "Luma", "Tofu", "Piko", "Nori", "Zuzu", "Mika", "Bibi", "Coco", "Yuzu", "Rolo", "Fifi", "Dodo"]


@dataclass(frozen=True, slots=True)
class Member:
    """A member who posts photos under one label, in an own style."""

    member_id: int
    name: str
    label: str
    style: Style


@dataclass(frozen=True, slots=True)
class Photo:
    """An uploaded photo.

    Attributes:
        letters: 40 letters, the file name at the image host.
        looks_like: the label whose tendency the costume follows; for a few wrong photos not the member's label.
        window: the visible part of the scene, as shares of its width and height: left, top, right, bottom.
        twin_of: id of the photo that this one is a re-crop of; None for an original.
        flaw: an intended fault of the file; None for a good file.
    """

    photo_id: int
    member: Member
    letters: str
    subject: str
    created_at: datetime
    likes: int
    scene: Scene
    looks_like: str
    window: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    quality: int = 85
    twin_of: int | None = None
    flaw: Flaw | None = None

    @property
    def aspect(self) -> float:
        """Width over height."""
        left, top, right, bottom = self.window
        return self.scene.pose.aspect * (right - left) / (bottom - top)


class Gallery:
    """All members and photos; more can be added. Thread-safe.

    Args:
        seed: the same seed and the same calls give the same gallery, byte for byte.
        labels: names of the countries; their sorted order determines the tendencies of their costumes.
        members_per_label: one number for all labels, or a number for each.
        photos_per_member: on average; the numbers vary by 50% up and down.
        wrong_share: share of the photos whose costume follows another label (0..1); can be changed for later photos.
        twin_share: share of the photos that are a re-crop of an earlier one of the same member.
        flaws_per_label: number of files broken on purpose, using all FLAWS in turn.
    """

    def __init__(
        self,
        seed: int = 0,
        labels: Sequence[str] = ("japan", "china", "brazil"),
        *,
        members_per_label: int | Mapping[str, int] = 15,
        photos_per_member: int = 5,
        wrong_share: float = 0.04,
        twin_share: float = 0.06,
        flaws_per_label: int = 3,
    ) -> None:
        self.labels = tuple(sorted(labels))
        self._tendencies = {label: Tendency.of(index) for index, label in enumerate(self.labels)}
        self.wrong_share = wrong_share
        self._twin_share = twin_share
        self._rng = random.Random(seed)
        self._lock = threading.RLock()
        self._member_ids = count(_FIRST_MEMBER_ID, step=7)
        self._photo_ids = count(6_551_200, step=3)
        self._members: dict[str, list[Member]] = {label: [] for label in self.labels}
        self._photos: dict[int, Photo] = {}
        self._by_letters: dict[str, Photo] = {}
        self._originals: defaultdict[int, list[Photo]] = defaultdict(list)  # by member id; can be re-cropped
        self._fill(members_per_label, photos_per_member, flaws_per_label)

    @classmethod
    def of_size(cls, photos_per_label: int, seed: int = 0, *, photos_per_member: int) -> Self:
        """A gallery with so many good photos of each label, and some more."""
        n_photos = photos_per_label + SPARE_PHOTOS
        gallery = cls(seed, members_per_label=-(-n_photos // photos_per_member), photos_per_member=photos_per_member)
        for label in gallery.labels:
            gallery.grow(label, photos=max(0, n_photos - len(gallery.photos(label))))
        return gallery

    @property
    def countries(self) -> dict[str, tuple[int, int]]:
        """label -> (region id, country id) of the listing's URL."""
        own = {label: (1, 1000 + index) for index, label in enumerate(self.labels)}
        return {label: KNOWN_COUNTRIES.get(label, own[label]) for label in self.labels}

    def members(self, label: str) -> tuple[Member, ...]:
        """The members of a label, in the order they joined."""
        with self._lock:
            return tuple(self._members[label])

    def photos(self, label: str | None = None) -> tuple[Photo, ...]:
        """All photos, or those of one label's members, newest first."""
        with self._lock:
            photos = reversed(self._photos.values())
            return tuple(photo for photo in photos if label is None or photo.member.label == label)

    def photo(self, photo_id: int) -> Photo | None:
        """The photo with an id, or None."""
        with self._lock:
            return self._photos.get(photo_id)

    def find(self, member_id: int, letters: str) -> Photo | None:
        """The photo at an address of the image host, or None."""
        with self._lock:
            photo = self._by_letters.get(letters)
        return photo if photo is not None and photo.member.member_id == member_id else None

    def join(self, label: str) -> Member:
        """Add a member without photos."""
        with self._lock:
            member_id = next(self._member_ids)
            member = Member(member_id, f"{self._rng.choice(NAMES)}{member_id % 1000}", label, design_style(self._rng))
            self._members[label].append(member)
            return member

    def upload(self, member: Member, *, flaw: Flaw | None = None) -> Photo:
        """Add a photo by a member; it becomes the newest photo."""
        with self._lock:
            originals = self._originals[member.member_id]
            if originals and flaw is None and self._rng.random() < self._twin_share:
                photo = self._recrop(self._rng.choice(originals))
            else:
                photo = self._new(member, flaw)
            if photo.flaw is None and photo.twin_of is None:
                originals.append(photo)
            self._photos[photo.photo_id] = photo
            self._by_letters[photo.letters] = photo
            return photo

    def grow(self, label: str, *, members: int = 0, photos: int = 1) -> tuple[Photo, ...]:
        """Add members, then photos by any members of the label; returns the photos, oldest first."""
        with self._lock:
            newcomers = [self.join(label) for _ in range(members)]
            choice = newcomers or self._members[label]
            return tuple(self.upload(self._rng.choice(choice)) for _ in range(photos))

    def draw_fresh(self, label: str, seed: int, *, width_px: int = 720) -> bytes:
        """Draw a JPEG with the tendency of a label, by a person who is not a member; it is not in the gallery."""
        rng = random.Random(f"fresh {label} {seed}")
        style = design_style(rng)
        scene = Scene(style, design_costume(rng, self._tendencies[label]), design_pose(rng), rng.getrandbits(32))
        return jpeg(draw(scene, width_px), quality=style.quality)

    def _fill(self, members_per_label: int | Mapping[str, int], photos_per_member: int, flaws_per_label: int) -> None:
        wanted = {
            label: members_per_label if isinstance(members_per_label, int) else members_per_label[label]
            for label in self.labels
        }
        for turn in range(max(wanted.values())):
            for label in self.labels:
                if turn < wanted[label]:
                    self.join(label)
        uploads: list[tuple[Member, Flaw | None]] = []
        for members in self._members.values():
            uploads += [(member, None) for member in members for _ in range(self._share(photos_per_member))]
            uploads += [(self._rng.choice(members), FLAWS[number % len(FLAWS)]) for number in range(flaws_per_label)]
        self._rng.shuffle(uploads)
        for member, flaw in uploads:
            self.upload(member, flaw=flaw)

    def _share(self, photos_per_member: int) -> int:
        spread = photos_per_member // 2
        return self._rng.randint(photos_per_member - spread, photos_per_member + spread)

    def _new(self, member: Member, flaw: Flaw | None) -> Photo:
        rng = self._rng
        others = [label for label in self.labels if label != member.label]
        looks_like = rng.choice(others) if others and rng.random() < self.wrong_share else member.label
        costume = design_costume(rng, self._tendencies[looks_like])
        photo_id = next(self._photo_ids)
        return Photo(
            photo_id=photo_id,
            member=member,
            letters=_letters(rng),
            subject=f"{costume.headgear.capitalize()} with a {costume.prop}",
            created_at=_FIRST_UPLOAD + timedelta(minutes=37 * len(self._photos)),
            likes=rng.randrange(3000),
            scene=Scene(member.style, costume, design_pose(rng), rng.getrandbits(32)),
            looks_like=looks_like,
            quality=member.style.quality,
            flaw=flaw,
        )

    def _recrop(self, original: Photo) -> Photo:
        """The same scene again, slightly cropped and compressed again."""
        rng = self._rng
        left, top, right, bottom = (rng.uniform(0, 0.008) for _ in range(4))
        return replace(
            original,
            photo_id=next(self._photo_ids),
            letters=_letters(rng),
            subject=f"{original.subject}, again",
            created_at=_FIRST_UPLOAD + timedelta(minutes=37 * len(self._photos)),
            likes=rng.randrange(3000),
            window=(left, top, 1 - right, 1 - bottom),
            quality=rng.randint(60, 80),
            twin_of=original.photo_id,
        )


def _letters(rng: random.Random) -> str:
    return "".join(rng.choices(string.ascii_lowercase, k=40))

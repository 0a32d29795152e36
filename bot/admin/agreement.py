"""How often people agree with answers, in figures and in words; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from bot.storage.opinions import Agreement

Z_95 = 1.959964  # of a two-sided interval
# The watch looks often, and a false alarm would be told: an interval of 99%, and so many accounts for each version.
Z_99 = 2.575829
MIN_ACCOUNTS = 20
WHO_ANSWERS = (
    "Only who wants to says so, and a wrong answer is a better reason to than a right one: these shares are not those "
    "of all answers."
)


@dataclass(frozen=True, slots=True)
class Opinions:
    """What people say about answers.

    Attributes:
        volunteers: of those who asked or whose photo it was, and said so unasked.
        samples: of answers drawn at random, called right or wrong by admins.
    """

    volunteers: Sequence[Agreement] = ()
    samples: Sequence[Agreement] = ()

    def lines(self) -> list[str]:
        """Both in words; no line for what nobody has said anything about."""
        found = []
        if self.volunteers:
            found += [*_lines("Askers and authors agreed with", self.volunteers), WHO_ANSWERS]
        if self.samples:
            found += _lines("Of a random sample, admins found right", self.samples)
        return found


def interval(n_right: int, n: int, *, z: float = Z_95) -> tuple[float, float]:
    """The interval of a share of `n` > 0, by default the two-sided 95% one. Source: Wilson, 1927."""
    share, squared = n_right / n, z * z
    centre = share + squared / (2 * n)
    spread = z * sqrt(share * (1 - share) / n + squared / (4 * n * n))
    return (centre - spread) / (1 + squared / n), (centre + spread) / (1 + squared / n)


def is_worse(new: tuple[int, int], old: tuple[int, int]) -> bool:
    """Whether surely fewer accounts agree with one version than with another.

    Args:
        new, old: of each version, the number of accounts, and of those that agree.

    Source: Newcombe, "Interval estimation for the difference between independent proportions" (1998), method 10.
    """
    if min(new[0], old[0]) < MIN_ACCOUNTS:
        return False
    (n_new, right_new), (n_old, right_old) = new, old
    share_new, share_old = right_new / n_new, right_old / n_old
    high_new = interval(right_new, n_new, z=Z_99)[1]
    low_old = interval(right_old, n_old, z=Z_99)[0]
    return share_old - share_new > sqrt((high_new - share_new) ** 2 + (share_old - low_old) ** 2)


def share_of(n_right: int, n: int) -> str:
    """A share in words, with its interval."""
    low, high = interval(n_right, n)
    return f"{n_right:,} of {n:,} ({low:.2f} to {high:.2f})"


def worse_message(version: str, new: tuple[int, int], before: str, old: tuple[int, int]) -> str:
    """What the admins are told about a champion that people agree with less than with the version before it."""
    return (
        f"People disagree with champion {version} more than with {before} before it: {share_of(new[1], new[0])} "
        f"accounts agree, with {before} it was {share_of(old[1], old[0])}. {WHO_ANSWERS} Look at answers of both "
        "before you act; nothing was changed."
    )


def _lines(what: str, found: Sequence[Agreement]) -> list[str]:
    whole = share_of(sum(each.n_right for each in found), sum(each.n for each in found))
    return [
        f"{what} {whole} answers.",
        *(f"- {each.label}, version {each.version}: {share_of(each.n_right, each.n)}" for each in found),
    ]

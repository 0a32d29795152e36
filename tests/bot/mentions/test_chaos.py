"""A short run of `benchmarks.chaos`: a real bot process is killed and restarted while everything fails."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.chaos import QUICK, storm

SHORT = replace(
    QUICK, n_mentions=30, storm_s=8.0, kill_every_s=3.0, spell_s=2.0, n_damaged=1, quiet_s=1.0, pictures=False
)


@pytest.mark.slow
def test_while_everything_fails_no_mention_is_lost_and_none_is_answered_twice(tmp_path: Path) -> None:
    tally = storm(SHORT, tmp_path)
    assert tally.settled_after_s is not None
    assert (tally.lost, tally.twice) == ([], [])
    assert (tally.n_left, tally.n_unexplained, tally.n_set_aside) == (0, 0, 0)
    assert tally.n_asked == SHORT.n_mentions
    assert tally.n_kills > 0
    assert tally.acts["database damaged"] == 1
    assert sum(n for act, n in tally.acts.items() if act.startswith("struck")) > 0

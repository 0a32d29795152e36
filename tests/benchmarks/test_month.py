"""Nine simulated days: no mention is lost, the champion only improves, and admins get only the messages they need."""

from pathlib import Path

import pytest

from benchmarks import month


@pytest.mark.slow
def test_nine_days_of_scrapes_trainings_and_mentions_meet_all_goals(tmp_path: Path) -> None:
    result = month.run(quick=True, work_dir=tmp_path, say=lambda _: None)
    assert result.met, result.figures

"""Nine simulated days: nothing is lost, the champion only gets better, admins hear what they need and no more."""

from pathlib import Path

import pytest

from benchmarks import month


@pytest.mark.slow
def test_nine_days_of_scrapes_trainings_and_mentions_go_well(tmp_path: Path) -> None:
    result = month.run(quick=True, work_dir=tmp_path, say=lambda _: None)
    assert result.met, result.figures

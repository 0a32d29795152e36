"""`python -m bot predict` sees a photo as the bot does."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.config import Settings
from bot.entities import Prediction
from bot.photos import predict
from bot.photos.files import classified
from tests.faces import as_png, scene
from tests.fakes import FakeClassifier
from trainer.config import FIGURE


class OfFigures(FakeClassifier):
    """A version that was trained on figures."""

    view = f"{FIGURE}/whole"


@pytest.mark.parametrize(("kind", "is_cropped"), [(OfFigures, True), (FakeClassifier, False)])
def test_a_file_is_cropped_if_the_version_was_trained_so(
    kind: type[FakeClassifier], is_cropped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict.ServingLoader, "load", lambda _: kind())
    path = tmp_path / "photo.png"
    path.write_bytes(as_png(scene((600, 100))))
    ((_, found),) = classified([path], Settings(data_dir=tmp_path))
    assert isinstance(found, Prediction)
    assert found.view == kind.view
    assert (found.crop is not None) == is_cropped
    if found.crop is not None:
        assert found.crop[0] > 0.4

"""Features and head give the same results with KERAS_BACKEND=torch or jax."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

# Run in a separate process: a process can use only one backend.
SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from trainer.head import checkpoint as checkpoint_module
from trainer.vgg16.backbone import Backbone
from trainer.vgg16.backend import load_keras
from trainer.config import FeatureSettings, HeadSettings
from trainer.head.fine_tuning import Rows, fine_tune
from trainer.head.head import Head
from trainer.head.fit import fit_head
from trainer.vgg16.maps import open_maps

settings = FeatureSettings(weights="random", layers=("block2_conv2", "block4_conv3"))
rng = np.random.default_rng(0)
images = rng.integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
answers = {"backend": np.array(load_keras().config.backend())}
for precision in ("float32", "bfloat16"):
    backbone = Backbone.load(settings, precision=precision, side_px=64)
    answers[precision] = backbone.extract(images, batch_size=4, with_maps=True).features
together = backbone.extract(images, batch_size=4).features
answers["same_in_any_batch"] = np.array_equal(backbone.extract(images[::-1], batch_size=4).features[::-1], together)

classes = np.repeat([0, 1], 40)
features = rng.normal(0, 1, (80, 2, 12)).astype(np.float32) + classes[:, None, None].astype(np.float32)
fit = dict(validation_features=features[:, 0], validation_class_indexes=classes, labels=("a", "b"))
heads = [fit_head(features, classes, settings=HeadSettings(max_epochs=15), **fit).head for _ in range(2)]
answers["heads_are_equal"] = np.array_equal(heads[0].logits(features[:, 0]), heads[1].logits(features[:, 0]))
heads[0].save(Path(sys.argv[1]).parent)
loaded = Head.load(Path(sys.argv[1]).parent)
answers["accuracy"] = (loaded.scores(features[:, 0]).argmax(axis=1) == classes).mean()

settings = FeatureSettings(weights="random", layers=("block3_conv1", "block5_conv1"))
deep = Backbone.load(settings, precision="float32", side_px=32)
images = rng.integers(0, 200, (40, 32, 32, 3), dtype=np.uint8)
classes = np.arange(40) % 2
images[classes == 1, :, :, 0] += 25
extracted = deep.extract(images, batch_size=8, with_block4=True)
rows = Rows([(f"{number:064x}", "whole") for number in range(40)], extracted.features, classes)
maps = open_maps(Path(sys.argv[1]).parent, deep, ["whole"])
maps.append_rows(rows.keys, extracted.block4_map.reshape(40, -1))
settings = HeadSettings(hidden_units=8, max_epochs=2, fine_tune="block5", fine_tune_max_epochs=2)
fit = dict(validation_features=rows.features, validation_class_indexes=classes, labels=("a", "b"), settings=settings)
head = fit_head(rows.features[:, None], classes, **fit).head


def tune(name, stop_at=None):
    def stop(done, _):
        if done == stop_at:
            raise KeyboardInterrupt

    checkpoint = Path(sys.argv[1]).with_name(name)
    return fine_tune(head, deep, rows, rows, maps=maps, settings=settings, checkpoint=checkpoint, progress=stop)


checkpoint_module.EVERY_S, checkpoint_module.LARGEST_SHARE = 0.0, np.inf
tuned = tune("whole")
try:
    tune("cut", stop_at=5)
except KeyboardInterrupt:
    resumed = tune("cut")
answers["tuned_losses"] = np.array([epoch.validation_loss for epoch in tuned.history])
kernels = [one.block5["block5_conv1"][0] for one in (tuned, resumed)]
answers["tuned_twice_alike"] = np.array_equal(*kernels) and resumed.history == tuned.history
answers["tuned_at_all"] = not np.array_equal(kernels[0], deep.block5()["block5_conv1"][0])
np.savez(sys.argv[1], **answers)
"""


def run(backend: str, folder: Path) -> dict[str, Any]:
    folder.mkdir()
    child = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder / "answers.npz")],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    with np.load(folder / "answers.npz", allow_pickle=False) as answers:
        return dict(answers)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_another_backend_gives_the_same_features_and_fits_as_tensorflow(backend: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed; `pip install {backend}` beside the lock file to run this")
    other, tensorflow = (run(name, tmp_path / name) for name in (backend, "tensorflow"))
    assert str(other["backend"]) == backend
    np.testing.assert_allclose(other["float32"], tensorflow["float32"], rtol=1e-3, atol=1e-3)
    for answers in (other, tensorflow):
        error = np.linalg.norm(answers["bfloat16"] - answers["float32"]) / np.linalg.norm(answers["float32"])
        assert error < 0.03
        assert answers["same_in_any_batch"]
        assert answers["heads_are_equal"]
        assert answers["accuracy"] > 0.8
        assert answers["tuned_at_all"]
        assert answers["tuned_twice_alike"]
    np.testing.assert_allclose(other["tuned_losses"], tensorflow["tuned_losses"], rtol=0.05)

"""`python -m benchmarks.bare_forward DATA_DIR`: reads batch sizes, prints seconds per pass of the champion.

It is a separate process, so that it uses the same kernels as the bot (they are chosen before TensorFlow is imported),
and shares its threads with nothing else.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from trainer.config import Settings
from trainer.registry.serving import Classifier


def main() -> None:
    """Measure until the end of the input."""
    classifier = Classifier.load(Settings(data_dir=Path(sys.argv[1])))
    images = np.random.default_rng(0).integers(0, 256, (64, 224, 224, 3), dtype=np.uint8)
    for line in sys.stdin:
        started = time.perf_counter()
        classifier.predict(images[: int(line)])
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main()

"""A PC trains, a server answers: by the commands of docs/TWO_MACHINES.md, while the server's bot is running."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from bot.config import Settings as BotSettings
from bot.photos.predict import Predictor, ServingLoader
from tests.bot.conftest import until
from tests.trainer.collection import paint_photos, settings_for
from tests.trainer.test_cli import config_file
from trainer.__main__ import app
from trainer.errors import ModelError
from trainer.head.head import Head
from trainer.head.novelty import Novelty
from trainer.registry.registry import Registry, VersionFacts
from trainer.registry.signature import make_key
from trainer.training.exchange import export, key_file
from trainer.vgg16 import int8
from trainer.vgg16.int8 import Int8Backbone

PUBLIC = re.compile(r'trusted_keys: \["([^"]{56})"\]')
LABELS = ("brazil", "china", "japan")


def ran(*arguments: str, config: Path) -> str:
    """What a command of the trainer prints."""
    found = CliRunner().invoke(app, [*arguments, "--config", str(config)], catch_exceptions=False)
    assert found.exit_code == 0
    return found.stdout


@contextmanager
def running_bot(data_dir: Path) -> Iterator[Predictor]:
    """The part of a running bot that classifies, with its look at the champion."""
    predictor = Predictor(ServingLoader(BotSettings(data_dir=data_dir)), batch_size=4, watch_every_s=0.1)
    predictor.start()
    try:
        yield predictor
    finally:
        predictor.stop()


def test_a_version_goes_from_the_pc_to_the_running_bot(tmp_path: Path) -> None:
    paint_photos(tmp_path / "photos")
    pc = config_file(tmp_path / "photos", tmp_path / "pc")
    server = config_file(tmp_path / "none", tmp_path / "server")
    sent = str(tmp_path / "champion.dokocos")

    public = PUBLIC.findall(ran("key", config=pc))
    assert PUBLIC.findall(ran("key", config=pc)) == public  # it is made once
    ran("train", config=pc)
    ran("export", "champion", sent, config=pc)
    with pytest.raises(ModelError, match=r"exchange\.trusted_keys is empty"):
        ran("import", sent, config=server)

    settings = yaml.safe_load(server.read_text())
    settings["exchange"]["trusted_keys"] = public
    server.write_text(yaml.safe_dump(settings))
    with running_bot(tmp_path / "server") as bot:
        assert bot.has_tried.wait(60)
        assert "it is the champion now: it is the first version here" in ran("import", sent, config=server)
        (name,) = Registry(tmp_path / "server").names()
        first = until(lambda: bot._classifier)
        assert first.version == name
        photo = np.zeros((224, 224, 3), np.uint8)
        assert bot.submit(photo, view="whole").result(30).version == name

        better = Registry(tmp_path / "pc").load(name)
        facts = replace(better.facts, created_at="2126-01-01T00:00:00+00:00")
        files = {file: better.read(file) for file in better.sums if file.endswith((".npz", ".html"))}
        newer = Registry(tmp_path / "pc").add(
            facts, better.metrics, lambda folder: [(folder / file).write_bytes(data) for file, data in files.items()]
        )
        ran("export", newer.name, sent, config=pc)
        assert "it was promoted where it was trained" in ran("import", sent, config=server)
        until(lambda: bot.submit(photo, view="whole").result(30).version == newer.name)  # without a pause

    assert f"{name} is the champion again" in ran("rollback", config=server)
    assert "is already here, and has served" in ran("import", sent, config=server)
    assert Registry(tmp_path / "server").champion_name() == name


openvino = pytest.importorskip("openvino", reason="the extra `int8` is not installed")


def network(path: Path) -> Int8Backbone:
    """A network's file as quantising makes it, with one convolution that nobody trained."""
    from openvino import opset13 as ops

    kernel = np.random.default_rng(0).normal(0, 0.1, (64, 3, 3, 3)).astype(np.float32)
    images = ops.parameter([-1, 224, 224, 3], np.uint8, name="images")
    channels = ops.transpose(ops.convert(images, "f32"), np.array([0, 3, 1, 2]))
    maps = ops.relu(ops.convolution(channels, kernel, [4, 4], [1, 1], [1, 1], [1, 1]))
    layer = ops.transpose(maps, np.array([0, 2, 3, 1]))
    features = ops.reduce_mean(layer, np.array([1, 2]), keep_dims=False)
    layer.output(0).get_tensor().set_names({"block1_conv1"})
    features.output(0).get_tensor().set_names({"features"})
    graph = path.with_name("graph.xml")
    openvino.save_model(openvino.Model([features, layer], [images], "vgg16"), graph, compress_to_fp16=False)
    int8.save_network(
        path,
        graph.read_bytes(),
        graph.with_suffix(".bin").read_bytes(),
        fingerprint="f" * 64,
        layers=("block1_conv1",),
        side_px=224,
    )
    return Int8Backbone(path)


def facts_of(backbone: Int8Backbone, **differing: Any) -> VersionFacts:
    facts = VersionFacts(
        labels=LABELS,
        weights="imagenet",
        weights_seed=0,
        fingerprint=backbone.fingerprint,
        layers=backbone.layers,
        view="whole",
        precision="int8",
        threshold=0.5,
        temperature=1.0,
        seed=0,
        n_photos=30,
        created_at="2026-11-23T00:00:00+00:00",
        libraries={},
        settings={},
        tuned=None,
        quantised=backbone.sha256,
    )
    return replace(facts, **differing)


# What a machine with requirements-int8.lock lacks.
WITHOUT_KERAS = """
import sys
sys.modules |= dict.fromkeys(["keras", "tensorflow", "nncf", "h5py"])
sys.argv = ["trainer", *sys.argv[1:]]
from trainer.__main__ import main
main()
"""


def without_keras(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DOKOCOS_")}
    return subprocess.run(
        [sys.executable, "-c", WITHOUT_KERAS, *arguments],
        env=kept | environ,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def int8_pc(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A machine with an int8 version and a key, and the settings of a server that trusts it."""
    settings = settings_for(tmp_path / "photos", tmp_path / "pc")
    backbone = network(tmp_path / "network.npz")
    kernel = np.random.default_rng(1).normal(0, 1, (64, 3)).astype(np.float32)
    head = Head(LABELS, np.zeros(64, np.float32), np.ones(64, np.float32), ((kernel, np.zeros(3, np.float32)),))
    known = Novelty(np.eye(64, dtype=np.float32)[:10], (0, 64), 1.0)

    def write(folder: Path) -> None:
        head.save(folder)
        known.save(folder)
        backbone.save(folder)
        (folder / "photos.txt").write_text("")

    metrics = {"verdict": {"promoted": True, "reasons": ["better"]}}
    Registry(settings.data_dir).add(facts_of(backbone), metrics, write)
    public = make_key(key_file(settings))
    return settings.data_dir, {
        "DOKOCOS_DATA_DIR": str(tmp_path / "server"),
        "DOKOCOS_EXCHANGE__TRUSTED_KEYS": json.dumps([public]),
    }


def test_a_machine_without_keras_imports_and_serves_an_int8_version(
    int8_pc: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    data_dir, environ = int8_pc
    settings = settings_for(tmp_path / "photos", data_dir)
    (name,) = Registry(data_dir).names()
    found = without_keras("import", str(export(name, settings, tmp_path)), **environ)
    assert found.returncode == 0, found.stderr
    assert "it is the champion now" in found.stdout
    with running_bot(tmp_path / "server") as bot:
        assert bot.submit(np.zeros((224, 224, 3), np.uint8), view="whole").result(30).version == name


def test_a_machine_without_keras_compares_int8_versions_where_it_has_photos(
    int8_pc: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    data_dir, environ = int8_pc
    paint_photos(tmp_path / "photos")
    settings = settings_for(tmp_path / "photos", data_dir)
    registry = Registry(data_dir)
    first = registry.load(registry.names()[0])
    files = {file: first.read(file) for file in first.sums if file.endswith((".npz", ".txt"))}
    registry.add(
        replace(first.facts, threshold=0.6, created_at="2026-11-24T00:00:00+00:00"),
        first.metrics,
        lambda folder: [(folder / file).write_bytes(data) for file, data in files.items()],
    )
    config = config_file(tmp_path / "photos", tmp_path / "server")
    assert without_keras("scrape", "--config", str(config), **environ).returncode == 0
    for name in registry.names():
        sent = str(export(name, settings, tmp_path, photo_lists=True))
        found = without_keras("import", sent, "--config", str(config), **environ)
        assert found.returncode == 0, found.stderr
    assert "not promoted: not clearly better: balanced accuracy changes by +0.0 points" in found.stdout


def test_a_version_that_needs_keras_is_refused_where_there_is_none(
    int8_pc: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    data_dir, environ = int8_pc
    registry = Registry(data_dir)
    first = registry.load(registry.names()[0])
    facts = replace(first.facts, precision="float32", quantised=None)
    plain = registry.add(facts, first.metrics, first.head().save)
    sent = str(export(plain.name, settings_for(tmp_path, data_dir), tmp_path))
    found = without_keras("import", sent, **environ)
    assert found.returncode == 1
    assert "is not int8, and keras, which runs it, is not installed here; nothing was imported" in found.stderr
    assert not (tmp_path / "server").exists()

"""A real Ray of two nodes on loopback computes the bits of the local engine, whatever is killed meanwhile."""

import hashlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.fakes import FakeDecoder
from trainer.config import FeatureSettings, ImageSettings, Settings
from trainer.errors import ClusterError, ModelError, StorageError
from trainer.vgg16.cache import FeatureCache
from trainer.vgg16.engines.engine import Todo
from trainer.vgg16.engines.local import LocalEngine
from trainer.vgg16.engines.ray import LOOPBACK_ONLY, NO_USAGE_STATISTICS, on_ray
from trainer.vgg16.engines.worker import THREADS, Order, Worker
from trainer.vgg16.features import Computed, compute_features
from trainer.vgg16.int8 import Int8Backbone
from trainer.vgg16.quantise import quantise
from trainer.vgg16.weights import load_weights

if find_spec("ray") is None:  # not imported yet: it reads the environment once
    pytest.skip("the extra `ray` is not installed", allow_module_level=True)
pytest.importorskip("nncf", reason="the extra `int8` is not installed")

ROOT = Path(__file__).parents[3]
FEATURES = FeatureSettings(
    weights="random", layers=("block1_conv2",), precision="int8", views=("whole", "mirror"), batch_size=4
)
SIDE_PX = 32
PHOTOS_PER_TASK = 4  # two batches of four images, two views of each photo
TASKS_HELD = 2
START_TIMEOUT_S = 120.0


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Int8Backbone:
    path = tmp_path_factory.mktemp("int8") / "network.npz"
    images = np.random.default_rng(0).integers(0, 256, (24, SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
    quantise(path, load_weights(FEATURES), images, settings=FEATURES, progress=lambda *_: None)
    return Int8Backbone(path)


class Nodes:
    """The cluster's head, and another node that can be killed and replaced; each has one CPU."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.address: str = cluster.address
        self.other = cluster.add_node(num_cpus=1)

    def kill_other(self) -> None:
        self._cluster.remove_node(self.other, allow_graceful=False)

    def replace_other(self) -> None:
        self.other = self._cluster.add_node(num_cpus=1)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (LOOPBACK_ONLY | NO_USAGE_STATISTICS | {"RAY_AUTH_MODE": "disabled"}).items():
            patch.setenv(name, value)
        from ray.cluster_utils import Cluster

        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        yield Nodes(cluster)
        cluster.shutdown()


def save_photos(folder: Path, n: int) -> list[Todo]:
    rng = np.random.default_rng(n)
    photos = []
    for number in range(n):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (48, 40, 3), dtype=np.uint8)).save(path)
        photos.append(Todo(hashlib.sha256(path.read_bytes()).hexdigest(), path, ()))
    return photos


def settings_in(folder: Path) -> Settings:
    return Settings(data_dir=folder, features=FEATURES)


def open_cache(folder: Path, network: Int8Backbone) -> FeatureCache:
    return FeatureCache(folder / "cache", views=FEATURES.views, n_features=network.n_features)


def compute_here(photos: list[Todo], network: Int8Backbone, folder: Path) -> tuple[FeatureCache, Computed]:
    cache = open_cache(folder / "local", network)
    engine = LocalEngine(network, FakeDecoder(ImageSettings()), batch_size=7)
    return cache, compute_features(photos, engine=engine, cache=cache)


def compute_there(
    photos: list[Todo],
    network: Int8Backbone,
    folder: Path,
    address: str | None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[FeatureCache, Computed]:
    cache = open_cache(folder / "ray", network)
    with on_ray(address)(network, settings_in(folder)) as engine:
        return cache, compute_features(photos, engine=engine, cache=cache, progress=progress)


def sent_again(caplog: pytest.LogCaptureFixture) -> int:
    return int(re.findall(r"ray finished .*sent_again=(\d+)", caplog.text)[-1])


class WaitForBoth:
    """Hold the one worker that is ready up, so that the other one gets something to do."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self._pause_s = 0.5

    def __call__(self) -> bool:
        """Wait longer each time, as other work may delay the other worker; returns whether both are ready."""
        if self._caplog.text.count("worker ready") >= 2:
            return True
        time.sleep(self._pause_s)
        self._pause_s *= 1.5
        return False


def test_two_nodes_compute_the_bits_of_the_local_engine(
    network: Int8Backbone, nodes: Nodes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    photos = save_photos(tmp_path, 40)
    photos[3].path.write_bytes(b"changed")
    photos[5].path.unlink()
    told: list[tuple[int, int]] = []

    wait_for_both = WaitForBoth(caplog)

    def tell(done: int, total: int) -> None:
        told.append((done, total))
        wait_for_both()

    there, on_cluster = compute_there(photos, network, tmp_path, nodes.address, tell)

    here, local = compute_here(photos, network, tmp_path)
    kept = [photo.sha256 for photo in photos if photo not in (photos[3], photos[5])]
    assert np.array_equal(there.load(kept), here.load(kept))
    assert on_cluster.refused == local.refused
    assert [photo.sha256 for photo in local.refused] == [photos[3].sha256, photos[5].sha256]
    assert on_cluster.n_photos == len(kept)
    assert len(there) == len(kept) * len(FEATURES.views)
    assert sorted(told) == told
    assert told[-1] == (40, 40)
    assert "workers=2 " in caplog.text
    assert sent_again(caplog) == 0


def test_a_node_that_is_killed_costs_at_most_the_tasks_it_held(
    network: Int8Backbone, nodes: Nodes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    photos = save_photos(tmp_path, 200)
    killed: list[int] = []
    wait_for_both = WaitForBoth(caplog)

    def kill_once(done: int, total: int) -> None:  # noqa: ARG001
        if not wait_for_both():
            return
        killed.append(done)
        if len(killed) == 5:  # both have something to do
            nodes.kill_other()

    there, computed = compute_there(photos, network, tmp_path, nodes.address, kill_once)
    nodes.replace_other()

    assert len(killed) > 5
    assert sent_again(caplog) <= TASKS_HELD * PHOTOS_PER_TASK
    assert computed.n_photos == 200
    assert computed.refused == ()
    here, _ = compute_here(photos, network, tmp_path)
    sha256s = [photo.sha256 for photo in photos]
    assert np.array_equal(there.load(sha256s), here.load(sha256s))
    assert sum(len(np.load(path)) for path in (tmp_path / "ray/cache").glob("*.npy")) == 400  # nothing twice


def test_a_photo_that_kills_three_workers_is_refused_with_the_reason(
    network: Int8Backbone, nodes: Nodes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The photo is a pipe: who reads it is known, waits, and is killed."""
    photos = save_photos(tmp_path, 16)
    deadly = photos[6]
    deadly.path.unlink()
    os.mkfifo(deadly.path)
    is_over = threading.Event()

    def kill_readers() -> None:
        with deadly.path.open("r+b", buffering=0):  # who reads it waits, and sees no end
            while not is_over.wait(0.05):
                for pid in readers(deadly.path):
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_readers, daemon=True)
    killer.start()
    try:
        there, computed = compute_there(photos, network, tmp_path, nodes.address)
    finally:
        is_over.set()
        killer.join()

    assert [photo.sha256 for photo in computed.refused] == [deadly.sha256]
    assert "3 workers died while they computed it" in computed.refused[0].reason
    assert f"photo skipped path={deadly.path}" in caplog.text
    kept = [photo.sha256 for photo in photos if photo is not deadly]
    assert there.missing(kept) == []
    assert computed.n_photos == len(kept)


def readers(path: Path) -> set[int]:
    """The other processes that have a file open."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it may end meanwhile
            for link in (process / "fd").iterdir():
                with suppress(OSError):
                    if link.readlink() == path:
                        found.add(int(process.name))
    return found - {os.getpid()}


def test_a_cluster_whose_workers_have_another_network_is_refused(
    network: Int8Backbone, nodes: Nodes, tmp_path: Path
) -> None:
    path = tmp_path / "network.npz"
    path.write_bytes(network.path.read_bytes())
    mine = Int8Backbone(path)
    with np.load(path) as arrays:
        other = dict(arrays)
    np.savez_compressed(path, **other)
    with pytest.raises(ClusterError, match=r"has the network vgg16-.* instead of .*share the same weights"):
        compute_there(save_photos(tmp_path, 2), mine, tmp_path, nodes.address)


def test_no_worker_is_started_when_nothing_is_missing(network: Int8Backbone, tmp_path: Path) -> None:
    _, computed = compute_there([], network, tmp_path, "127.0.0.1:1")
    assert computed.n_photos == 0


@pytest.mark.parametrize("address", ["127.0.0.1:1", "somewhere"])
def test_an_address_where_no_cluster_answers_is_told_at_once(
    network: Int8Backbone, tmp_path: Path, address: str
) -> None:
    with pytest.raises(ClusterError, match=f"--address {address}: no Ray cluster answers .*HOST:PORT"):
        compute_there(save_photos(tmp_path, 1), network, tmp_path, address)


def test_a_worker_refuses_other_libraries_and_photos_that_it_does_not_see(
    network: Int8Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in THREADS:
        monkeypatch.setenv(name, "1")  # restored afterwards: a worker sets them
    photo = save_photos(tmp_path, 1)[0]
    order = Order.of(network, FEATURES, ImageSettings(), photo)
    with pytest.raises(ModelError, match=r"other features: it has pillow \S+ instead of 1.0; install the same lock"):
        Worker(replace(order, libraries=order.libraries | {"pillow": "1.0"}), n_cpus=1).open()
    photo.path.unlink()
    with pytest.raises(StorageError, match="share data_dir"):
        Worker(order, n_cpus=1).open()
    assert {os.environ[name] for name in THREADS} == {"1"}


AGENTS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
PROGRAM = """
import logging, signal, sys, time
from pathlib import Path
from tests.trainer.vgg16.test_ray_engine import compute_there, save_photos
from trainer.vgg16.int8 import Int8Backbone

logging.basicConfig(level="INFO", stream=sys.stderr)
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
folder = Path(sys.argv[2])
photos, network = save_photos(folder, 300), Int8Backbone(Path(sys.argv[1]))
compute_there(photos, network, folder, None, lambda done, total: time.sleep(0.2))
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_stopped_run_leaves_its_features_and_no_process(
    network: Int8Backbone, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    """It listens on loopback alone, reports no usage, and the same command goes on."""
    command = [sys.executable, "-c", PROGRAM, str(network.path), str(tmp_path)]
    with (
        TemporaryDirectory(ignore_cleanup_errors=True) as temporary,  # the path of a socket must be short
        subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"TMPDIR": temporary}, stderr=subprocess.PIPE, text=True
        ) as process,
    ):
        assert process.stderr is not None
        assert any("worker ready" in line for line in process.stderr)
        until(lambda: list((tmp_path / "ray/cache").glob("*.npy")))
        children = psutil.Process(process.pid).children(recursive=True)
        agents = [child for child in children if name_of(child) in AGENTS]
        services = [child for child in children if name_of(child) in ("raylet", "gcs_server")]
        usage = [child.environ()["RAY_USAGE_STATS_ENABLED"] for child in services]
        listening = {address for child in children for address in addresses_of(child)}
        process.send_signal(number)
        assert process.wait(30) == status
    assert listening == {"127.0.0.1"}
    assert usage == ["0", "0"]
    _, alive = psutil.wait_procs([child for child in children if child not in agents], timeout=20)
    assert alive == []
    for agent in agents:  # they look for their node for a minute
        with suppress(psutil.NoSuchProcess):
            agent.kill()
    assert len(open_cache(tmp_path / "ray", network)) > 0


def name_of(process: psutil.Process) -> str:
    """Its name, also after its end."""
    with suppress(psutil.NoSuchProcess):
        return process.name()
    return ""


def addresses_of(process: psutil.Process) -> set[str]:
    """The addresses on which a process listens."""
    with suppress(psutil.NoSuchProcess):
        connections = [one for one in process.net_connections() if one.status == psutil.CONN_LISTEN]
        return {connection.laddr.ip.removeprefix("::ffff:") for connection in connections}
    return set()


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + START_TIMEOUT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)

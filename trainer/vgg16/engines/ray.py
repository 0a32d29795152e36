"""Computes features on the machines of a Ray cluster; no other module knows Ray.

A worker is a Ray actor with a network of its own (`worker`). This process sends it rows, up to two tasks ahead, and
gets batches of features back; it alone writes the cache. Ray restarts nothing by itself: this process sees which task a
dead worker was at, starts another one, and decides what is sent again (`assignment`).

Ray's actors are used rather than Ray Data, which retries whole blocks: it cannot tell which photo kills workers, ends
the run or drops the whole block without a word, and its reading waits for a CPU that no worker has.
"""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import signal
import socket
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from trainer.config import Settings
from trainer.errors import ClusterError, ConfigError, ImageError, ProjectError
from trainer.photos.photo_files import open_files, read_photo
from trainer.vgg16.backbone import Extractor
from trainer.vgg16.engines.assignment import MAX_DEATHS, Assignment, Place, Task, places
from trainer.vgg16.engines.engine import Batch, Engine, OpenEngine, Todo
from trainer.vgg16.engines.worker import Facts, Order, Worker

logger = logging.getLogger(__name__)

MAX_SAMPLES = 100  # photos among which one that can be read is looked for, as an example for the workers
TASKS_AHEAD = 2  # for each worker: one at work, one that waits
PASSES = 2  # batches of the network in a task
OBJECT_STORE_BYTES = 128 * 1024 * 1024  # of a local cluster; features are small
LOOK_EVERY_S = 2.0  # for nodes that came or went
SAY_EVERY_S = 10.0
NO_WORKER_S = 60.0  # for how long a cluster may have no node
CONNECT_TIMEOUT_S = 10.0
NO_USAGE_STATISTICS = {"RAY_USAGE_STATS_ENABLED": "0"}
# Ray listens on all addresses unless it is told that it starts no cluster of several machines.
LOOPBACK_ONLY = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
LOOPBACK = ("127.0.0.1", "::1")


def on_ray(address: str | None = None) -> OpenEngine:
    """An engine on a cluster.

    Args:
        address: HOST:PORT of a running cluster, of which this machine is a node; None: one is started for this machine.
    """

    @contextmanager
    def open_engine(backbone: Extractor, settings: Settings) -> Iterator[Engine]:
        with ExitStack() as stack:
            yield RayEngine(backbone, settings, connect=lambda: stack.enter_context(cluster(address)))

    return open_engine


@contextmanager
def cluster(address: str | None = None) -> Iterator[Any]:
    """The module `ray`, connected to a running cluster, or to one of this machine that ends with the context.

    Usage statistics are off. A cluster of this machine listens on loopback alone, without a dashboard, and asks for a
    token that only its processes know.

    Raises:
        ConfigError: Ray is not installed.
        ClusterError: no cluster could be joined or started.
    """
    own = LOOPBACK_ONLY | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with ExitStack() as stack:
        stack.enter_context(_environment(NO_USAGE_STATISTICS | (own if address is None else {})))
        try:
            ray = importlib.import_module("ray")  # after the environment, which it reads once
            importlib.import_module("ray.util.scheduling_strategies")
        except ImportError as error:
            raise ConfigError("--engine ray: Ray is not installed; see docs/SCALE.md") from error
        if address is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="dokocos-", ignore_cleanup_errors=True))
            options = {"address": "local", "include_dashboard": False, "_temp_dir": folder}
            options |= {"num_cpus": os.cpu_count(), "object_store_memory": OBJECT_STORE_BYTES}
        else:
            _check(address)
            options = {"address": address}
        on_sigterm = signal.getsignal(signal.SIGTERM)
        stack.callback(ray.shutdown)
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ClusterError(f"--engine ray: {address or 'a local cluster'}: {error}") from error
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)  # Ray's own would end this process before its cluster
        if address is None and ray.util.get_node_ip_address() not in LOOPBACK:
            raise ClusterError(
                "--engine ray: Ray would listen on the network; import it after dokocos, or use --address"
            )
        yield ray


def _check(address: str) -> None:
    """Raise ClusterError if nothing listens there; Ray itself would wait for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (OSError, ValueError, OverflowError) as error:
        raise ClusterError(
            f"--address {address}: no Ray cluster answers ({error}); give HOST:PORT of `ray start --head`"
        ) from error


@dataclass(eq=False)
class _Hired:
    """A worker from its start to its end; its tasks are computed in order."""

    place: Place
    actor: Any
    opening: Any  # reference to its Facts
    facts: Facts | None = None
    tasks: deque[tuple[Any, Task]] = field(default_factory=deque)


class RayEngine:
    """An `Engine` on a cluster.

    Args:
        connect: returns the module `ray`, connected; called when there is something to compute.
    """

    def __init__(self, backbone: Extractor, settings: Settings, *, connect: Callable[[], Any]) -> None:
        self._backbone = backbone
        self._settings = settings
        self._connect = connect

    def run(self, todo: Sequence[Todo], *, with_maps: bool = False) -> Iterator[Batch]:
        """Compute photos, in the order in which workers finish them; see `Engine.run`.

        Raises:
            ClusterError: no worker can be started, or none is left.
        """
        if not todo:
            return
        todo = [Todo(photo.sha256, photo.path.absolute(), photo.views) for photo in todo]
        settings = self._settings
        sample = next((photo for photo in todo[:MAX_SAMPLES] if _is_there(photo, settings)), todo[0])
        order = Order.of(
            self._backbone,
            settings.features,
            settings.images,
            sample,
            bucket=settings.bucket if settings.bucket.url else None,
            data_dir=settings.data_dir,
        )
        run = _Run(self._connect(), order, Assignment(todo), with_maps=with_maps)
        try:
            yield from run.batches()
        finally:
            run.end()


def _is_there(photo: Todo, settings: Settings) -> bool:
    """Whether a worker should be able to read a photo. Raises StorageError if a bucket does not answer."""
    if settings.bucket.url is None:
        return photo.path.is_file()
    with suppress(ImageError):
        return bool(read_photo(photo, open_files(settings)))
    return False


class _Run:
    """The workers of one run."""

    def __init__(self, ray: Any, order: Order, assignment: Assignment, *, with_maps: bool) -> None:
        self._ray = ray
        self._order = order
        self._shared_order = ray.put(order)  # perhaps with a network of 15 MB
        self._assignment = assignment
        self._with_maps = with_maps
        self._views = max(len(photo.views) for photo in assignment.todo)
        self._hired: list[_Hired] = []
        self._on_gpu = order.network is None and any("GPU" in has for has in self._nodes().values())
        self._failures: Counter[Place] = Counter()  # starts in a row that failed
        self._n_died = 0
        self._why = "it has no node with a processor"
        self._refusal = ""  # what the last worker that refused to work said; tells more than how another one ended
        self._n_done = 0
        self._started = self._looked = self._said = self._staffed = time.monotonic()

    def batches(self) -> Iterator[Batch]:
        self._hire()
        while self._assignment or any(worker.tasks for worker in self._hired):
            self._send()
            references = [worker.opening for worker in self._hired if worker.facts is None]
            references += [reference for worker in self._hired for reference, _ in worker.tasks]
            if references:
                ready, _ = self._ray.wait(references, timeout=1.0)
            else:
                ready = []
                time.sleep(0.2)
            for reference in ready:
                for batch in self._receive(reference):
                    self._n_done += batch.n_finished + len(batch.refused)
                    yield batch
            if time.monotonic() - self._looked > LOOK_EVERY_S:
                self._hire()
            if time.monotonic() - self._said > SAY_EVERY_S:
                self._say("running")
        self._say("finished")

    def end(self) -> None:
        """Stop all workers; what they were at is lost."""
        if self._ray.is_initialized():
            for worker in self._hired:
                self._ray.kill(worker.actor)

    def _nodes(self) -> dict[str, dict[str, float]]:
        """Node id -> resources, of the nodes that are alive."""
        return {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}

    def _hire(self) -> None:
        """Start a worker in every place that has none. Raises ClusterError if there has been no place for a while."""
        self._looked = time.monotonic()
        taken = {worker.place for worker in self._hired}
        for place in places(self._nodes(), on_gpu=self._on_gpu):
            if place not in taken and self._failures[place] < MAX_DEATHS:
                self._hired.append(self._start(place))
        if self._hired:
            self._staffed = self._looked
        elif self._failures or self._looked - self._staffed > NO_WORKER_S:
            raise ClusterError(
                f"the Ray cluster has no worker left: {(self._refusal or self._why).rstrip('.')}. Features computed so "
                "far are kept, and the same command continues from there"
            )

    def _start(self, place: Place) -> _Hired:
        there = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(place.node_id, soft=False)
        options = {"num_cpus": place.n_cpus, "num_gpus": place.n_gpus, "scheduling_strategy": there}
        actor_class = self._ray.remote(max_restarts=0, max_task_retries=0)(Worker).options(**options)
        actor = actor_class.remote(self._shared_order, n_cpus=place.n_cpus, uses_gpu=bool(place.n_gpus))
        return _Hired(place, actor, actor.open.remote())

    def _send(self) -> None:
        """Give every worker that is ready its next tasks, in turn."""
        for n_ahead in range(TASKS_AHEAD):
            for worker in self._hired:
                if worker.facts is None or len(worker.tasks) > n_ahead:
                    continue
                n_photos = max(1, PASSES * worker.facts.batch_size // self._views)
                if task := self._assignment.take(n_photos, is_idle=not worker.tasks):
                    worker.tasks.append((worker.actor.compute.remote(task, with_maps=self._with_maps), task))

    def _receive(self, reference: Any) -> Iterator[Batch]:
        """What a reference that is ready brings; a worker that died has all its tasks ready, and is replaced."""
        worker = next(
            (one for one in self._hired if reference in (one.opening, *(task[0] for task in one.tasks))), None
        )
        if worker is None:  # it died, and another reference said so
            return
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(reference)
        except errors.RayTaskError as error:
            if not isinstance(error.cause, ProjectError):
                raise error.cause from error  # a bug
            self._failures[worker.place] = MAX_DEATHS  # it refuses, and would do so again
            self._refusal = str(error.cause)
            self._dismiss(worker, self._refusal)
            for _, task in worker.tasks:
                self._assignment.send_again(task)
            self._hire()
        except errors.RayError as error:
            yield from self._lost(worker, error)
        else:
            if worker.facts is None:
                self._welcome(worker, answer)
            else:
                worker.tasks = deque(task for task in worker.tasks if task[0] != reference)
                yield answer

    def _welcome(self, worker: _Hired, facts: Facts) -> None:
        worker.facts = facts
        self._failures.pop(worker.place, None)
        self._say("worker ready")
        if facts.lacks:
            logger.warning("host=%s decodes without full confinement; it lacks: %s", facts.host, "; ".join(facts.lacks))
        if facts.processor != self._order.processor and self._order.precision != "int8":
            logger.warning(
                "host=%s has another processor; the last bits of %s features may differ: %s instead of %s",
                facts.host,
                self._order.precision,
                facts.processor,
                self._order.processor,
            )

    def _lost(self, worker: _Hired, error: Exception) -> Iterator[Batch]:
        """A worker died, or cannot be reached: take what it finished, and decide about its other tasks."""
        reason = str(error).strip().splitlines()[-1]
        self._dismiss(worker, reason)
        is_dead = isinstance(error, self._ray.exceptions.ActorDiedError)
        node_lives = worker.place.node_id in self._nodes()
        if worker.facts is None and node_lives:
            self._failures[worker.place] += 1
        begun = True
        for reference, task in worker.tasks:
            try:
                yield self._ray.get(reference)
            except self._ray.exceptions.RayError:
                if begun and is_dead and node_lives:
                    if refused := self._assignment.blame(task, reason):
                        yield Batch(refused=refused)
                else:
                    self._assignment.send_again(task)
                begun = False
        self._hire()

    def _dismiss(self, worker: _Hired, reason: str) -> None:
        self._hired.remove(worker)
        self._ray.kill(worker.actor)
        self._n_died += 1
        self._why = reason
        logger.warning("worker ended node=%s reason=%s", worker.place.node_id[:8], reason)

    def _say(self, event: str) -> None:
        self._said = time.monotonic()
        logger.info(
            "ray %s workers=%d starting=%d ended=%d photos=%d photos_per_s=%.1f sent_again=%d refused_for_deaths=%d",
            event,
            sum(worker.facts is not None for worker in self._hired),
            sum(worker.facts is None for worker in self._hired),
            self._n_died,
            self._n_done,
            self._n_done / max(self._said - self._started, 1e-9),
            self._assignment.n_sent_again,
            self._assignment.n_refused,
        )


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables, and restore them afterwards."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

"""Metrics for Prometheus: counts since the start, and the current state.

Naming rules: https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from bot.admin.agreement import Opinions, interval
from bot.admin.status import StatusReader
from bot.storage.inbox import Entry, Outcome
from bot.storage.records import Records

CONTENT_TYPE = CONTENT_TYPE_LATEST
LATENCY_BUCKETS_S = (0.5, 1, 2, 3, 5, 10, 20, 30, 60, 300, 1800, 7200)


class Connections(Protocol):
    """The stream: `bot.mentions.stream.Stream`."""

    n_connections: int

    @property
    def is_open(self) -> bool:
        """Whether a stream is open now."""


class _NoStream:
    """Stands in for the stream until there is one."""

    n_connections = 0
    is_open = False


class Metrics(Collector):
    """Counts mentions and their outcomes, and renders all metrics; collects the current state for each request.

    Args:
        now: seconds since the epoch.

    Attributes:
        stream: the stream, once there is one.
    """

    def __init__(self, status_reader: StatusReader, records: Records, *, now: Callable[[], float] = time.time) -> None:
        self.stream: Connections = _NoStream()
        self._status_reader = status_reader
        self._records = records
        self._now = now
        self._registry = CollectorRegistry()
        self._mentions = Counter("dokocos_mentions", "Mentions put into the inbox.", registry=self._registry)
        self._answers = Counter("dokocos_answers", "Replies posted.", ["kind"], registry=self._registry)
        self._refusals = Counter(
            "dokocos_refusals", "Mentions not answered on purpose.", ["reason"], registry=self._registry
        )
        self._failures = Counter("dokocos_failures", "Mentions that failed.", registry=self._registry)
        self._latency = Histogram(
            "dokocos_answer_seconds",
            "From the mention's arrival to its reply.",
            buckets=LATENCY_BUCKETS_S,
            registry=self._registry,
        )
        self._registry.register(self)

    def received(self) -> None:
        """Counts a mention that was put into the inbox."""
        self._mentions.inc()

    def finished(self, entry: Entry, outcome: Outcome) -> None:
        """Counts a mention that was answered, refused or has failed."""
        if outcome.state == "answered":
            self._answers.labels(outcome.kind or "answer").inc()
            self._latency.observe(max(0.0, self._now() - entry.received_at))
        elif outcome.state == "refused":
            self._refusals.labels(outcome.reason).inc()
        else:
            self._failures.inc()

    def page(self) -> bytes:
        """All metrics in Prometheus' text format. Raises StorageError."""
        return generate_latest(self._registry)

    def describe(self) -> Iterator[Metric]:
        """Describes nothing, so that registering does not call `collect` before all parts exist."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Called by the registry."""
        view = self._status_reader.read()
        inbox = GaugeMetricFamily("dokocos_inbox", "Mentions in the inbox.", labels=["state"])
        for state, n in view.counts.items():
            inbox.add_metric([state], n)
        yield inbox
        yield GaugeMetricFamily("dokocos_inbox_depth", "Mentions still to be answered.", value=view.n_waiting)
        yield GaugeMetricFamily("dokocos_paused", "1 while an admin has paused the bot.", value=view.paused)
        yield GaugeMetricFamily("dokocos_free_bytes", "Free on data_dir's disk.", value=view.free_bytes)
        yield GaugeMetricFamily("dokocos_uptime_seconds", "Since the start.", value=view.uptime_s)
        yield GaugeMetricFamily("dokocos_stream_open", "1 while a stream is open.", value=self.stream.is_open)
        yield CounterMetricFamily(
            "dokocos_stream_connections", "Streams opened since the start.", value=self.stream.n_connections
        )
        runs = GaugeMetricFamily("dokocos_job_runs", "Recorded runs of a job.", labels=["job", "outcome"])
        for (job, outcome), n in sorted(self._records.run_counts().items()):
            runs.add_metric([job, outcome], n)
        yield runs
        yield from self._champion(view.report)
        yield from _opinions(view.opinions)
        yield InfoMetricFamily("dokocos_champion", "The version that serves.", value={"version": view.champion})

    def _champion(self, report: dict[str, Any] | None) -> Iterator[Metric]:
        if report is None:
            return
        recall = GaugeMetricFamily("dokocos_champion_recall", "On held-out members.", labels=["label"])
        precision = GaugeMetricFamily("dokocos_champion_precision", "On held-out members.", labels=["label"])
        for each in report["classes"]:
            for family, name in ((recall, "recall"), (precision, "precision")):
                if each[name]["value"] is not None:
                    family.add_metric([each["label"]], each[name]["value"])
        yield from (recall, precision)
        balanced = report["balanced_accuracy"]["value"]
        if balanced is not None:
            yield GaugeMetricFamily(
                "dokocos_champion_balanced_accuracy", "Mean recall on held-out members.", value=balanced
            )


def _opinions(opinions: Opinions) -> Iterator[Metric]:
    """Shares of the answers that were called right, of those that were called right or wrong."""
    names = ["source", "label", "version"]
    counts = GaugeMetricFamily("dokocos_opinions", "Answers called right or wrong.", labels=[*names, "verdict"])
    shares = GaugeMetricFamily(
        "dokocos_agreement",
        "Share called right; low and high: the ends of its 95% interval.",
        labels=[*names, "figure"],
    )
    for source, found in (("volunteers", opinions.volunteers), ("sample", opinions.samples)):
        for each in found:
            of = [source, each.label, each.version]
            counts.add_metric([*of, "right"], each.n_right)
            counts.add_metric([*of, "wrong"], each.n - each.n_right)
            low, high = interval(each.n_right, each.n)
            for figure, value in (("share", each.n_right / each.n), ("low", low), ("high", high)):
                shares.add_metric([*of, figure], value)
    yield from (counts, shares)

"""Figures of a run for Prometheus, which scrapes them from Ray's agent on each node.

Ray puts `ray_` before each name, and adds labels of its own: the node's address and the worker's id. Labels of ours have few values:
no clip, subject or group is named. A gauge that is not set again is gone after 20 s, and what a process recorded in its last seconds
may never be exported: metrics are for watching a run, the records in the output location are for accounting.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lynx_batch.store_traffic import Traffic, read_traffic

EXPORT_EVERY_S = 1.0
"""How often a process passes its figures on to Ray. Ray itself exports them every 10 s."""

STAGE_BOUNDS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0, 1800.0)


class Kind(StrEnum):
    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A figure that a run exports. The unit is part of its name. Besides `labels`, each metric has the label `run`."""

    name: str
    kind: Kind
    labels: tuple[str, ...] = ()
    unit: str
    meaning: str


def _counter(name: str, *labels: str, unit: str, meaning: str) -> Metric:
    return Metric(name=f"lynx_{name}_total", kind=Kind.COUNTER, labels=labels, unit=unit, meaning=meaning)


def _gauge(name: str, *labels: str, unit: str, meaning: str) -> Metric:
    return Metric(name=f"lynx_{name}", kind=Kind.GAUGE, labels=labels, unit=unit, meaning=meaning)


CLIPS = _counter(
    *("clips", "outcome", "reason"),
    unit="clips",
    meaning="Clips that ended in this run: `rendered`, `rejected` or `failed`, and the kind of the error.",
)
CLIPS_IN_STATE = _gauge(
    *("clips_in_state", "state"),
    unit="clips",
    meaning="The clips that this run is to render: `waiting`, `running`, `rendered`, `rejected` or `failed`.",
)
WAITING = _gauge(
    "waiting_clips", "group_size", unit="clips", meaning="The queue, by the size of the group that clips need."
)
ATTEMPTS = _counter(
    *("attempts", "result"),
    unit="attempts",
    meaning="Attempts that ended: `rendered`, `judged` (not good enough, or one of several tries) or `failed`.",
)
RESEEDS = _counter("reseeds", unit="tries", meaning="Tries after which the quality gate asked for another seed.")
RETRIES = _counter(
    "retries", "fault", unit="attempts", meaning="Failed attempts that are repeated, by whose fault it was."
)
STAGES = Metric(
    name="lynx_stage_seconds",
    kind=Kind.HISTOGRAM,
    labels=("stage",),
    unit="seconds",
    meaning="How long each stage of an attempt took, and loading. Ray estimates the `_sum` from the buckets.",
)
STEPS = _counter("denoise_steps", unit="steps", meaning="Denoising steps that groups have done.")
GROUPS = _gauge(
    *("groups", "state", "size"),
    unit="groups",
    meaning="Groups by number of GPUs: `loading`, `open`, `closing`, `pausing` or `broken`.",
)
FORMED = _counter("groups_formed", "size", unit="groups", meaning="Groups that were formed, replacements included.")
GPU_SECONDS = _counter(
    *("gpu_seconds", "gpu"),
    unit="GPU-seconds",
    meaning="Time for which this run's groups held GPUs, loading included, by type of GPU. A CPU slot counts as one.",
)
LEFT = _gauge(
    "predicted_left_seconds", unit="seconds", meaning="Predicted time until the last clip, from the pace so far."
)
SPENT = _gauge(
    "budget_gpu_seconds",
    unit="GPU-seconds",
    meaning="What all runs under the same `limits.name` have spent so far; without limits, this run.",
)
COST = _gauge("budget_cost_usd", unit="USD", meaning="The same in money, if `cluster.usd_per_gpu_hour` is known.")
BUDGET_USED = _gauge(
    "budget_used_ratio", unit="ratio", meaning="The used share of the limit that is closest, 1 at its end."
)
BUSY = _gauge(
    *("rank_busy_ratio", "rank", "gpu_index"),
    unit="ratio",
    meaning="Share of the last seconds in which this rank rendered, decoding included.",
)
VRAM = _gauge("rank_vram_bytes", "rank", "gpu_index", unit="bytes", meaning="Memory that this rank holds on its GPU.")
RSS = _gauge("rank_rss_bytes", "rank", "gpu_index", unit="bytes", meaning="Memory that this rank holds on its host.")
STORE_ERRORS = _counter(
    "store_errors", "error", unit="calls", meaning="Calls to a store that failed, repeated ones included."
)
STORE_WAIT = _counter(
    "store_wait_seconds", unit="seconds", meaning="Time spent waiting before calls to a store were repeated."
)
UPLOADED = _counter("uploaded_bytes", unit="bytes", meaning="Bytes written to stores: clips and records.")

OF_DRIVER = (
    *(CLIPS, CLIPS_IN_STATE, WAITING, ATTEMPTS, RESEEDS, RETRIES, STAGES, GROUPS, FORMED),
    *(GPU_SECONDS, LEFT, SPENT, COST, BUDGET_USED),
)
OF_RANKS = (STEPS, BUSY, VRAM, RSS)
OF_BOTH = (STORE_ERRORS, STORE_WAIT, UPLOADED)
METRICS = (*OF_DRIVER, *OF_RANKS, *OF_BOTH)


class Exporter:
    """Passes values of one process on to Ray, which must be connected. Every value gets the labels given here."""

    def __init__(self, **labels: str) -> None:
        self._labels = labels
        self._made: dict[str, Any] = {}

    def add(self, metric: Metric, value: float = 1, **labels: str) -> None:
        if value > 0:  # Ray refuses 0
            self._of(metric).inc(value, self._labels | labels)

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        self._of(metric).set(value, self._labels | labels)

    def observe(self, metric: Metric, value: float, **labels: str) -> None:
        self._of(metric).observe(value, self._labels | labels)

    def _of(self, metric: Metric) -> Any:
        if metric.name not in self._made:
            self._made[metric.name] = self._make(metric)
        return self._made[metric.name]

    def _make(self, metric: Metric) -> Any:
        from ray.util import metrics as ray_metrics  # here, so that the list of metrics can be read without Ray

        tags = (*metric.labels, *self._labels)
        if metric.kind is Kind.HISTOGRAM:
            return ray_metrics.Histogram(metric.name, metric.meaning, [*STAGE_BOUNDS_S], tags)
        made = ray_metrics.Counter if metric.kind is Kind.COUNTER else ray_metrics.Gauge
        return made(metric.name, metric.meaning, tags)


class StoreMetrics:
    """Exports what this process asked of its stores."""

    def __init__(self, exporter: Exporter) -> None:
        self._exporter, self._exported = exporter, Traffic()

    def export(self) -> None:
        traffic = read_traffic()
        new, self._exported = traffic.since(self._exported), traffic
        for error, count in new.errors.items():
            self._exporter.add(STORE_ERRORS, count, error=error)
        self._exporter.add(STORE_WAIT, new.wait_s)
        self._exporter.add(UPLOADED, new.uploaded_bytes)

"""What the driver of a run exports for Prometheus."""

import time
from collections.abc import Iterable

import ray

from lynx_batch.execution.group_state import Phase
from lynx_batch.execution.metrics import (
    ATTEMPTS,
    BUDGET_USED,
    CLIPS,
    CLIPS_IN_STATE,
    COST,
    EXPORT_EVERY_S,
    FORMED,
    GPU_SECONDS,
    GROUPS,
    LEFT,
    RESEEDS,
    RETRIES,
    SPENT,
    STAGES,
    WAITING,
    Exporter,
    StoreMetrics,
)
from lynx_batch.execution.progress import Estimate, GroupProgress, Progress
from lynx_batch.planning.budget import Spending
from lynx_batch.planning.schedule import ClipState
from lynx_batch.planning.simulate import HOUR_S
from lynx_batch.planning.verdict import Reject
from lynx_batch.rendering.tasks import Failed, Judged, Loaded, Rendered, RenderTask
from lynx_batch.stages import Span

MAX_ADDRESSES = 3


class RunMetrics:
    """Exports what the driver reports: a recorder of attempts, and a watch of the progress."""

    def __init__(self, run_id: str) -> None:
        self._exporter = Exporter(run=run_id)
        self._store = StoreMetrics(self._exporter)
        self._estimate = Estimate()
        self._known_groups: set[str] = set()
        self._known_sizes: set[int] = set()
        self._known_kinds: set[tuple[Phase, int]] = set()
        self._held: tuple[GroupProgress, ...] = ()
        self._exported_s = time.monotonic()

    def loaded(self, group: str, answer: Loaded) -> None:
        self._observe([answer.span])

    def rendered(self, task: RenderTask, group: str, result: Rendered, *, attempts: int) -> None:
        self._end_attempt("rendered", result.spans)
        self._exporter.add(CLIPS, outcome=ClipState.RENDERED, reason="")

    def judged(self, task: RenderTask, group: str, result: Judged, *, attempts: int) -> None:
        self._end_attempt("judged", result.spans)
        if isinstance(result.verdict, Reject):
            self._exporter.add(CLIPS, outcome=ClipState.REJECTED, reason=result.verdict.error_type)
        else:
            self._exporter.add(RESEEDS)

    def failed(
        self, task: RenderTask, group: str, result: Failed, state: ClipState, *, attempts: int, deaths: int
    ) -> None:
        self._end_attempt("failed", result.spans)
        if state is ClipState.WAITING:
            self._exporter.add(RETRIES, fault=result.fault)
        else:
            self._exporter.add(CLIPS, outcome=state, reason=result.error_type)

    def watch(self, progress: Progress) -> None:
        """Exports the progress, at most every `EXPORT_EVERY_S`. A group that comes and goes in between is not counted."""
        now_s = time.monotonic()
        elapsed_s = now_s - self._exported_s
        if elapsed_s < EXPORT_EVERY_S:
            return
        self._exported_s = now_s
        self._export_held(elapsed_s, progress.groups)
        self._export_clips(progress)
        self._export_groups(progress.groups)
        self._export_spending(progress.spending)
        self._store.export()

    def _end_attempt(self, result: str, spans: Iterable[Span]) -> None:
        self._exporter.add(ATTEMPTS, result=result)
        self._observe(spans)

    def _observe(self, spans: Iterable[Span]) -> None:
        for span in spans:
            self._exporter.observe(STAGES, span.seconds, stage=span.stage)

    def _export_held(self, elapsed_s: float, groups: tuple[GroupProgress, ...]) -> None:
        """Counts the time since the last call for the groups that there were then."""
        for group in self._held:
            self._exporter.add(GPU_SECONDS, group.size * elapsed_s, gpu=group.gpu)
        self._held = groups

    def _export_clips(self, progress: Progress) -> None:
        in_state = {
            ClipState.WAITING: progress.num_waiting,
            ClipState.RUNNING: len(progress.running),
            ClipState.RENDERED: progress.num_rendered,
            ClipState.REJECTED: progress.num_rejected,
            ClipState.FAILED: progress.num_failed,
        }
        for state, count in in_state.items():
            self._exporter.set(CLIPS_IN_STATE, count, state=state)
        self._known_sizes |= progress.waiting_by_size.keys()
        for size in self._known_sizes:
            self._exporter.set(WAITING, progress.waiting_by_size.get(size, 0), group_size=str(size))
        if (left_s := self._estimate.remaining_s(progress)) is not None:
            self._exporter.set(LEFT, left_s)

    def _export_groups(self, groups: tuple[GroupProgress, ...]) -> None:
        kinds = [(group.phase, group.size) for group in groups]
        self._known_kinds.update(kinds)
        for phase, size in self._known_kinds:
            self._exporter.set(GROUPS, kinds.count((phase, size)), state=phase, size=str(size))
        for group in groups:
            if group.name not in self._known_groups:
                self._known_groups.add(group.name)
                self._exporter.add(FORMED, size=str(group.size))

    def _export_spending(self, spending: Spending) -> None:
        """What is known; a run without limits has spent what it has spent itself."""
        is_limited = spending.limit_name is not None
        known = {
            SPENT: HOUR_S * ((spending.total_gpu_hours or 0.0) if is_limited else spending.gpu_hours),
            COST: spending.total_usd if is_limited else spending.usd,
            BUDGET_USED: spending.used_share,
        }
        for metric, value in known.items():
            if value is not None:
                self._exporter.set(metric, value)


def describe_addresses() -> str:
    """Where Prometheus finds the metrics of the nodes of the connected cluster."""
    nodes = [node for node in ray.nodes() if node["Alive"] and node["MetricsExportPort"]]
    addresses = sorted(f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics" for node in nodes)
    more = len(addresses) - MAX_ADDRESSES
    return ", ".join(addresses[:MAX_ADDRESSES]) + (f" and {more} more" if more > 0 else "")

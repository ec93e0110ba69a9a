"""What one rank of a group exports for Prometheus."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil  # type: ignore[import-untyped]
import torch

from lynx_batch.execution.metrics import BUSY, EXPORT_EVERY_S, RSS, STEPS, VRAM, Exporter, Metric, StoreMetrics


class BusyClock:
    """Measures which share of the time one thread was busy. Any thread may ask."""

    def __init__(self, now_s: float) -> None:
        self._lock = threading.Lock()
        self._asked_s, self._counted_s = now_s, now_s
        self._busy_s, self._is_busy = 0.0, False

    def switch(self, now_s: float, *, is_busy: bool) -> None:
        """From now on the thread is busy, or not."""
        with self._lock:
            self._count(now_s)
            self._is_busy = is_busy

    def share(self, now_s: float) -> float:
        """The busy share of the time since the last call, or since the start."""
        with self._lock:
            self._count(now_s)
            share = self._busy_s / max(now_s - self._asked_s, 1e-9)
            self._asked_s, self._busy_s = now_s, 0.0
            return share

    def _count(self, now_s: float) -> None:
        self._busy_s += (now_s - self._counted_s) * self._is_busy
        self._counted_s = now_s


class RankMetrics:
    """Exports what one rank does and holds, from a thread of its own, as long as the process lives."""

    def __init__(self, run_id: str, *, rank: int, device: str) -> None:
        self._rank, self._device, self._is_on_gpu = rank, device, device.startswith("cuda")
        self._gpu_index = device.removeprefix("cuda:") if self._is_on_gpu else "none"
        self._exporter = Exporter(run=run_id)
        self._store = StoreMetrics(self._exporter)
        self._process, self._busy = psutil.Process(), BusyClock(time.monotonic())
        self._num_steps, self._num_steps_exported = 0, 0

    def start(self) -> None:
        threading.Thread(target=self._export_regularly, name="metrics", daemon=True).start()

    @contextmanager
    def rendering(self) -> Iterator[None]:
        """Inside the block, the rank is busy."""
        self._busy.switch(time.monotonic(), is_busy=True)
        try:
            yield
        finally:
            self._busy.switch(time.monotonic(), is_busy=False)

    def note_step(self) -> None:
        """The rank has done a denoising step. All ranks of a group do each step together, so the first one's count."""
        self._num_steps += self._rank == 0

    def export(self) -> None:
        num_steps = self._num_steps
        self._exporter.add(STEPS, num_steps - self._num_steps_exported)
        self._num_steps_exported = num_steps
        self._set(BUSY, self._busy.share(time.monotonic()))
        self._set(RSS, self._process.memory_info().rss)
        self._set(VRAM, torch.cuda.memory_reserved(self._device) if self._is_on_gpu else 0)
        self._store.export()

    def _set(self, metric: Metric, value: float) -> None:
        self._exporter.set(metric, value, rank=str(self._rank), gpu_index=self._gpu_index)

    def _export_regularly(self) -> None:
        while True:
            time.sleep(EXPORT_EVERY_S)
            self.export()

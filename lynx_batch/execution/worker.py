"""The Ray actor: one rank of a group, on one GPU (or one CPU slot where there are no GPUs).

The driver imports this module only to start workers, so the renderer is imported when a worker loads its model.
"""

import os
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import ray
import structlog

from lynx_batch.home import ensure_home
from lynx_batch.ledger.logs import UploadedLogs
from lynx_batch.preparation.staging import fetch_model
from lynx_batch.probe import probe_rights
from lynx_batch.rendering.tasks import FramesReady, Loaded, RenderTask, Result, WorkerSettings
from lynx_batch.stages import Span, Stage
from lynx_batch.telemetry import configure_logging, describe_process
from lynx_model.imports import without_collection

if TYPE_CHECKING:
    from lynx_batch.execution.rank_metrics import RankMetrics
    from lynx_batch.rendering.renderer import Renderer

log = structlog.get_logger()

COLLECTIVE_TIMEOUT_S = 600.0
"""How long a rank waits for the others in a collective operation: longer than any step or decode takes."""


# Ray's GCS keeps an event of every call of a method, about 5 kB for each of a clip's calls, and nobody reads them
@ray.remote(
    max_restarts=0,
    max_task_retries=0,
    enable_task_events=False,
    concurrency_groups={"control": 1, "reading": 1, "delivery": 1},
)
class Worker:
    """Renders its share of each clip of its group. It is never restarted alone: its group is lost with it.

    While one thread renders, three others serve `progress` and `pause`, `prefetch` (reads the next clip's photo) and `deliver` (the
    previous clip).
    """

    _renderer: "Renderer"
    _metrics: "RankMetrics"
    _rendezvous: object

    def __init__(self, settings: WorkerSettings, group: str, rank: int) -> None:
        configure_logging()
        ensure_home()
        describe_process(run=settings.run_id, group=group, node=socket.gethostname(), rank=rank)
        self._logs = UploadedLogs(settings.output, settings.run_id, process_name(group, rank))
        log.info("worker_started", process_id=os.getpid())
        self._settings, self._rank = settings, rank
        self._step = (0, 0)

    def open_rendezvous(self) -> tuple[str, int] | None:
        """Host and port on this node where the ranks of the group find each other. None if there is only one rank."""
        if self._settings.plan.num_ranks == 1:
            return None
        from lynx_model.engine import parallel

        host = ray.util.get_node_ip_address()
        self._rendezvous = rendezvous = parallel.open_rendezvous(host)
        return host, rendezvous.port

    def load(self, rendezvous: tuple[str, int] | None) -> Loaded:
        """Checks that this node may deliver, fetches the weights, connects to the other ranks, if any, and loads the model."""
        with without_collection():
            from lynx_batch.execution.rank_metrics import RankMetrics
            from lynx_batch.rendering.renderer import Renderer
            from lynx_model.engine import parallel

        start_s = time.time()
        if self._rank == 0:  # the only rank that delivers
            probe_rights(self._settings.output, self._settings.delivery_folders)
        settings = _with_staged_weights(self._settings)
        device = self._claim_device()
        if rendezvous is not None:
            host, port = rendezvous
            backend = "nccl" if device.startswith("cuda") else "gloo"
            parallel.connect(
                rank=self._rank,
                num_ranks=self._settings.plan.num_ranks,
                host=host,
                port=port,
                backend=backend,
                timeout_s=COLLECTIVE_TIMEOUT_S,
            )
        self._renderer = Renderer(settings, rank=self._rank, device=device)
        self._metrics = RankMetrics(settings.run_id, rank=self._rank, device=device)
        self._metrics.start()
        seconds = time.time() - start_s
        log.info("model_loaded", device=device, seconds=round(seconds, 2))
        return Loaded(device=device, span=Span(stage=Stage.LOAD, start_s=start_s, seconds=seconds))

    def render(self, task: RenderTask) -> FramesReady | Result:
        self._step = (0, task.clip.params.num_inference_steps)
        log.info("attempt_started", clip_id=task.clip.clip_id, attempt=task.attempt)
        with self._metrics.rendering():
            return self._renderer.render(task, self._note_step)

    @ray.method(concurrency_group="reading")  # type: ignore[untyped-decorator]
    def prefetch(self, task: RenderTask) -> None:
        self._renderer.prefetch(task)

    @ray.method(concurrency_group="delivery")  # type: ignore[untyped-decorator]
    def deliver(self, task: RenderTask) -> Result:
        return self._renderer.deliver(task)

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def progress(self) -> tuple[int, int]:
        """(steps done, steps in all) of the clip being rendered."""
        return self._step

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def pause(self) -> None:
        """Saves the clip being rendered after its current step; its attempt ends there."""
        self._renderer.pause()

    @ray.method(concurrency_group="control")  # type: ignore[untyped-decorator]
    def close_logs(self) -> None:
        """Uploads what is not uploaded yet of this worker's log. Its end may follow at any moment."""
        self._logs.close()

    def _note_step(self, step: int, num_steps: int) -> None:
        self._step = (step, num_steps)
        self._metrics.note_step()

    def _claim_device(self) -> str:
        """Selects this rank's device. All GPUs of the node stay visible, so that ranks can access each other's memory."""
        import torch

        if not torch.cuda.is_available():
            torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
            return "cpu"
        (gpu_id,) = ray.get_runtime_context().get_accelerator_ids()["GPU"]
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        local_rank = visible.split(",").index(gpu_id) if visible else int(gpu_id)
        os.environ["LOCAL_RANK"] = str(local_rank)
        torch.cuda.set_device(local_rank)
        return f"cuda:{local_rank}"


def process_name(group: str, rank: int) -> str:
    """The name of a worker in the logs of its run."""
    return f"{group}-r{rank}"


def _with_staged_weights(settings: WorkerSettings) -> WorkerSettings:
    """`settings` with the paths of local copies of all weights."""
    model, faces = fetch_model(settings.model, settings.faces)
    return replace(settings, model=model, faces=faces)

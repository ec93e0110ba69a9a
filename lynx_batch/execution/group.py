"""A group: the workers that render one clip together. It lives and dies as one."""

from typing import Any

import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from lynx_batch.errors import GroupLost, Permanent
from lynx_batch.execution.cluster import Slots
from lynx_batch.execution.tasks import AttemptResult, Failed, Helped, Loaded, Rendered, RenderTask, WorkerSettings
from lynx_batch.execution.worker import Worker

ALL_GPUS_VISIBLE = {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}}
"""With a mask of one GPU each, ranks cannot use each other's memory directly."""


class Group:
    """One placement group with one worker per slot, loading from the start and then rendering clip after clip.

    `refs` are the answers that are awaited: the driver waits for them and hands each to `receive`.
    """

    def __init__(self, name: str, settings: WorkerSettings, slots: Slots) -> None:
        self.name = name
        self.task: RenderTask | None = None
        self.is_ready = self.is_broken = False
        self.step = (0, 0)
        self._answer: Rendered | Failed | None = None
        self._step_ref: Any = None
        size, bundle = settings.plan.num_ranks, slots.bundle()
        self._placement = placement_group([bundle] * size, strategy="STRICT_PACK")
        self._workers = [self._place(settings, rank, bundle) for rank in range(size)]
        address = self._workers[0].address.remote()
        self.refs = [worker.load.remote(address) for worker in self._workers]

    def start(self, task: RenderTask) -> None:
        """Gives every worker its share of a clip."""
        assert self.is_ready
        assert self.task is None
        self.task, self.step, self._answer = task, (0, task.clip.params.num_inference_steps), None
        self.refs = [worker.render.remote(task) for worker in self._workers]

    def receive(self, ref: Any) -> Loaded | Rendered | Failed | None:
        """Takes one worker's answer; gives the group's own as soon as it is known, else None.

        Raises:
            GroupLost: If the worker died.
            Permanent: If the model cannot be loaded, which another group could not do either.
        """
        self.refs.remove(ref)
        try:
            answer = ray.get(ref)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, Permanent):
                raise error.cause from error
            raise GroupLost(f"group {self.name}: {error}") from error
        except ray.exceptions.RayError as error:
            raise GroupLost(f"group {self.name}: {error}") from error
        return self._receive_loaded(answer) if isinstance(answer, Loaded) else self._receive_result(answer)

    def poll_step(self) -> None:
        """Asks the first worker how far it is, and takes its last answer; never waits."""
        if self.task is None:
            return
        if self._step_ref is None:
            self._step_ref = self._workers[0].progress.remote()
        if ray.wait([self._step_ref], timeout=0)[0]:
            try:
                self.step = ray.get(self._step_ref)
            except ray.exceptions.RayError:
                return  # the awaited answer of the same worker tells that it died
            self._step_ref = None

    def end(self) -> None:
        """Kills every worker and gives the slots back."""
        for worker in self._workers:
            ray.kill(worker)
        remove_placement_group(self._placement)

    def _place(self, settings: WorkerSettings, rank: int, bundle: dict[str, float]) -> Any:
        strategy = PlacementGroupSchedulingStrategy(self._placement, placement_group_bundle_index=rank)
        return Worker.options(  # type: ignore[attr-defined]
            num_cpus=bundle["CPU"],
            num_gpus=bundle.get("GPU", 0),
            scheduling_strategy=strategy,
            runtime_env=ALL_GPUS_VISIBLE,
        ).remote(settings, rank)

    def _receive_loaded(self, answer: Loaded) -> Loaded | None:
        self.is_ready = not self.refs
        return answer if self.is_ready else None

    def _receive_result(self, answer: AttemptResult) -> Rendered | Failed | None:
        """The first failure is the group's, and so is the first rank's success; the others' success says nothing."""
        if not isinstance(answer, Helped) and not isinstance(self._answer, Failed):
            self._answer = answer
        self.is_broken = isinstance(answer, Failed) and answer.breaks_group
        if self.refs and not self.is_broken:
            return None
        self.task = None
        return self._answer

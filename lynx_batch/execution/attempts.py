"""The next attempt at each clip: which try of which edition it is, after which step it goes on, and how long it may take."""

from collections.abc import Collection, Mapping
from contextlib import suppress

from lynx_batch.errors import STORE_FAULTS
from lynx_batch.ledger.editions import Editions
from lynx_batch.output import TryName, new_attempt
from lynx_batch.planning.cost import CostModel, GpuType
from lynx_batch.planning.order import PlannedClip
from lynx_batch.planning.schedule import Schedule
from lynx_batch.rendering.resume import delete_saved, find_saved
from lynx_batch.rendering.tasks import Failed, RenderTask, WorkerSettings


class Attempts:
    """Makes the task of each attempt. `first_numbers` are the numbers of the clips' first tries; 0 for those that are not in it."""

    def __init__(
        self,
        settings: WorkerSettings,
        schedule: Schedule,
        cost: CostModel,
        editions: Editions,
        first_numbers: Mapping[str, int],
    ) -> None:
        self._settings, self._schedule, self._cost, self._editions = settings, schedule, cost, editions
        self._num_steps_saved = find_saved(settings.output)
        self._next_number = dict(first_numbers)

    def make_task(self, planned: PlannedClip, group_size: int, gpus: Collection[GpuType]) -> RenderTask:
        """An attempt at a clip on a cluster with `gpus`. Its shortest plausible time is that of the fastest, its deadline that of the slowest."""
        clip_id = planned.clip.clip_id
        of = TryName(clip_id, self._editions.wanted(clip_id), self._next_number.get(clip_id, 0))
        are_known = bool(gpus) and all(map(self._cost.is_known, gpus))
        predicted_s = [self._cost.seconds(planned.work, group_size, gpu) for gpu in gpus]
        return RenderTask(
            clip=planned.clip,
            edition=of.edition,
            number=of.number,
            attempt=new_attempt(self._settings.run_id),
            min_plausible_s=min(
                (self._cost.min_plausible_s(planned.work, group_size, gpu) for gpu in gpus), default=0.0
            ),
            deadline_s=self._schedule.deadline_s(max(predicted_s) if are_known else None),
            num_steps_saved=self._num_steps_saved.get(of, 0),
        )

    def go_on_with(self, clip_id: str, number: int) -> None:
        """The clip's next attempt is its try of this number."""
        self._next_number[clip_id] = number

    def update_saved(self, task: RenderTask, failure: Failed) -> None:
        """Remembers after which step a clip can resume, and deletes a saved state that it cannot resume from."""
        if failure.num_steps_saved:
            self._num_steps_saved[task.name] = failure.num_steps_saved
        elif failure.must_restart and self._num_steps_saved.pop(task.name, 0):
            with suppress(*STORE_FAULTS):
                delete_saved(self._settings.output, task.name, task.num_steps_saved)

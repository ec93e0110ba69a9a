"""How far a run is, as its driver sees it, and how long the rest takes. No Ray."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lynx_batch.planning.budget import Spending

if TYPE_CHECKING:
    from lynx_batch.execution.group_state import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupProgress:
    """One group: how many GPUs it holds, of which type, and what it may still do. Its name is never used again."""

    name: str
    size: int
    phase: "Phase"
    gpu: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far a run is. `running` holds (clip name, steps done, steps in all); `waiting_by_size` counts clips by group size.

    `num_groups_asked`: groups that wait for their nodes to come.
    """

    num_rendered: int
    num_rejected: int
    num_failed: int
    num_left: int
    running: tuple[tuple[str, int, int], ...]
    num_groups_loading: int
    num_groups_asked: int = 0
    waiting_by_size: Mapping[int, int] = field(default_factory=dict)
    groups: tuple[GroupProgress, ...] = ()
    spending: Spending = field(default_factory=Spending)

    @property
    def num_waiting(self) -> int:
        return self.num_left - len(self.running)


class Estimate:
    """Predicts the seconds until the last clip from the pace of this run so far."""

    def __init__(self) -> None:
        self._started_s = time.monotonic()

    def remaining_s(self, progress: Progress) -> float | None:
        """None until something is finished. Steps of running clips count as fractions of a clip."""
        done = progress.num_rendered + sum(step / num_steps for _, step, num_steps in progress.running if num_steps)
        if done == 0:
            return None
        left = progress.num_rendered + progress.num_left - done
        return (time.monotonic() - self._started_s) / done * left

"""What driver and workers say to each other; all of it small, none of it pixels."""

import math
from dataclasses import dataclass

from lynx_batch.clip import ClipSpec, RenderIdentity
from lynx_batch.config import FacesConfig, InputsConfig
from lynx_batch.errors import Fault, ImplausibleResult, StoreRefused, StoreUnready, UnfitState
from lynx_batch.ledger.commits import CommitRecord
from lynx_batch.stages import Span
from lynx_model.spec import EngineOptions, ModelSource, ParallelPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What a worker needs to know once, whatever clips it renders. `plan` is that of its group."""

    run_id: str
    output: str
    model: ModelSource
    faces: FacesConfig
    inputs: InputsConfig
    engine: EngineOptions
    identity: RenderIdentity
    plan: ParallelPlan
    crf: int
    is_store_safe: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderTask:
    """One attempt at one edition of a clip, sent to every rank of a group.

    Denoising in less than `min_plausible_s` cannot be right; a group that says nothing for `deadline_s` is stuck. An earlier
    attempt was saved after `num_steps_saved`, and this one goes on from there.
    """

    clip: ClipSpec
    edition: int = 1
    attempt: str
    min_plausible_s: float = 0.0
    deadline_s: float = math.inf
    num_steps_saved: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A worker has its model and waits for clips."""

    device: str
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class FramesReady:
    """A rank has done its share of a clip's frames, which the first rank keeps until it is told to deliver them.

    `memory_gib`: what its process now holds on the host and on its device.
    """

    memory_gib: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The clip is committed; `commit` is the record in the store, which may be another attempt's."""

    commit: CommitRecord
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The attempt failed.

    `breaks_group`: other ranks may wait for this one for ever, or it has lost its device. `num_steps_saved`: the clip can go
    on after so many steps.
    """

    error_type: str
    error: str
    fault: Fault
    breaks_group: bool = False
    num_steps_saved: int = 0
    spans: tuple[Span, ...] = ()

    @property
    def is_refused(self) -> bool:
        """Whether the store of the output refused it."""
        return self.error_type in (StoreRefused.__name__, StoreUnready.__name__)

    @property
    def is_to_begin_anew(self) -> bool:
        """Whether it may be due to what an earlier attempt had saved."""
        return self.error_type in (UnfitState.__name__, ImplausibleResult.__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An attempt is over, and what came of it."""

    task: RenderTask
    result: Rendered | Failed

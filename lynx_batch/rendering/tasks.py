"""The messages between driver and workers. They are small: pixels are never sent."""

import math
from dataclasses import dataclass, field

from lynx_batch.clip import ClipSpec, RenderIdentity, seed_of_try
from lynx_batch.config import FacesConfig, InputsConfig, ProvenanceConfig, QualityConfig, VideoConfig
from lynx_batch.errors import Fault, ImplausibleResult, StoreRefused, StoreUnready, UnfitState
from lynx_batch.ledger.commits import CommitRecord
from lynx_batch.ledger.tries import BestTry
from lynx_batch.output import DELIVERY_FOLDERS, TRIES, TryName
from lynx_batch.planning.verdict import Reject, Render
from lynx_batch.stages import Span
from lynx_model.spec import EngineOptions, ModelSource, ParallelPlan, RenderParams


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """The settings of a worker, the same for all clips. `plan` is that of its group. Without `quality`, no clip is judged."""

    run_id: str
    output: str
    model: ModelSource
    faces: FacesConfig
    inputs: InputsConfig
    engine: EngineOptions
    identity: RenderIdentity
    plan: ParallelPlan
    video: VideoConfig
    is_store_safe: bool
    allows_missing_consent: bool = True
    quality: QualityConfig | None = None
    provenance: ProvenanceConfig = field(default_factory=ProvenanceConfig)

    @property
    def delivery_folders(self) -> tuple[str, ...]:
        """The folders of the output that this worker writes to for each clip."""
        return DELIVERY_FOLDERS if self.quality is None else (*DELIVERY_FOLDERS, TRIES)


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderTask:
    """One attempt at one edition of a clip, sent to every rank of a group. `number` is the try's; it chooses the seed.

    A result after less than `min_plausible_s` of denoising cannot be right. A group without an answer for `deadline_s` is stuck. If an
    earlier attempt was saved after `num_steps_saved` steps, this one continues from there.
    """

    clip: ClipSpec
    edition: int = 1
    number: int = 0
    attempt: str
    min_plausible_s: float = 0.0
    deadline_s: float = math.inf
    num_steps_saved: int = 0

    @property
    def name(self) -> TryName:
        """Which try of the clip this is; its saved steps and its record have that name."""
        return TryName(self.clip.clip_id, self.edition, self.number)

    @property
    def params(self) -> RenderParams:
        """The clip's parameters with the try's seed."""
        return self.clip.params.changed(seed=seed_of_try(self.clip, self.number))


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A worker has loaded its model and waits for clips."""

    device: str
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class FramesReady:
    """A rank has rendered its share of a clip. The first rank keeps the frames until it is asked to deliver them.

    `memory_gib`: the memory that its process now holds, host and device together.
    """

    memory_gib: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """The clip is committed. `commit` is the record in the store, possibly that of another attempt."""

    commit: CommitRecord
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """The clip's tries so far are not good enough: another one is to be rendered, or none is left. Then `best` is the one that `verdict`
    names.
    """

    verdict: Render | Reject
    best: BestTry | None = None
    spans: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The attempt failed.

    `breaks_group`: other ranks may wait for this one forever, or it has lost its device. `num_steps_saved`: the clip can resume after
    this many steps.
    """

    error_type: str
    error: str
    fault: Fault
    breaks_group: bool = False
    num_steps_saved: int = 0
    spans: tuple[Span, ...] = ()

    @property
    def is_refused(self) -> bool:
        """Whether the output store refused a request."""
        return self.error_type in (StoreRefused.__name__, StoreUnready.__name__)

    @property
    def must_restart(self) -> bool:
        """Whether the saved state of an earlier attempt may be the cause, so that the clip must start from the beginning."""
        return self.error_type in (UnfitState.__name__, ImplausibleResult.__name__)


Result = Rendered | Judged | Failed
"""How an attempt ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """An attempt is over, with this result."""

    task: RenderTask
    result: Result

"""Where each row of a manifest stands, and what it costs to render it."""

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from enum import StrEnum

from lynx_batch.clip import ClipSpec, Rejection
from lynx_batch.planning.layout import Node
from lynx_batch.planning.order import PlannedClip

HOUR_S = 3600.0


class RowState(StrEnum):
    """Where a row stands before a run.

    open: the run would render it. committed: it is finished. given up: an earlier run gave it up. rejected: it breaks a rule, or its
    consent does not allow it. unreachable: its photo's host is down.
    """

    OPEN = "open"
    COMMITTED = "committed"
    GIVEN_UP = "given up"
    REJECTED = "rejected"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class RowCost:
    """A row, and what rendering it costs; None if nothing is rendered for it.

    `seconds` is how long its group of `group_size` GPUs is busy with it, all of the `num_tries` expected tries included. `usd` is None
    without a price.
    """

    row: int
    clip_name: str | None
    clip_id: str | None
    state: RowState
    reason: str = ""
    group_size: int | None = None
    num_tries: float | None = None
    seconds: float | None = None
    usd: float | None = None


def cost_rows(
    clips: Iterable[ClipSpec],
    planned: Iterable[PlannedClip],
    *,
    committed: Set[str],
    given_up: Mapping[str, str],
    node: Node,
) -> Iterator[RowCost]:
    """The rows that became clips. `given_up` says why by ClipId; `node` is the one for which `planned` was made."""
    costs = {each.clip.clip_id: each for each in planned}
    for clip in clips:
        clip_id, row = clip.clip_id, clip.request.row
        if clip_id in committed:
            yield _row(clip, RowState.COMMITTED)
        elif clip_id in given_up:
            yield _row(clip, RowState.GIVEN_UP, given_up[clip_id])
        elif (rendered := costs[clip_id].clip.request.row) != row:
            yield _row(clip, RowState.OPEN, f"asks for the same clip as row {rendered}")
        else:
            yield _priced(clip, costs[clip_id], node.usd_per_gpu_hour)


def refused_rows(rejections: Iterable[Rejection], state: RowState) -> Iterator[RowCost]:
    """The rows that never became clips."""
    for each in rejections:
        name = each.inputs.get("clip_name")
        reason = f"{each.error_type}: {each.error}"
        yield RowCost(row=each.row, clip_name=name, clip_id=None, state=state, reason=reason)


def _row(clip: ClipSpec, state: RowState, reason: str = "") -> RowCost:
    name = clip.request.clip_name
    return RowCost(row=clip.request.row, clip_name=name, clip_id=clip.clip_id, state=state, reason=reason)


def _priced(clip: ClipSpec, planned: PlannedClip, usd_per_gpu_hour: float | None) -> RowCost:
    gpu_hours = planned.gpu_s * planned.num_tries / HOUR_S
    return RowCost(
        row=clip.request.row,
        clip_name=clip.request.clip_name,
        clip_id=clip.clip_id,
        state=RowState.OPEN,
        group_size=planned.group_size,
        num_tries=planned.num_tries,
        seconds=planned.seconds * planned.num_tries,
        usd=None if usd_per_gpu_hour is None else gpu_hours * usd_per_gpu_hour,
    )

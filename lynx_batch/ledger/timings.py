"""How long earlier runs with a model took for their clips, from the metadata."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import pyarrow.compute as pc

from lynx_batch.clip import RenderIdentity
from lynx_batch.ledger.metadata import Outcome, read_metadata
from lynx_batch.ledger.order import RunOrder
from lynx_batch.stages import BUSY_STAGES
from lynx_model.spec import RenderParams

MAX_TIMINGS = 2000
"""Enough for a median. Only the newest count, because engines change."""

PARAMS = tuple(field.name for field in fields(RenderParams) if field.name not in ("prompt", "negative_prompt"))
"""Prompts are left out: all take the same time."""

BUSY_COLUMNS = tuple(stage.column for stage in BUSY_STAGES)
COLUMNS = ["run", "row", "device", "group_size", "model", *BUSY_COLUMNS, *PARAMS]
RENDERED_IN_RUN = (pc.field("outcome") == Outcome.RENDERED) & (pc.field("run") == pc.field("rendered_by_run"))
IN_ONE_GO = pc.field("num_steps_resumed").is_null() | (pc.field("num_steps_resumed") == 0)
"""What an earlier attempt had begun has no time for all of its steps. Null is from older versions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One rendered clip: its parameters, the name and number of its devices, and the seconds for which its group was busy with it."""

    params: RenderParams
    device: str
    group_size: int
    seconds: float


def read_timings(output: str, identity: RenderIdentity) -> list[Timing]:
    """The timings of the newest clips at `output` that were rendered in one go with the base model and precision of `identity`."""
    rows = read_metadata(output, COLUMNS, RENDERED_IN_RUN & IN_ONE_GO)
    order = RunOrder.of(output, pc.unique(rows["run"]).to_pylist())
    newest = order.sort_newest_first(rows).slice(0, MAX_TIMINGS)
    return list(_timings(newest.to_pylist(), identity))


def _timings(rows: list[dict[str, Any]], identity: RenderIdentity) -> Iterator[Timing]:
    for row in rows:
        model = dict(row["model"])
        if (model["base"], model["precision"]) == (identity.base, identity.precision):
            params = RenderParams(prompt="any", **{name: row[name] for name in PARAMS})
            seconds = sum(row[stage] or 0.0 for stage in BUSY_COLUMNS)
            yield Timing(params=params, device=row["device"], group_size=row["group_size"], seconds=seconds)

"""How long earlier runs of a model took for their clips, as the metadata tells."""

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
"""The newest ones: enough for a median, and engines change."""

PARAMS = tuple(field.name for field in fields(RenderParams) if field.name not in ("prompt", "negative_prompt"))
"""No prompt takes longer than another."""

BUSY_COLUMNS = tuple(stage.column for stage in BUSY_STAGES)
COLUMNS = ["run", "row", "device", "group_size", "model", *BUSY_COLUMNS, *PARAMS]
OWN = (pc.field("outcome") == Outcome.RENDERED) & (pc.field("run") == pc.field("rendered_by_run"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One rendered clip: what it was, on how many devices of which name, and for how many seconds it kept its group busy."""

    params: RenderParams
    device: str
    group_size: int
    seconds: float


def read_timings(output: str, identity: RenderIdentity) -> list[Timing]:
    """The newest clips that runs with this base model and precision rendered at `output`."""
    own = read_metadata(output, COLUMNS, OWN)
    order = RunOrder.of(output, pc.unique(own["run"]).to_pylist())
    newest = order.sort_newest_first(own).slice(0, MAX_TIMINGS)
    return list(_timings(newest.to_pylist(), identity))


def _timings(rows: list[dict[str, Any]], identity: RenderIdentity) -> Iterator[Timing]:
    for row in rows:
        model = dict(row["model"])
        if (model["base"], model["precision"]) == (identity.base, identity.precision):
            params = RenderParams(prompt="any", **{name: row[name] for name in PARAMS})
            seconds = sum(row[stage] or 0.0 for stage in BUSY_COLUMNS)
            yield Timing(params=params, device=row["device"], group_size=row["group_size"], seconds=seconds)

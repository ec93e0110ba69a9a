"""Approvals: who approved the templates and the settings of a run, after looking at its clips. Created once, never changed.

They hold no text of a prompt or template, only digests, and no name but that of the person who approved.
"""

from collections.abc import Set
from datetime import datetime

import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from lynx_batch import storage
from lynx_batch.errors import ConfigError
from lynx_batch.ledger.metadata import Outcome, read_metadata
from lynx_batch.ledger.records import put_once, read_records
from lynx_batch.ledger.runs import Run, read_runs
from lynx_batch.output import approvals_uri, new_approval_uri
from lynx_batch.planning.approval import ROW_PARAMETERS, Approved, Setting, choose_template, collect_values

SCHEMA_VERSION = 1


class Approval(BaseModel):
    """What a person approved: the clips of a run that they looked at, the settings of that run, and what its rows had.

    `values` has the digests of the templates, and the values of each parameter.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    schema_version: int = SCHEMA_VERSION
    approved_at: datetime
    approved_by: str
    run_id: str
    clip_ids: tuple[str, ...]
    settings: dict[str, Setting]
    values: dict[str, tuple[Setting, ...]]

    @property
    def covers(self) -> Approved:
        return Approved(settings=self.settings, values=self.values)


def approve(output: str, run: Run, *, by: str, now: datetime, only: Set[str] | None = None) -> Approval:
    """Records that `by` approved the clips that a run, or an earlier one with the same settings, rendered; of them those in `only`.

    Raises:
        ConfigError: If there is no such clip, or the run is of a release that did not record its settings.
    """
    where = f"run {run.run_id} of {storage.redact(output)}"
    if not run.record.settings:
        raise ConfigError(f"{where}: must have recorded its settings, but an older release made it; render it again")
    same = [each.run_id for each in read_runs(output) if each.record.settings == run.record.settings]
    is_rendered = (pc.field("run") == run.run_id) & (pc.field("outcome") == Outcome.RENDERED)
    is_rendered &= pc.field("rendered_by_run").isin(same)
    columns = ["clip_id", "prompt_template", "prompt", *ROW_PARAMETERS]
    rendered = read_metadata(output, columns, is_rendered & pc.field("prompt").is_valid()).to_pylist()
    rows = [row for row in rendered if only is None or row["clip_id"] in only]
    if not rows:
        raise ConfigError(
            f"{where}: must have {'a clip' if only is None else 'one of the listed clips'} that was rendered with its settings"
        )
    approval = Approval(
        approved_at=now,
        approved_by=by,
        run_id=run.run_id,
        clip_ids=tuple(sorted({row["clip_id"] for row in rows})),
        settings=run.record.settings,
        values=collect_values(
            (choose_template(row["prompt_template"], row["prompt"]), *(row[name] for name in ROW_PARAMETERS))
            for row in rows
        ),
    )
    put_once(new_approval_uri(output, now), approval, is_store_safe=run.record.is_store_safe)
    return approval


def read_approvals(output: str) -> list[tuple[str, Approval]]:
    """The URI and the content of each approval at an output location, the oldest first. Damaged ones are named in a warning."""
    listed = [file.uri for file in storage.list_files(approvals_uri(output))]
    return sorted(read_records(Approval, listed), key=lambda found: found[1].approved_at)

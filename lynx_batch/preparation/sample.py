"""Chooses a sample of a run: which rows to look at before the others are rendered, and where they are rendered."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from datetime import datetime

from lynx_batch.clip import Rejection
from lynx_batch.config import ApprovalConfig, RunConfig
from lynx_batch.errors import ConfigError
from lynx_batch.ledger.commits import Withdrawal, read_commits, withdraw
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.runs import read_runs
from lynx_batch.ledger.tombstones import read_revoked
from lynx_batch.planning.approval import Setting
from lynx_batch.planning.sampling import Sample, choose_sample, traits_of
from lynx_batch.preparation.approval import place_of_sample, settings_of
from lynx_batch.preparation.prepare import prepare
from lynx_batch.preparation.selection import Selection


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRun:
    """A sample and the run that renders it: its config has an output location of its own, and `settings` are those that people approve.
    It was chosen from `num_rows` rows that can be rendered. `outage` says which hosts of photos are down; their rows are left out.
    """

    sample: Sample
    config: RunConfig
    selection: Selection
    clip_ids: Set[str]
    settings: Mapping[str, Setting]
    num_rows: int
    rejections: list[Rejection]
    outage: str


def prepare_sample(
    config: RunConfig, selection: Selection, *, count: int, per: Sequence[str], now: datetime
) -> SampleRun:
    """Chooses a sample of the rows that `render` would take. Checks all of them as `render` does, and writes nothing.

    Raises:
        ConfigError: If no row can be rendered, `per` names nothing that rows have, or the sample has no place of its own.
        Permanent: As `prepare`.
    """
    place = place_of_sample(config)
    prepared = prepare(config, selection, now, tombstones=read_revoked(config.output))
    if not prepared.clips:
        raise ConfigError("a sample needs a row that can be rendered, but there is none")
    rows = {clip.request.row: traits_of(clip.request) for clip in prepared.clips}
    sample = choose_sample(rows, count=count, per=per)
    picked = sorted(pick.row for pick in sample.picks)
    return SampleRun(
        sample=sample,
        config=config.model_copy(update={"output": place, "notify": (), "approval": ApprovalConfig()}),
        selection=replace(selection, where=f"row in {picked}", limit=None),
        clip_ids={clip.clip_id for clip in prepared.clips if clip.request.row in {*picked}},
        settings=settings_of(config, prepared.model),
        num_rows=len(rows),
        rejections=prepared.rejections,
        outage=prepared.outage,
    )


def withdraw_outdated(run: SampleRun, now: datetime) -> None:
    """Takes back the clips of an earlier sample that were rendered with other settings, such as another label, so that they are rendered
    again with the same seeds. Only a sample does this: a run never replaces what is committed.
    """
    output, in_force = run.config.output, list_editions(run.config.output).in_force
    is_current = {each.run_id for each in read_runs(output) if each.record.settings == run.settings}
    for commit in read_commits(output, {c: edition for c, edition in in_force.items() if c in run.clip_ids}):
        if commit.run_id not in is_current:
            reason = "it was rendered for an earlier sample, with other settings"
            withdraw(
                output,
                Withdrawal(
                    clip_id=commit.clip_id, edition=commit.edition, reason=reason, withdrawn_at=now, command="sample"
                ),
            )

"""`export`, `verify` and `prune`: the rendered clips of an output location."""

import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from lynx_batch import storage
from lynx_batch.cli import exits
from lynx_batch.cli.ledger import Output
from lynx_batch.errors import ConfigError

NUM_CLIPS_AT_ONCE = 1000

SURELY_OVER = timedelta(hours=1)
"""A run whose heartbeat is older commits nothing any more, whatever outage kept it from beating and however clocks differ."""


def export(
    output: Output,
    destination: Annotated[str, typer.Argument(metavar="DEST", help="A folder: path or any URI.")],
    name: Annotated[
        str, typer.Option(help="Name of each clip, with columns of the metadata in braces.")
    ] = "{clip_id}.mp4",
) -> None:
    """Put every rendered clip under a readable name: a hard link on the same disk, else a copy."""
    from lynx_batch.ledger.commits import committed_clip_ids
    from lynx_batch.ledger.export import copy_clips, name_clips

    clips = name_clips(output, name)
    copy_clips(clips, destination)
    typer.echo(f"{storage.redact(destination)}: {len(clips)} clips")
    num_nameless = len(committed_clip_ids(output)) - len(set(clips.values()))
    if num_nameless > 0:
        typer.echo(
            f"{num_nameless} more are committed: newer clips have their names, or they are not in the metadata yet, "
            f"because their run has not ended or was killed"
        )


def verify(
    output: Output,
    sample: Annotated[int | None, typer.Option(min=1, help="Only so many clips, chosen by chance.")] = None,
) -> None:
    """Read every committed clip again: is it there, the same bytes, and does it decode to its frames?

    Exit codes: 0 all are as committed; 3 some are not, and they are listed.
    """
    from lynx_batch.ledger.commits import committed_clip_ids

    clip_ids = sorted(committed_clip_ids(output))
    chosen = clip_ids if sample is None else random.sample(clip_ids, min(sample, len(clip_ids)))
    num_faulty = 0
    for clip_id, faults in _find_faults(output, chosen):
        num_faulty += bool(faults)
        for fault in faults:
            typer.echo(f"clip {clip_id}: {fault}")
    typer.echo(f"{storage.redact(output)}: {len(chosen)} of {len(clip_ids)} clips read, {num_faulty} faulty")
    raise typer.Exit(exits.INCOMPLETE if num_faulty else exits.DONE)


def prune(
    output: Output,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
) -> None:
    """Remove what killed attempts have left: videos that no commit names, and saved steps of clips that are committed."""
    from lynx_batch.ledger.heartbeat import living_runs
    from lynx_batch.ledger.leftovers import find_leftovers

    for run_id, beat in living_runs(output, datetime.now(UTC), within=SURELY_OVER).items():
        alive = f"run {run_id} was alive on {beat.host} at {beat.at:%H:%M} UTC"
        raise ConfigError(f"{storage.redact(output)}: {alive}; prune an hour later, or when it has ended")
    leftovers = find_leftovers(output)
    for file in leftovers:
        typer.echo(storage.redact(file.uri))
        if not dry_run:
            storage.delete(file.uri)
    megabytes = sum(file.num_bytes for file in leftovers) / 1e6
    told = "would be removed" if dry_run else "removed"
    typer.echo(f"{storage.redact(output)}: {len(leftovers)} files of {megabytes:.1f} MB {told}")


def _find_faults(output: str, clip_ids: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Each clip with what is wrong with it, several being read at once."""
    from lynx_batch.delivery.deliver import StoredClip
    from lynx_batch.delivery.inspect import find_faults
    from lynx_batch.ledger.commits import CommitRecord, read_commits

    promises = {field.name for field in fields(StoredClip)}

    def inspect(commit: CommitRecord) -> list[str]:
        return find_faults(output, StoredClip(**commit.model_dump(include=promises)))

    with ThreadPoolExecutor(2 * (os.cpu_count() or 1), thread_name_prefix="verify") as pool:
        for start in range(0, len(clip_ids), NUM_CLIPS_AT_ONCE):
            commits = list(read_commits(output, clip_ids[start : start + NUM_CLIPS_AT_ONCE]))
            for commit, faults in zip(commits, pool.map(inspect, commits), strict=True):
                yield commit.clip_id, faults

"""`judge` scores clips that were committed without a quality gate. `accept` commits clips that the gate rejected and people approve."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import Progress

from lynx_batch import exits, storage
from lynx_batch.cli.console import make_console, say, say_some
from lynx_batch.cli.outputs import Output
from lynx_batch.errors import ConfigError
from lynx_batch.printable import counted

if TYPE_CHECKING:
    from lynx_batch.config import QualityConfig

MAX_CLIPS_SHOWN = 50


def judge(
    output: Output,
    run_id: Annotated[
        str | None, typer.Option("--run", metavar="RUN", help="Judge only the clips that this run asked for.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="Judge at most this many clips.")] = None,
    scorers: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN.yaml", help="Measure as `quality:` of this run file says. Default: all that needs no file."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="How many clips to judge at once. Default: one per core, at most 8.")
    ] = None,
) -> None:
    """Score the clips that were committed without a quality gate, on the CPUs of this machine. Needs no cluster.

    The scores are kept beside the commits, which stay as they are. Run it again after an interruption: what is judged is not judged again.
    Exit codes: 0 all chosen clips have scores; 3 some could not be judged, and they are listed.
    """
    from lynx_batch.preparation.scorers import check_scorers
    from lynx_batch.rendering.unjudged import find_unjudged, judge_all

    quality = _read_quality(scorers)
    check_scorers(quality)
    backlog = find_unjudged(output, run_id)
    chosen = backlog.clips[:limit]
    left_out = dict(backlog.left_out)
    with Progress(console=make_console(), transient=True) as bar:
        task = bar.add_task("judging", total=len(chosen))
        for clip_id, fault in judge_all(output, chosen, quality, num_workers=workers):
            bar.advance(task)
            if fault is not None:
                left_out[clip_id] = fault
    num_judged = len(chosen) - len(left_out.keys() - backlog.left_out.keys())
    num_before = backlog.num_committed - len(backlog.clips) - len(backlog.left_out)
    say(f"{storage.redact(output)}: {counted(num_judged, 'clip')} judged, {num_before} had scores before")
    if num_waiting := len(backlog.clips) - len(chosen):
        say(f"{counted(num_waiting, 'clip')} left without scores (--limit)")
    _end(left_out, "not judged")


def accept(
    output: Output,
    clip_list: Annotated[
        str,
        typer.Option(
            "--list",
            metavar="FILE",
            help="One ClipId a line, or a CSV file with the columns clip_id and, if you like, decision: approve, reject or nothing.",
        ),
    ],
    by: Annotated[str, typer.Option(metavar="NAME", help="Who approves; it is kept in the commits.")],
) -> None:
    """Commit clips that the quality gate rejected: of each clip, the best try whose video was kept. Needs no cluster.

    Safety cannot be overruled. Exit codes: 0 every approved clip is committed; 3 some are not, and they are listed with the reason.
    """
    from lynx_batch.ledger.acceptance import accept as accept_clips
    from lynx_batch.ledger.clip_list import Decision, read_clip_list

    if not by.strip():
        raise ConfigError(f"--by {by!r}: must be a name")
    approved = read_clip_list(clip_list, Decision.APPROVE)
    found = accept_clips(output, sorted(approved), by=by.strip(), now=datetime.now(UTC))
    committed = counted(len(found.committed), "clip")
    say(f"{storage.redact(output)}: {committed} committed, {len(found.already)} had been committed before")
    _end(found.refused, "not committed")


def _read_quality(run_file: Path | None) -> "QualityConfig":
    """Raises ConfigError if the run file has no `quality:`."""
    from lynx_batch.config import QualityConfig, load_run_config
    from lynx_batch.config.quality import SafetyRules

    if run_file is None:
        return QualityConfig(safety=SafetyRules())
    quality = load_run_config(run_file, {}).quality
    if quality is None:
        raise ConfigError(f"--scorers {run_file}: must have a section quality")
    return quality


def _end(left_out: Mapping[str, str], what: str) -> None:
    """Lists the clips that are left out, and exits accordingly."""
    if not left_out:
        return
    say(f"{counted(len(left_out), 'clip')} {what}:")
    say_some([f"clip {clip_id}: {why}" for clip_id, why in sorted(left_out.items())], MAX_CLIPS_SHOWN)
    raise typer.Exit(exits.INCOMPLETE)

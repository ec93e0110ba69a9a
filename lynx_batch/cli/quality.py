"""`quality calibrate`: which limits of likeness fit the clips that were judged so far."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from lynx_batch import storage
from lynx_batch.cli.console import make_console, say
from lynx_batch.cli.outputs import Output
from lynx_batch.errors import ConfigError
from lynx_batch.printable import counted

# They take a while to load, so they are imported by the command.
if TYPE_CHECKING:
    from collections.abc import Sequence

    from lynx_batch.config import QualityConfig
    from lynx_batch.planning.calibration import Candidate, ScoredTry
    from lynx_batch.planning.distributions import Distribution

quality_app = typer.Typer(help="Find the limits of the quality gate.", no_args_is_help=True)

PASS_RATES = (0.99, 0.95, 0.9, 0.8, 0.6)
"""Shown for comparison, beside the wanted one."""

NUM_BINS = 16
BARS, ASCII_BARS = "▁▂▃▄▅▆▇█", ".:-=+*#%"


@quality_app.command("calibrate")
def calibrate(
    output: Output,
    labels: Annotated[
        str | None,
        typer.Option(
            help="A CSV file: clip_id, label (good or bad) and, if wanted, number of the try. The limits are then those that tell these apart best."
        ),
    ] = None,
    pass_rate: Annotated[
        float, typer.Option(help="The share of tries that should pass, of those without any other fault.")
    ] = 0.9,
    out: Annotated[Path, typer.Option(help="Where the picture of all scores goes.")] = Path("quality.png"),
) -> None:
    """Show how the scores of all judged tries are distributed, and print a `quality:` section for the run file.

    For several pass rates it tells the tries and GPU-hours to expect.
    """
    from lynx_batch.intake.labels import read_labels
    from lynx_batch.ledger.judged_tries import read_judged
    from lynx_batch.ledger.runs import newest_policy
    from lynx_batch.planning.calibration import is_usable
    from lynx_batch.planning.distributions import distributions

    if not 0 < pass_rate <= 1:
        raise ConfigError(f"--pass-rate {pass_rate:g}: must be above 0 and at most 1")
    judged = read_judged(output)
    if not judged.tries:
        raise ConfigError(f"OUT {storage.redact(output)}: must hold a judged clip; `render` with `quality:` judges")
    labelled = None if labels is None else read_labels(labels, judged.tries)
    policy = _policy(newest_policy(output))
    usable = [each for each in judged.tries if is_usable(each.judged, policy)]
    _show_basis(output, judged.tries, usable, judged.num_judges)
    shown = distributions(each.judged.scores for each in judged.tries)
    _show_scores(shown)
    chosen = _choose(usable, policy, pass_rate, labelled) if usable else None
    _draw(shown, chosen, out)
    if chosen is not None:
        _show_block(output, chosen, len(usable))


def _policy(newest: "tuple[str, QualityConfig] | None") -> "QualityConfig":
    from lynx_batch.config import QualityConfig

    if newest is None:
        say("reseeds and all other rules: the defaults, because no run here has a section `quality:` that can be read")
        return QualityConfig()
    say(f"reseeds and all other rules: those of run {newest[0]}")
    return newest[1]


def _show_basis(output: str, tries: "Sequence[ScoredTry]", usable: "Sequence[ScoredTry]", num_judges: int) -> None:
    from lynx_batch.planning.calibration import FEW_TRIES

    num_clips = len({each.clip_id for each in tries})
    num_committed = sum(each.is_committed for each in tries)
    judged = f"{counted(len(tries), 'judged try', 'judged tries')} of {counted(num_clips, 'clip')}"
    say(f"{storage.redact(output)}: {judged}, {num_committed} of them committed")
    if num_left_out := len(tries) - len(usable):
        say(f"{counted(num_left_out, 'try', 'tries')} left out of the limits, without scores that these rules need")
    if len(usable) < FEW_TRIES:
        few = counted(len(usable), "try", "tries")
        say(f"only {few} can be used, fewer than {FEW_TRIES}: the limits below may be far off")
    if num_judges > 1:
        say(f"{num_judges} different sets of scorers judged them: likeness may not mean the same in all")


def _show_scores(shown: "Sequence[Distribution]") -> None:
    console = make_console()
    table = Table("score", "from lowest to highest", "lowest", "median", "highest", box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    bars = BARS if console.encoding.startswith("utf") else ASCII_BARS
    for each in shown:
        if not each.is_constant:
            numbers = (f"{value:.3g}" for value in (each.low, each.median, each.high))
            table.add_row(each.score, _bars(each.histogram(NUM_BINS), bars), *numbers)
    console.print(table)
    if constant := [f"{each.score} {each.low:g}" for each in shown if each.is_constant]:
        console.print(f"the same in every try: {', '.join(constant)}")


def _bars(counts: list[int], bars: str) -> str:
    """One character for each bin: a space for none, the last of `bars` for the most."""
    most = max(counts)
    return "".join(bars[-(-count * len(bars) // most) - 1] if count else " " for count in counts)


def _choose(
    usable: "Sequence[ScoredTry]",
    policy: "QualityConfig",
    pass_rate: float,
    labelled: "Sequence[tuple[ScoredTry, bool]] | None",
) -> "Candidate | None":
    """Shows what several rules lead to. Returns those to be used; None if they have no new limit."""
    from lynx_batch.planning.calibration import (
        assess,
        is_usable,
        limits_for_labels,
        limits_for_pass_rate,
        limits_of,
        why_no_limit,
    )

    tries = [each.judged for each in usable]
    known = [(each.judged, is_good) for each, is_good in labelled or () if is_usable(each.judged, policy)]
    if labelled is not None and {is_good for _, is_good in known} != {True, False}:
        raise ConfigError("--labels: there must be good and bad tries with all scores that these rules need")
    found = {rate: limits_for_pass_rate(tries, policy, rate) for rate in sorted({*PASS_RATES, pass_rate}, reverse=True)}
    candidates = {rate: assess(f"pass rate {rate:.3g}", quality, usable, known) for rate, quality in found.items()}
    chosen = candidates[pass_rate]
    shown = [*candidates.values()]
    if limits_of(policy):
        shown.insert(0, assess("that run", policy, usable, known))
    if known:
        chosen = assess("labels", limits_for_labels(known, policy), usable, known)
        shown.insert(0, chosen)
    _show_candidates(shown, chosen)
    if limits_of(chosen.quality).items() <= limits_of(policy).items():
        basis = [judged for judged, _ in known] or tries
        say(f"no new limit: {why_no_limit(basis, policy, by_labels=bool(known))}")
        return None
    return chosen


def _show_candidates(candidates: "Sequence[Candidate]", chosen: "Candidate") -> None:
    from lynx_batch.planning.calibration import NUM_CLIPS, RULES, limits_of

    names = ["pass rate", "mean", "p10", "faces", "passed", "tries", "clips", "GPU-h"]
    has_labels = chosen.balanced_accuracy is not None
    table = Table(*names, *(["accuracy"] if has_labels else []), box=None, pad_edge=False)
    for each in candidates:
        limits = limits_of(each.quality)
        table.add_row(
            f"{each.aim.removeprefix('pass rate ')}{' (chosen)' if each is chosen else ''}",
            *(f"{limits[rule]:g}" if rule in limits else "" for rule in RULES),
            f"{each.pass_share:.0%}",
            f"{each.tries_per_clip:.2f}",
            f"{each.committed_share:.1%}",
            "unknown" if each.gpu_hours is None else f"{each.gpu_hours:,.1f}",
            *([f"{each.balanced_accuracy:.2f}"] if has_labels else []),
        )
    make_console().print(table)
    say(
        f"mean, p10, faces: {', '.join(RULES)}; passed: tries that pass all rules; tries: expected for each clip; "
        f"clips: those that get a good try; GPU-h: hours for {NUM_CLIPS:,} clips, if tries take as long as these did"
    )


def _draw(shown: "Sequence[Distribution]", chosen: "Candidate | None", out: Path) -> None:
    from lynx_batch.planning.calibration import limits_of
    from lynx_batch.planning.verdict import likeness_score
    from lynx_batch.report.score_chart import draw_scores

    limits = limits_of(chosen.quality) if chosen else {}
    picture = draw_scores(shown, {likeness_score(rule): limit for rule, limit in limits.items()})
    try:
        out.write_bytes(picture)
    except OSError as error:
        raise ConfigError(f"--out {out}: {error.strerror}") from error
    say(f"all scores: {out}")


def _show_block(output: str, chosen: "Candidate", num_tries: int) -> None:
    from lynx_batch.yaml_text import write_yaml

    section = {"quality": chosen.quality.model_dump(mode="json", exclude_none=True)}
    say(
        f"\n# limits for {chosen.aim}, from {counted(num_tries, 'try', 'tries')} at {storage.redact(output)}: "
        f"{chosen.pass_share:.0%} pass"
    )
    say(write_yaml(section), ends_line=False)

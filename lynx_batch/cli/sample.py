"""`sample` renders a few rows that show everything that varies. `approve` records that somebody looked at such clips and approved them."""

import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lynx_batch import api, exits, storage
from lynx_batch.cli import options
from lynx_batch.cli.console import make_console, say
from lynx_batch.cli.outputs import Output
from lynx_batch.cli.progress import shown
from lynx_batch.cli.render import conclude, load
from lynx_batch.cli.report import report_after_run
from lynx_batch.cli.targets import is_png, refuse_other_file
from lynx_batch.errors import ConfigError
from lynx_batch.planning.sampling import DEFAULT_COUNT, PROMPT
from lynx_batch.preparation.selection import Selection
from lynx_batch.printable import counted

if TYPE_CHECKING:
    from lynx_batch.preparation.sample import SampleRun

MAX_COUNT = 1000


def sample(
    run_file: options.RunFile,
    count: Annotated[int, typer.Option(min=1, max=MAX_COUNT, help="At most this many rows.")] = DEFAULT_COUNT,
    per: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="What the rows must show: subject, prompt, shape, script, tags, tags.KEY, or a parameter. Default: all that varies.",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Where the sample is rendered. Default: `approval.sample`, which is OUT-sample by default."),
    ] = None,
    sheet: Annotated[Path, typer.Option(help="Where the picture of all clips goes.")] = Path("sample.png"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say which rows, and how to submit them.")] = False,
    manifest: options.Manifest = None,
    output: options.Output = None,
    preset: options.Preset = None,
    overrides: options.Overrides = None,
    address: Annotated[str | None, typer.Option(help="Use this Ray cluster instead of a local one.")] = None,
    limit: options.Limit = None,
    where: options.Where = None,
    allow_invalid: options.AllowInvalid = False,
    allow_duplicates: options.AllowDuplicates = False,
    allow_missing_consent: options.AllowMissingConsent = False,
    unsafe_commit: options.UnsafeCommit = False,
) -> None:
    """Render a few rows that show everything that varies, in a place of their own, and end with their contact sheet.

    Every row is checked as `render` does. Exit codes: those of `render`.
    """
    from lynx_batch.preparation.sample import prepare_sample, withdraw_outdated

    refuse_other_file("--sheet", sheet, "a PNG", is_png)
    settings = {"manifest": manifest, "output": output, "preset": preset, "cluster.address": address}
    selection = Selection(
        where=where,
        limit=limit,
        allow_invalid=allow_invalid,
        allow_duplicates=allow_duplicates,
        allow_missing_consent=allow_missing_consent,
    )
    aspects = [name.strip() for name in (per or "").split(",") if name.strip()]
    config = load(run_file, settings | {"approval.sample": out}, overrides)
    chosen = prepare_sample(config, selection, count=count, per=aspects, now=datetime.now(UTC))
    _show_choice(chosen)
    place = storage.redact(chosen.config.output)
    if dry_run:
        given = {"--manifest": manifest, "--output": place, "--preset": preset, "--where": chosen.selection.where}
        flags = {
            "--allow-invalid": allow_invalid,
            "--allow-duplicates": allow_duplicates,
            "--allow-missing-consent": allow_missing_consent,
            "--unsafe-commit": unsafe_commit,
        }
        say(f"submit them: {_submit_command(run_file, given, flags, overrides or [])}")
        return
    withdraw_outdated(chosen, datetime.now(UTC))
    console = make_console()
    with shown(console) as watch:
        summary = api.render(
            chosen.config,
            chosen.selection,
            is_unsafe_allowed=unsafe_commit,
            announce=partial(console.print, soft_wrap=True),
            watch=watch,
        )
    code = conclude(summary, console)
    report_after_run(chosen.config.output, summary.run_id)
    if code in (exits.STOPPED, exits.LIMITED):
        raise typer.Exit(code)
    _write_sheet(chosen, summary.run_id, sheet)
    say(f"look at the clips; to approve them: lynx-batch approve {place} --by NAME")
    say(
        f"then render all rows, with the same other options: lynx-batch render {run_file} --require-approval{_where_approved(out)}"
    )
    raise typer.Exit(code)


def _submit_command(
    run_file: Path, given: Mapping[str, str | None], flags: Mapping[str, bool], overrides: Sequence[str]
) -> str:
    """The command that submits a sample, with the options of this one, so that it can be pasted into a shell. `given` names the output."""
    others = [each for each in overrides if each.partition("=")[0].strip() != "output"]
    return shlex.join(
        [
            *("lynx-batch", "submit", str(run_file)),
            *(part for option, value in given.items() if value is not None for part in (option, value)),
            *(flag for flag, is_given in flags.items() if is_given),
            *(part for each in (*others, "approval.required=false") for part in ("--set", each)),
        ]
    )


def approve(
    output: Output,
    by: Annotated[str, typer.Option(metavar="NAME", help="Who approves; it is kept in the record.")],
    run_id: Annotated[str | None, typer.Option("--run", metavar="RUN", help="Default: the newest run.")] = None,
    clip_list: Annotated[
        str | None,
        typer.Option(
            "--list", metavar="FILE", help="Only what the clips approved in this CSV of a report show. Default: all."
        ),
    ] = None,
) -> None:
    """Record that the clips of a run at OUT, such as a sample, were approved: their templates, parameters and settings.

    `render` and `submit` with --require-approval then accept rows with these templates, parameters and settings, and nothing else.
    """
    from lynx_batch.ledger import approvals
    from lynx_batch.ledger.clip_list import Decision, read_clip_list
    from lynx_batch.planning.approval import TEMPLATE, TEXTS
    from lynx_batch.report.gather import find_run

    if not by.strip():
        raise ConfigError(f"--by {by!r}: must be a name")
    run = find_run(output, run_id)
    only = None if clip_list is None else read_clip_list(clip_list, Decision.APPROVE)
    approval = approvals.approve(output, run, by=by.strip(), now=datetime.now(UTC), only=only)
    num_templates = len(approval.values[TEMPLATE])
    say(
        f"{storage.redact(output)}: {approval.approved_by} approved run {run.run_id}: {counted(num_templates, 'template')}, "
        f"as shown by {counted(len(approval.clip_ids), 'clip')}, and {counted(len(approval.settings), 'setting')} of the run"
    )
    varying = {name: values for name, values in approval.values.items() if name != TEMPLATE and len(values) > 1}
    for name, values in varying.items():
        say(f"  {name}: {f'{len(values)} texts' if name in TEXTS else ', '.join(map(str, values))}")


def _show_choice(chosen: "SampleRun") -> None:
    from lynx_batch.preparation.prepare import ALL_PROBLEMS, describe_rejections

    found = chosen.sample
    if chosen.rejections:
        say(describe_rejections(chosen.rejections, ALL_PROBLEMS))
    if chosen.outage:
        say(f"left out are rows whose photos cannot be read: {chosen.outage}")
    say(f"picked {len(found.picks)} of {chosen.num_rows:,} rows, each with as many new values as possible:")
    for pick in found.picks:
        say(f"  row {pick.row}: {pick.explain()}")
    shown_of_all = [f"{aspect} {num:,} of {total:,}" for aspect, (num, total) in found.shown.items()]
    say(f"they show: {', '.join(shown_of_all) or 'what all rows have'}")
    for aspect, total in found.left_out.items():
        say(f"left out: {aspect}, because it has {total:,} values; --per {aspect} includes it")


def _write_sheet(chosen: "SampleRun", run_id: str, sheet: Path) -> None:
    from lynx_batch.report.sheet import sheet_of_run

    notes = {pick.row: pick.explain(without=PROMPT) for pick in chosen.sample.picks}
    picture = sheet_of_run(chosen.config.output, run_id, notes)
    try:
        sheet.write_bytes(picture)
    except OSError as error:
        raise ConfigError(f"--sheet {sheet}: {error.strerror}") from error
    say(f"contact sheet: {sheet}")


def _where_approved(out: str | None) -> str:
    """What `render` must be told if the sample is not where it looks by default."""
    return f" --set approval.sample={storage.redact(out)}" if out else ""

"""`render` turns a run file into committed clips. `one` renders a single clip in this process."""

import os.path
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from lynx_batch import api, exits
from lynx_batch.cli import options
from lynx_batch.cli.console import make_console
from lynx_batch.cli.progress import shown
from lynx_batch.cli.report import report_after_run
from lynx_batch.cli.targets import is_mp4, refuse_other_file
from lynx_batch.config import RunConfig, load_run_config
from lynx_batch.errors import ConfigError, LynxError
from lynx_batch.preparation.selection import Selection
from lynx_batch.printable import counted
from lynx_model.imports import without_collection

if TYPE_CHECKING:
    from lynx_batch.execution.run import RunSummary


def render(
    run_file: options.RunFile,
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
    require_approval: options.RequireApproval = None,
    unsafe_commit: options.UnsafeCommit = False,
    run_id: Annotated[str | None, typer.Option(help="The run's id, if you need to know it beforehand.")] = None,
    origin: Annotated[Path | None, typer.Option(hidden=True, help="A file that `submit` wrote.")] = None,
) -> None:
    """Render every row of a manifest that is not committed yet.

    Exit codes: 0 every row rendered; 2 bad arguments, run file or manifest; 3 finished, but not every row was rendered, or the
    store refused a result; 4 stopped (run again to continue); 5 a limit of the run file was reached.
    """
    from lynx_batch.preparation.origin import read_origin

    settings = {"manifest": manifest, "output": output, "preset": preset, "cluster.address": address}
    config = load(run_file, settings | {"approval.required": require_approval}, overrides)
    selection = Selection(
        where=where,
        limit=limit,
        allow_invalid=allow_invalid,
        allow_duplicates=allow_duplicates,
        allow_missing_consent=allow_missing_consent,
    )
    console = make_console()
    with shown(console) as watch:
        summary = api.render(
            config,
            selection,
            is_unsafe_allowed=unsafe_commit,
            announce=partial(console.print, soft_wrap=True),
            watch=watch,
            run_id=run_id,
            origin=read_origin(origin) if origin else None,
        )
    code = conclude(summary, console)
    report_after_run(config.output, summary.run_id)
    raise typer.Exit(code)


def load(run_file: Path, settings: Mapping[str, object], overrides: list[str] | None) -> RunConfig:
    """The run file with the overrides of the command line. `settings` that are None were not given."""
    return load_run_config(run_file, _given(settings, overrides))


def _given(settings: Mapping[str, object], overrides: list[str] | None) -> dict[str, object]:
    return {key: value for key, value in settings.items() if value is not None} | options.parse_overrides(overrides)


def conclude(summary: "RunSummary", console: Console) -> int:
    """Prints how the run ended and gives the exit code."""
    from lynx_batch.ledger.metadata import Outcome

    elsewhere = f" ({summary.num_rendered_elsewhere} of them by earlier or parallel runs)"
    notes = {Outcome.RENDERED: elsewhere if summary.num_rendered_elsewhere else ""}
    counts = [f"{num} {outcome}{notes.get(outcome, '')}" for outcome in Outcome if (num := summary.counts[outcome])]
    console.print(f"run {summary.run_id}: {', '.join(counts) or 'nothing to do: no row was selected'}")
    if num_older := summary.num_still_in_force:
        console.print(
            f"{counted(num_older, 'row')} not rendered again, but an older edition of the clip stays in force"
        )
    if shares := summary.busy_shares.values():
        console.print(f"each group denoised at least {min(shares):.1%} of its time")
    for clip_id in summary.clips_gone:
        console.print(f"clip {clip_id}: rendered by its metadata, but its commit has vanished or was withdrawn")
    if summary.is_limited:
        advice = "Run the same command again once its limits allow more."
        console.print(f"stopped: {summary.stopped_by}. {advice}", soft_wrap=True)
        return exits.LIMITED
    if summary.stopped_by:
        first = "Fix that, then run" if summary.is_refused else "Run"
        console.print(f"stopped: {summary.stopped_by}. {first} the same command again to continue.", soft_wrap=True)
        return exits.INCOMPLETE if summary.is_refused else exits.STOPPED
    return exits.DONE if summary.is_complete else exits.INCOMPLETE


def one(
    photo: Annotated[str, typer.Argument(metavar="PHOTO", help="A photo of one person: a path or a URI.")],
    prompt: Annotated[str, typer.Argument(help="What the person does, or a text file with the prompt.")],
    run_file: Annotated[
        Path | None,
        typer.Option(
            "--run", help="Take the model and the defaults from this run file. Default: the published weights."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The MP4 file to write.")] = Path("clip.mp4"),
    face_index: Annotated[
        int | None, typer.Option(min=0, help="Which face to take if there are several, counted from the left.")
    ] = None,
    consent_ref: Annotated[str | None, typer.Option(help="Your reference to the person's consent.")] = None,
    consent_scope: Annotated[str | None, typer.Option(help="What the consent covers, such as ad,social.")] = None,
    regions: Annotated[str | None, typer.Option(help="Where the clip may be shown, such as EU,US.")] = None,
    allow_missing_consent: Annotated[bool, typer.Option(help="Render without a consent.")] = False,
    more_photos: Annotated[
        list[str] | None, typer.Option("--photo", help="Another photo of the same person. May be given several times.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Default: the run file's, or one derived from the clip.")] = None,
    preset: options.Preset = None,
    overrides: options.Overrides = None,
) -> None:
    """Render a single clip in this process, without a cluster. Photo and prompt are checked before anything is loaded."""
    from lynx_batch.preparation.single import prepare_one, published_config

    refuse_other_file("--out", out, "an MP4", is_mp4)
    options.refuse_blank({"--consent-ref": consent_ref})
    console = make_console()
    config = (
        load(run_file, {"preset": preset}, overrides)
        if run_file
        else published_config(_given({"preset": preset}, overrides))
    )
    photos = {"subject_uris": [photo, *more_photos]} if more_photos else {"subject_uri": photo}
    consent = {"consent_ref": consent_ref, "consent_scope": consent_scope, "regions": regions}
    cells = {"prompt": _read_prompt(prompt), "face_index": face_index, "seed": seed, **consent}
    selection = Selection(allow_missing_consent=allow_missing_consent)
    model, clip = prepare_one(config, {**photos, **cells}, selection)
    with without_collection():
        from lynx_batch.rendering.one import render_one  # loads torch, which takes seconds

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("denoising", total=None)
        render_one(
            config,
            model,
            clip,
            out=out,
            announce=console.print,
            on_step=lambda step, num_steps: bar.update(task, completed=step, total=num_steps),
        )
    params = clip.params
    console.print(
        f"{out}: {params.num_frames} frames of {params.width}x{params.height} at {params.fps} fps, seed {params.seed}"
    )


def _read_prompt(prompt: str) -> str:
    """The content of the file of that name, if it exists; else the prompt itself. A prompt may be longer than any file name."""
    if not os.path.isfile(prompt):
        return prompt
    from lynx_batch.intake.text_files import read_text

    try:
        return read_text(prompt).content.strip()
    except LynxError as error:
        raise ConfigError(f"PROMPT {prompt}: must be a prompt or a text file: {error}") from error

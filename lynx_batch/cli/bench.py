"""`lynx-batch bench`: how fast this machine's GPUs run the model."""

import json
from collections.abc import Callable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from lynx_batch import storage
from lynx_batch.cli import options
from lynx_batch.cli.console import make_console, say
from lynx_batch.cli.targets import has_json_keys, refuse_other_file
from lynx_batch.config import DefaultsConfig, FacesConfig, InputsConfig, RunConfig, VideoConfig, load_run_config
from lynx_batch.errors import ConfigError
from lynx_model.faces.identity import OWN_RECOGNISER
from lynx_model.parameters import PARAMETERS, RenderParams

if TYPE_CHECKING:
    from lynx_batch.preparation.model import CheckedModel
    from lynx_model.bench.clip import ClipTime
    from lynx_model.bench.forward import BenchReport
    from lynx_model.bench.scaling import CellResult
    from lynx_model.bench.stages import StageTime
    from lynx_model.step_plan import PlannedStep

LEFT_OUT = {"subject": "it needs a --photo", "encode": "it needs the package av"}
"""Stages that can be missing from a report, and what it takes to measure them."""

NO_GPU = (
    "this command measures the model at its true size on GPUs, and torch finds none here; `lynx-batch doctor` says why"
)

bench_app = typer.Typer(help="Measure the engine on this machine.", no_args_is_help=True)

Width = Annotated[int, typer.Option(help="Pixels.")]
Height = Annotated[int, typer.Option(help="Pixels.")]
IsLite = Annotated[bool, typer.Option("--lite", help="Lynx-lite instead of Lynx-full.")]
Blocks = Annotated[int, typer.Option(min=1, help="Blocks of the model; fewer fit a smaller card.")]
Runs = Annotated[int, typer.Option(min=1, help="Measurements per figure; the median is reported.")]


@bench_app.command()
def engine(
    width: Width = 832,
    height: Height = 480,
    frames: Annotated[int, typer.Option(help="Frames of the clip.")] = 81,
    is_lite: IsLite = False,
    blocks: Blocks = 40,
    runs: Runs = 5,
    photo: Annotated[
        Path | None, typer.Option(exists=True, help="A photo of a face. Adds the stage that reads it.")
    ] = None,
    faces: Annotated[
        str, typer.Option(help="Name or folder of the face pack that reads the photo.")
    ] = FacesConfig().pack,
    usd_per_hour: Annotated[float | None, typer.Option(help="Price of a GPU-hour. Adds the cost of a clip.")] = None,
    out: Annotated[Path | None, typer.Option("--json", help="Also write the report to this file.")] = None,
) -> None:
    """Time one forward pass at full size with random weights, and compare it with other implementations and with the card's limit; then
    each stage of a clip.
    """
    import torch

    from lynx_model.bench.forward import bench_forward
    from lynx_model.bench.stages import bench_stages

    if out is not None:
        refuse_other_file("--json", out, "an earlier report", has_json_keys("device", "measurements"))
        _check_writable(out)
    if not torch.cuda.is_available():
        raise ConfigError(NO_GPU)
    read_subject = _subject_reader(photo, faces) if photo is not None else None
    encode = _encode if find_spec("av") is not None else None
    device = torch.device("cuda")
    case = _case(width=width, height=height, num_frames=frames, is_lite=is_lite, num_blocks=blocks)
    report = bench_forward(case, device=device, num_runs=runs)
    console = make_console(140)
    console.print(_table(report, usd_per_hour))
    stages = bench_stages(report, device=device, num_runs=runs, read_subject=read_subject, encode=encode)
    console.print(_stage_table(stages))
    if out is not None:
        more = {"floor_ms": report.floor_ms, "stages": [asdict(stage) for stage in stages]}
        out.write_text(json.dumps(asdict(report) | more, indent=1), encoding="utf-8")


@bench_app.command()
def scaling(
    gpus: Annotated[str, typer.Option(help="Numbers of GPUs to compare with 1, such as 2,4.")],
    out: Annotated[
        Path, typer.Option("--json", help="Results. Cells that the file already holds are not measured again.")
    ],
    sizes: Annotated[str, typer.Option(help="Pixels.")] = "832x480,1280x720",
    frames: Annotated[str, typer.Option(help="Frames of the clips.")] = "81,121",
    is_lite: IsLite = False,
    blocks: Blocks = 40,
    runs: Runs = 3,
) -> None:
    """Time one step on 1 GPU and on more, in every layout of guidance branches and Ulysses ranks."""
    import torch

    from lynx_model.bench.scaling import bench_scaling, plan_cells, read_results

    numbers, num_found = _numbers("gpus", gpus, ","), torch.cuda.device_count()
    if num_found and max(numbers) > num_found:
        raise ConfigError(f"--gpus {gpus!r}: must be at most the {num_found} GPUs of this machine")
    found = {result.name for result in read_results(out)}
    _check_writable(out)
    cases = [
        _case(width=width, height=height, num_frames=number, is_lite=is_lite, num_blocks=blocks)
        for width, height in (_numbers("sizes", size, "x", 2) for size in sizes.split(","))
        for number in _numbers("frames", frames, ",")
    ]
    cells = [*plan_cells(cases, numbers)]
    if not num_found and not found.issuperset(cell.name for cell in cells):
        raise ConfigError(NO_GPU)
    results = bench_scaling(cells, out, runs)
    make_console(110).print(_scaling_table(results))


@bench_app.command()
def clip(
    run_file: options.RunFile,
    presets: Annotated[str, typer.Option(help="The presets to time.")] = "exact,fast,draft",
    width: Width = 832,
    height: Height = 480,
    frames: Annotated[int, typer.Option(help="Frames of the clip.")] = 81,
    blocks: Blocks = 40,
    overrides: options.Overrides = None,
    out: Annotated[Path | None, typer.Option("--json", help="Also write the times to this file.")] = None,
) -> None:
    """Time the denoising of one clip with each preset: at full size with random weights, in the steps that RUN.yaml's own model computes.

    So the steps can be those of a small model, whose losses are quick to measure. Blocks are not offloaded.
    """
    import torch

    from lynx_model.bench.clip import ClipTime, time_clip

    if out is not None:
        refuse_other_file("--json", out, "earlier times", has_json_keys("device", "clips"))
        _check_writable(out)
    given = options.parse_overrides(overrides)
    planned = [(name, *_planned(load_run_config(run_file, {"preset": name, **given}))) for name in presets.split(",")]
    if not torch.cuda.is_available():
        raise ConfigError(NO_GPU)
    device, times = torch.device("cuda"), list[ClipTime]()
    for name, model, params, steps in planned:
        is_lite = not model.traits.has_ref
        case = _case(width=width, height=height, num_frames=frames, is_lite=is_lite, num_blocks=blocks)
        times.append(time_clip(name, case, params, steps, model.engine.options, device=device))
        say(f"{name}: {times[-1].seconds:.1f} s")
    make_console(110).print(_clip_table(times))
    if out is not None:
        report = {"device": torch.cuda.get_device_name(device), "clips": [asdict(each) for each in times]}
        out.write_text(json.dumps(report, indent=1), encoding="utf-8")


@bench_app.command()
def quality(
    run_file: options.RunFile,
    settings: Annotated[
        Path,
        typer.Option(metavar="FILE", help="A YAML file with the settings to compare, each as changes to the run file."),
    ],
    out: Annotated[str, typer.Option(help="Where clips and results are put; what lies there is not rendered again.")],
    limit: options.Limit = None,
    lpips: Annotated[
        Path | None, typer.Option(metavar="FILE.onnx", help="A network of two pictures. Adds perceptual distances.")
    ] = None,
    overrides: options.Overrides = None,
) -> None:
    """Render the same clips with several settings, and compare speed, pictures and likeness with those of the reference.

    Prints a table, and writes it with all clips side by side to OUT/index.html and OUT/comparison.json.
    """
    from lynx_batch.comparison.compare import compare, titles_of
    from lynx_batch.comparison.page import COLUMNS, as_json, build_page, table_lines
    from lynx_batch.comparison.pictures import Lpips
    from lynx_batch.comparison.settings import read_settings

    cells, results = compare(
        run_file,
        read_settings(settings, options.parse_overrides(overrides)),
        out,
        limit=limit,
        lpips=None if lpips is None else Lpips.load(lpips),
        announce=say,
    )
    table = Table(*COLUMNS, title=f"{results[0].num_clips} clips with each setting; differences with their 95 % range")
    for line in table_lines(results):
        table.add_row(*line)
    make_console(230).print(table)
    storage.write_bytes(storage.join(out, "comparison.json"), json.dumps(as_json(results), indent=1).encode())
    page = storage.join(out, "index.html")
    storage.write_bytes(page, build_page(cells, results, titles_of(out)).encode())
    say(f"side by side: {storage.redact(page)}")


def _planned(config: RunConfig) -> "tuple[CheckedModel, RenderParams, tuple[PlannedStep, ...]]":
    """The model of a run, and the steps of a row whose cells are all null. Its prompt and its seed say nothing about what is computed."""
    from lynx_batch.preparation.model import check_model
    from lynx_model.step_plan import plan_steps

    values = {name: getattr(config.defaults, name) for name in PARAMETERS if name not in ("prompt", "seed")}
    model, params = check_model(config), RenderParams(prompt="any", **values)
    return model, params, plan_steps(params, model.traits, model.engine.options)


def _case(**fields: Any) -> Any:
    from lynx_model.bench.case import BenchCase
    from lynx_model.geometry import check_num_frames, check_size

    case = BenchCase(**fields)
    check_size("width", case.width)
    check_size("height", case.height)
    check_num_frames(case.num_frames)
    return case


def _numbers(field: str, text: str, separator: str, count: int | None = None) -> list[int]:
    parts = text.split(separator)
    if not all(part.isdecimal() and int(part) for part in parts) or count not in (None, len(parts)):
        raise ConfigError(f"--{field} {text!r}: must be positive whole numbers joined by {separator!r}")
    return [int(part) for part in parts]


def _subject_reader(photo: Path, pack: str) -> Callable[[], object]:
    """Raises FaceError if there is no usable face."""
    from lynx_batch.inputs import read_photo_file
    from lynx_model.faces.photo import read_photo
    from lynx_model.faces.reader import FaceReader

    reader, data = FaceReader.load(pack, OWN_RECOGNISER), read_photo_file(str(photo.absolute()), InputsConfig())
    reader.read(read_photo(data))
    return lambda: reader.read(read_photo(data))


def _check_writable(file: Path) -> None:
    """Raises ConfigError now rather than after hours of measuring. Leaves no empty file."""
    is_new = not file.exists()
    try:
        file.open("ab").close()
        if is_new:
            file.unlink()
    except OSError as error:
        raise ConfigError(f"--json {file}: must be a file that can be written: {error}") from error


def _encode(frames_FHWC: NDArray[np.uint8]) -> None:
    """Encodes a clip and its poster, as a delivery does."""
    from lynx_batch.delivery.video import encode_mp4, encode_poster

    encode_mp4(frames_FHWC, fps=DefaultsConfig().fps, crf=VideoConfig().crf)
    encode_poster(frames_FHWC)


def _table(report: "BenchReport", usd_per_hour: float | None = None) -> Table:
    case = report.case
    title = (
        f"Lynx-{'lite' if case.is_lite else 'full'}, one forward of {case.num_tokens} tokens, {report.device}, "
        f"torch {report.torch_version}"
    )
    columns = ["forward", "ms", "x first", "TFLOP/s", "of floor", "first call s", "peak GiB", "error", "s a clip"]
    table = Table(*columns, *(["$ a clip"] if usd_per_hour is not None else []), title=title)
    slowest_ms = report.measurements[0].ms
    for m in report.measurements:
        table.add_row(
            m.name,
            f"{m.ms:.1f}",
            f"{slowest_ms / m.ms:.2f}",
            f"{m.tflops:.0f}",
            f"{report.floor_ms / m.ms:.1%}",
            f"{m.first_s:.1f}",
            f"{m.peak_gib:.1f}",
            f"{m.error:.2%}",
            f"{m.clip_s:.0f}",
            *([f"{m.clip_s / 3600 * usd_per_hour:.3f}"] if usd_per_hour is not None else []),
        )
    products, attention = report.floor_products_ms, report.floor_attention_ms
    table.add_row(f"floor: products {products:.0f} + attention {attention:.0f}", f"{report.floor_ms:.1f}")
    return table


def _stage_table(stages: "list[StageTime]") -> Table:
    from lynx_model.bench.stages import own_stages

    own = own_stages(stages)
    clip_s = sum(stage.seconds for stage in own)
    measured = {stage.stage for stage in own}
    absent = [f"{name} is left out: {need}" for name, need in LEFT_OUT.items() if name not in measured]
    table = Table(
        *("stage", "baseline", "s", "of a clip", "peak GiB"), title="Each stage of a clip", caption="; ".join(absent)
    )
    for stage in stages:
        share = f"{stage.seconds / clip_s:.2%}" if stage in own else ""
        table.add_row(stage.stage, stage.baseline, f"{stage.seconds:.3f}", share, f"{stage.peak_gib:.1f}")
    table.add_row("all", "", f"{clip_s:.1f}")
    return table


def _clip_table(times: "list[ClipTime]") -> Table:
    table = Table("preset", "steps", "full steps", "full forwards", "denoising s", "x first", "peak GiB")
    for each in times:
        table.add_row(
            each.name,
            str(len(each.steps)),
            str(sum(map(bool, each.steps))),
            str(each.num_forwards),
            f"{each.seconds:.1f}",
            f"{times[0].seconds / each.seconds:.2f}",
            f"{each.peak_gib:.1f}",
        )
    return table


def _scaling_table(results: "list[CellResult]") -> Table:
    from lynx_model.bench.scaling import efficiency

    table = Table("step", "GPUs", "ms", "x one GPU", "efficiency", "peak GiB", title="One step, all guidance branches")
    for result in results:
        share = efficiency(result, results)
        table.add_row(
            result.name,
            str(result.num_gpus),
            f"{result.step_ms:.1f}",
            f"{share * result.num_gpus:.2f}" if share is not None else "",
            f"{share:.1%}" if share is not None else "",
            f"{result.peak_gib:.1f}",
        )
    return table

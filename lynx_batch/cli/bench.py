"""`lynx-batch bench`: what this machine's GPU makes of the model."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from lynx_model.bench import BenchReport

bench_app = typer.Typer(help="Measure the engine on this machine.", no_args_is_help=True)


@bench_app.callback()
def _group() -> None:
    """Keeps `engine` a command of its own while it is the only one."""


@bench_app.command()
def engine(
    width: Annotated[int, typer.Option(help="Pixels.")] = 832,
    height: Annotated[int, typer.Option(help="Pixels.")] = 480,
    frames: Annotated[int, typer.Option(help="Frames of the clip.")] = 81,
    blocks: Annotated[int, typer.Option(min=1, help="Blocks of the model; fewer fit a smaller card.")] = 40,
    runs: Annotated[int, typer.Option(min=1, help="Forwards per figure; the median is told.")] = 5,
    out: Annotated[Path | None, typer.Option("--json", help="Write the report here, too.")] = None,
) -> None:
    """Time one forward of the true size with random weights, beside the floor that this card's own kernels set."""
    import torch

    from lynx_model.bench import BenchCase, bench_forward
    from lynx_model.geometry import check_num_frames, check_size

    check_size("width", width)
    check_size("height", height)
    check_num_frames(frames)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    case = BenchCase(num_blocks=blocks, width=width, height=height, num_frames=frames)
    report = bench_forward(case, device=device, num_runs=runs)
    Console(width=110).print(_table(report))
    if out is not None:
        out.write_text(json.dumps(asdict(report) | {"floor_ms": report.floor_ms}, indent=1), encoding="utf-8")


def _table(report: "BenchReport") -> Table:
    title = (
        f"Lynx-full, one forward of {report.num_tokens} tokens, bfloat16, {report.device}, torch {report.torch_version}"
    )
    table = Table("forward", "ms", "x first row", "share of floor", "first call s", "peak GiB", "error", title=title)
    slowest_ms = report.measurements[0].ms
    for m in report.measurements:
        table.add_row(
            m.name,
            f"{m.ms:.1f}",
            f"{slowest_ms / m.ms:.2f}",
            f"{report.floor_ms / m.ms:.1%}",
            f"{m.first_s:.1f}",
            f"{m.peak_gib:.1f}",
            f"{m.error:.2%}",
        )
    products, attention = report.floor_products_ms, report.floor_attention_ms
    table.add_row(f"floor: products {products:.0f} + attention {attention:.0f}", f"{report.floor_ms:.1f}")
    return table

"""The result of a comparison as a table, as JSON, and as a page with the clips side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lynx_batch.comparison.compare import LIKENESS, LIKENESS_P10, MOTION, PROMPT, CellResult, RenderedCell
from lynx_batch.comparison.paired import Difference

TEMPLATES = Path(__file__).parent / "templates"

COLUMNS = (
    *("setting", "clips", "GPU-s a clip", "clips a GPU-hour", "faster", "PSNR dB", "SSIM", "LPIPS"),
    *("likeness", "difference", "p10", "difference", "motion", "difference", "prompt", "difference"),
)


def table_lines(results: Sequence[CellResult]) -> list[list[str]]:
    """A line for each result, under `COLUMNS`."""
    return [*map(_line, results)]


def as_json(results: Sequence[CellResult]) -> list[dict[str, Any]]:
    """The results without their places, which differ from machine to machine."""
    return [
        {
            "setting": result.setting.name,
            "is_floor": result.setting.is_floor,
            "changes": dict(result.setting.changes),
            "num_clips": result.num_clips,
            "gpu_s": result.gpu_s,
            "clips_per_gpu_hour": result.clips_per_gpu_hour,
            "times_faster": result.times_faster,
            "pictures": None if result.pictures is None else asdict(result.pictures),
            "scores": dict(result.scores),
            "differences": {name: asdict(found) for name, found in result.differences.items()},
        }
        for result in results
    ]


def build_page(cells: Sequence[RenderedCell], results: Sequence[CellResult], titles: Mapping[int, str]) -> str:
    """HTML. Links to clips are relative to the folder that holds the outputs of all cells. `titles` has one for each row."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    lines = zip(table_lines(results), results, strict=True)
    return environment.get_template("comparison.html").render(
        columns=COLUMNS,
        lines=[{"cells": line, "is_floor": result.setting.is_floor} for line, result in lines],
        rows=[{"title": title, "clips": _clips(cells, row)} for row, title in titles.items()],
    )


def _clips(cells: Sequence[RenderedCell], row: int) -> list[dict[str, object]]:
    return [
        {
            "name": cell.setting.name,
            "video": f"{cell.setting.folder}/{commit.clip_uri}",
            "poster": f"{cell.setting.folder}/{commit.poster_uri}",
            "likeness": commit.scores.get(LIKENESS),
        }
        for cell in cells
        if (commit := cell.commits.get(row))
    ]


def _line(result: CellResult) -> list[str]:
    pictures = result.pictures
    shown = [
        f"{result.setting.name} (floor)" if result.setting.is_floor else result.setting.name,
        str(result.num_clips),
        f"{result.gpu_s:.2f}",
        f"{result.clips_per_gpu_hour:.1f}",
        f"{result.times_faster:.2f}x",
        "" if pictures is None else f"{pictures.psnr_db:.1f}",
        "" if pictures is None else f"{pictures.ssim:.3f}",
        "" if pictures is None or pictures.lpips is None else f"{pictures.lpips:.3f}",
    ]
    for name in (LIKENESS, LIKENESS_P10, MOTION, PROMPT):
        shown += [f"{result.scores[name]:.3f}" if name in result.scores else "", _show(result.differences.get(name))]
    return shown


def _show(found: Difference | None) -> str:
    if found is None:
        return ""
    if found.low is None or found.high is None:
        return f"{found.mean:+.3f}"
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"

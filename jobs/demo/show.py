"""Shows what runs have rendered: a table of their clips, and one picture with the photo and five frames of each clip.

`python -m jobs.demo.show OUT [OUT ...] --out SHEET.png` takes the newest run of each output location on this machine. The likeness
is measured with the run's own face pack. Clips of the same manifest row stand one below the other.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.table import Column, Table

from lynx_batch import exits, load_run_config, read_metadata, storage
from lynx_batch.cli.console import add_row, make_console, say, say_error
from lynx_batch.config import RunConfig
from lynx_batch.delivery.video import decode_mp4
from lynx_batch.errors import ConfigError, LynxError
from lynx_batch.inputs import read_photo_file
from lynx_batch.ledger.runs import read_runs
from lynx_batch.output import RUN_FILE, run_file_uri
from lynx_batch.preparation.model import locate_model
from lynx_batch.report.sheet import SheetRow, draw_sheet
from lynx_model.faces.likeness import choose_frames
from lynx_model.faces.photo import read_photo
from lynx_model.faces.reader import FaceReader
from lynx_model.scoring.likeness import LikenessScorer
from lynx_model.scoring.scores import LikenessScores

ABOUT_LIKENESS = (
    "likeness: the cosine between the face in the photo and in five frames of the clip, at most 1; "
    "two different people seldom score above 0.33"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """One row of the table and of the sheet. A clip without frames has a `fault`.

    `photo` is uint8 (H, W, 3), `frames` are the chosen ones, uint8 (F, H, W, 3). `variant` is full or lite.
    """

    row: int
    name: str
    variant: str
    prompt: str
    video: str = ""
    fault: str = ""
    photo: NDArray[np.uint8] | None = None
    frames: NDArray[np.uint8] | None = None
    likeness: LikenessScores | None = None

    @property
    def pictures(self) -> list[NDArray[np.uint8]]:
        """The photo and the frames, as far as there are any."""
        photo = () if self.photo is None else (self.photo,)
        return [*photo, *(() if self.frames is None else self.frames)]

    @property
    def result(self) -> str:
        """The likeness in words, or the fault."""
        if self.likeness is None:
            return self.fault
        if self.likeness.mean_found is None:
            return "no face in its frames"
        num_found = sum(cosine is not None for cosine in self.likeness.cosines)
        return f"{self.likeness.mean_found:.2f} in {num_found} of {len(self.likeness.cosines)} frames"


def find_clips(outputs: Sequence[str]) -> list[Shown]:
    """The clips of the newest run of each output location, by manifest row, then by location.

    Raises:
        ConfigError: If a location holds no run.
        MissingFile, WeightsMismatch: If a run's face pack is not there or damaged.
    """
    clips = [clip for output in outputs for clip in _read_newest_run(output)]
    return sorted(clips, key=lambda clip: clip.row)


def make_table(clips: Sequence[Shown]) -> Table:
    prompt, video = Column("prompt", no_wrap=True, max_width=28), Column("video or reason", overflow="fold")
    table = Table("clip", "variant", prompt, "likeness", video)
    for clip in clips:
        add_row(
            table, clip.name, clip.variant, clip.prompt, "" if clip.fault else clip.result, clip.video or clip.fault
        )
    return table


def make_sheet(clips: Sequence[Shown]) -> Image.Image:
    """One row per clip: photo, frames, text."""
    return draw_sheet([SheetRow(pictures=clip.pictures, paragraphs=_paragraphs(clip)) for clip in clips])


def _read_newest_run(output: str) -> Iterator[Shown]:
    runs = read_runs(output)
    if not runs:
        raise ConfigError(f"{output}: holds no run")
    run_id = runs[-1].run_id
    config = load_run_config(Path(run_file_uri(output, run_id, RUN_FILE)), {})
    variant = "full" if locate_model(config.model).ref_adapter else "lite"
    for row in read_metadata(output).to_pylist():
        if row["run"] == run_id:
            yield _show(output, config, variant, row)


def _show(output: str, config: RunConfig, variant: str, row: dict[str, Any]) -> Shown:
    name = str(row["clip_name"] or row["clip_id"] or f"row {row['row']}")
    told: dict[str, Any] = {"row": row["row"], "name": name, "variant": variant, "prompt": row["prompt"] or ""}
    if row["outcome"] != "rendered":
        return Shown(**told, fault=f"{row['outcome']}: {row['error'] or 'the run ended first'}")
    video, faces = storage.join(output, str(row["clip_uri"])), config.faces
    try:
        photo = read_photo(read_photo_file(str(row["subject_uri"]), config.inputs), is_parity=faces.parity)
        frames = decode_mp4(storage.read_bytes(video))
        reader = _load_reader(faces.pack, faces.identity, is_parity=faces.parity)
        shown = frames[choose_frames(len(frames))]
        found = LikenessScorer(reader=reader).compare(reader.read(photo, row["face_index"]), list(shown))
    except (LynxError, av.FFmpegError) as error:
        return Shown(**told, fault=f"cannot be shown: {error}")
    return Shown(**told, video=video, photo=photo, frames=shown, likeness=found)


@cache
def _load_reader(pack: str, identity: str, *, is_parity: bool) -> FaceReader:
    return FaceReader.load(pack, identity, is_parity=is_parity)


def _paragraphs(clip: Shown) -> list[str]:
    """The text beside a clip."""
    return [clip.name, f"Lynx-{clip.variant}", clip.fault or f"likeness: {clip.result}", "", clip.prompt]


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table and writes the sheet; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m jobs.demo.show", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("outputs", nargs="+", metavar="OUT", help="an output location on this machine")
    parser.add_argument("--out", type=Path, required=True, metavar="SHEET.png", help="the picture to write")
    options = parser.parse_args(arguments)
    try:
        clips = find_clips(options.outputs)
    except LynxError as error:
        say_error(error)
        return exits.FAULTY
    make_console().print(make_table(clips))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    make_sheet(clips).save(options.out)
    say(ABOUT_LIKENESS)
    say(f"contact sheet: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

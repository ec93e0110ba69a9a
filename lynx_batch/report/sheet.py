"""A contact sheet as one picture: each clip is a row with the photo, some frames, and a few lines of text."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, ImageOps

from lynx_batch import storage
from lynx_batch.delivery.label import builtin_font
from lynx_batch.delivery.video import decode_mp4
from lynx_batch.errors import LynxError
from lynx_batch.report.gather import RunFileFacts, RunRows, read_run_file
from lynx_batch.report.photos import shrink_photos
from lynx_batch.report.rows import ReportRow

CELL_PX, MARGIN_PX, TEXT_PX = 160, 8, 340
FONT_PX, LINE_PX, CHARS_A_LINE = 13, 16, 48
NUM_FRAMES = 5

MAX_CLIPS = 100
"""More would make a picture that few programs open: each clip takes 168 pixels of its height."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SheetRow:
    """A clip on the sheet: pictures, uint8 (H, W, 3), and paragraphs of text."""

    pictures: Sequence[NDArray[np.uint8]]
    paragraphs: Sequence[str]


def draw_sheet(rows: Sequence[SheetRow]) -> Image.Image:
    cells = [[_fit(picture) for picture in row.pictures] for row in rows]
    cell_px = max((cell.width for line in cells for cell in line), default=CELL_PX) + MARGIN_PX
    num_columns = max((len(line) for line in cells), default=0)
    text_left = MARGIN_PX + num_columns * cell_px
    row_px = CELL_PX + MARGIN_PX
    sheet = Image.new("RGB", (text_left + TEXT_PX, MARGIN_PX + len(rows) * row_px), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.truetype(BytesIO(builtin_font()), FONT_PX)
    for index, (row, line) in enumerate(zip(rows, cells, strict=True)):
        top = MARGIN_PX + index * row_px
        for column, cell in enumerate(line):
            sheet.paste(cell, (MARGIN_PX + column * cell_px, top))
        for number, text in enumerate(_lines(row.paragraphs)):
            draw.text((text_left, top + number * LINE_PX), text, fill="black", font=font)
    return sheet


def sheet_of_run(output: str, run_id: str, notes: Mapping[int, str]) -> bytes:
    """The sheet of a run as a PNG, of at most `MAX_CLIPS` clips that were rendered. `notes` are lines to add, by row.

    Photos are left out where the report would leave them out.

    Raises:
        StoreRefused, StoreUnavailable: If the store does not let us read the run.
    """
    rows = RunRows(output, run_id, datetime.now(UTC)).shown(MAX_CLIPS)
    photos = _read_photos(rows, read_run_file(output, run_id))
    sheet = draw_sheet([_show(output, row, photos, notes.get(row.row, "")) for row in rows])
    file = BytesIO()
    sheet.save(file, "PNG")
    return file.getvalue()


def _read_photos(rows: Iterable[ReportRow], run_file: RunFileFacts) -> dict[str, NDArray[np.uint8]]:
    """The small photos by their hashes."""
    wanted = {row.photo_sha256: row.photo_uri for row in rows if row.may_show_photo and run_file.report.photos}
    shrunk = shrink_photos([(uri, sha256) for sha256, uri in wanted.items()], run_file.inputs)
    return {sha256: np.asarray(Image.open(BytesIO(jpeg))) for sha256, jpeg in shrunk}


def _show(output: str, row: ReportRow, photos: Mapping[str, NDArray[np.uint8]], note: str) -> SheetRow:
    """Another row of the same person may show the photo, while this one must not."""
    photo = photos.get(row.photo_sha256) if row.may_show_photo else None
    frames, fault = _read_frames(output, row)
    result = fault if row.likeness is None or fault else f"likeness {row.likeness:.2f}"
    paragraphs = [text for text in (row.name, result, row.prompt, note) if text]
    return SheetRow(pictures=[*([] if photo is None else [photo]), *frames], paragraphs=paragraphs)


def _read_frames(output: str, row: ReportRow) -> tuple[Sequence[NDArray[np.uint8]], str]:
    """Some frames at even distances, or why there are none."""
    if not row.clip_uri:
        return [], f"{row.outcome}: {row.reason or 'the run ended first'}"
    try:
        frames = decode_mp4(storage.read_bytes(storage.join(output, row.clip_uri)))
    except (LynxError, av.FFmpegError) as error:
        return [], f"cannot be shown: {error}"
    return [*frames[np.linspace(0, len(frames) - 1, NUM_FRAMES).astype(int)]], ""


def _fit(picture: NDArray[np.uint8]) -> Image.Image:
    """The picture at the height of a row; a tall photo keeps its shape."""
    return ImageOps.contain(Image.fromarray(picture), (CELL_PX * 2, CELL_PX))


def _lines(paragraphs: Iterable[str]) -> list[str]:
    """The text beside a clip, as many lines as the row is high."""
    lines = [line for paragraph in paragraphs for line in _wrap(paragraph) or [""]]
    return lines[: CELL_PX // LINE_PX]


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, CHARS_A_LINE if text.isascii() else CHARS_A_LINE // 2)  # Chinese characters are wide

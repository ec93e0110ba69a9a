"""The picture of a run's clips, from real videos of real photos; no model renders them."""

from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lynx_batch import storage
from lynx_batch.clip import ClipSpec
from lynx_batch.ledger.commits import commit
from lynx_batch.output import RUN_FILE, run_file_uri
from lynx_batch.rendering.tasks import Rendered, RenderTask
from lynx_batch.report.sheet import CELL_PX, MARGIN_PX, TEXT_PX, SheetRow, draw_sheet, sheet_of_run
from tests.builders import COLLINS, HOPPER, NOW, PARAMS, begin, deliver, make_clip, make_request, record

RED, NUM_FRAMES = np.array([200, 0, 0], np.uint8), 9


def clip_of(row: int, photo: Path, **changes: object) -> ClipSpec:
    request = make_request(PARAMS, row=row, subject_uri=str(photo), **changes)
    return make_clip(f"{row:02x}" * 8, request, photo_sha256=sha256(photo.read_bytes()).hexdigest())


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Red clips of two people; the second one's consent is over. The last row was not rendered."""
    output = str(tmp_path_factory.mktemp("out"))
    clips = [
        clip_of(0, COLLINS),
        clip_of(1, HOPPER, consent_expires_at=NOW - timedelta(days=1)),
        clip_of(2, HOPPER, subject_id="left"),
    ]
    recorder = begin(output, "run", clips)
    for clip in clips[:2]:
        frames = np.broadcast_to(RED, (NUM_FRAMES, 160, 160, 3))
        stored = deliver(frames, output=output, clip_id=clip.clip_id, attempt="run-1")
        made = commit(output, record(clip.clip_id).model_copy(update={"clip_uri": stored.clip_uri}))
        recorder.rendered(
            RenderTask(clip=clip, attempt="run-1", min_plausible_s=0), "g", Rendered(commit=made, spans=()), attempts=1
        )
    recorder.close("")
    return output


def tops() -> range:
    """Where the three rows begin."""
    step = CELL_PX + MARGIN_PX
    return range(MARGIN_PX, 3 * step, step)


def cell(sheet: Image.Image, row: int, column: int) -> np.ndarray:
    left, top = (MARGIN_PX + index * (CELL_PX + MARGIN_PX) for index in (column, row))
    return np.asarray(sheet.crop((left, top, left + CELL_PX, top + CELL_PX))).astype(int)


def is_red(pixels: np.ndarray) -> bool:
    return bool(np.abs(pixels[20:-20, 20:-20] - RED).max() < 25)


def test_each_clip_is_shown_beside_its_photo_if_that_may_be_shown(output: str) -> None:
    sheet = Image.open(BytesIO(sheet_of_run(output, "run", {0: "first with subject a"})))
    assert sheet.format == "PNG"
    assert sheet.height == MARGIN_PX + 3 * (CELL_PX + MARGIN_PX)
    assert not is_red(cell(sheet, 0, 0)), "the photo"
    assert all(is_red(cell(sheet, 0, column)) for column in range(1, 6))
    assert all(is_red(cell(sheet, 1, column)) for column in range(5)), "no photo: the consent is over"
    assert not any(is_red(cell(sheet, 2, column)) for column in range(6))
    noted, plain, _ = (np.asarray(sheet)[top : top + CELL_PX, -TEXT_PX:] for top in tops())
    assert (noted < 100).sum() > (plain < 100).sum(), "the note"


def test_photos_are_left_out_if_the_run_file_says_so(output: str) -> None:
    uri = run_file_uri(output, "run", RUN_FILE)
    before = storage.read_bytes(uri)
    storage.write_bytes(uri, b"report: {photos: false}")
    sheet = Image.open(BytesIO(sheet_of_run(output, "run", {})))
    storage.write_bytes(uri, before)
    assert is_red(cell(sheet, 0, 0))


def test_text_never_leaves_its_row() -> None:
    row = SheetRow(pictures=[], paragraphs=["a word " * 200])
    sheet = np.asarray(draw_sheet([row, replace(row, paragraphs=[])]))
    assert sheet[: MARGIN_PX + CELL_PX].min() < 100
    assert sheet[2 * MARGIN_PX + CELL_PX :].min() == 255

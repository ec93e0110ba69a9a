"""What the demo shows at its end, on real videos of real photos; no model renders them."""

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs.demo.show import find_clips, main, make_sheet
from lynx_batch import storage
from lynx_batch.clip import ClipSpec, Rejection
from lynx_batch.errors import Fault
from lynx_batch.ledger.commits import commit
from lynx_batch.output import RUN_FILE, run_file_uri
from lynx_batch.planning.schedule import ClipState
from lynx_batch.rendering.tasks import Failed, Rendered, RenderTask
from lynx_batch.report.sheet import CELL_PX, MARGIN_PX
from lynx_model.spec import RenderParams
from tests.builders import COLLINS, HOPPER, NOW, begin, deliver, make_clip, make_request, record, write_run
from tests.models import MODEL

SIDE_PX, NUM_FRAMES = 160, 9


@pytest.fixture
def outputs(tmp_path: Path, face_pack: Path) -> list[str]:
    """Full rendered Collins' clip well and failed at Hopper's; lite rendered Collins as Hopper and nobody for Hopper."""
    full, lite = str(tmp_path / "full"), str(tmp_path / "lite")
    write(full, face_pack, "lynx_full", {"aa11": picture(COLLINS), "bb22": None})
    write(lite, face_pack, "lynx_lite", {"cc33": picture(HOPPER), "dd44": np.full((SIDE_PX, SIDE_PX, 3), 90, np.uint8)})
    return [full, lite]


def picture(photo: Path) -> np.ndarray:
    """The upper half of a portrait, small."""
    portrait = Image.open(photo).convert("RGB")
    return np.array(portrait.crop((0, 0, portrait.width, portrait.width)).resize((SIDE_PX, SIDE_PX)))


def write(output: str, face_pack: Path, adapters: str, pictures: dict[str, np.ndarray | None]) -> None:
    """A run whose clips show these pictures; None is a clip that failed. Its last row never became a clip."""
    clips = [clip_of(row, name) for row, name in enumerate(pictures)]
    rejection = Rejection(row=2, error_type="InvalidRow", error="width=1: must be even", inputs={"prompt": "Hi."})
    recorder = begin(output, "run", clips, [rejection])
    model = {"base": str(MODEL / "base"), "adapters": str(MODEL / adapters)}
    run_file = write_run(Path(output), face_pack, model=model)
    storage.write_bytes(run_file_uri(output, "run", RUN_FILE), run_file.read_bytes())
    for clip, shown in zip(clips, pictures.values(), strict=True):
        task = RenderTask(clip=clip, attempt="run-1", min_plausible_s=0)
        if shown is None:
            failed = Failed(error_type="OutOfMemory", error="too big", fault=Fault.CLIP)
            recorder.failed(task, "g", failed, ClipState.FAILED, attempts=3, deaths=0)
        else:
            recorder.rendered(task, "g", render(output, clip.clip_id, shown), attempts=1)
    recorder.close("")


def clip_of(row: int, clip_id: str) -> ClipSpec:
    photo = (COLLINS, HOPPER)[row]
    params = RenderParams(prompt="A person waves.", width=SIDE_PX, height=SIDE_PX, num_frames=NUM_FRAMES, seed=1)
    request = make_request(params, row=row, subject_uri=str(photo), clip_name=f"{photo.stem}-p01")
    return make_clip(clip_id, request, photo_sha256="1" * 64)


def render(output: str, clip_id: str, shown: np.ndarray) -> Rendered:
    delivered = deliver(np.stack([shown] * NUM_FRAMES), output=output, clip_id=clip_id, attempt="run-1", fps=16, crf=18)
    changes = {"clip_uri": delivered.clip_uri, "committed_at": NOW + timedelta(minutes=1)}
    return Rendered(commit=commit(output, record(clip_id).model_copy(update=changes)), spans=())


def test_each_clip_is_compared_with_its_photo(outputs: list[str]) -> None:
    clips = find_clips(outputs)
    assert [(clip.row, clip.name, clip.variant) for clip in clips] == [
        (0, "eileen-collins-p01", "full"),
        (0, "eileen-collins-p01", "lite"),
        (1, "grace-hopper-p01", "full"),
        (1, "grace-hopper-p01", "lite"),
        (2, "row 2", "full"),
        (2, "row 2", "lite"),
    ]
    own, other, failed, nobody, *rejected = clips
    assert own.likeness.mean > 0.7
    assert own.result.endswith(" in 5 of 5 frames")
    assert other.likeness.mean < 0.4
    assert (failed.result, failed.pictures) == ("failed: too big", [])
    assert (nobody.result, len(nobody.pictures)) == ("no face in its frames", 6)
    assert {clip.result for clip in rejected} == {"rejected: width=1: must be even"}


def test_the_sheet_has_a_row_for_each_clip(outputs: list[str]) -> None:
    clips = find_clips(outputs)
    sheet = make_sheet(clips)
    assert sheet.height == MARGIN_PX + len(clips) * (CELL_PX + MARGIN_PX)
    assert np.asarray(sheet)[:, -60:].min() == 255, "the text ends before the picture does"
    first = np.asarray(sheet)[MARGIN_PX : MARGIN_PX + CELL_PX]
    failed = np.asarray(sheet)[MARGIN_PX + 2 * (CELL_PX + MARGIN_PX) :][:CELL_PX]
    assert (first < 250).any(axis=(0, 2)).sum() > 5 * CELL_PX
    assert (failed < 250).any(axis=(0, 2)).sum() < 2 * CELL_PX, "text alone"


def test_it_ends_with_the_table_and_the_sheet(
    outputs: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sheet = tmp_path / "new" / "sheet.png"
    assert main([*outputs, "--out", str(sheet)]) == 0
    told = capsys.readouterr().out
    assert told.splitlines()[-1] == f"contact sheet: {sheet}"
    assert told.count("eileen-collins-p01") == 2
    assert "failed: too big" in told
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"


def test_a_video_that_is_damaged_or_gone_is_told(outputs: list[str]) -> None:
    own, other, *_ = find_clips(outputs)
    Path(own.video).write_bytes(b"no video")
    Path(other.video).unlink()
    damaged, gone, *_ = find_clips(outputs)
    assert damaged.fault.startswith("cannot be shown: ")
    assert gone.fault.startswith("cannot be shown: ")
    assert "does not exist" in gone.fault


def test_a_place_without_a_run_is_a_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "--out", str(tmp_path / "sheet.png")]) == 2
    assert "holds no run" in capsys.readouterr().err

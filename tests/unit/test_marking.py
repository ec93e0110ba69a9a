"""A video is marked as made by AI, and other programs can read the marks."""

import hashlib
import io
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import av
import c2pa
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from lynx_batch.clip import ClipSpec, StoredClip
from lynx_batch.config import ProvenanceConfig, QualityConfig, VideoConfig
from lynx_batch.delivery.deliver import EncodedClip, finish, upload
from lynx_batch.delivery.inspect import find_faults
from lynx_batch.delivery.marker import Marker, check_provenance
from lynx_batch.delivery.preview import MAX_BYTES, encode_preview
from lynx_batch.delivery.video import decode_mp4
from lynx_batch.errors import NotMarked
from lynx_batch.ledger.tries import TryRecord, decide_by_tries, record_try
from lynx_batch.planning.verdict import Accept, Render
from lynx_model.spec import RenderParams
from tests.builders import HOPPER, IDENTITY, NOW, make_clip, make_request, record

WIDTH, HEIGHT, FPS = 320, 192, 8
CLIP_ID = "ab12" * 8
PARAMS = RenderParams(prompt="她微笑着 at the sea.", width=WIDTH, height=HEIGHT, num_frames=25, fps=FPS, seed=11)
AIGC = {"content_producer": "Example Ltd."}
DEVELOPMENT = {"certificates": "development"}


@pytest.fixture(scope="module")
def frames() -> NDArray[np.uint8]:
    """A camera that moves over a photo."""
    with Image.open(HOPPER) as photo:
        pixels = np.asarray(photo.convert("RGB").resize((WIDTH + 25, HEIGHT + 25)))
    return np.stack([pixels[place : place + HEIGHT, place : place + WIDTH] for place in range(25)])


@pytest.fixture(scope="module")
def clip() -> ClipSpec:
    request = make_request(
        PARAMS, subject_id="Ada Lovelace", clip_name="birthday/ada", consent_ref="CRM-17", subject_uri="/photos/ada.jpg"
    )
    return make_clip(CLIP_ID, request, photo_sha256="1" * 64)


@pytest.fixture
def mark(frames: NDArray[np.uint8], clip: ClipSpec) -> Callable[..., EncodedClip]:
    """The files of a clip that is marked as `provenance` says."""

    def make(video: VideoConfig | None = None, **provenance: object) -> EncodedClip:
        config = ProvenanceConfig.model_validate({"marking": "required", **provenance})
        return finish(frames, clip, PARAMS, identity=IDENTITY, video=video or VideoConfig(), marker=Marker(config))

    return make


def tags_of(content: bytes) -> dict[str, str]:
    with av.open(io.BytesIO(content)) as video:
        return dict(video.metadata)


def report_of(content: bytes) -> dict[str, object]:
    with c2pa.Reader("video/mp4", io.BytesIO(content)) as reader:
        return json.loads(reader.json())


def differs(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.abs(one.astype(int) - other).mean(axis=-1)


# Tags


def test_the_aigc_key_and_the_clip_id_can_be_read(mark: Callable[..., EncodedClip], tmp_path: Path) -> None:
    marked = mark(aigc={**AIGC, "content_propagator": "Shop", "propagate_id": "7"}, c2pa=DEVELOPMENT)
    tags = tags_of(marked.video)
    assert json.loads(tags["AIGC"]) == {
        "Label": "1",
        "ContentProducer": "Example Ltd.",
        "ProduceID": CLIP_ID,
        "ReservedCode1": "",
        "ContentPropagator": "Shop",
        "PropagateID": "7",
        "ReservedCode2": "",
    }
    assert (tags["ClipId"], tags["title"]) == (CLIP_ID, f"Clip {CLIP_ID}")
    assert marked.marks == ("tags", "aigc", "c2pa")
    if ffprobe := shutil.which("ffprobe"):
        (tmp_path / "clip.mp4").write_bytes(marked.video)
        command = [ffprobe, "-v", "error", "-of", "json", "-show_entries", "format_tags", str(tmp_path / "clip.mp4")]
        found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["format"]["tags"]
        assert (found["AIGC"], found["ClipId"]) == (tags["AIGC"], CLIP_ID)


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("none", {}),
        ("id", {"ClipId": CLIP_ID, "title": f"Clip {CLIP_ID}"}),
        ("all", {"ClipId": CLIP_ID, "title": "birthday/ada", "prompt": PARAMS.prompt, "seed": "11"}),
    ],
)
def test_tags_say_what_the_run_file_asks_for(
    mark: Callable[..., EncodedClip], which: str, expected: dict[str, str]
) -> None:
    marked = mark(VideoConfig(tags=which), marking="none")
    own = {"major_brand", "minor_version", "compatible_brands", "encoder"}
    assert {name: value for name, value in tags_of(marked.video).items() if name not in own} == expected
    assert marked.marks == (("tags",) if expected else ())


# The label


@pytest.mark.parametrize("corner", ["top-left", "top-right", "bottom-left", "bottom-right"])
def test_a_label_is_in_its_corner_and_nowhere_else(
    mark: Callable[..., EncodedClip], frames: NDArray[np.uint8], corner: str
) -> None:
    shown = decode_mp4(mark(VideoConfig(crf=5), label={"text": "AI", "corner": corner}).video)
    changed = differs(shown, frames).mean(axis=0) > 20
    rows, columns = np.nonzero(changed)
    assert changed.sum() > 100
    assert (rows < HEIGHT / 2).all() if corner.startswith("top") else (rows >= HEIGHT / 2).all()
    assert (columns < WIDTH / 2).all() if corner.endswith("left") else (columns >= WIDTH / 2).all()


def test_a_label_of_two_seconds_ends_after_them_but_stays_on_the_poster_and_the_preview(
    mark: Callable[..., EncodedClip], frames: NDArray[np.uint8]
) -> None:
    label = {"text": "AI-generated", "seconds": 2}
    marked = mark(VideoConfig(crf=5, preview="webp"), label=label)
    corner = differs(decode_mp4(marked.video), frames)[:, -30:, -100:].mean(axis=(1, 2))
    assert (corner[: 2 * FPS] > 20).all()
    assert (corner[2 * FPS :] < 5).all()
    with Image.open(io.BytesIO(marked.poster)) as poster:
        assert differs(np.asarray(poster), frames[12])[-30:, -100:].mean() > 20
    with Image.open(io.BytesIO(marked.preview)) as preview:
        preview.seek(preview.n_frames - 1)
        assert differs(np.asarray(preview.convert("RGB")), frames[24])[-30:, -100:].mean() > 20


@pytest.mark.parametrize("text", ["H", "本视频由人工智能生成", "この動画はAIで生成されました", "AI로 생성된 영상"])
@pytest.mark.parametrize("share", [0.05, 0.08])
def test_a_label_in_any_of_these_scripts_is_high_enough_and_no_row_of_boxes(text: str, share: float) -> None:
    grey = np.full((1, 480, 832, 3), 90, np.uint8)
    marker = Marker(ProvenanceConfig(marking="required", label={"text": text, "height": share}))
    labelled = marker.mark_frames(grey, CLIP_ID, fps=16, has_preview=False, marks=NoLog())[0]
    rows, columns = np.nonzero(labelled[0, ..., 0] > 180)
    assert np.ptp(rows) + 1 >= share * 480
    ink = labelled[0, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1, 0] > 180
    assert len({part.tobytes() for part in np.array_split(ink, len(text), axis=1)}) == len(text)


class NoLog:
    """A log that lets every error through."""

    failed: dict[str, str] = {}  # noqa: RUF012

    def trying(self, mark: str) -> "NoLog":
        return self

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


def test_a_logo_keeps_its_shape_and_its_transparency(mark: Callable[..., EncodedClip], tmp_path: Path) -> None:
    logo = np.zeros((40, 80, 4), np.uint8)
    logo[:, :40] = (255, 0, 0, 255)
    Image.fromarray(logo).save(tmp_path / "logo.png")
    label = {"logo": str(tmp_path / "logo.png"), "height": 0.25, "corner": "top-left"}
    shown = decode_mp4(mark(VideoConfig(crf=5), label=label).video)
    plain = decode_mp4(mark(VideoConfig(crf=5), marking="none").video)
    margin, height = 24, 48
    inside = slice(margin + 6, margin + height - 6)
    assert np.abs(shown[0, inside, margin + 6 : margin + 42].astype(int) - (255, 0, 0)).mean() < 12
    assert differs(shown[0], plain[0])[inside, margin + 54 : margin + 90].mean() < 4


def write(file: Path, content: bytes) -> str:
    file.write_bytes(content)
    return str(file)


def png(picture: Image.Image, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    picture.save(file, format=kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("label", "fault"),
    [
        ({"text": "สร้างโดย AI"}, "the built-in font lacks 'สร้างโดย'"),
        ({"text": "AI", "font": "no.ttf"}, "provenance.label.font='no.ttf': does not exist"),
        ({"text": "AI", "font": "text.txt"}, "must be a TrueType or OpenType font"),
        ({"text": "AI-generated, every single pixel of it, says this text"}, "of 320x192 pixels; shorten it"),
        ({"logo": "no.png"}, "provenance.label.logo='no.png': does not exist"),
        ({"logo": "text.txt"}, "must be a PNG file"),
        ({"logo": "photo.jpg"}, "must be a PNG file"),
        ({"logo": "clear.png"}, "must not be transparent everywhere"),
        ({"logo": "wide.png"}, "of 320x192 pixels; shorten it"),
        ({"logo": "line.png"}, "must be at most 50 times as wide as high, not 900x2"),
    ],
    ids=str,
)
def test_an_unfit_label_is_an_error_before_anything_is_rendered(
    label: dict[str, str], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "text.txt", b"no picture, no font")
    write(tmp_path / "photo.jpg", HOPPER.read_bytes())
    write(tmp_path / "clear.png", png(Image.new("RGBA", (8, 8))))
    write(tmp_path / "wide.png", png(Image.new("RGB", (900, 20))))
    write(tmp_path / "line.png", png(Image.new("RGB", (900, 2))))
    config = ProvenanceConfig(marking="try", label=label)
    with pytest.raises(Exception, match=r"provenance\.label") as error:
        check_provenance(config, [(WIDTH, HEIGHT)])
    assert fault in str(error.value)


# C2PA


def test_the_signature_says_how_the_clip_was_made_and_nothing_about_a_person(mark: Callable[..., EncodedClip]) -> None:
    marked = mark(c2pa=DEVELOPMENT, label={"text": "AI"})
    report = report_of(marked.video)
    assert report["validation_state"] == "Valid"
    assert [status["code"] for status in report["validation_status"]] == ["signingCredential.untrusted"]
    manifest = report["manifests"][report["active_manifest"]]
    data = {assertion["label"]: assertion["data"] for assertion in manifest["assertions"]}
    (created,) = data["c2pa.actions.v2"]["actions"]
    assert created["action"] == "c2pa.created"
    assert created["digitalSourceType"].endswith("/digitalsourcetype/trainedAlgorithmicMedia")
    assert data["org.lynx-batch.clip"] == {
        "clip_id": CLIP_ID,
        "model": {"base": "b", "id_adapter": "a"},
        "consent_ref_sha256": hashlib.sha256(b"CRM-17").hexdigest(),
    }
    assert "development certificate" in manifest["signature_info"]["common_name"]
    for secret in ("Lovelace", "CRM-17", "birthday", PARAMS.prompt, "她微笑着"):
        assert secret.encode() not in marked.video
        assert secret not in json.dumps(report, ensure_ascii=False)


def test_any_changed_byte_of_a_signed_video_shows(mark: Callable[..., EncodedClip]) -> None:
    content = bytearray(mark(c2pa=DEVELOPMENT).video)
    content[-30] ^= 1
    assert "assertion.bmffHash.mismatch" in str(report_of(bytes(content))["validation_status"])


# Marks that fail


def test_a_required_mark_that_fails_fails_the_attempt(
    mark: Callable[..., EncodedClip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lynx_batch.delivery.marker.NUM_SIGNING_TRIES", 1)
    with pytest.raises(NotMarked, match=r"^c2pa: .*127\.0\.0\.1"):
        mark(c2pa={**DEVELOPMENT, "time_stamp_url": "http://127.0.0.1:9/"})


def test_a_mark_that_is_only_tried_leaves_its_reason(
    mark: Callable[..., EncodedClip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lynx_batch.delivery.marker.NUM_SIGNING_TRIES", 1)
    marked = mark(marking="try", aigc=AIGC, c2pa={**DEVELOPMENT, "time_stamp_url": "http://127.0.0.1:9/"})
    assert marked.marks == ("tags", "aigc")
    assert list(marked.failed_marks) == ["c2pa"]
    assert "127.0.0.1" in marked.failed_marks["c2pa"]


# The delivered files


@pytest.fixture
def deliver(mark: Callable[..., EncodedClip], tmp_path: Path) -> Callable[..., StoredClip]:
    def make(**provenance: object) -> StoredClip:
        encoded = mark(VideoConfig(preview="gif"), **provenance)
        stored = encoded.stored_as(CLIP_ID, "run-1a")
        upload(encoded, stored, output=str(tmp_path))
        return stored

    return make


def test_a_marked_clip_passes_verification_and_a_tampered_one_does_not(
    deliver: Callable[..., StoredClip], tmp_path: Path
) -> None:
    stored = deliver(aigc=AIGC, c2pa=DEVELOPMENT)
    assert find_faults(str(tmp_path), CLIP_ID, stored) == []

    file = tmp_path / stored.clip_uri
    content = bytearray(file.read_bytes())
    content[-30] ^= 1
    file.write_bytes(content)
    faults = "; ".join(find_faults(str(tmp_path), CLIP_ID, stored))
    assert "sha256=" in faults
    assert "c2pa: assertion.bmffHash.mismatch" in faults


def test_a_mark_that_the_commit_names_but_the_video_lacks_is_a_fault(
    deliver: Callable[..., StoredClip], tmp_path: Path
) -> None:
    stored = replace(deliver(marking="none"), marks=("tags", "aigc", "c2pa"))
    faults = find_faults(str(tmp_path), CLIP_ID, stored)
    assert [fault.partition(":")[0] for fault in faults] == ["tag AIGC=None", "c2pa"]
    (tmp_path / stored.preview_uri).unlink()
    faults = find_faults(str(tmp_path), "ffff", replace(stored, marks=("tags",)))
    assert faults == [f"{stored.preview_uri}: does not exist", f"tag ClipId='{CLIP_ID}': must be ffff"]


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_a_preview_is_small_and_moves(kind: str, frames: NDArray[np.uint8]) -> None:
    large = np.asarray(Image.fromarray(frames[0]).resize((832, 480)))
    moving = np.stack([np.roll(large, 2 * place, axis=1) for place in range(33)])
    content = encode_preview(moving, fps=16, kind=kind)
    assert len(content) <= MAX_BYTES
    with Image.open(io.BytesIO(content)) as preview:
        assert preview.format == kind.upper()
        assert 240 <= max(preview.size) <= 480
        assert (preview.n_frames > 8, preview.info["loop"]) == (True, 0)
        preview.load()
        assert preview.info["duration"] * preview.n_frames == pytest.approx(33 / 16 * 1000, rel=0.1)


def test_a_kept_try_without_the_required_marks_is_rendered_again(
    deliver: Callable[..., StoredClip], clip: ClipSpec, tmp_path: Path
) -> None:
    """A later run may ask for marks that an earlier one did not; what that one kept may not be committed as it is."""
    output = str(tmp_path)
    commit = record(CLIP_ID).model_copy(update=asdict(deliver(aigc=AIGC)))
    kept = TryRecord(
        clip_id=CLIP_ID, edition=1, number=0, judged_at=NOW, scores={"likeness_p10": 0.5}, scorers={}, commit=commit
    )
    record_try(output, kept, is_store_safe=True)
    rules = QualityConfig(likeness={"min_p10": 0.3}, technical=False)
    lacking, enough = (
        decide_by_tries(output, clip, 1, rules, required_marks=frozenset(marks))[0]
        for marks in ({"aigc", "c2pa"}, {"aigc"})
    )
    assert (lacking, enough) == (Render(0), Accept(0))

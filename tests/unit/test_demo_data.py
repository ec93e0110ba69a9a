"""The data of the demo's training recipe: prompts, people, scenes and the recogniser."""

import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jobs.demo.training import axes, mattes, people, places, portraits, prompts, scenes, sface
from jobs.demo.training.prepare import SEGMENTER
from lynx_model.errors import WeightsMismatch
from lynx_model.faces import align
from lynx_model.faces.reader import FaceReader
from lynx_model.tokenizer import Tokenizer
from tests.builders import SUBJECTS
from tests.models import BASE, ROOT

Base = tuple[Path, list[list[str]], list[list[str]], int]


@pytest.fixture(scope="module")
def reader(face_pack: Path) -> FaceReader:
    return FaceReader.load(str(face_pack), "pack")


@pytest.fixture(scope="module")
def segmenter() -> mattes.Segmenter:
    return mattes.Segmenter.load(mattes.fetch_segmenter(ROOT / SEGMENTER))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Portraits of the demo's two people; one of them is only for judging."""
    folder = tmp_path_factory.mktemp("portraits")
    for file in SUBJECTS.glob("*.jpg"):
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / portraits.HELD_OUT_FILE).write_text("grace-hopper\n")
    return folder


@pytest.fixture(scope="module")
def gallery(folder: Path, reader: FaceReader, segmenter: mattes.Segmenter) -> portraits.Gallery:
    return portraits.read_portraits(folder, reader, segmenter)


@pytest.fixture(scope="module")
def two(gallery: portraits.Gallery, tmp_path_factory: pytest.TempPathFactory) -> people.People:
    file = tmp_path_factory.mktemp("people") / "people.npz"
    people.save_people(file, gallery.portraits)
    return people.load_people(file)


@pytest.fixture(scope="module")
def grey() -> torch.Tensor:
    return torch.full((2, 3, 384, 384), 128, dtype=torch.uint8)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    """Folder of a base model with a tokenizer for some prompts, the prompts, and those for judging."""
    base, rng = tmp_path_factory.mktemp("base"), random.Random(1)
    seen, unseen = prompts.write_all(3, rng), prompts.write_all(3, rng, unseen=True)
    num = prompts.build_tokenizer(BASE / "tokenizer", base / "tokenizer", [text for texts in seen for text in texts])
    return base, seen, unseen, num


def test_no_prompt_has_unknown_pieces(base: Base) -> None:
    folder, seen, unseen, num = base
    table = prompts.tokenize_all(folder, seen, unseen, num)
    unknown = 2
    assert not any((ids == unknown).any() for ids in (table.seen, table.unseen, table.special))
    assert table.seen.shape == (960, 3, prompts.NUM_COLUMNS)
    assert num <= prompts.MAX_PIECES


def test_ids_are_those_of_the_projects_tokenizer(base: Base) -> None:
    folder, seen, _, _ = base
    texts = [text for texts in seen[::50] for text in texts]
    table = prompts.tokenize(folder, texts, prompts.NUM_COLUMNS)
    expected = Tokenizer.load(folder).read(texts)
    assert [tuple(number for number in row if number) for row in table.tolist()] == expected


def test_a_text_that_is_too_long_is_named(base: Base) -> None:
    with pytest.raises(ValueError, match="a a a"):
        prompts.tokenize(base[0], ["a " * 100], prompts.NUM_COLUMNS)


def test_prompts_for_judging_are_not_among_the_training_prompts(base: Base) -> None:
    _, seen, unseen, _ = base
    assert not {text for texts in seen for text in texts} & {text for texts in unseen for text in texts}


def test_every_value_has_phrases() -> None:
    for language in (prompts.ENGLISH, prompts.CHINESE, prompts.UNSEEN_ENGLISH, prompts.UNSEEN_CHINESE):
        assert [tuple(phrases) for phrases in language[:4]] == list(axes.AXES)


def test_the_portrait_for_judging_is_marked(two: people.People) -> None:
    assert dict(zip(two.names, two.is_held_out.tolist(), strict=True)) == {
        "eileen-collins": False,
        "grace-hopper": True,
    }
    assert [len(part) for part in two.split()] == [1, 1]


def test_landmarks_of_an_aligned_portrait_are_in_their_usual_place(gallery: portraits.Gallery) -> None:
    for portrait in gallery.portraits:
        assert np.abs(portrait.landmarks - portraits.FFHQ_LANDMARKS).max() < portraits.MAX_DEVIATION_PX


def test_mattes_hold_the_face_and_leave_the_corners(gallery: portraits.Gallery) -> None:
    for portrait in gallery.portraits:
        x, y = portrait.landmarks.mean(0).astype(int)
        assert portrait.matte[y, x] == 255
        assert portrait.matte[:8, :8].max() == portrait.matte[:8, -8:].max() == 0
        assert 0.3 < portrait.matte.mean() / 255 < 0.8
        assert portrait.doubt < 0.1


def test_a_wheel_with_another_segmenter_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "changed.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(mattes.SOURCE, b"changed")
    with pytest.raises(WeightsMismatch, match=r"changed\.whl.*sha256 must be 9ee168ec.*, found"):
        mattes.fetch_segmenter(tmp_path / "kept" / "network.tflite", wheel)
    assert list((tmp_path / "kept").iterdir()) == []
    with pytest.raises(WeightsMismatch, match=r"must be mediapipe==0\.10\.14 and hold"):
        mattes.fetch_segmenter(tmp_path / "kept" / "network.tflite", tmp_path / "none.whl")


def test_a_portrait_in_front_of_its_own_colours_is_in_doubt() -> None:
    unsure = np.full((256, 256), 0.5, np.float32)
    assert mattes.doubt(unsure) == 1
    assert mattes.doubt(np.zeros_like(unsure)) == mattes.doubt(np.ones_like(unsure)) == 0


def test_folders_without_portraits_are_refused(tmp_path: Path, reader: FaceReader, segmenter: mattes.Segmenter) -> None:
    with pytest.raises(portraits.BadPortraits, match="0 found"):
        portraits.read_portraits(tmp_path, reader, segmenter)
    Image.new("RGB", (256, 256)).save(tmp_path / "black.png")
    with pytest.raises(portraits.BadPortraits, match="black"):
        portraits.read_portraits(tmp_path, reader, segmenter)
    (tmp_path / portraits.HELD_OUT_FILE).write_text("nobody")
    with pytest.raises(portraits.BadPortraits, match="nobody"):
        portraits.read_portraits(tmp_path, reader, segmenter)


def test_a_second_picture_of_a_person_is_left_out(
    tmp_path: Path, reader: FaceReader, segmenter: mattes.Segmenter
) -> None:
    photo = Image.open(SUBJECTS / "eileen-collins.jpg")
    photo.save(tmp_path / "a.png")
    photo.rotate(3).save(tmp_path / "b.png")
    gallery = portraits.read_portraits(tmp_path, reader, segmenter)
    assert [portrait.name for portrait in gallery.portraits] == ["a"]
    assert "same person as a" in gallery.dropped["b"]


def test_mirrored_twice_is_the_same(two: people.People) -> None:
    again = people.mirrored(people.mirrored(two))
    assert again.canvases.equal(two.canvases)
    assert torch.allclose(again.landmarks, two.landmarks)


def test_morphs_lie_between_two_people(two: people.People) -> None:
    mixed = people.morphs(two, 3, torch.Generator().manual_seed(0))
    assert mixed.canvases.shape == (3, 4, 384, 384)
    low, high = two.landmarks.amin(0) - 1e-3, two.landmarks.amax(0) + 1e-3
    assert ((mixed.landmarks >= low) & (mixed.landmarks <= high)).all()
    assert not mixed.is_held_out.any()


@pytest.mark.parametrize(
    ("project", "targets", "size"),
    [
        (align.align_face_for_identity, scenes.IDENTITY_LANDMARKS, scenes.IDENTITY_PX),
        (align.align_face_for_reference, scenes.REFERENCE_LANDMARKS, scenes.REFERENCE_PX),
    ],
)
def test_alignment_agrees_with_the_project(
    two: people.People, project: Callable[..., np.ndarray], targets: torch.Tensor, size: int
) -> None:
    landmarks = two.landmarks + torch.tensor([3.0, -2.0])
    ours = scenes.align_faces(two.canvases[:, :3].float() / 127.5 - 1, landmarks, targets, size)
    for crop, canvas, points in zip(ours, two.canvases, landmarks, strict=True):
        theirs = project(canvas[:3].permute(1, 2, 0).contiguous().numpy(), points.numpy())
        difference = (crop.permute(1, 2, 0).numpy() + 1) * 127.5 - theirs
        assert np.abs(difference).max() < 1.01
        assert np.abs(difference).mean() < 0.3


def clips(
    two: people.People, grey: torch.Tensor, *, motion: str = "still", camera: str = "static", light: str = "neutral"
) -> tuple[torch.Tensor, torch.Tensor]:
    scene = [axes.MOTIONS.index(motion), 4, axes.CAMERAS.index(camera), axes.LIGHTS.index(light)]
    generator = torch.Generator().manual_seed(0)
    return scenes.draw_clips(
        two.canvases, two.landmarks, grey, torch.tensor([scene, scene]), num_frames=5, generator=generator
    )


def nose_turn(landmarks: torch.Tensor) -> torch.Tensor:
    """How far the nose moves from the first frame to the last, beside the middle of eyes and mouth, in pixels."""
    nose = landmarks[:, :, 2, 0] - landmarks[:, :, [0, 1, 3, 4], 0].mean(2)
    return nose[:, -1] - nose[:, 0]


def test_left_and_right_turn_opposite_ways(two: people.People, grey: torch.Tensor) -> None:
    assert (nose_turn(clips(two, grey, motion="left")[1]) < -1).all()
    assert (nose_turn(clips(two, grey, motion="right")[1]) > 1).all()


def test_a_still_clip_moves_little(two: people.People, grey: torch.Tensor) -> None:
    video, landmarks = clips(two, grey)
    assert video.shape == (2, 3, 5, 160, 160)
    assert (landmarks - landmarks[:, :1]).abs().max() < 1.5
    assert (video - video[:, :, :1]).abs().mean() < 0.02


@pytest.mark.parametrize(
    ("change", "grows"),
    [
        ({"motion": "approach"}, True),
        ({"motion": "recede"}, False),
        ({"camera": "zoom in"}, True),
        ({"camera": "zoom out"}, False),
    ],
)
def test_faces_grow_or_shrink(two: people.People, grey: torch.Tensor, change: dict[str, str], grows: bool) -> None:
    _, landmarks = clips(two, grey, **change)
    eyes = (landmarks[:, :, 1] - landmarks[:, :, 0]).norm(dim=-1)
    ratio = eyes[:, -1] / eyes[:, 0]
    assert (ratio > 1.15).all() if grows else (ratio < 0.87).all()


def test_a_camera_that_pans_left_moves_the_person_right(two: people.People, grey: torch.Tensor) -> None:
    _, left = clips(two, grey, camera="pan left")
    _, right = clips(two, grey, camera="pan right")
    assert (left[:, -1, :, 0] - left[:, 0, :, 0] > 10).all()
    assert (right[:, -1, :, 0] - right[:, 0, :, 0] < -10).all()


def blueness(clip: torch.Tensor) -> torch.Tensor:
    return clip[:, 2] - clip[:, 0]


def test_dim_light_is_darker_and_warm_light_redder(two: people.People, grey: torch.Tensor) -> None:
    neutral, dim, warm, cool = (clips(two, grey, light=light)[0] for light in ("neutral", "dim", "warm", "cool"))
    assert dim.mean() < neutral.mean() - 0.3
    assert (blueness(warm) - blueness(neutral)).mean() < -0.3
    assert (blueness(cool) - blueness(neutral)).mean() > 0.3


def test_a_dark_face_stays_visible_in_dim_light(two: people.People, grey: torch.Tensor) -> None:
    dark = two.select(torch.arange(2))  # a copy
    dark.canvases[:, :3] = (dark.canvases[:, :3].float() * 0.4).byte()
    neutral, dim = (clips(dark, grey, light=light) for light in ("neutral", "dim"))
    for index in range(2):
        x, y = neutral[1][index, 0, 2].long().tolist()
        face = (slice(None), 0, slice(y - 8, y + 8), slice(x - 8, x + 8))
        assert (dim[0][index][face] + 1).mean() > 0.95 * (neutral[0][index][face] + 1).mean()


def test_the_landmarks_of_a_turned_face_are_where_the_detector_sees_them(
    two: people.People, grey: torch.Tensor, reader: FaceReader
) -> None:
    video, landmarks = clips(two, grey, motion="left")
    for clip, points in zip(video, landmarks, strict=True):
        frame = ((clip[:, -1].permute(1, 2, 0) + 1) * 127.5).byte().numpy()
        boxes, found = reader.detector.detect(np.pad(frame[..., ::-1], ((80, 80), (80, 80), (0, 0))))
        assert len(boxes) == 1
        assert np.abs(found[0] - 80 - points[-1].numpy()).mean() < 4


def test_a_single_frame_is_as_a_frame_of_a_clip(two: people.People, grey: torch.Tensor) -> None:
    scene = torch.tensor([[0, 4, 0, 0]] * 2)
    frames, landmarks = scenes.draw_frames(two.canvases, two.landmarks, grey, scene)
    assert frames.shape == (2, 3, 1, 160, 160)
    assert landmarks.shape == (2, 1, 5, 2)


def test_photos_show_the_person(two: people.People, grey: torch.Tensor, reader: FaceReader) -> None:
    generator = torch.Generator().manual_seed(0)
    references, identities = scenes.draw_photos(two.canvases, two.landmarks, grey, generator=generator)
    assert references.shape == (2, 3, 256, 256)
    originals = scenes.align_faces(
        two.canvases[:, :3].float() / 127.5 - 1, two.landmarks, scenes.IDENTITY_LANDMARKS, 112
    )
    drawn, own = ([reader.embed(crop) for crop in as_crops(batch)] for batch in (identities, originals))
    assert min(float(a @ b) for a, b in zip(drawn, own, strict=True)) > 0.6


def as_crops(batch: torch.Tensor) -> np.ndarray:
    return ((batch + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().numpy()


def test_places_are_unlike_each_other(tmp_path: Path) -> None:
    places.save_places(tmp_path / "places.npz", 1)
    found = places.load_places(tmp_path / "places.npz")
    assert found.shape == (8, 1, 3, 384, 384)
    means = found.float().mean((1, 3, 4))
    forest = means[axes.PLACES.index("forest")]
    assert forest.argmax() == 1


def test_the_recogniser_agrees_with_onnxruntime(
    tmp_path: Path, face_pack: Path, reader: FaceReader, two: people.People
) -> None:
    sface.export_sface(face_pack / "rec_sface512.onnx", tmp_path / "sface.npz")
    assert (tmp_path / "sface.npz").stat().st_size < 12e6
    network = sface.load_sface(tmp_path / "sface.npz")
    crops = scenes.align_faces(two.canvases[:, :3].float() / 127.5 - 1, two.landmarks, scenes.IDENTITY_LANDMARKS, 112)
    crops.requires_grad_()
    embeddings, features = network(crops, taps=(3, network.num_prelus))
    expected = [reader.embed(crop) for crop in as_crops(crops.detach())]
    assert min(float(a @ b) for a, b in zip(embeddings.detach().numpy(), expected, strict=True)) > 0.9995
    assert len(features) == 2
    embeddings.sum().backward()
    assert crops.grad.abs().sum() > 0

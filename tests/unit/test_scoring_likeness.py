"""The likeness of a clip to a subject, on clips made of real photos, with the free face pack."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lynx_model.checkpoints.digests import hash_file
from lynx_model.errors import EncoderMismatch, InvalidParams
from lynx_model.faces.align import crop_for_identity
from lynx_model.faces.likeness import choose_frames, embed_frames
from lynx_model.faces.photo import read_photo
from lynx_model.faces.reader import FaceReader
from lynx_model.faces.upright import find_faces
from lynx_model.scoring.likeness import LikenessScorer
from lynx_model.spec import Subject
from tests.builders import COLLINS, HOPPER, make_subject
from tests.clips import as_conditioned

SIDE_PX = 160
SAME, OTHER = 0.85, 0.4
"""Measured here: at least 0.93 with oneself, at most 0.21 with the other."""

EMPTY = np.full((SIDE_PX, SIDE_PX, 3), 127, np.uint8)


@pytest.fixture(scope="module")
def reader(face_pack: Path) -> FaceReader:
    return FaceReader.load(str(face_pack), "pack")


@pytest.fixture(scope="module")
def scorer(reader: FaceReader) -> LikenessScorer:
    return LikenessScorer(reader=reader)


@pytest.fixture(scope="module")
def photos() -> dict[str, np.ndarray]:
    return {file.stem: read_photo(file.read_bytes()) for file in (COLLINS, HOPPER)}


@pytest.fixture(scope="module")
def subjects(reader: FaceReader, photos: dict[str, np.ndarray]) -> dict[str, Subject]:
    return {name: reader.read(photo) for name, photo in photos.items()}


def frame(reader: FaceReader, photo: np.ndarray, face_px: float, side_px: int = SIDE_PX) -> np.ndarray:
    """A square picture with the face in its middle, so that the face is `face_px` high."""
    (face,) = find_faces(reader.detector, photo)
    half = (face.box[3] - face.box[1]) * side_px / face_px / 2
    box = (*(face.centre - half), *(face.centre + half))
    return np.array(Image.fromarray(photo).crop(tuple(map(round, box))).resize((side_px, side_px)))


@pytest.mark.parametrize("person", ["eileen-collins", "grace-hopper"])
def test_a_clip_of_a_person_is_like_that_person_alone(
    scorer: LikenessScorer, photos: dict[str, np.ndarray], subjects: dict[str, Subject], person: str
) -> None:
    clip = [frame(scorer.reader, photos[person], face_px) for face_px in (50, 70, 90, 110, 140)]
    found = {name: scorer.compare(subject, clip) for name, subject in subjects.items()}
    own = found.pop(person)
    (other,) = found.values()
    assert own.face_share == other.face_share == 1
    assert own.minimum == min(c for c in own.cosines if c is not None)
    assert own.minimum > SAME
    assert all(c is not None and c < OTHER for c in other.cosines)
    assert own.mean == own.mean_found == pytest.approx(np.mean(own.cosines))
    assert own.face_px == pytest.approx(110, abs=20)  # the narrower side of a face 140 px high
    assert own.num_faces == 1


def test_a_frame_without_a_face_counts_as_unlike(
    scorer: LikenessScorer, photos: dict[str, np.ndarray], subjects: dict[str, Subject]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, EMPTY.shape, dtype=np.uint8)
    face, subject = frame(scorer.reader, photos["grace-hopper"], 80), subjects["grace-hopper"]
    found = scorer.compare(subject, [face, EMPTY, face, noise])
    assert found.face_share == 0.5
    assert [cosine is None for cosine in found.cosines] == [False, True, False, True]
    assert found.mean_found == found.cosines[0] == found.cosines[2]
    assert found.mean == pytest.approx(found.mean_found / 2)
    assert found.minimum == found.p10 == 0

    nobody = scorer.compare(subject, [EMPTY, noise])
    assert (nobody.mean, nobody.mean_found, nobody.face_share, nobody.face_px, nobody.num_faces) == (0, None, 0, 0, 0)


def test_a_likeness_that_fades_drifts(
    scorer: LikenessScorer, photos: dict[str, np.ndarray], subjects: dict[str, Subject]
) -> None:
    own, other = (frame(scorer.reader, photos[name], 90) for name in ("grace-hopper", "eileen-collins"))
    fading = scorer.compare(subjects["grace-hopper"], [own, own, other, other, other, other])
    assert fading.drift == pytest.approx(fading.cosines[0] - fading.cosines[-1])
    assert fading.drift > SAME - OTHER
    growing = scorer.compare(subjects["grace-hopper"], [EMPTY, own, own])
    assert growing.drift == pytest.approx(-growing.cosines[-1])


def test_the_lowest_tenth_is_interpolated(
    scorer: LikenessScorer, photos: dict[str, np.ndarray], subjects: dict[str, Subject]
) -> None:
    own = frame(scorer.reader, photos["grace-hopper"], 90)
    found = scorer.compare(subjects["grace-hopper"], [EMPTY, own, own])
    assert found.p10 == pytest.approx(0.2 * found.cosines[1])


def test_the_largest_face_counts(
    scorer: LikenessScorer, photos: dict[str, np.ndarray], subjects: dict[str, Subject]
) -> None:
    small, large = frame(scorer.reader, photos["eileen-collins"], 50), frame(scorer.reader, photos["grace-hopper"], 90)
    found = scorer.compare(subjects["grace-hopper"], [np.hstack([small, large])])
    assert found.mean > SAME
    assert found.num_faces == 2


def test_large_frames_are_read_as_well(
    scorer: LikenessScorer, photos: dict[str, np.ndarray], subjects: dict[str, Subject]
) -> None:
    large = frame(scorer.reader, photos["eileen-collins"], 300, side_px=480)
    assert scorer.compare(subjects["eileen-collins"], [large]).mean > SAME


@pytest.mark.parametrize("person", ["eileen-collins", "grace-hopper"])
def test_a_subject_of_another_encoder_is_read_from_the_aligned_face(
    scorer: LikenessScorer, photos: dict[str, np.ndarray], subjects: dict[str, Subject], person: str
) -> None:
    """Measured here: 0.998 and 0.995 to the embedding from the photo."""
    subject, clip = subjects[person], [frame(scorer.reader, photos[person], 110)]
    again = scorer.reader.embed(crop_for_identity(subject.aligned_face))
    assert again @ subject.face_embedding > 0.99
    found = scorer.compare(as_conditioned(subject), clip)
    assert found.mean == pytest.approx(scorer.compare(subject, clip).mean, abs=0.02)
    assert (found.scorer, found.is_independent) == ("sface-512", True)


def test_the_name_says_if_the_model_was_conditioned_on_the_same_encoder(
    scorer: LikenessScorer, photos: dict[str, np.ndarray], subjects: dict[str, Subject]
) -> None:
    clip = [frame(scorer.reader, photos["grace-hopper"], 110)]
    found = scorer.compare(subjects["grace-hopper"], clip)
    assert (found.scorer, found.is_independent) == ("sface-512-conditioned", False)


def test_the_files_are_those_of_the_face_pack(face_pack: Path) -> None:
    found = LikenessScorer.load(str(face_pack))
    assert found.name == "sface-512"
    assert sorted(found.files) == ["det_yunet.onnx", "rec_sface512.onnx"]
    assert found.files["det_yunet.onnx"] == hash_file(face_pack / "det_yunet.onnx").sha256


def test_embeddings_of_frames_can_be_compared_with_many_people(
    reader: FaceReader, photos: dict[str, np.ndarray], subjects: dict[str, Subject]
) -> None:
    clip = np.stack([frame(reader, photos["grace-hopper"], 80), EMPTY])
    found, missing = embed_frames(reader, clip)
    assert missing is None
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)
    gallery = np.stack([subject.face_embedding for subject in subjects.values()])
    assert list(subjects)[int(np.argmax(gallery @ found))] == "grace-hopper"


@pytest.mark.parametrize(
    ("num_all", "num_frames", "chosen"),
    [(17, 5, [0, 4, 8, 12, 16]), (81, 5, [0, 20, 40, 60, 80]), (3, 5, [0, 1, 2]), (1, 5, [0]), (9, 1, [0])],
)
def test_frames_are_chosen_at_equal_distances(num_all: int, num_frames: int, chosen: list[int]) -> None:
    assert choose_frames(num_all, num_frames) == chosen


def test_what_cannot_be_compared_is_refused(scorer: LikenessScorer) -> None:
    stranger = replace(make_subject(encoder="arcface-512"), aligned_face=None)
    with pytest.raises(
        EncoderMismatch, match=r"'arcface-512', but the scorer's is 'sface-512'; it must have an aligned"
    ):
        scorer.compare(stranger, [EMPTY])
    with pytest.raises(InvalidParams, match="frames=0: must be at least 1"):
        embed_frames(scorer.reader, EMPTY[None][:0])
    with pytest.raises(InvalidParams, match="num_frames=0: must be at least 1"):
        embed_frames(scorer.reader, EMPTY[None], num_frames=0)

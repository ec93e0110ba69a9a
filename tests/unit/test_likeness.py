"""The likeness of a clip to a subject, on clips made of real photos, with the free face pack."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lynx_model.errors import EncoderMismatch, InvalidParams
from lynx_model.faces.likeness import choose_frames, embed_frames, likeness
from lynx_model.faces.photo import read_photo
from lynx_model.faces.reader import FaceReader
from lynx_model.faces.upright import find_faces
from lynx_model.spec import Subject
from tests.builders import COLLINS, HOPPER, make_subject

SIDE_PX = 160
SAME, OTHER = 0.85, 0.4
"""Measured here: at least 0.93 with oneself, at most 0.21 with the other."""

EMPTY = np.full((SIDE_PX, SIDE_PX, 3), 127, np.uint8)


@pytest.fixture(scope="module")
def reader(face_pack: Path) -> FaceReader:
    return FaceReader.load(str(face_pack), "pack")


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
    reader: FaceReader, photos: dict[str, np.ndarray], subjects: dict[str, Subject], person: str
) -> None:
    sizes = (50, 70, 90, 110, 140)
    clip = np.stack([frame(reader, photos[person], face_px) for face_px in sizes])
    found = {name: likeness(reader, subject, clip) for name, subject in subjects.items()}
    own = found.pop(person)
    (other,) = found.values()
    assert own.share_found == other.share_found == 1
    assert min(map(float, own.cosines)) > SAME
    assert max(map(float, other.cosines)) < OTHER
    assert own.mean == pytest.approx(np.mean(own.cosines))


def test_frames_without_a_face_lower_the_share_but_not_the_mean(
    reader: FaceReader, photos: dict[str, np.ndarray], subjects: dict[str, Subject]
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, EMPTY.shape, dtype=np.uint8)
    face = frame(reader, photos["grace-hopper"], 80)
    found = likeness(reader, subjects["grace-hopper"], np.stack([face, EMPTY, face, noise]))
    assert found.share_found == 0.5
    assert [cosine is None for cosine in found.cosines] == [False, True, False, True]
    assert found.mean == found.cosines[0] == found.cosines[2]

    nobody = likeness(reader, subjects["grace-hopper"], np.stack([EMPTY, noise]))
    assert (nobody.mean, nobody.share_found) == (None, 0)


def test_the_largest_face_counts(
    reader: FaceReader, photos: dict[str, np.ndarray], subjects: dict[str, Subject]
) -> None:
    small, large = frame(reader, photos["eileen-collins"], 50), frame(reader, photos["grace-hopper"], 90)
    (cosine,) = likeness(reader, subjects["grace-hopper"], np.hstack([small, large])[None]).cosines
    assert cosine > SAME


def test_large_frames_are_read_as_well(
    reader: FaceReader, photos: dict[str, np.ndarray], subjects: dict[str, Subject]
) -> None:
    large = frame(reader, photos["eileen-collins"], 300, side_px=480)
    assert likeness(reader, subjects["eileen-collins"], large[None]).mean > SAME


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


def test_what_cannot_be_compared_is_refused(reader: FaceReader) -> None:
    clip = EMPTY[None]
    with pytest.raises(EncoderMismatch, match=r"'arcface-512', but the reader's is 'sface-512'"):
        likeness(reader, make_subject(encoder="arcface-512"), clip)
    with pytest.raises(InvalidParams, match="frames=0: must be at least 1"):
        likeness(reader, make_subject(), clip[:0])
    with pytest.raises(InvalidParams, match="num_frames=0: must be at least 1"):
        likeness(reader, make_subject(), clip, num_frames=0)

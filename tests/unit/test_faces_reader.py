"""FaceReader on real photos of two people, with the free face pack."""

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lynx_model.errors import DifferentPeople, FaceTooSmall, MissingFile, NoFaceFound, SeveralFaces, WeightsMismatch
from lynx_model.faces.arcface import ArcFaceIRSE50
from lynx_model.faces.detection import MIN_FACE_PX, DetectedFace
from lynx_model.faces.photo import read_photo
from lynx_model.faces.reader import FaceReader, choose_face
from lynx_model.faces.upright import find_faces
from tests.builders import COLLINS, HOPPER, SUBJECTS, cosine, side_by_side


@pytest.fixture(scope="module")
def reader(face_pack: Path) -> FaceReader:
    return FaceReader.load(str(face_pack), "pack")


@pytest.fixture(scope="module")
def collins() -> np.ndarray:
    return read_photo(COLLINS.read_bytes())


@pytest.fixture(scope="module")
def hopper() -> np.ndarray:
    return read_photo(HOPPER.read_bytes())


def shrink(image: np.ndarray, factor: float) -> np.ndarray:
    height, width = image.shape[:2]
    return np.array(Image.fromarray(image).resize((round(width * factor), round(height * factor))))


def face_box(reader: FaceReader, image: np.ndarray) -> list[int]:
    (face,) = find_faces(reader.detector, image)
    return face.box.astype(int).tolist()


@pytest.mark.parametrize("photo", sorted(SUBJECTS.glob("*.jpg")), ids=lambda photo: photo.stem)
def test_each_photo_of_the_demo_shows_one_usable_face(reader: FaceReader, photo: Path) -> None:
    (face,) = find_faces(reader.detector, read_photo(photo.read_bytes()))
    assert face.size_px >= MIN_FACE_PX


def test_a_photo_becomes_a_subject_that_names_its_encoder(reader: FaceReader, collins: np.ndarray) -> None:
    subject = reader.read(collins)
    assert subject.encoder == "sface-512"
    assert subject.face_embedding.dtype == np.float32
    assert subject.aligned_face is not None
    assert subject.aligned_face.shape == (256, 256, 3)


def test_two_people_differ_and_a_mirrored_person_does_not(
    reader: FaceReader, collins: np.ndarray, hopper: np.ndarray
) -> None:
    subject = reader.read(collins)
    assert cosine(subject, reader.read(hopper)) < 0.36
    assert cosine(subject, reader.read(np.ascontiguousarray(collins[:, ::-1]))) > 0.9


@pytest.mark.filterwarnings("ignore:`estimate` is deprecated:FutureWarning")
def test_embedding_and_landmarks_are_insightfaces_own(reader: FaceReader, face_pack: Path, collins: np.ndarray) -> None:
    from insightface.app import FaceAnalysis

    analysis = FaceAnalysis(name=str(face_pack), providers=["CPUExecutionProvider"])
    analysis.prepare(ctx_id=-1, det_size=(640, 640))
    (face,) = analysis.get(np.ascontiguousarray(collins[..., ::-1]))
    (found,) = find_faces(reader.detector, collins)
    assert np.array_equal(found.landmarks, face.kps)
    assert reader.read(collins).face_embedding @ face.normed_embedding > 0.9999


def test_parity_detects_in_the_wrong_channel_order_and_embeds_in_the_right_one(
    reader: FaceReader, face_pack: Path, collins: np.ndarray
) -> None:
    parity = FaceReader.load(str(face_pack), "pack", is_parity=True)
    (right,) = find_faces(reader.detector, collins)
    (wrong,) = find_faces(parity.detector, np.ascontiguousarray(collins[..., ::-1]))
    (as_original,) = find_faces(parity.detector, collins, is_parity=True)
    assert np.array_equal(as_original.landmarks, wrong.landmarks)
    assert 0 < np.abs(as_original.landmarks - right.landmarks).max() < 5
    assert cosine(parity.read(collins), reader.read(collins)) > 0.95


def test_a_face_that_fills_the_picture_is_found(reader: FaceReader, collins: np.ndarray) -> None:
    (face,) = find_faces(reader.detector, collins)
    left, top, right, bottom = face.box.astype(int)
    inset = (right - left) // 5
    filling = (
        np.ascontiguousarray(collins[top + inset : bottom - inset, left + inset : right - inset])
        .repeat(4, 0)
        .repeat(4, 1)
    )
    assert len(reader.detector.detect(np.ascontiguousarray(filling[..., ::-1]))[0]) == 0
    (found,) = find_faces(reader.detector, filling)
    back_in_photo = found.landmarks / 4 + (left + inset, top + inset)
    assert np.abs(back_in_photo - face.landmarks).max() < 0.1 * (right - left)
    assert cosine(reader.read(filling), reader.read(collins)) > 0.5


@pytest.mark.parametrize("shape", [(300, 400, 3), (1, 1, 3), (1, 2000, 3), (2000, 1, 3)])
def test_a_photo_without_a_face_is_refused(reader: FaceReader, shape: tuple[int, int, int]) -> None:
    with pytest.raises(NoFaceFound, match="0 found"):
        reader.read(np.full(shape, 90, np.uint8))


def test_a_small_face_is_refused_with_its_size_and_the_rule(reader: FaceReader, collins: np.ndarray) -> None:
    with pytest.raises(FaceTooSmall, match=r"largest face is \d\d px; must be at least 64 px"):
        reader.read(shrink(collins, 0.5))


def test_several_faces_need_an_index(reader: FaceReader, collins: np.ndarray, hopper: np.ndarray) -> None:
    with pytest.raises(SeveralFaces, match=r"2 faces of at least 64 px .*face_index must say which"):
        reader.read(side_by_side(collins, hopper))


def test_faces_are_counted_from_the_left(reader: FaceReader, collins: np.ndarray, hopper: np.ndarray) -> None:
    both = side_by_side(hopper, collins)
    assert cosine(reader.read(both, face_index=0), reader.read(hopper)) > 0.9
    assert cosine(reader.read(both, face_index=1), reader.read(collins)) > 0.9


@pytest.mark.parametrize("face_index", [-1, 1, 7])
def test_an_index_without_a_face_is_refused(reader: FaceReader, collins: np.ndarray, face_index: int) -> None:
    with pytest.raises(NoFaceFound, match=rf"face_index={face_index}: the photo has 1 face of"):
        reader.read(collins, face_index)


def test_a_small_face_in_the_background_does_not_count(
    reader: FaceReader, collins: np.ndarray, hopper: np.ndarray
) -> None:
    photo = side_by_side(shrink(hopper, 0.3), collins)
    assert len(find_faces(reader.detector, photo)) == 2
    assert cosine(reader.read(photo), reader.read(collins)) > 0.9
    assert cosine(reader.read(photo, face_index=0), reader.read(collins)) > 0.9


def test_a_face_of_exactly_the_smallest_size_counts() -> None:
    def face(size_px: int) -> DetectedFace:
        box = np.array([0, 0, size_px, size_px + 30], np.float32)
        return DetectedFace(box=box, landmarks=np.zeros((5, 2), np.float32), score=0.9)

    assert choose_face([face(63), face(64)]).size_px == 64
    with pytest.raises(FaceTooSmall):
        choose_face([face(63)])


@pytest.fixture(scope="module")
def arcface_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models folder's ArcFace file, with random weights."""
    folder = tmp_path_factory.mktemp("models") / "arcface"
    folder.mkdir()
    torch.save(ArcFaceIRSE50().state_dict(), folder / "recognition_arcface_ir_se50.pth")
    return folder / "recognition_arcface_ir_se50.pth"


@pytest.mark.parametrize("by_name", [True, False])
def test_arcface_is_taken_from_the_models_folder_or_a_file(
    face_pack: Path, collins: np.ndarray, arcface_file: Path, monkeypatch: pytest.MonkeyPatch, *, by_name: bool
) -> None:
    monkeypatch.setenv("LYNX_BATCH_MODELS", str(arcface_file.parents[1] if by_name else "/nowhere"))
    reader = FaceReader.load(str(face_pack), "arcface" if by_name else str(arcface_file))
    subject = reader.read(collins)
    assert subject.encoder == reader.encoder == "arcface-ir-se50"


def test_photos_are_compared_by_the_packs_own_recogniser_whatever_the_encoder(
    reader: FaceReader, face_pack: Path, collins: np.ndarray, hopper: np.ndarray, arcface_file: Path
) -> None:
    other = FaceReader.load(str(face_pack), str(arcface_file))
    mirrored = np.ascontiguousarray(collins[:, ::-1])
    assert other.read_person([("a", collins), ("b", mirrored)]).encoder == "arcface-ir-se50"
    likeness = cosine(reader.read(collins), reader.read(hopper))
    with pytest.raises(DifferentPeople, match=f"the likeness is {likeness:.2f},"):
        other.read_person([("a", collins), ("b", hopper)])


def test_a_pack_is_loaded_by_name_and_without_the_network(
    face_pack: Path, collins: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("LYNX_BATCH_MODELS", str(face_pack.parents[1]))
    assert FaceReader.load("free", "pack").read(collins).encoder == "sface-512"
    with pytest.raises(MissingFile, match="buffalo_xyz"):
        FaceReader.load("buffalo_xyz", "pack")


def test_a_pack_without_a_recogniser_serves_arcface_only(face_pack: Path, arcface_file: Path, tmp_path: Path) -> None:
    shutil.copy(face_pack / "det_yunet.onnx", tmp_path)
    assert FaceReader.load(str(tmp_path), str(arcface_file)).encoder == "arcface-ir-se50"
    with pytest.raises(MissingFile, match="must hold a face recogniser"):
        FaceReader.load(str(tmp_path), "pack")


def test_a_pack_without_a_detector_is_refused(face_pack: Path, tmp_path: Path) -> None:
    shutil.copy(face_pack / "rec_sface512.onnx", tmp_path)
    with pytest.raises(MissingFile, match="must hold a face detector"):
        FaceReader.load(str(tmp_path), "pack")


def test_a_recogniser_of_another_size_is_refused(face_pack: Path, tmp_path: Path) -> None:
    import onnx

    shutil.copy(face_pack / "det_yunet.onnx", tmp_path)
    model = onnx.load(face_pack / "rec_sface512.onnx")
    short = next(node.input[0] for node in model.graph.node if node.output[0] == model.graph.output[0].name)
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info(short, onnx.TensorProto.FLOAT, [1, 128]))
    onnx.save(model, tmp_path / "rec_sface128.onnx")
    with pytest.raises(WeightsMismatch, match=r"rec_sface128\.onnx: .*expected \(\(112, 112\), 512\), found .* 128\)"):
        FaceReader.load(str(tmp_path), "pack")


def test_a_network_that_was_cut_off_is_refused(face_pack: Path, tmp_path: Path) -> None:
    data = (face_pack / "det_yunet.onnx").read_bytes()
    (tmp_path / "det_yunet.onnx").write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsMismatch, match=r"every \*\.onnx file must be a network"):
        FaceReader.load(str(tmp_path), "pack")


@pytest.mark.parametrize(
    ("tasks", "message"),
    [({"detection": {"file": "../det_yunet.onnx"}}, "escapes the package"), ([], "tasks must be an object")],
)
def test_a_pack_whose_manifest_leads_out_of_it_is_refused(
    face_pack: Path, tmp_path: Path, tasks: object, message: str
) -> None:
    pack = shutil.copytree(face_pack, tmp_path / "pack")
    manifest = {"manifest_version": 2, "model_id": "pack", "license": "MODEL.LICENSE", "tasks": tasks}
    (pack / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(WeightsMismatch, match=rf"manifest\.json is refused: .*{message}"):
        FaceReader.load(str(pack), "pack")

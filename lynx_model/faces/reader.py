"""FaceReader: a photo -> the Subject whose face it shows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lynx_model.checkpoints.published import PUBLISHED_IDENTITY_ENCODER
from lynx_model.errors import FaceTooSmall, MissingFile, NoFaceFound, SeveralFaces, WeightsMismatch
from lynx_model.faces.align import IDENTITY_CROP_PX, align_face_for_identity, align_face_for_reference
from lynx_model.faces.arcface import load_arcface
from lynx_model.faces.detection import MIN_FACE_PX, DetectedFace, load_networks
from lynx_model.faces.identity import OWN_RECOGNISER, arcface_file
from lynx_model.faces.pack import FacePack, find_pack
from lynx_model.faces.upright import find_faces
from lynx_model.spec import EMBEDDING_SIZE, Subject

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""uint8 (112, 112, 3) RGB -> float32 (512,) of unit length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceReader:
    """Finds the face in a photo and measures whose it is. Make it with `load`; it keeps its networks for all photos."""

    detector: Any
    embed: Embed
    encoder: str
    is_parity: bool = False

    @classmethod
    def load(cls, pack: str, identity: str, *, is_parity: bool = False) -> Self:
        """A reader that is ready to read, on the CPU; nothing is fetched.

        Args:
            pack: Name or folder of a face pack.
            identity: "pack" (its own recogniser), "arcface" (what the published adapters expect) or a file of that kind.
            is_parity: Find faces as the original does: only those that lie upright, and with slightly other landmarks, because
                it feeds RGB where BGR is expected.

        Raises:
            MissingFile: If the pack or the ArcFace file is not on this machine, or the pack lacks a network.
            WeightsMismatch: If a network is not the one that it should be.
        """
        found = find_pack(pack)
        if identity == OWN_RECOGNISER:
            networks = load_networks(found, ["detection", "recognition"])
            embed, encoder = _recogniser(found, networks), found.identity_encoder
        else:
            networks = load_networks(found, ["detection"])
            embed, encoder = _arcface(identity), PUBLISHED_IDENTITY_ENCODER
        return cls(detector=networks["detection"], embed=embed, encoder=encoder, is_parity=is_parity)

    def read(self, image_rgb: NDArray[np.uint8], face_index: int | None = None) -> Subject:
        """The subject of a photo, uint8 (H, W, 3); `face_index` as in `choose_face`. Both crops show a turned face upright.

        Raises:
            FaceError: NoFaceFound, FaceTooSmall or SeveralFaces.
        """
        face = choose_face(find_faces(self.detector, image_rgb, is_parity=self.is_parity), face_index)
        return Subject(
            face_embedding=self.embed(align_face_for_identity(image_rgb, face.landmarks)),
            aligned_face=align_face_for_reference(image_rgb, face.landmarks),
            encoder=self.encoder,
            turned_degrees=face.turned_degrees,
        )


def choose_face(faces: list[DetectedFace], face_index: int | None = None) -> DetectedFace:
    """The face that is meant. Faces below `MIN_FACE_PX` do not count: passers-by make no portrait ambiguous.

    Args:
        faces: From left to right.
        face_index: Which of the faces that count, from 0 at the left; None is enough if there is one.

    Raises:
        NoFaceFound: If there is no face at all, or none at `face_index`.
        FaceTooSmall: If no face counts.
        SeveralFaces: If several count and `face_index` is None.
    """
    if not faces:
        raise NoFaceFound("photo: must show a face; 0 found")
    candidates = [face for face in faces if face.size_px >= MIN_FACE_PX]
    if not candidates:
        largest_px = max(face.size_px for face in faces)
        raise FaceTooSmall(f"photo: its largest face is {largest_px} px; must be at least {MIN_FACE_PX} px a side")
    if face_index is None and len(candidates) > 1:
        raise SeveralFaces(f"photo: {_list(candidates)}; face_index must say which one, counted from the left")
    index = face_index or 0
    if not 0 <= index < len(candidates):
        raise NoFaceFound(f"face_index={face_index}: the photo has {_list(candidates)}, counted from the left")
    return candidates[index]


def _list(faces: list[DetectedFace]) -> str:
    sizes = ", ".join(f"{index}: {face.size_px} px" for index, face in enumerate(faces))
    return f"{len(faces)} face(s) of at least {MIN_FACE_PX} px ({sizes})"


def _arcface(identity: str) -> Embed:
    arcface = load_arcface(arcface_file(identity))
    return lambda crop_rgb: arcface.embed(crop_rgb[None])[0]


def _recogniser(pack: FacePack, networks: dict[str, Any]) -> Embed:
    """The pack's own recogniser, tried once on a black picture: insightface does not say how much it puts out."""
    if "recognition" not in networks:
        raise MissingFile(f"face pack {pack.folder}: must hold a face recogniser for identity 'pack'")
    network = networks["recognition"]
    wanted = ((IDENTITY_CROP_PX, IDENTITY_CROP_PX), EMBEDDING_SIZE)
    found = (network.input_size, network.get_feat(np.zeros((IDENTITY_CROP_PX, IDENTITY_CROP_PX, 3), np.uint8)).size)
    if found != wanted:
        raise WeightsMismatch(f"{network.model_file}: input and output size: expected {wanted}, found {found}")

    def embed(crop_rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        embedding = network.get_feat(np.ascontiguousarray(crop_rgb[..., ::-1])).ravel()
        return np.asarray(embedding / np.linalg.norm(embedding), dtype=np.float32)

    return embed

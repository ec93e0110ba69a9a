"""FaceReader: photos of a person -> the Subject that they show."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lynx_model.checkpoints.published import PUBLISHED_IDENTITY_ENCODER
from lynx_model.errors import FaceError, FaceTooSmall, MissingFile, NoFaceFound, SeveralFaces, WeightsMismatch
from lynx_model.faces.align import IDENTITY_CROP_PX, align_face_for_identity, align_face_for_reference
from lynx_model.faces.detection import MIN_FACE_PX, DetectedFace, load_networks
from lynx_model.faces.identity import OWN_RECOGNISER, arcface_file
from lynx_model.faces.pack import FacePack, find_pack
from lynx_model.faces.person import Embed, PersonInPhoto, join
from lynx_model.faces.photo_quality import measure
from lynx_model.faces.upright import find_faces
from lynx_model.spec import EMBEDDING_SIZE, Subject

NamedPicture = tuple[str, NDArray[np.uint8]]
"""A photo, uint8 (H, W, 3), and what messages call it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaceReader:
    """Finds the face in a photo and computes its identity embedding. Create it with `load`, and use it for many photos.

    `files` are those of its networks: the detector's, then the encoder's. `load_own` gives the pack's own recogniser, which compares the
    photos of a person; one that is not the encoder is loaded at the first call.
    """

    detector: Any
    embed: Embed
    load_own: Callable[[], Embed]
    encoder: str
    is_parity: bool = False
    files: tuple[Path, ...] = ()

    @classmethod
    def load(cls, pack: str, identity: str, *, is_parity: bool = False) -> Self:
        """Loads a reader, which runs on the CPU. Downloads nothing.

        Args:
            pack: Name or folder of a face pack.
            identity: "pack" (its own recogniser), "arcface" (which the published adapters expect) or the path of an ArcFace file.
            is_parity: Find faces as the original does: only upright ones, and with slightly different landmarks, because it passes
                RGB where the detector expects BGR.

        Raises:
            MissingFile: If the pack or the ArcFace file is not on this machine, or the pack has no network for a task.
            WeightsMismatch: If a network is not the expected one.
        """
        found = find_pack(pack)
        if identity == OWN_RECOGNISER:
            networks = load_networks(found, ["detection", "recognition"])
            embed, encoder = _recogniser(found, networks), found.identity_encoder
            load_own: Callable[[], Embed] = partial(_itself, embed)
            encoder_file = Path(networks["recognition"].model_file)
        else:
            networks = load_networks(found, ["detection"])
            embed, encoder = _arcface(identity), PUBLISHED_IDENTITY_ENCODER
            load_own = cache(partial(load_recogniser, found))
            encoder_file = arcface_file(identity)
        return cls(
            detector=networks["detection"],
            embed=embed,
            load_own=load_own,
            encoder=encoder,
            is_parity=is_parity,
            files=(Path(networks["detection"].model_file), encoder_file),
        )

    def read(self, image_rgb: NDArray[np.uint8], face_index: int | None = None) -> Subject:
        """The subject of a photo, uint8 (H, W, 3). `face_index` is as in `choose_face`. Both crops show a rotated face upright.

        Raises:
            FaceError: NoFaceFound, FaceTooSmall or SeveralFaces.
        """
        face = choose_face(find_faces(self.detector, image_rgb, is_parity=self.is_parity), face_index)
        return self._subject(image_rgb, face)

    def read_person(self, pictures: Iterable[NamedPicture], face_index: int | None = None) -> Subject:
        """The one person that all photos show. A single photo gives the subject of `read`.

        Takes one picture at a time, so that no more than one is in memory if `pictures` is a generator.

        Raises:
            FaceError: As `read`, or DifferentPeople; the message begins with the name of the photo.
            MissingFile: If there are several photos, and the pack has no recogniser to compare them with.
        """
        return join({name: self._read_person(name, picture, face_index) for name, picture in pictures}, self.load_own)

    def _read_person(self, name: str, image_rgb: NDArray[np.uint8], face_index: int | None) -> PersonInPhoto:
        faces = find_faces(self.detector, image_rgb, is_parity=self.is_parity)
        try:
            face = choose_face(faces, face_index)
        except FaceError as error:
            raise type(error)(f"{name}: {error}") from error
        return PersonInPhoto(
            subject=self._subject(image_rgb, face),
            identity_crop=align_face_for_identity(image_rgb, face.landmarks),
            quality=measure(image_rgb, faces, face),
        )

    def _subject(self, image_rgb: NDArray[np.uint8], face: DetectedFace) -> Subject:
        return Subject(
            face_embedding=self.embed(align_face_for_identity(image_rgb, face.landmarks)),
            aligned_face=align_face_for_reference(image_rgb, face.landmarks),
            encoder=self.encoder,
            turned_degrees=face.turned_degrees,
        )


def choose_face(faces: list[DetectedFace], face_index: int | None = None) -> DetectedFace:
    """Chooses a face. Faces smaller than `MIN_FACE_PX` do not count, so passers-by do not make a portrait ambiguous.

    Args:
        faces: From left to right.
        face_index: Index among the faces that count, from 0 at the left; None is allowed if there is only one.

    Raises:
        NoFaceFound: If there is no face at all, or none at `face_index`.
        FaceTooSmall: If there are faces, but none that counts.
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


def _itself(embed: Embed) -> Embed:
    return embed


def _list(faces: list[DetectedFace]) -> str:
    sizes = ", ".join(f"{index}: {face.size_px} px" for index, face in enumerate(faces))
    return f"{len(faces)} face{'' if len(faces) == 1 else 's'} of at least {MIN_FACE_PX} px ({sizes})"


def _arcface(identity: str) -> Embed:
    from lynx_model.faces.arcface import load_arcface  # imports torch, which the pack's recogniser does not need

    arcface = load_arcface(arcface_file(identity))
    return lambda crop_rgb: arcface.embed(crop_rgb[None])[0]


def load_recogniser(pack: FacePack) -> Embed:
    """The pack's own recogniser. Raises MissingFile if it has none, and WeightsMismatch if it is not one for aligned faces."""
    return _recogniser(pack, load_networks(pack, ["detection", "recognition"]))


def _recogniser(pack: FacePack, networks: dict[str, Any]) -> Embed:
    """The pack's own recogniser. It runs once on a black picture, because insightface does not state its output size."""
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

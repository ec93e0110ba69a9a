"""Several photos of one person -> the one subject that they show.

The identity is the mean of what the photos show, and the reference picture comes from the most frontal of the sharp photos. What this
gains, and where `MIN_LIKENESS` comes from, is in `lynx_model/MEASURED.md`, "Several photos of one person".
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lynx_model.errors import DifferentPeople
from lynx_model.faces.photo_quality import GOOD_FACE_PX, GOOD_SHARPNESS, PhotoQuality
from lynx_model.spec import Subject

Embed = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""uint8 (112, 112, 3) RGB -> float32 (512,) of unit length."""

MIN_LIKENESS = 0.4
"""The least mean cosine between a photo and the others of the same person, by the face pack's own recogniser (SFace in the free pack)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PersonInPhoto:
    """What one photo shows: the subject, the aligned face for recognisers, uint8 (112, 112, 3), and how good the photo is."""

    subject: Subject
    identity_crop: NDArray[np.uint8] = field(repr=False)
    quality: PhotoQuality


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """A photo that seems to show another person than the others do."""

    photo: str
    rule: str


def join(seen: Mapping[str, PersonInPhoto], load_own: Callable[[], Embed]) -> Subject:
    """The subject that all photos show; at least one photo, by its name for messages. A single one gives its own subject.

    `load_own` gives the face pack's own recogniser, by which the photos are compared.

    Raises:
        DifferentPeople: If one of them shows somebody else.
    """
    views = list(seen.values())
    reference = views[choose_reference([view.quality for view in views])].subject
    if len(views) == 1:
        return reference
    own = load_own()
    if stranger := find_stranger({name: own(view.identity_crop) for name, view in seen.items()}):
        raise DifferentPeople(f"{stranger.photo}: {stranger.rule}")
    mean = np.mean([view.subject.face_embedding for view in views], axis=0, dtype=np.float64)
    return replace(reference, face_embedding=np.asarray(mean / np.linalg.norm(mean), dtype=np.float32))


def find_stranger(embeddings: Mapping[str, NDArray[np.float32]]) -> Stranger | None:
    """The photo that is least like the others, if that is too little for the same person. At least two `embeddings`, of unit length."""
    names, vectors = list(embeddings), np.stack([*embeddings.values()])
    likeness = (vectors @ vectors.sum(axis=0) - 1) / (len(names) - 1)
    worst = int(np.argmin(likeness))
    if likeness[worst] >= MIN_LIKENESS:
        return None
    others = "photos" if len(names) > 2 else "photo"
    rule = (
        f"must show the same person as the other {others}, and clearly; the likeness is {likeness[worst]:.2f}, "
        f"at least {MIN_LIKENESS} is needed"
    )
    return Stranger(photo=names[worst], rule=rule)


def choose_reference(qualities: Sequence[PhotoQuality]) -> int:
    """The place of the most frontal photo among those that are sharp and large enough, or else of the sharpest one."""

    def rank(place: int) -> tuple[float, float, float]:
        quality = qualities[place]
        return (
            min(quality.sharpness, GOOD_SHARPNESS),
            min(quality.face_px, GOOD_FACE_PX),
            -abs(quality.yaw_degrees),
        )

    return max(range(len(qualities)), key=rank)

"""Likeness: how much the person in a clip looks like the subject, by the cosine of identity embeddings, frame by frame.

A frame without a face counts with a cosine of 0, so that one good frame cannot make a good clip.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lynx_model.errors import EncoderMismatch
from lynx_model.faces.align import crop_for_identity
from lynx_model.faces.identity import OWN_RECOGNISER
from lynx_model.faces.likeness import Embedding, FrameFaces, read_faces
from lynx_model.faces.pack import FREE_PACK
from lynx_model.faces.reader import FaceReader
from lynx_model.scoring.clip import JudgedClip
from lynx_model.scoring.scorer import hash_scorer_files
from lynx_model.scoring.scores import LikenessScores
from lynx_model.spec import Subject

MISSING = 0.0
"""The cosine that a frame without a face counts with."""

LOW_PERCENTILE = 10
CONDITIONED = "conditioned"
"""Stands in the name of a score that was measured with the model's own encoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LikenessScorer:
    """Compares the faces of a clip with its subject."""

    reader: FaceReader
    files: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, pack: str = FREE_PACK, identity: str = OWN_RECOGNISER) -> Self:
        """Loads a scorer, which runs on the CPU. Arguments and errors are those of `FaceReader.load`."""
        reader = FaceReader.load(pack, identity)
        return cls(reader=reader, files=hash_scorer_files(reader.files))

    @property
    def name(self) -> str:
        return self.reader.encoder

    def score(self, clip: JudgedClip) -> LikenessScores:
        """Raises EncoderMismatch if the subject has an embedding of another encoder and no aligned face."""
        return self.compare(clip.subject, clip.chosen_frames)

    def compare(self, subject: Subject, frames: Sequence[NDArray[np.uint8]]) -> LikenessScores:
        """As `score`, for frames, each uint8 (H, W, 3) RGB; at least one."""
        own, is_independent = self.embed_subject(subject), subject.encoder not in (None, self.reader.encoder)
        scorer = self.name if is_independent else f"{self.name}-{CONDITIONED}"
        return summarise(scorer, read_faces(self.reader, frames), own, is_independent=is_independent)

    def embed_subject(self, subject: Subject) -> Embedding:
        """The subject's embedding by this scorer's encoder. If the subject has another's, it is read from the aligned face.

        Raises:
            EncoderMismatch: If the aligned face is missing.
        """
        if subject.encoder == self.reader.encoder:
            return subject.face_embedding
        if subject.aligned_face is None:
            raise EncoderMismatch(
                f"subject: its encoder is {subject.encoder!r}, but the scorer's is {self.reader.encoder!r}; "
                f"it must have an aligned face to be read again"
            )
        return self.reader.embed(crop_for_identity(subject.aligned_face))


def summarise(
    scorer: str, faces: Sequence[FrameFaces | None], subject: Embedding, *, is_independent: bool = True
) -> LikenessScores:
    """The scores of a clip from the faces of its examined frames; at least one frame."""
    cosines = [None if face is None else float(face.embedding @ subject) for face in faces]
    found = [cosine for cosine in cosines if cosine is not None]
    counted = np.array([MISSING if cosine is None else cosine for cosine in cosines])
    third = max(1, len(counted) // 3)
    return LikenessScores(
        scorer=scorer,
        is_independent=is_independent,
        face_share=len(found) / len(cosines),
        mean=float(counted.mean()),
        p10=float(np.percentile(counted, LOW_PERCENTILE)),
        minimum=float(counted.min()),
        drift=float(counted[:third].mean() - counted[-third:].mean()),
        mean_found=sum(found) / len(found) if found else None,
        face_px=max((face.size_px for face in faces if face), default=0),
        num_faces=max((face.num_faces for face in faces if face), default=0),
        cosines=tuple(cosines),
    )

"""The scores of a clip and of a photo: plain numbers, on which thresholds can be stated; free of torch.

A threshold names a score by its path, such as `likeness.mean` or `technical.black_share`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class TechnicalScores:
    """What the delivered file is like. Shares are from 0 to 1; brightness is from 0 to 255.

    Attributes:
        num_frames, width, height, fps: What the file has, not what was ordered.
        is_as_ordered: Whether these are what was ordered, and all frames are shown equally long.
        num_not_finite: Latents that were NaN or infinite; None if not counted.
        black_share, longest_black_s: Share of the time with a black picture, in stretches of at least 0.1 s; the longest.
        frozen_share, longest_frozen_s: The same for a picture that does not change, for at least 0.5 s.
        constant_share, longest_constant_s: The same for a picture of a single colour, of any length.
        black_area: Mean share of the picture that is black.
        num_cuts: Changes of scene.
        max_cut: The highest score of a change of scene, from 0 to 100.
        sharpness: Mean variance of the Laplacian over the examined frames.
        min_sharpness: Its lowest value in an examined frame.
        flicker: Mean distance of a frame's brightness from the mean of its neighbours'. A fade has none.
        max_flicker: The highest such distance.
        encoding_db: PSNR of the examined frames against the rendered ones, at most 100; None if they are unknown or of another size.
    """

    num_frames: int
    width: int
    height: int
    fps: float
    is_as_ordered: bool
    num_not_finite: int | None
    black_share: float
    longest_black_s: float
    frozen_share: float
    longest_frozen_s: float
    constant_share: float
    longest_constant_s: float
    black_area: float
    num_cuts: int
    max_cut: float
    sharpness: float
    min_sharpness: float
    flicker: float
    max_flicker: float
    encoding_db: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionScores:
    """How fast the picture moves, in shorter sides per second: independent of the clip's size and rate.

    Attributes:
        mean: Mean over all pixels and the examined pairs of frames.
        p10: 10th percentile of the pairs' means.
        maximum: The fastest pair's mean.
        is_static: A soft flag: `mean` is below 0.005.
    """

    mean: float
    p10: float
    maximum: float
    is_static: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LikenessScores:
    """The likeness of a clip to its subject. Cosines are from -1 to 1; all but `mean_found` count a frame without a face as 0.

    Attributes:
        scorer: The encoder's name; it ends in `-conditioned` if the model was conditioned on the same encoder's embedding.
        is_independent: Whether the encoder is another than the one that the model was conditioned on.
        face_share: Share of the examined frames with a face, from 0 to 1.
        mean: Mean cosine.
        p10: 10th percentile of the cosines, interpolated.
        minimum: Lowest cosine.
        drift: Mean of the first third less that of the last third: positive if the likeness fades.
        mean_found: Mean cosine over the frames with a face; None if there is none.
        face_px: Shorter side of the largest face in any examined frame; 0 if there is none.
        num_faces: The most faces in one examined frame.
        cosines: The largest face's cosine in each examined frame; None where no face was found.
    """

    scorer: str
    is_independent: bool
    face_share: float
    mean: float
    p10: float
    minimum: float
    drift: float
    mean_found: float | None
    face_px: int
    num_faces: int
    cosines: tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NsfwScores:
    """Probabilities, from 0 to 1, that pictures are not safe for work: of the examined frames, or of one photo.

    Attributes:
        scorer: Name of the classifier. Probabilities of different classifiers are not comparable.
        maximum, mean: Over the pictures.
        probabilities: Of each picture.
    """

    scorer: str
    maximum: float
    mean: float
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptScores:
    """The cosines, from -1 to 1, between the prompt and the examined frames. Those of different models are not comparable."""

    scorer: str
    mean: float
    minimum: float
    cosines: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoScores:
    """The scores of a photo; one of `nsfw` for each classifier."""

    nsfw: tuple[NsfwScores, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipScores:
    """All scores of a clip.

    Attributes:
        technical, motion, likeness: Always measured.
        nsfw: One for each classifier.
        prompt: None without a prompt model.
        scorers: The sha256 of each scorer's files: name of the scorer -> name of the file -> sha256.
    """

    technical: TechnicalScores
    motion: MotionScores
    likeness: LikenessScores
    nsfw: tuple[NsfwScores, ...]
    prompt: PromptScores | None
    scorers: Mapping[str, Mapping[str, str]]

    def as_json(self) -> dict[str, Any]:
        """The same as plain dicts, tuples and numbers, none of which is NaN."""
        return asdict(self)

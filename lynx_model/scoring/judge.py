"""ClipJudge: the MP4 of a clip -> all its scores. Create it with `load` before GPU time is spent, and use it for many clips."""

from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from lynx_model.scoring.clip import read_clip
from lynx_model.scoring.likeness import LikenessScorer
from lynx_model.scoring.motion import MotionScorer
from lynx_model.scoring.options import NUM_FRAMES, JudgeOptions
from lynx_model.scoring.prompt import PromptScorer
from lynx_model.scoring.safety import NsfwScorer
from lynx_model.scoring.scorer import Scorer
from lynx_model.scoring.scores import (
    ClipScores,
    LikenessScores,
    MotionScores,
    PhotoScores,
    PromptScores,
    TechnicalScores,
)
from lynx_model.scoring.technical import TechnicalScorer
from lynx_model.spec import RenderParams, Subject


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipJudge:
    """Measures clips with one scorer for each kind of score. `score` is for one thread at a time; `score_photo` may run beside it."""

    likeness: Scorer[LikenessScores]
    nsfw: tuple[NsfwScorer, ...] = ()
    prompt: Scorer[PromptScores] | None = None
    technical: Scorer[TechnicalScores] = field(default_factory=TechnicalScorer)
    motion: Scorer[MotionScores] = field(default_factory=MotionScorer)
    num_frames: int = NUM_FRAMES

    @classmethod
    def load(cls, options: JudgeOptions | None = None) -> Self:
        """Loads and checks all networks.

        Raises:
            MissingFile: If a file or folder is not on this machine.
            WeightsMismatch: If one is not the network that it must be. Messages name field, value and rule.
        """
        chosen = options or JudgeOptions()
        device, onnx, vit, prompt = chosen.device, chosen.nsfw_onnx, chosen.nsfw_vit, chosen.prompt_model
        nsfw = [] if onnx is None else [NsfwScorer.load_onnx(onnx, device=device)]
        nsfw += [] if vit is None else [NsfwScorer.load_vit(vit, device=device)]
        return cls(
            likeness=LikenessScorer.load(chosen.face_pack, chosen.identity),
            nsfw=tuple(nsfw),
            prompt=None if prompt is None else PromptScorer.load(prompt, device=device),
            num_frames=chosen.num_frames,
        )

    @property
    def scorers(self) -> dict[str, dict[str, str]]:
        """As in `ClipScores`, for a model that was conditioned on another encoder than that of `likeness`."""
        return self._files_of(self.likeness.name)

    def score_photo(self, photo_rgb: NDArray[np.uint8]) -> PhotoScores:
        """The scores of a photo, uint8 (H, W, 3) RGB, to be had before its clips are rendered."""
        return PhotoScores(nsfw=tuple(scorer.score_pictures([photo_rgb]) for scorer in self.nsfw))

    def score(
        self,
        mp4: bytes,
        subject: Subject,
        params: RenderParams,
        *,
        rendered_FHWC: NDArray[np.uint8] | None = None,
        num_not_finite: int | None = None,
    ) -> ClipScores:
        """The scores of a clip, as decoded from the file that will be delivered.

        Args:
            mp4: The file.
            subject: Whom it should show, as the model was given them.
            params: What was ordered.
            rendered_FHWC: The frames before encoding, uint8 (F, H, W, 3) RGB, to measure what the encoding lost.
            num_not_finite: How many latents were NaN or infinite; frames no longer show it, because NaN decodes to black.

        Raises:
            UnreadableVideo: If the file cannot be decoded, or has no frame.
            EncoderMismatch: If the subject has an embedding of another encoder than the scorer's, and no aligned face.
        """
        clip = read_clip(
            mp4,
            params=params,
            subject=subject,
            num_frames=self.num_frames,
            rendered=rendered_FHWC,
            num_not_finite=num_not_finite,
        )
        likeness = self.likeness.score(clip)
        return ClipScores(
            technical=self.technical.score(clip),
            motion=self.motion.score(clip),
            likeness=likeness,
            nsfw=tuple(scorer.score(clip) for scorer in self.nsfw),
            prompt=None if self.prompt is None else self.prompt.score(clip),
            scorers=self._files_of(likeness.scorer),
        )

    def _files_of(self, likeness: str) -> dict[str, dict[str, str]]:
        """The files of each scorer by its name; that of the likeness depends on the clip's subject."""
        named: list[tuple[str, Scorer[object]]] = [(likeness, self.likeness)]
        named += [(scorer.name, scorer) for scorer in (self.technical, self.motion, *self.nsfw)]
        named += [] if self.prompt is None else [(self.prompt.name, self.prompt)]
        return {name: dict(scorer.files) for name, scorer in named}

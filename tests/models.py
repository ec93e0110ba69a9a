"""The tests' tiny model: the real classes and file layouts with small shapes and random weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_model.spec import EngineOptions, LoraSource, ParallelPlan

if TYPE_CHECKING:
    from torch import Tensor

    from lynx_model.pipeline import LynxPipeline

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
OLD_OUTPUT = ROOT / "tests" / "data" / "output-contract-1"
MODEL = GOLDEN / "model"
BASE = MODEL / "Wan2.1-T2V-tiny-Diffusers"
_ENCODED: dict[tuple[str, bytes | None], object] = {}
"""The posterior of each face, by the dtype of the VAE."""

TRANSFORMER = Path("transformer", "diffusion_pytorch_model.safetensors")


def load_tiny(
    adapters: str | Mapping[str, str | None],
    *,
    device: str = "cpu",
    dtype: str = "float32",
    plan: ParallelPlan | None = None,
    engine: EngineOptions | None = None,
    loras: Sequence[str | LoraSource] = (),
) -> "LynxPipeline":
    """The tiny model; `adapters` is "full", "lite" or the folders of a mix."""
    from lynx_model.pipeline import LynxPipeline  # takes seconds, and most tests want no more than the paths above

    folders = str(MODEL / f"lynx_{adapters}") if isinstance(adapters, str) else adapters
    pipe = LynxPipeline.load(
        base=str(BASE), adapters=folders, device=device, dtype=dtype, loras=loras, plan=plan, engine=engine
    )
    if device == "cpu":
        _share_encoded_faces(pipe, dtype)
    return pipe


def _share_encoded_faces(pipe: "LynxPipeline", dtype: str) -> None:
    """All have the same VAE, which takes 6 s of a core for a face in bfloat16 where the core cannot compute in it."""
    encode = pipe._encode_face

    def recall(face: bytes | None) -> object:
        if (dtype, face) not in _ENCODED:
            _ENCODED[dtype, face] = encode(face)
        return _ENCODED[dtype, face]

    pipe._encode_face = recall


def relative_error(found: "Tensor", expected: "Tensor") -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def forbid_tf32() -> None:
    """Convolutions would else round float32 inputs to 10 bits, differently in differently shaped calls."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False

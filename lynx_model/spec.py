"""The values that describe one clip and the model that renders it; frozen, valid once they exist, free of torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import numpy as np
from numpy.typing import NDArray

from lynx_model.errors import InvalidParams
from lynx_model.geometry import check_num_frames, check_size
from lynx_model.ranges import explain_step_ranges, parse_blocks

DEFAULT_NEGATIVE_PROMPT = (
    "Bright tones, overexposed, blurred background, static, subtitles, style, works, paintings, images, overall gray, "
    "worst quality, low quality, JPEG compression residue, ugly, incomplete, extra fingers, poorly drawn hands, "
    "poorly drawn faces, deformed, disfigured, misshapen limbs, fused fingers, still picture, messy background, "
    "three legs, many people in the background, walking backwards"
)
"""The negative prompt that Lynx was published with. Source: bytedance/lynx infer.py at 3a6a91a (Apache-2.0)."""

REF_FILE = "ref_layers.safetensors"
"""The file whose presence makes an adapter folder a Ref-adapter."""

NUM_TEXT_TOKENS = 512
"""The tokens of a text that the model reads, including the one that ends it. Source: wan/modules/t5.py of Wan2.1 (`text_len`)."""

EMBEDDING_SIZE = 512
ALIGNED_FACE_PX = 256
UNIT_LENGTH_TOLERANCE = 1e-3
MAX_LORA_SCALE = 10.0
MAX_SEED = 2**63 - 2  # the reference picture is encoded with seed + 1, and seeds are signed 64-bit

RANGES = {
    "fps": (1, 120),
    "num_inference_steps": (1, 1000),
    "guidance_scale": (0, 100),
    "guidance_scale_image": (0, 100),
    "ip_scale": (0, 10),
    "ref_scale": (0, 10),
    "seed": (0, MAX_SEED),
    "flow_shift": (0.01, 100),
    **dict.fromkeys(("ip_start", "ip_end", "ref_start", "ref_end", "guidance_until"), (0, 1)),
}
"""The lowest and the highest value of fields of RenderParams."""

OPTIONAL = frozenset({"guidance_scale_image", "flow_shift", "ip_blocks", "ref_blocks"})
"""Fields of RenderParams that may be None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderParams:
    """What to render of a subject, and how; every field changes the picture.

    `guidance_scale_image=None` means two guidance branches, `guidance_scale<=1` one. `flow_shift=None` takes the base
    model's own. Sizes are in pixels, `seed` is the clip's only source of randomness.

    The ID-adapter works at the steps from `ip_start` to `ip_end` and in `ip_blocks` ("8-31"; None is all), the Ref-adapter
    likewise; guidance ends at `guidance_until`, after which each step is one forward of the conditional branch.
    `lynx_model.ranges` says how steps and blocks are counted.

    Raises:
        InvalidParams: If a field breaks its rule; the error names field, value and rule.
    """

    prompt: str
    negative_prompt: str = DEFAULT_NEGATIVE_PROMPT
    width: int = 832
    height: int = 480
    num_frames: int = 81
    fps: int = 16
    num_inference_steps: int = 50
    guidance_scale: float = 5.0
    guidance_scale_image: float | None = 2.0
    ip_scale: float = 1.0
    ref_scale: float = 1.0
    seed: int = 42
    flow_shift: float | None = None
    ip_start: float = 0.0
    ip_end: float = 1.0
    ip_blocks: str | None = None
    ref_start: float = 0.0
    ref_end: float = 1.0
    ref_blocks: str | None = None
    guidance_until: float = 1.0

    def __post_init__(self) -> None:
        for name in FIELDS:
            check_field(name, getattr(self, name))
        for fault in explain_step_ranges(partial(getattr, self)):
            raise InvalidParams(*fault)


FIELDS = tuple(each.name for each in fields(RenderParams))


def check_field(name: str, value: Any) -> None:
    """Raises InvalidParams if `value` breaks the rule of that field of RenderParams, whatever the other fields are."""
    if value is None and name in OPTIONAL:
        return
    if name in RANGES:
        _check_range(name, value, *RANGES[name])
    elif name in ("width", "height"):
        check_size(name, value)
    elif name == "num_frames":
        check_num_frames(value)
    elif name == "prompt":
        if not value.strip():
            raise InvalidParams(name, value, "must not be empty")
    elif name in ("ip_blocks", "ref_blocks"):
        parse_blocks(name, value)


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # as NaN is not
        raise InvalidParams(name, value, f"must be between {low} and {high}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """A person as the model sees them. `encoder=None` means that the caller vouches for the embedding.

    Args:
        face_embedding: float32 (512,), unit length.
        aligned_face: uint8 (256, 256, 3) RGB, the input of the Ref-adapter; lite does not need it.
        encoder: Name of the identity encoder that made the embedding.
        turned_degrees: How far the face is rotated clockwise in its photo; both arrays show it upright.

    `repr` shows neither array, because embeddings and crops must not reach a log.
    """

    face_embedding: NDArray[np.float32] = field(repr=False)
    aligned_face: NDArray[np.uint8] | None = field(repr=False, default=None)
    encoder: str | None = None
    turned_degrees: int = 0

    def __post_init__(self) -> None:
        if self.face_embedding.shape != (EMBEDDING_SIZE,):
            raise InvalidParams("face_embedding.shape", self.face_embedding.shape, f"must be ({EMBEDDING_SIZE},)")
        length = float(np.linalg.norm(self.face_embedding))
        if not abs(length - 1) <= UNIT_LENGTH_TOLERANCE:
            raise InvalidParams("|face_embedding|", length, "must be of unit length")
        wanted = (ALIGNED_FACE_PX, ALIGNED_FACE_PX, 3)
        face = self.aligned_face
        if face is not None and (face.shape != wanted or face.dtype != np.uint8):
            raise InvalidParams("aligned_face", (face.shape, str(face.dtype)), f"must be {wanted} uint8")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelPlan:
    """How the ranks of one group share a clip.

    `branches` guidance branches are computed in parallel, and `ulysses` x `ring` ranks share the tokens of each. Ranks of a Ulysses
    group, which should be on one host, also share the attention heads; ranks of a ring gather keys and values instead.
    """

    branches: int = 1
    ulysses: int = 1
    ring: int = 1

    def __post_init__(self) -> None:
        for name in ("branches", "ulysses", "ring"):
            if getattr(self, name) < 1:
                raise InvalidParams(name, getattr(self, name), "must be at least 1")

    @classmethod
    def of_size(cls, num_ranks: int) -> "ParallelPlan":
        """The fastest plan for the GPUs of one host: as many parallel branches as divide them, and Ulysses for the rest."""
        branches = next(number for number in (3, 2, 1) if num_ranks % number == 0)
        return cls(branches=branches, ulysses=num_ranks // branches)

    @property
    def num_ranks(self) -> int:
        return self.branches * self.ulysses * self.ring


ONE_GPU = ParallelPlan()

AttentionChoice = Literal["auto", "fa3", "fa3_fp8", "cudnn", "fa2", "sdpa"]
"""A kernel of `lynx_model.engine.attention`, or "auto": the fastest exact one that works."""

ANY_DTYPE: tuple[AttentionChoice, ...] = ("auto", "sdpa")
"""Kernels that also work in dtypes other than bfloat16."""

TextPlacement = Literal["resident", "staged", "cpu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How a forward is carried out. Only `precision` and `attention: fa3_fp8` change the picture beyond rounding.

    `precision: fp8` is bfloat16 with the blocks' large matrices multiplied in fp8, except in the first and last
    `num_bf16_edge_blocks` blocks. `attention: auto` takes the fastest exact kernel that works; `fa3_fp8` runs base self-attention
    in fp8. `compile` compiles the blocks at the first clip of each shape, and the decoder's norms; it pays off from a few clips of one
    shape on. `offload: blocks` keeps weights in host memory, for small GPUs. `text_encoder` is `resident` on the GPU; `staged` in
    host memory, from where its layers visit the GPU one by one when a worker meets a new prompt; `cpu` stays in host memory and
    computes there, slowly.
    """

    precision: Literal["bfloat16", "float32", "fp8"] = "bfloat16"
    num_bf16_edge_blocks: int = 0
    attention: AttentionChoice = "auto"
    compile: bool = False
    offload: Literal["none", "blocks"] = "none"
    text_encoder: TextPlacement = "resident"

    def __post_init__(self) -> None:
        """Raises InvalidParams if a field breaks its rule, or two fields do not go together."""
        for name, choices in ENGINE_CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise InvalidParams(name, value, f"must be one of {', '.join(choices)}")
        if self.num_bf16_edge_blocks < 0:
            raise InvalidParams("num_bf16_edge_blocks", self.num_bf16_edge_blocks, "must be at least 0")
        if self.num_bf16_edge_blocks and self.precision != "fp8":
            raise InvalidParams("num_bf16_edge_blocks", self.num_bf16_edge_blocks, "needs precision fp8")
        if self.dtype != "bfloat16" and self.attention not in ANY_DTYPE:
            raise InvalidParams("attention", self.attention, f"needs bfloat16, but the model is {self.dtype}")

    @property
    def dtype(self) -> Literal["bfloat16", "float32"]:
        """The dtype of every weight that is not fp8."""
        return "float32" if self.precision == "float32" else "bfloat16"

    @property
    def numerics(self) -> str:
        """What changes the picture beyond rounding, for example "bfloat16" or "fp8, 5 edge blocks bfloat16, fa3_fp8"."""
        edges = [f"{self.num_bf16_edge_blocks} edge blocks bfloat16"] if self.num_bf16_edge_blocks else []
        attention = ["fa3_fp8"] if self.attention == "fa3_fp8" else []
        return ", ".join([self.precision, *edges, *attention])

    def for_dtype(self, dtype: str) -> "EngineOptions":
        """These options for a model of `dtype`; the default precision, bfloat16, gives way to it.

        Raises:
            InvalidParams: If `dtype` is not "bfloat16" or "float32", or contradicts another precision or the attention kernel.
        """
        if dtype not in (choices := ("bfloat16", "float32")):
            raise InvalidParams("dtype", dtype, f"must be one of {', '.join(choices)}")
        if dtype == self.dtype:
            return self
        if self.precision != "bfloat16":
            raise InvalidParams("precision", self.precision, f"needs {self.dtype}, but the model is {dtype}")
        return replace(self, precision="float32")

    def check_blocks(self, num_blocks: int) -> None:
        """Raises InvalidParams if `num_bf16_edge_blocks` leaves none of the model's `num_blocks` blocks in fp8."""
        if self.num_bf16_edge_blocks and 2 * self.num_bf16_edge_blocks >= num_blocks:
            rule = f"must leave some of the model's {num_blocks} blocks in fp8"
            raise InvalidParams("num_bf16_edge_blocks", self.num_bf16_edge_blocks, rule)


ENGINE_CHOICES = {name: get_args(hint) for name, hint in get_type_hints(EngineOptions).items() if get_args(hint)}
"""The values that each field of EngineOptions can take, where they are few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSource:
    """A LoRA file and the scale at which it is added to the base model."""

    file: str
    scale: float = 1.0

    def __post_init__(self) -> None:
        _check_range("scale", self.scale, -MAX_LORA_SCALE, MAX_LORA_SCALE)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where the weights are: a Diffusers folder, adapter folders and LoRA files. `ref_adapter=None` turns the Ref-adapter off."""

    base: str
    id_adapter: str
    ref_adapter: str | None = None
    loras: tuple[LoraSource, ...] = ()

    @classmethod
    def of(
        cls, base: str, adapters: str | Mapping[str, str | None], loras: Sequence[str | LoraSource] = ()
    ) -> "ModelSource":
        """From one adapter folder, whose Ref-adapter is used if it has one, or from `{"id": folder, "ref": folder or None}`."""
        sources = tuple(LoraSource(file=lora) if isinstance(lora, str) else lora for lora in loras)
        if isinstance(adapters, str):
            has_ref = (Path(adapters) / REF_FILE).is_file()
            return cls(base=base, id_adapter=adapters, ref_adapter=adapters if has_ref else None, loras=sources)
        id_adapter = adapters.get("id")
        if set(adapters) - {"id", "ref"} or id_adapter is None:
            raise InvalidParams("adapters", dict(adapters), 'must be a folder or {"id": folder, "ref": folder or None}')
        return cls(base=base, id_adapter=id_adapter, ref_adapter=adapters.get("ref"), loras=sources)

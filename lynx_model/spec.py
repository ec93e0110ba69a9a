"""The values that describe one clip and the model that renders it; frozen, valid once they exist, free of torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from lynx_model.errors import InvalidParams
from lynx_model.fp8_attention import Fp8Attention
from lynx_model.parameters import Range
from lynx_model.parameters import RenderParams as RenderParams  # users import it from here
from lynx_model.step_cache import StepCache

REF_FILE = "ref_layers.safetensors"
"""The file whose presence makes an adapter folder a Ref-adapter."""

NUM_TEXT_TOKENS = 512
"""The tokens of a text that the model reads, including the one that ends it. Source: wan/modules/t5.py of Wan2.1 (`text_len`)."""

EMBEDDING_SIZE = 512
ALIGNED_FACE_PX = 256
UNIT_LENGTH_TOLERANCE = 1e-3
MAX_LORA_SCALE = 10.0


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

AttentionChoice = Literal["auto", "fa3", "fa3_fp8", "fa4", "cudnn", "fa2", "sdpa"]
"""A kernel of `lynx_model.engine.attention`, or "auto": the fastest exact one that works."""

ANY_DTYPE: tuple[AttentionChoice, ...] = ("auto", "sdpa")
"""Kernels that also work in dtypes other than bfloat16."""

TextPlacement = Literal["resident", "staged", "cpu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How a forward is carried out. Only `precision`, `fp8_attention`, `attention: fa3_fp8` and `step_cache` change the picture beyond
    rounding.

    `precision: fp8` is bfloat16 with the blocks' large matrices multiplied in fp8, except in the first and last
    `num_bf16_edge_blocks` blocks. `attention: auto` takes the fastest exact kernel that works. `fp8_attention` runs base
    self-attention in fp8, everywhere or in some blocks and steps; `attention: fa3_fp8` is an older form of it with a larger error, for
    campaigns that were begun with it. `compile` compiles the blocks at the first clip of each shape, and the decoder's norms; it pays off
    from a few clips of one shape on. `offload: blocks` keeps weights in host memory, for small GPUs. `text_encoder` is `resident` on the GPU; `staged` in
    host memory, from where its layers visit the GPU one by one when a worker meets a new prompt; `cpu` stays in host memory and
    computes there, slowly. `step_cache` skips the blocks in steps that would change little.
    """

    precision: Literal["bfloat16", "float32", "fp8"] = "bfloat16"
    num_bf16_edge_blocks: int = 0
    attention: AttentionChoice = "auto"
    fp8_attention: Fp8Attention | None = None
    compile: bool = False
    offload: Literal["none", "blocks"] = "none"
    text_encoder: TextPlacement = "resident"
    step_cache: StepCache | None = None

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
        if self.fp8_attention is not None:
            self._check_fp8_attention(self.fp8_attention)

    def _check_fp8_attention(self, value: Fp8Attention) -> None:
        if self.dtype != "bfloat16":
            raise InvalidParams("fp8_attention", value.written, f"needs bfloat16, but the model is {self.dtype}")
        if self.attention == "fa3_fp8":
            raise InvalidParams(
                "fp8_attention", value.written, "must not be given with attention fa3_fp8; leave that out"
            )

    @property
    def dtype(self) -> Literal["bfloat16", "float32"]:
        """The dtype of every weight that is not fp8."""
        return "float32" if self.precision == "float32" else "bfloat16"

    @property
    def numerics(self) -> str:
        """What changes the picture beyond rounding, for example "bfloat16" or "fp8, 5 edge blocks bfloat16, fp8 attention".

        A step cache counts with its settings and the hash of the model's magnitudes.
        """
        edges = [f"{self.num_bf16_edge_blocks} edge blocks bfloat16"] if self.num_bf16_edge_blocks else []
        attention = ["fa3_fp8"] if self.attention == "fa3_fp8" else []
        attention += [] if self.fp8_attention is None else [self.fp8_attention.name]
        cache = [] if self.step_cache is None else [self.step_cache.name]
        return ", ".join([self.precision, *edges, *attention, *cache])

    def for_dtype(self, dtype: str) -> "EngineOptions":
        """These options for a model of `dtype`, which replaces the default precision, bfloat16.

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

    def check_calibrated(self) -> None:
        """Raises InvalidParams if the model's magnitudes for the step cache are missing."""
        if self.step_cache is not None:
            self.step_cache.check_calibrated()

    def check_blocks(self, num_blocks: int) -> None:
        """Raises InvalidParams if `num_bf16_edge_blocks` or `fp8_attention` leaves none of the model's `num_blocks` blocks in fp8."""
        if self.num_bf16_edge_blocks and 2 * self.num_bf16_edge_blocks >= num_blocks:
            rule = f"must leave some of the model's {num_blocks} blocks in fp8"
            raise InvalidParams("num_bf16_edge_blocks", self.num_bf16_edge_blocks, rule)
        attention = self.fp8_attention
        if attention is not None and not attention.share_of_blocks(num_blocks):
            rule = f"must hold at least one of the model's {num_blocks} blocks as a whole"
            raise InvalidParams("fp8_attention.blocks", attention.blocks, rule)


ENGINE_CHOICES = {
    name: get_args(hint) for name, hint in get_type_hints(EngineOptions).items() if get_origin(hint) is Literal
}
"""The allowed values of each field of EngineOptions that is a choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSource:
    """A LoRA file and the scale at which it is added to the base model."""

    file: str
    scale: float = 1.0

    def __post_init__(self) -> None:
        Range(-MAX_LORA_SCALE, MAX_LORA_SCALE).check("scale", self.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where the weights are: a Diffusers folder, adapter folders and LoRA files. `ref_adapter=None` turns the Ref-adapter off."""

    base: str
    id_adapter: str
    ref_adapter: str | None = None
    loras: tuple[LoraSource, ...] = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """Each folder and file, once."""
        adapters = filter(None, (self.id_adapter, self.ref_adapter))
        return tuple(dict.fromkeys((self.base, *adapters, *(lora.file for lora in self.loras))))

    def moved(self, places: Mapping[str, str]) -> "ModelSource":
        """The same model with each of its `parts` in its new place."""
        return replace(
            self,
            base=places[self.base],
            id_adapter=places[self.id_adapter],
            ref_adapter=places[self.ref_adapter] if self.ref_adapter else None,
            loras=tuple(replace(lora, file=places[lora.file]) for lora in self.loras),
        )

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

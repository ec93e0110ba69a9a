"""The values that describe one clip and the model that renders it; frozen, valid once they exist, free of torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lynx_model.errors import InvalidParams
from lynx_model.parameters import Range
from lynx_model.parameters import RenderParams as RenderParams  # users import it from here

REF_FILE = "ref_layers.safetensors"
"""The file that makes an adapter folder a Ref-adapter."""

NUM_TEXT_TOKENS = 512
"""What the model reads of a text, the token that ends it included. Source: wan/modules/t5.py of Wan2.1 (`text_len`)."""

EMBEDDING_SIZE = 512
ALIGNED_FACE_PX = 256
UNIT_LENGTH_TOLERANCE = 1e-3
MAX_LORA_SCALE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Subject:
    """A person as the model sees them. `encoder=None`: the caller vouches for the embedding.

    Args:
        face_embedding: float32 (512,), unit length.
        aligned_face: uint8 (256, 256, 3) RGB, as the Ref-adapter reads it; None is enough for lite.
        encoder: Name of the identity encoder that made the embedding.
        turned_degrees: How far the face is rotated clockwise in its photo; both arrays show it upright.

    Neither array appears in the representation: embeddings and crops must not reach a log.
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

    `branches` guidance branches are computed beside each other; the tokens of each are shared by `ulysses` x `ring` ranks:
    `ulysses` of them also share the attention heads (between GPUs of one host), `ring` gather keys and values instead.
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
        """What is fastest on the GPUs of one host: branches beside each other as far as they divide, Ulysses for the rest."""
        branches = next(number for number in (3, 2, 1) if num_ranks % number == 0)
        return cls(branches=branches, ulysses=num_ranks // branches)

    @property
    def num_ranks(self) -> int:
        return self.branches * self.ulysses * self.ring


AttentionChoice = Literal["auto", "fa3", "fa3_fp8", "cudnn", "fa2", "sdpa"]
"""A kernel of `lynx_model.engine.attention`, or "auto": the fastest exact one that works."""

ANY_DTYPE: tuple[AttentionChoice, ...] = ("auto", "sdpa")
"""What works in other dtypes than bfloat16, too."""

TextPlacement = Literal["resident", "staged", "cpu"]
"""Where the text encoder lives: on the device; in host memory, each layer visiting the device when a prompt is read; or it
stays in host memory and computes there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How a forward is carried out; only fp8 changes the picture beyond rounding.

    `attention` "fa3_fp8" runs base self-attention in fp8. `compile` compiles the blocks at the first clip of each shape, and the
    decoder's norms. `has_fp8_linears` multiplies the blocks' large matrices in fp8, except in the first and last
    `num_bf16_edge_blocks` blocks. `offload` is "none", or "blocks": weights wait in host memory.

    Raises:
        InvalidParams: If a field breaks its rule.
    """

    attention: AttentionChoice = "auto"
    compile: bool = False
    has_fp8_linears: bool = False
    num_bf16_edge_blocks: int = 0
    offload: str = "none"
    text_encoder: TextPlacement = "resident"

    def __post_init__(self) -> None:
        _check_choice("attention", self.attention, get_args(AttentionChoice))
        _check_choice("offload", self.offload, ("none", "blocks"))
        _check_choice("text_encoder", self.text_encoder, get_args(TextPlacement))
        if self.num_bf16_edge_blocks < 0:
            raise InvalidParams("num_bf16_edge_blocks", self.num_bf16_edge_blocks, "must be at least 0")
        if self.num_bf16_edge_blocks and not self.has_fp8_linears:
            raise InvalidParams("num_bf16_edge_blocks", self.num_bf16_edge_blocks, "needs precision fp8")

    def check_dtype(self, dtype: str) -> None:
        """Raises InvalidParams if what it asks for is never possible in a model of `dtype`."""
        if dtype != "bfloat16" and self.attention not in ANY_DTYPE:
            raise InvalidParams("attention", self.attention, f"needs bfloat16, but the model is {dtype}")

    def check_blocks(self, num_blocks: int) -> None:
        """Raises InvalidParams if `num_bf16_edge_blocks` leaves none of `num_blocks` in fp8."""
        if self.num_bf16_edge_blocks and 2 * self.num_bf16_edge_blocks >= num_blocks:
            rule = f"must leave some of the model's {num_blocks} blocks in fp8"
            raise InvalidParams("num_bf16_edge_blocks", self.num_bf16_edge_blocks, rule)


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InvalidParams(name, value, f"must be one of {', '.join(choices)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSource:
    """A LoRA file, and how much of it is added to the base model."""

    file: str
    scale: float = 1.0

    def __post_init__(self) -> None:
        Range(-MAX_LORA_SCALE, MAX_LORA_SCALE).check("scale", self.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Where the weights lie: a Diffusers folder, the adapter folders and LoRA files; `ref_adapter=None` switches the
    Ref-adapter off.
    """

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
        """From one adapter folder (its Ref-adapter is used if it holds one), or `{"id": folder, "ref": folder or None}`."""
        sources = tuple(LoraSource(file=lora) if isinstance(lora, str) else lora for lora in loras)
        if isinstance(adapters, str):
            has_ref = (Path(adapters) / REF_FILE).is_file()
            return cls(base=base, id_adapter=adapters, ref_adapter=adapters if has_ref else None, loras=sources)
        id_adapter = adapters.get("id")
        if set(adapters) - {"id", "ref"} or id_adapter is None:
            raise InvalidParams("adapters", dict(adapters), 'must be a folder or {"id": folder, "ref": folder or None}')
        return cls(base=base, id_adapter=id_adapter, ref_adapter=adapters.get("ref"), loras=sources)

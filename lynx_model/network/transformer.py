"""LynxTransformer: diffusers' Wan DiT with the adapters. It takes conditioning that is computed once per clip.

Source: `WanTransformer3DModel.forward` of diffusers 0.42.1, models/transformers/transformer_wan.py, which `_run` and its helpers follow.
Shapes: B batch, C latent channels, F H W latent frames, rows and columns, T tokens, S tokens attended to, X features.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple

import structlog
import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn

from lynx_model.checkpoints.adapter_spec import AdapterSpec, check_fit
from lynx_model.engine.attention import EXACT_COUNTERPART, FP8_KERNEL, Attend, choose_attention, choose_fp8_attention
from lynx_model.engine.graphs import allow_many_graphs
from lynx_model.engine.offload import BlockStream, call_on_device_of
from lynx_model.engine.parallel import ParallelContext
from lynx_model.engine.precision import quantize_blocks
from lynx_model.engine.sharding import TokenSharding, WholeSequence
from lynx_model.network.adapters import (
    CrossAttentionInputs,
    CrossAttentionProcessor,
    KeysValues,
    SelfAttentionInputs,
    SelfAttentionProcessor,
    adapter_layers,
    text_keys_values,
)
from lynx_model.network.residuals import Residuals
from lynx_model.spec import EngineOptions, ParallelPlan

log = structlog.get_logger()


class BlockConditioning(NamedTuple):
    """What one block attends to, for one guidance branch."""

    cross: CrossAttentionInputs
    reference: KeysValues | None


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What every block attends to, for one guidance branch; the same at every step."""

    blocks: tuple[BlockConditioning, ...]


Reuse = Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]
"""(tokens, the function that runs the blocks) -> what the blocks make of the tokens, possibly without running them."""


class LynxTransformer(WanTransformer3DModel):  # type: ignore[misc]
    """The frozen Wan2.1 DiT and the adapters' layers; one forward is one guidance branch of one step."""

    id_adapter: nn.ModuleList
    ref_adapter: nn.ModuleList | None
    parallel: ParallelContext
    attend_to_conditioning: Attend
    attend_in_fp8: tuple[Attend | None, ...]
    """For each block, how its self-attention computes in fp8; None if the block never does."""
    compiled_for: set[torch.Size] | None
    """Shapes of latents that the blocks were compiled for, or None if they are not compiled."""
    in_turn: Iterable[nn.Module]
    """The blocks in the order of a forward. A block's weights are on the device until the iterator moves on."""

    def _attach_adapters(self, spec: AdapterSpec) -> None:
        heads = self.config.num_attention_heads
        check_fit(spec, num_blocks=len(self.blocks), channels=heads * self.config.attention_head_dim)
        self.id_stride = spec.id_stride
        with torch.device("meta"):
            self.id_adapter, self.ref_adapter = adapter_layers(spec)

    def _arrange_weights(self, engine: EngineOptions, device: torch.device) -> None:
        """Brings loaded weights into the form that forwards on `device` use: q, k, v in one matrix; fp8; offload.

        With offload, weights must have been loaded into host memory; the adapters' layers stay there.
        """
        for block in self.blocks:
            block.attn1.fuse_projections()
            del block.attn1.to_q, block.attn1.to_k, block.attn1.to_v
        self.requires_grad_(False)
        if engine.precision == "fp8":
            quantize_blocks(self.blocks, num_bf16_edge_blocks=engine.num_bf16_edge_blocks, device=device)
        self.in_turn = list(self.blocks)
        if engine.offload == "blocks":
            self.in_turn = BlockStream(self.blocks, device)
            self.scale_shift_table.data = self.scale_shift_table.to(device)
            for name, child in self.named_children():
                if name not in ("blocks", "id_adapter", "ref_adapter"):
                    child.to(device)

    def set_up(self, *, plan: ParallelPlan, engine: EngineOptions) -> None:
        """Chooses how later forwards run: the sharing among ranks, the attention kernel, and whether blocks are compiled.

        Raises:
            InvalidParams: If the plan does not fit the model or the ranks, or the kernel does not work on this device.
        """
        weight = self.patch_embedding.weight
        heads, head_dim = self.config.num_attention_heads, self.config.attention_head_dim
        choose = partial(choose_attention, device=weight.device, dtype=weight.dtype, head_dim=head_dim)
        attend = choose(engine.attention)
        fp8, num_blocks = engine.fp8_attention, len(self.blocks)
        self.attend_in_fp8 = (None,) * num_blocks
        if fp8 is not None:
            in_fp8 = choose_fp8_attention(device=weight.device, dtype=weight.dtype, head_dim=head_dim)
            self.attend_in_fp8 = tuple(in_fp8 if fp8.has_block(n, num_blocks) else None for n in range(num_blocks))
        self.parallel = ParallelContext(plan, num_heads=heads, attend=attend)
        self.attend_to_conditioning = choose(EXACT_COUNTERPART) if engine.attention == FP8_KERNEL else attend
        for block in self.blocks:
            block.attn1.set_processor(SelfAttentionProcessor(self.attend_to_conditioning))
            block.attn2.set_processor(CrossAttentionProcessor(self.attend_to_conditioning))
        self.compiled_for = set() if engine.compile else None
        if engine.compile:
            _compile(self.blocks, options=OVERLAPPED_EXCHANGES if plan.num_ranks > 1 else None)

    def text_keys_values(self, text_BSX: Tensor) -> tuple[KeysValues, ...]:
        """Keys and values of a text embedding, per block."""
        text_BSC = self.condition_embedder.text_embedder(text_BSX)
        return tuple(text_keys_values(text_BSC, block.attn2) for block in self.in_turn)

    def identity_keys_values(self, tokens_BSX: Tensor) -> tuple[KeysValues | None, ...]:
        """Keys and values of the identity tokens, per block; None for a block without an ID-adapter layer."""
        return tuple(
            call_on_device_of(self.id_adapter[index // self.id_stride], tokens_BSX, block.attn2)
            if index % self.id_stride == 0
            else None
            for index, block in enumerate(self.blocks)
        )

    def reference_features(self, latents_BCFHW: Tensor, text: Sequence[KeysValues]) -> tuple[Tensor, ...]:
        """The inputs of each block's self-attention for a reference picture.

        The picture's latents pass through the DiT once, at timestep 0 and without adapters.
        """
        conditioning = Conditioning(tuple(BlockConditioning(CrossAttentionInputs(kv, None), None) for kv in text))
        timestep = torch.zeros(len(latents_BCFHW), dtype=torch.long, device=latents_BCFHW.device)
        with _recorded_inputs([block.attn1 for block in self.blocks]) as features:
            # eager, because a compiled block skips the hooks; unshared, because the picture is small
            blocks = (block.forward for block in self.in_turn)
            self._run(blocks, latents_BCFHW, timestep, conditioning, WholeSequence(self.attend_to_conditioning))
        return tuple(features)

    def reference_keys_values(self, features: Sequence[Tensor]) -> tuple[KeysValues, ...]:
        """Keys and values that each block's Ref-adapter layer computes from the features. Needs a Ref-adapter."""
        assert self.ref_adapter is not None
        layers = zip(self.ref_adapter, features, self.blocks, strict=True)
        return tuple(call_on_device_of(layer, feature, block.attn1) for layer, feature, block in layers)

    def predict(
        self,
        latents_BCFHW: Tensor,
        timestep_B: Tensor,
        branches: Sequence[Conditioning],
        residuals: Residuals | None = None,
        *,
        is_attending_in_fp8: bool = False,
    ) -> list[Tensor]:
        """The velocity of each guidance branch, on every rank. Ranks share the branches and their tokens as planned.

        `residuals` are those of the clip, if some of its steps do not run the blocks. `is_attending_in_fp8` holds for those blocks that
        ever do so.
        """
        velocities: list[Tensor] = []
        for turn in self.parallel.turns(len(branches), self._num_tokens(latents_BCFHW)):
            conditioning = branches[turn.branch]
            reuse = None if residuals is None else partial(residuals.apply, turn.branch)
            velocity = self.forward(
                latents_BCFHW,
                timestep_B,
                conditioning,
                turn.sharding,
                reuse,
                is_attending_in_fp8=is_attending_in_fp8,
            )
            velocities += turn.share(velocity)
        return velocities

    def forward(
        self,
        latents_BCFHW: Tensor,
        timestep_B: Tensor,
        conditioning: Conditioning,
        sharding: TokenSharding,
        reuse: Reuse | None = None,
        *,
        is_attending_in_fp8: bool = False,
    ) -> Tensor:
        """The velocity of one guidance branch at `timestep_B`, in the shape of the latents."""
        if self.compiled_for is not None and latents_BCFHW.shape not in self.compiled_for:
            self.compiled_for.add(latents_BCFHW.shape)
            log.info("compiling", latents=tuple(latents_BCFHW.shape), num_tokens=self._num_tokens(latents_BCFHW))
        shardings = self._shardings(sharding, is_attending_in_fp8=is_attending_in_fp8)
        tokens_BTX = self._run(self.in_turn, latents_BCFHW, timestep_B, conditioning, sharding, reuse, shardings)
        return self._unpatchify(tokens_BTX, latents_BCFHW.shape)

    def _run(
        self,
        blocks: Iterable[Callable[..., Tensor]],
        latents_BCFHW: Tensor,
        timestep_B: Tensor,
        conditioning: Conditioning,
        sharding: TokenSharding,
        reuse: Reuse | None = None,
        of_blocks: Sequence[TokenSharding] | None = None,
    ) -> Tensor:
        """`of_blocks` are the shardings that the blocks attend with, which differ from `sharding` in the kernel alone."""
        tokens_BTX = self.patch_embedding(latents_BCFHW).flatten(2).transpose(1, 2)
        cos, sin = self.rope(latents_BCFHW)
        # diffusers repeats each angle for both channels of a pair; we need it once
        cos, sin = (sharding.shard(angles[..., ::2]) for angles in (cos, sin))
        tokens_BTX = sharding.shard(tokens_BTX)
        time_BX, modulation = self._embed_time(timestep_B, tokens_BTX.dtype)

        def run_blocks(tokens_BTX: Tensor) -> Tensor:
            attending = of_blocks or (sharding,) * len(conditioning.blocks)
            for block, given, shared in zip(blocks, conditioning.blocks, attending, strict=True):
                inputs = SelfAttentionInputs(cos, sin, shared, given.reference)
                tokens_BTX = block(tokens_BTX, given.cross, modulation, inputs)
            return tokens_BTX

        tokens_BTX = run_blocks(tokens_BTX) if reuse is None else reuse(tokens_BTX, run_blocks)
        return sharding.gather(self._project(tokens_BTX, time_BX))

    def _shardings(self, sharding: TokenSharding, *, is_attending_in_fp8: bool) -> list[TokenSharding]:
        """For each block, `sharding` with the kernel of its self-attention. A compiled block has one graph for each kernel."""
        kernels = self.attend_in_fp8 if is_attending_in_fp8 else (None,) * len(self.attend_in_fp8)
        return [sharding if kernel is None else sharding.attending_with(kernel) for kernel in kernels]

    def _num_tokens(self, latents_BCFHW: Tensor) -> int:
        return math.prod(latents_BCFHW.shape[2:]) // int(math.prod(self.config.patch_size))

    def _embed_time(self, timestep_B: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        embedder = self.condition_embedder
        angles = embedder.timesteps_proj(timestep_B).to(embedder.time_embedder.linear_1.weight.dtype)
        time_BX = embedder.time_embedder(angles).to(dtype)
        return time_BX, embedder.time_proj(embedder.act_fn(time_BX)).unflatten(1, (6, -1))

    def _project(self, tokens_BTX: Tensor, time_BX: Tensor) -> Tensor:
        shift, scale = (self.scale_shift_table + time_BX.unsqueeze(1)).chunk(2, dim=1)
        normed = (self.norm_out(tokens_BTX.float()) * (1 + scale) + shift).type_as(tokens_BTX)
        return self.proj_out(normed)  # type: ignore[no-any-return]

    def _unpatchify(self, tokens_BTX: Tensor, shape: torch.Size) -> Tensor:
        batch, _, frames, rows, columns = shape
        f, h, w = self.config.patch_size
        patches = tokens_BTX.reshape(batch, frames // f, rows // h, columns // w, f, h, w, -1)
        return patches.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)


Part = Literal["base", "id_adapter", "ref_adapter"]
"""The parts of a LynxTransformer that have checkpoints of their own."""


def assemble_transformer(
    base: LynxTransformer,
    adapters: AdapterSpec,
    load_weights: Callable[[Part, nn.Module], None],
    *,
    device: torch.device,
    engine: EngineOptions,
    plan: ParallelPlan,
) -> LynxTransformer:
    """Makes `base` a complete transformer, in place: adds the adapters, loads all weights and sets it up for forwards.

    Args:
        base: Fresh from its configuration, without weights.
        adapters: Sizes of the adapters.
        load_weights: Fills one part with its weights; on `device`, or in host memory if `engine` offloads them.
        device: Where forwards run.
        engine: How forwards are carried out.
        plan: How connected ranks share them.

    Raises:
        WeightsMismatch: If the adapters were made for another base model.
        InvalidParams: If the plan does not fit the model or the ranks, or the attention kernel does not work on `device`.
    """
    load_weights("base", base)
    base._attach_adapters(adapters)
    load_weights("id_adapter", base.id_adapter)
    if base.ref_adapter is not None:
        load_weights("ref_adapter", base.ref_adapter)
    base._arrange_weights(engine, device)
    base.set_up(plan=plan, engine=engine)
    return base


OVERLAPPED_EXCHANGES: dict[str, Any] = {
    "reorder_for_compute_comm_overlap": True,
    "reorder_for_compute_comm_overlap_passes": ["raise_comms", "sink_waits"],
}
"""Options of torch's compiler by which a block computes its reference attention while its ranks exchange heads: an exchange begins as
early as it can, and is awaited as late as it can. Without them each exchange is awaited at once.
"""


def _compile(blocks: Iterable[nn.Module], *, options: dict[str, Any] | None) -> None:
    """Compiles blocks in place. Blocks of one kind share a graph; each new shape of the tokens needs another."""
    allow_many_graphs()
    for block in blocks:
        block.compile(fullgraph=True, dynamic=False, options=options)


@contextmanager
def _recorded_inputs(modules: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """A list that collects the first argument of each call of `modules`, in call order."""
    inputs: list[Tensor] = []
    hooks = [module.register_forward_pre_hook(lambda _, args: inputs.append(args[0])) for module in modules]
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()

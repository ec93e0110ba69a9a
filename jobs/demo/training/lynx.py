"""The model in training: lynx_model's own classes, run on batches of different people and prompts, with gradients.

Shapes: B clips, P people (B is a multiple of P, and a person's clips are adjacent), S text positions, X features, H heads, D head size.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import UMT5Config, UMT5EncoderModel

from jobs.demo.training.config import AdapterSizes, Recipe, TextSizes, TransformerSizes
from jobs.demo.training.wan_vae import LATENT_CHANNELS
from lynx_model.checkpoints.adapter_spec import AdapterSpec
from lynx_model.engine.sharding import WholeSequence
from lynx_model.network.adapters import CrossAttentionInputs, KeysValues, SelfAttentionInputs
from lynx_model.network.resampler import HEAD_DIM, Resampler
from lynx_model.network.transformer import BlockConditioning, Conditioning, LynxTransformer, Part, assemble_transformer
from lynx_model.spec import EMBEDDING_SIZE, NUM_TEXT_TOKENS, ONE_GPU, EngineOptions

TOKEN_HEAD_DIM = 64
PAD_ID = 0
IDENTITY_ENCODER = "sface-512"
FIRST_GATE = 0.3
"""What a new block lets through of its attention and its feed-forward network, before any training."""


class Batch(NamedTuple):
    """What the model sees. Token ids are padded with zeros; the switches are 0 or 1 for each clip."""

    noisy: Tensor
    timestep: Tensor
    prompt_ids: Tensor
    embedding: Tensor
    reference: Tensor
    reference_ids: Tensor
    has_identity: Tensor
    has_reference: Tensor


class TrainedLynx(nn.Module):
    """Text encoder, resampler and LynxTransformer (base and adapters), all on one device and open for training."""

    def __init__(
        self, recipe: Recipe, vocabulary: int, *, is_lite: bool, is_compiled: bool, device: torch.device
    ) -> None:
        super().__init__()
        width = recipe.transformer.num_heads * TOKEN_HEAD_DIM
        spec = describe_adapters(recipe.adapters, recipe.transformer.num_blocks, width, is_lite=is_lite)
        self.text_encoder = UMT5EncoderModel(text_config(recipe.text, vocabulary))
        nn.init.normal_(self.text_encoder.shared.weight)
        self.resampler = Resampler(**spec.resampler)
        nn.init.normal_(self.resampler.latents)
        self.transformer = make_transformer(recipe.transformer, recipe.text.width, spec, is_compiled=is_compiled)
        self.to(device).requires_grad_(True)
        # the tokens stay float32 between the blocks under autocast
        self.transformer.patch_embedding.register_forward_hook(lambda _, __, tokens: tokens.float())

    def forward(self, batch: Batch) -> Tensor:
        """The velocity, in the shape of `noisy`."""
        transformer = self.transformer
        text = self._text(batch.prompt_ids)
        tokens = self.resampler(batch.embedding[:, None])
        identity = self._per_clip(transformer.identity_keys_values(tokens), batch.has_identity)
        reference = self._per_clip(self._reference(batch), batch.has_reference)
        conditioning = Conditioning(
            tuple(
                BlockConditioning(CrossAttentionInputs(block_text, block_identity), block_reference)
                for block_text, block_identity, block_reference in zip(text, identity, reference, strict=True)
            )
        )
        whole = WholeSequence(transformer.attend_to_conditioning)
        return transformer(batch.noisy, batch.timestep, conditioning, whole)  # type: ignore[no-any-return]

    def _text(self, ids_BS: Tensor) -> list[KeysValues]:
        """Keys and values of all 512 positions, of which those behind the ids are the same row of zeros."""
        mask_BS = (ids_BS != PAD_ID).long()
        rows_BSX = self.text_encoder(ids_BS, mask_BS).last_hidden_state * mask_BS[..., None]
        short = self.transformer.text_keys_values(pad(rows_BSX, (0, 0, 0, 1)))
        num_empty = NUM_TEXT_TOKENS - ids_BS.shape[1]
        return [KeysValues(*(_with_last_repeated(x, num_empty) for x in block)) for block in short]

    def _reference(self, batch: Batch) -> Sequence[KeysValues | None]:
        """As `LynxTransformer.reference_features` and `reference_keys_values`, but also through compiled blocks, which skip hooks."""
        transformer = self.transformer
        if transformer.ref_adapter is None:
            return [None] * len(transformer.blocks)
        text = [KeysValues(*(x.expand(len(batch.reference), -1, -1, -1) for x in kv)) for kv in
                self._text(batch.reference_ids[None])]  # fmt: skip
        conditioning = Conditioning(tuple(BlockConditioning(CrossAttentionInputs(kv, None), None) for kv in text))
        timestep = torch.zeros(len(batch.reference), dtype=torch.long, device=batch.reference.device)
        features: list[Tensor] = []
        blocks = [_recorded(block, features) for block in transformer.blocks]
        whole = WholeSequence(transformer.attend_to_conditioning)
        transformer._run(blocks, batch.reference, timestep, conditioning, whole)
        return transformer.reference_keys_values(features)

    @staticmethod
    def _per_clip(blocks: Sequence[KeysValues | None], switch_B: Tensor) -> list[KeysValues | None]:
        """Each person's keys and values for each of the person's clips; values of a clip that is switched off are zero."""
        return [block and _per_clip(block, switch_B) for block in blocks]


def _per_clip(of_people: KeysValues, switch_B: Tensor) -> KeysValues:
    clips_each = len(switch_B) // len(of_people.key)
    key, value = (x.repeat_interleave(clips_each, dim=0) for x in of_people)
    return KeysValues(key, value * switch_B.view(-1, 1, 1, 1).to(value.dtype))


def _with_last_repeated(x_BSHD: Tensor, num: int) -> Tensor:
    """The last position taken `num` times."""
    return torch.cat([x_BSHD[:, :-1], x_BSHD[:, -1:].expand(-1, num, -1, -1)], dim=1)


def _recorded(block: WanTransformerBlock, features: list[Tensor]) -> Callable[..., Tensor]:
    """`block`, which also puts the input of its self-attention into `features`."""

    def call(tokens: Tensor, cross: CrossAttentionInputs, modulation: Tensor, inputs: SelfAttentionInputs) -> Tensor:
        shift, scale, *_ = (block.scale_shift_table + modulation.float()).chunk(6, dim=1)
        features.append((block.norm1(tokens.float()) * (1 + scale) + shift).type_as(tokens))
        return block(tokens, cross, modulation, inputs)  # type: ignore[no-any-return]

    return call


def text_config(sizes: TextSizes, vocabulary: int) -> UMT5Config:
    return UMT5Config(
        vocab_size=vocabulary,
        d_model=sizes.width,
        d_kv=sizes.width // sizes.num_heads,
        d_ff=sizes.ff_width,
        num_layers=sizes.num_layers,
        num_heads=sizes.num_heads,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=PAD_ID,
    )


def describe_adapters(sizes: AdapterSizes, num_blocks: int, width: int, *, is_lite: bool) -> AdapterSpec:
    """Full has an ID- and a Ref-adapter layer on every block; lite has an ID-adapter layer on every second one."""
    return AdapterSpec(
        token_size=width,
        channels=width,
        num_id_layers=math.ceil(num_blocks / 2) if is_lite else num_blocks,
        has_id_bias=not is_lite,
        num_registers=0 if is_lite else sizes.num_registers,
        num_ref_layers=0 if is_lite else num_blocks,
        resampler={
            "depth": sizes.resampler_depth,
            "width": sizes.resampler_width,
            "inner_width": sizes.resampler_width // HEAD_DIM * HEAD_DIM,
            "ff_width": sizes.resampler_ff_width,
            "num_queries": sizes.num_tokens,
            "embedding_size": EMBEDDING_SIZE,
            "token_size": width,
        },
        identity_encoder=IDENTITY_ENCODER,
    )


def make_transformer(
    sizes: TransformerSizes, text_width: int, spec: AdapterSpec, *, is_compiled: bool
) -> LynxTransformer:
    """A new transformer with random weights, on the CPU."""
    base = LynxTransformer(
        patch_size=(1, 2, 2),
        num_attention_heads=sizes.num_heads,
        attention_head_dim=TOKEN_HEAD_DIM,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=text_width,
        freq_dim=sizes.frequencies,
        ffn_dim=sizes.ff_width,
        num_layers=sizes.num_blocks,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=1024,
    )
    engine = EngineOptions(precision="float32", attention="sdpa", compile=is_compiled)
    return assemble_transformer(base, spec, _draw_weights, device=torch.device("cpu"), engine=engine, plan=ONE_GPU)


def _draw_weights(part: Part, module: nn.Module) -> None:
    """Random first weights; the last layer starts at 0, and the blocks' gates at `FIRST_GATE`."""
    if part != "base":
        module.to_empty(device="cpu")
    for name, parameter in module.named_parameters():
        if name.endswith("registers"):
            nn.init.normal_(parameter)
        elif parameter.ndim >= 2 and "scale_shift_table" not in name:
            nn.init.xavier_uniform_(parameter.flatten(1))
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    if isinstance(module, LynxTransformer):
        _start_quietly(module)


@torch.no_grad()
def _start_quietly(base: LynxTransformer) -> None:
    nn.init.normal_(base.condition_embedder.time_proj.weight, std=0.02)
    nn.init.zeros_(base.proj_out.weight)
    base.scale_shift_table.zero_()
    for block in base.blocks:
        block.scale_shift_table.zero_()
        block.scale_shift_table[0, [2, 5]] = FIRST_GATE

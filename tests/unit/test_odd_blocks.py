"""Lynx-lite on a base model with an odd number of blocks, beside a reference of its own: layer i serves block 2 i."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttention
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import rms_norm, scaled_dot_product_attention

from lynx_batch.config import parse_run_config
from lynx_batch.preparation.model import check_model
from lynx_model import sampler
from lynx_model.checkpoints.adapter_spec import check_fit, describe_adapters
from lynx_model.errors import WeightsMismatch
from lynx_model.network.resampler import Resampler
from lynx_model.pipeline import LynxPipeline
from tests.builders import PARAMS, make_subject
from tests.models import BASE, MODEL, TRANSFORMER

ONE_BRANCH = replace(PARAMS, guidance_scale=1.0, num_inference_steps=3, ip_scale=0.8)


def make_base(folder: Path, num_blocks: int) -> Path:
    """The tiny base model with that many blocks; those beyond its own are copies with other weights."""
    shutil.copytree(BASE, folder, ignore=shutil.ignore_patterns("lynx-fingerprint.json"))
    tensors = load_file(folder / TRANSFORMER)
    kept = {name: tensor for name, tensor in tensors.items() if _block(name) < num_blocks}
    for index in range(4, num_blocks):
        copied = {name: tensor for name, tensor in tensors.items() if _block(name) == index % 4}
        kept |= {name.replace(f"blocks.{index % 4}.", f"blocks.{index}."): 0.9 * t for name, t in copied.items()}
    save_file(kept, folder / TRANSFORMER)
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_layers": num_blocks}))
    return folder


def _block(tensor: str) -> int:
    return int(tensor.split(".")[1]) if tensor.startswith("blocks.") else -1


def make_adapter(folder: Path, name: str, num_layers: int) -> Path:
    """The tiny adapter, with so many layers in its ID-adapter, all of them different; without a Ref-adapter."""
    shutil.copytree(MODEL / name, folder, ignore=shutil.ignore_patterns("lynx-fingerprint.json", "ref_*"))
    layer = {
        key.removeprefix("0."): t for key, t in load_file(folder / "ip_layers.safetensors").items() if key[0] == "0"
    }
    random = torch.Generator().manual_seed(0)
    layers = [{key: torch.randn(t.shape, generator=random) for key, t in layer.items()} for _ in range(num_layers)]
    tensors = {f"{index}.{key}": tensor for index, layer in enumerate(layers) for key, tensor in layer.items()}
    save_file(tensors, folder / "ip_layers.safetensors")
    return folder


class LiteAttention:
    """Text attention of a block and, where there is a layer for it, attention to the identity tokens."""

    def __init__(self, layer: dict[str, Tensor] | None, identity: Tensor) -> None:
        self.layer, self.identity = layer, identity

    def __call__(
        self, attn: WanAttention, hidden_states: Tensor, encoder_hidden_states: Tensor, *_: object, **__: object
    ) -> Tensor:
        query = attn.norm_q(attn.to_q(hidden_states))
        text = encoder_hidden_states
        attended = self._attend(query, attn.norm_k(attn.to_k(text)), attn.to_v(text), attn.heads)
        if self.layer is not None:
            key, value = (self.identity @ self.layer[f"to_{which}_ip.weight"].T for which in "kv")
            key = rms_norm(key, key.shape[-1:], eps=1e-5)
            attended = attended + ONE_BRANCH.ip_scale * self._attend(query, key, value, attn.heads)
        return attn.to_out[0](attended)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, num_heads: int) -> Tensor:
        split = (x.unflatten(2, (num_heads, -1)).transpose(1, 2) for x in (query, key, value))
        return scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)


@torch.inference_mode()
def reference_latents(base: Path, adapter: Path, pipe: LynxPipeline) -> Tensor:
    """What diffusers' own transformer makes of the clip, with the layer i of the adapter at its block 2 i."""
    resampler = Resampler(**describe_adapters(adapter, None).resampler)
    resampler.load_state_dict(load_file(adapter / "resampler.safetensors"))
    identity = resampler(torch.from_numpy(make_subject().face_embedding).view(1, 1, -1))
    tensors = load_file(adapter / "ip_layers.safetensors")
    transformer = WanTransformer3DModel.from_pretrained(base / "transformer")
    for index, block in enumerate(transformer.blocks):
        layer, rest = divmod(index, 2)
        weights = {name.removeprefix(f"{layer}."): t for name, t in tensors.items() if name.startswith(f"{layer}.")}
        block.attn2.set_processor(LiteAttention(None if rest else weights, identity))
    text = pipe._model.text_encoder.embed(ONE_BRANCH.prompt)
    scheduler = sampler.make_schedule(pipe._model.scheduler_config, ONE_BRANCH, torch.device("cpu"))
    latents = sampler.draw_noise(ONE_BRANCH, torch.device("cpu"))
    for timestep in scheduler.timesteps:
        (velocity,) = transformer(latents, timestep[None], text, return_dict=False)
        (latents,) = scheduler.step(velocity, timestep, latents, return_dict=False)
    return latents


@pytest.mark.parametrize(("num_blocks", "num_layers"), [(1, 1), (3, 2), (4, 2), (5, 3)])
def test_layer_i_of_lynx_lite_serves_block_2i_for_any_number_of_blocks(
    tmp_path: Path, num_blocks: int, num_layers: int
) -> None:
    base = make_base(tmp_path / "base", num_blocks)
    adapter = make_adapter(tmp_path / "adapter", "lynx_lite", num_layers)
    pipe = LynxPipeline.load(base=str(base), adapters=str(adapter), device="cpu", dtype="float32")

    latents = pipe.denoise(make_subject(), ONE_BRANCH)

    assert (latents - reference_latents(base, adapter, pipe)).abs().max() < 2e-5
    assert (latents - pipe.denoise(make_subject(1), ONE_BRANCH)).abs().max() > 1e-3
    assert pipe.decode(latents).shape == (9, 48, 64, 3)


@pytest.mark.parametrize(
    ("name", "num_layers", "num_blocks", "expected"),
    [
        ("lynx_lite", 2, 5, "one for every second block of the base model's 5 is 3"),
        ("lynx_lite", 4, 5, "one for every second block of the base model's 5 is 3"),
        ("lynx_lite", 1, 4, "one for every second block of the base model's 4 is 2"),
        ("lynx_lite", 4, 4, "one for every second block of the base model's 4 is 2"),
        ("lynx_full", 3, 5, "one for every block of the base model's 5 is 5"),
        ("lynx_full", 2, 4, "one for every block of the base model's 4 is 4"),
    ],
)
def test_an_adapter_of_another_number_of_layers_is_refused(
    tmp_path: Path, name: str, num_layers: int, num_blocks: int, expected: str
) -> None:
    spec = describe_adapters(make_adapter(tmp_path / "adapter", name, num_layers), None)
    with pytest.raises(WeightsMismatch, match=re.escape(f"ID-adapter has {num_layers} layers, but {expected}")):
        check_fit(spec, num_blocks=num_blocks, channels=96)


def test_a_run_takes_lynx_lite_on_an_odd_number_of_blocks(tmp_path: Path, face_pack: Path) -> None:
    model = {
        "base": str(make_base(tmp_path / "base", 5)),
        "adapters": str(make_adapter(tmp_path / "adapter", "lynx_lite", 3)),
    }
    faces = {"pack": str(face_pack), "identity": "pack"}
    run = {"manifest": "m", "output": "o", "model": model, "faces": faces}
    assert check_model(parse_run_config(run, source="test")).identity.id_adapter

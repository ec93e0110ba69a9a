"""Writes the trained model in the layout of the published weights: a Diffusers folder of Wan2.1, and adapter folders of Lynx."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor

from jobs.demo.training.latents import Latents
from jobs.demo.training.lynx import IDENTITY_ENCODER, TrainedLynx
from jobs.demo.training.saved import save_weights
from lynx_model.checkpoints.adapter_spec import DECLARATION_FILE, ID_FILE, RESAMPLER_FILE
from lynx_model.spec import REF_FILE

BASE = "Wan2.1-T2V-small-Diffusers"
KEPT_FLOAT32 = ("time_embedder", "scale_shift_table", "norm")
DIFFUSERS_VERSION = "0.33.1"
"""The version whose keys the configurations hold, as the published ones do."""

CONFIG_KEYS = {
    "transformer": (
        "added_kv_proj_dim", "attention_head_dim", "cross_attn_norm", "eps", "ffn_dim", "freq_dim", "image_dim", "in_channels",
        "num_attention_heads", "num_layers", "out_channels", "patch_size", "qk_norm", "rope_max_seq_len", "text_dim",
    ),
    "vae": (
        "attn_scales", "base_dim", "decoder_base_dim", "dim_mult", "dropout", "num_res_blocks", "temperal_downsample", "z_dim",
    ),
}  # fmt: skip
MODEL_INDEX = {
    "_class_name": "WanPipeline",
    "_diffusers_version": DIFFUSERS_VERSION,
    "scheduler": ["diffusers", "UniPCMultistepScheduler"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}
SCHEDULER = {
    "_class_name": "UniPCMultistepScheduler",
    "_diffusers_version": DIFFUSERS_VERSION,
    "flow_shift": 3.0,
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "solver_order": 2,
    "solver_type": "bh2",
    "use_flow_sigmas": True,
}


def save_model(model: TrainedLynx, vae: AutoencoderKLWan, latents: Latents, state: Path) -> None:
    """Writes `model/` in `state`: full with the base model, lite its adapters alone."""
    folder = state / "model"
    adapters = folder / ("lynx_full" if model.transformer.ref_adapter is not None else "lynx_lite")
    if model.transformer.ref_adapter is not None:
        _save_base(folder / BASE, model, vae, latents, state / "tokenizer")
        _save(adapters / REF_FILE, model.transformer.ref_adapter.state_dict())
    _save(adapters / RESAMPLER_FILE, model.resampler.state_dict())
    _save(adapters / ID_FILE, model.transformer.id_adapter.state_dict())
    _write_json(adapters / DECLARATION_FILE, {"identity_encoder": IDENTITY_ENCODER})


def _save_base(base: Path, model: TrainedLynx, vae: AutoencoderKLWan, latents: Latents, tokenizer: Path) -> None:
    statistics = {"latents_mean": latents.mean.tolist(), "latents_std": latents.std.tolist()}
    transformer = {k: v for k, v in model.transformer.state_dict().items() if "_adapter." not in k}
    _save(base / "transformer" / "diffusion_pytorch_model.safetensors", _with_separate_projections(transformer))
    _write_json(base / "transformer" / "config.json", _diffusers_config("transformer", model.transformer))
    _save(base / "vae" / "diffusion_pytorch_model.safetensors", vae.state_dict())
    _write_json(base / "vae" / "config.json", _diffusers_config("vae", vae) | statistics)
    text_encoder = {k: v for k, v in model.text_encoder.state_dict().items() if k != "encoder.embed_tokens.weight"}
    _save(base / "text_encoder" / "model.safetensors", text_encoder)
    config = json.loads(model.text_encoder.config.to_json_string(use_diff=False))
    _write_json(base / "text_encoder" / "config.json", config | {"architectures": ["UMT5EncoderModel"]})
    _write_json(base / "scheduler" / "scheduler_config.json", SCHEDULER)
    _write_json(base / "model_index.json", MODEL_INDEX)
    shutil.copytree(tokenizer, base / "tokenizer", dirs_exist_ok=True)


def _with_separate_projections(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value of self-attention as the checkpoint names them, instead of the one matrix of `LynxTransformer`."""
    separate: dict[str, Tensor] = {}
    for name, value in weights.items():
        if ".to_qkv." in name:
            parts = zip(("to_q", "to_k", "to_v"), value.chunk(3), strict=True)
            separate |= {name.replace("to_qkv", part): matrix for part, matrix in parts}
        else:
            separate[name] = value
    return separate


def _save(file: Path, weights: Mapping[str, Tensor]) -> None:
    save_weights(file, {name: _rounded(name, value) for name, value in weights.items()}, {"format": "pt"})


def _rounded(name: str, value: Tensor) -> Tensor:
    dtype = torch.float32 if any(part in name for part in KEPT_FLOAT32) else torch.bfloat16
    return value.detach().to("cpu", dtype).contiguous()


def _diffusers_config(part: str, module: WanTransformer3DModel | AutoencoderKLWan) -> dict[str, Any]:
    name = {"transformer": "WanTransformer3DModel", "vae": "AutoencoderKLWan"}[part]
    return {"_class_name": name, "_diffusers_version": DIFFUSERS_VERSION} | {
        k: module.config[k] for k in CONFIG_KEYS[part]
    }


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")

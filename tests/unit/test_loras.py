"""A LoRA file is added to the base model exactly, or refused with the tensor that does not fit."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_non_diffusers_wan_lora_to_diffusers
from safetensors.torch import load_file, save_file
from torch import Tensor

from lynx_model.checkpoints.loras import describe_loras
from lynx_model.errors import InvalidParams, MissingFile, WeightsMismatch
from lynx_model.pipeline import LynxPipeline
from lynx_model.spec import EngineOptions, LoraSource, ModelSource
from lynx_model.weights import load_model
from tests.builders import PARAMS, make_subject
from tests.models import BASE, MODEL, TRANSFORMER

Tensors = dict[str, Tensor]

ORIGINAL = {
    "blocks.0.self_attn.q": "blocks.0.attn1.to_q",
    "blocks.1.self_attn.o": "blocks.1.attn1.to_out.0",
    "blocks.2.cross_attn.k": "blocks.2.attn2.to_k",
    "blocks.2.cross_attn.v": "blocks.2.attn2.to_v",
    "blocks.3.ffn.0": "blocks.3.ffn.net.0.proj",
    "blocks.3.ffn.2": "blocks.3.ffn.net.2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_projection.1": "condition_embedder.time_proj",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "head.head": "proj_out",
    "patch_embedding": "patch_embedding",
}
"""Modules of the original Wan, and what diffusers calls them."""

QUERY = "transformer.blocks.0.attn1.to_q"


def base_weights() -> Tensors:
    return load_file(BASE / TRANSFORMER)


def random_factors(module: str, rank: int = 4, seed: int = 0) -> tuple[Tensor, Tensor]:
    """`down` and `up` for a module of the tiny model, by its name in diffusers."""
    generator = torch.Generator().manual_seed(seed)
    out, *inputs = base_weights()[f"{module}.weight"].shape
    flat = (out, rank) if len(inputs) == 1 else (out, rank, *([1] * (len(inputs) - 1)))
    return torch.randn(rank, *inputs, generator=generator), torch.randn(flat, generator=generator)


def product(down: Tensor, up: Tensor) -> Tensor:
    return up.flatten(1) @ down.flatten(1)


def peft_file(file: Path, modules: list[str], seed: int = 0, metadata: dict[str, str] | None = None) -> str:
    tensors: Tensors = {}
    for module in modules:
        down, up = random_factors(module, seed=seed)
        tensors |= {f"transformer.{module}.lora_A.weight": down, f"transformer.{module}.lora_B.weight": up}
    save_file(tensors, file, metadata)
    return str(file)


def loaded(*loras: str | LoraSource, dtype: str = "float32") -> Tensors:
    """The transformer's weights after loading, by their names in the checkpoint."""
    source = ModelSource.of(str(BASE), str(MODEL / "lynx_lite"), loras)
    engine = EngineOptions().for_dtype(dtype)
    weights = dict(load_model(source, device=torch.device("cpu"), engine=engine).transformer.named_parameters())
    for name in [name for name in weights if ".to_qkv." in name]:
        parts = zip("qkv", weights.pop(name).chunk(3), strict=True)
        weights |= {name.replace("to_qkv", f"to_{part}"): weight for part, weight in parts}
    return weights


def assert_changed_by(found: Tensors, expected: Tensors) -> None:
    """Each tensor of the base is what it was, plus its entry in `expected`."""
    for name, weight in base_weights().items():
        wanted = weight + expected[name].reshape(weight.shape) if name in expected else weight
        torch.testing.assert_close(found[name], wanted, rtol=1e-6, atol=1e-6)
    assert expected.keys() <= base_weights().keys()


def test_a_file_in_diffusers_layout_adds_its_products(tmp_path: Path) -> None:
    modules = list(ORIGINAL.values())
    found = loaded(LoraSource(file=peft_file(tmp_path / "a.safetensors", modules), scale=0.8))
    assert_changed_by(found, {f"{module}.weight": 0.8 * product(*random_factors(module)) for module in modules})


@pytest.mark.parametrize("alpha", [None, 2.0])
def test_a_file_in_the_original_layout_adds_its_products_times_alpha_over_rank(
    tmp_path: Path, alpha: float | None
) -> None:
    tensors: Tensors = {}
    for original, module in ORIGINAL.items():
        down, up = random_factors(module)
        name = f"diffusion_model.{original}"
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha)
    save_file(tensors, tmp_path / "a.safetensors")

    found = loaded(LoraSource(file=str(tmp_path / "a.safetensors"), scale=0.5))
    factor = 0.5 * (1 if alpha is None else alpha / 4)
    expected = {f"{module}.weight": factor * product(*random_factors(module)) for module in ORIGINAL.values()}
    assert_changed_by(found, expected)


def test_whole_differences_of_weights_biases_and_modulations_are_added_as_they_are(tmp_path: Path) -> None:
    changes = {
        "blocks.0.norm3.diff": "blocks.0.norm2.weight",
        "blocks.0.norm3.diff_b": "blocks.0.norm2.bias",
        "blocks.1.self_attn.norm_k.diff": "blocks.1.attn1.norm_k.weight",
        "blocks.1.ffn.2.diff_b": "blocks.1.ffn.net.2.bias",
        "blocks.2.modulation.diff": "blocks.2.scale_shift_table",
        "head.modulation.diff": "scale_shift_table",
        "head.head.diff": "proj_out.weight",
        "patch_embedding.diff_b": "patch_embedding.bias",
    }
    base = base_weights()
    differences = {name: torch.randn(base[target].shape) for name, target in changes.items()}
    save_file({f"diffusion_model.{name}": x for name, x in differences.items()}, tmp_path / "a.safetensors")

    found = loaded(LoraSource(file=str(tmp_path / "a.safetensors"), scale=-1.5))
    assert_changed_by(found, {target: -1.5 * differences[name] for name, target in changes.items()})


@pytest.mark.parametrize(
    ("prefix", "down_ending", "up_ending"),
    [
        ("", ".lora_A.default.weight", ".lora_B.default.weight"),  # DiffSynth
        ("pipe.dit.", ".lora_A.default.weight", ".lora_B.default.weight"),
        ("", ".lora_A.weight", ".lora_B.weight"),
        ("diffusion_model.", ".lora_A.weight", ".lora_B.weight"),  # ComfyUI
        ("model.diffusion_model.", ".lora_down.weight", ".lora_up.weight"),  # cut out of a ComfyUI checkpoint
    ],
)
def test_names_of_other_trainers_are_understood(tmp_path: Path, prefix: str, down_ending: str, up_ending: str) -> None:
    tensors: Tensors = {}
    for original, module in ORIGINAL.items():
        tensors[prefix + original + down_ending], tensors[prefix + original + up_ending] = random_factors(module)
    save_file(tensors, tmp_path / "a.safetensors")
    expected = {f"{module}.weight": product(*random_factors(module)) for module in ORIGINAL.values()}
    assert_changed_by(loaded(str(tmp_path / "a.safetensors")), expected)


@pytest.mark.parametrize(
    "names", [ORIGINAL, {module: module for module in ORIGINAL.values()}], ids=["wan", "diffusers"]
)
def test_names_with_underscores_for_dots_are_understood(tmp_path: Path, names: dict[str, str]) -> None:
    tensors: Tensors = {}
    for theirs, module in names.items():
        name = "lora_unet_" + theirs.replace(".", "_")
        tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = random_factors(module)
        tensors[f"{name}.alpha"] = torch.tensor(2.0)
    save_file(tensors, tmp_path / "a.safetensors")
    expected = {f"{module}.weight": 0.5 * product(*random_factors(module)) for module in ORIGINAL.values()}
    assert_changed_by(loaded(str(tmp_path / "a.safetensors")), expected)


def test_differences_of_modulations_beside_products_are_added(tmp_path: Path) -> None:
    base = base_weights()
    targets = {"blocks.1.diff_m": "blocks.1.scale_shift_table", "head.diff_m": "scale_shift_table"}
    differences = {name: torch.randn(base[target].shape) for name, target in targets.items()}
    down, up = random_factors("blocks.1.attn1.to_q")
    tensors = {f"diffusion_model.{name}": difference for name, difference in differences.items()}
    tensors |= {
        f"diffusion_model.blocks.1.self_attn.q.lora_{which}.weight": t for which, t in (("down", down), ("up", up))
    }
    save_file(tensors, tmp_path / "a.safetensors")
    expected = {target: 0.5 * differences[name] for name, target in targets.items()}
    expected["blocks.1.attn1.to_q.weight"] = 0.5 * product(down, up)
    assert_changed_by(loaded(LoraSource(file=str(tmp_path / "a.safetensors"), scale=0.5)), expected)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("lora_unet_blocks_0_self_attn_q.hada_w1_a", "LoHa, LoKr and OFT are not supported"),
        ("lycoris_blocks_0_self_attn_q.lokr_w1", "LoHa, LoKr and OFT are not supported"),
        ("diffusion_model.blocks.0.self_attn.q.dora_scale", "use_dora: false"),
        ("lora_te1_encoder_block_0.lora_down.weight", "save the LoRA of the DiT alone"),
        ("diffusion_model.blocks.0.cross_attn.k_img.lora_down.weight", "take the one for text-to-video"),
        ("lora_unet_blocks_0_cross_attn_k_img.lora_down.weight", "take the one for text-to-video"),
        ("net.wan.blocks.0.self_attn.q.lora_down.weight", "save the LoRA with diffusers' names"),
        ("lycoris_blocks_0_self_attn_q.lora_down.weight", "save the LoRA with diffusers' names"),
    ],
)
def test_a_refused_tensor_comes_with_what_to_do_about_it(tmp_path: Path, name: str, advice: str) -> None:
    pair = {name: torch.zeros(4, 96), name.replace("down", "up"): torch.zeros(96, 4)}
    save_file(pair, tmp_path / "a.safetensors")
    with pytest.raises(WeightsMismatch, match=advice):
        loaded(str(tmp_path / "a.safetensors"))


def test_diffusers_own_converter_reads_the_original_layout_alike(tmp_path: Path) -> None:
    tensors: Tensors = {}
    for original, module in ORIGINAL.items():
        if original != "patch_embedding":  # which it refuses
            name = f"diffusion_model.{original}"
            tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = random_factors(module)
        if original.startswith("blocks"):
            tensors[f"{name}.alpha"] = torch.tensor(3.0)
    save_file(tensors, tmp_path / "original.safetensors")
    save_file(_convert_non_diffusers_wan_lora_to_diffusers(tensors), tmp_path / "diffusers.safetensors")

    ours, theirs = (loaded(str(tmp_path / f"{name}.safetensors")) for name in ("original", "diffusers"))
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-5, atol=1e-5)


def test_two_loras_add_up(tmp_path: Path) -> None:
    module = "blocks.0.attn1.to_q"
    files = [peft_file(tmp_path / f"{seed}.safetensors", [module], seed=seed) for seed in (0, 1)]
    found = loaded(files[0], LoraSource(file=files[1], scale=0.3))
    first, second = (product(*random_factors(module, seed=seed)) for seed in (0, 1))
    assert_changed_by(found, {f"{module}.weight": first + 0.3 * second})


@pytest.mark.parametrize(("settings", "factor"), [({"transformer.lora_alpha": 8, "transformer.r": 4}, 2.0), ({}, 1.0)])
def test_the_alpha_that_diffusers_notes_in_a_header_counts(
    tmp_path: Path, settings: dict[str, int], factor: float
) -> None:
    module = "blocks.0.attn1.to_q"
    metadata = {"format": "pt", "lora_adapter_metadata": json.dumps(settings)}
    found = loaded(peft_file(tmp_path / "a.safetensors", [module], metadata=metadata))
    assert_changed_by(found, {f"{module}.weight": factor * product(*random_factors(module))})


@pytest.mark.parametrize("settings", ['{"transformer.use_rslora": true}', "[]", "not json"])
def test_settings_in_a_header_that_mean_something_else_are_refused(tmp_path: Path, settings: str) -> None:
    file = peft_file(tmp_path / "a.safetensors", ["blocks.0.attn1.to_q"], metadata={"lora_adapter_metadata": settings})
    with pytest.raises(WeightsMismatch, match=r"a\.safetensors: lora_adapter_metadata"):
        loaded(file)


def test_a_file_of_pefts_own_takes_its_alpha_from_the_configuration_beside_it(tmp_path: Path) -> None:
    down, up = random_factors("blocks.0.attn1.to_q")
    names = ("base_model.model.blocks.0.attn1.to_q.lora_A.weight", "base_model.model.blocks.0.attn1.to_q.lora_B.weight")
    file = tmp_path / "adapter_model.safetensors"
    save_file(dict(zip(names, (down, up), strict=True)), file)
    with pytest.raises(MissingFile, match=r"adapter_config\.json: no such file"):
        loaded(str(file))

    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2, "r": 4}))
    assert_changed_by(loaded(str(file)), {"blocks.0.attn1.to_q.weight": 0.5 * product(down, up)})

    (tmp_path / "adapter_config.json").write_text(json.dumps({"lora_alpha": 2, "use_dora": True}))
    with pytest.raises(WeightsMismatch, match=r"adapter_config\.json: use_dora=True is not supported"):
        loaded(str(file))


def test_the_sum_is_rounded_once(tmp_path: Path) -> None:
    module = "blocks.0.attn1.to_q"
    found = loaded(peft_file(tmp_path / "a.safetensors", [module]), dtype="bfloat16")[f"{module}.weight"]
    exact = base_weights()[f"{module}.weight"].float() + product(*random_factors(module))
    assert torch.equal(found, exact.bfloat16())


def test_a_pipeline_with_a_lora_renders_another_picture(tmp_path: Path) -> None:
    file = peft_file(tmp_path / "a.safetensors", ["blocks.0.attn1.to_v"])

    def render(scale: float) -> Tensor:
        loras = [LoraSource(file=file, scale=scale)]
        pipe = LynxPipeline.load(str(BASE), str(MODEL / "lynx_lite"), "cpu", "float32", loras=loras)
        return pipe.denoise(make_subject(), replace(PARAMS, num_inference_steps=1, guidance_scale=1.0))

    assert (render(1.0) - render(0.0)).abs().max() > 1e-3


def drop(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def put(name: str, *shape: int) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: torch.zeros(shape)})


FAULTS = [
    (
        drop(f"{QUERY}.lora_B.weight"),
        f"blocks.0.attn1.to_q: expected a pair of down and up, or one difference, found {QUERY}.lora_A.weight",
    ),
    (put(f"{QUERY}.diff", 96, 96), "blocks.0.attn1.to_q: expected a pair of down and up, or one difference, found "),
    (
        put(f"{QUERY}.lora_A.weight", 4, 95),
        f"tensor {QUERY}.lora_A.weight: expected shape (4, 96), found shape (4, 95)",
    ),
    (
        put(f"{QUERY}.lora_A.weight", 5, 96),
        f"tensor {QUERY}.lora_B.weight: expected shape (96, 5), found shape (96, 4)",
    ),
    (put(f"{QUERY}.lora_A.weight"), f"tensor {QUERY}.lora_A.weight: expected shape (1, 96), found shape (1,)"),
    (
        put(f"{QUERY}.lora_A.weight", 0, 96),
        f"tensor {QUERY}.lora_A.weight: expected shape (1, 96), found shape (0, 96)",
    ),
    (put(f"{QUERY}.alpha", 2), f"tensor {QUERY}.alpha: expected shape (), found shape (2,)"),
    (
        put(f"{QUERY}.dora_scale", 96),
        f"tensor {QUERY}.dora_scale: expected a name that ends in .lora_A.weight, ",
    ),
    (
        put("diffusion_model.blocks.0.self_attn.q.lora_down.weight", 4, 96),
        "expected once, found ",
    ),
    (
        put("diffusion_model.blocks.0.cross_attn.k_img.diff_b", 96),
        "tensor diffusion_model.blocks.0.cross_attn.k_img.diff_b: expected a tensor of the base model to change, found no blocks.0.cross_attn.k_img.bias",
    ),
    (put("diffusion_model.blocks.4.ffn.0.diff_b", 96), "found no blocks.4.ffn.net.0.proj.bias"),
    (
        put("transformer.proj_out.diff", 3, 96),
        "tensor transformer.proj_out.diff: expected shape (64, 96), found shape (3, 96)",
    ),
]


@pytest.mark.parametrize(("edit", "fault"), FAULTS, ids=[str(number) for number in range(len(FAULTS))])
def test_a_tensor_that_does_not_fit_is_named_before_a_weight_is_read(
    tmp_path: Path, edit: Callable[[Tensors], object], fault: str
) -> None:
    file = tmp_path / "a.safetensors"
    tensors = load_file(peft_file(file, ["blocks.0.attn1.to_q"]))
    edit(tensors)
    save_file(tensors, file)
    with pytest.raises(WeightsMismatch, match=rf"a\.safetensors: .*{re.escape(fault)}"):
        describe_loras(ModelSource.of(str(BASE), str(MODEL / "lynx_lite"), [str(file)]))


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    save_file({}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsMismatch, match="must change a tensor of the base model, but holds none"):
        loaded(str(tmp_path / "a.safetensors"))


def test_a_quantised_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    tensors = load_file(peft_file(file, ["blocks.0.attn1.to_q"]))
    save_file({name: tensor.to(torch.int8) for name, tensor in tensors.items()}, file)
    with pytest.raises(WeightsMismatch, match=r"to_q\.lora_A\.weight: expected one of .*, found I8: a quantised LoRA"):
        loaded(str(file))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_finite_number_is_told_with_its_file_and_tensor(tmp_path: Path, value: float) -> None:
    file = tmp_path / "a.safetensors"
    save_file({"diffusion_model.blocks.0.modulation.diff": torch.full((1, 6, 96), value)}, file)
    with pytest.raises(
        WeightsMismatch, match=r"a\.safetensors: its change to blocks\.0\.scale_shift_table must be finite"
    ):
        loaded(str(file))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"nowhere\.safetensors: no such file"):
        loaded(str(tmp_path / "nowhere.safetensors"))


@pytest.mark.parametrize("scale", [float("nan"), 11.0])
def test_a_scale_must_be_a_sensible_number(scale: float) -> None:
    with pytest.raises(InvalidParams, match="scale"):
        LoraSource(file="a", scale=scale)

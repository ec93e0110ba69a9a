"""Finds out from a LoRA file's header what it changes in the base model, and checks that it fits; free of torch.

Layouts, with the name of a tensor as an example:

    diffusers       transformer.blocks.0.attn1.to_q.lora_A.weight, lora_B
    peft            base_model.model.<as diffusers>, and adapter_config.json beside the file
    original Wan    diffusion_model.blocks.0.self_attn.q.lora_down.weight, lora_up, alpha
    LightX2V        as original Wan, with whole differences: diff (weight), diff_b (bias), blocks.0.diff_m (modulation)
    DiffSynth       blocks.0.self_attn.q.lora_A.default.weight, lora_B.default
    musubi-tuner    lora_unet_blocks_0_self_attn_q.lora_down.weight, lora_up, alpha

We do not use diffusers' converter: it needs the tensors in memory and silently drops differences of norms.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from lynx_model.checkpoints.checkpoint import read_tensors
from lynx_model.checkpoints.json_file import read_json
from lynx_model.checkpoints.safetensors_header import REAL_DTYPES, Shape, TensorHeader, read_header, read_metadata
from lynx_model.errors import WeightsMismatch
from lynx_model.spec import LoraSource, ModelSource

PREFIX = re.compile(r"^(transformer|(model\.)?diffusion_model|base_model\.model|(pipe\.)?dit)\.")
FLAT_PREFIX = "lora_unet_"
PEFT_PREFIX, PEFT_CONFIG_FILE = "base_model.model.", "adapter_config.json"

PARTS = {
    "down": re.compile(r"\.lora_(A|down)(\.[\w-]+)?\.weight"),
    "up": re.compile(r"\.lora_(B|up)(\.[\w-]+)?\.weight"),
    "alpha": re.compile(r"\.alpha"),
    "diff": re.compile(r"\.diff"),
    "diff_b": re.compile(r"\.diff_b"),
}
"""The role of a tensor, by the end of its name; peft may put an adapter's name before `.weight`."""

MODULATION_DIFF = ".diff_m"

ADVICE = (
    (re.compile(r"\.(hada|lokr|oft|boft|glora)_"), "LoHa, LoKr and OFT are not supported: train it with networks.lora"),
    (re.compile(r"\.(dora_scale|lora_magnitude_vector)"), "DoRA is not supported: train it without (use_dora: false)"),
    (re.compile(r"\.lora_mid\."), "Tucker products are not supported: train it without conv_dim"),
    (
        re.compile(r"^(lora_te|text_encoder|conditioner)"),
        "a LoRA of the text encoder is not supported: save the LoRA of the DiT alone",
    ),
    (
        re.compile(r"(_img|img_emb|image_embedder|add_[kv]_proj)"),
        "this is a LoRA for image-to-video: take the one for text-to-video",
    ),
)
"""Advice about a refused tensor, by its name."""

UNKNOWN_PREFIX = (
    re.compile(r"^.+[._]blocks[._]\d"),
    "the prefix before 'blocks' is not known: save the LoRA with diffusers' names, transformer.blocks.0.attn1.to_q.lora_A.weight",
)
"""Advice about a module that the base lacks, by its name without a known prefix."""

WHOLE = ({"down", "up"}, {"down", "up", "alpha"}, {"diff"}, set[str]())
"""The combinations of parts that can change a weight."""

ATTENTIONS = {"self_attn": "attn1", "cross_attn": "attn2"}
PROJECTIONS = {"q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k"}

WAN_MODULES_OF_A_BLOCK = {
    **{f"{a}.{p}": f"{ours}.{to}" for a, ours in ATTENTIONS.items() for p, to in PROJECTIONS.items()},
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "modulation": "scale_shift_table",
}
WAN_MODULES = {
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
}
"""Names of the original Wan -> diffusers'. Source: scripts/convert_wan_to_diffusers.py of diffusers 0.33.1."""


def _flattened(names: Mapping[str, str]) -> dict[str, str]:
    """The same names and diffusers' own, with underscores instead of dots."""
    return {name.replace(".", "_"): ours for theirs, ours in names.items() for name in (theirs, ours)}


FLAT_MODULES, FLAT_MODULES_OF_A_BLOCK = _flattened(WAN_MODULES), _flattened(WAN_MODULES_OF_A_BLOCK)

METADATA_KEY = "lora_adapter_metadata"
"""The header key under which diffusers stores peft's configuration."""

UNSUPPORTED = ("use_rslora", "use_dora", "alpha_pattern")
"""Settings of peft with which a LoRA is not `up @ down * alpha / rank`."""


MAX_ALPHA = 1e6
"""Far above any alpha used in training. NaN and infinity mean damage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """`up @ down * alpha / rank`. `down` and `up` name tensors in the file; `alpha` does too, or is the value itself."""

    down: str
    up: str
    alpha: str | float
    rank: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """The changes in a file: for each tensor of the base, a product, or the name of a difference to add unchanged.

    `alpha` is the value that peft's configuration, which may be a file beside it, declares for all products.
    """

    file: Path
    scale: float
    alpha: float | None
    changes: Mapping[str, LowRank | str]


def describe_loras(source: ModelSource) -> tuple[Lora, ...]:
    """The changes that each LoRA of `source` makes; reads headers only.

    Raises:
        MissingFile: If a file is not there.
        WeightsMismatch: If a tensor does not match one of the base model, or not its shape; names file, tensor, expected, found.
    """
    if not source.loras:
        return ()
    base = {name: tensor.shape for name, tensor in read_tensors(Path(source.base, "transformer")).items()}
    return tuple(_describe(lora, base) for lora in source.loras)


def _describe(source: LoraSource, base: Mapping[str, Shape]) -> Lora:
    file = Path(source.file)
    tensors = read_header(file)
    alpha = _declared_alpha(*_peft_settings(file, tensors))
    changes: dict[str, LowRank | str] = {}
    if not tensors:
        raise WeightsMismatch(f"{file}: must change a tensor of the base model, but holds none")
    for module, names in _by_module(file, tensors).items():
        for part, name in names.items():
            if part != "alpha" and tensors[name].dtype not in REAL_DTYPES:
                raise WeightsMismatch(
                    f"{file}: tensor {name}: expected one of {', '.join(REAL_DTYPES)}, found {tensors[name].dtype}: a "
                    f"quantised LoRA needs scales, which are not supported; save it in BF16"
                )
        if {*names} - {"diff_b"} not in WHOLE:
            parts = ", ".join(sorted(names.values()))
            raise WeightsMismatch(f"{file}: {module}: expected a pair of down and up, or one difference, found {parts}")
        weight = module if module in base else f"{module}.weight"
        if "down" in names:
            changes[weight] = _low_rank(file, names, tensors, _expected(file, names["down"], weight, base), alpha)
        for part, target in (("diff", weight), ("diff_b", f"{module}.bias")):
            if part in names:
                _check(file, names[part], _expected(file, names[part], target, base), tensors[names[part]].shape)
                changes[target] = names[part]
    return Lora(file=file, scale=source.scale, alpha=alpha, changes=changes)


def _by_module(file: Path, tensors: Mapping[str, TensorHeader]) -> dict[str, dict[str, str]]:
    """The names of the parts in the file, for each module of the base by diffusers' name."""
    modules: dict[str, dict[str, str]] = {}
    for name in tensors:
        module, part = _split(file, name)
        names = modules.setdefault(_diffusers_name(module), {})
        if part in names:
            raise WeightsMismatch(f"{file}: tensor {name}: expected once, found {names[part]} as well")
        names[part] = name
    return modules


def _split(file: Path, name: str) -> tuple[str, str]:
    """The module that a tensor of the file changes, and the tensor's role."""
    if name.endswith(MODULATION_DIFF):
        return name.removesuffix(MODULATION_DIFF) + ".modulation", "diff"
    for part, ending in PARTS.items():
        match = re.fullmatch(rf"(?P<module>.+?){ending.pattern}", name)
        if match:
            return match["module"], part
    raise WeightsMismatch(
        f"{file}: tensor {name}: expected a name that ends in .lora_A.weight, .lora_B.weight, .lora_down.weight, "
        f".lora_up.weight, .alpha, .diff, .diff_b or .diff_m{_advice(name)}"
    )


def _advice(name: str, module: str = "") -> str:
    fitting = [advice for pattern, advice in ADVICE if pattern.search(name)]
    pattern, advice = UNKNOWN_PREFIX
    fitting += [advice] if pattern.match(module) else []
    return f"; {fitting[0]}" if fitting else ""


def _diffusers_name(module: str) -> str:
    """Diffusers' name of a module, from the original's or diffusers' own name, with dots or with underscores instead."""
    is_flat = module.startswith(FLAT_PREFIX)
    of_model, of_block = (FLAT_MODULES, FLAT_MODULES_OF_A_BLOCK) if is_flat else (WAN_MODULES, WAN_MODULES_OF_A_BLOCK)
    module = module.removeprefix(FLAT_PREFIX) if is_flat else PREFIX.sub("", module)
    block = re.fullmatch(r"blocks[._](\d+)[._](.+)", module)
    if block is None:
        return of_model.get(module, module)
    return f"blocks.{block[1]}.{of_block.get(block[2], block[2])}"


def _low_rank(
    file: Path,
    names: Mapping[str, str],
    tensors: Mapping[str, TensorHeader],
    weight: Shape,
    declared_alpha: float | None,
) -> LowRank:
    """Alpha can be a tensor or declared for the whole file; without one, the product is not scaled by it."""
    down, up = (_as_matrix(tensors[names[part]].shape) for part in ("down", "up"))
    rank = max(1, down[0])
    _check(file, names["down"], (rank, *_as_matrix(weight)[1:]), down)
    _check(file, names["up"], (*_as_matrix(weight)[:1], rank), up)
    if "alpha" in names and prod(tensors[names["alpha"]].shape) != 1:
        _check(file, names["alpha"], (), tensors[names["alpha"]].shape)
    alpha = names.get("alpha", rank if declared_alpha is None else declared_alpha)
    return LowRank(down=names["down"], up=names["up"], alpha=alpha, rank=rank)


def _as_matrix(shape: Shape) -> Shape:
    """The shape of a linear layer, or of a convolution with its input dimensions flattened."""
    return (*shape[:1], prod(shape[1:]))


def _expected(file: Path, name: str, target: str, base: Mapping[str, Shape]) -> Shape:
    if target not in base:
        raise WeightsMismatch(
            f"{file}: tensor {name}: expected a tensor of the base model to change, found no {target}{_advice(name, target)}"
        )
    return base[target]


def _check(file: Path, name: str, expected: Shape, found: Shape) -> None:
    if expected != found:
        raise WeightsMismatch(f"{file}: tensor {name}: expected shape {expected}, found shape {found}")


def _peft_settings(file: Path, tensors: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """The place of peft's configuration, and its settings: in the header, or in a file beside one in peft's own layout."""
    if any(name.startswith(PEFT_PREFIX) for name in tensors):
        config = file.with_name(PEFT_CONFIG_FILE)
        return str(config), read_json(config)
    source = f"{file}: {METADATA_KEY} in its header"
    try:
        settings = json.loads(read_metadata(file).get(METADATA_KEY, "{}"))
        return source, {name.removeprefix("transformer."): value for name, value in settings.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise WeightsMismatch(f"{source}: must be peft's configuration as JSON") from error


def _declared_alpha(source: str, settings: Mapping[str, Any]) -> float | None:
    """The alpha that peft's configuration declares for all products, or None; errors name `source`."""
    for name in UNSUPPORTED:
        if settings.get(name):
            raise WeightsMismatch(f"{source}: {name}={settings[name]!r} is not supported")
    alpha: float | None = settings.get("lora_alpha")
    if alpha is not None and not (type(alpha) in (int, float) and abs(alpha) <= MAX_ALPHA):
        raise WeightsMismatch(f"{source}: lora_alpha={alpha!r}: must be a number, at most {MAX_ALPHA}")
    return alpha  # as written, int or float, because it is part of a clip's name

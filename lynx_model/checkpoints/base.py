"""Describes a base model's folder and checks that it is complete; reads configurations and headers only, free of torch."""

from dataclasses import dataclass
from pathlib import Path

from lynx_model.checkpoints.checkpoint import read_tensors
from lynx_model.checkpoints.json_file import read_json
from lynx_model.errors import MissingFile, WeightsMismatch
from lynx_model.geometry import LATENT_CHANNELS

COMPONENTS = ("transformer", "vae", "text_encoder")
"""The folders of a base model that hold weights."""

SECOND_TRANSFORMER = "transformer_2"
"""The transformer that Wan2.2-A14B uses for the later steps. Source: pipelines/wan/pipeline_wan.py of diffusers 0.42.1."""

CONFIGS = (*(f"{component}/config.json" for component in COMPONENTS), "scheduler/scheduler_config.json")
MAX_SIZE = 10**6
"""Far above any real dimension of a transformer. A damaged configuration must not make us build a model of that size."""

TOKENIZER_FILE = "tokenizer/tokenizer.json"
"""The published folders also hold `spiece.model`, but that is not enough: the original reads the JSON file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseSpec:
    """The size of a base model's transformer."""

    num_blocks: int
    num_heads: int
    head_dim: int
    ff_width: int

    @property
    def channels(self) -> int:
        return self.num_heads * self.head_dim


def read_base(folder: Path) -> BaseSpec:
    """The size of the transformer in `folder`, from its configuration.

    Raises:
        MissingFile: If there is no configuration.
        WeightsMismatch: If it is damaged, or Lynx cannot be built on the model.
    """
    file = folder / "transformer" / "config.json"
    config = read_json(file)
    for name in ("num_layers", "num_attention_heads", "attention_head_dim", "ffn_dim", "in_channels"):
        if type(value := config.get(name)) is not int or not 0 < value < MAX_SIZE:
            raise WeightsMismatch(f"{file}: {name}={value!r}: must be a whole number above 0 and below {MAX_SIZE:,}")
    if (inputs := config["in_channels"]) != LATENT_CHANNELS:
        raise WeightsMismatch(f"{file}: in_channels={inputs}: must be {LATENT_CHANNELS}, as in a text-to-video model")
    if (folder / SECOND_TRANSFORMER).exists():
        raise WeightsMismatch(f"{folder / SECOND_TRANSFORMER}: must not be there: Lynx is built on one transformer")
    return BaseSpec(
        num_blocks=config["num_layers"],
        num_heads=config["num_attention_heads"],
        head_dim=config["attention_head_dim"],
        ff_width=config["ffn_dim"],
    )


def check_base(folder: Path) -> BaseSpec:
    """`read_base`, after checking that the base model is complete.

    Raises:
        MissingFile: If a file is not there.
        WeightsMismatch: If a file is damaged, a shard does not match its index, or as in `read_base`.
    """
    for name in CONFIGS:
        read_json(folder / name)
    if not (folder / TOKENIZER_FILE).is_file():
        raise MissingFile(f"{folder}: must hold {TOKENIZER_FILE}, as the published base model does")
    for name in COMPONENTS:
        read_tensors(folder / name)
    return read_base(folder)

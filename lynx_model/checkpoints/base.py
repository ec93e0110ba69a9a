"""A folder with a base model: the size of its transformer, and whether all of it is there; reads configurations and headers
only, free of torch.
"""

from dataclasses import dataclass
from pathlib import Path

from lynx_model.checkpoints.checkpoint import read_tensors
from lynx_model.checkpoints.json_file import read_json
from lynx_model.errors import MissingFile, WeightsMismatch
from lynx_model.geometry import LATENT_CHANNELS

COMPONENTS = ("transformer", "vae", "text_encoder")
"""Folders of a base model that hold weights."""

SECOND_TRANSFORMER = "transformer_2"
"""What Wan2.2-A14B takes for the later steps. Source: pipelines/wan/pipeline_wan.py of diffusers 0.42.1."""

CONFIGS = (*(f"{component}/config.json" for component in COMPONENTS), "scheduler/scheduler_config.json")
MAX_SIZE = 10**6
"""Far above any of a transformer's numbers; a damaged one must not become a model of that size."""

TOKENIZER_FILE = "tokenizer/tokenizer.json"
"""`spiece.model`, which the published folders hold beside it, is not enough: the original reads the JSON file."""


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
    """The size of the transformer in `folder`, as its configuration says.

    Raises:
        MissingFile: If the configuration is not there.
        WeightsMismatch: If it is damaged, or the model is none that Lynx can be built on.
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
    """As `read_base`, of a base model that is complete.

    Raises:
        MissingFile: If a file is not there.
        WeightsMismatch: If a file is damaged, a shard does not hold what its index says, or as `read_base`.
    """
    for name in CONFIGS:
        read_json(folder / name)
    if not (folder / TOKENIZER_FILE).is_file():
        raise MissingFile(f"{folder}: must hold {TOKENIZER_FILE}, as the published base model does")
    for name in COMPONENTS:
        read_tensors(folder / name)
    return read_base(folder)

"""A folder with a base model: the size of its transformer, and whether all of it is there; reads configurations and headers
only, free of torch.
"""

from dataclasses import dataclass
from pathlib import Path

from lynx_model.checkpoint import read_tensors
from lynx_model.errors import MissingFile, WeightsMismatch
from lynx_model.geometry import LATENT_CHANNELS
from lynx_model.headers import read_json
from lynx_model.names import below

COMPONENTS = ("transformer", "vae", "text_encoder")
"""Folders of a base model that hold weights."""

SECOND_TRANSFORMER = "transformer_2"
"""What Wan2.2-A14B takes for the later steps. Source: pipelines/wan/pipeline_wan.py of diffusers 0.42.1."""

CONFIGS = (*(f"{component}/config.json" for component in COMPONENTS), "scheduler/scheduler_config.json")
TOKENIZER_FILES = ("tokenizer/tokenizer.json", "tokenizer/spiece.model")
"""Either is enough."""

TOKENIZER_CONFIG, TOKENIZER_VERSIONS = "tokenizer/tokenizer_config.json", "fast_tokenizer_files"
"""Where transformers looks for names of other tokenizer files, one of which it takes. Source: tokenization_utils_base.py of 5.23.0."""


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
        if not isinstance(config.get(name), int):
            raise WeightsMismatch(f"{file}: {name}={config.get(name)!r}: must be a whole number")
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
        WeightsMismatch: If a file is damaged or names one elsewhere, a shard does not hold what its index says, or as `read_base`.
    """
    for name in CONFIGS:
        read_json(folder / name)
    _check_tokenizer(folder)
    for name in COMPONENTS:
        read_tensors(folder / name)
    return read_base(folder)


def _check_tokenizer(folder: Path) -> None:
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise MissingFile(f"{folder}: must hold {' or '.join(TOKENIZER_FILES)}")
    file = folder / TOKENIZER_CONFIG
    versions = read_json(file).get(TOKENIZER_VERSIONS, []) if file.is_file() else []
    if not isinstance(versions, list):
        raise WeightsMismatch(f"{file}: {TOKENIZER_VERSIONS}={versions!r}: must be a list of files")
    for name in versions:
        below(file.parent, name, source=str(file))

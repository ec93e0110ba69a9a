"""The state of a stage in one file: averaged weights in bfloat16 and the seconds that they took.

The optimiser's moments are not kept: they would triple the file, and a restart costs only the steps of a warm-up.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def save_state(file: Path, module: nn.Module, *, seconds: float) -> None:
    """Writes the weights to a temporary name first, so that an interrupted save leaves the old file."""
    weights = {
        name: value.detach().to("cpu", torch.bfloat16).contiguous() for name, value in module.state_dict().items()
    }
    save_weights(file, weights, {"seconds": str(round(seconds, 1))})


def save_weights(file: Path, weights: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".part")
    save_file({name: value.clone() for name, value in weights.items()}, temporary, dict(metadata))
    temporary.replace(file)


def load_state(file: Path, module: nn.Module) -> float:
    """Fills `module` and returns the seconds of earlier pieces; 0 if there is no such file."""
    if not file.exists():
        return 0.0
    with safe_open(file, framework="pt") as tensors:
        module.load_state_dict({name: tensors.get_tensor(name) for name in tensors.keys()})  # noqa: SIM118  a handle
        return float(tensors.metadata()["seconds"])

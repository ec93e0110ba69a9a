"""The GPUs and software of this machine. Only looks; uses no GPU memory apart from CUDA's context."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from lynx_model.engine.attention import missing_needs
from lynx_model.engine.precision import missing_fp8_need

DRIVER_FILE = Path("/proc/driver/nvidia/version")
WAN_HEAD_DIM = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """`missing_needs` gives the first unmet requirement of each attention kernel and of "fp8" (linear layers); None if it works."""

    name: str
    free_bytes: int
    total_bytes: int
    missing_needs: dict[str, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """`cuda` is the version that torch was built for, `driver` that of NVIDIA's kernel module; each is empty if there is none."""

    torch_version: str
    cuda: str
    driver: str
    gpus: tuple[Gpu, ...]


def inspect_machine() -> Machine:
    """Describes this machine as torch sees it."""
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Machine(
        torch_version=torch.__version__,
        cuda=torch.version.cuda or "",
        driver=_driver(),
        gpus=tuple(_inspect_gpu(torch.device("cuda", index)) for index in range(num_gpus)),
    )


def _inspect_gpu(device: torch.device) -> Gpu:
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    return Gpu(
        name=torch.cuda.get_device_name(device),
        free_bytes=free_bytes,
        total_bytes=total_bytes,
        missing_needs=missing_needs(device=device, dtype=torch.bfloat16, head_dim=WAN_HEAD_DIM)
        | {"fp8": missing_fp8_need(torch.cuda.get_device_capability(device))},
    )


def _driver() -> str:
    found = re.search(r"\d+\.\d+(\.\d+)?", DRIVER_FILE.read_text()) if DRIVER_FILE.is_file() else None
    return found.group() if found else ""

"""Which attention kernels work where."""

import sys
from pathlib import Path

import pytest
import torch

from lynx_model.engine.attention import missing_needs

A100, H100, B200 = (8, 0), (9, 0), (10, 0)
NO_FLASH_ATTN = "an environment without flash-attn, which overwrites parts of flash-attn-4"


def install(site: Path, *packages: str) -> None:
    """Only their names: nothing is imported."""
    for package in packages:
        metadata = site / f"{package.replace('-', '_')}-1.0.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Name: {package}\nVersion: 1.0\n")


@pytest.mark.parametrize(
    ("capability", "packages", "expected"),
    [
        (H100, (), {"fa3": "the package fa3-fwd", "fa4": "the package flash-attn-4", "fa2": "the package flash-attn"}),
        (H100, ("fa3-fwd",), {"fa3": None, "fa3_fp8": None, "fa4": "the package flash-attn-4"}),
        (B200, ("fa3-fwd", "flash-attn-4"), {"fa3": "a Hopper GPU", "fa4": None, "fa2": "the package flash-attn"}),
        (B200, ("flash-attn-4", "flash-attn"), {"fa4": NO_FLASH_ATTN, "fa2": None}),
        (A100, ("flash-attn",), {"fa2": None, "fa4": "the package flash-attn-4", "cudnn": None}),
        (A100, ("flash-attn-4",), {"fa2": "the package flash-attn", "fa4": "a Hopper GPU or a later one"}),
    ],
)
def test_a_kernel_needs_its_own_package_and_gpu(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    packages: tuple[str, ...],
    expected: dict[str, str | None],
) -> None:
    install(tmp_path, *packages)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    # there is no GPU here, so the test says which one it is
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    needs = missing_needs(device=torch.device("cuda"), dtype=torch.bfloat16, head_dim=128)
    assert expected.items() <= needs.items()

"""The tiny model, which is the demo's: the real classes and file layouts with small shapes and random weights."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lynx_model.pipeline import LynxPipeline
from lynx_model.spec import EngineOptions, LoraSource, ParallelPlan

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "jobs" / "demo" / "model"
BASE = MODEL / "Wan2.1-T2V-tiny-Diffusers"


def load_tiny(
    adapters: str | Mapping[str, str | None],
    *,
    device: str = "cpu",
    dtype: str = "float32",
    plan: ParallelPlan | None = None,
    engine: EngineOptions | None = None,
    loras: Sequence[str | LoraSource] = (),
) -> LynxPipeline:
    """The tiny model; `adapters` is "full", "lite" or the folders of a mix."""
    folders = str(MODEL / f"lynx_{adapters}") if isinstance(adapters, str) else adapters
    return LynxPipeline.load(
        base=str(BASE), adapters=folders, device=device, dtype=dtype, loras=loras, plan=plan, engine=engine
    )

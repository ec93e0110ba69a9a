"""The adapters' strengths at each step and in each block; free of torch."""

from dataclasses import dataclass
from functools import lru_cache

from lynx_model.ranges import choose_blocks, is_within
from lynx_model.spec import RenderParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Strengths:
    """The strengths of the ID-adapter and the Ref-adapter in each block at one step; 0 means off."""

    ip: tuple[float, ...]
    ref: tuple[float, ...]


def plan_strengths(params: RenderParams, *, step: int, num_blocks: int) -> Strengths:
    """The strengths at `step`, counted from 0, in a model of `num_blocks`.

    Raises:
        InvalidParams: If a range of blocks exceeds the model's.
    """
    num_steps = params.num_inference_steps
    ip = params.ip_scale if is_within(step, num_steps, params.ip_start, params.ip_end) else 0.0
    ref = params.ref_scale if is_within(step, num_steps, params.ref_start, params.ref_end) else 0.0
    return _strengths(ip, params.ip_blocks, ref, params.ref_blocks, num_blocks)


@lru_cache(maxsize=1024)  # a clip has few different ones, and plans of many clips ask for them at every step
def _strengths(ip: float, ip_range: str | None, ref: float, ref_range: str | None, num_blocks: int) -> Strengths:
    ip_blocks = choose_blocks("ip_blocks", ip_range, num_blocks)
    ref_blocks = choose_blocks("ref_blocks", ref_range, num_blocks)
    return Strengths(
        ip=tuple(ip if block in ip_blocks else 0.0 for block in range(num_blocks)),
        ref=tuple(ref if block in ref_blocks else 0.0 for block in range(num_blocks)),
    )

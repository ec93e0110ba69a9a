"""Times the denoising of a whole clip with a model of the true size and random weights.

What each step computes is given. So the steps can be those that a trained model's clips compute, whose loss was measured.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lynx_model.bench.case import BenchCase, random_inputs, random_transformer
from lynx_model.bench.forward import peak_gib
from lynx_model.bench.timing import time_ms
from lynx_model.engine.precision import quantize_blocks
from lynx_model.guidance import Guidance
from lynx_model.network.residuals import Residuals
from lynx_model.pipeline import PreparedClip, predict_step
from lynx_model.spec import ONE_GPU, EngineOptions, RenderParams
from lynx_model.step_plan import PlannedStep


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipTime:
    """How long the denoising of one clip takes, without compiling.

    Attributes:
        steps: For each step, how many forwards run the blocks: 0 where the step cache skips them.
        fp8_steps: For each step, whether blocks attend in fp8.
        seconds: From the first kernel to the last.
        peak_gib: Peak of device memory, the transformer's weights included.
    """

    name: str
    steps: tuple[int, ...]
    fp8_steps: tuple[bool, ...]
    seconds: float
    peak_gib: float

    @property
    def num_forwards(self) -> int:
        return sum(self.steps)


@torch.inference_mode()
def time_clip(
    name: str,
    case: BenchCase,
    params: RenderParams,
    plan: Sequence[PlannedStep],
    engine: EngineOptions,
    *,
    device: torch.device,
) -> ClipTime:
    """Denoises one clip of `case` in the steps of `plan`, as `params` combine their branches. Each step starts from the same latents.

    `engine` is followed, but all weights stay on `device`.

    Raises:
        InvalidParams: If `engine` does not work on `device`.
    """
    gc.collect()  # the model of an earlier call
    torch.manual_seed(0)
    model = random_transformer(case, device)
    inputs = random_inputs(case, model, device)
    if engine.precision == "fp8":
        quantize_blocks(model.blocks, num_bf16_edge_blocks=engine.num_bf16_edge_blocks, device=device)
    model.set_up(plan=ONE_GPU, engine=engine)
    fp8_steps = tuple(step.is_attending_in_fp8 for step in plan)
    clip = PreparedClip(
        params=params,
        steps=tuple((inputs.conditioning,) * len(step.branches) for step in plan),
        full_steps=tuple(step.is_full for step in plan),
        reuses_image=tuple(step.reuses_image for step in plan),
        fp8_steps=fp8_steps,
    )

    def denoise() -> None:
        guidance = Guidance(params)
        residuals = None if all(clip.full_steps) else Residuals()
        for step in range(len(plan)):
            predict_step(model, clip, guidance, residuals, inputs.latents, inputs.timestep, step)

    for is_attending_in_fp8 in set(fp8_steps):  # compiles
        model.predict(inputs.latents, inputs.timestep, [inputs.conditioning], is_attending_in_fp8=is_attending_in_fp8)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = time_ms(denoise, device) / 1000
    return ClipTime(
        name=name,
        steps=tuple(len(step.branches) if step.is_full else 0 for step in plan),
        fp8_steps=fp8_steps,
        seconds=seconds,
        peak_gib=peak_gib(device),
    )

"""Noise -> latents: the noise schedule and the denoising loop, around any callable model."""

from collections.abc import Callable

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from lynx_model.geometry import latent_shape
from lynx_model.spec import RenderParams

Predict = Callable[[Tensor, Tensor, int], Tensor]
"""(latents, timestep (1,), step counted from 0) -> velocity, float32 and shaped as the latents."""

OnStep = Callable[[int, int], None]
"""Called with (steps done, steps in all) between steps; what it raises ends the loop."""


def draw_noise(params: RenderParams, device: torch.device) -> Tensor:
    """The clip's starting latents, float32; drawn on the CPU, so that every device starts from the same."""
    shape = latent_shape(width=params.width, height=params.height, num_frames=params.num_frames)
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(params.seed)).to(device)


def make_schedule(config: dict[str, object], params: RenderParams, device: torch.device) -> UniPCMultistepScheduler:
    """A fresh UniPC scheduler on the published schedule, for one clip.

    Evenly spaced sigmas from 0.999, then the flow shift: diffusers' own start moved after Lynx was published.
    Source: wan/utils/fm_solvers_unipc.py of Wan2.1; the same numbers as diffusers 0.33.1 gave.
    """
    shift = {} if params.flow_shift is None else {"flow_shift": params.flow_shift}
    scheduler = UniPCMultistepScheduler.from_config({**config, **shift})
    scheduler.set_timesteps(
        sigmas=np.linspace(0.999, 0.0, params.num_inference_steps + 1)[:-1],
        device=device,
    )
    return scheduler


def denoise(
    predict: Predict, noise: Tensor, scheduler: UniPCMultistepScheduler, on_step: OnStep | None = None
) -> Tensor:
    """The latents that `predict` leads to from `noise`, in as many steps as the scheduler has; float32."""
    latents, num_steps = noise, len(scheduler.timesteps)
    for step, timestep in enumerate(scheduler.timesteps):
        velocity = predict(latents, timestep.expand(len(latents)), step)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        if on_step is not None:
            on_step(step + 1, num_steps)
    return latents

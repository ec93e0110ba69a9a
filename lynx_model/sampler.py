"""Noise -> latents: the noise schedule and the denoising loop, around any callable model."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from lynx_model.errors import Interrupted
from lynx_model.geometry import latent_shape
from lynx_model.spec import RenderParams

Predict = Callable[[Tensor, Tensor, int], Tensor]
"""(latents, timestep (1,), step counted from 0) -> velocity, float32 and shaped as the latents."""

OnStep = Callable[[int, int], None]
"""Called with (steps done, steps in all) between steps; what it raises ends the loop."""


@dataclass(frozen=True, slots=True, eq=False)
class SamplerState:
    """A denoising between two steps, on the host: from here any process goes on as if there had been no break.

    `tensors` are the latents and all that the scheduler remembers of the steps before.
    """

    num_steps_done: int
    tensors: dict[str, Tensor]


class Paused(Interrupted):
    """The sampler was asked to pause, and did between two steps."""

    def __init__(self, state: SamplerState) -> None:
        super().__init__(f"paused after {state.num_steps_done} steps")
        self.state = state


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
    scheduler.set_begin_index(
        0
    )  # from about 500 steps on several share a timestep, and diffusers would begin at the second
    return scheduler


def denoise(
    predict: Predict,
    noise: Tensor,
    scheduler: UniPCMultistepScheduler,
    on_step: OnStep | None = None,
    *,
    state: SamplerState | None = None,
    is_to_pause: Callable[[], bool] = lambda: False,
) -> Tensor:
    """The latents that `predict` leads to from `noise`, in as many steps as the scheduler has; float32.

    Goes on from `state` if that is given, which takes the place of the noise.

    Raises:
        Paused: If `is_to_pause` between two steps.
    """
    latents, num_done, num_steps = noise, 0, len(scheduler.timesteps)
    if state is not None:
        latents, num_done = _restore(state, scheduler, noise.device), state.num_steps_done
    for step in range(num_done, num_steps):
        timestep = scheduler.timesteps[step]
        velocity = predict(latents, timestep.expand(len(latents)), step)
        latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        if on_step is not None:
            on_step(step + 1, num_steps)
        if step + 1 < num_steps and is_to_pause():
            raise Paused(_capture(step + 1, latents, scheduler))
    return latents


def _capture(num_steps_done: int, latents: Tensor, scheduler: UniPCMultistepScheduler) -> SamplerState:
    tensors = {"latents": latents, "last_sample": scheduler.last_sample, "order": torch.tensor(scheduler.this_order)}
    for age, output in enumerate(reversed(scheduler.model_outputs)):
        if output is not None:
            tensors[f"output_{age}"] = output
    return SamplerState(num_steps_done, {name: tensor.to("cpu").contiguous() for name, tensor in tensors.items()})


def _restore(state: SamplerState, scheduler: UniPCMultistepScheduler, device: torch.device) -> Tensor:
    """The latents; `scheduler`, a fresh one of the same clip, takes up the rest."""
    tensors = {name: tensor.to(device) for name, tensor in state.tensors.items()}
    order, done = scheduler.config.solver_order, state.num_steps_done
    scheduler._step_index, scheduler.lower_order_nums = done, min(done, order)
    scheduler.this_order, scheduler.last_sample = int(state.tensors["order"]), tensors["last_sample"]
    for age in range(min(done, order)):
        scheduler.model_outputs[-1 - age] = tensors[f"output_{age}"]
        scheduler.timestep_list[-1 - age] = scheduler.timesteps[done - 1 - age]
    return tensors["latents"]

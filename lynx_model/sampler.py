"""Noise -> latents: the noise schedule, and the denoising loop for any callable model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import UniPCMultistepScheduler
from torch import Tensor

from lynx_model.errors import Interrupted
from lynx_model.geometry import latent_shape
from lynx_model.spec import RenderParams

Predict = Callable[[Tensor, Tensor, int], Tensor]
"""(latents, timestep (1,), step counted from 0) -> velocity, float32 in the shape of the latents."""

OnStep = Callable[[int, int], None]
"""Called with (steps done, steps in total) after each step; an exception that it raises ends the loop."""


@dataclass(frozen=True, slots=True, eq=False)
class SamplerState:
    """The state of a denoising between two steps, in host memory. Any process can resume from it with the same result.

    `tensors` holds the latents and what the scheduler and the model remember of earlier steps.
    """

    num_steps_done: int
    tensors: dict[str, Tensor]


class Paused(Interrupted):
    """The sampler paused between two steps, as requested."""

    def __init__(self, state: SamplerState) -> None:
        super().__init__(f"paused after {state.num_steps_done} steps")
        self.state = state


def draw_noise(params: RenderParams, device: torch.device) -> Tensor:
    """The clip's initial latents, float32; drawn on the CPU, so that they are the same for every device."""
    shape = latent_shape(width=params.width, height=params.height, num_frames=params.num_frames)
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(params.seed)).to(device)


def make_schedule(config: dict[str, object], params: RenderParams, device: torch.device) -> UniPCMultistepScheduler:
    """A new UniPC scheduler for one clip, with the schedule that Lynx was published with.

    Sigmas are evenly spaced from 0.999, then shifted. diffusers changed its own first sigma after Lynx was published.
    Source: wan/utils/fm_solvers_unipc.py of Wan2.1; gives the same numbers as diffusers 0.33.1.
    """
    shift = {} if params.flow_shift is None else {"flow_shift": params.flow_shift}
    scheduler = UniPCMultistepScheduler.from_config({**config, **shift})
    scheduler.set_timesteps(
        sigmas=np.linspace(0.999, 0.0, params.num_inference_steps + 1)[:-1],
        device=device,
    )
    # from about 500 steps on, several steps share a timestep, and diffusers would start at the second of them
    scheduler.set_begin_index(0)
    return scheduler


def denoise(
    predict: Predict,
    noise: Tensor,
    scheduler: UniPCMultistepScheduler,
    on_step: OnStep | None = None,
    *,
    state: SamplerState | None = None,
    is_to_pause: Callable[[], bool] = lambda: False,
    can_start_at: Callable[[int], bool] = lambda step: True,
    remembered: Callable[[], Mapping[str, Tensor]] = dict,
) -> Tensor:
    """Denoises `noise` in all steps of the scheduler; returns float32 latents. `state`, if given, replaces the noise.

    Raises:
        Paused: If `is_to_pause()` is true between two steps, and `predict` can start at the later one with nothing of the earlier ones
            but their latents and what `remembered()` returns, which is put into the state.
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
        if step + 1 < num_steps and can_start_at(step + 1) and is_to_pause():
            raise Paused(_capture(step + 1, latents, scheduler, remembered()))
    return latents


def _capture(
    num_steps_done: int, latents: Tensor, scheduler: UniPCMultistepScheduler, remembered: Mapping[str, Tensor]
) -> SamplerState:
    order = torch.tensor(scheduler.this_order)
    tensors = {**remembered, "latents": latents, "last_sample": scheduler.last_sample, "order": order}
    for age, output in enumerate(reversed(scheduler.model_outputs)):
        if output is not None:
            tensors[f"output_{age}"] = output
    return SamplerState(num_steps_done, {name: tensor.to("cpu").contiguous() for name, tensor in tensors.items()})


def _restore(state: SamplerState, scheduler: UniPCMultistepScheduler, device: torch.device) -> Tensor:
    """The latents of `state`; everything else in it is put into `scheduler`, a new one for the same clip."""
    tensors = {name: tensor.to(device) for name, tensor in state.tensors.items()}
    order, done = scheduler.config.solver_order, state.num_steps_done
    scheduler._step_index, scheduler.lower_order_nums = done, min(done, order)
    scheduler.this_order, scheduler.last_sample = int(state.tensors["order"]), tensors["last_sample"]
    for age in range(min(done, order)):
        scheduler.model_outputs[-1 - age] = tensors[f"output_{age}"]
        scheduler.timestep_list[-1 - age] = scheduler.timesteps[done - 1 - age]
    return tensors["latents"]

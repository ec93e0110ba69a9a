"""What each step of a clip computes, and how many forwards that takes; free of torch.

All of it depends on the clip's parameters, the model and the engine alone, so all ranks and branches, and the prediction of a clip's cost,
agree. Requests of one canonical form have one plan: what no layer reads plays no part.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from lynx_model.canonical import ModelTraits
from lynx_model.guidance import SUBJECT_ONLY, Branch, num_forwards, plan_branches
from lynx_model.spec import EngineOptions, RenderParams
from lynx_model.step_cache import StepCache, noise_levels
from lynx_model.strengths import Strengths, plan_strengths


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedStep:
    """What one step computes.

    `branches` are those with a forward. If `reuses_image`, what the branch with the photo alone would say comes from an earlier step.
    A step that is not `is_full` has the branches of the last full step, and adds what the transformer's blocks added then.
    """

    branches: tuple[Branch, ...]
    strengths: Strengths
    is_full: bool
    reuses_image: bool
    is_attending_in_fp8: bool


def plan_steps(params: RenderParams, traits: ModelTraits, engine: EngineOptions) -> tuple[PlannedStep, ...]:
    """The steps of a clip.

    Raises:
        InvalidParams: If a range of blocks exceeds the model's, or the step cache has no magnitudes.
    """
    num_steps = params.num_inference_steps
    steps = range(num_steps)
    branches = [plan_branches(params, step=step, has_image_guidance=traits.has_image_guidance) for step in steps]
    strengths = [plan_strengths(params, step=step, num_blocks=traits.num_blocks) for step in steps]
    full = full_steps(params, traits, engine.step_cache)
    reuses_image = _reuses_image(params, traits, full)
    fp8 = engine.fp8_attention
    return tuple(
        PlannedStep(
            branches=branches[step][:-1] if reuses_image[step] else branches[step],
            strengths=strengths[step],
            is_full=full[step],
            reuses_image=reuses_image[step],
            is_attending_in_fp8=fp8 is not None and fp8.has_step(step, num_steps),
        )
        for step in steps
    )


def full_steps(params: RenderParams, traits: ModelTraits, cache: StepCache | None) -> tuple[bool, ...]:
    """For each step, whether it runs the blocks. Without a cache, all do.

    Raises:
        InvalidParams: If a range of blocks exceeds the model's, or the cache has no magnitudes.
    """
    num_steps = params.num_inference_steps
    if cache is None:
        return (True,) * num_steps
    shift = traits.flow_shift if params.flow_shift is None else params.flow_shift
    return cache.full_steps(noise_levels(num_steps, shift), _conditions(params, traits))


def num_full_forwards(params: RenderParams, traits: ModelTraits, cache: StepCache | None) -> int:
    """The number of forwards of a clip that run the blocks: the branches, summed over all full steps."""
    if cache is None and params.image_guidance_every == 1:
        return num_forwards(params, has_image_guidance=traits.has_image_guidance)
    steps = plan_steps(params, traits, EngineOptions(step_cache=cache))
    return sum(len(step.branches) for step in steps if step.is_full)


def _reuses_image(params: RenderParams, traits: ModelTraits, full: Sequence[bool]) -> tuple[bool, ...]:
    """For each step, whether it leaves out the branch with the photo alone.

    That branch is computed at a full step if `image_guidance_every` steps have passed, or if the conditions differ from those before,
    because what it said then belongs to other strengths. Steps that are not full do as the last full one did, because they have the
    residuals of its branches.
    """
    every = params.image_guidance_every
    if every == 1:
        return (False,) * len(full)
    conditions = _conditions(params, traits)
    reuses: list[bool] = []
    computed_at = 0
    for step, condition in enumerate(conditions):
        is_changed = step == 0 or condition != conditions[step - 1]
        if SUBJECT_ONLY not in condition.branches:
            reuses.append(False)
        elif not full[step]:
            reuses.append(reuses[-1])
        else:
            is_due = is_changed or step - computed_at >= every
            computed_at = step if is_due else computed_at
            reuses.append(not is_due)
    return tuple(reuses)


@dataclass(frozen=True, slots=True)
class _Condition:
    """What the blocks attend to at a step: the branches, and the strengths in those blocks that have a layer of the adapter."""

    branches: tuple[Branch, ...]
    ip: tuple[float, ...]
    ref: tuple[float, ...]


def _conditions(params: RenderParams, traits: ModelTraits) -> list[_Condition]:
    """What the blocks attend to at each step if no branch is left out."""
    conditions = []
    for step in range(params.num_inference_steps):
        strengths = plan_strengths(params, step=step, num_blocks=traits.num_blocks)
        branches = plan_branches(params, step=step, has_image_guidance=traits.has_image_guidance)
        ref = strengths.ref if traits.has_ref else ()
        conditions.append(_Condition(branches, strengths.ip[:: traits.id_stride], ref))
    return conditions

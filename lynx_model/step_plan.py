"""Which steps of a clip run the transformer's blocks, and how many forwards that takes; free of torch.

Both depend on the clip's parameters and the model alone, so all ranks and branches, and the prediction of a clip's cost, agree. Requests
of one canonical form have one plan: what no layer reads plays no part.
"""

from lynx_model.canonical import ModelTraits
from lynx_model.guidance import num_forwards, plan_branches
from lynx_model.spec import RenderParams
from lynx_model.step_cache import StepCache, noise_levels
from lynx_model.strengths import plan_strengths


def full_steps(params: RenderParams, traits: ModelTraits, cache: StepCache | None) -> tuple[bool, ...]:
    """For each step, whether it runs the blocks. Without a cache, all do.

    Raises:
        InvalidParams: If a range of blocks exceeds the model's, or the cache has no magnitudes.
    """
    steps = range(params.num_inference_steps)
    if cache is None:
        return (True,) * len(steps)
    shift = traits.flow_shift if params.flow_shift is None else params.flow_shift
    conditions = [_conditions(params, traits, step) for step in steps]
    return cache.full_steps(noise_levels(len(steps), shift), conditions)


def num_full_forwards(params: RenderParams, traits: ModelTraits, cache: StepCache | None) -> int:
    """The number of forwards of a clip that run the blocks: the branches, summed over all full steps."""
    if cache is None:
        return num_forwards(params, has_image_guidance=traits.has_image_guidance)
    full = full_steps(params, traits, cache)
    steps = (step for step, is_full in enumerate(full) if is_full)
    return sum(len(plan_branches(params, step=step, has_image_guidance=traits.has_image_guidance)) for step in steps)


def _conditions(params: RenderParams, traits: ModelTraits, step: int) -> object:
    """What the blocks attend to at `step`: the branches, and the strengths in those blocks that have a layer of the adapter."""
    strengths = plan_strengths(params, step=step, num_blocks=traits.num_blocks)
    branches = plan_branches(params, step=step, has_image_guidance=traits.has_image_guidance)
    return branches, strengths.ip[:: traits.id_stride], strengths.ref if traits.has_ref else ()

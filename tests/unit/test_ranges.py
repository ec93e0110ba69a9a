"""Strengths and guidance that are limited to some steps and blocks: which ones, and what that costs."""

from dataclasses import replace

import pytest

from lynx_model.errors import InvalidParams
from lynx_model.guidance import CONDITIONAL, num_forwards, plan_branches
from lynx_model.ranges import choose_blocks, is_within, lies_within, parse_blocks
from lynx_model.spec import RenderParams
from lynx_model.strengths import plan_strengths

PARAMS = RenderParams(prompt="a person waves", num_inference_steps=10, ip_scale=0.7, ref_scale=0.6)


@pytest.mark.parametrize(
    ("num_steps", "start", "end", "steps"),
    [
        (4, 0.0, 1.0, [0, 1, 2, 3]),
        (4, 0.0, 0.5, [0, 1]),
        (4, 0.5, 1.0, [2, 3]),
        (4, 0.25, 0.3, [1]),
        (4, 0.0, 0.0, []),
        (30, 0.1, 0.2, [3, 4, 5]),
        (1, 0.0, 0.01, [0]),
    ],
)
def test_fractions_choose_the_steps_that_begin_between_them(
    num_steps: int, start: float, end: float, steps: list[int]
) -> None:
    assert [step for step in range(num_steps) if is_within(step, num_steps, start, end)] == steps


@pytest.mark.parametrize(
    ("num_parts", "start", "end", "parts"),
    [
        (4, 0.0, 1.0, [0, 1, 2, 3]),
        (4, 0.1, 0.9, [1, 2]),
        (10, 0.1, 0.9, [1, 2, 3, 4, 5, 6, 7, 8]),
        (50, 0.9, 1.0, [45, 46, 47, 48, 49]),
        (3, 0.4, 0.6, []),
    ],
)
def test_a_part_lies_in_a_range_if_it_does_as_a_whole(
    num_parts: int, start: float, end: float, parts: list[int]
) -> None:
    assert [part for part in range(num_parts) if lies_within(part, num_parts, start, end)] == parts


def test_blocks_are_named_by_the_first_and_the_last() -> None:
    assert parse_blocks("ip_blocks", "8-31") == range(8, 32)
    assert choose_blocks("ip_blocks", "39-39", 40) == range(39, 40)
    assert choose_blocks("ip_blocks", None, 40) == range(40)


@pytest.mark.parametrize("text", ["", "8", "8-", "-8", "8-31 ", "08-31", "8..31", "8-7", "8-99999", "٣-٤"])
def test_other_text_names_no_blocks(text: str) -> None:
    with pytest.raises(InvalidParams, match="ip_blocks="):
        RenderParams(prompt="a", ip_blocks=text)


def test_blocks_beyond_the_model_are_refused() -> None:
    with pytest.raises(InvalidParams, match="ref_blocks='8-40': must lie within the model's blocks, 0-39"):
        plan_strengths(replace(PARAMS, ref_blocks="8-40"), step=0, num_blocks=40)


def test_each_adapter_has_its_own_steps_and_blocks() -> None:
    params = replace(PARAMS, ip_end=0.5, ip_blocks="1-2", ref_start=0.3)
    early, middle, late = (plan_strengths(params, step=step, num_blocks=4) for step in (0, 3, 5))
    assert (early.ip, early.ref) == ((0, 0.7, 0.7, 0), (0, 0, 0, 0))
    assert (middle.ip, middle.ref) == ((0, 0.7, 0.7, 0), (0.6, 0.6, 0.6, 0.6))
    assert (late.ip, late.ref) == ((0, 0, 0, 0), (0.6, 0.6, 0.6, 0.6))


def test_after_the_guidance_each_step_is_the_conditional_branch_alone() -> None:
    params = replace(PARAMS, guidance_until=0.3)
    branches = [plan_branches(params, step=step, has_image_guidance=True) for step in range(10)]
    assert [len(step) for step in branches] == [3, 3, 3, 1, 1, 1, 1, 1, 1, 1]
    assert branches[3] == (CONDITIONAL,)


@pytest.mark.parametrize(
    ("change", "has_image_guidance", "expected"),
    [
        ({}, True, 30),
        ({}, False, 20),
        ({"guidance_scale_image": None}, True, 20),
        ({"guidance_scale": 1.0}, True, 10),
        ({"guidance_until": 0.5}, True, 20),
        ({"guidance_until": 0.31}, False, 14),
        ({"guidance_until": 0.0}, True, 10),
    ],
    ids=str,
)
def test_the_forwards_of_a_clip_are_counted(change: dict[str, object], has_image_guidance: bool, expected: int) -> None:
    assert num_forwards(replace(PARAMS, **change), has_image_guidance=has_image_guidance) == expected

"""Grids: which values an option names, and how clips are called after them."""

import math

import pytest

from lynx_batch.errors import ConfigError
from lynx_batch.intake.grid import SIZES, combine, make_axes
from lynx_model.geometry import SIZE_MULTIPLE_PX


def names(vary: list[str] = (), sizes: list[str] = (), seeds: str | None = None) -> list[str]:
    return [choice.name for choice in combine(make_axes(vary, sizes, seeds))]


def values(entry: str) -> list[object]:
    (axis,) = make_axes([entry], [], None)
    return [cell for choice in axis for cell in choice.cells.values()]


def test_every_combination_has_a_readable_name() -> None:
    found = names(["guidance_scale=4,5.5", "ip_scale=0.6:1.0:0.2"], ["9:16-480p", "1:1-480p"], "1-2")
    assert len(found) == len({*found}) == 2 * 3 * 2 * 2
    assert found[0] == "-guidance_scale4-ip_scale0.6-9x16-480p-s1"
    assert found[-1] == "-guidance_scale5.5-ip_scale1-1x1-480p-s2"


def test_what_has_one_value_is_in_no_name_except_a_seed() -> None:
    assert names() == [""]
    assert names(["guidance_scale=4"], ["9:16-480p"]) == [""]
    assert names(["guidance_scale=4"], [], "7") == ["-s7"]


def test_ranges_are_exact_and_include_both_ends() -> None:
    assert values("ip_scale=0.6:1.0:0.2") == [0.6, 0.8, 1.0]
    assert values("ip_scale=0:1:0.1") == [number / 10 for number in range(11)]
    assert values("num_inference_steps=20:40:10,50") == [20, 30, 40, 50]
    assert [choice.cells["seed"] for choice in make_axes([], [], "1-3,9")[0]] == [1, 2, 3, 9]


def test_texts_are_given_one_at_a_time() -> None:
    (axis,) = make_axes(["negative_prompt=blurred, dark", "negative_prompt=cold"], [], None)
    assert [(choice.cells["negative_prompt"], choice.name) for choice in axis] == [
        ("blurred, dark", "negative_prompt-1"),
        ("cold", "negative_promptcold"),
    ]


@pytest.mark.parametrize("name", SIZES)
def test_named_sizes_have_their_shape_and_divide_as_wan_needs(name: str) -> None:
    width, height = SIZES[name]
    assert width % SIZE_MULTIPLE_PX == height % SIZE_MULTIPLE_PX == 0
    shape, lines = name.split("-")
    across, down = map(int, shape.split(":"))
    assert math.isclose(width / height, across / down, rel_tol=0.03)
    assert math.isclose(width * height, {"480p": 832 * 480, "720p": 1280 * 720}[lines], rel_tol=0.065)


@pytest.mark.parametrize(
    ("vary", "sizes", "seeds", "message"),
    [
        (["guidance_scale"], [], None, "must be PARAMETER=VALUES"),
        (["guidance=4"], [], None, "'guidance' must be a parameter; the nearest is 'guidance_"),
        (["seed=4"], [], None, "use --seeds"),
        (["prompt=x"], [], None, "'prompt' must be a parameter"),
        (["ip_scale=a"], [], None, "must be numbers"),
        (["ip_scale=nan"], [], None, "must be finite numbers"),
        (["ip_scale=11"], [], None, "--vary ip_scale: 11.0 must be between 0 and 10"),
        (["ip_scale=1,1.0"], [], None, "--vary ip_scale: 1.0 must appear only once"),
        (["ip_scale=0:1"], [], None, "'0:1' must be FIRST:LAST:STEP"),
        (["ip_scale=1:0:0.1"], [], None, "must have a positive step"),
        (["ip_scale=0:1:0"], [], None, "must have a positive step"),
        (["ip_scale=0:1:0.0000001"], [], None, "must have at most 1,000 values"),
        (["ip_scale=0:1:0.3"], [], None, "'0:1:0.3' must reach its last number with whole steps"),
        (["num_frames=80"], [], None, "must be 4 k \\+ 1"),
        (["width=832.5"], [], None, "must be a whole number"),
        (["width=832"], ["1:1-480p"], None, "--vary width: must not be given together with --size"),
        ([], ["21:9"], None, "--size '21:9': must be one of 16:9-480p"),
        ([], ["1:1-480p", "1:1-480p"], None, "--size: '1:1-480p' must appear only once"),
        ([], [], "1,x", "--seeds '1,x': must be whole numbers"),
        ([], [], "8-1", "'8-1' must not end before it starts"),
        ([], [], "1-9999", "must be a range of at most 1,000 seeds"),
        ([], [], "-1", "--seeds: -1 must be between"),
        ([], [], "1-3,2", "--seeds: 2 must appear only once"),
    ],
)
def test_what_is_no_grid_is_refused_by_its_option(
    vary: list[str], sizes: list[str], seeds: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_axes(vary, sizes, seeds)

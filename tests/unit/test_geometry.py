import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynx_model.errors import InvalidParams
from lynx_model.geometry import check_num_frames, check_size, latent_shape, num_tokens


def test_the_published_sizes_give_the_published_shapes() -> None:
    assert latent_shape(width=832, height=480, num_frames=81) == (1, 16, 21, 60, 104)
    assert num_tokens(width=832, height=480, num_frames=81) == 32_760


def test_a_single_frame_is_a_single_latent_frame() -> None:
    assert latent_shape(width=16, height=16, num_frames=1) == (1, 16, 1, 2, 2)


@given(st.integers(-100, 5000))
def test_exactly_the_positive_multiples_of_16_px_are_sizes(size_px: int) -> None:
    if size_px > 0 and size_px % 16 == 0:
        check_size("width", size_px)
    else:
        with pytest.raises(InvalidParams, match="multiple of 16"):
            check_size("width", size_px)


@given(st.integers(-100, 1000))
def test_exactly_the_counts_4_k_plus_1_are_numbers_of_frames(num_frames: int) -> None:
    if num_frames > 0 and num_frames % 4 == 1:
        check_num_frames(num_frames)
    else:
        with pytest.raises(InvalidParams, match=r"4 k \+ 1"):
            check_num_frames(num_frames)


@given(st.integers(-100, 5000), st.integers(-100, 1000))
def test_the_nearest_value_that_an_error_names_is_a_good_one(size_px: int, num_frames: int) -> None:
    for check in (lambda value: check_size("height", value), check_num_frames):
        try:
            check(size_px if check is not check_num_frames else num_frames)
        except InvalidParams as error:
            check(int(error.rule.split()[-1]))


@given(st.integers(1, 100), st.integers(1, 100), st.integers(0, 40))
def test_every_patch_of_a_clip_is_one_token(columns: int, rows: int, quads: int) -> None:
    size = {"width": columns * 16, "height": rows * 16, "num_frames": 4 * quads + 1}
    assert num_tokens(**size) == columns * rows * (quads + 1)


def test_no_side_is_longer_than_the_model_has_positions_for() -> None:
    check_size("width", 16384)
    check_num_frames(4093)
    with pytest.raises(InvalidParams, match="width=16400: must be at most 16384 px"):
        check_size("width", 16400)
    with pytest.raises(InvalidParams, match="num_frames=4097: must be at most 4093"):
        check_num_frames(4097)

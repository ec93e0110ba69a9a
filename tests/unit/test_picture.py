"""What is no picture is not delivered."""

import numpy as np
import pytest

from lynx_batch.delivery.picture import check_picture
from lynx_batch.errors import ImplausibleResult


def test_flat_frames_are_refused() -> None:
    frames = np.zeros((5, 48, 64, 3), np.uint8)
    frames[:] = np.arange(5, dtype=np.uint8)[:, None, None, None]
    frames[..., 0] = 200
    with pytest.raises(ImplausibleResult, match="each of the 5 has one flat colour"):
        check_picture(frames)


def test_a_picture_that_is_dark_for_most_of_its_time_is_one() -> None:
    frames = np.zeros((5, 48, 64, 3), np.uint8)
    frames[3] = np.random.default_rng(0).integers(0, 255, frames[3].shape)
    check_picture(frames)

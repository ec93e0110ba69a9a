"""Checks that frames show a picture at all."""

import numpy as np
from numpy.typing import NDArray

from lynx_batch.errors import ImplausibleResult

STRIDE_PX = 8


def check_picture(frames: NDArray[np.uint8]) -> None:
    """Raises ImplausibleResult if every frame is one flat colour, the result of NaNs or of a broken decoder.

    Args:
        frames: (F, H, W, 3); every eighth pixel in both directions is checked.
    """
    sample = frames[:, ::STRIDE_PX, ::STRIDE_PX]
    if (sample == sample[:, :1, :1]).all():
        raise ImplausibleResult(f"frames: must show something, but each of the {len(frames)} has one flat colour")

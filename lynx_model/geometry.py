"""Converts sizes of Wan2.1 between pixels, latents and tokens.

Wan's VAE divides height and width by 8 and time by 4 (the first frame stays alone); the DiT takes patches of 1x2x2 latents.
Source: Wan2.1 technical report (arXiv 2503.20314), sections 4.1 and 4.2.
"""

from lynx_model.errors import InvalidParams

SPATIAL_STRIDE_PX = 8
TEMPORAL_STRIDE_FRAMES = 4
LATENT_CHANNELS = 16
SIZE_MULTIPLE_PX = 16

MAX_PATCHES = 1024
"""The DiT has rotary embeddings for this many patches along width, height and time. Source: `rope_max_seq_len` of diffusers' Wan."""


def check_size(field: str, size_px: int) -> None:
    """Raises InvalidParams unless `size_px` divides into whole patches, at most `MAX_PATCHES` of them."""
    if size_px < SIZE_MULTIPLE_PX or size_px % SIZE_MULTIPLE_PX:
        near = max(SIZE_MULTIPLE_PX, round(size_px / SIZE_MULTIPLE_PX) * SIZE_MULTIPLE_PX)
        raise InvalidParams(
            field, size_px, f"must be a positive multiple of {SIZE_MULTIPLE_PX} px; the nearest is {near}"
        )
    if size_px > MAX_PATCHES * SIZE_MULTIPLE_PX:
        raise InvalidParams(field, size_px, f"must be at most {MAX_PATCHES * SIZE_MULTIPLE_PX} px")


def check_num_frames(num_frames: int) -> None:
    """Raises InvalidParams unless the VAE can divide `num_frames` (1, 5, 9, ... 81, ... 121) and the DiT has room for them."""
    if num_frames < 1 or (num_frames - 1) % TEMPORAL_STRIDE_FRAMES:
        near = max(0, round((num_frames - 1) / TEMPORAL_STRIDE_FRAMES)) * TEMPORAL_STRIDE_FRAMES + 1
        raise InvalidParams("num_frames", num_frames, f"must be 4 k + 1; the nearest is {near}")
    if num_frames > (longest := (MAX_PATCHES - 1) * TEMPORAL_STRIDE_FRAMES + 1):
        raise InvalidParams("num_frames", num_frames, f"must be at most {longest}")


def latent_shape(*, width: int, height: int, num_frames: int) -> tuple[int, int, int, int, int]:
    """The shape (1, C, F', H', W') of the latents of one clip of `num_frames` frames of `width` x `height` px."""
    num_latent_frames = 1 + (num_frames - 1) // TEMPORAL_STRIDE_FRAMES
    return 1, LATENT_CHANNELS, num_latent_frames, height // SPATIAL_STRIDE_PX, width // SPATIAL_STRIDE_PX


def num_tokens(*, width: int, height: int, num_frames: int) -> int:
    """The number of tokens of one clip in the DiT: 32,760 at 81 frames of 832x480."""
    _, _, frames, rows, columns = latent_shape(width=width, height=height, num_frames=num_frames)
    return frames * (rows // 2) * (columns // 2)

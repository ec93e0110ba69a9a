"""Small copies of the photos of a report. Nowhere else does a run's output contain the bytes of a photo."""

import hashlib
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO

from PIL import Image

from lynx_batch.config import InputsConfig
from lynx_batch.errors import LynxError
from lynx_batch.inputs import read_photo_file
from lynx_model.faces.photo import read_photo

MAX_PHOTOS = 5_000
"""If a run has more, its report has none unless they are asked for: the run's end would take too long."""

WITHIN_S = 300.0
"""No photo is begun after this time. A store that is slow must not hold up the end of a run."""

SMALL_PX = 160
"""The longer side of a small photo: twice what the page shows, for dense screens."""

JPEG_QUALITY = 80
NUM_READERS = 4
"""Each may hold a photo of `MAX_PIXELS`."""


def shrink_photos(photos: Iterable[tuple[str, str]], inputs: InputsConfig) -> Iterator[tuple[str, bytes]]:
    """The hash and the small JPEG of each photo that can be read and is still the one with that hash.

    Args:
        photos: The URI and the SHA-256 of each.
        inputs: The places that are allowed and the limits; each photo is tried once.
    """
    end_s = time.monotonic() + WITHIN_S
    once = inputs.model_copy(update={"max_tries": 1})
    with ThreadPoolExecutor(NUM_READERS, thread_name_prefix="photos") as pool:
        for sha256, small in pool.map(partial(_shrink, inputs=once, end_s=end_s), photos):
            if small:
                yield sha256, small


def _shrink(photo: tuple[str, str], inputs: InputsConfig, end_s: float) -> tuple[str, bytes]:
    """The hash, and the JPEG or nothing."""
    uri, sha256 = photo
    if time.monotonic() > end_s:
        return sha256, b""
    try:
        content = read_photo_file(uri, inputs)
        if hashlib.sha256(content).hexdigest() != sha256:
            return sha256, b""
        picture = Image.fromarray(read_photo(content, at_least_px=SMALL_PX))
    except LynxError:
        return sha256, b""
    picture.thumbnail((SMALL_PX, SMALL_PX))
    jpeg = BytesIO()
    picture.save(jpeg, "JPEG", quality=JPEG_QUALITY)
    return sha256, jpeg.getvalue()

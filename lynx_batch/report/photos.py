"""Small copies of the photos of a report. Nowhere else does a run's output contain the bytes of a photo.

Photos are read in other processes, because a damaged one may kill the process that decodes it.
"""

import hashlib
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from io import BytesIO
from queue import SimpleQueue

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

PHOTOS_PER_READER = 8
"""With fewer photos, starting another process takes longer than it saves."""


def shrink_photos(photos: Sequence[tuple[str, str]], inputs: InputsConfig) -> Iterator[tuple[str, bytes]]:
    """The hash and the small JPEG of each photo that can be read and is still the one with that hash.

    Args:
        photos: The URI and the SHA-256 of each.
        inputs: The places that are allowed and the limits; each photo is tried once.
    """
    end_s = time.monotonic() + WITHIN_S
    once = inputs.model_copy(update={"max_tries": 1})
    all_readers = [_Reader() for _ in range(min(NUM_READERS, -(-len(photos) // PHOTOS_PER_READER)))]
    free = SimpleQueue[_Reader]()
    for reader in all_readers:
        free.put(reader)

    def shrink(photo: tuple[str, str]) -> tuple[str, bytes]:
        uri, sha256 = photo
        if time.monotonic() > end_s:
            return sha256, b""
        reader = free.get()
        try:
            return sha256, reader.shrink(uri, sha256, once)
        finally:
            free.put(reader)

    try:
        with ThreadPoolExecutor(NUM_READERS, thread_name_prefix="photos") as pool:
            yield from ((sha256, small) for sha256, small in pool.map(shrink, photos) if small)
    finally:
        for reader in all_readers:
            reader.end()


class _Reader:
    """A process that shrinks one photo at a time. If a photo kills it, that photo is left out and the next one gets a new process."""

    def __init__(self) -> None:
        self._process: ProcessPoolExecutor | None = None

    def shrink(self, uri: str, sha256: str, inputs: InputsConfig) -> bytes:
        if self._process is None:
            self._process = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        try:
            return self._process.submit(_shrink, uri, sha256, inputs).result()
        except BrokenProcessPool:
            self.end()
            return b""

    def end(self) -> None:
        if self._process is not None:
            self._process.shutdown()
        self._process = None


def _shrink(uri: str, sha256: str, inputs: InputsConfig) -> bytes:
    """The JPEG, or nothing."""
    try:
        content = read_photo_file(uri, inputs)
        if hashlib.sha256(content).hexdigest() != sha256:
            return b""
        picture = Image.fromarray(read_photo(content, at_least_px=SMALL_PX))
    except LynxError:
        return b""
    picture.thumbnail((SMALL_PX, SMALL_PX))
    jpeg = BytesIO()
    picture.save(jpeg, "JPEG", quality=JPEG_QUALITY)
    return jpeg.getvalue()

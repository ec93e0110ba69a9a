"""Imports large libraries faster."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collection() -> Iterator[None]:
    """For imports of torch, diffusers and transformers: garbage is not collected meanwhile.

    They make 450,000 objects that stay. Python would look for garbage among them again and again, which is a fifth of the imports' time.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()

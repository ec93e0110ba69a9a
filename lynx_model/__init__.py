"""Turns one person and one prompt into the frames of a video, on the GPUs that it is given.

The names that Python programs use. Each is imported when it is first used, so `import lynx_model` does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from lynx_model.imports import without_collection

if TYPE_CHECKING:
    from lynx_model.pipeline import LynxPipeline
    from lynx_model.spec import RenderParams, Subject

__all__ = ["LynxPipeline", "RenderParams", "Subject"]

_MODULES = {"LynxPipeline": "lynx_model.pipeline", "RenderParams": "lynx_model.spec", "Subject": "lynx_model.spec"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'lynx_model' has no attribute {name!r}")
    with without_collection():
        return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

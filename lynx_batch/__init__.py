"""Face photos and prompts become videos that look like these people, thousands of times, on a Ray cluster.

The names that Python programs use. Each is imported when it is first used, so `import lynx_batch` loads neither torch nor Ray.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lynx_batch.api import plan, read_metadata, render
    from lynx_batch.config import load_run_config
    from lynx_batch.preparation.selection import Selection

__all__ = ["Selection", "load_run_config", "plan", "read_metadata", "render"]

_MODULES = {
    "Selection": "lynx_batch.preparation.selection",
    "load_run_config": "lynx_batch.config",
    "plan": "lynx_batch.api",
    "read_metadata": "lynx_batch.api",
    "render": "lynx_batch.api",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'lynx_batch' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

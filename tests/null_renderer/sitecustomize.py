"""Renders nothing: with this folder on PYTHONPATH and `NULL_RENDERER` set, a worker commits each clip without a model or a video.

Everything else is real: driver, Ray, groups, schedule, commits, events and metadata. So runs of many clips can be measured.
"""

import importlib.abc
import importlib.util
import os
import sys

RENDERER = "lynx_batch.rendering.renderer"


class _Replacing(importlib.abc.MetaPathFinder):
    """Loads another module in place of the renderer."""

    def find_spec(self, name, path, target=None):  # type: ignore[no-untyped-def]
        if name != RENDERER:
            return None
        return importlib.util.spec_from_file_location(name, os.path.join(os.path.dirname(__file__), "renderer.py"))


if "NULL_RENDERER" in os.environ:
    sys.meta_path.insert(0, _Replacing())

"""Which network measures identity: a face pack's own recogniser, or the ArcFace that the published adapters expect."""

from pathlib import Path

from lynx_model.published import ARCFACE, models_root

OWN_RECOGNISER = "pack"
"""The `identity` that means the pack's own recogniser."""


def arcface_file(identity: str) -> Path:
    """The ArcFace weights that `identity` means: "arcface" is the pulled file, anything else is a path."""
    return models_root() / ARCFACE.path if identity == "arcface" else Path(identity)

"""Which network measures identity: a face pack's own recogniser, or the ArcFace that the published adapters expect."""

from pathlib import Path

from lynx_model.published import models_root

OWN_RECOGNISER = "pack"
"""The `identity` that means the pack's own recogniser."""

ARCFACE_ENCODER = "arcface-ir-se50"
"""The encoder of adapters that declare none: what Lynx was published with."""

ARCFACE_FILE = Path("arcface", "recognition_arcface_ir_se50.pth")
"""Where `lynx-batch models pull` puts it, below the models folder."""


def arcface_file(identity: str) -> Path:
    """The ArcFace weights that `identity` means: "arcface" is the pulled file, anything else is a path."""
    return models_root() / ARCFACE_FILE if identity == "arcface" else Path(identity)

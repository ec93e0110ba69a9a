"""Selects the network that measures identity: a face pack's own recogniser, or the ArcFace that the published adapters expect."""

from pathlib import Path

from lynx_model.checkpoints.published import ARCFACE, models_root
from lynx_model.checkpoints.reading import reading
from lynx_model.errors import MissingFile, WeightsMismatch

OWN_RECOGNISER = "pack"
"""The value of `identity` for the pack's own recogniser."""

ARCFACE_HEAD_BYTES = 2**20
"""A PyTorch file, zip or not, begins with its tensors' names in plain text."""

ARCFACE_TENSORS = ("input_layer.0.weight", "body.0.res_layer.5.fc1.weight", "output_layer.4.running_var")
"""Some of the tensors in every checkpoint of facexlib's layout."""


def arcface_file(identity: str) -> Path:
    """The ArcFace weights for `identity`: "arcface" is the pulled file, anything else is a path."""
    return models_root() / ARCFACE.path if identity == "arcface" else Path(identity)


def check_arcface(file: Path) -> None:
    """Raises MissingFile, or WeightsMismatch if `file` is not an ArcFace network, as far as that shows without torch."""
    if not file.is_file():
        raise MissingFile(f"{file}: no such file; fetch ArcFace with `lynx-batch models pull arcface`")
    with reading(file), file.open("rb") as content:
        head = content.read(ARCFACE_HEAD_BYTES)
    for name in ARCFACE_TENSORS:
        if name.encode() not in head:
            raise WeightsMismatch(f"{file}: must be a PyTorch file of an ArcFace IR-SE50, but names no tensor {name}")

"""Checks the files that a run's quality gate measures with, before a GPU is involved."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from lynx_batch.config import QualityConfig
from lynx_model.errors import MissingFile

NEEDED_TO_OPEN = ("onnxruntime", "torch", "transformers")


def check_scorers(quality: QualityConfig | None) -> None:
    """Opens each network that `quality` names, and runs it once. Where the packages for that are missing, it only looks for the files.

    Raises:
        MissingFile: If one is not on this machine.
        WeightsMismatch: If one is another kind of network, or damaged. Messages begin with the key and the path.
    """
    named = {} if quality is None else quality.scorer_files
    for key, path in named.items():
        if not Path(path).exists():
            raise MissingFile(f"{key}={path!r}: does not exist on this machine")
    if named and all(map(find_spec, NEEDED_TO_OPEN)):
        load = _loaders()
        for key, path in named.items():
            load[key](path)


def _loaders() -> dict[str, Callable[[str], object]]:
    """How the network of each key is opened."""
    from lynx_model.scoring.prompt import PromptScorer
    from lynx_model.scoring.safety import NsfwScorer

    return {
        "quality.safety.opennsfw2": lambda file: NsfwScorer.load_onnx(file, field="quality.safety.opennsfw2"),
        "quality.safety.falconsai": lambda folder: NsfwScorer.load_vit(folder, field="quality.safety.falconsai"),
        "quality.prompt.model": lambda folder: PromptScorer.load(folder, field="quality.prompt.model"),
    }

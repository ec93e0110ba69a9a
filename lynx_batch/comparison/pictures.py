"""How far apart the pictures of two clips are."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from skimage.metrics import structural_similarity

from lynx_batch.delivery.video import decode_mp4
from lynx_model.errors import WeightsMismatch
from lynx_model.faces.onnx_sessions import session_options
from lynx_model.scoring.network_file import ONNX_ERRORS, check_file

NUM_FRAMES = 16
"""How many evenly spread frames SSIM and LPIPS are means of."""

MAX_PSNR_DB = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureDistance:
    """PSNR over all frames, in dB and at most 100; SSIM of all three colours and LPIPS, as means over the examined frames.

    `lpips` is None without a network.
    """

    psnr_db: float
    ssim: float
    lpips: float | None = None


class Lpips:
    """A network that says how different two pictures look, such as an export of LPIPS."""

    def __init__(self, session: Any) -> None:
        self._session = session

    @classmethod
    def load(cls, file: Path) -> "Lpips":
        """From an ONNX file that takes two pictures, float32 (1, 3, H, W) from -1 to 1, and gives one number.

        Raises:
            MissingFile, WeightsMismatch: If it is missing or another network.
        """
        about = f"--lpips {check_file('--lpips', file)}"
        try:
            lpips = cls(onnxruntime.InferenceSession(file, session_options(), providers=["CPUExecutionProvider"]))
            black = np.zeros((64, 64, 3), dtype=np.uint8)
            lpips.distance(black, black)
        except (*ONNX_ERRORS, ValueError) as error:
            rule = "must be an ONNX network of two pictures, float32 (1, 3, H, W), that gives one number"
            raise WeightsMismatch(f"{about}: {rule} ({error})") from error
        return lpips

    def distance(self, picture_HWC: NDArray[np.uint8], other_HWC: NDArray[np.uint8]) -> float:
        """How different two pictures of one size look; 0 if they are equal."""
        first, second = self._session.get_inputs()
        pictures = {first.name: _as_input(picture_HWC), second.name: _as_input(other_HWC)}
        (found,) = self._session.run(None, pictures)
        return float(np.asarray(found).reshape(()))


def compare_videos(mp4: bytes, reference_mp4: bytes, lpips: Lpips | None = None) -> PictureDistance | None:
    """None if the clips differ in size or length."""
    frames, reference = decode_mp4(mp4), decode_mp4(reference_mp4)
    if frames.shape != reference.shape:
        return None
    examined = np.unique(np.linspace(0, len(frames) - 1, NUM_FRAMES).round().astype(np.int64))
    pairs = [(frames[index], reference[index]) for index in examined]
    return PictureDistance(
        psnr_db=_psnr_db(frames, reference),
        ssim=float(np.mean([structural_similarity(*pair, channel_axis=-1) for pair in pairs])),
        lpips=None if lpips is None else float(np.mean([lpips.distance(*pair) for pair in pairs])),
    )


def _as_input(picture_HWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    return (picture_HWC.transpose(2, 0, 1)[None] / 127.5 - 1).astype(np.float32)


def _psnr_db(frames_FHWC: NDArray[np.uint8], reference_FHWC: NDArray[np.uint8]) -> float:
    pairs = zip(frames_FHWC, reference_FHWC, strict=True)
    error = float(np.mean([np.square(a.astype(np.float32) - b).mean() for a, b in pairs]))
    return MAX_PSNR_DB if error == 0 else min(MAX_PSNR_DB, float(10 * np.log10(255**2 / error)))

"""An invisible watermark in frames: what the rest of the code needs of one, and one that a TorchScript file defines."""

import io
import warnings
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lynx_model.errors import WeightsMismatch

NUM_FRAMES_AT_ONCE = 8
EXAMPLE_PX = 256


class Watermark(Protocol):
    """Hides a message in frames and finds it again. Frames are uint8 (F, H, W, 3) RGB, messages bool (num_bits,)."""

    @property
    def num_bits(self) -> int: ...

    def embed(self, frames_FHWC: NDArray[np.uint8], message: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """A copy of the frames that carries the message."""

    def read(self, frames_FHWC: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """The message that most of the frames carry; any bits if they carry none."""


class TorchScriptWatermark:
    """A module with `embed(images, messages)` and `detect(images)`, on the CPU: it works beside the next clip's denoising.

    Images are float (B, 3, H, W) in 0..1, messages float (B, num_bits) of 0 and 1. `detect` gives (B, 1 + num_bits): the first value says
    whether there is a message at all, and each other one is positive for a 1.

    Source: facebookresearch/videoseal, docs/torchscript.md (y_256b_img.jit).
    """

    def __init__(self, module: torch.jit.ScriptModule, num_bits: int) -> None:
        self._module, self._num_bits = module, num_bits

    @classmethod
    def load(cls, content: bytes, *, name: str) -> "TorchScriptWatermark":
        """The module in a TorchScript file. `name` is shown in errors.

        Raises:
            WeightsMismatch: If it is no such file, or does not embed and detect as it should.
        """
        try:
            with warnings.catch_warnings():
                # Deprecated by torch, but the only format in which such networks are published.
                warnings.simplefilter("ignore", DeprecationWarning)
                module = torch.jit.load(io.BytesIO(content), map_location="cpu").eval()
            example = torch.zeros(1, 3, EXAMPLE_PX, EXAMPLE_PX)
            with torch.inference_mode():
                num_bits = module.detect(example).shape[1] - 1
                is_fit = num_bits > 0 and module.embed(example, torch.zeros(1, num_bits)).shape == example.shape
        except (RuntimeError, AttributeError, IndexError, ValueError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise WeightsMismatch(f"{name}: {_RULE}: {reason}") from error
        if not is_fit:
            raise WeightsMismatch(f"{name}: {_RULE}")
        return cls(module, num_bits)

    @property
    def num_bits(self) -> int:
        return self._num_bits

    @torch.inference_mode()
    def embed(self, frames_FHWC: NDArray[np.uint8], message: NDArray[np.bool_]) -> NDArray[np.uint8]:
        bits = torch.from_numpy(message.astype(np.float32))
        marked = np.empty_like(frames_FHWC)
        for start in range(0, len(frames_FHWC), NUM_FRAMES_AT_ONCE):
            images = _as_images(frames_FHWC[start : start + NUM_FRAMES_AT_ONCE])
            found = self._module.embed(images, bits.expand(len(images), -1)).clamp(0, 1)
            marked[start : start + len(images)] = (found * 255).round().byte().permute(0, 2, 3, 1).numpy()
        return marked

    @torch.inference_mode()
    def read(self, frames_FHWC: NDArray[np.uint8]) -> NDArray[np.bool_]:
        votes = torch.zeros(self._num_bits)
        for start in range(0, len(frames_FHWC), NUM_FRAMES_AT_ONCE):
            votes += self._module.detect(_as_images(frames_FHWC[start : start + NUM_FRAMES_AT_ONCE]))[:, 1:].sum(0)
        found: NDArray[np.bool_] = (votes > 0).numpy()
        return found


_RULE = "must be a TorchScript module with embed(images, messages) and detect(images)"


def _as_images(frames_FHWC: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(frames_FHWC).permute(0, 3, 1, 2).float() / 255

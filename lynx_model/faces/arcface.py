"""ArcFace IR-SE50: the identity encoder that the published Lynx adapters were trained on.

Tensor names are those of facexlib's published file, so that it loads strictly. Suffixes: B faces, C channels, H and W pixels.

Source: Deng et al., ArcFace (arXiv 1801.07698), section 3.1 (improved residual unit); Hu et al., Squeeze-and-Excitation
(arXiv 1709.01507); tensor layout of facexlib 0.3.0, recognition/arcface_arch.py.
"""

import pickle
import struct
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lynx_model.errors import MissingFile, WeightsMismatch
from lynx_model.faces.align import IDENTITY_CROP_PX
from lynx_model.spec import EMBEDDING_SIZE

STAGES = ((64, 3), (128, 4), (256, 14), (512, 3))
"""(channels, units); the first unit of each stage halves the picture."""

SQUEEZE = 16
COUNTER = ".num_batches_tracked"
"""Tensors with this suffix count training batches. Nothing reads them, and older checkpoints do not have them."""


UNPICKLING_ERRORS = (
    *(pickle.UnpicklingError, struct.error, EOFError, RuntimeError, LookupError, ValueError, TypeError),
    *(AttributeError, AssertionError),
)
"""Errors that `torch.load` raised in tests with random bytes and randomly damaged checkpoints, or that their contents caused."""


class ArcFaceIRSE50(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layer = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))
        self.body = nn.Sequential(*_units())
        num_features = STAGES[-1][0] * (IDENTITY_CROP_PX // 2 ** len(STAGES)) ** 2
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(STAGES[-1][0]),
            nn.Identity(),  # facexlib's dropout, which keeps the numbering of what follows
            nn.Flatten(),
            nn.Linear(num_features, EMBEDDING_SIZE),
            nn.BatchNorm1d(EMBEDDING_SIZE),
        )

    def forward(self, faces_BCHW: Tensor) -> Tensor:
        """(B, 3, 112, 112) BGR from -1 to 1 -> (B, 512) of unit length."""
        return nn.functional.normalize(self.output_layer(self.body(self.input_layer(faces_BCHW))))

    @torch.inference_mode()
    def embed(self, crops_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Identity embeddings of aligned faces.

        Args:
            crops_BHWC: (B, 112, 112, 3) RGB from `align_face_for_identity`.

        Returns:
            (B, 512), each of unit length.

        Source: bytedance/lynx modules/common/face_encoder.py at 3a6a91a (channels reversed before ArcFace).
        """
        bgr_BCHW = torch.from_numpy(crops_BHWC[..., ::-1].copy()).permute(0, 3, 1, 2)
        embeddings: NDArray[np.float32] = self((bgr_BCHW.float() / 255 - 0.5) / 0.5).numpy()
        return embeddings


class _Unit(nn.Module):
    """Residual unit with batch norm first and channel weights last; `stride` 2 halves height and width."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.shortcut_layer = _shortcut(channels_in, channels, stride)
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(channels_in),
            nn.Conv2d(channels_in, channels, 3, padding=1, bias=False),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            _ChannelWeights(channels),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        result: Tensor = self.res_layer(x_BCHW) + self.shortcut_layer(x_BCHW)
        return result


class _ChannelWeights(nn.Module):
    """Squeeze and excitation: scales each channel by a weight computed from the means of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // SQUEEZE, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // SQUEEZE, channels, 1, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        mean_BC11 = x_BCHW.mean((2, 3), keepdim=True)
        weights_BC11: Tensor = self.fc2(self.fc1(mean_BC11).relu()).sigmoid()
        return x_BCHW * weights_BC11


def _shortcut(channels_in: int, channels: int, stride: int) -> nn.Module:
    if channels_in == channels:
        return nn.MaxPool2d(1, stride)
    return nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))


def _units() -> list[_Unit]:
    units, channels_in = [], STAGES[0][0]
    for channels, num_units in STAGES:
        for index in range(num_units):
            units.append(_Unit(channels_in, channels, stride=1 if index else 2))
            channels_in = channels
    return units


def load_arcface(file: Path) -> ArcFaceIRSE50:
    """Loads the encoder from `recognition_arcface_ir_se50.pth`.

    Raises:
        MissingFile: If there is no such file.
        WeightsMismatch: If it is not a checkpoint, or a tensor is missing, surplus or misshapen.
    """
    with torch.device("meta"):
        model = ArcFaceIRSE50()
    expected = model.state_dict()
    found = _read_checkpoint(file)
    _check_tensors(file, expected, found)
    counters = {name: torch.tensor(0) for name in expected if name.endswith(COUNTER)}
    model.load_state_dict(counters | {name: tensor.float() for name, tensor in found.items()}, assign=True)
    return model.eval().requires_grad_(requires_grad=False)


def _read_checkpoint(file: Path) -> dict[str, Tensor]:
    """All tensors of the file except its counters."""
    if not file.is_file():
        raise MissingFile(f"ArcFace weights {file}: must be there; fetch them with `lynx-batch models pull arcface`")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        return {name: tensor.detach() for name, tensor in state.items() if not name.endswith(COUNTER)}
    except UNPICKLING_ERRORS as error:
        raise WeightsMismatch(f"{file}: must be a PyTorch file of named tensors") from error


def _check_tensors(file: Path, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.items() if not name.endswith(COUNTER)}
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    for name in wanted | shapes:
        if wanted.get(name) != shapes.get(name):
            raise WeightsMismatch(
                f"{file}: tensor {name}: expected {wanted.get(name, 'none')}, found {shapes.get(name, 'none')}"
            )

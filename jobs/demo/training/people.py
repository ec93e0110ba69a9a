"""People as canvases: a picture with a matte, larger than the portrait, so that a smaller person still has shoulders.

Shapes: N people, C red, green, blue and matte, H and W pixels. Landmarks are (N, 5, 2) in pixels (x, y) of the canvas.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from jobs.demo.training.portraits import Portrait

CANVAS_PX = 384
PORTRAIT_PX = 256
OFFSET_PX = 64
"""The portrait's left and top in the canvas."""

PORTRAIT_QUALITY = 93
SHOULDER_SLOPE = 0.55
"""How far shoulders fall for each pixel beside the portrait."""

SIDE_PX = 4
"""The innermost of so many columns and rows at a border is repeated outwards; those beyond may look odd."""

HAIR_CORNER_PX = 88.0
"""Radius of the upper corners of what a portrait shows of hair: big hair ends round, not along the picture's border."""

MIRRORED_LANDMARKS = [1, 0, 2, 4, 3]
FACE_AXES_PX = (61.0, 66.0, 76.0)
"""Half the width of the inner face, and its height above and below the centre: from the brow to the chin."""
CORE_AXES_PX = (46.0, 42.0, 50.0)
"""Of eyes, nose and mouth, which may have any colour."""
NUM_CANDIDATES = 8
PATCH_PX = 20
SHARE_OF_OTHER = (0.5, 0.95)
TONE_SHARE = 0.7
MORPH_REACH_PX = 42.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class People:
    """`canvases` is uint8 (N, 4, 384, 384), `landmarks` float32 (N, 5, 2), `is_held_out` bool (N,): who is only for judging."""

    canvases: Tensor
    landmarks: Tensor
    is_held_out: Tensor
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def to(self, device: torch.device | str) -> "People":
        return People(
            canvases=self.canvases.to(device),
            landmarks=self.landmarks.to(device),
            is_held_out=self.is_held_out.to(device),
            names=self.names,
        )

    def select(self, indices: Tensor) -> "People":
        """The people with these indices, a long or bool tensor."""
        numbers = indices.nonzero().flatten() if indices.dtype == torch.bool else indices
        return People(
            canvases=self.canvases[numbers],
            landmarks=self.landmarks[numbers],
            is_held_out=self.is_held_out[numbers],
            names=[self.names[number] for number in numbers.tolist()],
        )

    def split(self) -> tuple["People", "People"]:
        """Those for training, and those only for judging."""
        return self.select(~self.is_held_out), self.select(self.is_held_out)


def joined(groups: list[People]) -> People:
    """All people of several groups on one device."""
    return People(
        canvases=torch.cat([group.canvases for group in groups]),
        landmarks=torch.cat([group.landmarks for group in groups]),
        is_held_out=torch.cat([group.is_held_out for group in groups]),
        names=[name for group in groups for name in group.names],
    )


def save_people(file: Path, portraits: list["Portrait"]) -> None:
    """Saves portraits as JPEG and mattes as PNG in one npz file."""
    pictures = [_encoded(portrait.picture_rgb, "JPEG", quality=PORTRAIT_QUALITY) for portrait in portraits]
    mattes = [_encoded(portrait.matte, "PNG", optimize=True) for portrait in portraits]
    np.savez(
        file,
        names=json.dumps([portrait.name for portrait in portraits]),
        is_held_out=np.array([portrait.is_held_out for portrait in portraits]),
        landmarks=np.stack([portrait.landmarks for portrait in portraits]),
        embeddings=np.stack([portrait.embedding for portrait in portraits]).astype(np.float16),
        pictures=np.frombuffer(b"".join(pictures), np.uint8),
        picture_ends=np.cumsum([len(data) for data in pictures]),
        mattes=np.frombuffer(b"".join(mattes), np.uint8),
        matte_ends=np.cumsum([len(data) for data in mattes]),
    )


def load_people(file: Path) -> People:
    """Loads the people that `save_people` saved, on the CPU. Needs no OpenCV."""
    with np.load(file) as saved:
        pictures_NHWC = np.stack(_decoded(saved["pictures"], saved["picture_ends"]))
        mattes_NHW = np.stack(_decoded(saved["mattes"], saved["matte_ends"]))
        people_NHWC = np.concatenate([pictures_NHWC, mattes_NHW[..., None]], axis=-1)
        return People(
            canvases=canvases_of(torch.from_numpy(people_NHWC).permute(0, 3, 1, 2)),
            landmarks=torch.from_numpy(saved["landmarks"]).float() + OFFSET_PX,
            is_held_out=torch.from_numpy(saved["is_held_out"]),
            names=json.loads(str(saved["names"])),
        )


def _encoded(picture: NDArray[np.uint8], kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()


def _decoded(data: NDArray[np.uint8], ends: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
    return [np.asarray(Image.open(io.BytesIO(part.tobytes()))) for part in np.split(data, ends[:-1])]


def canvases_of(portraits_NCHW: Tensor, batch: int = 32) -> Tensor:
    """Portraits with mattes, uint8 (N, 4, 256, 256) -> uint8 (N, 4, 384, 384), continued to the sides and below."""
    return torch.cat([_canvases(part.float()) for part in portraits_NCHW.split(batch)])


def _canvases(portraits_NCHW: Tensor) -> Tensor:
    """Repeats the portrait's borders outwards, along falling shoulders. Hair that a border cuts fades out."""
    y, x = (
        axis.float() - OFFSET_PX
        for axis in torch.meshgrid(torch.arange(CANVAS_PX), torch.arange(CANVAS_PX), indexing="ij")
    )
    last = PORTRAIT_PX - 1
    aside = (-x).clamp(min=0) + (x - last).clamp(min=0)
    mattes_N1HW = _without_wings(portraits_NCHW[:, 3:] * _fade().to(portraits_NCHW))
    portraits_NCHW = torch.cat([portraits_NCHW[:, :3], mattes_N1HW], dim=1)
    inner_x, inner_y = (
        x.clamp(SIDE_PX - 1, PORTRAIT_PX - SIDE_PX),
        (y - SHOULDER_SLOPE * aside).clamp(0, PORTRAIT_PX - SIDE_PX),
    )
    grid = torch.stack([inner_x, inner_y], dim=-1).add(0.5).div(PORTRAIT_PX / 2).sub(1)
    canvases = functional.grid_sample(
        portraits_NCHW, grid.expand(len(portraits_NCHW), -1, -1, -1), padding_mode="border", align_corners=False
    )
    outside = ((aside + (y - last).clamp(min=0)) / 8).clamp(0, 1)
    coarse = functional.avg_pool2d(canvases[:, :3], 12)
    smooth = functional.interpolate(coarse, (CANVAS_PX, CANVAS_PX), mode="bilinear", align_corners=False)
    colours = torch.lerp(canvases[:, :3], smooth, outside)
    mattes = canvases[:, 3:] * (y >= 0)
    return torch.cat([colours, mattes], dim=1).round().clamp(0, 255).byte()


def _without_wings(mattes_N1HW: Tensor) -> Tensor:
    """At the sides only what reaches down to the bottom stays, so that a lock of hair does not grow outwards."""
    mattes_N1HW = mattes_N1HW.clone()
    for side in (slice(0, SIDE_PX), slice(PORTRAIT_PX - SIDE_PX, PORTRAIT_PX)):
        mattes_N1HW[..., side] = mattes_N1HW[..., side].flip(2).cummin(2).values.flip(2)
    return mattes_N1HW


def _fade() -> Tensor:
    """(256, 256) from 0 to 1: 0 at the top and at the upper sides, where a border cuts off hair, and outside of round upper corners."""
    position = torch.arange(PORTRAIT_PX).float()
    from_side = torch.minimum(position, PORTRAIT_PX - 1 - position)
    aside, above = ((HAIR_CORNER_PX - distance).clamp(min=0) for distance in (from_side[None], position[:, None]))
    from_edge = HAIR_CORNER_PX - (aside.square() + above.square()).sqrt()
    is_below = ((position - 0.68 * PORTRAIT_PX) / (0.04 * PORTRAIT_PX)).clamp(0, 1)[:, None]
    return torch.maximum(((from_edge - SIDE_PX) / 12).clamp(0, 1), is_below)


def mirrored(people: People) -> People:
    """The same people seen in a mirror."""
    landmarks = people.landmarks[:, MIRRORED_LANDMARKS].clone()
    landmarks[..., 0] = CANVAS_PX - 1 - landmarks[..., 0]
    return People(
        canvases=people.canvases.flip(3),
        landmarks=landmarks,
        is_held_out=people.is_held_out,
        names=[f"{name} mirrored" for name in people.names],
    )


def morphs(people: People, num: int, generator: torch.Generator | None = None, batch: int = 64) -> People:
    """New people: hair and outline of one person, a face between that person's and another's.

    The other is the one of some drawn by chance whose face is most alike: else pose, glasses and mouths do not fit.

    Args:
        people: At least two, all for training.
        num: How many new people.
        generator: On the people's device.
        batch: How many are made at once.
    """
    device = people.canvases.device
    first = torch.randint(len(people), (num,), device=device, generator=generator)
    steps = torch.randint(1, len(people), (num, NUM_CANDIDATES), device=device, generator=generator)
    second = _most_alike(_patches(people), first, (first[:, None] + steps) % len(people))
    low, high = SHARE_OF_OTHER
    shares = torch.rand(num, device=device, generator=generator) * (high - low) + low
    canvases, landmarks = [], []
    for a, b, share in zip(first.split(batch), second.split(batch), shares.split(batch), strict=True):
        canvas, points = _morph(people.select(a), people.select(b), share)
        canvases.append(canvas)
        landmarks.append(points)
    return People(
        canvases=torch.cat(canvases),
        landmarks=torch.cat(landmarks),
        is_held_out=torch.zeros(num, dtype=torch.bool, device=device),
        names=[f"{people.names[a]} + {people.names[b]}" for a, b in zip(first.tolist(), second.tolist(), strict=True)],
    )


def _patches(people: People) -> Tensor:
    """(N, pixels): the inner faces small and grey, with mean 0 and spread 1."""
    axis = torch.linspace(-1, 1, PATCH_PX, device=people.canvases.device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    across, above, below = FACE_AXES_PX
    centre_N112 = people.landmarks.mean(1)[:, None, None]
    grid = torch.stack([x * across, y * (above + below) / 2 + (below - above) / 2], dim=-1) + centre_N112
    grid = (grid + 0.5) / (CANVAS_PX / 2) - 1
    parts = zip(people.canvases.split(64), grid.split(64), strict=True)
    grey = [functional.grid_sample(_blurred(c[:, :3].float(), 5), g, align_corners=False).mean(1) for c, g in parts]
    patches = torch.cat(grey).flatten(1)
    return (patches - patches.mean(1, keepdim=True)) / (patches.std(1, keepdim=True) + 1e-3)


def _most_alike(patches: Tensor, first_M: Tensor, candidates_MK: Tensor) -> Tensor:
    """(M,): of each row of candidates the one whose patch differs least from the first's."""
    differences_MK = (patches[candidates_MK] - patches[first_M][:, None]).abs().mean(-1)
    return candidates_MK.gather(1, differences_MK.argmin(1, keepdim=True))[:, 0]


def _blurred(pictures_NCHW: Tensor, side: int) -> Tensor:
    """Means of squares of an odd side."""
    return functional.avg_pool2d(pictures_NCHW, side, 1, side // 2, count_include_pad=False)


def _morph(outer: People, other: People, share_N: Tensor) -> tuple[Tensor, Tensor]:
    """Canvases and landmarks of people with `share_N` of the other's face."""
    share_N11 = share_N[:, None, None]
    landmarks = outer.landmarks + (other.landmarks - outer.landmarks) * share_N11
    a = _warped(outer.canvases.float(), outer.landmarks, landmarks)
    b = _warped(other.canvases.float(), other.landmarks, landmarks)
    face = _oval(landmarks, FACE_AXES_PX)
    a_mean, a_spread = _colours(a, face)
    b_mean, b_spread = _colours(b, face)
    tone = TONE_SHARE * share_N11[..., None]
    mean, spread = a_mean + (b_mean - a_mean) * tone, a_spread + (b_spread - a_spread) * tone
    own = a[:, :3] + (mean - a_mean) * face
    others = (b[:, :3] - b_mean) / (b_spread + 1e-3) * spread + mean
    core = _oval(landmarks, CORE_AXES_PX)
    is_skin = torch.minimum(_is_skin(a, a_mean, a_spread), _is_skin(b, b_mean, b_spread))
    weight = face * _blurred(torch.maximum(core, is_skin), 7) * share_N11[..., None]
    colours = own * (1 - weight) + others * weight
    return torch.cat([colours, a[:, 3:]], dim=1).round().clamp(0, 255).byte(), landmarks


def _warped(canvases_NCHW: Tensor, landmarks: Tensor, targets: Tensor) -> Tensor:
    """The canvases with their landmarks moved to `targets`, by a smooth field that vanishes far from them."""
    y, x = _pixels(canvases_NCHW.device)
    squared_N5HW = (x - targets[..., 0, None, None]) ** 2 + (y - targets[..., 1, None, None]) ** 2
    weights = torch.exp(-squared_N5HW / (2 * MORPH_REACH_PX**2))
    weights = weights / (weights.sum(1, keepdim=True) + 0.15)
    shift_NHW2 = torch.einsum("nkhw,nkc->nhwc", weights, landmarks - targets)
    grid = (torch.stack([x, y], dim=-1) + shift_NHW2 + 0.5) / (CANVAS_PX / 2) - 1
    return functional.grid_sample(canvases_NCHW, grid, padding_mode="border", align_corners=False)


def _oval(landmarks: Tensor, axes_px: tuple[float, float, float]) -> Tensor:
    """(N, 1, H, W) from 0 to 1: 1 inside an oval around the face's centre, with a soft edge."""
    y, x = _pixels(landmarks.device)
    centre = landmarks.mean(1)[..., None, None]
    across, above, below = axes_px
    down = y - centre[:, 1]
    distance = ((x - centre[:, 0]) / across) ** 2 + (down / torch.where(down < 0, above, below)) ** 2
    return torch.sigmoid(4 * (1 - distance))[:, None]


def _is_skin(canvases_NCHW: Tensor, mean_NC11: Tensor, spread_NC11: Tensor) -> Tensor:
    """(N, 1, H, W) from 0 to 1: 1 where the colour is about the face's, 0 for hair and background."""
    difference = (_blurred(canvases_NCHW[:, :3], 7) - mean_NC11).norm(dim=1, keepdim=True)
    return torch.sigmoid(5 * (1.9 - difference / (spread_NC11.norm(dim=1, keepdim=True) + 4)))


def _colours(canvases_NCHW: Tensor, face: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread of the face's colours, each (N, 3, 1, 1)."""
    inside = (face > 0.8).float()
    area = inside.sum((2, 3), keepdim=True)
    mean = (canvases_NCHW[:, :3] * inside).sum((2, 3), keepdim=True) / area
    variance = ((canvases_NCHW[:, :3] - mean) ** 2 * inside).sum((2, 3), keepdim=True) / area
    return mean, variance.sqrt()


def _pixels(device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns of every pixel of a canvas, each (H, W)."""
    axis = torch.arange(CANVAS_PX, device=device).float()
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return y, x

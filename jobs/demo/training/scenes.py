"""Canvases -> clips and photos, in batches on one device.

A person's head is an ellipsoid with a nose: turning it shifts each pixel by its depth. A clip's frames are one tall picture while
they are sampled, so a canvas is never repeated.

Shapes: B clips, F frames, C colours, H and W pixels, S the frame's side. Positions are in pixels (x, y).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from jobs.demo.training.axes import CAMERAS, LIGHTS, MOTIONS
from jobs.demo.training.people import CANVAS_PX, OFFSET_PX, PORTRAIT_PX

IDENTITY_PX = 112
REFERENCE_PX = 256
IDENTITY_LANDMARKS = torch.tensor(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
REFERENCE_LANDMARKS = ((IDENTITY_LANDMARKS + torch.tensor([0.0, 10.0])) - 56) * 1.6 + torch.tensor([128.0, 112.0])
"""As in `lynx_model.faces.align`, which needs OpenCV."""

SAMPLING_PX = 288
"""A canvas is shrunk to this side first: about one pixel for each of a frame, so that nothing aliases."""

DEPTH_PX = 40.0
"""How far the middle of a face moves when the head turns by 1, in canvas pixels."""
DEPTH_RADII_PX = (66.0, 92.0)
NOSE_DEPTH_PX = 8.0
NOSE_RADIUS_PX = 17.0
HEAD_SHIFT_PX = 14.0
"""How far the whole head moves with such a turn."""
NECK_BELOW_PX = 92.0
"""From the face's centre down to where the head ends."""

BACKGROUND_FRAMES = 1.75
"""The side of a background in frames."""

LIGHT_GAINS = {
    "neutral": (1.0, 1.0, 1.0),
    "warm": (1.16, 1.0, 0.68),
    "cool": (0.78, 1.0, 1.14),
    "dim": (1.0, 0.98, 1.0),
}
DIM_CORNERS = 0.42
DIM_FACE = 0.32
"""How bright a face is in dim light, from 0 to 1, if a gain in the following range can make it so: a dark face keeps its brightness."""
DIM_FACE_GAINS = (0.8, 1.3)
DIM_SPOT = 0.28
"""Width of the light on the face, in frames."""
FACE_RADIUS_PX = 28


@dataclass(frozen=True, slots=True, kw_only=True)
class _Course:
    """What moves in a clip, each (B, F).

    `yaw`, `pitch` and `roll` turn the head, `size` is the person's, `zoom` the camera's; `pan` moves the camera, `x` and `y` are the
    face's centre as shares of the frame.
    """

    yaw: Tensor
    pitch: Tensor
    roll: Tensor
    size: Tensor
    zoom: Tensor
    pan: Tensor
    x: Tensor
    y: Tensor


class _Dice:
    """Random numbers for a batch."""

    def __init__(self, num: int, device: torch.device, generator: torch.Generator | None) -> None:
        self._num, self._device, self._generator = num, device, generator

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform float32 (B, *shape)."""
        return torch.rand(self._num, *shape, device=self._device, generator=self._generator) * (high - low) + low

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self._num, *shape, device=self._device, generator=self._generator)


def draw_clips(
    canvases_u8: Tensor,
    landmarks: Tensor,
    backgrounds_u8: Tensor,
    scenes_B4: Tensor,
    *,
    num_frames: int = 17,
    size: int = 160,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draws a clip of each person.

    Args:
        canvases_u8: (B, 4, 384, 384).
        landmarks: (B, 5, 2) in canvas pixels.
        backgrounds_u8: (B, 3, 384, 384), of the scenes' places.
        scenes_B4: Numbers of motion, place, camera and light.
        num_frames: Frames of a clip.
        size: Side of a frame.
        generator: On the same device.

    Returns:
        Clips (B, 3, F, S, S) from -1 to 1, and the landmarks (B, F, 5, 2) in pixels of the frames.
    """
    times = torch.linspace(0, 1, num_frames, device=canvases_u8.device).expand(len(canvases_u8), -1)
    return _draw(canvases_u8, landmarks, backgrounds_u8, scenes_B4, times, size, generator)


def draw_frames(
    canvases_u8: Tensor,
    landmarks: Tensor,
    backgrounds_u8: Tensor,
    scenes_B4: Tensor,
    *,
    size: int = 160,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """As `draw_clips`, but one frame of each clip, at a random time: (B, 3, 1, S, S) and (B, 1, 5, 2)."""
    times = torch.rand(len(canvases_u8), 1, device=canvases_u8.device, generator=generator)
    return _draw(canvases_u8, landmarks, backgrounds_u8, scenes_B4, times, size, generator)


def _draw(
    canvases_u8: Tensor,
    landmarks: Tensor,
    backgrounds_u8: Tensor,
    scenes_B4: Tensor,
    times_BF: Tensor,
    size: int,
    generator: torch.Generator | None,
) -> tuple[Tensor, Tensor]:
    dice = _Dice(len(canvases_u8), canvases_u8.device, generator)
    course = _course(scenes_B4, times_BF, dice)
    scale_BF = course.size * course.zoom * (size / PORTRAIT_PX)  # frame pixels per canvas pixel
    middle = size / 2
    x_BF = middle + (course.x - 0.5 + 0.12 * course.pan) * size * course.zoom
    y_BF = middle + (course.y - 0.5) * size * course.zoom
    centre_B2 = _centre(landmarks)
    row, column = _pixels(size, landmarks.device)
    x = (column - x_BF[..., None, None]) / scale_BF[..., None, None] + centre_B2[:, None, None, None, 0]
    y = (row - y_BF[..., None, None]) / scale_BF[..., None, None] + centre_B2[:, None, None, None, 1]
    shift_x, shift_y = _shift(x, y, landmarks, course.yaw, course.pitch, course.roll)
    people = _sample(_shrunk(canvases_u8), x - shift_x, y - shift_y, CANVAS_PX)
    background = _background(backgrounds_u8, course, size, dice)
    matte = people[:, 3:]
    tint = _tint(backgrounds_u8)[:, :, None, None, None]
    pictures = people[:, :3] * tint * matte + background * (1 - matte)
    pictures = _lit(pictures, scenes_B4[:, 3], _brightness(canvases_u8, centre_B2), x_BF, y_BF, dice)
    points = _moved(landmarks, course.yaw, course.pitch, course.roll)
    place = torch.stack([x_BF, y_BF], dim=-1)[:, :, None]
    points = (points - centre_B2[:, None, None]) * scale_BF[..., None, None] + place
    return pictures.clamp(0, 1) * 2 - 1, points


def _course(scenes_B4: Tensor, times_BF: Tensor, dice: _Dice) -> _Course:
    """What moves, from the scene's motion and camera and some chance."""
    motion, camera = scenes_B4[:, 0, None], scenes_B4[:, 2, None]
    t, eased = times_BF, times_BF * times_BF * (3 - 2 * times_BF)

    def does(name: str) -> Tensor:
        return (motion == MOTIONS.index(name)).float()

    def films(name: str) -> Tensor:
        return (camera == CAMERAS.index(name)).float()

    idle = 1 - 0.85 * does("still")

    def sway(amount: float) -> Tensor:
        return amount * idle * torch.sin(2 * math.pi * (t * dice.between(0.4, 0.9, 1) + dice.between(0, 1, 1)))

    aside = does("right") - does("left")
    yaw = sway(0.06) + dice.between(-0.12, 0.12, 1) * (1 - aside.abs())
    yaw = yaw + aside * (dice.between(1.1, 1.3, 1) * eased - dice.between(0.2, 0.4, 1))
    nod = torch.sin(2 * math.pi * t * dice.between(1.4, 2.1, 1)).clamp(min=-0.35)
    pitch = sway(0.04) + does("nod") * dice.between(0.75, 1.0, 1) * nod
    roll = sway(0.02) + dice.between(-0.04, 0.04, 1) + aside * 0.04 * eased
    grown = dice.between(0.3, 0.42, 1)
    size = dice.between(0.9, 1.04, 1) * (
        1 + does("approach") * grown * (eased - 0.75) + does("recede") * grown * (0.25 - eased)
    )
    walks = does("approach") + does("recede")
    zoomed = dice.between(0.25, 0.35, 1)
    return _Course(
        yaw=yaw,
        pitch=pitch,
        roll=roll,
        size=size,
        zoom=1 + zoomed * (films("zoom in") * eased + films("zoom out") * (1 - eased)),
        pan=(films("pan left") - films("pan right")) * dice.between(0.8, 1.2, 1) * (eased - 0.5) * 2,
        x=0.5 + dice.between(-0.05, 0.05, 1) + sway(0.01),
        y=dice.between(0.54, 0.59, 1) + walks * 0.010 * torch.sin(2 * math.pi * t * dice.between(2.5, 3.5, 1)),
    )


def _shift(
    x: Tensor, y: Tensor, landmarks: Tensor, yaw_BF: Tensor, pitch_BF: Tensor, roll_BF: Tensor
) -> tuple[Tensor, Tensor]:
    """How far the head's turn has moved what is now at (x, y), each (B, F, H, W) in canvas pixels.

    The ellipsoid looks the same from all sides, so its depth is known in the turned picture; only the nose moves. The depth is a
    bell whose slope times the largest turn stays below 1: nothing folds over.
    """
    centre = _centre(landmarks)[:, None, None, None]
    nose = landmarks[:, 2][:, None, None, None]
    yaw, pitch, roll = (angle[..., None, None] for angle in (yaw_BF, pitch_BF, roll_BF))
    across, down = DEPTH_RADII_PX
    depth = torch.exp(-0.5 * (((x - centre[..., 0]) / across) ** 2 + ((y - centre[..., 1] + 8) / down) ** 2))
    nose_x, nose_y = nose[..., 0] + yaw * DEPTH_PX * 0.9, nose[..., 1] + pitch * DEPTH_PX * 0.7
    tip = torch.exp(-0.5 * ((x - nose_x) ** 2 + (y - nose_y) ** 2) / NOSE_RADIUS_PX**2)
    head = torch.sigmoid((centre[..., 1] + NECK_BELOW_PX - y) / 14)
    shift = DEPTH_PX * depth + NOSE_DEPTH_PX * tip + HEAD_SHIFT_PX * head
    neck_y = centre[..., 1] + NECK_BELOW_PX
    shift_x = yaw * shift - roll * head * (y - neck_y)
    shift_y = pitch * 0.75 * shift + roll * head * (x - centre[..., 0])
    return shift_x, shift_y


def _moved(landmarks: Tensor, yaw_BF: Tensor, pitch_BF: Tensor, roll_BF: Tensor) -> Tensor:
    """The landmarks after the turn, (B, F, 5, 2): each point p = start + shift(p), found by repeated insertion."""
    start = landmarks[:, None].expand(-1, yaw_BF.shape[1], -1, -1)
    points = start
    for _ in range(8):
        shift = _shift(points[..., None, :, 0], points[..., None, :, 1], landmarks, yaw_BF, pitch_BF, roll_BF)
        points = start + torch.stack(shift, dim=-1)[:, :, 0]
    return points


def _background(backgrounds_u8: Tensor, course: _Course, size: int, dice: _Dice) -> Tensor:
    """(B, 3, F, S, S): the place behind, which moves less than the person when the camera zooms, and more when it pans."""
    row, column = _pixels(size, backgrounds_u8.device)
    step = backgrounds_u8.shape[-1] / size / BACKGROUND_FRAMES
    zoom = (1 + 0.85 * (course.zoom - 1))[..., None, None]
    middle, centre = size / 2, backgrounds_u8.shape[-1] / 2
    x = (column - middle) * step / zoom + centre - 0.19 * size * step * course.pan[..., None, None]
    x = x + dice.between(-26, 26, 1, 1, 1)
    y = (row - middle) * step / zoom + centre + dice.between(-12, 12, 1, 1, 1)
    return _sample(backgrounds_u8.float() / 255, x, y, backgrounds_u8.shape[-1])


def _tint(backgrounds_u8: Tensor) -> Tensor:
    """(B, 3): a little of the place's colour, for light that it throws on the person."""
    mean = backgrounds_u8[..., ::4, ::4].float().mean((2, 3)) / 255
    return 1 + 0.12 * (mean / mean.mean(1, keepdim=True) - 1).clamp(-1, 1)


def _brightness(canvases_u8: Tensor, centre_B2: Tensor) -> Tensor:
    """(B,) from 0 to 1: how bright the faces are."""
    row, column = _pixels(CANVAS_PX, canvases_u8.device)
    x_B11, y_B11 = centre_B2[:, 0, None, None], centre_B2[:, 1, None, None]
    is_face = ((column - x_B11).abs() < FACE_RADIUS_PX) & ((row - y_B11).abs() < FACE_RADIUS_PX)
    grey = canvases_u8[:, :3].float().mean(1) / 255
    return (grey * is_face).sum((1, 2)) / is_face.sum((1, 2))


def _lit(pictures: Tensor, light_B: Tensor, brightness_B: Tensor, x_BF: Tensor, y_BF: Tensor, dice: _Dice) -> Tensor:
    """The pictures (B, 3, F, S, S) in the scene's light. Dim light leaves the face visible and all around dark."""
    gains = torch.tensor([LIGHT_GAINS[name] for name in LIGHTS], device=pictures.device)[light_B]
    gains = gains * dice.between(0.97, 1.03, 1)
    is_dim = (light_B == LIGHTS.index("dim")).float()[:, None, None, None]
    size = pictures.shape[-1]
    row, column = _pixels(size, pictures.device)
    squared = (column - x_BF[..., None, None]) ** 2 + (row - y_BF[..., None, None]) ** 2
    on_face = (DIM_FACE / brightness_B.clamp(min=0.01)).clamp(*DIM_FACE_GAINS)[:, None, None, None]
    spot = DIM_CORNERS + (on_face - DIM_CORNERS) * torch.exp(-squared / (2 * (DIM_SPOT * size) ** 2))
    return pictures * gains[:, :, None, None, None] * torch.lerp(torch.ones_like(spot), spot, is_dim)[:, None]


def draw_photos(
    canvases_u8: Tensor,
    landmarks: Tensor,
    backgrounds_u8: Tensor,
    *,
    generator: torch.Generator | None = None,
    is_portrait: float = 0.2,
) -> tuple[Tensor, Tensor]:
    """Draws a photo of each person in another light, pose and place, and aligns it as the project aligns a user's photo.

    Args:
        canvases_u8: (B, 4, 384, 384).
        landmarks: (B, 5, 2) in canvas pixels.
        backgrounds_u8: (B, 3, 384, 384), of any place.
        generator: On the same device.
        is_portrait: Probability that the photo ends where the portrait does, and is black beyond.

    Returns:
        Reference pictures (B, 3, 256, 256) and pictures for identity (B, 3, 112, 112), both from -1 to 1.
    """
    dice = _Dice(len(canvases_u8), canvases_u8.device, generator)
    row, column = _pixels(CANVAS_PX, landmarks.device)
    yaw, pitch, roll = dice.between(-0.45, 0.45, 1), dice.between(-0.25, 0.25, 1), dice.between(-0.05, 0.05, 1)
    x, y = (axis.expand(len(canvases_u8), 1, -1, -1) for axis in (column, row))
    shift_x, shift_y = _shift(x, y, landmarks, yaw, pitch, roll)
    people = _sample(canvases_u8.float() / 255, x - shift_x, y - shift_y, CANVAS_PX)[:, :, 0]
    matte = people[:, 3:]
    slope = dice.between(-0.25, 0.25, 1, 1, 1) * (column - CANVAS_PX / 2) / (PORTRAIT_PX / 2)  # light from one side
    colours = _graded(people[:, :3], dice.between(0.88, 1.1, 1) * dice.between(0.94, 1.06, 3), dice) * (1 + slope)
    background = _graded(backgrounds_u8.float() / 255, dice.between(0.7, 1.1, 3), dice)
    pictures = (colours * matte + background * (1 - matte)).clamp(0, 1)
    inside = torch.zeros(CANVAS_PX, CANVAS_PX, device=pictures.device)
    inside[OFFSET_PX : OFFSET_PX + PORTRAIT_PX, OFFSET_PX : OFFSET_PX + PORTRAIT_PX] = 1
    is_cut = (dice.between(0, 1) < is_portrait).float()[:, None, None, None]
    pictures = pictures * (1 - is_cut * (1 - inside)) * 2 - 1
    soft = functional.avg_pool2d(pictures, 3, 1, 1, count_include_pad=False)
    pictures = torch.lerp(pictures, soft, dice.between(0, 0.9, 1, 1, 1))
    points = _moved(landmarks, yaw, pitch, roll)[:, 0] + 1.2 * dice.normal(5, 2)
    return (
        align_faces(pictures, points, REFERENCE_LANDMARKS, REFERENCE_PX),
        align_faces(pictures, points, IDENTITY_LANDMARKS, IDENTITY_PX),
    )


def _graded(pictures_BCHW: Tensor, gain_BC: Tensor, dice: _Dice) -> Tensor:
    """The pictures, from 0 to 1, with another brightness, contrast and saturation."""
    grey = pictures_BCHW.mean(1, keepdim=True)
    coloured = grey + (pictures_BCHW - grey) * dice.between(0.75, 1.15, 1, 1, 1)
    return (coloured.clamp(1e-4, 1) ** dice.between(0.86, 1.16, 1, 1, 1) * gain_BC[..., None, None]).clamp(0, 1)


def align_faces(pictures_BCHW: Tensor, landmarks_B52: Tensor, targets: Tensor, size: int) -> Tensor:
    """The crops whose landmarks lie at `targets`, as `lynx_model.faces.align` makes them: black outside the picture.

    Args:
        pictures_BCHW: From -1 (black) to 1.
        landmarks_B52: In pixels of the pictures.
        targets: (5, 2) in pixels of the crops.
        size: Side of a crop.

    Returns:
        Float32 (B, C, size, size) from -1 to 1.
    """
    landmarks_B52 = landmarks_B52.float()
    targets = targets.to(landmarks_B52)
    from_mean, to_mean = landmarks_B52.mean(1, keepdim=True), targets.mean(0)
    z = torch.view_as_complex((landmarks_B52 - from_mean).contiguous())
    w = torch.view_as_complex((targets - to_mean).contiguous())
    turn_B = (z.conj() * w).sum(1) / z.abs().square().sum(1)  # from the picture to the crop
    row, column = _pixels(size, pictures_BCHW.device)
    back = torch.complex(column - to_mean[0], row - to_mean[1]) / turn_B[:, None, None]
    x, y = back.real + from_mean[..., 0, None], back.imag + from_mean[..., 1, None]
    height, width = pictures_BCHW.shape[-2:]
    grid = torch.stack([(x + 0.5) / width * 2 - 1, (y + 0.5) / height * 2 - 1], dim=-1)
    return functional.grid_sample(pictures_BCHW.float() + 1, grid, padding_mode="zeros", align_corners=False) - 1


def _centre(landmarks: Tensor) -> Tensor:
    """(B, 2): the middle of eyes and mouth."""
    return landmarks[:, [0, 1, 3, 4]].mean(1)


def _shrunk(canvases_u8: Tensor) -> Tensor:
    size = (SAMPLING_PX, SAMPLING_PX)
    return functional.interpolate(canvases_u8.float() / 255, size, mode="bilinear", antialias=True, align_corners=False)


def _sample(pictures_BCHW: Tensor, x_BFHW: Tensor, y_BFHW: Tensor, side: int) -> Tensor:
    """(B, C, F, h, w): the pictures at positions given in pixels of a picture of `side`; borders are repeated."""
    num, frames, height, width = x_BFHW.shape
    grid = torch.stack([x_BFHW, y_BFHW], dim=-1).add(0.5).mul(2 / side).sub(1).view(num, frames * height, width, 2)
    sampled = functional.grid_sample(pictures_BCHW, grid, padding_mode="border", align_corners=False)
    return sampled.view(num, -1, frames, height, width)


def _pixels(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows and columns of every pixel, each (size, size)."""
    axis = torch.arange(size, device=device).float()
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return y, x

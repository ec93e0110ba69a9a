"""Procedural backgrounds: eight places, each unlike the others in colour and structure.

Pictures are float32 (H, W, 3) from 0 to 1 while they are painted; `x` and `y` run from 0 to 1 across them.
"""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from jobs.demo.training.axes import PLACES

SIZE_PX = 384
QUALITY = 85

Picture = NDArray[np.float32]
Colour = tuple[float, float, float]

BOOK_COLOURS: tuple[Colour, ...] = (
    *((0.55, 0.16, 0.12), (0.16, 0.25, 0.42), (0.62, 0.48, 0.24), (0.20, 0.34, 0.22)),
    *((0.42, 0.28, 0.18), (0.72, 0.66, 0.52), (0.30, 0.15, 0.30)),
)
LAMP_COLOURS: tuple[Colour, ...] = ((1.0, 0.75, 0.3), (1.0, 0.3, 0.35), (0.35, 0.7, 1.0), (0.9, 0.35, 0.9))


class _Brush:
    """A canvas to paint on, with random numbers of its own."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self.rng, self.size = rng, size
        axis = np.linspace(0, 1, size, dtype=np.float32)
        self.x = np.broadcast_to(axis, (size, size))
        self.y = np.broadcast_to(axis[:, None], (size, size))
        self.picture = np.zeros((size, size, 3), np.float32)

    def between(self, low: float, high: float) -> float:
        return float(self.rng.uniform(low, high))

    def paint(self, colour: Colour | Picture, mask: NDArray[np.floating]) -> None:
        """Covers the picture with a colour or another picture where `mask`, from 0 to 1, says so."""
        mask_HW1 = np.clip(mask, 0, 1)[..., None].astype(np.float32)
        self.picture = self.picture * (1 - mask_HW1) + np.asarray(colour, np.float32) * mask_HW1

    def gradient(self, top: Colour, bottom: Colour, position: NDArray[np.floating]) -> Picture:
        share = np.clip(position, 0, 1)[..., None]
        return np.asarray(np.array(top) * (1 - share) + np.array(bottom) * share, dtype=np.float32)

    def noise(self, *scales: tuple[float, float], stretch: float = 1.0) -> Picture:
        """Smooth noise (H, W): for each scale, waves per picture and weight. `stretch` draws it out sideways."""
        total = np.zeros((self.size, self.size), np.float32)
        for waves, weight in scales:
            grid = self.rng.standard_normal((max(2, round(waves)), max(2, round(waves / stretch))))
            smooth = Image.fromarray(grid.astype(np.float32)).resize((self.size, self.size), Image.Resampling.BICUBIC)
            total += weight * np.asarray(smooth)
        return total

    def ridge(self, waves: int, roughness: float) -> NDArray[np.float32]:
        """A jagged line (1, W) about 0."""
        axis = np.linspace(0, 1, self.size)
        line = np.interp(axis, np.linspace(0, 1, waves), self.rng.uniform(-1, 1, waves))
        line += roughness * np.interp(axis, np.linspace(0, 1, waves * 5), self.rng.normal(size=waves * 5))
        return line.astype(np.float32)[None]

    def glow(self, x: float, y: float, radius: float) -> Picture:
        return np.asarray(np.exp(-((self.x - x) ** 2 + (self.y - y) ** 2) / radius**2), dtype=np.float32)

    def blob(self, x: float, y: float, radius: float, softness: float = 0.25) -> Picture:
        """A disc with a soft edge."""
        distance = np.hypot(self.x - x, self.y - y)
        return np.asarray(np.clip((radius - distance) / (radius * softness), 0, 1), dtype=np.float32)


def _beach(brush: _Brush) -> None:
    horizon = brush.between(0.50, 0.60)
    sun = brush.between(0.15, 0.85)
    brush.paint(
        brush.gradient((0.36, 0.28, 0.56), (1.0, 0.60, 0.26), (brush.y / horizon) ** 1.2), np.ones_like(brush.y)
    )
    streaks = brush.noise((22, 0.7), (40, 0.4), stretch=5)
    brush.paint((1.0, 0.72, 0.55), (streaks - 0.2) * 0.7 * (brush.y < horizon))
    brush.picture += brush.glow(sun, horizon - 0.07, 0.2)[..., None] * np.array((0.45, 0.35, 0.15), np.float32)
    brush.paint((1.0, 0.95, 0.70), brush.blob(sun, horizon - 0.07, 0.055))
    waves = brush.noise((60, 0.5), (120, 0.4), stretch=7)
    sea = brush.gradient((0.92, 0.58, 0.38), (0.14, 0.25, 0.42), (brush.y - horizon) / 0.22)
    glitter = np.exp(-(((brush.x - sun) / 0.13) ** 2)) * np.exp(-np.clip(brush.y - horizon, 0, 1) / 0.25)
    sea += (0.10 * waves + glitter * (0.35 + 0.25 * waves))[..., None] * np.array((1.0, 0.75, 0.45), np.float32)
    brush.paint(sea, (brush.y - horizon) * brush.size)
    shore = horizon + brush.between(0.22, 0.28) + 0.012 * brush.ridge(6, 0.1)
    brush.paint((0.95, 0.92, 0.88), 1 - np.abs(brush.y - shore) / 0.012)
    sand = 0.035 * brush.noise((110, 1.0))[..., None] + np.array((0.80, 0.62, 0.42), np.float32)
    brush.paint(sand, (brush.y - shore - 0.006) * 200)


def _forest(brush: _Brush) -> None:
    haze = brush.gradient((0.66, 0.82, 0.42), (0.30, 0.55, 0.22), brush.y)
    brush.paint(
        haze + 0.06 * brush.noise((14, 0.6), (40, 0.6))[..., None] * np.array((0.6, 1, 0.4), np.float32),
        np.ones_like(brush.y),
    )
    for depth in (0.25, 0.6, 1.0):
        for position in np.linspace(0, 1, round(11 - 5 * depth)) + brush.rng.uniform(
            -0.05, 0.05, round(11 - 5 * depth)
        ):
            _trunk(brush, float(position), depth)
        leaves = brush.noise((26 - 8 * depth, 0.8), (60, 0.6), (110, 0.3))
        shade = 0.14 * brush.noise((70, 1.0))[..., None] * np.array((0.6, 1.0, 0.3), np.float32)
        green = np.array(
            (0.36, 0.66, 0.20) if depth < 0.5 else (0.20, 0.50, 0.13) if depth < 0.9 else (0.12, 0.38, 0.09)
        )
        brush.paint((green + shade).astype(np.float32), leaves * 1.6 + 0.35 - 2.6 * brush.y * (1.5 - 0.4 * depth))
    ground = brush.noise((40, 0.5), (100, 0.5))
    grass = np.array((0.26, 0.52, 0.14)) + 0.10 * ground[..., None] * np.array((0.7, 1.0, 0.4))
    brush.paint(grass.astype(np.float32), (brush.y - 0.80 - 0.02 * brush.ridge(7, 0.2)) * 40)


def _trunk(brush: _Brush, position: float, depth: float) -> None:
    """A tree trunk; `depth` is 1 for near ones, which are wide and dark."""
    half = (0.008 + 0.020 * depth) * brush.between(0.8, 1.25)
    lean = brush.between(-0.04, 0.04)
    across = (brush.x - position - lean * (brush.y - 0.5)) / half
    bark = 0.75 + 0.35 * across + 0.15 * brush.noise((90, 1.0), stretch=0.2)
    tone = np.array((0.44, 0.38, 0.24)) * (1 - depth) + np.array((0.30, 0.20, 0.12)) * depth
    brush.paint(
        (tone * np.clip(bark, 0.4, 1.3)[..., None]).astype(np.float32),
        (1.2 - np.abs(across)) * 5 * (brush.y < 0.8 + 0.08 * depth),
    )


def _mountains(brush: _Brush) -> None:
    brush.paint(brush.gradient((0.46, 0.68, 0.92), (0.90, 0.95, 0.99), brush.y * 1.6), np.ones_like(brush.y))
    for base, height, tone in ((0.30, 0.16, (0.58, 0.66, 0.80)), (0.48, 0.15, (0.38, 0.44, 0.55))):
        ridge = base + height * brush.ridge(8, 0.14)
        below = brush.y - ridge
        facets = brush.noise((18, 0.6), (44, 0.5), stretch=0.6)
        rock = np.array(tone, np.float32) + 0.07 * facets[..., None]
        snow = np.clip(1.2 - below / 0.18 + 0.9 * facets, 0, 1)[..., None]
        white = np.array((0.97, 0.98, 1.0), np.float32) - 0.10 * np.clip(facets, 0, 1)[..., None]
        brush.paint(rock * (1 - snow) + white * snow, below * 120)
    field = np.array((0.92, 0.95, 0.99)) + 0.02 * brush.noise((12, 1.0), stretch=3)[..., None]
    brush.paint(field.astype(np.float32), (brush.y - 0.80 - 0.03 * brush.ridge(5, 0.05)) * 60)


def _city(brush: _Brush) -> None:
    brush.paint(brush.gradient((0.03, 0.04, 0.15), (0.30, 0.18, 0.42), brush.y * 1.3), np.ones_like(brush.y))
    left = brush.between(-0.06, 0.0)
    while left < 1:
        width = brush.between(0.07, 0.15)
        _tower(brush, left, left + width - 0.006, brush.between(0.06, 0.42))
        left += width
    for _ in range(int(brush.rng.integers(10, 16))):
        colour = LAMP_COLOURS[int(brush.rng.integers(len(LAMP_COLOURS)))]
        brush.paint(colour, 0.65 * brush.blob(brush.between(0, 1), brush.between(0.5, 1), brush.between(0.02, 0.045)))


def _tower(brush: _Brush, left: float, right: float, top: float) -> None:
    """A dark house with lit windows."""
    is_inside = (brush.x > left) & (brush.x < right) & (brush.y > top)
    shade = brush.between(0.7, 1.5)
    brush.paint((0.06 * shade, 0.07 * shade, 0.15 * shade), is_inside.astype(np.float32))
    across, down = brush.between(0.026, 0.034), brush.between(0.034, 0.044)
    column, row = np.floor((brush.x - left) / across).astype(int), np.floor((brush.y - top) / down).astype(int)
    is_pane = ((brush.x - left) % across > 0.35 * across) & ((brush.y - top) % down > 0.4 * down) & is_inside
    lit = np.where(brush.rng.random((64, 64)) < 0.55, brush.rng.uniform(0.55, 1.0, (64, 64)), 0.0)
    brightness = lit[row.clip(0, 63), column.clip(0, 63)] * is_pane
    warm = (1.0, 0.84, 0.45) if brush.between(0, 1) < 0.75 else (0.65, 0.85, 1.0)
    brush.paint(warm, brightness)


def _studio(brush: _Brush) -> None:
    grey = brush.between(0.56, 0.70)
    distance = np.hypot(brush.x - brush.between(0.35, 0.65), brush.y - 0.4)
    light = grey + 0.14 - 0.36 * distance**1.3 + 0.008 * brush.noise((6, 1.0))
    brush.paint(np.repeat(light[..., None], 3, axis=2).astype(np.float32), np.ones_like(brush.y))


def _stage(brush: _Brush) -> None:
    phase, folds = brush.between(0, 6.28), brush.between(9, 13)
    wobble = 0.5 * np.sin(2.2 * brush.y + phase) + 1.2 * np.sin(7 * brush.x + phase)
    fold = 0.5 + 0.5 * np.sin(2 * np.pi * folds * brush.x + phase + wobble)
    spot = 1.2 - 0.75 * np.hypot(brush.x - 0.5, (brush.y - 0.35) * 0.8)
    shade = (0.22 + 0.78 * fold**1.4) * (1 - 0.25 * brush.y) * spot
    brush.paint((shade[..., None] * np.array((0.84, 0.06, 0.08))).astype(np.float32), np.ones_like(brush.y))
    boards = 0.42 + 0.06 * np.sin(2 * np.pi * 26 * brush.x) + 0.03 * brush.noise((60, 1.0))
    brush.paint((boards[..., None] * np.array((1.0, 0.66, 0.38))).astype(np.float32), (brush.y - 0.88) * 80)


def _sky(brush: _Brush) -> None:
    brush.paint(brush.gradient((0.12, 0.40, 0.90), (0.45, 0.72, 0.98), brush.y), np.ones_like(brush.y))
    clouds = brush.noise((4, 0.9), (9, 0.6), (22, 0.3), (55, 0.12), stretch=1.5)
    shade = np.clip(1 - 0.10 * brush.noise((8, 1.0)), 0.85, 1)[..., None]
    brush.paint((shade * np.array((1.0, 1.0, 1.0))).astype(np.float32), (clouds - 0.30) * 1.2)


def _library(brush: _Brush) -> None:
    brush.paint((0.17, 0.09, 0.05), np.ones_like(brush.y))
    top = brush.between(-0.10, 0.0)
    while top < 1:
        height = brush.between(0.16, 0.20)
        _shelf(brush, top, top + height)
        top += height
    for position in (brush.between(0.05, 0.15), brush.between(0.80, 0.95)):
        brush.paint((0.30, 0.17, 0.09), (np.abs(brush.x - position) < 0.018).astype(np.float32))


def _shelf(brush: _Brush, top: float, bottom: float) -> None:
    """A row of books on a board."""
    board, left = bottom - 0.022, brush.between(-0.02, 0.0)
    while left < 1:
        width = brush.between(0.024, 0.05)
        colour = np.array(BOOK_COLOURS[int(brush.rng.integers(len(BOOK_COLOURS)))]) * brush.between(0.75, 1.15)
        start = top + brush.between(0.012, 0.05)
        is_book = (brush.x > left) & (brush.x < left + width - 0.003) & (brush.y > start) & (brush.y < board)
        spine = (1 - 0.5 * np.abs((brush.x - left) / width - 0.45))[..., None] * colour
        brush.paint(spine.astype(np.float32), is_book.astype(np.float32))
        is_label = is_book & (np.abs(brush.y - start - 0.03) < 0.006)
        brush.paint((0.85, 0.72, 0.40), 0.7 * is_label)
        left += width
    brush.paint((0.42, 0.26, 0.14), ((brush.y >= board) & (brush.y < bottom)).astype(np.float32))


PAINTERS: dict[str, Callable[[_Brush], None]] = {
    "beach": _beach,
    "forest": _forest,
    "mountains": _mountains,
    "city": _city,
    "studio": _studio,
    "stage": _stage,
    "sky": _sky,
    "library": _library,
}


def paint_place(name: str, rng: np.random.Generator, size: int = SIZE_PX) -> NDArray[np.uint8]:
    """A picture of a place, uint8 (size, size, 3), slightly out of focus."""
    brush = _Brush(rng, size)
    PAINTERS[name](brush)
    picture = (np.clip(brush.picture * brush.between(0.94, 1.05), 0, 1) * 255).round().astype(np.uint8)
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(brush.between(1.0, 1.7))))


def save_places(file: Path, variants: int, seed: int = 0) -> None:
    """Paints `variants` pictures of each place and saves them as JPEGs in one npz file."""
    rng = np.random.default_rng(seed)
    encoded = [_encoded(paint_place(name, rng)) for name in PLACES for _ in range(variants)]
    np.savez(file, pictures=np.frombuffer(b"".join(encoded), np.uint8), ends=np.cumsum([len(data) for data in encoded]))


def load_places(file: Path) -> Tensor:
    """The pictures that `save_places` saved: uint8 (8, variants, 3, 384, 384), in the order of `PLACES`."""
    with np.load(file) as saved:
        parts = np.split(saved["pictures"], saved["ends"][:-1])
    pictures_NHWC = np.stack([np.asarray(Image.open(io.BytesIO(part.tobytes()))) for part in parts])
    pictures = torch.from_numpy(pictures_NHWC).permute(0, 3, 1, 2).contiguous()
    return pictures.view(len(PLACES), -1, *pictures.shape[1:])


def _encoded(picture: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()

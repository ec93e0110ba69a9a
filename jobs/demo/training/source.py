"""Draws random clips, frames and photos of the training people, on the device that trains.

Shapes: B clips, F frames, S pixels of a side.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from jobs.demo.training.axes import AXES
from jobs.demo.training.config import DataSizes
from jobs.demo.training.people import People, joined, load_people, mirrored, morphs
from jobs.demo.training.places import load_places
from jobs.demo.training.scenes import draw_clips, draw_frames, draw_photos


class Clips(NamedTuple):
    """Clips of people: pixels (B, 3, F, S, S) in -1..1, landmarks (B, F, 5, 2) in pixels, scenes (B, 4)."""

    pixels: Tensor
    landmarks: Tensor
    scenes: Tensor


@dataclass(frozen=True, slots=True)
class SceneSource:
    """People and places, from which clips and photos are drawn. Places are uint8 (kinds, variants, 3, S, S)."""

    people: People
    places: Tensor
    num_frames: int
    frame_px: int
    generator: torch.Generator

    @property
    def num_people(self) -> int:
        return len(self.people)

    def any_people(self, num: int) -> Tensor:
        return self._any(self.num_people, num)

    def clips(self, who_B: Tensor) -> Clips:
        """A clip of each of these people, in random scenes."""
        who, backgrounds, scenes = self._any_scenes(who_B)
        drawn = draw_clips(
            *who, backgrounds, scenes, num_frames=self.num_frames, size=self.frame_px, generator=self.generator
        )
        return Clips(*drawn, scenes)

    def frames(self, who_B: Tensor) -> Clips:
        """As `clips`, but one frame of each, from a random time."""
        who, backgrounds, scenes = self._any_scenes(who_B)
        return Clips(*draw_frames(*who, backgrounds, scenes, size=self.frame_px, generator=self.generator), scenes)

    def photos(self, who_B: Tensor) -> tuple[Tensor, Tensor]:
        """A photo of each, aligned for the Ref-adapter (B, 3, 256, 256) and for the recogniser (B, 3, 112, 112)."""
        places = self.places.flatten(0, 1)
        backgrounds = places[self._any(len(places), len(who_B))]
        canvases, landmarks = self.people.canvases[who_B], self.people.landmarks[who_B]
        return draw_photos(canvases, landmarks, backgrounds, generator=self.generator)

    def _any_scenes(self, who_B: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        """The people, and a place and a scene for each."""
        num = len(who_B)
        scenes = torch.stack([self._any(size, num) for size in map(len, AXES)], dim=1)
        backgrounds = self.places[scenes[:, 1], self._any(self.places.shape[1], num)]
        return (self.people.canvases[who_B], self.people.landmarks[who_B]), backgrounds, scenes

    def _any(self, end: int, num: int) -> Tensor:
        return torch.randint(0, end, (num,), device=self.places.device, generator=self.generator)


def training_source(state: Path, data: DataSizes, device: torch.device, *, seed: int) -> SceneSource:
    """Everybody who is not held out, mirrored and morphed."""
    people, _ = load_people(state / "people.npz").to(device).split()
    people = joined([people, mirrored(people)])
    everyone = joined([people, morphs(people, data.num_morphs, torch.Generator(device).manual_seed(0))])
    return _source(state, everyone, data, device, seed)


def held_out_source(state: Path, data: DataSizes, device: torch.device, *, seed: int) -> SceneSource:
    """The people who are only for judging."""
    _, people = load_people(state / "people.npz").to(device).split()
    return _source(state, people, data, device, seed)


def _source(state: Path, people: People, data: DataSizes, device: torch.device, seed: int) -> SceneSource:
    places = load_places(state / "places.npz").to(device)
    return SceneSource(people, places, data.num_frames, data.frame_px, torch.Generator(device).manual_seed(seed))

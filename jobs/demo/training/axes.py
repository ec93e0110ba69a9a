"""What can vary in a clip besides the person: a scene is one value for each of motion, place, camera and light."""

from itertools import product
from typing import NamedTuple

MOTIONS = ("still", "left", "right", "nod", "approach", "recede")
PLACES = ("beach", "forest", "mountains", "city", "studio", "stage", "sky", "library")
CAMERAS = ("static", "zoom in", "zoom out", "pan left", "pan right")
LIGHTS = ("neutral", "warm", "cool", "dim")
AXES = (MOTIONS, PLACES, CAMERAS, LIGHTS)


class Scene(NamedTuple):
    """Numbers of the values in `MOTIONS`, `PLACES`, `CAMERAS` and `LIGHTS`."""

    motion: int
    place: int
    camera: int
    light: int

    @property
    def title(self) -> str:
        return ", ".join(axis[number] for axis, number in zip(AXES, self, strict=True))


ALL_SCENES = tuple(Scene(*numbers) for numbers in product(*(range(len(axis)) for axis in AXES)))

"""The stages of an attempt at a clip, said once: their names, the lane that each runs in, and their times."""

from dataclasses import dataclass
from enum import StrEnum


class Lane(StrEnum):
    """A group does one thing at a time in each of its lanes."""

    RENDER = "render"
    DELIVER = "deliver"


class Stage(StrEnum):
    """What a group is at.

    `lane` is where the trace shows it. `is_of_clip` says that its seconds are a column of the metadata, `<name>_s`; loading and
    waiting belong to no clip, and the commit is written before its own time is known.
    """

    LOAD = "load", Lane.RENDER, False
    WAIT = "wait", Lane.RENDER, False
    SUBJECT = "subject", Lane.RENDER, True
    TEXT = "text", Lane.RENDER, True
    DENOISE = "denoise", Lane.RENDER, True
    DECODE = "decode", Lane.RENDER, True
    ENCODE = "encode", Lane.DELIVER, True
    UPLOAD = "upload", Lane.DELIVER, True
    COMMIT = "commit", Lane.DELIVER, False

    lane: Lane
    is_of_clip: bool

    def __new__(cls, name: str, lane: Lane, is_of_clip: bool) -> "Stage":
        stage = str.__new__(cls, name)
        stage._value_, stage.lane, stage.is_of_clip = name, lane, is_of_clip
        return stage

    @property
    def column(self) -> str:
        """Its column in the metadata table, and its key in a commit: seconds."""
        return f"{self}_s"


CLIP_STAGES = tuple(stage for stage in Stage if stage.is_of_clip)
"""The stages whose times the metadata keeps."""

BUSY_STAGES = tuple(stage for stage in CLIP_STAGES if stage.lane is Lane.RENDER)
"""What a group does for one clip at a time; the others run beside the next clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """When one stage ran: its start in seconds since 1970, by the worker's clock, and how long it took."""

    stage: Stage
    start_s: float
    seconds: float

    @property
    def end_s(self) -> float:
        return self.start_s + self.seconds

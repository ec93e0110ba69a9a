"""The stages of an attempt at a clip: names, lanes and times. A new stage is added here alone."""

from dataclasses import dataclass
from enum import StrEnum


class Lane(StrEnum):
    """A group does one thing at a time in each of its lanes."""

    RENDER = "render"
    DELIVER = "deliver"


class Stage(StrEnum):
    """One step of a group's work.

    `lane` is the lane in which the group does it, and in which the trace shows it. `is_of_clip` says whether its seconds are a
    column of the metadata, `<name>_s`: loading and waiting belong to no clip, and the commit is written before its own time is known.
    """

    LOAD = "load", Lane.RENDER, False
    WAIT = "wait", Lane.RENDER, False
    SUBJECT = "subject", Lane.RENDER, True
    TEXT = "text", Lane.RENDER, True
    DENOISE = "denoise", Lane.RENDER, True
    DECODE = "decode", Lane.RENDER, True
    MARK = "mark", Lane.DELIVER, True
    ENCODE = "encode", Lane.DELIVER, True
    JUDGE = "judge", Lane.DELIVER, True
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
        """The name of its seconds in the metadata table and in a commit."""
        return f"{self}_s"


CLIP_STAGES = tuple(stage for stage in Stage if stage.is_of_clip)
"""The stages whose times the metadata keeps."""

BUSY_STAGES = tuple(stage for stage in CLIP_STAGES if stage.lane is Lane.RENDER)
"""The stages that keep a group busy. The others run while it renders the next clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """When one stage ran: its start in seconds since 1970, by the worker's clock, and how long it took."""

    stage: Stage
    start_s: float
    seconds: float

    @property
    def end_s(self) -> float:
        return self.start_s + self.seconds

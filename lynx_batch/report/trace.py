"""The trace of a run: what each group did when, in Chrome's trace format, which opens in Perfetto."""

import json
import math
import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lynx_batch import storage
from lynx_batch.output import trace_uri
from lynx_batch.stages import Lane, Span, Stage

LANE_NUMBERS = {lane: number for number, lane in enumerate(Lane)}
MIN_WAIT_S = 0.001

MAX_CLIPS = 20_000
"""A trace of more clips is a sample: 20,000 clips are 25 MB, about the most that a browser shows at ease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultMark:
    """The end of an attempt that failed, or of a group that was lost."""

    error_type: str
    at_s: float


Entry = Span | FaultMark


@dataclass(slots=True)
class _Busy:
    """Spans of one stage: how many, their time, and the time from the first one's start to the last one's end."""

    num_spans: int = 0
    seconds: float = 0.0
    first_s: float = math.inf
    last_s: float = -math.inf

    def add(self, span: Span) -> None:
        self.num_spans += 1
        self.seconds += span.seconds
        self.first_s, self.last_s = min(self.first_s, span.start_s), max(self.last_s, span.end_s)

    @property
    def share(self) -> float:
        return self.seconds / (self.last_s - self.first_s)


@dataclass(slots=True)
class _Group:
    """What is known of a group.

    `reports` are the entries that are kept, with the name of their clip. `left_out` has the start and the end of rendering of each clip
    that is not kept, one after the other. `first_s` to `last_s` is the time of all spans, and `denoising` sums up those of denoising.
    """

    reports: list[tuple[str, tuple[Entry, ...]]] = field(default_factory=list)
    left_out: "array[float]" = field(default_factory=lambda: array("d"))
    first_s: float = math.inf
    last_s: float = -math.inf
    denoising: _Busy = field(default_factory=_Busy)

    def note(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if isinstance(entry, Span):
                self.first_s, self.last_s = min(self.first_s, entry.start_s), max(self.last_s, entry.end_s)
                if entry.stage is Stage.DENOISE:
                    self.denoising.add(entry)

    def leave_out(self, entries: Iterable[Entry]) -> None:
        rendering = [*_rendering(entries)]
        if rendering:
            self.left_out.append(min(span.start_s for span in rendering))
            self.left_out.append(max(span.end_s for span in rendering))

    def waits(self) -> Iterator[Span]:
        """The gaps in the rendering lane that end where something begins that is kept."""
        kept = [(span.start_s, span.end_s, True) for _, entries in self.reports for span in _rendering(entries)]
        others = [
            (start_s, end_s, False) for start_s, end_s in zip(self.left_out[::2], self.left_out[1::2], strict=True)
        ]
        for (_, before_s, _), (after_s, _, is_kept) in pairwise(sorted([*kept, *others])):
            if is_kept and after_s - before_s > MIN_WAIT_S:
                yield Span(stage=Stage.WAIT, start_s=before_s, seconds=after_s - before_s)


class Trace:
    """What each group reported so far, each entry with the name of its clip (empty while loading).

    Of more than `max_clips` clips, an even sample is kept, and every attempt that failed. Which clips are in it depends on their names.
    """

    def __init__(self, max_clips: int = MAX_CLIPS) -> None:
        self._max_clips, self._each = max_clips, 1
        self._num_clips = self._num_kept = 0
        self._groups: dict[str, _Group] = {}

    @property
    def note(self) -> str:
        """What is left out; empty if nothing is."""
        if self._each == 1:
            return ""
        return f"{self._num_kept:,} of {self._num_clips:,} attempts that did not fail are shown, and all that failed"

    def add(self, group: str, clip: str, entries: Iterable[Entry]) -> None:
        known, entries = self._groups.setdefault(group, _Group()), tuple(entries)
        known.note(entries)
        if _is_always_kept(clip, entries):
            known.reports.append((clip, entries))
            return
        self._num_clips += 1
        if not self._is_sampled(clip):
            known.leave_out(entries)
            return
        known.reports.append((clip, entries))
        self._num_kept += 1
        if self._num_kept > self._max_clips:
            self._thin_out()

    def busy_shares(self) -> dict[str, float]:
        """For each group that denoised several clips, denoising's share of the time from the first clip's start to the last one's end."""
        return {name: group.denoising.share for name, group in self._groups.items() if group.denoising.num_spans > 1}

    def chrome_events(self) -> Iterator[dict[str, Any]]:
        """The events of a trace file, with times in microseconds since 1970. A group is a process, a lane a thread."""
        for number, (name, group) in enumerate(self._groups.items()):
            yield {"ph": "M", "pid": number, "name": "process_name", "args": {"name": name}}
            for lane, thread in LANE_NUMBERS.items():
                yield {"ph": "M", "pid": number, "tid": thread, "name": "thread_name", "args": {"name": lane}}
            if (
                self._each > 1 and group.last_s > group.first_s
            ):  # so that the file tells for how long the group was held
                times = {"ts": _us(group.first_s), "dur": _us(group.last_s - group.first_s)}
                yield {
                    "ph": "X",
                    "pid": number,
                    "tid": len(LANE_NUMBERS),
                    "name": "group",
                    "args": {"clip": ""},
                    **times,
                }
            reported = [(clip, entry) for clip, entries in group.reports for entry in entries]
            for clip, entry in (*reported, *(("", wait) for wait in group.waits())):
                yield {"pid": number, "args": {"clip": clip}, **_describe(entry)}

    def _is_sampled(self, clip: str) -> bool:
        return zlib.crc32(clip.encode()) % self._each == 0

    def _thin_out(self) -> None:
        """Keeps half of the clips."""
        self._each *= 2
        for group in self._groups.values():
            reports, group.reports = group.reports, []
            for clip, entries in reports:
                if _is_always_kept(clip, entries) or self._is_sampled(clip):
                    group.reports.append((clip, entries))
                else:
                    group.leave_out(entries)
                    self._num_kept -= 1


def write_trace(output: str, run_id: str, trace: Trace) -> None:
    """Writes `report/run=<run_id>/trace.json`."""
    with TemporaryDirectory(prefix="lynx-batch-") as scratch:
        path = Path(scratch, "trace.json")
        with path.open("w", encoding="utf-8") as file:
            file.write('{"traceEvents": [')
            for number, event in enumerate(trace.chrome_events()):
                file.write(("," if number else "") + "\n" + json.dumps(event, ensure_ascii=False))
            file.write("\n]")
            if trace.note:
                file.write(f',\n"otherData": {json.dumps({"note": trace.note})}')
            file.write("}\n")
        storage.upload(path, trace_uri(output, run_id))


def _is_always_kept(clip: str, entries: Iterable[Entry]) -> bool:
    return not clip or any(isinstance(entry, FaultMark) for entry in entries)


def _rendering(entries: Iterable[Entry]) -> Iterator[Span]:
    """The spans in the rendering lane."""
    return (entry for entry in entries if isinstance(entry, Span) and entry.stage.lane is Lane.RENDER)


def _us(seconds: float) -> int:
    return round(seconds * 1e6)


def _describe(entry: Span | FaultMark) -> dict[str, Any]:
    if isinstance(entry, FaultMark):
        return {"ph": "i", "s": "p", "tid": 0, "name": entry.error_type, "ts": _us(entry.at_s)}
    return {
        "ph": "X",
        "tid": LANE_NUMBERS[entry.stage.lane],
        "name": entry.stage,
        "ts": _us(entry.start_s),
        "dur": _us(entry.seconds),
    }

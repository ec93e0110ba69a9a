"""The trace of a run: what each group did when, in Chrome's trace format, which opens in Perfetto."""

import json
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultMark:
    """The end of an attempt that failed, or of a group that was lost."""

    error_type: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Trace:
    """What each group reported so far, each entry with the name of its clip (empty while loading)."""

    _reported: dict[str, list[tuple[str, Span | FaultMark]]] = field(default_factory=dict)

    def add(self, group: str, clip: str, entries: Iterable[Span | FaultMark]) -> None:
        self._reported.setdefault(group, []).extend((clip, entry) for entry in entries)

    def busy_shares(self) -> dict[str, float]:
        """For each group that denoised several clips, denoising's share of the time from the first clip's start to the last one's end."""
        denoising = {
            group: [entry for _, entry in reported if isinstance(entry, Span) and entry.stage is Stage.DENOISE]
            for group, reported in self._reported.items()
        }
        return {group: _share(spans) for group, spans in denoising.items() if len(spans) > 1}

    def chrome_events(self) -> Iterator[dict[str, Any]]:
        """The events of a trace file, with times in microseconds since 1970. A group is a process, a lane a thread."""
        for number, (group, reported) in enumerate(self._reported.items()):
            yield {"ph": "M", "pid": number, "name": "process_name", "args": {"name": group}}
            for lane, thread in LANE_NUMBERS.items():
                yield {"ph": "M", "pid": number, "tid": thread, "name": "thread_name", "args": {"name": lane}}
            waits = (("", wait) for wait in _waits(entry for _, entry in reported if isinstance(entry, Span)))
            for clip, entry in (*reported, *waits):
                yield {"pid": number, "args": {"clip": clip}, **_describe(entry)}


def write_trace(output: str, run_id: str, trace: Trace) -> None:
    """Writes `report/run=<run_id>/trace.json`."""
    with TemporaryDirectory(prefix="lynx-batch-") as scratch:
        path = Path(scratch, "trace.json")
        with path.open("w", encoding="utf-8") as file:
            file.write('{"traceEvents": [')
            for number, event in enumerate(trace.chrome_events()):
                file.write(("," if number else "") + "\n" + json.dumps(event, ensure_ascii=False))
            file.write("\n]}\n")
        storage.upload(path, trace_uri(output, run_id))


def _share(spans: list[Span]) -> float:
    first_s, last_s = min(span.start_s for span in spans), max(span.end_s for span in spans)
    return sum(span.seconds for span in spans) / (last_s - first_s)


def _waits(spans: Iterable[Span]) -> Iterator[Span]:
    """The gaps between the stages in a group's rendering lane."""
    rendering = sorted((span for span in spans if span.stage.lane is Lane.RENDER), key=lambda span: span.start_s)
    for before, after in pairwise(rendering):
        if (seconds := after.start_s - before.end_s) > MIN_WAIT_S:
            yield Span(stage=Stage.WAIT, start_s=before.end_s, seconds=seconds)


def _describe(entry: Span | FaultMark) -> dict[str, Any]:
    if isinstance(entry, FaultMark):
        return {"ph": "i", "s": "p", "tid": 0, "name": entry.error_type, "ts": round(entry.at_s * 1e6)}
    return {
        "ph": "X",
        "tid": LANE_NUMBERS[entry.stage.lane],
        "name": entry.stage,
        "ts": round(entry.start_s * 1e6),
        "dur": round(entry.seconds * 1e6),
    }

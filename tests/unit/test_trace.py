"""The trace of a run, as Perfetto reads it."""

import json
from pathlib import Path

import pytest

from lynx_batch.report.trace import FaultMark, Trace, write_trace
from lynx_batch.stages import Span, Stage


def span(stage: str, start_s: float, seconds: float) -> Span:
    return Span(stage=Stage[stage.upper()], start_s=start_s, seconds=seconds)


@pytest.fixture
def trace() -> Trace:
    trace = Trace()
    trace.add("g0", "", [span("load", 0, 5)])
    trace.add("g0", "anna", [span("denoise", 5, 8), span("decode", 13, 1), span("encode", 14, 3)])
    trace.add("g0", "ben", [span("denoise", 15, 10), FaultMark(error_type="GroupLost", at_s=26)])
    trace.add("g1", "", [span("load", 0, 5)])
    trace.add("g1", "cleo", [span("denoise", 5, 8)])
    return trace


def test_a_group_is_busy_while_it_denoises(trace: Trace) -> None:
    assert trace.busy_shares() == {"g0": pytest.approx(18 / 20)}


def test_a_trace_is_written_as_one_json_document(trace: Trace, tmp_path: Path) -> None:
    write_trace(str(tmp_path), "r1", trace)
    document = json.loads((tmp_path / "report" / "run=r1" / "trace.json").read_text(encoding="utf-8"))
    assert document["traceEvents"] == list(trace.chrome_events())


def test_each_group_is_a_process_with_a_lane_for_what_overlaps(trace: Trace) -> None:
    spans = [event for event in trace.chrome_events() if event["ph"] == "X" and event["pid"] == 0]
    assert [(event["name"], event["tid"], event["args"]["clip"]) for event in spans] == [
        ("load", 0, ""),
        ("denoise", 0, "anna"),
        ("decode", 0, "anna"),
        ("encode", 1, "anna"),
        ("denoise", 0, "ben"),
        ("wait", 0, ""),
    ]
    assert (spans[1]["ts"], spans[1]["dur"]) == (5_000_000, 8_000_000)
    assert (spans[-1]["ts"], spans[-1]["dur"]) == (14_000_000, 1_000_000), "between two clips"


def test_a_fault_is_an_instant(trace: Trace) -> None:
    (fault,) = [event for event in trace.chrome_events() if event["ph"] == "i"]
    assert (fault["name"], fault["ts"], fault["args"]) == ("GroupLost", 26_000_000, {"clip": "ben"})


def test_a_run_without_a_group_leaves_an_empty_trace(tmp_path: Path) -> None:
    write_trace(str(tmp_path), "r1", Trace())
    assert json.loads((tmp_path / "report" / "run=r1" / "trace.json").read_text(encoding="utf-8"))["traceEvents"] == []


def test_a_long_run_keeps_an_even_sample_and_every_failure(tmp_path: Path) -> None:
    """Waits, busy shares and the time for which a group was held are those of all clips."""
    whole, sample = Trace(), Trace(max_clips=100)
    for trace in (whole, sample):
        trace.add("g0", "", [span("load", 0, 5)])
        for number in range(1000):
            start_s = 5 + 10 * number
            trace.add("g0", f"clip{number}", [span("denoise", start_s, 8), span("decode", start_s + 8, 1)])
            if number % 100 == 99:
                trace.add("g0", f"clip{number}", [FaultMark(error_type="GroupLost", at_s=start_s + 9)])
    everything, events = list(whole.chrome_events()), list(sample.chrome_events())
    spans = [event for event in events if event["ph"] == "X"]
    assert 50 <= sum(event["name"] == "denoise" for event in spans) <= 100
    assert sum(event["ph"] == "i" for event in events) == 10
    assert [event for event in events if event["name"] != "group" and event not in everything] == []
    waits = [event for event in spans if event["name"] == "wait"]
    assert len(waits) > 40
    assert {event["dur"] for event in waits} == {1_000_000}, "between neighbours, whether they are kept or not"
    (held,) = [event for event in spans if event["name"] == "group"]
    assert (held["ts"], held["dur"]) == (0, 10_004_000_000)
    assert sample.busy_shares() == whole.busy_shares()

    write_trace(str(tmp_path), "r1", sample)
    document = json.loads((tmp_path / "report" / "run=r1" / "trace.json").read_text(encoding="utf-8"))
    assert document["traceEvents"] == events
    assert "of 1,000 attempts that did not fail" in document["otherData"]["note"]

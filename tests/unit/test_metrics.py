"""The metrics of a run: what is counted, and what dashboard and rules make of it."""

import json
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from lynx_batch import storage
from lynx_batch.errors import Fault, StoreRefused
from lynx_batch.execution import run_metrics
from lynx_batch.execution.group_state import Phase
from lynx_batch.execution.metrics import METRICS, Kind, Metric
from lynx_batch.execution.progress import GroupProgress, Progress
from lynx_batch.execution.rank_metrics import BusyClock
from lynx_batch.execution.run_metrics import RunMetrics
from lynx_batch.planning.schedule import ClipState
from lynx_batch.planning.verdict import Reject, Render
from lynx_batch.rendering.tasks import Failed, Judged, Rendered, RenderTask
from lynx_batch.stages import Span, Stage
from lynx_batch.store_traffic import read_traffic
from tests.builders import clip, record
from tests.models import ROOT

RULES = ROOT / "cluster" / "prometheus-rules.yaml"
DASHBOARD = ROOT / "cluster" / "grafana-dashboard.json"
OF_RAY = {"le", "NodeAddress"}
SPAN = Span(stage=Stage.DENOISE, start_s=0, seconds=2.5)
TASK = RenderTask(clip=clip("ab12"), attempt="run-1")

needs_promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool: apt-get install prometheus")


class Ledger:
    """Stands in for the exporter: keeps the values that Ray would export, by metric and values of labels."""

    def __init__(self, **labels: str) -> None:
        self.values: defaultdict[tuple[str, ...], float] = defaultdict(float)

    def add(self, metric: Metric, value: float = 1, **labels: str) -> None:
        if value:
            self.values[self._key(metric, labels)] += value

    observe = add

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        self.values[self._key(metric, labels)] = value

    def _key(self, metric: Metric, labels: dict[str, str]) -> tuple[str, ...]:
        assert set(labels) == set(metric.labels)
        return (metric.name.removeprefix("lynx_"), *(str(labels[name]) for name in metric.labels))


class Clock(SimpleNamespace):
    now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(run_metrics, "time", clock)
    return clock


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> tuple[RunMetrics, dict[tuple[str, ...], float]]:
    ledger = Ledger()
    monkeypatch.setattr(run_metrics, "Exporter", lambda **labels: ledger)
    return RunMetrics("run"), ledger.values


def progress(**changes: object) -> Progress:
    known = {"num_rendered": 3, "num_rejected": 1, "num_failed": 2, "num_left": 10, "num_groups_loading": 0}
    return Progress(**known | {"running": (("ada", 1, 4), ("bob", 0, 4))} | changes)


def group(name: str, size: int = 2, phase: Phase = Phase.OPEN) -> GroupProgress:
    return GroupProgress(name=name, size=size, phase=phase, gpu="H200")


def test_clips_are_counted_once_by_outcome_and_reason_and_attempts_each(
    exported: tuple[RunMetrics, dict[tuple[str, ...], float]],
) -> None:
    metrics, values = exported
    lost = Failed(error_type="GroupLost", error="", fault=Fault.MACHINE, spans=(SPAN,))
    bad = Failed(error_type="NoFaceFound", error="", fault=Fault.INPUT)
    metrics.failed(TASK, "g0", lost, ClipState.WAITING, attempts=0, deaths=0)
    metrics.judged(TASK, "g0", Judged(verdict=Render(1), spans=(SPAN,)), attempts=0)
    metrics.rendered(TASK, "g0", Rendered(commit=record(), spans=(SPAN,)), attempts=1)
    metrics.failed(TASK, "g0", bad, ClipState.REJECTED, attempts=1, deaths=0)
    metrics.judged(TASK, "g0", Judged(verdict=Reject("unlike")), attempts=1)

    assert values == {
        ("attempts_total", "failed"): 2,
        ("attempts_total", "judged"): 2,
        ("attempts_total", "rendered"): 1,
        ("retries_total", "machine"): 1,
        ("reseeds_total",): 1,
        ("clips_total", "rendered", ""): 1,
        ("clips_total", "rejected", "NoFaceFound"): 1,
        ("clips_total", "rejected", "NotGoodEnough"): 1,
        ("stage_seconds", "denoise"): 7.5,
    }


def test_the_time_for_which_groups_hold_gpus_is_counted_and_each_group_once(
    exported: tuple[RunMetrics, dict[tuple[str, ...], float]], clock: Clock
) -> None:
    metrics, values = exported
    for seconds, groups in ((2, ("g0",)), (3, ("g0", "g1")), (4, ("g1",)), (0.5, ("g1",))):
        clock.now_s += seconds
        metrics.watch(progress(groups=tuple(map(group, groups))))

    assert values["gpu_seconds_total", "H200"] == 2 * (3 * 1 + 4 * 2)
    assert values["groups_formed_total", "2"] == 2


def test_gauges_tell_the_state_and_what_is_over_counts_zero(
    exported: tuple[RunMetrics, dict[tuple[str, ...], float]], clock: Clock
) -> None:
    metrics, values = exported
    loading = (group("g0", 4, Phase.LOADING), group("g1", 1))
    for groups, waiting in ((loading, {1: 6, 4: 2}), ((group("g1", 1),), {1: 5})):
        clock.now_s += 10
        metrics.watch(progress(groups=groups, waiting_by_size=waiting))

    states = {state: values["clips_in_state", state] for state in ClipState}
    assert states == {"waiting": 8, "running": 2, "rendered": 3, "rejected": 1, "failed": 2}
    assert (values["waiting_clips", "1"], values["waiting_clips", "4"]) == (5, 0)
    assert (values["groups", "open", "1"], values["groups", "loading", "4"]) == (1, 0)
    assert values["predicted_left_seconds",] > 0


def test_a_rank_is_busy_for_the_share_of_the_time_in_which_it_rendered() -> None:
    clock = BusyClock(0.0)
    clock.switch(1.0, is_busy=True)
    clock.switch(3.0, is_busy=False)
    assert clock.share(4.0) == pytest.approx(0.5)
    clock.switch(5.0, is_busy=True)
    assert clock.share(6.0) == pytest.approx(0.5)
    assert clock.share(8.0) == 1.0


def test_what_goes_to_a_store_and_what_it_refuses_is_counted(tmp_path: Path) -> None:
    before = read_traffic()
    storage.write_bytes(str(tmp_path / "a"), b"four")
    storage.upload(tmp_path / "a", str(tmp_path / "b"))
    assert [storage.create_only(str(tmp_path / "c"), b"seven..") for _ in range(2)] == [True, False]
    with pytest.raises(StoreRefused):
        storage.write_bytes(str(tmp_path / "a" / "below-a-file"), b"")
    new = read_traffic().since(before)
    assert (new.uploaded_bytes, new.errors) == (4 + 4 + 7, {"StoreRefused": 1})


def queries() -> list[str]:
    """Those of the dashboard, and of the rules."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    return [t["expr"] for panel in panels for t in panel.get("targets", ())] + [rule["expr"] for rule in rules]


def test_dashboard_and_rules_ask_for_every_metric_by_its_scraped_name_and_for_no_other() -> None:
    known = {f"ray_{m.name}" + "_bucket" * (m.kind is Kind.HISTOGRAM): set(m.labels) for m in METRICS}
    asked = set()
    for query in queries():
        names = re.findall(r"\bray_\w+", query)
        asked |= set(names)
        labels = {label for labels in re.findall(r"\bby \(([^)]*)\)", query) for label in labels.split(", ")}
        assert labels <= {"run"} | OF_RAY | set().union(*(known.get(name, set()) for name in names)), query
    assert asked == known.keys()


def test_each_alert_is_about_figures_that_its_group_has_just_recorded_so_that_it_is_never_a_round_late() -> None:
    recorded: set[str] = set()
    asked: set[str] = set()
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        earlier: set[str] = set()
        for rule in group["rules"]:
            if "record" in rule:
                earlier.add(rule["record"])
                continue
            figures = set(re.findall(r"run:\w+:\w+", rule["expr"]))
            assert figures, rule["alert"]
            assert figures <= earlier, rule["alert"]
            asked |= figures
        recorded |= earlier
    assert asked == recorded


def test_no_two_panels_of_the_dashboard_overlap() -> None:
    taken = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


@needs_promtool
@pytest.mark.parametrize(
    "command", [("check", RULES), ("test", ROOT / "tests" / "data" / "prometheus-rules-test.yaml")]
)
def test_promtool_accepts_the_rules_and_each_alert_fires_when_it_should(command: tuple[str, Path]) -> None:
    verb, file = command
    done = subprocess.run(["promtool", verb, "rules", str(file)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

"""A real Prometheus scrapes a real local Ray during a run, and has an answer to every query of the dashboard and the rules."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from lynx_batch import storage
from lynx_batch.config import load_run_config
from lynx_batch.errors import StoreUnavailable
from lynx_batch.execution.metrics import METRICS, Kind
from lynx_batch.execution.progress import Progress
from lynx_batch.execution.run import render
from lynx_batch.execution.run_metrics import RunMetrics
from lynx_batch.planning.budget import Spending
from lynx_batch.preparation.selection import Selection
from tests.builders import COLLINS, HOPPER, row
from tests.jobs import Job
from tests.models import ROOT
from tests.web import free_port

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("prometheus") and shutil.which("promtool")),
    reason="needs prometheus and promtool: apt-get install prometheus",
)
pytestmark = [pytest.mark.ray, pytest.mark.slow, needs_prometheus]

RULES = ROOT / "cluster" / "prometheus-rules.yaml"
DASHBOARD = ROOT / "cluster" / "grafana-dashboard.json"
BEST_OF_TWO = {"likeness": {"min_face_share": 0.0}, "technical": False, "num_frames": 2, "best_of": 2}

ANSWERED_WITHIN_S, ASK_EVERY_S = 480.0, 3.0
NEARLY_SPENT = Spending(limit_name="nightly", total_gpu_hours=2.0, total_usd=5.0, used_share=0.9)
WHAT_HAPPENS = (
    'ray_lynx_clips_total{outcome="rejected", reason="PhotoChanged"}',
    'ray_lynx_clips_total{outcome="rendered", reason=""}',
    'ray_lynx_store_errors_total{error="StoreUnavailable"} >= 3',
    'ALERTS{alertname="LynxBudgetNearlySpent", alertstate="firing", run="budgeted"}',
)
"""What the test makes happen, as queries."""


def dashboard_queries() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"].replace("$run", ".*") for panel in panels for target in panel.get("targets", ())]


def recorded() -> dict[str, str]:
    """The queries of the recording rules, on which all alerts are based, by their names."""
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    return {rule["record"]: rule["expr"] for rule in rules if "record" in rule}


def series_of_metrics() -> list[str]:
    """A query for each metric of ours."""
    return [f"ray_{m.name}_count" if m.kind is Kind.HISTOGRAM else f"ray_{m.name}" for m in METRICS]


class Prometheus:
    """A server of its own, which scrapes one target every second."""

    def __init__(self, folder: Path, target: str) -> None:
        self._port = free_port()
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [target]}]}],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        options = {
            "config.file": folder / "prometheus.yaml",
            "storage.tsdb.path": folder / "tsdb",
            "web.listen-address": f"127.0.0.1:{self._port}",
        }
        command = ["prometheus", *(f"--{name}={value}" for name, value in options.items())]
        with (folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(60)

    def ask(self, query: str) -> list[dict[str, Any]]:
        """What the query returns now; nothing while the server starts."""
        url = f"http://127.0.0.1:{self._port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return json.load(response)["data"]["result"]
        except urllib.error.HTTPError as error:
            if error.code == 503:
                return []
            raise AssertionError(f"{query}: {error.read().decode()}") from error
        except urllib.error.URLError:
            return []


class Watcher:
    """Looks at a run through Prometheus, and ends it with an interrupt once every query has been answered."""

    def __init__(self, folder: Path, queries: list[str]) -> None:
        self._folder, self._open = folder, queries
        self._prometheus: Prometheus | None = None
        self._budget: RunMetrics | None = None
        self._has_killed = False
        self._ends_s, self._due_s = time.monotonic() + ANSWERED_WITHIN_S, 0.0
        self.answers: dict[str, list[dict[str, Any]]] = {}
        self.announced = ""

    def announce(self, line: str) -> None:
        """Prometheus starts once the run has said where it is to scrape."""
        self.announced += f"{line}\n"
        if "metrics for Prometheus: http://" in line:
            self._prometheus = Prometheus(self._folder, line.rpartition("http://")[2].removesuffix("/metrics"))

    def watch(self, progress: Progress) -> None:
        assert self._prometheus is not None
        assert time.monotonic() < self._ends_s, f"never answered: {self._open}"
        if time.monotonic() < self._due_s:  # asking holds up the run
            return
        self._due_s = time.monotonic() + ASK_EVERY_S
        self._spend(progress)
        if progress.num_rendered and progress.running and not self._has_killed:
            kill_a_worker()
            self._has_killed = True
        self.answers |= {query: answer for query in self._open if (answer := self._prometheus.ask(query))}
        self._open = [query for query in self._open if query not in self.answers]
        if not self._open:
            raise KeyboardInterrupt

    def stop(self) -> None:
        if self._prometheus is not None:
            self._prometheus.stop()

    def _spend(self, progress: Progress) -> None:
        """As if another run had nearly spent its budget: this one has none."""
        self._budget = self._budget or RunMetrics("budgeted")
        self._budget.watch(replace(progress, spending=NEARLY_SPENT))


def kill_a_worker() -> None:
    """Its clips are tried again."""
    rank, *_ = (
        process for process in psutil.Process().children(recursive=True) if "ray::Worker" in " ".join(process.cmdline())
    )
    rank.kill()


@pytest.fixture
def watcher(tmp_path: Path) -> Iterator[Watcher]:
    queries = [*dashboard_queries(), *recorded().values(), *recorded(), *series_of_metrics(), *WHAT_HAPPENS]
    watcher = Watcher(tmp_path, queries)
    yield watcher
    watcher.stop()


@pytest.fixture
def use_unreachable_store(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A store that nobody serves: each call to it is tried three times, in vain."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")

    def use() -> None:
        with pytest.raises(StoreUnavailable):
            storage.read_bytes("s3://bucket/nothing")

    return use


def test_prometheus_has_an_answer_to_every_query_during_a_run(
    watcher: Watcher,
    tmp_path: Path,
    face_pack: Path,
    monkeypatch: pytest.MonkeyPatch,
    use_unreachable_store: Callable[[], None],
) -> None:
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "2000")
    changing = tmp_path / "changing.jpg"
    shutil.copy(HOPPER, changing)
    rows = [row(prompt=f"A person waves {number}.") for number in range(120)]
    settings = {"quality": BEST_OF_TWO}
    job = Job(folder=tmp_path, face_pack=face_pack, rows=[row(changing, priority=9), *rows], settings=settings)

    def announce(line: str) -> None:
        watcher.announce(line)
        if "metrics for Prometheus" in line:
            use_unreachable_store()
            shutil.copy(COLLINS, changing)  # its clip is rejected when its turn comes

    summary = render(
        load_run_config(job.folder / "run.yaml", {}),
        Selection(),
        is_unsafe_allowed=False,
        announce=announce,
        watch=watcher.watch,
    )

    assert summary.stopped_by == "interrupted"

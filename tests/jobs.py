"""Real jobs: run files with small clips on the tiny model, the processes that render them, and what came of them."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pyarrow.parquet as pq
from typer.testing import CliRunner
from typer.testing import Result as CliResult

from lynx_batch.cli import app
from lynx_batch.config import RunConfig
from lynx_batch.delivery.video import decode_mp4
from lynx_batch.ledger.events import AttemptEvent, read_events
from lynx_batch.ledger.runs import read_runs
from lynx_batch.preparation.model import CheckedModel
from lynx_batch.rendering.tasks import WorkerSettings
from lynx_model.spec import ParallelPlan
from tests.builders import write_manifest, write_run

if TYPE_CHECKING:
    from tests.heads import Head

DEADLINE_S = 120


@dataclass(kw_only=True)
class Job:
    """A run file with small clips on the tiny model, and what came of it.

    One group renders them, unless `settings` has a `cluster`: each group starts a process that takes 14 s of a processor to load.
    Without a `head`, each run starts a Ray of its own, which takes 12 s more. Workers of a head know nothing of `env`.
    """

    folder: Path
    face_pack: Path
    rows: list[dict[str, object]]
    steps: int = 2
    settings: dict[str, object] = field(default_factory=dict)
    output: str = ""
    env: dict[str, str] = field(default_factory=dict)
    deadline_s: int = DEADLINE_S
    head: "Head | None" = None

    def __post_init__(self) -> None:
        self.output = self.output or str(self.folder / "out")
        write_manifest(self.folder / "manifest.parquet", self.rows)
        defaults = {"width": 64, "height": 48, "num_frames": 5, "num_inference_steps": self.steps}
        cluster: Any = {"address": self.head.address} if self.head else {}
        cluster |= self.settings.get("cluster", {"max_groups": 1})
        settings = {"engine": {"precision": "float32"}, "defaults": defaults, **self.settings, "cluster": cluster}
        write_run(self.folder, self.face_pack, output=self.output, **settings)

    def start(self, *options: str, command: str = "render") -> subprocess.Popen[str]:
        target = str(self.folder / "run.yaml") if command in ("render", "sample", "submit") else self.output
        program = str(Path(sys.executable).with_name("lynx-batch"))
        return subprocess.Popen(
            [program, command, target, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **self.env},
        )

    def run(self, *options: str, command: str = "render") -> "Result":
        process = self.start(*options, command=command)
        try:
            stdout, stderr = process.communicate(timeout=self.deadline_s)
        except subprocess.TimeoutExpired:
            process.kill()  # or it would slow down all tests that follow
            process.communicate()
            raise
        return Result(process.returncode, stdout, stderr)

    def ask(self, command: str, *options: str) -> CliResult:
        """What a command says of the output, in this process."""
        return invoke(command, self.output, *options)

    def metadata(self) -> list[dict[str, Any]]:
        """The rows of the newest run."""
        newest = max((Path(self.output) / "metadata").iterdir())
        return sorted(pq.read_table(newest, partitioning=None).to_pylist(), key=lambda row: row["row"])

    def events(self) -> list[AttemptEvent]:
        """Those of all runs."""
        return [event for run in read_runs(self.output) for event in read_events(self.output, run.run_id)]

    def commits(self) -> list[dict[str, object]]:
        files = sorted((Path(self.output) / "commits").rglob("*.json"))
        return [json.loads(file.read_text(encoding="utf-8")) for file in files]

    def num_commits(self) -> int:
        return len(list((Path(self.output) / "commits").rglob("*.json")))


@dataclass(frozen=True)
class Result:
    exit_code: int
    stdout: str
    stderr: str


def invoke(*arguments: object) -> CliResult:
    """What `lynx-batch` says in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def worker_settings(config: RunConfig, model: CheckedModel, run_id: str = "r1") -> WorkerSettings:
    """Those of a worker that renders alone."""
    return WorkerSettings(
        run_id=run_id,
        output=config.output,
        model=model.source,
        faces=config.faces,
        inputs=config.inputs,
        engine=model.engine.options,
        identity=model.identity,
        plan=ParallelPlan(),
        video=config.video,
        is_store_safe=True,
        provenance=config.provenance,
    )


def decode(file: Path) -> np.ndarray:
    return decode_mp4(file.read_bytes())


def wait_until(is_true: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not is_true():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def workers_of(starter: subprocess.Popen[str] | psutil.Process) -> list[psutil.Process]:
    """The workers that render, of the Ray that a driver or a head has started."""
    descendants = psutil.Process(starter.pid).children(recursive=True)
    return [process for process in descendants if any("ray::Worker" in part for part in process.cmdline())]

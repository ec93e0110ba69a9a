"""Measures runs of many rows with nothing rendered: `python -m tests.scale --rows 100000`, or `make scale`.

Each command runs in a process of its own, as a user starts it. The rows are synthetic: each has a prompt and a name of its own, and
they share `NUM_PHOTOS` photos.
"""

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from lynx_batch.clip import ClipSpec
from lynx_batch.config import RunConfig, load_run_config
from lynx_batch.ledger.commits import CommitRecord
from lynx_batch.ledger.metadata import Outcome, RowOutcome
from lynx_batch.ledger.parts import MAX_ROWS, MetadataParts
from lynx_batch.ledger.runs import RunEnd, RunRecord, write_run_end, write_run_record
from lynx_batch.output import commit_uri
from lynx_batch.preparation.prepare import PreparedRun, prepare
from lynx_batch.preparation.selection import Selection
from tests.builders import COLLINS, record, tiny_run
from tests.models import ROOT

NUM_PHOTOS = 1000
MIB = 2**20
SAMPLE_EVERY_S = 0.2
COMMANDS = ("check", "plan", "render", "resume", "replan", "status")
"""In this order: `resume` finds everything rendered, and so do those after it."""

LAUNCHER = """
import json, os, subprocess, sys
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
with open(sys.argv[1], "w") as file:
    json.dump([os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, usage.ru_maxrss], file)
"""
"""Starts a command and writes what it used. A process begins with the memory of the one that starts it, so that one must be small."""


@dataclass(kw_only=True)
class Measured:
    """One command. `mib` is the most memory that each watched process held at once; `grown_mib` how much more than at its start."""

    command: str
    num_rows: int
    seconds: float = 0.0
    cpu_s: float = 0.0
    load: float = 0.0
    mib: dict[str, float] = field(default_factory=dict)
    grown_mib: dict[str, float] = field(default_factory=dict)
    exit_code: int = 0

    def __str__(self) -> str:
        memory = ", ".join(f"{name} {mib:.0f} MiB" for name, mib in self.mib.items())
        growth = ", ".join(f"{name} +{mib:.0f} MiB" for name, mib in self.grown_mib.items())
        return (
            f"{self.num_rows:>9,} rows  {self.command:<7} {self.seconds:7.1f} s, {self.cpu_s:7.1f} s of a processor, "
            f"{memory}{'; grown ' + growth if growth else ''}; load {self.load:.1f}, exit {self.exit_code}"
        )


def make_manifest(folder: Path, num_rows: int, face_pack: Path) -> Path:
    """A manifest of so many rows and its run file, which is returned."""
    photos = folder / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    content = COLLINS.read_bytes()
    for number in range(NUM_PHOTOS):
        photo = photos / f"{number:04}.jpg"
        if not photo.exists():
            photo.write_bytes(content + number.to_bytes(4))  # a decoder ignores what follows the picture
    rows = range(num_rows)
    table = pa.table(
        {
            "subject_uri": [f"photos/{row % NUM_PHOTOS:04}.jpg" for row in rows],
            "prompt": [f"A person walks through a city in the rain, scene {row}." for row in rows],
            "clip_name": [f"scene-{row}" for row in rows],
            "subject_id": [f"person-{row % NUM_PHOTOS}" for row in rows],
            "consent_ref": [f"consent-{row % NUM_PHOTOS}" for row in rows],
        }
    )
    pq.write_table(table, folder / "manifest.parquet")
    run = tiny_run(face_pack, provenance={"require_consent": True})
    run |= {"engine": {"precision": "float32"}, "defaults": {"width": 64, "height": 48, "num_frames": 5}}
    # Loading a group and shrinking photos take the same time for any number of rows, and are not what is measured
    run |= {"cluster": {"max_clips_per_group": None}, "report": {"photos": False}}
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(run), encoding="utf-8")
    return file


def commit_all(run_file: Path) -> None:
    """Leaves what an earlier run leaves that rendered every row: its record, its metadata, and a commit's name for each clip."""
    config = load_run_config(run_file, {})
    prepared = prepare(config, Selection(), datetime.now(UTC))
    started = RunRecord(started_at=datetime.now(UTC), num_rows=prepared.manifest.num_rows, is_whole=True)
    write_run_record(
        config.output, "earlier", started, run_yaml=config.to_yaml(), manifest=prepared.manifest, environment={}
    )
    _write_metadata(config, prepared)
    end = RunEnd(ended_at=datetime.now(UTC), counts={Outcome.RENDERED: len(prepared.clips)})
    write_run_end(config.output, "earlier", end)


def _write_metadata(config: RunConfig, prepared: PreparedRun) -> None:
    parts = MetadataParts(config.output, "earlier", 0)
    for number, clip in enumerate(prepared.clips, 1):
        commit = Path(commit_uri(config.output, clip.clip_id, 1))
        commit.parent.mkdir(parents=True, exist_ok=True)
        commit.touch()
        made = _record_of(clip, prepared)
        parts.add(
            RowOutcome(
                row=clip.request.row,
                outcome=Outcome.RENDERED,
                ended_at=made.committed_at,
                clip=clip,
                attempts=1,
                commit=made,
            )
        )
        if number % MAX_ROWS == 0:
            parts.write_now(0)
    parts.close()


def _record_of(clip: ClipSpec, prepared: PreparedRun) -> CommitRecord:
    made = record(clip.clip_id, "earlier-1", "earlier")
    identity = {"base": prepared.model.identity.base, "precision": prepared.model.identity.precision}
    stage_s = {"denoise_s": 47.0, "decode_s": 1.0, "encode_s": 1.0, "upload_s": 0.5}
    return made.model_copy(update={"identity": identity, "stage_s": stage_s, "seed": clip.params.seed})


def measure(command: str, run_file: Path, num_rows: int) -> Measured:
    """Runs a command of `COMMANDS`. Before `render` nothing is committed, before `resume` everything."""
    if command in ("render", "resume"):
        shutil.rmtree(run_file.with_name("out"), ignore_errors=True)
    if command == "resume":
        _apart(commit_all, run_file)
    arguments = {
        "check": ["manifest", "check", str(run_file.with_name("manifest.parquet")), "--run", str(run_file)],
        "plan": ["plan", str(run_file), "--gpus", "64xH100@2.5"],
        "resume": ["render", str(run_file)],
        "replan": ["plan", str(run_file)],
        "status": ["status", str(run_file.with_name("out"))],
        "render": ["render", str(run_file)],
    }[command]
    log, used = run_file.with_name(f"{command}.log"), run_file.with_name(f"{command}.json")
    program = [sys.executable, "-S", "-c", LAUNCHER, str(used), sys.executable, "-m", "lynx_batch", *arguments]
    measured = Measured(command=command, num_rows=num_rows, load=os.getloadavg()[0])
    started_s = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(program, stdout=file, stderr=subprocess.STDOUT, env=os.environ | null_environment())
        if command == "render":
            _watch(process, measured)
        process.wait()
    measured.seconds = time.monotonic() - started_s
    measured.exit_code, measured.cpu_s, max_kib = json.loads(used.read_text())
    measured.mib["driver"] = max_kib / 1024
    return measured


def _apart(work: Callable[..., object], *arguments: object) -> None:
    """Does it in a process of its own, so that what it imports is none of ours."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == 0


def _watch(process: "subprocess.Popen[bytes]", measured: Measured) -> None:
    """Follows the driver's and the GCS's memory until the driver ends."""
    driver, gcs, first = _child_of(process), None, dict[str, float]()
    while driver.status() != psutil.STATUS_ZOMBIE:
        if gcs is None:
            gcs = next((child for child in driver.children() if child.name() == "gcs_server"), None)
            time.sleep(SAMPLE_EVERY_S)
            continue
        try:
            rss = {"driver": driver.memory_info().rss / MIB, "gcs": gcs.memory_info().rss / MIB}
        except psutil.Error:
            break
        for name, mib in rss.items():
            first.setdefault(name, mib)
            measured.mib[name] = max(mib, measured.mib.get(name, 0.0))
            measured.grown_mib[name] = measured.mib[name] - first[name]
        time.sleep(SAMPLE_EVERY_S)


def _child_of(launcher: "subprocess.Popen[bytes]") -> psutil.Process:
    while not (children := psutil.Process(launcher.pid).children()):
        time.sleep(SAMPLE_EVERY_S)
    return children[0]


def null_environment() -> dict[str, str]:
    path = os.pathsep.join([str(ROOT / "tests" / "null_renderer"), str(ROOT)])
    return {"PYTHONPATH": path, "NULL_RENDERER": "1", "OMP_NUM_THREADS": "1"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--commands", default=",".join(COMMANDS), help="in the order in which they run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lynx-scale-", ignore_cleanup_errors=True) as folder:
        os.environ["XDG_CACHE_HOME"] = str(
            Path(folder, "cache")
        )  # what is remembered of the photos is none of the user's
        run_file = Path(folder, "run.yaml")
        _apart(make_manifest, Path(folder), options.rows, ROOT / ".cache" / "faces" / "free")
        for command in options.commands.split(","):
            print(measure(command, run_file, options.rows), flush=True)


if __name__ == "__main__":
    main()

"""The whole recipe of the demo's model at toy size, as a user runs it: from two photos to a judged model."""

import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from lynx_model.checkpoints.adapter_spec import describe_adapters
from tests.models import ROOT

STEPS = ("vae", "latents", "scene-judge", "full", "lite")

COMMANDS = """
import json, sys
from jobs.demo.training.__main__ import app

for arguments in json.loads(sys.argv[1]):
    app(arguments, standalone_mode=False)
"""


@pytest.fixture
def portraits(tmp_path: Path) -> Path:
    """The demo's two people; one is only for judging."""
    folder = tmp_path / "portraits"
    folder.mkdir()
    for photo in (ROOT / "jobs" / "demo" / "subjects").glob("*.jpg"):
        shutil.copy(photo, folder)
    (folder / "held_out.txt").write_text("grace-hopper\n")
    return folder


def run(*commands: Sequence[object], state: Path) -> str:
    """Commands, one after the other in one process, which loads torch once. Each goes on from the files of those before."""
    lines = [[*map(str, command), "--smoke", "--state", str(state)] for command in commands]
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, json.dumps(lines)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def cpu_s_of_children() -> float:
    """Seconds that a machine with other work adds nothing to."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@pytest.mark.slow(s=80)
def test_every_step_runs_and_goes_on_from_its_files(portraits: Path, face_pack: Path, tmp_path: Path) -> None:
    state, start_s = tmp_path / "state", cpu_s_of_children()
    prepare, judge = (("prepare", portraits, "--faces", face_pack), ("judge", portraits, "--faces", face_pack))
    table = run(prepare, *((step,) for step in STEPS), judge, state=state)

    assert cpu_s_of_children() - start_s < 120, "more than two minutes on a core of its own"
    assert "| full | grace-hopper | 1 |" in table
    assert {sheet.name for sheet in (state / "sheets").iterdir()} >= {"mattes.png", "clips.png", "vae.png"}
    assert (state / "judge" / "full.png").stat().st_size > 1000
    model = state / "model"
    assert not describe_adapters(model / "lynx_lite", None).has_ref
    assert describe_adapters(model / "lynx_full", model / "lynx_full").has_ref

    trained = (model / "lynx_full" / "ref_layers.safetensors").read_bytes()
    run(("full",), state=state)  # its seconds are over: nothing is trained, and the files are written again
    assert (model / "lynx_full" / "ref_layers.safetensors").read_bytes() == trained

"""Output locations that earlier versions wrote stay readable: `tests/data/output-contract-1` is a run of contract version 1."""

import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pytest

from lynx_batch import read_metadata
from lynx_batch.errors import ConfigError
from lynx_batch.ledger.timings import read_timings
from tests.builders import IDENTITY
from tests.jobs import invoke
from tests.models import OLD_OUTPUT


@pytest.fixture
def output(tmp_path: Path) -> str:
    """Two clips that were rendered, and one that was rejected and asked for again."""
    return str(shutil.copytree(OLD_OUTPUT, tmp_path / "out"))


def test_an_old_output_is_summarised(output: str) -> None:
    told = invoke("status", output, "--clips")
    assert told.exit_code == 0
    for part in ("2 clips committed", "finished", "1 rejected, 2 rendered", "NoFaceFound"):
        assert part in told.stdout


def test_an_old_output_is_verified(output: str) -> None:
    told = invoke("verify", output)
    assert (told.exit_code, "2 of 2 clips read, 0 faulty" in told.stdout) == (0, True)


def test_an_old_output_is_exported(output: str, tmp_path: Path) -> None:
    told = invoke("export", output, str(tmp_path / "named"), "--name", "{subject_id}/{clip_name}.mp4")
    assert told.exit_code == 0
    named = {str(file.relative_to(tmp_path / "named")) for file in (tmp_path / "named").rglob("*.mp4")}
    assert named == {"eileen-collins/boat.mp4", "grace-hopper/boat.mp4"}


def test_nothing_of_an_old_output_is_left_over(output: str) -> None:
    assert "0 files" in invoke("prune", output, "--dry-run").stdout


def test_parameters_that_came_later_have_the_value_that_changes_nothing(output: str) -> None:
    later = {"image_guidance_every": 1, "guidance_until": 1.0, "ip_start": 0.0, "ref_end": 1.0}
    rows = read_metadata(output, [*later, "ip_blocks", "flow_shift", "edition"]).to_pylist()
    assert rows == [{**later, "ip_blocks": None, "flow_shift": None, "edition": 1}] * 3
    table = read_metadata(output, ["run", "model", "outcome"], pc.field("outcome") == "rendered")
    model = dict(table["model"][0].as_py())
    identity = replace(IDENTITY, base=model["base"], precision=model["precision"])
    assert len(read_timings(output, identity)) == 2


def test_a_misspelt_column_of_the_metadata_is_named_with_the_nearest(output: str) -> None:
    assert read_metadata(Path(output), ["outcome"]).num_rows == 3
    with pytest.raises(ConfigError, match="column 'outcom': unknown; the nearest known one is 'outcome'"):
        read_metadata(output, ["outcom"])

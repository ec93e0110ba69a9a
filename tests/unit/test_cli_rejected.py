"""Rows that never become clips: what `render` prints of them, what metadata keeps, what `status` lists. None of this needs Ray."""

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lynx_batch.intake.schema import MANIFEST_SCHEMA
from lynx_batch.ledger.metadata import read_metadata
from lynx_batch.ledger.runs import read_runs
from lynx_batch.preparation.prepare import MAX_PROBLEMS_SHOWN
from tests.builders import write_run
from tests.jobs import invoke
from tests.models import MODEL

EXPIRED = datetime(2020, 1, 1, tzinfo=UTC)
NAMES = {"subject_id": "ada", "clip_name": "wave", "consent_ref": "form-7"}


@pytest.fixture
def run_file(tmp_path: Path, face_pack: Path) -> Path:
    sections = {
        "engine": {"precision": "float32"},
        "defaults": {"width": 64, "height": 48},
        "cluster": {"shared_paths": [str(tmp_path), str(MODEL), str(face_pack)]},
    }
    return write_run(tmp_path, face_pack, **sections)


def write(run_file: Path, *rows: dict[str, object]) -> None:
    cells = [{"subject_uri": "ada.jpg", "prompt": "She waves.", **row} for row in rows]
    pq.write_table(pa.Table.from_pylist(cells, schema=MANIFEST_SCHEMA), run_file.with_name("manifest.parquet"))


def test_every_row_that_was_rejected_is_printed_and_keeps_its_inputs(run_file: Path) -> None:
    secret = "https://ada:secret@host/ada.jpg?signature=1"
    expired = {"consent_expires_at": EXPIRED, "subject_uri": secret}
    write(run_file, {"width": 100, **NAMES}, {**expired, **NAMES}, {**NAMES, "clip_name": None})

    result = invoke("render", str(run_file), "--allow-invalid")

    assert result.exit_code == 3, result.output
    photo = run_file.with_name("ada.jpg")
    for told in (
        "  row 0: width=100: must be a positive multiple of 16 px",
        "  row 1: consent_expires_at=2020-01-01T00:00:00+00:00: must be in the future",
        f"  row 2: subject_uri={photo}: does not exist",
    ):
        assert told in result.stdout
    output = str(run_file.with_name("out"))
    (found,) = read_runs(output)
    assert (found.record.manifest, found.record.is_whole) == (str(run_file.with_name("manifest.parquet")), True)
    rows = read_metadata(output).sort_by("row").to_pylist()
    assert [row["error_type"] for row in rows] == ["InvalidRow", "ConsentExpired", "MissingObject"]
    assert [row["subject_uri"] for row in rows] == [str(photo), "https://host/ada.jpg", str(photo)]
    assert [row["width"] for row in rows] == [100, 64, 64]
    assert {(row["prompt"], row["subject_id"], row["consent_ref"]) for row in rows} == {("She waves.", "ada", "form-7")}
    assert [row["consent_expires_at"] for row in rows] == [None, EXPIRED, None]

    listed = invoke("status", output, "--clips").stdout
    assert listed.count("rejected") >= 3
    for told in ("wave", "She waves.", "width=100", "does not exist"):
        assert told in listed


def test_a_rejected_row_is_listed_until_a_newer_run_takes_it_or_all_rows(run_file: Path) -> None:
    output = str(run_file.with_name("out"))

    def listed() -> list[str]:
        lines = invoke("status", output, "--clips").stdout.splitlines()
        return [line.split()[1] for line in lines if "does not exist" in line and line.startswith("│")]

    write(run_file, {"seed": 1}, {"seed": 2}, {"seed": 3})
    for options, expected in ((["--where", "seed < 3"], ["0", "1"]), (["--where", "seed > 1"], ["0", "1", "2"])):
        assert invoke("render", str(run_file), *options).exit_code == 3
        assert sorted(listed()) == expected
    write(run_file, {"seed": 1})
    assert invoke("render", str(run_file)).exit_code == 3
    assert listed() == ["0"]


def test_more_rejected_rows_than_a_screen_holds_are_in_the_list_that_is_named(run_file: Path) -> None:
    num = MAX_PROBLEMS_SHOWN + 7
    write(run_file, *({"seed": seed} for seed in range(num)))
    told = invoke("render", str(run_file)).stdout
    assert told.count(": does not exist") == MAX_PROBLEMS_SHOWN
    output = str(run_file.with_name("out"))
    assert f"... and 7 more: `lynx-batch status {output} --clips` lists all" in told
    listed = invoke("status", output, "--clips").stdout.splitlines()
    assert sum("does not exist" in line for line in listed if line.startswith("│")) == num


@pytest.mark.parametrize("command", [["render"], ["plan"], ["submit"], ["manifest", "show"]])
def test_a_where_that_matches_nothing_is_told(run_file: Path, command: list[str]) -> None:
    write(run_file, {"seed": 1})
    target = "manifest.parquet" if command[0] == "manifest" else "run.yaml"
    result = invoke(*command, str(run_file.with_name(target)), "--where", "seed == 2")
    assert (result.exit_code, "--where 'seed == 2': must match a row" in result.stderr) == (2, True), result.stderr
    assert not run_file.with_name("out").exists()

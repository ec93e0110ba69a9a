"""`lynx-batch sample`, as far as it goes before anything is rendered."""

from pathlib import Path

import pyarrow as pa
import pytest

from lynx_batch.config import load_run_config
from lynx_batch.ledger.commits import commit
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.runs import RunRecord, write_run_record
from lynx_batch.preparation.sample import SampleRun, prepare_sample, withdraw_outdated
from lynx_batch.preparation.selection import Selection
from tests.builders import COLLINS, HOPPER, NOW, record, row, write_manifest, write_run
from tests.jobs import invoke

MANIFEST = pa.table({"row": [0, 1], "subject_uri": ["a.jpg", "b.jpg"]})


@pytest.fixture
def run_file(tmp_path: Path, face_pack: Path) -> Path:
    """Eight rows: two people, four prompts from one template, and a tag that tells rows apart."""
    template, verbs = "A person {{verb}}.", ("waves", "sings", "runs", "reads")
    prompts = [(verb, photo) for verb in verbs for photo in (COLLINS, HOPPER)]
    rows = [
        row(photo, f"A person {verb}.", prompt_template=template, tags={"number": str(number)}, subject_id=photo.stem)
        for number, (verb, photo) in enumerate(prompts)
    ]
    write_manifest(tmp_path / "manifest.parquet", rows)
    return write_run(tmp_path, face_pack, defaults={"width": 64, "height": 48, "num_frames": 5})


def sample(*arguments: object) -> str:
    result = invoke("sample", *arguments, "--dry-run")
    assert result.exit_code == 0, result.output
    return result.output


def test_a_dry_run_says_which_rows_why_and_how_to_submit_them(run_file: Path) -> None:
    told = sample(run_file, "--count", "4")
    assert "picked 2 of 8 rows" in told
    assert "row 0: first with subject eileen-collins" in told
    assert "they show: subject 2 of 2\n" in told, "all prompts come from one template"
    assert "left out: tags.number, because it has 8 values; --per tags.number includes it" in told
    place = run_file.parent / "out-sample"
    assert (
        f"lynx-batch submit {run_file} --output {place} --where 'row in [0, 1]' --set approval.required=false" in told
    )
    assert not place.exists()
    assert "picked 4 of 8 rows" in sample(run_file, "--count", "4", "--per", "subject, tags.number")
    assert f"--output {run_file.parent / 'other'} " in sample(run_file, "--out", run_file.parent / "other")
    manifest = run_file.parent / "manifest.parquet"
    told = sample(run_file, "--manifest", manifest, "--set", "defaults.seed=7", "--allow-duplicates")
    assert f"submit {run_file} --manifest {manifest} --output {place} " in told
    assert "--allow-duplicates --set defaults.seed=7 --set approval.required=false" in told
    assert f"--output {place} --preset exact --where " in sample(run_file, "--preset", "exact")
    told = sample(run_file, "--set", f"output={run_file.parent / 'other'}", "--set", "defaults.seed=7")
    assert f"--output {run_file.parent / 'other'}-sample " in told
    assert "--set output" not in told, "or the sample would go to the campaign's own output"


@pytest.mark.parametrize(
    ("arguments", "rule"),
    [
        (["--per", "subjekt"], "--per 'subjekt': must be something that rows have; the nearest is 'subject'"),
        (["--out", "{folder}/out/sample"], "must be apart from output="),
        (["--sheet", "{folder}/run.yaml"], "must be new or a PNG"),
        (["--limit", "0"], "a sample needs a row that can be rendered"),
    ],
)
def test_what_cannot_be_is_told(run_file: Path, arguments: list[str], rule: str) -> None:
    filled = [argument.replace("{folder}", str(run_file.parent)) for argument in arguments]
    result = invoke("sample", run_file, "--dry-run", *filled)
    assert result.exit_code == 2
    assert rule in result.output


def prepared(run_file: Path) -> SampleRun:
    return prepare_sample(load_run_config(run_file, {}), Selection(), count=4, per=[], now=NOW)


def test_clips_of_an_earlier_sample_with_other_settings_are_rendered_again(run_file: Path) -> None:
    chosen = prepared(run_file)
    output = chosen.config.output
    for run_id, settings in (("old", chosen.settings | {"video.crf": 1}), ("same", chosen.settings)):
        started = RunRecord(started_at=NOW, num_rows=2, settings=settings)
        write_run_record(output, run_id, started, run_yaml=b"", manifest=MANIFEST, environment={})
    outdated, current = sorted(chosen.clip_ids)
    commit(output, record(outdated, run_id="old"))
    commit(output, record(current, run_id="same"))
    commit(output, record("ab12", run_id="old"))
    withdraw_outdated(chosen, NOW)
    assert {*list_editions(output).in_force} == {current, "ab12"}
    assert [*list_editions(output).withdrawn] == [outdated], "what this sample does not show stays"

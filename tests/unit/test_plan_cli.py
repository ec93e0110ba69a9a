"""`lynx-batch plan`, as its user types it."""

import csv
import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import lynx_batch
from lynx_batch.cli.options import parse_duration
from lynx_batch.config import load_run_config
from lynx_batch.errors import ConfigError
from lynx_batch.ledger.commits import commit
from lynx_batch.ledger.metadata import Outcome, RowOutcome
from lynx_batch.ledger.spending import SpentRecord, write_spent
from lynx_batch.ledger.tries import TryRecord, record_try
from lynx_batch.planning.layout import parse_nodes
from lynx_batch.preparation.model import check_model
from lynx_batch.preparation.prepare import prepare
from lynx_batch.preparation.selection import Selection
from tests.builders import NOW, clip, ended, record, row, start_run, write_manifest, write_metadata, write_run
from tests.jobs import invoke
from tests.stores import put_naming, refusing_store


@pytest.fixture
def run_file(tmp_path: Path, face_pack: Path) -> Path:
    """Twelve clips of two lengths on the tiny model."""
    rows = [row(prompt=f"p{n}", num_inference_steps=2 + 6 * (n % 2)) for n in range(12)]
    write_manifest(tmp_path / "manifest.parquet", rows)
    defaults = {"width": 64, "height": 48, "num_frames": 5}
    return write_run(tmp_path, face_pack, engine={"precision": "float32"}, defaults=defaults)


def run(*arguments: str) -> str:
    result = invoke("plan", *arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_table_tells_what_each_group_size_takes_and_which_is_chosen(run_file: Path) -> None:
    output = run(str(run_file), "--gpus", "4xH200@2.5", "--gpus", "2xA100@1", "--deadline", "1h")
    assert "12 rows: 12 to render, 0 committed" in output
    assert "1 to 4 (chosen)" in output
    assert "6 of 1" in output, "six GPUs, each a group"
    assert "meets the deadline" in output
    assert not (run_file.parent / "out").exists(), "a plan writes nothing"


def test_a_model_in_a_bucket_writes_nothing_outside_of_the_cache(
    run_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with refusing_store(monkeypatch):
        for name in ("../../../planted/y.pth", f"{tmp_path}/planted/y.pth"):
            uri = put_naming(name, "s3://bucket")
            result = invoke("plan", run_file, "--gpus", "1xH100", "--set", f"model.base={uri}")
            assert result.exit_code == 2
            assert f"{uri}/lynx-fingerprint.json: file name {name!r}: must be relative and stay below" in result.output
    assert not list(tmp_path.rglob("planted"))


def test_a_deadline_that_no_number_of_gpus_can_meet_is_told(run_file: Path) -> None:
    assert "loading and the longest clip alone take 1 min" in run(str(run_file), "--deadline", "10s")


def test_clips_that_no_group_has_the_memory_for_are_told(run_file: Path) -> None:
    output = run(str(run_file), "--set", "defaults.width=16000", "--set", "defaults.height=16000", "--limit", "2")
    assert "no group has room for 2 clips" in output


def test_json_holds_the_same(run_file: Path) -> None:
    told = json.loads(run(str(run_file), "--gpus", "8xh100@2", "--deadline", "1s", "--json"))
    assert [option["smallest_group"] for option in told["options"]] == [1, 2, 4, 8]
    option = told["options"][0]
    assert told["chosen_group"] == 1
    assert option["usd"] == pytest.approx(2 * option["gpu_hours"])
    assert told["meets_deadline"] is False


def test_the_limits_are_compared_with_what_the_run_takes_and_what_is_spent(run_file: Path) -> None:
    gpus = [str(run_file), "--gpus", "8xH100", "--set", "cluster.usd_per_gpu_hour={H100: 2}"]
    assert "stays within the limits 'default': 0.00 GPU-hours are spent" in run(
        *gpus, "--set", "limits.max_gpu_hours=10"
    )
    spent = SpentRecord(at=NOW, limit="default", gpu_s={"H100": 9 * 3600}, usd=99.0)
    write_spent(str(run_file.parent / "out"), "earlier", spent)
    limits = [
        "--set",
        "limits.max_gpu_hours=9.01",
        "--set",
        "limits.max_usd=100",
        "--set",
        "limits.stop_at=2020-01-01T00:00Z",
    ]

    told = run(*gpus, *limits)

    assert "limits.max_gpu_hours=9.01 of 'default': the run takes 0.1" in told
    assert "and 0.01 are left, so 0.1" in told
    assert "limits.max_usd" not in told, "1 USD is left, and the run takes less"
    assert "limits.stop_at=2020-01-01T00:00Z (2020-01-01 00:00 UTC): the run would end" in told
    as_json = json.loads(run(*gpus, *limits, "--json"))["limits"]
    assert as_json["spent"] == {"gpu_hours": 9.0, "usd": 99.0}
    assert len(as_json["exceeded"]) == 2


def test_a_limit_in_usd_without_a_price_is_refused(run_file: Path) -> None:
    result = invoke("plan", run_file, "--set", "limits.max_usd=1", "--set", "cluster.usd_per_gpu_hour={A100: 1}")
    assert result.exit_code == 2
    assert "cluster.usd_per_gpu_hour: must have a price for H200, because limits.max_usd=1 is set" in result.output


def test_a_price_of_the_pool_is_enough_for_a_limit_in_usd(run_file: Path) -> None:
    told = run(str(run_file), "--gpus", "8xH100@2", "--set", "limits.max_usd=100")
    assert "stays within the limits 'default'" in told
    refused = invoke("plan", run_file, "--gpus", "8xH100", "--set", "limits.max_usd=100")
    assert (refused.exit_code, "must have a price for H100" in refused.stderr) == (2, True)


NODE_TYPES = "cluster.node_types=[{gpu: H100, gpus: 8, max: 3, usd_per_hour: 16, spot: true}]"
SPOT = ("--set", "cluster.address=auto", "--set", NODE_TYPES)


def test_without_gpus_the_plan_is_for_the_nodes_that_may_come(run_file: Path) -> None:
    told = json.loads(run(str(run_file), *SPOT, "--set", "cluster.gpus_per_group=1", "--json"))
    (option,) = told["options"]
    assert option["groups"] == {"1": 12}, "on two of the three nodes"
    assert option["usd"] == pytest.approx(2 * option["gpu_hours"])
    assert option["gpu_hours"] <= 16 * option["makespan_s"] / 3600
    told_to_people = run(str(run_file), *SPOT)
    assert "nodes: at most 3 of 8xH100 (spot); each is paid from 5 min 00 s before it is there" in told_to_people
    assert "cheapest" not in told_to_people
    for sizes in ("1 to 8", "8", "1", "2", "4"):
        assert re.search(rf"│ {sizes}( \(chosen\))? +│", told_to_people), "wide groups, and each size alone"
    assert "waiting for a node, loading and the longest clip alone take" in run(
        str(run_file), *SPOT, "--deadline", "5m"
    )
    local = invoke("plan", run_file, "--set", NODE_TYPES)
    assert (local.exit_code, "cluster.node_types: needs cluster.address" in local.output) == (2, True)
    assert "and so the cheapest on these GPUs" in run(str(run_file), *SPOT, "--gpus", "8xH100")


def test_an_unknown_gpu_of_a_node_that_may_come_is_refused(run_file: Path) -> None:
    result = invoke("plan", run_file, *(option.replace("H100", "H300") for option in SPOT))
    assert result.exit_code == 2
    assert "cluster.node_types.0.gpu: 'H300' is no known type of GPU; known: H200" in result.output


def test_a_missing_approval_is_told_before_a_gpu_is_paid_for(run_file: Path) -> None:
    for options in (["--require-approval"], ["--set", "approval.required=true", "--limit", "0"]):
        told = run(str(run_file), *options)
        assert "warning: approval.required: nobody has approved anything yet, so `render` and `submit` will" in told
        assert "out-sample --by NAME`" in told
    told = json.loads(run(str(run_file), "--require-approval", "--json"))
    assert told["unapproved"].startswith("approval.required: nobody has approved anything yet")
    assert told["num_to_render"] == 12, "it plans all the same"
    unasked = json.loads(run(str(run_file), "--json"))
    assert unasked["unapproved"] is None


def test_a_place_of_samples_that_cannot_be_is_an_error(run_file: Path) -> None:
    result = invoke("plan", run_file, "--require-approval", "--set", f"approval.sample={run_file.parent / 'out' / 's'}")
    assert (result.exit_code, "must be apart from output" in result.stderr) == (2, True)


def test_a_watermark_that_is_no_network_is_refused_before_any_worker_loads_it(run_file: Path) -> None:
    (run_file.parent / "text.jit").write_bytes(b"no network")
    marks = f"provenance={{marking: required, require_consent: false, watermark: {run_file.parent / 'text.jit'}}}"
    refused = invoke("plan", run_file, "--set", marks)
    assert refused.exit_code == 2
    assert "text.jit': must be a TorchScript module with embed(images, messages) and detect(images)" in refused.stderr


def test_a_fixed_group_size_is_the_only_one_told(run_file: Path) -> None:
    told = json.loads(run(str(run_file), "--set", "cluster.gpus_per_group=2", "--json"))
    assert [option["groups"] for option in told["options"]] == [{"2": 4}]


def test_python_gets_the_same_forecast(run_file: Path) -> None:
    three = lynx_batch.Selection(limit=3)
    forecast = lynx_batch.plan(run_file, ["8xh100"], three)
    assert forecast.num_to_render == lynx_batch.plan(run_file, "8xh100", three).num_to_render == 3
    assert forecast.chosen is not None
    assert forecast.chosen.sizes[0] == 2, "three clips on eight GPUs"


def test_nothing_to_render_is_no_error(run_file: Path) -> None:
    assert "0 rows: 0 to render" in run(str(run_file), "--limit", "0")


def test_clips_that_were_rendered_here_correct_the_figures(run_file: Path) -> None:
    before = json.loads(run(str(run_file), "--json"))
    config = load_run_config(run_file, {})
    identity = check_model(config).identity
    outcomes = [
        RowOutcome(
            row=row,
            outcome=Outcome.RENDERED,
            ended_at=NOW,
            clip=clip(f"{row:032}", width=64, height=48, num_frames=5, num_inference_steps=2),
            commit=record(clip_id=f"{row:032}", run_id="r1").model_copy(
                update={
                    "device": "NVIDIA H200",
                    "stage_s": {"denoise_s": 100.0},
                    "identity": {"base": identity.base, "precision": identity.precision},
                }
            ),
        )
        for row in range(3)
    ]
    write_metadata(config.output, "r1", outcomes)

    after = json.loads(run(str(run_file), "--json"))

    assert (before["num_timings"], after["num_timings"]) == (0, 3)
    assert after["options"][0]["makespan_s"] > before["options"][0]["makespan_s"] + 100


def test_what_a_gate_rejected_is_planned_if_the_present_rules_allow_more(run_file: Path) -> None:
    config = load_run_config(run_file, {})
    clips = prepare(config, Selection(limit=3), NOW).clips
    errors = zip(clips, ("NotGoodEnough", "NotGoodEnough", "OutOfMemory"), strict=True)
    start_run(config.output, "strict")
    write_metadata(
        config.output, "strict", [replace(ended(Outcome.REJECTED, each), error_type=error) for each, error in errors]
    )
    assert "12 rows: 11 to render, 0 committed, 1 given up before" in run(str(run_file)), "without a gate"
    assert "11 to render, 0 committed, 1 given up" in run(str(run_file), "--set", GATE), "no try is recorded"


GATE = "quality={technical: false, likeness: {min_mean: 0.5}}"


def judge_here(run_file: Path, num_passed: int, num_failed: int) -> None:
    """Records tries of the run's model at its output. All likenesses but those of `num_passed` are below 0.5."""
    config = load_run_config(run_file, {})
    identity = asdict(check_model(config).identity)
    for number in range(num_passed + num_failed):
        mean = 0.6 if number < num_passed else 0.4
        made = record(f"{number:032x}").model_copy(update={"identity": identity})
        scores = {"likeness_mean": mean, "likeness_p10": mean, "likeness_face_share": 1.0}
        judged = TryRecord(
            clip_id=made.clip_id, edition=1, number=0, judged_at=NOW, scores=scores, scorers={}, commit=made
        )
        record_try(config.output, judged, is_store_safe=True)


def test_without_judged_tries_the_share_that_passes_is_assumed_and_told(run_file: Path) -> None:
    without, with_gate = (json.loads(run(str(run_file), *gate, "--json")) for gate in ((), ("--set", GATE)))
    assert (without["tries_per_clip"], without["judged"]) == (1, None)
    assert with_gate["tries_per_clip"] == pytest.approx(1 + 0.2 + 0.2**2)
    assert with_gate["judged"] == {"num_passed": 0, "num_tries": 0, "pass_share": 0.8, "is_assumed": True}
    loading_s = 60.0
    assert with_gate["ideal_s"] - loading_s == pytest.approx(1.24 * (without["ideal_s"] - loading_s))
    assert with_gate["options"][0]["gpu_hours"] > without["options"][0]["gpu_hours"]
    told = "tries: 1.24 per clip expected, 80% are assumed to pass, with only 0 judged here (10 are needed)"
    assert told in run(str(run_file), "--set", GATE)


def test_tries_that_were_judged_here_replace_the_assumption(run_file: Path) -> None:
    judge_here(run_file, 6, 6)
    told = json.loads(run(str(run_file), "--set", GATE, "--json"))
    assert told["tries_per_clip"] == pytest.approx(1 + 0.5 + 0.25)
    assert (told["num_to_render"], told["judged"]["is_assumed"]) == (12, False), "other clips were judged"
    assert "as 6 of 12 that were judged here pass these rules" in run(str(run_file), "--set", GATE)
    easier = json.loads(run(str(run_file), "--set", GATE.replace("0.5", "0.3"), "--json"))
    assert easier["tries_per_clip"] == 1
    best = json.loads(run(str(run_file), "--set", GATE, "--set", "quality.best_of=3", "--json"))
    assert best["tries_per_clip"] == pytest.approx(3 + 0.5**3 + 0.5**4)
    of_others = json.loads(run(str(run_file), "--set", GATE, "--set", "engine.precision=bfloat16", "--json"))
    assert of_others["judged"]["num_tries"] == 0, "rendered with another precision"


def test_too_few_judged_tries_are_told(run_file: Path) -> None:
    judge_here(run_file, 0, 4)
    assert "80% are assumed to pass, with only 4 judged here" in run(str(run_file), "--set", GATE)


def test_rows_that_give_their_seed_take_one_try_unless_they_may_be_reseeded(run_file: Path) -> None:
    write_manifest(run_file.parent / "manifest.parquet", [row(prompt="p", seed=seed) for seed in (1, 2, 3, None)])
    told = [
        json.loads(run(str(run_file), "--set", GATE, "--set", f"quality.reseed_given={may}", "--json"))
        for may in ("false", "true")
    ]
    assert [plan["tries_per_clip"] for plan in told] == pytest.approx([(3 + 1.24) / 4, 1.24])


@pytest.mark.parametrize("pool", ["8", "8xT4", "0xH100", "8xH100@", "H100"])
def test_a_faulty_pool_is_told_with_its_rule(pool: str) -> None:
    with pytest.raises(ConfigError, match=f"--gpus '{pool}': must look like 64xH100"):
        parse_nodes([pool])


def test_pools_come_in_nodes_of_eight() -> None:
    assert [node.num_gpus for node in parse_nodes(["20xH100", "2xA100"])] == [8, 8, 4, 2]


def test_deadlines_are_durations() -> None:
    assert [parse_duration("--deadline", text) for text in ("90m", "8h", "1.5d")] == [5400, 28_800, 129_600]
    with pytest.raises(ConfigError, match="--deadline '8': must be"):
        parse_duration("--deadline", "8")


# --- plan --rows ---


def prepare_states(run_file: Path) -> None:
    """Of seven rows one is committed, one given up, one has no consent, two ask for the same clip; one takes longer than the last."""
    rows = [
        row(prompt=f"p{n}", seed=n, num_inference_steps=2, consent_ref="C", clip_name=f"clip-{n}") for n in range(7)
    ]
    rows[2]["consent_ref"] = None
    rows[4]["seed"], rows[4]["prompt"] = rows[3]["seed"], rows[3]["prompt"]
    rows[5]["num_inference_steps"] = 8
    rows[6]["clip_name"] = "=cmd()"
    write_manifest(run_file.parent / "manifest.parquet", rows)
    config = load_run_config(run_file, {"provenance.require_consent": True})
    clips = prepare(config, Selection(allow_duplicates=True), NOW).clips
    commit(config.output, record(clips[0].clip_id))
    write_metadata(config.output, "r1", [ended(Outcome.FAILED, clips[1])])


ROWS = ("--set", "provenance.require_consent=true", "--allow-duplicates", "--gpus", "8xH100@2.5")


def test_each_row_says_where_it_stands_and_what_it_costs(run_file: Path) -> None:
    prepare_states(run_file)
    told = json.loads(run(str(run_file), *ROWS, "--rows", "--json"))
    rows = told["rows"]
    assert [(r["row"], r["state"]) for r in rows] == [
        (0, "committed"),
        (1, "given up"),
        (2, "rejected"),
        (3, "open"),
        (4, "open"),
        (5, "open"),
        (6, "open"),
    ]
    assert rows[1]["reason"] == "OutOfMemory: too big"
    assert rows[2]["reason"].startswith("ConsentMissing: ")
    assert [r["usd"] for r in rows[:4]] == [None] * 4
    assert rows[3]["reason"] == "asks for the same clip as row 4"
    short, long = rows[6], rows[5]
    assert long["seconds"] > short["seconds"] > 0
    assert short["usd"] == pytest.approx(short["seconds"] * short["group_size"] / 3600 * 2.5)
    assert "rows" not in json.loads(run(str(run_file), *ROWS, "--json"))
    gate = "quality={technical: false, likeness: {min_mean: 0.5}, reseed_given: true}"
    with_gate = json.loads(run(str(run_file), *ROWS, "--rows", "--json", "--set", gate))["rows"]
    assert with_gate[6]["seconds"] == pytest.approx(1.24 * short["seconds"]), "all tries that it is expected to take"


def test_the_rows_come_as_a_table_and_as_files(run_file: Path, tmp_path: Path) -> None:
    prepare_states(run_file)
    shown = run(str(run_file), *ROWS, "--rows")
    assert "OutOfMemory: too big" in shown
    assert "clip-5" in shown
    listed, table = tmp_path / "rows.csv", tmp_path / "rows.parquet"
    assert f"{listed}: 7 rows" in run(str(run_file), *ROWS, "--out", str(listed))
    run(str(run_file), *ROWS, "--out", str(table))
    lines = [*csv.DictReader(listed.read_text().splitlines())]
    assert (lines[6]["clip_name"], lines[6]["state"], lines[0]["usd"]) == ("'=cmd()", "open", "")
    found = pq.read_table(table).to_pylist()
    assert [str(each["seconds"] or "") for each in found] == [line["seconds"] for line in lines]
    assert run(str(run_file), *ROWS, "--out", str(listed)), "its own file is replaced"
    for name, rule in (("rows.txt", "must end in .csv or .parquet"), ("run.csv", "must be new or such a list of rows")):
        (tmp_path / "run.csv").write_text("a,b\n", encoding="utf-8")
        result = invoke("plan", run_file, "--out", tmp_path / name)
        assert (result.exit_code, rule in result.output) == (2, True)


def test_nothing_to_render_has_rows_too(run_file: Path) -> None:
    config = load_run_config(run_file, {})
    for each in prepare(config, Selection(), NOW).clips:
        commit(config.output, record(each.clip_id))
    rows = json.loads(run(str(run_file), "--rows", "--json"))["rows"]
    assert [r["state"] for r in rows] == ["committed"] * 12

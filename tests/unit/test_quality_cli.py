"""`lynx-batch quality calibrate`, as its user types it, on an output location that is there without any cluster."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from lynx_batch.config import QualityConfig
from lynx_batch.ledger.commits import CommitRecord, commit
from lynx_batch.ledger.judged_tries import read_judged, read_sample
from lynx_batch.ledger.runs import newest_policy
from lynx_batch.ledger.tries import TryRecord, record_try
from lynx_batch.output import RUN_FILE, TryName, run_file_uri, try_uri
from tests.builders import IDENTITY, NOW, record, start_run
from tests.jobs import invoke

RULES = {"technical": False, "safety": {"max_score": 0.7}, "max_reseeds": 3, "keep_rejected": "clip"}
NUM_CLIPS = 32
BAD = (3, 9, 17)
"""The first tries of these clips look like somebody else."""


def made(clip_id: str, number: int, mean: float) -> CommitRecord:
    scores = {"likeness_mean": mean, "likeness_p10": mean - 0.1, "likeness_face_share": 1.0, "unsafe": 0.01 * number}
    return record(clip_id, attempt=f"run-{number}").model_copy(
        update={
            "try_number": number,
            "scores": scores | {"motion_mean": 0.02},
            "stage_s": {"denoise_s": 350.0, "decode_s": 10.0, "judge_s": 99.0},
            "identity": {"base": "b", "is_parity": False},
        }
    )


def judge(output: str, found: CommitRecord, edition: int = 1) -> None:
    judged = TryRecord(
        clip_id=found.clip_id,
        edition=edition,
        number=found.try_number,
        judged_at=NOW,
        scores=found.scores,
        scorers={"likeness": {"sface.onnx": "0" * 64}},
        commit=found.model_copy(update={"edition": edition}),
    )
    record_try(output, judged, is_store_safe=True)


def name(number: int) -> str:
    return f"{number:032x}"


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Clips of which most were committed at their first try; the last one was judged only after its commit."""
    output = str(tmp_path_factory.mktemp("calibrate") / "out")
    start_run(output, "run")
    Path(run_file_uri(output, "run", RUN_FILE)).write_text(yaml.safe_dump({"quality": RULES}))
    start_run(output, "unjudged", minutes=5)
    for number in range(NUM_CLIPS):
        first = made(name(number), 0, 0.1 if number in BAD else 0.5 + number / 100)
        judge(output, first)
        second = made(name(number), 1, 0.6)
        if number in BAD:
            judge(output, second)
        commit(output, second if number in BAD else first)
    commit(output, made(name(NUM_CLIPS), 0, 0.9))
    commit(output, record(name(NUM_CLIPS + 1)))  # nobody judged it
    return output


def calibrate(output: str, *options: str) -> str:
    result = invoke("quality", "calibrate", output, *options)
    assert result.exit_code == 0, result.output
    return result.stdout


def block(told: str) -> QualityConfig:
    """What the user pastes, as a run file reads it."""
    return QualityConfig.model_validate(yaml.safe_load(told[told.index("\nquality:") :])["quality"])


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("picture") / "quality.png"


@pytest.fixture(scope="module")
def told(output: str, picture: Path) -> str:
    return calibrate(output, "--out", str(picture))


def test_a_block_for_the_wanted_pass_rate_keeps_the_other_rules(told: str) -> None:
    quality = block(told)
    assert quality.likeness is not None
    assert quality.likeness.model_dump() == {"min_mean": 0.5, "min_p10": 0.4, "min_face_share": None}
    assert quality.model_dump(exclude={"likeness"}) == QualityConfig(**RULES).model_dump(exclude={"likeness"})
    assert "# limits for pass rate 0.9, from 36 tries" in told
    assert "those of run run" in told, "the newest run has no section `quality:`"


def test_every_score_and_what_each_pass_rate_costs_are_told(told: str) -> None:
    assert "36 judged tries of 33 clips, 33 of them committed" in told
    assert "the same in every try: likeness_face_share 1, motion_mean 0.02" in told
    (mean,) = (line for line in told.splitlines() if line.startswith("likeness_mean"))
    assert mean.split()[-3:] == ["0.1", "0.635", "0.9"]
    (chosen,) = (line for line in told.splitlines() if "(chosen)" in line)
    failed = 3 / 36
    expected = 1 + failed + failed**2 + failed**3
    assert chosen.split() == [
        "0.9",
        "(chosen)",
        "0.5",
        "0.4",
        "92%",
        f"{expected:.2f}",
        "100.0%",
        f"{100 * expected:.1f}",
    ]


def test_it_fits_a_narrow_terminal_without_colour(output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lynx_batch.cli.console.WIDTH_IN_A_FILE", 80)
    labels = tmp_path / "labels.csv"
    labels.write_text(f"clip_id,label\n{name(0)},good\n{name(NUM_CLIPS)},bad")
    told = calibrate(output, "--out", str(tmp_path / "x.png"), "--labels", str(labels))
    assert "\x1b" not in told
    assert "█" in told
    tables = told[told.index("score ") : told.index("mean, p10")].splitlines()
    assert max(map(len, tables)) <= 80
    assert [line for line in tables if line.endswith("  accuracy")], "no header is wrapped"


def test_the_picture_has_a_panel_for_each_score_and_a_line_for_each_limit(told: str, picture: Path) -> None:
    with Image.open(picture) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape == (400, 1200, 3), "five scores, three a row"
    reds = [bool((panel == (0xC8, 0x10, 0x2E)).all(axis=-1).any()) for panel in np.hsplit(pixels[:200], 3)]
    assert reds == [False, True, True], "of likeness: the share of faces, mean and p10"


def test_labels_choose_the_limits(output: str, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    lines = [
        f"{name(number)},{0 if number in BAD else ''},{'bad' if number in BAD else 'Good'}" for number in range(20)
    ]
    labels.write_text("\n".join(["clip_id,number,label", *lines]))
    told = calibrate(output, "--labels", str(labels), "--out", str(tmp_path / "x.png"))
    limits = block(told).likeness
    assert limits is not None
    assert limits.min_mean == 0.3
    assert (limits.min_p10, limits.min_face_share) == (None, None), "they add nothing"
    (chosen,) = (line for line in told.splitlines() if "(chosen)" in line)
    assert (chosen.split()[0], chosen.split()[-1]) == ("labels", "1.00")


@pytest.mark.parametrize(
    ("text", "faults"),
    [
        ("clip,label\na,good", ["line 1: columns clip, label: must be clip_id, label and, if wanted, number"]),
        (
            f"clip_id,label\nff,good\n{name(0)},fine",
            ["line 2: clip_id='ff'", "line 3: label='fine': must be good or bad"],
        ),
        (f"clip_id,number,label\n{name(3)},7,bad", ["line 2: number='7': must be a judged try", "which has 0, 1"]),
        (
            f"clip_id,number,label\n{name(3)},,good\n\n{name(3)},1,bad",
            [f"line 4: number=1 of clip {name(3)}: must be labelled once, but line 2 does, too"],
        ),
        (f"clip_id,label\n{name(0)},good", ["label: must be 'bad' at least once"]),
        (f"clip_id,label\n{name(0)},good,x", ["line 2: must have 2 cells"]),
        ('clip_id,label\n"a"b,good', ["line 2: must be CSV"]),
    ],
)
def test_faulty_labels_are_told_with_line_value_and_rule(
    output: str, tmp_path: Path, text: str, faults: list[str]
) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text(text)
    result = invoke("quality", "calibrate", output, "--labels", str(labels), "--out", str(tmp_path / "x.png"))
    assert result.exit_code == 2
    assert [fault for fault in faults if fault not in result.stderr] == [], result.stderr
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (("--pass-rate", "0"), "--pass-rate 0: must be above 0 and at most 1"),
        (("--pass-rate", "nan"), "--pass-rate nan: must be"),
        (("--labels", "/nowhere.csv"), "/nowhere.csv"),
        (("--out", "/nowhere/x.png"), "--out /nowhere/x.png: No such file"),
    ],
)
def test_faulty_options_are_told(output: str, options: tuple[str, ...], fault: str) -> None:
    result = invoke("quality", "calibrate", output, *options)
    assert (result.exit_code, fault in result.stderr) == (2, True), result.stderr


def test_an_output_where_nothing_was_judged_is_an_error(tmp_path: Path) -> None:
    start_run(str(tmp_path), "run")
    result = invoke("quality", "calibrate", str(tmp_path))
    assert (result.exit_code, "must hold a judged clip" in result.stderr) == (2, True)


def test_few_tries_and_several_sets_of_scorers_are_told(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    start_run(output, "run")
    for number in range(3):
        judge(output, made(name(number), 0, 0.5))
    other = made(name(7), 0, 0.6)
    judged = TryRecord(
        clip_id=name(7), edition=1, number=0, judged_at=NOW, scores=other.scores, scorers={}, commit=other
    )
    record_try(output, judged, is_store_safe=True)
    told = calibrate(output, "--out", str(tmp_path / "x.png"))
    assert "4 tries left out of the limits, without scores that these rules need" in told, "technical ones"
    assert "only 0 tries can be used, fewer than 30" in told
    assert "2 different sets of scorers judged them" in told
    assert "the defaults, because no run here" in told
    assert "quality:\n" not in told


def test_a_clip_with_several_tries_and_no_commit_needs_the_number(tmp_path: Path) -> None:
    output, labels = str(tmp_path / "out"), tmp_path / "labels.csv"
    start_run(output, "run")
    for number in range(2):
        judge(output, made(name(0), number, 0.5))
    judge(output, made(name(1), 0, 0.5), edition=1)
    judge(output, made(name(1), 4, 0.5), edition=2)
    labels.write_text(f"clip_id,label\n{name(0)},good\n{name(1)},bad")
    result = invoke("quality", "calibrate", output, "--labels", str(labels))
    fault = f"line 2: number='': must say which of the tries 0, 1 of clip {name(0)}; none is committed"
    assert (result.exit_code, fault in result.stderr, "line 3" in result.stderr) == (2, True, False)


def test_a_sample_has_the_tries_of_the_same_weights_alone(output: str) -> None:
    assert len(read_sample(output, IDENTITY)) == 0


def test_damaged_records_are_left_out(tmp_path: Path) -> None:
    output = str(tmp_path)
    start_run(output, "run")
    Path(run_file_uri(output, "run", RUN_FILE)).write_text("quality: {unknown: 1}")
    judge(output, made(name(0), 0, 0.5))
    damaged = Path(try_uri(output, TryName(name(1), 1, 0)))
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    assert [each.clip_id for each in read_judged(output).tries] == [name(0)]
    assert newest_policy(output) is None

"""`lynx-batch manifest` as its user runs it."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from openpyxl import Workbook
from PIL import Image
from typer.testing import Result

from lynx_batch.intake.schema import MANIFEST_SCHEMA
from lynx_batch.ledger.tombstones import Tombstone, put_tombstone
from lynx_batch.planning.revocation import Kind, key_of
from tests.builders import COLLINS, HOPPER, NOW, SUBJECTS, write_run
from tests.jobs import invoke
from tests.models import BASE

PROMPTS = "A person waves.\nA person reads by a window.\n傍晚的海边，一个人沿沙滩走来。\n"
LENIENT = "provenance: {require_consent: false}\n"


@pytest.fixture(autouse=True)
def stay_in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text(PROMPTS, encoding="utf-8")


def run(*arguments: object) -> Result:
    result = invoke("manifest", *arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def write(*rows: dict[str, object]) -> None:
    cells = [{"subject_uri": "a.jpg", "prompt": "微笑", **row} for row in rows]
    pq.write_table(pa.Table.from_pylist(cells, schema=MANIFEST_SCHEMA), "m.parquet")


def test_a_manifest_is_built_checked_and_shown() -> None:
    built = run("build", "--photos", SUBJECTS, "--prompts", "prompts.txt", "--seeds", "1,2", "--out", "out/m.parquet")
    assert (built.exit_code, built.stdout) == (0, "out/m.parquet: 12 rows\n")
    checked = run("check", "out/m.parquet")
    assert (checked.exit_code, checked.stdout) == (0, "out/m.parquet: 12 rows, no problem\n")
    shown = run("show", "out/m.parquet", "--where", "subject_id == 'grace-hopper' and seed == 2", "--limit", 2)
    assert shown.exit_code == 0
    assert "grace-hopper-p01-s2" in shown.stdout
    assert "eileen" not in shown.stdout
    assert "2 of 3 rows" in shown.stdout


def test_rows_of_text_become_a_manifest_whose_photos_are_found() -> None:
    Path("rows.csv").write_text("subject_uri,prompt,seed\nphotos/a.jpg,微笑,7\n", encoding="utf-8")
    assert run("build", "--from", "rows.csv", "--out", "out/m.parquet").exit_code == 0
    assert pq.read_table("out/m.parquet")["subject_uri"].to_pylist() == ["../photos/a.jpg"]


def test_a_problem_of_a_row_is_told_with_its_line_in_the_spreadsheet() -> None:
    Path("rows.csv").write_text("subject_uri;prompt;seed\na.jpg;waves;1\n;;\n\na.jpg;waves;1\n")
    run("build", "--from", "rows.csv", "--out", "m.parquet")
    checked = run("check", "m.parquet")
    assert checked.exit_code == 2
    assert re.search(r"row . line . column", checked.stdout)
    assert re.search(r"1 .* 5 .* subject_uri", checked.stdout)


def test_a_spreadsheet_a_folder_of_photos_and_templates_become_a_manifest_that_passes_its_check() -> None:
    book = Workbook()
    for row in (
        ["Foto", "Vorname", "Kundennummer", "Stadt"],
        ["eileen-collins.jpg", "Zoë", 42.0, "Köln"],
        [],
        ["grace-hopper.jpg", "李", 7],
    ):
        book.active.append(row)
    book.save("people.xlsx")
    Path("prompts.txt").write_text("{{Vorname}} waves in {{Stadt|Berlin}}.\n", encoding="utf-8")
    command = [
        "build",
        "--from",
        "people.xlsx",
        "--photos",
        SUBJECTS,
        "--map",
        "Foto=subject_uri",
        "--map",
        "Kundennummer=subject_id",
    ]
    command += ["--prompts", "prompts.txt", "--keep", "Stadt", "--seeds", "1-2", "--out", "m.parquet"]
    built = run(*command)
    assert built.exit_code == 0
    assert built.stdout == "people.xlsx, sheet 'Sheet': 1 blank line skipped\nm.parquet: 4 rows\n"
    assert run("check", "m.parquet").stdout == "m.parquet: 4 rows, no problem\n"
    rows = pq.read_table("m.parquet").to_pylist()
    assert [(row["subject_id"], row["clip_name"], row["prompt"]) for row in rows[1:3]] == [
        ("42", "42-p01-s2", "Zoë waves in Köln."),
        ("7", "7-p01-s1", "李 waves in Berlin."),
    ]
    assert {row["prompt_template"] for row in rows} == {"{{Vorname}} waves in {{Stadt|Berlin}}."}
    assert "2 of 2 rows" in run("show", "m.parquet", "--where", "tags.stadt == 'Köln'").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--photos", SUBJECTS], "takes --photos and --prompts"),
        (["--prompts", "prompts.txt"], "or --from, perhaps with --photos"),
        (["--photos", SUBJECTS, "--prompts", "prompts.txt", "--keep", "a"], "--keep: needs --from"),
        (["--from", "r.csv", "--recursive"], "--recursive: must not be given together with --from"),
        (["--from", "r.csv", "--language", "l"], "--language 'l': needs --prompts"),
        (["--from", "r.csv", "--prompts-sheet", "l"], "--prompts-sheet 'l': needs --prompts"),
        (["--photos", SUBJECTS, "--prompts", "prompts.txt", "--prompts-sheet", "l"], "prompts.txt has no sheets"),
        (
            ["--photos", SUBJECTS, "--prompts", "prompts.txt", "--consent-ref", ""],
            "--consent-ref '': must not be empty",
        ),
        (["--from", "r.csv", "--consent-ref", " "], "--consent-ref ' ': must not be empty"),
        (["--from", "none.csv"], "none.csv: does not exist"),
        (["--photos", SUBJECTS, "--prompts", "prompts.txt", "--seeds", "1,x"], "--seeds '1,x': must be whole numbers"),
        (["--photos", SUBJECTS, "--prompts", "prompts.txt", "--seeds", "-1"], "--seeds: -1 must be between"),
        (
            ["--photos", SUBJECTS, "--prompts", "prompts.txt", "--seeds", "1_000"],
            "--seeds '1_000': must be whole numbers",
        ),
        (["--photos", "none", "--prompts", "prompts.txt"], "photos none: must be a folder"),
        (["--photos", SUBJECTS, "--prompts", "none.txt"], "none.txt: does not exist"),
    ],
)
def test_what_cannot_be_built_ends_with_2_and_the_reason(arguments: list[object], message: str) -> None:
    result = run("build", *arguments, "--out", "m.parquet")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not Path("m.parquet").exists()


def test_a_clip_without_a_word_for_its_consent_is_refused_before_its_photo_is_read() -> None:
    result = invoke("one", "none.jpg", "waves", "--consent-ref", "")
    assert (result.exit_code, result.stderr) == (2, "error: --consent-ref '': must not be empty\n")


def test_the_sheets_of_people_and_of_prompts_are_named_by_two_options() -> None:
    people, prompts = Workbook(), Workbook()
    for book, column, cells in ((people, "subject_uri", ("a.jpg", "b.jpg")), (prompts, "prompt", ("waves", "runs"))):
        for cell in cells:
            sheet = book.create_sheet(f"{column} {cell}")
            sheet.append([column])
            sheet.append([cell])
        book.save(f"{column}.xlsx")
    command = ("build", "--from", "subject_uri.xlsx", "--sheet", "subject_uri b.jpg", "--prompts", "prompt.xlsx")
    refused = run(*command, "--out", "m.parquet")
    assert refused.exit_code == 2
    assert "such as --prompts-sheet 'prompt waves'" in refused.stderr
    unknown = run(*command, "--prompts-sheet", "none", "--out", "m.parquet")
    assert "--prompts-sheet 'none': must be a sheet of prompt.xlsx" in unknown.stderr
    assert run(*command, "--prompts-sheet", "prompt runs", "--out", "m.parquet").exit_code == 0
    assert pq.read_table("m.parquet")["prompt"].to_pylist() == ["runs"]


def test_a_manifest_that_cannot_be_written_is_a_message() -> None:
    Path("file").touch()
    result = run("build", "--photos", SUBJECTS, "--prompts", "prompts.txt", "--out", "file/m.parquet")
    assert result.exit_code in (2, 4)
    assert result.stderr.splitlines()[-1].startswith("error: file/m.parquet: ")


def test_a_folder_is_no_manifest_to_be_built() -> None:
    refused = run("build", "--photos", SUBJECTS, "--prompts", "prompts.txt", "--out", ".")
    assert (refused.exit_code, "--out .: must be a file, but is a folder" in refused.stderr) == (2, True)


def test_all_problems_are_shown_and_end_with_2() -> None:
    write(
        {"width": 833},
        {"num_frames": 80, "prompt": "[b]x[/nonsense]"},
        {"prompt": " "},
        {"guidance_scale": float("nan")},
        {"seed": 3},
        {"seed": 3},
        {"flow_shift": 0.0},
    )
    result = run("check", "m.parquet", "--problems", "problems.jsonl")
    assert result.exit_code == 2
    assert "m.parquet: 6 problems in 6 of 7 rows" in result.stdout
    assert "must be a positive multiple of 16 px; the nearest is 832" in result.stdout
    problems = [json.loads(line) for line in Path("problems.jsonl").read_text().splitlines()]
    assert [(problem["row"], problem["column"], problem["value"]) for problem in problems] == [
        (0, "width", 833),
        (1, "num_frames", 80),
        (2, "prompt", " "),
        (3, "guidance_scale", "nan"),
        (5, "subject_uri", str(Path.cwd() / "a.jpg")),
        (6, "flow_shift", "0.0"),
    ]
    assert run("check", "m.parquet", "--allow-duplicates").stdout.count("\n") < result.stdout.count("\n")


def test_more_problems_than_fit_a_screen_are_counted() -> None:
    write(*({"width": 833, "seed": seed} for seed in range(60)))
    result = run("check", "m.parquet", "--problems", "problems.jsonl")
    assert "60 problems in 60 of 60 rows; 10 more: --problems FILE has all" in result.stdout
    assert len(Path("problems.jsonl").read_text().splitlines()) == 60


def test_a_run_files_defaults_count() -> None:
    write({"num_guidance_branches": 2})
    text = "manifest: m\noutput: o\nmodel: {base: b, adapters: a}\ndefaults: {guidance_scale: 1.0}\n"
    Path("run.yaml").write_text(text, encoding="utf-8")
    assert run("check", "m.parquet").exit_code == 0
    result = run("check", "m.parquet", "--run", "run.yaml")
    assert result.exit_code == 2
    assert "must be above 1 where num_guidance_branches is 2" in result.stdout


def test_a_run_files_model_limits_the_blocks() -> None:
    write({"ip_blocks": "0-3"}, {"ip_blocks": "0-39"})
    run_file = "manifest: m\noutput: o\nmodel: {{base: {}, adapters: a}}\n"
    Path("run.yaml").write_text(run_file.format(BASE), encoding="utf-8")
    result = run("check", "m.parquet", "--run", "run.yaml", "--problems", "problems.jsonl")
    assert result.exit_code == 2
    (problem,) = map(json.loads, Path("problems.jsonl").read_text().splitlines())
    assert (problem["row"], problem["column"], problem["value"]) == (1, "ip_blocks", "0-39")
    assert "0-3" in problem["rule"]

    Path("run.yaml").write_text(run_file.format("nowhere"), encoding="utf-8")
    result = run("check", "m.parquet", "--run", "run.yaml")
    assert result.exit_code == 0
    assert "were not compared with the model: " in result.stderr


def test_a_run_file_whose_notices_cannot_be_sent_is_refused() -> None:
    write({})
    text = "manifest: m\noutput: o\nmodel: {base: b, adapters: a}\nnotify: [{url: 'nosuch://geheim'}]\n"
    Path("run.yaml").write_text(text, encoding="utf-8")
    result = run("check", "m.parquet", "--run", "run.yaml")
    assert result.exit_code == 2
    assert "notify.0.url: nosuch://*** is no address that apprise" in result.stderr
    assert "geheim" not in result.stderr


def check_with_tiny_model(*options: object) -> Result:
    Path("run.yaml").write_text(
        f"manifest: m\noutput: o\nmodel: {{base: {BASE}, adapters: a}}\n{LENIENT}", encoding="utf-8"
    )
    return run("check", "m.parquet", "--run", "run.yaml", *options)


def test_texts_that_the_tokenizer_hardly_knows_are_a_warning_and_no_problem() -> None:
    write(
        {"prompt": "A person waves."},
        *[{"prompt": "傍晚的海边"}] * 5,
        {"prompt": "A person waves.", "negative_prompt": "𓀀 𓀁 𓀂 𓀃"},
    )
    result = check_with_tiny_model("--allow-duplicates")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "warning: 6 rows with a text of more than 20% unknown tokens; the run's model reads every unknown piece as the same "
        "token, so use other words:",
        "  rows 1, 2, 3 and 2 more: prompt='傍晚的海边': 50% unknown: '傍晚的海边'",
        "  row 6: negative_prompt='𓀀 𓀁 𓀂 𓀃': 50% unknown: '𓀀', '𓀁', '𓀂' and 1 more",
        "m.parquet: 7 rows, no problem",
    ]
    assert "warning" not in run("check", "m.parquet", "--allow-duplicates").stdout, "no run, no tokenizer"


def test_many_unknown_texts_are_named_by_the_first_and_a_number() -> None:
    write(*[{"prompt": f"𓀀 𓀁 {number}", "seed": number} for number in range(12)])
    lines = check_with_tiny_model().stdout.splitlines()
    assert (len(lines), lines[-2:]) == (13, ["  ... and 2 more texts", "m.parquet: 12 rows, no problem"])


def test_an_expired_consent_is_told_and_no_problem() -> None:
    write({"consent_expires_at": pa.scalar(0, pa.timestamp("us", "UTC")).as_py()})
    result = run("check", "m.parquet")
    assert result.exit_code == 0
    assert "1 row will be rejected because of their consent:" in result.stdout


def test_revoked_rows_are_told_with_a_run_file(tmp_path: Path, face_pack: Path) -> None:
    write({"subject_id": "ada"}, {"subject_uri": str(HOPPER)}, {"subject_uri": str(COLLINS)})
    write_faces_run(face_pack)
    for kind, value in (
        (Kind.SUBJECT_ID, "ada"),
        (Kind.PHOTO_SHA256, hashlib.sha256(HOPPER.read_bytes()).hexdigest()),
    ):
        key = key_of(kind, value)
        put_tombstone(
            str(tmp_path / "o"), Tombstone(kind=key.kind, digest=key.digest, revoked_at=NOW, revoked_by="Bob")
        )
    told = run("check", "m.parquet", "--run", "run.yaml", "--photos").stdout
    assert (
        "2 rows will be rejected because of their consent:\n  row 0: subject_id: revoked\n  row 1: photo_sha256: revoked"
        in told
    )
    assert "grace-hopper" not in told, "its photo is not looked at"


def test_photos_are_searched_for_faces_if_asked(tmp_path: Path, face_pack: Path) -> None:
    several = {"subject_uri": None, "subject_uris": [str(HOPPER), str(COLLINS)]}
    write({"subject_uri": str(HOPPER)}, {"subject_uri": "none.jpg"}, several)
    text = f"manifest: m\noutput: o\nmodel: {{base: b, adapters: a}}\nfaces: {{pack: {face_pack}}}\n{LENIENT}"
    Path("run.yaml").write_text(text, encoding="utf-8")
    result = run("check", "m.parquet", "--run", "run.yaml", "--photos", "--problems", "problems.jsonl")
    assert result.exit_code == 2
    problem, stranger = map(json.loads, Path("problems.jsonl").read_text().splitlines())
    assert (problem["row"], problem["value"]) == (1, str(tmp_path / "none.jpg"))
    assert problem["rule"].startswith("MissingObject: ")
    assert (stranger["row"], stranger["column"]) == (2, "subject_uris")
    assert stranger["value"] in (str(HOPPER), str(COLLINS))
    assert stranger["rule"].startswith("DifferentPeople: ")


def test_a_face_that_lies_turned_is_a_note_and_no_problem(face_pack: Path) -> None:
    Image.open(HOPPER).transpose(Image.Transpose.ROTATE_270).save("turned.png")
    write({"subject_uri": "turned.png"})
    text = f"manifest: m\noutput: o\nmodel: {{base: b, adapters: a}}\nfaces: {{pack: {face_pack}}}\n{LENIENT}"
    Path("run.yaml").write_text(text, encoding="utf-8")
    result = run("check", "m.parquet", "--run", "run.yaml", "--photos")
    assert result.exit_code == 0
    assert "note: row 0: subject_uri=" in result.stdout
    assert "the face is rotated 90 degrees clockwise; it is read upright" in result.stdout
    assert "m.parquet: 1 row, no problem" in result.stdout


def write_faces_run(face_pack: Path) -> None:
    text = f"manifest: m\noutput: o\nmodel: {{base: b, adapters: a}}\nfaces: {{pack: {face_pack}}}\n{LENIENT}"
    Path("run.yaml").write_text(text, encoding="utf-8")


def test_each_photo_gets_one_verdict_which_is_no_problem(face_pack: Path) -> None:
    Image.open(HOPPER).resize((205, 240)).save("small.png")
    rows: list[dict[str, object]] = [{"subject_uri": str(HOPPER), "seed": seed} for seed in range(3)]
    write(*rows, {"subject_uri": "small.png"}, {"subject_uri": str(COLLINS)})
    write_faces_run(face_pack)
    result = run("check", "m.parquet", "--run", "run.yaml", "--photos")
    assert result.exit_code == 0
    lines = [line for line in result.stdout.splitlines() if line.startswith("│ ")]
    shown = [[cell.strip() for cell in line.strip("│").split("│")][:2] for line in lines]
    assert [cells for cells in shown if cells[0]] == [
        ["will disappoint", "small.png"],
        ["usable", "eileen-collins.jpg"],
        ["good", "grace-hopper.jpg"],
    ]
    assert "the face is 70 px wide; at least 120 px give a good likeness" in result.stdout
    assert "photos: 1 will disappoint, 1 usable, 1 good\n" in result.stdout
    assert result.stdout.endswith("m.parquet: 5 rows, no problem\n")


def test_photos_that_cannot_be_used_are_counted_among_the_verdicts(face_pack: Path) -> None:
    write({"subject_uri": "none.jpg"})
    write_faces_run(face_pack)
    result = run("check", "m.parquet", "--run", "run.yaml", "--photos")
    assert result.exit_code == 2
    assert "photos: 1 cannot be used\n" in result.stdout


def test_a_sheet_shows_each_photo_and_replaces_an_older_one(face_pack: Path) -> None:
    write({"subject_uri": str(HOPPER)}, {"subject_uri": "none.jpg"})
    write_faces_run(face_pack)
    for _ in range(2):
        result = run("check", "m.parquet", "--run", "run.yaml", "--photos", "--sheet", "sheet.html")
        assert result.exit_code == 2
        assert "m.parquet: 1 problem in 1 of 2 rows" in result.stdout
    page = Path("sheet.html").read_text(encoding="utf-8")
    assert page.count("<article") == 2
    assert page.count('src="data:image/jpeg;base64,') == 2
    assert "<h2>grace-hopper.jpg: <b>good</b></h2>" in page
    assert "<h2>none.jpg: <b>cannot be used</b></h2>" in page


def test_a_sheet_needs_photos_and_a_place_of_its_own() -> None:
    write({})
    refused = run("check", "m.parquet", "--sheet", "sheet.html")
    assert (refused.exit_code, "--sheet: shows photos, so it needs --photos" in refused.stderr) == (2, True)
    refused = run("check", "m.parquet", "--photos", "--problems", "a", "--sheet", "./a")
    assert (refused.exit_code, "--sheet a: must be another file than --problems" in refused.stderr) == (2, True)
    for sheet, reason in (("none/sheet.html", "No such file"), ("/dev/full", "No space left on device")):
        refused = run("check", "m.parquet", "--photos", "--sheet", sheet)
        assert (refused.exit_code, f"--sheet {sheet}: {reason}" in refused.stderr) == (2, True)


@pytest.mark.parametrize("command", ["check", "show"])
def test_a_manifest_that_is_none_ends_with_2_and_the_reason(command: str) -> None:
    result = run(command, "none.parquet")
    assert (result.exit_code, result.stderr) == (2, "error: manifest none.parquet: does not exist\n")


def test_a_faulty_where_ends_with_2_and_the_reason() -> None:
    write({})
    result = run("show", "m.parquet", "--where", "sed == 1")
    assert result.exit_code == 2
    assert "column 'sed': unknown; the nearest known one is 'seed'" in result.stderr


def test_signatures_and_markup_are_not_shown() -> None:
    write({"subject_uri": "https://host/a.jpg?sig=secret", "prompt": "[red]微笑[/nonsense] \x1b[31m"})
    result = run("show", "m.parquet")
    assert "secret" not in result.stdout
    assert "\x1b" not in result.stdout
    assert "[red]微笑[/nonsense]" in result.stdout


def problems_of(*arguments: object) -> list[dict[str, object]]:
    result = run("check", "m.parquet", *arguments, "--problems", "problems.jsonl")
    assert result.exit_code == 2, result.output
    return [json.loads(line) for line in Path("problems.jsonl").read_text().splitlines()]


def test_a_photo_under_two_names_is_found_by_its_content(face_pack: Path) -> None:
    shutil.copy(HOPPER, "first.jpg")
    shutil.copy(HOPPER, "second.jpg")
    write_run(Path(), face_pack, manifest="m.parquet")
    write({"subject_uri": "first.jpg"}, {"subject_uri": "second.jpg", "prompt": " 微笑"}, {"subject_uri": "second.jpg"})
    assert run("check", "m.parquet").exit_code == 0
    named, *_ = problems = problems_of("--photos", "--run", "run.yaml")
    assert [problem["row"] for problem in problems] == [1, 2]
    assert named["value"] == str(Path("second.jpg").absolute())
    assert f"as row 0, whose photo is {Path('first.jpg').absolute()}; " in named["rule"]
    assert "--allow-duplicates" in named["rule"]
    allowed = run("check", "m.parquet", "--photos", "--run", "run.yaml", "--allow-duplicates")
    assert allowed.exit_code == 0, allowed.output


def test_two_clips_of_one_name_are_found_without_their_photos() -> None:
    write({"clip_name": "a"}, {"clip_name": "a", "seed": 1}, {"clip_name": "b", "seed": 2})
    (problem,) = problems_of()
    assert (problem["row"], problem["column"], problem["value"]) == (1, "clip_name", "a")


def test_the_command_that_lists_all_lists_all_that_a_plan_refuses(face_pack: Path) -> None:
    """Copies of a photo and spellings of a prompt, more than a list of `plan` holds."""
    for number in range(52):
        shutil.copy(HOPPER, f"{number}.jpg")
    write(*({"subject_uri": f"{number}.jpg", "prompt": " " * number + "微笑"} for number in range(52)))
    write_run(Path(), face_pack, manifest="m.parquet")
    refused = invoke("plan", "run.yaml")
    assert refused.exit_code == 2
    pointer = "... and 1 more; `lynx-batch manifest check MANIFEST --run RUN.yaml --photos --problems FILE` writes all of them to FILE"
    assert pointer in refused.stderr
    assert [problem["row"] for problem in problems_of("--run", "run.yaml", "--photos")] == list(range(1, 52))


def test_texts_are_counted_with_a_run_files_tokenizer_and_estimated_without(face_pack: Path) -> None:
    write({"prompt": "a " * 600})
    write_run(Path(), face_pack, manifest="m.parquet")
    (problem,) = problems_of("--run", "run.yaml")
    assert "has 601 tokens, and the model reads at most 512" in problem["rule"]
    assert run("check", "m.parquet", "--run", "run.yaml", "--set", "defaults.truncate_prompts=true").exit_code == 0
    write({"prompt": "a person waves " * 600})
    estimated = run("check", "m.parquet")
    assert estimated.exit_code == 0
    assert "texts_may_be_too_long" in estimated.stderr


def test_an_override_needs_a_run_file() -> None:
    write({})
    refused = run("check", "m.parquet", "--set", "defaults.seed=1")
    assert (refused.exit_code, "--set: changes a run file, so it needs --run" in refused.stderr) == (2, True)

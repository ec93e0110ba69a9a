"""`export`: which rows it takes, the names that nobody gave, and what it leaves in DEST besides clips."""

import json
from pathlib import Path

import pyarrow.compute as pc
import pytest

from lynx_batch import read_metadata
from lynx_batch.errors import ConfigError
from lynx_batch.ledger.export_names import DEFAULT_NAME
from lynx_batch.ledger.metadata import Outcome
from tests.builders import ended, write_manifest
from tests.exports import YESTERDAY, Place, ask, publish, rejected, rendered, spec


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "out"))


def manifest(folder: Path, *rows: dict[str, object]) -> str:
    file = folder / "manifest.parquet"
    write_manifest(file, rows)
    return str(file)


def asking(prompt: str, **cells: object) -> dict[str, object]:
    return {"subject_uri": "https://host/ada.jpg", "prompt": prompt, **cells}


def clips(folder: Path) -> dict[str, str]:
    return {file.relative_to(folder).as_posix(): file.read_text() for file in folder.rglob("*.mp4")}


# Names that nobody gave


@pytest.mark.parametrize(
    ("cells", "name"),
    [
        ({"subject_id": "ada", "clip_name": "wave"}, "ada/wave.mp4"),
        ({"clip_name": "wave"}, "ada/wave.mp4"),
        (
            {"subject_id": "客户", "prompt": "A person waves, and smiles!"},
            "客户/a-person-waves-and-smiles-aa11bb22.mp4",
        ),
        ({"prompt": "她微笑着。"}, "ada/她微笑着-aa11bb22.mp4"),
        ({"prompt": "?"}, "ada/aa11bb22.mp4"),
        ({"subject_uri": "/photos/\u200ea\\b.jpg", "clip_name": "wave"}, "_a_b/wave.mp4"),
        ({"subject_id": "ACME\\ada", "clip_name": "wave"}, "ACME_ada/wave.mp4"),
        ({"subject_id": "../team//ada/", "clip_name": "wave"}, "team/ada/wave.mp4"),
        ({"subject_id": "https://crm/people/7", "clip_name": "wave"}, "https:/crm/people/7/wave.mp4"),
        ({"subject_id": " ", "subject_uri": "ada.jpg", "clip_name": "wave"}, "ada/wave.mp4"),
        ({"subject_id": "..", "subject_uri": "ada.jpg", "clip_name": "wave"}, "ada/wave.mp4"),
        ({"subject_id": "می\u200cنا", "clip_name": "👩\u200d💻"}, "می\u200cنا/👩\u200d💻.mp4"),
        ({"subject_id": "team/山田\u3000太郎", "clip_name": "a\u00a0b"}, "team/山田\u3000太郎/a\u00a0b.mp4"),
        (
            {"prompt": "A person looks into the camera and blows out some candles."},
            "ada/a-person-looks-into-the-camera-and-blows-aa11bb22.mp4",
        ),
        ({"prompt": "x" * 99}, f"ada/{'x' * 40}-aa11bb22.mp4"),
    ],
)
def test_a_name_that_is_missing_is_made_of_the_photo_and_the_prompt(
    place: Place, tmp_path: Path, cells: dict[str, object], name: str
) -> None:
    place.run("run", [rendered("aa11bb22cc", **cells)])
    assert place.names(DEFAULT_NAME) == {name: "aa11bb22cc"}
    assert place.export(tmp_path / "named", None).exit_code == 0
    assert clips(tmp_path / "named") == {name: "aa11bb22cc 1"}


# Which rows


@pytest.fixture
def two_runs(place: Place) -> Place:
    """A manifest of two rows, rendered by one model and then by another; and a row of another manifest."""
    for run_id, ids in (("old", ("aa11", "bb22")), ("new", ("cc33", "dd44"))):
        names = zip(ids, ("wave", "smile"), ("Wave.", "Smile."), strict=True)
        rows = [rendered(clip_id, row, clip_name=n, prompt=p) for row, (clip_id, n, p) in enumerate(names)]
        place.run(run_id, rows)
    place.run("other", [rendered("ee55", clip_name="jump", prompt="Jump.")], manifest="/b.parquet")
    return place


def test_a_run_gives_its_own_clips_even_if_newer_ones_have_their_names(two_runs: Place, tmp_path: Path) -> None:
    named = tmp_path / "named"
    assert two_runs.export(named, "{clip_name}.mp4", "--run", "old").exit_code == 0
    assert clips(named) == {"wave.mp4": "aa11 1", "smile.mp4": "bb22 1"}
    unknown = two_runs.export(named, "{clip_name}.mp4", "--run", "odd")
    assert (unknown.exit_code, "--run 'odd': must be a run of" in unknown.stderr) == (2, True)


def test_a_condition_chooses_by_the_metadata(two_runs: Place, tmp_path: Path) -> None:
    result = two_runs.export(tmp_path / "named", "{clip_name}.mp4", "--where", "prompt in ['Wave.', 'Jump.']")
    assert result.exit_code == 0
    assert clips(tmp_path / "named") == {"wave.mp4": "cc33 1", "jump.mp4": "ee55 1"}
    nothing = two_runs.export(tmp_path / "none", "{clip_name}.mp4", "--where", "prompt == 'Sit.'")
    assert (nothing.exit_code, "--where \"prompt == 'Sit.'\": must match a row" in nothing.stderr) == (2, True)


def test_only_chosen_clips_must_have_names_of_their_own(place: Place, tmp_path: Path) -> None:
    place.run("run", [rendered("aa11", subject_id="ada"), rendered("bb22", 1, subject_id="bob")])
    place.run("other", [rendered("cc33", subject_id="cem")], manifest="/b.parquet")
    for subject, clip_id in (("ada", "aa11"), ("bob", "bb22"), ("cem", "cc33")):
        named = tmp_path / subject
        result = place.export(named, "clip.mp4", "--where", f"subject_id == '{subject}'")
        assert result.exit_code == 0, result.output
        assert clips(named) == {"clip.mp4": f"{clip_id} 1"}
    result = place.export(tmp_path / "two", "clip.mp4", "--where", "subject_id != 'cem'")
    assert result.exit_code == 2
    assert "must not also be the name of row 0" in result.output


def test_rows_that_are_not_chosen_need_no_name(place: Place, tmp_path: Path) -> None:
    place.run("run", [rendered("aa11", tags={"city": "Oslo"}, clip_name="wave"), rendered("bb22", 1, tags={})])
    (tmp_path / "list.csv").write_text("clip_id,decision\naa11,approve\n")
    choices = (("--where", "tags.city is not None"), ("--list", str(tmp_path / "list.csv")))
    for number, choice in enumerate(choices):
        named = tmp_path / str(number)
        result = place.export(named, "{tags.city}/{clip_name}.mp4", *choice)
        assert result.exit_code == 0, result.output
        assert clips(named) == {"Oslo/wave.mp4": "aa11 1"}
    refused = place.export(tmp_path / "all", "{tags.city}/{row}.mp4", "--where", "row >= 0")
    assert (refused.exit_code, "row 1 of run run: tags.city must not be null" in refused.stderr) == (2, True)


def test_a_manifest_gives_exactly_its_rows_by_its_own_names(two_runs: Place, tmp_path: Path) -> None:
    file = manifest(tmp_path, asking("Jump."), asking("Smile.", clip_name="grin"), asking("Sit."))
    assert two_runs.export(tmp_path / "named", None, "--manifest", file).exit_code == 0
    assert clips(tmp_path / "named") == {"ada/jump-ee55.mp4": "ee55 1", "ada/grin.mp4": "dd44 1"}
    assert two_runs.export(tmp_path / "old", None, "--manifest", file, "--run", "old").exit_code == 0
    assert clips(tmp_path / "old") == {"ada/grin.mp4": "bb22 1"}


def test_runs_over_the_same_manifest_answer_it_before_others(place: Place, tmp_path: Path) -> None:
    file = manifest(tmp_path, asking("Wave."))
    place.run("ours", [rendered("aa11", prompt="Wave.")], manifest=file)
    place.run("theirs", [rendered("bb22", prompt="Wave.")], manifest="/b.parquet")
    place.export(tmp_path / "named", "{clip_id}.mp4", "--manifest", file)
    assert clips(tmp_path / "named") == {"aa11.mp4": "aa11 1"}


def test_a_row_whose_link_was_signed_anew_is_the_same_row(place: Place, tmp_path: Path) -> None:
    place.run("run", [rendered("aa11", subject_uri="https://host/ada.jpg?signature=1", prompt="Wave.")])
    file = manifest(tmp_path, asking("Wave.") | {"subject_uri": "https://host/ada.jpg?signature=2"})
    assert place.export(tmp_path / "named", "{clip_id}.mp4", "--manifest", file, "--table", "csv").exit_code == 0
    assert clips(tmp_path / "named") == {"aa11.mp4": "aa11 1"}
    assert b"signature" not in (tmp_path / "named" / "clips.csv").read_bytes()


def test_a_manifest_gives_the_edition_in_force(two_runs: Place, tmp_path: Path) -> None:
    publish(two_runs.output, "dd44", edition=2)
    two_runs.run("again", [ended(Outcome.ABANDONED, spec("dd44", prompt="Smile."))], is_whole=False)
    file = manifest(tmp_path, asking("Smile.", clip_name="grin"))
    two_runs.export(tmp_path / "named", None, "--manifest", file)
    assert clips(tmp_path / "named") == {"ada/grin.mp4": "dd44 2"}


def test_a_manifest_does_not_bring_back_what_is_withheld(two_runs: Place, tmp_path: Path) -> None:
    rows = [asking("Smile.", consent_expires_at=YESTERDAY), asking("Wave.")]
    two_runs.run("last", [rejected("ConsentExpired", ask(prompt="Wave."))], is_whole=False)
    result = two_runs.export(tmp_path / "named", None, "--manifest", manifest(tmp_path, *rows))
    assert (result.exit_code, clips(tmp_path / "named")) == (0, {})
    assert "2 withheld" in result.stdout
    assert f"clip dd44: row 0 of {tmp_path}/manifest.parquet: consent_expires_at=2026-11-20" in result.stdout
    assert "clip cc33: row 0 of run last: ConsentExpired: why" in result.stdout


def test_two_rows_of_a_manifest_with_one_name_are_an_error(two_runs: Place, tmp_path: Path) -> None:
    file = manifest(tmp_path, asking("Jump.", clip_name="a"), asking("Smile.", clip_name="a"))
    result = two_runs.export(tmp_path / "named", None, "--manifest", file)
    assert result.exit_code == 2
    assert f"row 1 of {file}: 'ada/a.mp4' must not also be the name of row 0" in result.stderr


# What is in DEST


def test_the_list_says_what_was_written_by_all_exports_of_the_output(two_runs: Place, tmp_path: Path) -> None:
    named = tmp_path / "named"
    two_runs.export(named, "{clip_name}.mp4", "--where", "prompt == 'Jump.'")
    two_runs.export(named, "old-{clip_name}.mp4", "--run", "old")
    listed = json.loads((named / "export.json").read_text())
    assert listed["output"] == two_runs.output
    assert {name: file["clips"] for name, file in listed["files"].items()} == {
        "jump.mp4": {"ee55": 1},
        "old-wave.mp4": {"aa11": 1},
        "old-smile.mp4": {"bb22": 1},
    }


def test_other_files_are_replaced_only_if_the_user_says_so(two_runs: Place, tmp_path: Path) -> None:
    named = tmp_path / "named"
    named.mkdir()
    for name in ("wave.mp4", "export.json", "clips.csv"):
        (named / name).write_text("my own")
    (named / "smile.mp4").mkdir()
    told = {
        "export.json is not the list of an export": "export.json",
        "clips.csv: must be free, or as an earlier export wrote it": "clips.csv",
        "wave.mp4: must be free": "wave.mp4",
    }
    for text, name in told.items():
        result = two_runs.export(named, "{clip_name}.mp4", "--run", "new", "--table", "csv")
        assert (result.exit_code, text in result.stderr) == (2, True), result.stderr
        assert (named / name).read_text() == "my own"
        (named / name).rename(tmp_path / name)
    for name in told.values():
        (tmp_path / name).rename(named / name)
    blocked = two_runs.export(named, "{clip_name}.mp4", "--run", "new", "--table", "csv", "--overwrite")
    assert (blocked.exit_code, "smile.mp4: must be free" in blocked.stderr) == (2, True)
    (named / "smile.mp4").rmdir()
    for _ in range(2):
        result = two_runs.export(named, "{clip_name}.mp4", "--run", "new", "--table", "csv", "--overwrite")
        assert result.exit_code == 0, result.stderr
    assert clips(named) == {"wave.mp4": "cc33 1", "smile.mp4": "dd44 1"}
    assert two_runs.export(named, "{clip_name}.mp4", "--run", "new", "--table", "csv").exit_code == 0


def test_a_folder_holds_the_exports_of_one_output(two_runs: Place, tmp_path: Path) -> None:
    elsewhere = Place(str(tmp_path / "elsewhere"))
    elsewhere.run("run", [rendered("ff66", clip_name="sit")])
    two_runs.export(tmp_path / "named")
    refused = elsewhere.export(tmp_path / "named")
    told = f"export.json is the list of an export of {two_runs.output}"
    assert (refused.exit_code, told in refused.stderr) == (2, True)


def test_a_name_ends_as_a_video_does(place: Place, tmp_path: Path) -> None:
    place.run("run", [rendered("aa11", clip_name="export.json")])
    refused = place.export(tmp_path / "named", "{clip_name}")
    assert (refused.exit_code, "--name '{clip_name}': must end in .mp4" in refused.stderr) == (2, True)


# The latest rows


def test_the_latest_metadata_have_one_row_for_each_clip(two_runs: Place) -> None:
    two_runs.run("last", [rendered("ee55", clip_name="leap", prompt="Jump.")], manifest="/b.parquet")
    assert read_metadata(two_runs.output).num_rows == 6
    latest = read_metadata(two_runs.output, ["run", "clip_id", "clip_name"], latest=True)
    assert sorted(map(tuple, (row.values() for row in latest.to_pylist()))) == [
        ("last", "ee55", "leap"),
        ("new", "cc33", "wave"),
        ("new", "dd44", "smile"),
        ("old", "aa11", "wave"),
        ("old", "bb22", "smile"),
    ]
    chosen = read_metadata(two_runs.output, ["clip_name"], pc.field("prompt") == "Jump.", latest=True)
    assert chosen["clip_name"].to_pylist() == ["leap"]
    with pytest.raises(ConfigError, match="column 'clip': unknown"):
        read_metadata(two_runs.output, ["clip"], latest=True)

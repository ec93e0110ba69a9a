"""`export --table`: a line for each row, in files that a spreadsheet opens without harm."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow.parquet as pq
import pytest

from lynx_batch.cli.tables import FORMULA_STARTS, TableKind, check_num_lines, write_csv, write_table
from lynx_batch.errors import ConfigError
from lynx_batch.ledger.metadata import Outcome
from tests.builders import NOW, ended, record, write_manifest
from tests.exports import YESTERDAY, Place, ask, rejected, rendered, spec

ODD = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A run with a row of each kind, and a run that was killed before it ended any."""
    place = Place(str(tmp_path / "out"))
    bad = ask(4, prompt="Lost.")
    rows = [
        rendered("aa11", 0, clip_name="wave", prompt="Wave.", tags={"city": "Köln", "no": "=1"}),
        rendered("bb22", 1, clip_name="smile", prompt="Smile.", consent_expires_at=YESTERDAY),
        ended(Outcome.FAILED, spec("cc33", 2, clip_name="sit", prompt="Sit.")),
        rendered("aa11", 3, clip_name="again", prompt="Wave."),
        rejected("MissingObject", bad),
    ]
    place.run("run", rows, took=[*(row.clip.request for row in rows if row.clip), bad])
    return place


def read_table(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / "clips.csv").read_bytes().decode("utf-8-sig"), newline="")))


def test_every_row_has_a_line_that_says_what_became_of_it(place: Place, tmp_path: Path) -> None:
    named = tmp_path / "named"
    result = place.export(named, "{clip_name}.mp4", "--table", "csv", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["table"] == f"{named}/clips.csv"
    lines = read_table(named)
    told = [(line["row"], line["outcome"], line["reason"], line["file"]) for line in lines]
    assert told == [
        ("0", "rendered", "", "wave.mp4"),
        (
            "1",
            "rendered",
            "withheld: row 1 of run run: consent_expires_at=2026-11-20T08:00:00+00:00: must be in the future",
            "",
        ),
        ("2", "failed", "OutOfMemory: too big", ""),
        ("3", "rendered", "", "again.mp4"),
        ("4", "rejected", "MissingObject: why", ""),
    ]
    assert [line["link"] for line in lines] == [f"{named}/wave.mp4", "", "", f"{named}/again.mp4", ""]
    assert (lines[0]["tags.city"], lines[0]["tags.no"], lines[1]["tags.city"]) == ("Köln", "'=1", "")
    assert "manifest" not in lines[0]


def test_a_line_says_why_its_clip_could_not_be_copied(place: Place, tmp_path: Path) -> None:
    Path(place.output, record("aa11").clip_uri).unlink()
    assert place.export(tmp_path / "named", "{clip_name}.mp4", "--table", "csv").exit_code == 3
    first = read_table(tmp_path / "named")[0]
    assert (first["outcome"], first["file"], first["link"]) == ("rendered", "", "")
    assert first["reason"].endswith("/clips/aa/aa11/run-1.mp4: does not exist")


def test_a_row_that_no_run_has_ended_has_a_line_too(place: Place, tmp_path: Path) -> None:
    place.run("killed", [], took=[ask(0, prompt="Wave."), ask(1, prompt="New.")])
    place.export(tmp_path / "named", None, "--table", "csv")
    told = [(line["prompt"], line["clip_id"], line["reason"]) for line in read_table(tmp_path / "named")]
    assert ("Wave.", "aa11", "") in told
    assert ("New.", "", "no run has ended this row yet") in told


def test_a_manifest_has_a_line_for_each_of_its_rows_and_no_other(place: Place, tmp_path: Path) -> None:
    uri = "https://host/ada.jpg"
    rows = [{"subject_uri": uri, "prompt": p, "tags": {"shop": "7"}} for p in ("Sit.", "Wave.", "New.")]
    write_manifest(tmp_path / "m.parquet", rows)
    place.export(tmp_path / "named", None, "--table", "csv", "--manifest", tmp_path / "m.parquet")
    lines = read_table(tmp_path / "named")
    assert [(line["prompt"], line["tags.shop"], line["clip_id"], line["outcome"]) for line in lines] == [
        ("Sit.", "7", "cc33", "failed"),
        ("Wave.", "7", "aa11", "rendered"),
        ("New.", "7", "", ""),
    ]


def test_a_clip_of_an_older_model_has_a_line_if_it_is_exported(place: Place, tmp_path: Path) -> None:
    place.run("newer", [rendered("dd44", 0, clip_name="wave", prompt="Wave.")])
    place.export(tmp_path / "named", "{clip_id}.mp4", "--table", "csv")
    files = {line["file"] for line in read_table(tmp_path / "named")} - {""}
    assert files == {file.name for file in (tmp_path / "named").glob("*.mp4")} == {"aa11.mp4", "dd44.mp4"}


def test_without_copies_the_links_lead_to_the_output(place: Place, tmp_path: Path) -> None:
    named = tmp_path / "named"
    result = place.export(named, None, "--table", "parquet", "--no-copy")
    assert (result.exit_code, "none copied" in result.stdout) == (0, True)
    assert {file.name for file in named.iterdir()} == {"clips.parquet", "export.json"}
    first = pq.read_table(named / "clips.parquet").to_pylist()[0]
    assert Path(first["link"]).read_text() == "aa11 1"
    assert first["file"] is None, "there is none"
    assert (first["seed_used"], first["edition"], first["committed_at"]) == (1, 1, NOW)


def test_a_table_that_was_edited_is_not_replaced(place: Place, tmp_path: Path) -> None:
    named = tmp_path / "named"
    for _ in range(2):
        assert place.export(named, None, "--table", "csv").exit_code == 0
    with (named / "clips.csv").open("a") as file:
        file.write("my note\n")
    refused = place.export(named, None, "--table", "csv")
    assert (refused.exit_code, "clips.csv: must be free" in refused.stderr) == (2, True)
    assert "my note" in (named / "clips.csv").read_text()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--sign", "7d"), "--sign: needs --table"),
        (("--no-copy",), "--no-copy: needs --table"),
        (("--table", "csv", "--sign", "8d"), "--sign '8d': must be at most 7d"),
        (("--table", "csv", "--sign", "week"), "--sign 'week': must be a number above 0 and s, m, h or d"),
        (
            ("--table", "csv", "--sign", "1h"),
            "--sign: needs clips in a bucket (s3://, gs://, az://), but OUT and DEST are local",
        ),
        (("--table", "csv", "--sign", "1h", "--no-copy"), "but OUT, where the links lead with --no-copy, is local"),
        (("--table", "csv", "--format", "webdataset"), "--table: must not be given together with --format webdataset"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_written(
    place: Place, tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    refused = place.export(tmp_path / "named", None, *options)
    assert (refused.exit_code, told in refused.stderr) == (2, True), refused.stderr
    assert not (tmp_path / "named").exists()


# Files


def cells(content: bytes) -> list[tuple[Any, ...]]:
    return list(openpyxl.load_workbook(io.BytesIO(content)).active.values)


def test_no_cell_is_taken_for_a_formula() -> None:
    lines = [{"a": text, "=b": -1.5} for text in ODD]
    as_csv = list(csv.reader(io.StringIO(write_csv(["a", "=b"], lines).decode(), newline="")))
    as_xlsx = cells(write_table(TableKind.XLSX, ["a", "=b"], lines))
    for table, number in ((as_csv, "-1.5"), (as_xlsx, -1.5)):
        assert tuple(table[0]) == ("a", "'=b")
        assert [row[1] for row in table[1:]] == [number] * len(ODD)
        assert not any(str(row[0]).startswith(FORMULA_STARTS) for row in table[1:])
    assert [row[0] for row in as_csv[1:]] == [f"'{text}" for text in ODD]


def test_a_tag_whose_key_has_control_characters_has_a_column_in_every_kind_of_table(
    place: Place, tmp_path: Path
) -> None:
    place.run("run", [rendered("aa11", tags={"ci\x0bty": "Oslo"}, clip_name="wave")])
    for kind in TableKind:
        result = place.export(tmp_path / kind, "{clip_name}.mp4", "--table", kind)
        assert result.exit_code == 0, result.output
    head, line = cells((tmp_path / "xlsx" / "clips.xlsx").read_bytes())
    assert dict(zip(head, line, strict=True))["tags.ci\N{REPLACEMENT CHARACTER}ty"] == "Oslo"


def test_a_table_keeps_texts_numbers_times_and_links() -> None:
    link = "https://host/a?b=c&d=" + "x" * 300
    lines: list[dict[str, object]] = [
        {"text": "Grüße, 你好\nzwei", "number": 7, "seed": 2**62, "yes": True, "time": NOW, "link": link},
        {"text": "a\x00b"},
    ]
    columns = [*lines[0]]
    book = openpyxl.load_workbook(io.BytesIO(write_table(TableKind.XLSX, columns, lines)))
    head, first, second = book.active.values
    assert (head, first) == (tuple(columns), ("Grüße, 你好\nzwei", 7, str(2**62), True, NOW.isoformat(), link))
    assert second == ("a\N{REPLACEMENT CHARACTER}b", None, None, None, None, None)
    assert book.active["F2"].hyperlink.target == link
    assert write_table(TableKind.CSV, columns, lines).startswith(b"\xef\xbb\xbftext,")


def test_a_table_that_excel_cannot_hold_is_refused() -> None:
    check_num_lines(TableKind.CSV, 2_000_000)
    with pytest.raises(
        ConfigError, match="--table xlsx: must have at most 1,048,575 lines, but has 2,000,000: use csv"
    ):
        check_num_lines(TableKind.XLSX, 2_000_000)


def test_times_stay_times_in_parquet() -> None:
    content = write_table(TableKind.PARQUET, ["at", "none"], [{"at": NOW}, {}])
    assert pq.read_table(io.BytesIO(content)).to_pylist() == [{"at": NOW, "none": None}, {"at": None, "none": None}]

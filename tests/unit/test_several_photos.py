"""Rows with several photos of one person: `subject_uris` from the manifest to the metadata, and whatever knows a photo by its hash."""

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageEnhance, ImageOps

from lynx_batch.clip import ClipSpec
from lynx_batch.config import FacesConfig, InputsConfig, RunConfig
from lynx_batch.errors import PhotoChanged
from lynx_batch.intake.build import build_from_folder, build_from_table, place_photos
from lynx_batch.intake.check import find_duplicates, keys_of_requests
from lynx_batch.intake.consent import reject_revoked_photos
from lynx_batch.intake.faces import check_faces_here, find_photo_problems
from lynx_batch.intake.schema import MAX_PHOTOS, conform
from lynx_batch.intake.tables import read_source
from lynx_batch.intake.templates import make_templates
from lynx_batch.ledger.audit import read_audit
from lynx_batch.ledger.commits import commit
from lynx_batch.ledger.erase import matching_rows
from lynx_batch.ledger.metadata import Outcome, photos_in, read_metadata
from lynx_batch.ledger.owners import owners_of, read_owners, write_owners
from lynx_batch.ledger.runs import RunRecord, read_run_manifest, write_run_record
from lynx_batch.planning.revocation import Kind, find_covered, key_of
from lynx_batch.preparation.prepare import prepare
from lynx_batch.preparation.selection import Selection
from lynx_batch.rendering.unjudged import Unjudged
from lynx_batch.report.rows import COLUMNS, read_row
from tests.builders import (
    COLLINS,
    HOPPER,
    NOW,
    PARAMS,
    check,
    ended,
    make_clip_of_photos,
    make_request,
    record,
    several_photos,
    start_run,
    tiny_run,
    with_photos,
    write_manifest,
    write_metadata,
)
from tests.jobs import invoke

HASHES = ["2" * 64, "1" * 64, "2" * 64]
URIS = ("https://me:secret@host/b.jpg?signature=1", "/photos/a.jpg", "/photos/copy.jpg")


def person() -> ClipSpec:
    """A clip of three photos, two of which have the same bytes."""
    return make_clip_of_photos("aa11", with_photos(make_request(PARAMS, subject_id="ada"), *URIS), HASHES)


@pytest.fixture
def photos(tmp_path: Path) -> list[str]:
    """Three photos of Collins, and one of Hopper."""
    portrait = Image.open(COLLINS).convert("RGB")
    ImageOps.mirror(portrait).save(tmp_path / "mirrored.png")
    ImageEnhance.Brightness(portrait).enhance(0.6).save(tmp_path / "dim.png")
    return [str(COLLINS), str(tmp_path / "mirrored.png"), str(tmp_path / "dim.png"), str(HOPPER)]


# --- rows ---


def test_a_row_names_its_photos_in_one_column_each_once() -> None:
    requests, problems = check(
        several_photos("a.jpg", "s3://bucket/c.jpg", "/photos/a.jpg"),
        several_photos("a.jpg", prompt="Hi."),
        {"subject_uri": "a.jpg", "prompt": "Hi."},
    )
    assert problems == []
    assert [request.subject_uris for request in requests] == [
        ("/photos/a.jpg", "s3://bucket/c.jpg"),
        ("/photos/a.jpg",),
        ("/photos/a.jpg",),
    ]
    assert [request.photo_column for request in requests] == ["subject_uris", "subject_uris", "subject_uri"]
    (problem,) = find_duplicates(keys_of_requests(requests))
    assert (problem.row, problem.column) == (12, "subject_uri"), "a list of one photo is that photo"


@pytest.mark.parametrize(
    ("cells", "problems"),
    [
        ({"subject_uri": None}, [("subject_uri", None, "must not be null, unless subject_uris names the photos")]),
        ({"subject_uris": ["b.jpg"]}, [("subject_uris", "1 photo", "must be null in a row with a subject_uri")]),
        (several_photos(), [("subject_uris", "0 photos", "must name a photo, and must not hold null")]),
        (
            several_photos("a.jpg") | {"subject_uris": ["a.jpg", None]},
            [("subject_uris", "2 photos", "must name a photo, and must not hold null")],
        ),
        (several_photos("a.jpg", " "), [("subject_uris", " ", "must not be empty")]),
        (
            several_photos("a.jpg", "ftp://me:pass@host/b.jpg"),
            [("subject_uris", "ftp://host/b.jpg", "must be a local file")],
        ),
        (
            several_photos(*(f"{n}.jpg" for n in range(17))),
            [("subject_uris", "17 photos", f"must name at most {MAX_PHOTOS}")],
        ),
        (
            several_photos("a.jpg", "b.jpg", face_index=0),
            [("face_index", 0, "must be null in a row with several photos")],
        ),
        (several_photos(*["a.jpg"] * 17, face_index=0), []),
    ],
)
def test_each_rule_for_the_photos_of_a_row_is_told(
    cells: dict[str, object], problems: list[tuple[object, ...]]
) -> None:
    _, found = check(cells)
    assert [(problem.column, problem.value) for problem in found] == [problem[:2] for problem in problems]
    for problem, (*_, rule) in zip(found, problems, strict=True):
        assert problem.rule.startswith(str(rule))


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.string(), 2)])
def test_any_list_of_texts_becomes_the_column(kind: pa.DataType) -> None:
    table = pa.table({"subject_uris": pa.array([["a.jpg", "b.jpg"], None], kind), "prompt": ["x", "y"]})
    assert conform(table, "test")["subject_uris"].to_pylist() == [["a.jpg", "b.jpg"], None]


def test_a_table_file_names_several_photos_as_json_or_one_a_line(tmp_path: Path) -> None:
    text = 'subject_uri,subject_uris,prompt\nc.jpg,,Hi.\n,"[""a,1.jpg"", ""b.jpg""]",Hi.\n,"a.jpg\n b.jpg",Hi.\n'
    (tmp_path / "rows.csv").write_text(text, encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text('{"subject_uris": ["a.jpg", "/b.jpg"], "prompt": "Hi."}', encoding="utf-8")
    table = build_from_table(read_source(str(tmp_path / "rows.csv")))
    assert table["subject_uris"].to_pylist() == [
        None,
        [f"{tmp_path}/a,1.jpg", f"{tmp_path}/b.jpg"],
        [f"{tmp_path}/a.jpg", f"{tmp_path}/b.jpg"],
    ]
    placed = place_photos(table, str(tmp_path / "m.parquet"))
    assert placed["subject_uri"].to_pylist() == ["c.jpg", None, None]
    assert placed["subject_uris"].to_pylist() == [None, ["a,1.jpg", "b.jpg"], ["a.jpg", "b.jpg"]]
    (row,) = build_from_table(read_source(str(tmp_path / "rows.jsonl"))).to_pylist()
    assert row["subject_uris"] == [f"{tmp_path}/a.jpg", "/b.jpg"]


def test_each_folder_of_photos_is_a_person(tmp_path: Path) -> None:
    for name in ("ada/2.jpg", "ada/1.png", "ada/notes.txt", "bob/b.jpg", "alone.jpg", ".hidden/x.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    table = build_from_folder(str(tmp_path), make_templates(["Hi.", "Bye."]), has_person_folders=True)
    rows = [(row["subject_id"], row["clip_name"], row["subject_uri"], row["subject_uris"]) for row in table.to_pylist()]
    assert rows == [
        ("ada", "ada-p01", None, [f"{tmp_path}/ada/1.png", f"{tmp_path}/ada/2.jpg"]),
        ("ada", "ada-p02", None, [f"{tmp_path}/ada/1.png", f"{tmp_path}/ada/2.jpg"]),
        ("bob", "bob-p01", None, [f"{tmp_path}/bob/b.jpg"]),
        ("bob", "bob-p02", None, [f"{tmp_path}/bob/b.jpg"]),
    ]


# --- the checks before a run ---


def test_the_photo_check_names_each_bad_photo_and_the_one_of_somebody_else(
    tmp_path: Path, face_pack: Path, photos: list[str]
) -> None:
    missing = str(tmp_path / "none.jpg")
    rows = [several_photos(*photos[:3]), several_photos(*photos), several_photos(COLLINS, missing)]
    requests, _ = check(*rows)
    wanted = [(uri, None) for uri in (*photos, missing)]
    reports = check_faces_here(wanted, FacesConfig(pack=str(face_pack)), InputsConfig())
    problems = find_photo_problems(requests, {report.face: report.finding for report in reports})
    assert [(problem.row, problem.column, problem.value) for problem in problems] == [
        (11, "subject_uris", str(HOPPER)),
        (12, "subject_uris", missing),
    ]
    assert problems[0].rule.startswith(
        "DifferentPeople: must show the same person as the other photos, and clearly; the likeness is"
    )
    assert problems[1].rule.startswith("MissingObject: ")


def test_the_order_of_the_photos_changes_no_name_and_one_lost_photo_rejects_the_row(
    tmp_path: Path, face_pack: Path, photos: list[str]
) -> None:
    lists = [photos[:2], photos[1::-1], [*photos[:2], photos[0]], [photos[0], str(tmp_path / "none.jpg")]]
    write_manifest(tmp_path / "m.parquet", [several_photos(*uris) for uris in lists])
    config = RunConfig.model_validate(
        tiny_run(face_pack, manifest=str(tmp_path / "m.parquet"), output=str(tmp_path / "out"))
    )
    prepared = prepare(config, Selection(allow_duplicates=True), datetime.now(UTC))
    assert [clip.request.row for clip in prepared.clips] == [0, 1, 2]
    assert len({clip.clip_id for clip in prepared.clips}) == len({clip.person for clip in prepared.clips}) == 1
    (rejection,) = prepared.rejections
    assert (rejection.row, rejection.error_type) == (3, "MissingObject")
    assert rejection.error == f"subject_uris={tmp_path}/none.jpg: does not exist"


def test_a_revoked_photo_rejects_each_row_that_shows_it_among_others() -> None:
    kept, (rejection,) = reject_revoked_photos([person()], {key_of(Kind.PHOTO_SHA256, "1" * 64)})
    assert (kept, rejection.error) == ([], "photo_sha256: revoked")
    assert reject_revoked_photos([person()], {key_of(Kind.PHOTO_SHA256, "3" * 64)}) == ([person()], [])


# --- what is left behind ---


@pytest.fixture
def output(tmp_path: Path) -> str:
    """A run that has rendered a clip of several photos."""
    output = str(tmp_path / "out")
    start_run(output, "run")
    write_owners(output, "run", owners_of("run", [person()]))
    made = commit(output, record("aa11", run_id="run"))
    write_metadata(output, "run", [replace(ended(Outcome.RENDERED, person()), commit=made)])
    return output


def test_the_metadata_has_all_photos_as_resolved_and_as_written_without_secrets(output: str) -> None:
    (row,) = read_metadata(output).to_pylist()
    shown = ["https://host/b.jpg", *URIS[1:]]
    assert (row["subject_uri"], row["photo_sha256"], row["manifest_subject_uri"]) == (None, None, None)
    assert (row["subject_uris"], row["photo_sha256s"], row["manifest_subject_uris"]) == (shown, HASHES, shown)
    assert photos_in(row) == list(zip(shown, HASHES, strict=True))


def test_one_photo_is_joined_by_what_the_manifest_says(tmp_path: Path) -> None:
    (single, listed), _ = check({"subject_uri": "sub/../a.jpg"}, several_photos("a.jpg"))
    clips = [make_clip_of_photos(name, request, ["1" * 64]) for name, request in (("aa11", single), ("bb22", listed))]
    write_metadata(str(tmp_path), "run", [ended(Outcome.RENDERED, clip) for clip in clips])
    first, second = read_metadata(str(tmp_path)).sort_by("row").to_pylist()
    assert (first["subject_uri"], first["manifest_subject_uri"]) == ("/photos/sub/../a.jpg", "sub/../a.jpg")
    assert (second["subject_uri"], second["manifest_subject_uri"]) == ("/photos/a.jpg", None)
    assert (second["subject_uris"], second["manifest_subject_uris"]) == (None, ["a.jpg"])
    assert (second["photo_sha256"], second["photo_sha256s"]) == ("1" * 64, None)


def test_the_copy_of_the_manifest_keeps_the_list_without_secrets(tmp_path: Path) -> None:
    table = conform(pa.table({"subject_uris": [list(URIS)], "prompt": ["Hi."]}), "test").add_column(
        0, "row", pa.array([0])
    )
    write_run_record(
        str(tmp_path), "run", RunRecord(started_at=NOW, num_rows=1), run_yaml=b"", manifest=table, environment={}
    )
    (row,) = read_run_manifest(str(tmp_path), "run").to_pylist()
    assert row["subject_uris"] == ["https://host/b.jpg", *URIS[1:]]


@pytest.mark.parametrize("has_metadata", [True, False])
def test_each_photo_is_enough_to_revoke_and_to_erase(output: str, has_metadata: bool) -> None:
    if not has_metadata:
        for part in (Path(output) / "metadata").rglob("*.parquet"):
            part.unlink()
    for photo in ("1", "2"):
        revoked = {key_of(Kind.PHOTO_SHA256, photo * 64)}
        covered = find_covered(read_owners(output), revoked)
        assert covered.clip_ids == {"aa11"}
        assert covered.photos == {"1" * 64, "2" * 64}
        if has_metadata:
            assert matching_rows(read_metadata(output), revoked) == {0}
    assert len(read_owners(output)) == 2
    result = invoke("revoke", output, "--photo-sha256", "1" * 64, "--erase", "--yes")
    assert result.exit_code == 0, result.output
    assert [row["subject_uris"] for row in read_metadata(output).to_pylist()] == ([None] if has_metadata else [])
    manifest = pq.read_table(Path(output) / "runs" / "run" / "manifest.parquet")
    assert manifest["subject_uri"].to_pylist()[0] is None


@pytest.mark.parametrize("has_metadata", [True, False])
def test_the_audit_names_all_photos_in_one_line(output: str, has_metadata: bool) -> None:
    if not has_metadata:
        for part in (Path(output) / "metadata").rglob("*.parquet"):
            part.unlink()
    (line,) = read_audit(output)
    assert line["photo_sha256"] == f"{'1' * 64}; {'2' * 64}"


def test_a_report_shows_the_first_photo_unless_any_of_them_is_revoked(output: str) -> None:
    (cells,) = read_metadata(output, [*COLUMNS]).to_pylist()
    row = read_row(cells, "run", NOW, num_tries={})
    assert (row.photo_uri, row.photo_sha256, row.is_revoked) == ("https://host/b.jpg", "2" * 64, False)
    for photo, is_revoked in (("1", True), ("2", True), ("3", False)):
        key = key_of(Kind.PHOTO_SHA256, photo * 64)
        assert read_row(cells, "run", NOW, num_tries={}, revoked={key}).is_revoked == is_revoked


def test_a_clip_is_judged_by_the_photos_that_it_was_rendered_from(tmp_path: Path, photos: list[str]) -> None:
    contents = {Path(photo).read_bytes(): photo for photo in photos[:2]}
    hashes = {hashlib.sha256(content).hexdigest(): photo for content, photo in contents.items()}
    row = {"subject_uri": None, "subject_uris": [*hashes.values()], "photo_sha256": None, "photo_sha256s": [*hashes]}
    clip = Unjudged(commit=record("aa11"), row=row, inputs=InputsConfig(), faces=FacesConfig())
    assert [name for name, _ in clip.pictures()] == [f"subject_uri {hashes[each]}" for each in sorted(hashes)]
    Path(photos[1]).write_bytes(HOPPER.read_bytes())
    with pytest.raises(PhotoChanged, match=r"mirrored\.png: the photo changed since"):
        list(clip.pictures())

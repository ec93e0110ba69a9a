"""Whose rows may be rendered: what a consent must cover, and what is revoked."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from lynx_batch.config import RunConfig
from lynx_batch.errors import ConfigError
from lynx_batch.intake.consent import (
    ConsentRules,
    read_revoked_list,
    reject_revoked_photos,
    reject_without_consent,
)
from lynx_batch.ledger.erase import blank_rows
from lynx_batch.planning.revocation import Kind, Owner, find_covered, key_of, rows_to_blank
from lynx_batch.preparation.origin import Origin
from lynx_batch.preparation.prepare import PreparedRun, prepare_rows
from lynx_batch.preparation.selection import Selection
from tests.builders import COLLINS, HOPPER, check, make_clip, row, tiny_run

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
STRICT = ConsentRules(is_required=True)
FOR_ADS = replace(STRICT, scope="ad", regions=("EU", "US"))


def error_type(cells: dict[str, object], rules: ConsentRules) -> str | None:
    requests, problems = check(cells)
    assert problems == []
    _, rejections = reject_without_consent(requests, rules, NOW)
    return rejections[0].error_type if rejections else None


@pytest.mark.parametrize(
    ("cells", "rules", "expected"),
    [
        ({}, STRICT, "ConsentMissing"),
        ({"consent_ref": ""}, STRICT, "ConsentMissing"),
        ({"consent_ref": " \t"}, STRICT, "ConsentMissing"),
        (
            {"consent_ref": " CRM-17 ", "subject_id": "ada"},
            replace(STRICT, listed=frozenset({key_of(Kind.CONSENT_REF, "CRM-17")})),
            "ConsentRevoked",
        ),
        (
            {"consent_ref": "r", "subject_id": "ada "},
            replace(STRICT, tombstones=frozenset({key_of(Kind.SUBJECT_ID, "ada")})),
            "ConsentRevoked",
        ),
        ({}, replace(STRICT, is_required=False), None),
        ({"consent_ref": "r"}, STRICT, None),
        ({"consent_ref": "r", "consent_expires_at": NOW}, STRICT, "ConsentExpired"),
        ({"consent_expires_at": NOW - timedelta(days=1)}, replace(STRICT, is_required=False), "ConsentExpired"),
        ({"consent_ref": "r"}, FOR_ADS, "ConsentMissing"),
        ({"consent_ref": "r"}, replace(FOR_ADS, is_required=False), None),
        ({"consent_ref": "r", "consent_scope": "social, AD", "regions": "us,eu,cn"}, FOR_ADS, None),
        ({"consent_ref": "r", "consent_scope": "*", "regions": "*"}, FOR_ADS, None),
        ({"consent_ref": "r", "consent_scope": "social", "regions": "*"}, FOR_ADS, "ConsentTooNarrow"),
        ({"consent_scope": "ad", "regions": "EU"}, replace(FOR_ADS, is_required=False), "ConsentTooNarrow"),
        (
            {"consent_ref": "r"},
            replace(STRICT, listed=frozenset({key_of(Kind.CONSENT_REF, "r")})),
            "ConsentRevoked",
        ),
        (
            {"consent_ref": "r", "subject_id": "ada"},
            replace(STRICT, tombstones=frozenset({key_of(Kind.SUBJECT_ID, "ada")})),
            "ConsentRevoked",
        ),
        ({"consent_ref": "ada"}, replace(STRICT, listed=frozenset({key_of(Kind.SUBJECT_ID, "ada")})), None),
    ],
)
def test_a_row_is_rejected_unless_its_consent_covers_the_run(
    cells: dict[str, object], rules: ConsentRules, expected: str | None
) -> None:
    assert error_type(cells, rules) == expected


@pytest.mark.parametrize("column", ["consent_scope", "regions"])
def test_names_without_a_name_are_a_problem(column: str) -> None:
    _, (problem,) = check({column: "EU,,US"})
    assert problem.fault == f"{column}='EU,,US': must be names with commas between, such as EU,US"


def test_a_revoked_photo_rejects_its_clip_whoever_asks_for_it() -> None:
    requests, _ = check({"seed": 1}, {"seed": 2})
    clips = [make_clip(f"a{n}", request, photo_sha256=str(n) * 64) for n, request in enumerate(requests)]
    kept, (rejection,) = reject_revoked_photos(clips, {key_of(Kind.PHOTO_SHA256, "1" * 64)})
    assert [clip.clip_id for clip in kept] == ["a0"]
    assert (rejection.row, rejection.error_type, rejection.error) == (11, "ConsentRevoked", "photo_sha256: revoked")


def test_a_list_of_revoked_consents_is_a_csv_file(tmp_path: Path) -> None:
    file = tmp_path / "revoked.csv"
    file.write_text("\ufeffconsent_ref,subject_id\nCRM-1,\n,ada\n\n", encoding="utf-8")
    assert read_revoked_list(str(file)) == {key_of(Kind.CONSENT_REF, "CRM-1"), key_of(Kind.SUBJECT_ID, "ada")}
    file.write_text('consent_ref\r\n"CRM\u20281"\r\n\r\n"a ""b"""\r\n', encoding="utf-8", newline="")
    assert read_revoked_list(str(file)) == {key_of(Kind.CONSENT_REF, ref) for ref in ("CRM\u20281", 'a "b"')}
    file.write_text("photo_sha256\n" + "AB" * 32, encoding="utf-8")
    assert read_revoked_list(str(file)) == {key_of(Kind.PHOTO_SHA256, "ab" * 32)}, "as Windows writes hashes"


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"consentref\nCRM-1\n", r"its columns must be among .* \(got \['consentref'\]\)"),
        (b"", "its columns must be among"),
        (b"consent_ref,subject_id\nCRM-1\n", "row 2 must have 2 cells, but has 1"),
        (b"consent_ref\n\xff\n", "must be a CSV file in UTF-8"),
        (b'consent_ref\n"CRM-1\n', r"line 2: must be CSV \(unexpected end of data\)"),
        (b"\n\nconsent_ref,subject_id\nCRM-1\n", "row 4 must have 2 cells, but has 1"),
        (b"photo_sha256\nada.jpg\n", "row 2: photo_sha256='ada.jpg': must be 64 hexadecimal digits"),
    ],
)
def test_a_broken_list_is_refused_and_revokes_nothing_silently(tmp_path: Path, content: bytes, fault: str) -> None:
    file = tmp_path / "revoked.csv"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=f"provenance.revoked {file}: {fault}"):
        read_revoked_list(str(file))


def owner(run_id: str, number: int, clip_id: str | None, **cells: str | None) -> Owner:
    return Owner(run_id=run_id, row=number, clip_id=clip_id, **cells)


OWNERS = [
    owner("r1", 0, "aa", subject_id="ada", consent_ref="old"),
    owner("r1", 1, "bb", subject_id="bob", consent_ref="old"),
    owner("r1", 2, None, subject_id="ada"),
    owner("r2", 0, "aa", subject_id="ada", consent_ref="new"),
    owner("r3", 5, "aa"),
]


def test_a_revoked_person_covers_their_clips_in_all_runs() -> None:
    revoked = {key_of(Kind.SUBJECT_ID, "ada")}
    covered = find_covered(OWNERS, revoked)
    assert [covered.holds("aa", run) for run in ("r1", "r2", "r3", None)] == [True] * 4
    assert not covered.holds("bb", "r1")
    assert rows_to_blank(OWNERS, revoked, covered) == {"r1": {0, 2}, "r2": {0}, "r3": {5}}


def test_a_revoked_consent_spares_what_was_made_on_another_one() -> None:
    revoked = {key_of(Kind.CONSENT_REF, "old")}
    covered = find_covered(OWNERS, revoked)
    assert [covered.holds("aa", run) for run in ("r1", "r2", "r3", None)] == [True, False, True, True]
    assert covered.holds("bb", "r1")
    assert rows_to_blank(OWNERS, revoked, covered) == {"r1": {0, 1}, "r3": {5}}


@pytest.mark.parametrize("blank", [None, "", " "])
def test_a_blank_consent_is_no_other_consent_that_spares_a_clip(blank: str | None) -> None:
    covered = find_covered([*OWNERS, owner("r4", 0, "aa", consent_ref=blank)], {key_of(Kind.CONSENT_REF, "old")})
    assert covered.holds("aa", "r4")


def test_blank_rows_keep_their_numbers_and_nothing_else() -> None:
    columns = {"row": [3, 4], "prompt": ["a", "b"], "tags": pa.array([[("k", "v")]] * 2, pa.map_("string", "string"))}
    blank = blank_rows(pa.table(columns), {4}, {"prompt": "gone"})
    assert blank.to_pylist() == [
        {"row": 3, "prompt": "a", "tags": [("k", "v")]},
        {"row": 4, "prompt": "gone", "tags": None},
    ]


def prepared(face_pack: Path, rows: list[dict[str, object]], *revoked: tuple[Kind, str]) -> PreparedRun:
    config = RunConfig.model_validate(tiny_run(face_pack, provenance={"require_consent": True}))
    table = pa.Table.from_pylist([{"row": n, **cells} for n, cells in enumerate(rows)])
    place, selection = Origin(manifest="m.parquet", folder="/photos"), Selection(allow_invalid=True)
    keys = frozenset(key_of(*each) for each in revoked)
    return prepare_rows(config, table, place, selection, NOW, tombstones=keys)


def test_no_photo_is_read_without_consent_and_rows_with_a_tombstone_are_recorded_blank(
    face_pack: Path, tmp_path: Path
) -> None:
    rows = [
        row(tmp_path / "none.jpg", consent_ref=None, subject_id="cy", width=64),
        row(tmp_path / "none.jpg", consent_ref="r", subject_id="ada", width=64),
        row(tmp_path / "none.jpg", consent_ref="r", subject_id="ada", width=1),
        row(COLLINS, consent_ref="r", subject_id="eileen", width=64),
        row(HOPPER, consent_ref="r", subject_id="grace", width=64),
    ]
    photo = next(clip for clip in prepared(face_pack, rows).clips if clip.request.row == 3).portraits[0].sha256

    run = prepared(face_pack, rows, (Kind.SUBJECT_ID, "ada"), (Kind.PHOTO_SHA256, photo))

    assert [clip.request.row for clip in run.clips] == [4]
    rejections = {each.row: each for each in run.rejections}
    assert [rejections[n].error_type for n in range(4)] == ["ConsentMissing", *["ConsentRevoked"] * 3]
    assert rejections[0].inputs["subject_id"] == "cy"
    assert [rejections[n].inputs for n in (1, 2, 3)] == [{}] * 3
    assert run.manifest["subject_id"].to_pylist() == ["cy", None, None, None, "grace"]
    assert run.manifest["prompt"].to_pylist() == ["A person waves.", None, None, None, "A person waves."]

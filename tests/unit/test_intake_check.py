"""Rows become requests, or problems."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynx_batch.clip import ClipRequest
from lynx_batch.config import DefaultsConfig, InputsConfig
from lynx_batch.intake.check import (
    check_blocks,
    check_rows,
    find_duplicates,
    find_shared_names,
    keys_of_clips,
    keys_of_requests,
    reject_invalid,
)
from lynx_batch.intake.consent import ConsentRules, reject_without_consent
from lynx_batch.intake.schema import MANIFEST_SCHEMA
from tests.builders import check, make_clip

GOOD = {"subject_uri": "a.jpg", "prompt": "一个人微笑"}
NAN = float("nan")
NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
LENIENT = ConsentRules(is_required=False)


def request_of(row: dict[str, object], **defaults: object) -> ClipRequest:
    requests, problems = check(row, **defaults)
    assert problems == []
    return requests[0]


def columns_of(row: dict[str, object], **defaults: object) -> list[str]:
    requests, problems = check(row, **defaults)
    assert bool(requests) != bool(problems)
    return [problem.column for problem in problems]


@pytest.mark.parametrize(
    "name",
    ["", "a\\b", "../z", "/abs", "..", "x/", "x/../y", "a\u202eb", "a\u0085b", "a\nb", "a\tb", "a\u2028b", "a//b"],
)
def test_a_name_that_no_export_could_use_is_told(name: str) -> None:
    assert columns_of({"clip_name": name}) == ["clip_name"]
    assert columns_of({"subject_id": name}) == [], "any text may name a person"


@pytest.mark.parametrize("column", ["clip_name", "subject_id"])
@pytest.mark.parametrize("name", ["team/ada", "می\u200cنا", "👩\u200d💻", "山田\u3000太郎", "a\u00a0b", "a\u00adb"])
def test_a_name_may_have_joiners_special_spaces_and_folders(column: str, name: str) -> None:
    assert getattr(request_of({column: name}), column) == name


def test_a_null_cell_means_the_runs_default_and_a_cell_overrides_it() -> None:
    params = request_of({"height": 320}, width=480, height=640, guidance_scale_image=None, flow_shift=3.0).params
    assert (params.width, params.height, params.guidance_scale_image, params.flow_shift) == (480, 320, None, 3.0)
    assert params.prompt == "一个人微笑"


@pytest.mark.parametrize(("cell", "default", "is_given"), [(5, None, True), (None, 6, True), (None, None, False)])
def test_a_seed_is_given_by_the_row_or_by_the_run_or_not_at_all(
    cell: int | None, default: int | None, is_given: bool
) -> None:
    request = request_of({"seed": cell}, seed=default)
    assert request.is_seed_given == is_given
    if is_given:
        assert request.params.seed == (cell or default)


def test_a_request_keeps_what_its_row_says_of_the_clip() -> None:
    expires_at = datetime(2030, 1, 1, tzinfo=UTC)
    request = request_of(
        {
            "clip_name": "ada-1",
            "subject_id": "ada",
            "face_index": 0,
            "priority": -3,
            "consent_ref": "c1",
            "consent_expires_at": expires_at,
            "tags": [("campaign", "x")],
        }
    )
    assert (request.row, request.subject_uris) == (10, ("/photos/a.jpg",))
    assert (request.clip_name, request.subject_id, request.face_index, request.priority) == ("ada-1", "ada", 0, -3)
    assert (request.consent_ref, request.consent_expires_at, request.tags) == ("c1", expires_at, {"campaign": "x"})


@pytest.mark.parametrize("uri", ["/x/a.jpg", "s3://bucket/a.jpg", "https://host/a.jpg?sig=1"])
def test_an_absolute_photo_stays_where_it_is(uri: str) -> None:
    assert request_of({"subject_uri": uri}).subject_uris == (uri,)


def test_all_problems_of_all_rows_are_told_at_once() -> None:
    requests, problems = check(
        {"width": 833, "num_frames": 80, "guidance_scale": NAN},
        {},
        {"prompt": " ", "subject_uri": None, "seed": -1, "face_index": -1, "num_guidance_branches": 4},
    )
    assert [request.row for request in requests] == [11]
    assert [(problem.row, problem.column) for problem in problems] == [
        (10, "width"),
        (10, "num_frames"),
        (10, "guidance_scale"),
        (12, "subject_uri"),
        (12, "prompt"),
        (12, "seed"),
        (12, "face_index"),
        (12, "num_guidance_branches"),
    ]
    assert str(problems[0]) == "row 10: width=833: must be a positive multiple of 16 px; the nearest is 832"


@pytest.mark.parametrize(
    "row",
    [
        {"subject_uri": ""},
        {"subject_uri": "a.jpg\n"},
        {"subject_uri": "a\0.jpg"},
        {"prompt": None},
        {"prompt": "\u3000"},
        {"fps": 0},
        {"num_inference_steps": 2**40},
        {"guidance_scale": float("inf")},
        {"guidance_scale_image": -1.0},
        {"ip_scale": NAN},
        {"ref_scale": 11.0},
        {"seed": 2**63 - 1},
        {"height": -(2**63)},
        {"ip_start": -0.5},
        {"ref_end": NAN},
        {"ip_blocks": "8"},
        {"guidance_until": -0.5},
        {"tags": [("campaign", None)]},
    ],
    ids=str,
)
def test_a_cell_that_breaks_a_rule_is_a_problem_of_its_column(row: dict[str, object]) -> None:
    assert columns_of(row) == list(row)


@pytest.mark.parametrize(
    "row", [{"negative_prompt": ""}, {"subject_uri": "Bildschirmfoto\u202f1 微.jpg"}, {"ip_scale": 0.0}]
)
def test_unusual_cells_that_break_no_rule_are_taken(row: dict[str, object]) -> None:
    assert columns_of(row) == []


@pytest.mark.parametrize(
    ("row", "defaults", "scales"),
    [
        ({"num_guidance_branches": 1}, {}, (1.0, None)),
        ({"num_guidance_branches": 1, "guidance_scale": 0.5}, {}, (1.0, None)),
        ({"num_guidance_branches": 2}, {}, (5.0, None)),
        ({"num_guidance_branches": 2, "guidance_scale": 3.0}, {"guidance_scale": 1.0}, (3.0, None)),
        ({"num_guidance_branches": 3}, {}, (5.0, 2.0)),
        ({"num_guidance_branches": 3, "guidance_scale_image": 1.5}, {"guidance_scale_image": None}, (5.0, 1.5)),
        ({"guidance_scale": 1.0, "guidance_scale_image": 0.5}, {}, (1.0, 0.5)),
    ],
)
def test_a_number_of_branches_settles_the_scales(
    row: dict[str, object], defaults: dict[str, object], scales: tuple[float, float | None]
) -> None:
    params = request_of(row, **defaults).params
    assert (params.guidance_scale, params.guidance_scale_image) == scales


@pytest.mark.parametrize(
    ("row", "defaults", "columns"),
    [
        ({"num_guidance_branches": 0}, {}, ["num_guidance_branches"]),
        ({"num_guidance_branches": 1, "guidance_scale": 5.0}, {}, ["guidance_scale"]),
        (
            {"num_guidance_branches": 1, "guidance_scale": 5.0, "guidance_scale_image": 2.0},
            {},
            ["guidance_scale", "guidance_scale_image"],
        ),
        ({"num_guidance_branches": 2, "guidance_scale_image": 2.0}, {}, ["guidance_scale_image"]),
        ({"num_guidance_branches": 2, "guidance_scale": 1.0}, {}, ["guidance_scale"]),
        ({"num_guidance_branches": 2}, {"guidance_scale": 1.0}, ["guidance_scale"]),
        ({"num_guidance_branches": 3}, {"guidance_scale_image": None}, ["guidance_scale_image"]),
        ({"num_guidance_branches": 3, "guidance_scale": 0.0}, {}, ["guidance_scale"]),
        ({"num_guidance_branches": 3, "guidance_scale": NAN}, {}, ["guidance_scale"]),
    ],
)
def test_a_number_of_branches_that_the_scales_contradict_is_a_problem(
    row: dict[str, object], defaults: dict[str, object], columns: list[str]
) -> None:
    assert columns_of(row, **defaults) == columns


def test_a_problem_is_one_line_and_shows_no_signature() -> None:
    _, problems = check({"subject_uri": "https://host/a.jpg?sig=secret\n"}, {"prompt": "\n" * 1000})
    for problem in problems:
        assert "secret" not in repr(problem)
        assert "\n" not in str(problem)
        assert len(str(problem)) < 200


@given(st.lists(st.sampled_from([{}, {"seed": 1}, {"seed": -1}, {"width": 7}, {"prompt": None, "fps": 0}])))
def test_every_row_is_either_a_request_or_has_a_problem(rows: list[dict[str, object]]) -> None:
    requests, problems = check(*rows)
    good, bad = [request.row for request in requests], {problem.row for problem in problems}
    assert sorted([*good, *bad]) == list(range(10, 10 + len(rows)))


def test_rows_that_ask_for_the_same_clip_are_found_before_photos_are_read() -> None:
    requests, _ = check({}, {"seed": 7}, {"clip_name": "another", "priority": 4}, {"face_index": 0}, {"seed": 7})
    problems = find_duplicates(keys_of_requests(requests))
    assert [(problem.row, problem.value) for problem in problems] == [(12, "/photos/a.jpg"), (14, "/photos/a.jpg")]
    assert problems[1].rule == (
        "must not ask for the same clip as row 11, whose photo is /photos/a.jpg; "
        "remove one of them, or render the clip once with --allow-duplicates"
    )


def test_a_range_of_steps_counts_with_the_runs_defaults() -> None:
    assert columns_of({"ip_start": 0.6}, ip_end=0.5) == ["ip_end"]
    assert columns_of({"ip_start": 0.6, "ip_end": 0.8}, ip_end=0.5) == []
    assert columns_of({"ip_start": 1.0, "ip_end": 0.0, "ref_end": 0.1}, ref_start=0.2) == ["ip_end", "ref_end"]


def test_blocks_beyond_the_model_are_problems_of_their_rows() -> None:
    requests, _ = check({"ip_blocks": "8-31"}, {}, {"ip_blocks": "0-40", "ref_blocks": "40-41"})
    kept, problems = check_blocks(requests, num_blocks=40)
    assert [request.row for request in kept] == [10, 11]
    assert [(problem.row, problem.column) for problem in problems] == [(12, "ip_blocks"), (12, "ref_blocks")]
    assert str(problems[0]) == "row 12: ip_blocks='0-40': must lie within the model's blocks, 0-39"


def test_copies_of_a_photo_ask_for_the_same_clip() -> None:
    uris = ("https://host/a.jpg?sig=secret", "copy.jpg", "b.jpg", "gone.jpg")
    requests, _ = check(*({"subject_uri": uri} for uri in uris))
    assert find_duplicates(keys_of_requests(requests)) == []
    contents = ["0" * 64, "0" * 64, "1" * 64]
    photos = {request.subject_uris[0]: content for request, content in zip(requests, contents, strict=False)}
    clips = [make_clip(content, r, photo_sha256=content) for r, content in zip(requests, contents, strict=False)]
    for keys in (keys_of_requests(requests, photos), keys_of_clips(clips)):
        (problem,) = find_duplicates(keys)
        assert (problem.row, problem.column, problem.value) == (11, "subject_uri", "/photos/copy.jpg")
        assert "as row 10, whose photo is https://host/a.jpg;" in problem.rule


def test_a_name_that_two_clips_of_a_subject_share_is_a_problem_of_the_later_row() -> None:
    requests, _ = check(
        {"clip_name": "a"},
        {"clip_name": "a", "prompt": "another"},
        {"clip_name": "a"},
        {"clip_name": "a", "subject_id": "ada", "prompt": "another"},
        {"clip_name": "A", "seed": 1},
        {"seed": 2},
        {"seed": 3},
    )
    problem, in_capitals = find_shared_names(keys_of_requests(requests))
    assert str(problem) == "row 11: clip_name='a': must not also be the name of row 10, which asks for another clip"
    assert str(in_capitals).startswith(
        "row 14: clip_name='A': must not also be the name of row 10 on disks that ignore"
    )


def test_names_that_are_one_file_on_some_disks_are_told() -> None:
    base = request_of({"subject_id": "Ada", "clip_name": "Wave"})
    other = replace(base, params=replace(base.params, seed=9))
    same_clip = replace(base, row=11, clip_name="wave")
    requests = [base, same_clip, replace(other, row=12, subject_id="ada"), replace(other, row=13, subject_id="bob")]
    (problem,) = find_shared_names(keys_of_requests(requests))
    told = "must not also be the name of row 10 on disks that ignore upper and lower case (macOS, Windows), which asks for another clip"
    assert str(problem) == f"row 12: clip_name='Wave': {told}"


def test_a_consent_holds_until_it_expires() -> None:
    request = request_of({})
    at = {row: NOW + timedelta(seconds=row) for row in (-1, 0, 1)}
    requests = [replace(request, row=row, consent_expires_at=time) for row, time in at.items()]
    kept, rejections = reject_without_consent([request, *requests], LENIENT, NOW)
    assert [r.row for r in kept] == [10, 1]
    assert [(r.row, r.error_type) for r in rejections] == [(-1, "ConsentExpired"), (0, "ConsentExpired")]
    assert rejections[1].error == "consent_expires_at=2026-07-01T12:00:00+00:00: must be in the future"


def test_a_bad_row_is_rejected_with_all_that_it_holds() -> None:
    rows = [GOOD | {"seed": 7, "tags": [("team", None)], "width": 1}, GOOD, {"prompt": "Hi.", "subject_id": "ada"}]
    table = pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA).add_column(0, "row", pa.array([4, 5, 6]))
    defaults = DefaultsConfig(**{"height": 320})
    _, problems = check_rows(table, defaults, InputsConfig(), "/photos")

    first, second = reject_invalid(problems, table, defaults, "/photos")

    assert (first.row, first.error_type) == (4, "InvalidRow")
    assert first.error.startswith("width=1: must be a positive multiple")
    assert "; tags=" in first.error
    told = [first.inputs[name] for name in ("subject_uri", "prompt", "width", "height", "seed", "tags")]
    assert told == ["/photos/a.jpg", "一个人微笑", 1, 320, 7, [("team", None)]]
    assert (second.row, second.error) == (6, "subject_uri=None: must not be null, unless subject_uris names the photos")
    assert (second.inputs["prompt"], second.inputs["subject_id"], second.inputs["seed"]) == ("Hi.", "ada", None)


def test_a_row_whose_consent_expired_is_rejected_with_all_that_it_holds() -> None:
    cells = {"subject_id": "ada", "clip_name": "wave", "face_index": 1, "consent_expires_at": NOW, "width": 480}
    _, (rejection,) = reject_without_consent([request_of(cells)], LENIENT, NOW)
    told = {name: rejection.inputs[name] for name in (*cells, "seed", "subject_uri")}
    assert told == cells | {"seed": None, "subject_uri": "/photos/a.jpg"}
    _, (seeded,) = reject_without_consent([request_of(cells | {"seed": 3})], LENIENT, NOW)
    assert seeded.inputs["seed"] == 3


ROWS = st.fixed_dictionaries(
    {
        "subject_uri": st.sampled_from(["a.jpg", "b.jpg", "s3://bucket/a.jpg", "", "ftp://host/a.jpg"]),
        "prompt": st.sampled_from(["waves", "smiles", " "]),
    },
    optional={
        "width": st.sampled_from([64, 832, 65]),
        "seed": st.sampled_from([3, -1]),
        "guidance_scale": st.sampled_from([0.0, -0.0, 1.0, 5.0, NAN]),
        "num_guidance_branches": st.sampled_from([1, 2, 4]),
        "ip_end": st.sampled_from([0.0, 0.5]),
        "ip_start": st.sampled_from([0.2, 0.7]),
        "tags": st.sampled_from([[], [("team", "north")]]),
        "subject_id": st.sampled_from(["ada", "bob"]),
    },
)


@given(st.lists(ROWS, max_size=6), st.sampled_from([None, 7]))
def test_what_a_row_becomes_does_not_depend_on_the_other_rows(rows: list[dict[str, object]], seed: int | None) -> None:
    requests, problems = check(*rows, seed=seed)
    alone = [check(row, seed=seed) for row in rows]  # each is row 10
    assert [replace(request, row=10) for request in requests] == [request for found, _ in alone for request in found]
    told = [(problem.column, problem.rule) for problem in problems]
    assert told == [(problem.column, problem.rule) for _, found in alone for problem in found]

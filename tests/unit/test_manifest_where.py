"""The language of `--where`."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynx_batch.errors import ConfigError
from lynx_batch.intake.expression import choose_rows, filter_rows
from lynx_batch.intake.schema import MANIFEST_SCHEMA

ROWS = [
    {"subject_id": "ada", "prompt": "一个人微笑", "seed": 1, "guidance_scale": 5.0, "priority": -1},
    {"subject_id": "ada", "prompt": "waves", "seed": None, "guidance_scale": 1.5, "tags": [("a", "b")]},
    {"subject_id": "bob", "prompt": "waves", "seed": 3, "consent_expires_at": datetime(2030, 1, 1, tzinfo=UTC)},
]
TABLE = pa.Table.from_pylist(ROWS, schema=MANIFEST_SCHEMA).add_column(0, "row", pa.array([0, 1, 2]))


def choose(where: str) -> list[int]:
    return filter_rows(TABLE, where)["row"].to_pylist()


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("subject_id == 'ada'", [0, 1]),
        ("prompt == '一个人微笑'", [0]),
        ("seed != 1", [2]),
        ("seed is None", [1]),
        ("seed is not None and subject_id == 'ada'", [0]),
        ("seed in [1, 3]", [0, 2]),
        ("seed in (3,)", [2]),
        ("seed in []", []),
        ("seed not in [1]", [2]),
        ("not seed in [1]", [2]),
        ("not (seed == 1)", [2]),
        ("priority == -1", [0]),
        ("guidance_scale > 2", [0]),
        ("guidance_scale >= 1.5", [0, 1]),
        ("subject_id == 'bob' or guidance_scale < 2", [1, 2]),
        ("row >= 1", [1, 2]),
        ("seed <= row", []),
        ("consent_expires_at > '2029-12-31'", [2]),
        ("consent_expires_at < '2030-01-01T00:00:00+01:00'", []),
        (" width is None ", [0, 1, 2]),
        ("tags.a == 'b'", [1]),
        ("tags['a'] in ['b', 'c']", [1]),
        ("tags.a != 'c'", [1]),
        ("tags.a is None", [0, 2]),
        ("tags.other == 'b'", []),
    ],
)
def test_the_rows_for_which_it_is_true_are_chosen(where: str, rows: list[int]) -> None:
    assert choose(where) == rows


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("sed == 1", "column 'sed': unknown; the nearest known one is 'seed'"),
        ("seed == sed", "'sed': unknown"),
        ("tags == 'x'", "'tags': must name one tag, such as tags.city"),
        ("tags.a.b == 'x'", "'tags.a.b': must be a column"),
        ("tags[1] == 'x'", "must be a column"),
        ("tags.a == 1", "'1': must be text"),
        ("seed.a == 1", "'seed.a': only tags have keys"),
        ("seed = 1", "=="),
        ("", "example"),
        ("seed", "'seed': must be a comparison"),
        ("1 == seed", "'1': must be a column"),
        ("0 < seed < 3", "two things at a time"),
        ("seed == 'one'", "'one'.*must be a whole number"),
        ("seed == True", "must be a whole number"),
        ("prompt == 5", "must be text"),
        ("prompt == seed", "no kernel"),
        ("seed == None", "is None"),
        ("seed in [None]", "is None"),
        ("seed in 3", "list"),
        ("seed is 3", "None"),
        ("seed + 1 == 2", "must be a column"),
        ("seed == 1 + 1", "must be a literal"),
        ("__import__('os').system('true')", "must be a comparison"),
        ("seed == __import__('os')", "must be a literal"),
        ("-seed == 1", "must be a column"),
        ("(seed == 1) + (seed == 2)", "must be a comparison"),
        ("consent_expires_at > 'tomorrow'", "must be a time"),
        ("seed == 99999999999999999999", "whole number"),
        ("seed == 1\x00", "null bytes"),
        ("(" * 300 + "seed == 1" + ")" * 300, "nested"),
        ("not " * 9000 + "seed == 1", "at most"),
        ("seed == 1; seed == 2", "invalid syntax"),
        (
            "tags.class == 'gold'",
            r"tags\.class: must be written as tags\['class'\], because 'class' is a reserved word",
        ),
        ("seed == 1 and tags.from is None", r"tags\.from: must be written as tags\['from'\]"),
    ],
)
def test_what_is_not_of_the_language_is_refused_with_the_reason(where: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"(?s)--where.*" + message):
        choose(where)


@given(st.lists(st.none() | st.integers(-5, 5), max_size=30), st.integers(-5, 5))
def test_it_chooses_what_python_would_and_keeps_the_order(seeds: list[int | None], limit: int) -> None:
    table = pa.table({"row": pa.array(range(len(seeds)), pa.int64()), "seed": pa.array(seeds, pa.int64())})
    expected = [row for row, seed in enumerate(seeds) if seed is not None and seed > limit]
    assert filter_rows(table, f"seed > {limit}")["row"].to_pylist() == expected


def test_many_rows_keep_their_order() -> None:
    table = pa.table({"row": pa.array(range(500_000)), "seed": pa.array([1, 2] * 250_000)})
    rows = filter_rows(table, "seed == 2")["row"].to_pylist()
    assert rows == list(range(1, 500_000, 2))


def test_that_nothing_matches_is_told_where_rows_are_wanted() -> None:
    assert choose_rows(TABLE, "seed == 3").num_rows == 1
    with pytest.raises(ConfigError, match="--where 'seed == 4': must match a row, but matches none of 3"):
        choose_rows(TABLE, "seed == 4")


@pytest.mark.parametrize("value", ["{[1]}", "{[]: 1}", "{{}: 1}", "9**9**9", "f(1)"])
def test_what_is_no_literal_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="must be a literal, such as 7 or 'text'"):
        filter_rows(TABLE, f"seed == {value}")


@pytest.mark.parametrize(
    "where", ["seed == " + "-" * 9000 + "1", "(" * 500 + "seed == 1" + ")" * 500, "not " * 2000 + "seed == 1"]
)
def test_an_expression_that_is_nested_too_deeply_is_refused(where: str) -> None:
    with pytest.raises(ConfigError, match=r"--where .*(nested|parentheses)"):
        filter_rows(pa.table({"row": [0], "seed": [1]}), where)

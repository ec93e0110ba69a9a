"""Run files mean what they look like."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynx_batch.errors import ConfigError
from lynx_batch.yaml_text import read_yaml, write_yaml

TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]))  # PyYAML writes some of these as they are
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("a: !!bool maybe", "must be true or false"),
        ("a: !!int x", "must be a whole number"),
        ('a: !!int ""', "must be a whole number"),
        ('a: !!int "1:30"', "must be a whole number"),
        ("a: !!float x", "must be a number"),
        ("a: " + "9" * 5000, "must be a whole number of at most 64 bits"),
        ('a: !!timestamp "hello"', "tag .*timestamp': must be one of !!null"),
        ("a: !!python/object:os.system x", "must be one of !!null"),
        ("a: !mine x", "tag '!mine': must be one of"),
        ("a: !!set {b}", "must be one of"),
        ("a: 0x" + "f" * 17, "must be a whole number of at most 64 bits"),
        ('a: "\\ud800"', "must be text in Unicode, without NUL"),
        ('a: "b\\0"', "must be text in Unicode, without NUL"),
        ("a: " + "[" * 50_000, "must not be nested so deeply"),
    ],
)
def test_a_tag_that_does_not_fit_its_value_is_told_with_its_line(text: str, rule: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?s)^run file r: .*{rule}.*line 1"):
        read_yaml(text, source="run file r")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("0100", 100), ("007", 7), ("-012", -12), ("+5", 5), ("0x1F", 31), ("0o17", 15), ("0b11", "0b11")),
        *((".5", 0.5), ("1e3", 1000.0), ("1.", 1.0), ("-2.5E-3", -0.0025), ("08.5", 8.5), (".inf", math.inf)),
        *(("1:30", "1:30"), ("1:30.5", "1:30.5"), ("1_000", "1_000"), ("1_0.5", "1_0.5"), ("-0x10", "-0x10")),
        *(("yes", "yes"), ("no", "no"), ("on", "on"), ("Off", "Off"), ("y", "y"), ("true", True), ("False", False)),
        *(("2027-01-31", "2027-01-31"), ("=", "="), ("<<", "<<"), ("", None), ("~", None), ("null", None)),
        *(("'0100'", "0100"), ('"1e3"', "1e3"), ("!!int 0100", 100), ("!!float 1e3", 1000.0)),
    ],
)
def test_a_scalar_means_what_it_looks_like(text: str, value: object) -> None:
    found = read_yaml(text, source="s")
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    "text",
    [
        "defaults: {width: 480}\ndefaults: {height: 480}",
        "a: {b: 1, b: 1}",
        "a: [{b: {c: 1, 'c': 2}}]",
        "1: a\n0x1: b",
        "a: 1\n? a\n: 2",
    ],
)
def test_a_key_that_comes_twice_is_an_error_at_any_depth(text: str) -> None:
    with pytest.raises(ConfigError, match=r"(?s)^run file r: key .*: must not appear twice.*line"):
        read_yaml(text, source="run file r")


@pytest.mark.parametrize(
    "text",
    [
        "a: [1",
        "a: \x07",
        "[a]: b",
        "{a: b}: c",
        "a: " + "9" * 5000,
        "[" * 5000,
        "!!int many",
        "!!float",
        "a: &x [*x]",
        "a: 1\n---\nb: 2",
    ],
)
def test_what_is_not_yaml_is_an_error_that_names_its_source(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^run file r: "):
        read_yaml(text, source="run file r")


def test_anchors_may_be_repeated_with_keys_of_their_own() -> None:
    assert read_yaml("a: &x {b: 1}\nc: *x\nd: {b: 2}", source="s") == {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 2}}


@given(VALUES)
def test_what_is_written_is_read_again_as_it_was(value: object) -> None:
    assert read_yaml(write_yaml(value), source="s") == value


@pytest.mark.parametrize("text", ["1e3", "0100", "0o7", "1:30", "yes", "null", "~", "2027-01-31", "0x10", ".5", ".inf"])
def test_text_that_looks_like_something_else_stays_text(text: str) -> None:
    assert read_yaml(write_yaml({"negative_prompt": text}), source="s") == {"negative_prompt": text}


def test_aliases_of_aliases_are_refused_before_they_are_written_out() -> None:
    bomb = ["- &a0 x", *(f"- &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    with pytest.raises(
        ConfigError, match=r"at most 1,048,576 values and characters, counting what its aliases stand for"
    ):
        read_yaml("\n".join(bomb), source="r")


def test_aliases_of_a_long_text_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"counting what its aliases stand for"):
        read_yaml(f"- &a {'x' * 10_000}\n" + "- *a\n" * 1000, source="r")


def test_an_alias_means_what_its_anchor_does() -> None:
    assert read_yaml("a: &x [1, 2]\nb: *x", source="r") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize("text", ["&a [*a]", "&a {b: *a}", "a: &b {c: [*b]}"])
def test_a_value_within_itself_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="recursive"):
        read_yaml(text, source="r")


def test_blocks_that_are_nested_too_deeply_are_refused() -> None:
    with pytest.raises(ConfigError, match="must not be nested so deeply"):
        read_yaml("".join(f"{' ' * n}-\n" for n in range(1000)), source="r")

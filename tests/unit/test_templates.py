"""Templates of prompts: how they are written, filled, and refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lynx_batch.errors import ConfigError
from lynx_batch.intake.templates import (
    PromptTemplate,
    fill,
    make_templates,
    parse_template,
    read_templates,
    refuse_unknown_fields,
)


def filled(template: str, **values: str) -> str:
    found = fill(parse_template(template), values)
    assert not found.faults
    return found.prompt


def test_fields_take_values_defaults_or_nothing() -> None:
    assert filled("{{first_name}} waves.", first_name="Zoë") == "Zoë waves."
    assert filled("In {{ City | Bad Homburg }}.", city="") == "In Bad Homburg."
    assert filled("In {{city|Berlin}}.", city="Köln") == "In Köln."
    assert filled("A {{colour}} boat.") == "A boat."
    assert filled("{{a}}{{b!}}{{c:3}}", a="1", b="2", c="3") == "123"
    assert filled("A person,\u3000 as it is.") == "A person,\u3000 as it is."
    assert filled("{{scene}} now", scene="two\r\nlines ") == "two lines now"


@given(st.text(max_size=20))
def test_a_value_is_text_whatever_it_looks_like(value: str) -> None:
    assert fill(parse_template("<{{a:9999}}>"), {"a": value, "b": "no"}).prompt == f"<{' '.join(value.split())}>"
    assert filled("{{a}}", a="{{b}} {{b|x}} {{b!}}", b="no") == "{{b}} {{b|x}} {{b!}}"


def test_missing_and_long_values_are_faults() -> None:
    template = parse_template("{{product!}} for {{name:5}} in {{place}}")
    found = fill(template, {"name": "Wilhelmina", "place": "x" * 101})
    assert found.faults == (
        "product: must not be empty, because a template requires it",
        "name='Wilhelmina': must have at most 5 characters, not 10; a template may allow more: {{name:10}}",
        f"place='{'x' * 59}...: must have at most 100 characters, not 101; a template may allow more: {{{{place:101}}}}",
    )
    assert fill(parse_template("{{a}} and {{b|}}"), {}).empty == ("a",)


@pytest.mark.parametrize(
    "text", ["{{city", "city}}", "{{}}", "{{a{{b}}}}", "{{a|{b}}}", "{{:3}}", "{{a:x}}", "{{a!|b}}"]
)
def test_malformed_fields_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse_template(f"A person in {text}.")


def test_all_faults_of_a_file_are_named_with_their_lines(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("waves {{a\n\n{{a!|b}}\nsmiles\nsmiles\n")
    with pytest.raises(ConfigError) as caught:
        read_templates(str(tmp_path / "p.txt"))
    head, *faults = str(caught.value).splitlines()
    assert head.endswith("p.txt: 3 faults")
    assert [fault.split(": ")[0].strip() for fault in faults] == ["line 1", "line 3", "line 5"]
    (tmp_path / "p.txt").write_text("\n \n")
    with pytest.raises(ConfigError, match="there must be at least one"):
        read_templates(str(tmp_path / "p.txt"))


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_a_file_has_a_prompt_a_line_whatever_ends_its_lines(tmp_path: Path, end: str) -> None:
    (tmp_path / "p.txt").write_bytes(end.join(["waves", "", "smiles\u2028again", "{{a"]).encode())
    with pytest.raises(ConfigError, match="line 4: "):
        read_templates(str(tmp_path / "p.txt"))
    (tmp_path / "p.txt").write_bytes(end.join(["waves", "", "smiles\u2028again", ""]).encode())
    assert [each.texts[""].text for each in read_templates(str(tmp_path / "p.txt"))] == ["waves", "smiles\u2028again"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize(("name", "head"), [("p.txt", ""), ("p.csv", "prompt\n")])
def test_a_byte_order_mark_overrules_the_encoding_that_is_given(
    tmp_path: Path, encoding: str, name: str, head: str
) -> None:
    (tmp_path / name).write_bytes(f"{head}Zoë 微笑".encode(encoding))
    for stated in ("cp1252", "gb18030", None):
        (template,) = read_templates(str(tmp_path / name), stated)
        assert template.texts[""].text == "Zoë 微笑"


def test_a_table_has_a_column_for_each_language(tmp_path: Path) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text("Name;Prompt;de;zh\nparty;{{name}} dances.;{{name}} tanzt.;{{name}}在跳舞。\nsea;By the sea.;;\n")
    party, sea = read_templates(str(file))
    assert (party.name, sea.name) == ("party", "sea")
    assert [party.choose(language).text for language in ("de", "zh", "fr", "")] == [
        "{{name}} tanzt.",
        "{{name}}在跳舞。",
        "{{name}} dances.",
        "{{name}} dances.",
    ]
    assert sea.choose("de").text == "By the sea."
    file.write_text("name;de\nparty;{{name\nparty;x\nsea;\n")
    with pytest.raises(ConfigError) as caught:
        read_templates(str(file))
    assert [line.split(": ")[:2] for line in str(caught.value).splitlines()[1:]] == [
        ["  line 2", "de"],
        ["  line 3", "name='party'"],
        ["  line 4", "must have a prompt"],
    ]


def test_a_field_must_be_a_column_in_double_braces() -> None:
    with pytest.raises(ConfigError) as caught:
        refuse_unknown_fields(make_templates(["{{fist_name}} in {city}.", "A {smile}."]), {"first_name", "city"})
    assert str(caught.value).splitlines()[1:] == [
        "  prompt p01: {{fist_name}}: must be a column; the nearest is 'first_name'",
        "  prompt p01: {city}: must have double braces, as in {{city}}",
    ]


def test_a_fault_of_many_languages_and_prompts_is_told_once() -> None:
    prompts = [
        PromptTemplate(name=f"p{n:02}", texts={language: parse_template("{{ctiy}}, {city}") for language in ("", "de")})
        for n in range(1, 9)
    ]
    with pytest.raises(ConfigError) as caught:
        refuse_unknown_fields(prompts, {"city"})
    others = "(also prompt p02, prompt p03, prompt p04, prompt p05, prompt p06 and 2 more)"
    assert str(caught.value).splitlines() == [
        "prompts: 2 faults",
        f"  prompt p01: {{{{ctiy}}}}: must be a column; the nearest is 'city' {others}",
        f"  prompt p01: {{city}}: must have double braces, as in {{{{city}}}} {others}",
    ]

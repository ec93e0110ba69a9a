"""Photos and prompts, or rows of text, become a manifest."""

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from openpyxl import Workbook
from structlog.testing import capture_logs

from lynx_batch.config import DefaultsConfig, InputsConfig
from lynx_batch.errors import ConfigError, MissingObject
from lynx_batch.intake.build import build_from_folder, build_from_table, place_photos
from lynx_batch.intake.check import check_rows
from lynx_batch.intake.grid import make_axes
from lynx_batch.intake.headers import parse_map
from lynx_batch.intake.manifest import folder_of, read_manifest, write_manifest
from lynx_batch.intake.people import ColumnUse
from lynx_batch.intake.schema import MANIFEST_SCHEMA
from lynx_batch.intake.tables import ReadOptions, SourceTable, read_source
from lynx_batch.intake.templates import PromptTemplate, make_templates, parse_template, read_templates


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("grace-hopper.PNG", "艾达.jpg", "CREDITS.md", "more/another.jpg"):
        (folder / name).write_bytes(b"x")
    return folder


def build_text(tmp_path: Path, name: str, text: str) -> pa.Table:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    return build_from_table(read_source(str(tmp_path / name)))


def build_photos(folder: object, prompts: list[str], seeds: str | None = None) -> pa.Table:
    return build_from_folder(str(folder), make_templates(prompts), make_axes((), (), seeds))


def test_what_is_no_photo_is_listed_with_the_reason(photos: Path) -> None:
    names = (".DS_Store", "._grace-hopper.PNG", "Thumbs.db", ".thumbnails/a.jpg")
    for name in (*names, os.fsdecode(b"bad\x80.jpg")):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"x")
    with capture_logs() as logs:
        table = build_photos(photos, ["waves"])
    assert table["subject_id"].to_pylist() == ["grace-hopper", "艾达"]
    (told,) = logs
    assert told["num_files"] == 7
    assert [file.partition(": ")[2] for file in sorted(told["files"])] == [
        "a hidden file or a file of the operating system",
        "a hidden file or a file of the operating system",
        "a hidden file or a file of the operating system",
        "not a photo",
        "a hidden file or a file of the operating system",
        "its name is not UTF-8",
        "in a sub-folder, which is not searched without --recursive",
    ]


@pytest.mark.parametrize("name", ["ada.jfif", "ada.JPE", "ada.jpeg"])
def test_every_usual_suffix_of_a_jpeg_is_that_of_a_photo(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert build_photos(tmp_path, ["waves"])["subject_id"].to_pylist() == ["ada"]


def test_what_is_no_file_among_photos_is_told_too(photos: Path, tmp_path: Path) -> None:
    team = tmp_path / "team"
    team.mkdir()
    (photos / "team").symlink_to(team)
    (photos / "gone.jpg").symlink_to(photos / "nowhere.jpg")
    os.mkfifo(photos / "pipe.jpg")
    with capture_logs() as logs:
        build_photos(photos, ["waves"])
    assert [
        file for log in logs for file in log["files"] if file.partition(":")[0] in ("team", "gone.jpg", "pipe.jpg")
    ] == [
        "gone.jpg: a link to nothing",
        "pipe.jpg: neither a file nor a folder",
        "team: a linked folder, which is not searched",
    ]


def test_every_photo_meets_every_prompt_and_every_seed(photos: Path) -> None:
    table = build_photos(photos, ["waves", "微笑"], "1,2")
    assert table.schema.equals(MANIFEST_SCHEMA, check_metadata=True)
    assert table.num_rows == 2 * 2 * 2
    rows = table.select(["subject_id", "prompt", "seed", "clip_name"]).to_pylist()
    assert rows[1] == {"subject_id": "grace-hopper", "prompt": "waves", "seed": 2, "clip_name": "grace-hopper-p01-s2"}
    assert rows[6] == {"subject_id": "艾达", "prompt": "微笑", "seed": 1, "clip_name": "艾达-p02-s1"}
    assert len(set(table["clip_name"].to_pylist())) == table.num_rows


def test_without_seeds_the_column_is_null_and_names_do_not_tell_one(photos: Path) -> None:
    table = build_photos(photos, ["waves"])
    assert table["seed"].null_count == 2
    assert table["clip_name"].to_pylist() == ["grace-hopper-p01", "艾达-p01"]


def test_photos_that_differ_in_their_suffix_alone_are_two_subjects(photos: Path) -> None:
    for name in ("艾达.png", "艾达.jpg.png"):
        (photos / name).write_bytes(b"x")
    table = build_photos(photos, ["waves"])
    assert table["subject_id"].to_pylist() == ["grace-hopper", "艾达.jpg", "艾达.jpg.png", "艾达.png"]


@pytest.mark.parametrize(
    ("prompts", "seeds", "message"),
    [
        (["waves", "waves"], None, "line 2: prompt 'waves': must appear only once"),
        (["waves"], "1,2,1", "--seeds: 1 must appear only once"),
    ],
)
def test_what_would_make_no_clip_or_one_twice_is_refused(
    photos: Path, prompts: list[str], seeds: str | None, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_photos(photos, prompts, seeds)


def test_a_folder_without_photos_is_refused(photos: Path) -> None:
    for folder in (photos / "none", photos.parent):
        with pytest.raises(ConfigError, match="must be a folder with a photo"):
            build_photos(folder, ["waves"])


def test_prompts_are_the_lines_that_are_not_empty(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes("\ufeffwaves\r\n\r\n  微笑\u2028站着 \n".encode())
    templates = read_templates(str(tmp_path / "p.txt"))
    assert [(each.name, each.texts[""].text) for each in templates] == [("p01", "waves"), ("p02", "微笑\u2028站着")]


def test_a_text_file_of_another_encoding_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes("微笑着".encode("gb18030"))
    with pytest.raises(ConfigError, match=r"p\.txt: must be UTF-8"):
        read_templates(str(tmp_path / "p.txt"))


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_photos_of_a_built_manifest_are_found_from_where_it_was_written(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_elsewhere: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    out = "out/deep/m.parquet"
    if is_elsewhere:
        (tmp_path / "real" / "deep").mkdir(parents=True)
        (tmp_path / "out").symlink_to(tmp_path / "real")
    table = place_photos(build_photos("photos", ["waves"]), out)
    write_manifest(table, out)
    assert table["subject_uri"][0].as_py() == "../../photos/grace-hopper.PNG"
    monkeypatch.chdir("/")
    uri = str(tmp_path / out)
    requests, _ = check_rows(read_manifest(uri), DefaultsConfig(), InputsConfig(), folder_of(uri))
    for request in requests:
        assert os.path.isabs(request.subject_uris[0])
        assert Path(request.subject_uris[0]).read_bytes() == b"x"


def test_photos_of_a_manifest_in_a_bucket_are_absolute() -> None:
    table = pa.table({"subject_uri": ["a.jpg", "s3://b/c.jpg", None]})
    placed = place_photos(table, "s3://b/m.parquet")["subject_uri"].to_pylist()
    assert placed == [os.path.abspath("a.jpg"), "s3://b/c.jpg", None]
    assert place_photos(table, "m.parquet")["subject_uri"].to_pylist() == ["a.jpg", "s3://b/c.jpg", None]


def test_cells_of_csv_get_the_types_of_their_columns(tmp_path: Path) -> None:
    text = (
        "\ufeffsubject_uri,prompt,seed,width,guidance_scale,consent_expires_at,tags\r\n"
        '/a.jpg,"微笑, 挥手",9007199254740993,832.0,5,2030-01-01,"{""campaign"": ""x""}"\r\n'
        "\r\n"
        's3://b/c.jpg,"two\nlines",,,,2030-01-01T00:00:00+01:00,\r\n'
    )
    rows = build_text(tmp_path, "rows.CSV", text).to_pylist()
    assert {name: cell for name, cell in rows[0].items() if cell is not None} == {
        "subject_uri": "/a.jpg",
        "prompt": "微笑, 挥手",
        "seed": 9007199254740993,
        "width": 832,
        "guidance_scale": 5.0,
        "consent_expires_at": datetime(2030, 1, 1, tzinfo=UTC),
        "tags": [("campaign", "x")],
        "source_line": 2,
    }
    assert rows[1]["prompt"] == "two\nlines"
    assert rows[1]["seed"] is None
    assert rows[1]["consent_expires_at"] == datetime(2029, 12, 31, 23, tzinfo=UTC)


def test_lines_of_json_get_the_types_of_their_columns(tmp_path: Path) -> None:
    lines = [
        {"subject_uri": "a.jpg", "prompt": "微笑", "seed": 2**62 + 1, "ip_scale": 1, "tags": {"a": "b"}},
        {"subject_uri": "/b.jpg", "prompt": " 笑 ", "seed": None},
    ]
    rows = build_text(tmp_path, "rows.jsonl", "\n".join(json.dumps(line) for line in lines) + "\n\n").to_pylist()
    assert rows[0]["subject_uri"] == str(tmp_path / "a.jpg")
    assert (rows[0]["seed"], rows[0]["ip_scale"], rows[0]["tags"]) == (2**62 + 1, 1.0, [("a", "b")])
    assert (rows[1]["prompt"], rows[1]["seed"]) == (" 笑 ", None)


def test_every_fault_of_csv_is_named_with_line_column_value_and_rule(tmp_path: Path) -> None:
    text = 'subject_uri,prompt,seed,consent_expires_at\n"a\n.jpg",waves,one,never\nb.jpg,waves\nc.jpg,waves,1.5,\n'
    with pytest.raises(ConfigError) as caught:
        build_text(tmp_path, "rows.csv", text)
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/rows.csv: 4 faults",
        "  line 2: seed='one': must be a whole number of at most 64 bits",
        "  line 2: consent_expires_at='never': must be a time such as 2027-01-31T12:00:00Z",
        "  line 4: must have 4 cells, as line 1 has; it has 2",
        "  line 5: seed='1.5': must be a whole number of at most 64 bits",
    ]


def test_every_fault_of_json_lines_is_named_with_line_column_value_and_rule(tmp_path: Path) -> None:
    lines = [
        '{"subject_uri": "a.jpg", "prompt": "waves", "seed": true, "tags": {"a": 1}}',
        "[1]",
        "{",
        '{"subject_uri": "a.jpg", "promt": "waves"}',
        '{"subject_uri": 5, "prompt": "\\ud800", "seed": 9223372036854775808, "width": NaN, "fps": Infinity}',
    ]
    with pytest.raises(ConfigError) as caught:
        build_text(tmp_path, "rows.jsonl", "\n".join(lines))
    starts = [
        "line 1: seed=True: must be a whole number",
        "line 1: tags={'a': 1}: must be a map of text to text",
        "line 2: must be a JSON object, not [1]",
        "line 3: must be a JSON object (",
        "line 4: column 'promt': unknown; the nearest known one is 'prompt'; --keep promt makes a tag of it",
        "line 5: subject_uri=5: must be text",
        "line 5: prompt='\\ud800': must be text",
        "line 5: seed=9223372036854775808: must be a whole number",
        "line 5: width=nan: must be a whole number",
        "line 5: fps=inf: must be a whole number",
    ]
    for line, start in zip(str(caught.value).splitlines()[1:], starts, strict=True):
        assert line.strip().startswith(start)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("rows.csv", "", "line 1: column 'subject_uri': required"),
        ("rows.csv", "subject_uri,prompt\n\n", "must have a row below the names of its columns"),
        ("rows.csv", "subject_uri,prompt,prompt\n", "column 'prompt': must appear once"),
        ("rows.csv", "subject_uri,prompt,sed\n", "column 'sed': unknown; the nearest known one is 'seed'"),
        ("rows.csv", 'subject_uri,prompt\na,"b" c\n', "line 2: must be CSV"),
        (
            "rows.jsonl",
            '{"subject_uri": "a", "prompt": "b", "seed": 1, "seed": 2}',
            "line 1: .*'seed' must appear only once",
        ),
        ("rows.ods", "", r"must be a \.csv, \.tsv, \.xlsx, \.xlsm, \.jsonl file"),
    ],
)
def test_a_file_that_is_no_table_of_the_schema_is_refused_by_name(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=rf"(?s){name}.*{message}"):
        build_text(tmp_path, name, text)


def test_thousands_of_faults_are_counted_and_not_all_listed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)1000 fault.*\.\.\. and 950 more") as caught:
        build_text(tmp_path, "rows.csv", "subject_uri,prompt,seed\n" + "a,b,c\n" * 1000)
    assert len(str(caught.value).splitlines()) == 52


def test_a_missing_table_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingObject, match=r"rows\.csv"):
        read_source(str(tmp_path / "rows.csv"))


PEOPLE = (
    "Foto;Vorname;Stadt;Sprache;guidance_scale\nada.jpg;Zoë;Köln;DE;4,5\nli.jpg;李;;zh;\nbob.jpg;{{Stadt}};Oslo;;5\n"
)
PROMPTS = "name;prompt;de;zh\nparty;{{vorname}} dances in {{stadt|Rome}}.;{{vorname}} tanzt.;{{vorname}}在跳舞。\nsea;By the sea.;;\n"


@pytest.fixture
def people(tmp_path: Path) -> SourceTable:
    (tmp_path / "people.csv").write_text(PEOPLE, encoding="utf-8")
    (tmp_path / "prompts.csv").write_text(PROMPTS, encoding="utf-8")
    return read_source(str(tmp_path / "people.csv"), ReadOptions(renamed={"foto": "subject_uri"}))


def test_people_of_a_table_get_every_prompt_in_their_language_and_their_own_columns_become_tags(
    people: SourceTable, tmp_path: Path
) -> None:
    prompts = read_templates(str(tmp_path / "prompts.csv"))
    table = build_from_table(people, prompts, use=ColumnUse(keep=("stadt",), language="sprache"), photos="/photos")
    rows = table.to_pylist()
    assert [(row["clip_name"], row["prompt"]) for row in rows] == [
        ("ada-party", "Zoë tanzt."),
        ("ada-sea", "By the sea."),
        ("li-party", "李在跳舞。"),
        ("li-sea", "By the sea."),
        ("bob-party", "{{Stadt}} dances in Oslo."),
        ("bob-sea", "By the sea."),
    ]
    assert [row["prompt_template"] for row in rows[:2]] == ["{{vorname}} tanzt.", None]
    assert [row["tags"] for row in rows[::2]] == [[("stadt", "Köln")], None, [("stadt", "Oslo")]]
    assert [row["guidance_scale"] for row in rows[::2]] == [4.5, None, 5.0]
    assert rows[0]["subject_uri"] == "/photos/ada.jpg"


def test_values_that_do_not_fit_are_named_for_every_line_at_once(people: SourceTable) -> None:
    prompts = make_templates(["{{stadt!}} and {{vorname:2}}", "again {{stadt!}}"])
    with pytest.raises(ConfigError) as caught:
        build_from_table(people, prompts, use=ColumnUse(ignore=("*",)))
    assert str(caught.value).splitlines()[1:] == [
        "  line 2: vorname='Zoë': must have at most 2 characters, not 3; a template may allow more: {{vorname:3}}",
        "  line 3: stadt: must not be empty, because a template requires it",
        "  line 4: vorname='{{Stadt}}': must have at most 2 characters, not 9; a template may allow more: {{vorname:9}}",
    ]
    with capture_logs() as logs:
        build_from_table(people, make_templates(["{{stadt}}, {{vorname}}"]), use=ColumnUse(ignore=("*",)))
    assert [log["lines_by_column"] for log in logs] == [{"stadt": 1}]


def test_a_fault_of_many_lines_is_told_once_with_the_lines(tmp_path: Path) -> None:
    lines = [f"{n}.jpg,{'Rome' if n == 4 else ''}" for n in range(9)]
    (tmp_path / "people.csv").write_text("\n".join(["subject_uri,city", *lines]), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        build_from_table(read_source(str(tmp_path / "people.csv")), make_templates(["In {{city!}}.", "{{city!}}"]))
    assert str(caught.value).splitlines()[1:] == [
        "  line 2: city: must not be empty, because a template requires it "
        "(also line 3, line 4, line 5, line 7, line 8 and 2 more)"
    ]


def test_a_language_without_a_text_is_a_fault(people: SourceTable, tmp_path: Path) -> None:
    (tmp_path / "prompts.csv").write_text("name;de\nparty;Alle tanzen.\n")
    prompts = read_templates(str(tmp_path / "prompts.csv"))
    with pytest.raises(
        ConfigError, match=r"(?s)line 3: prompt party: language='zh': must be one of de.*line 4: .*language=''"
    ):
        build_from_table(people, prompts, use=ColumnUse(ignore=("*",), language="sprache"))
    with pytest.raises(ConfigError, match="prompts in de: --language must name the column"):
        build_from_table(people, prompts, use=ColumnUse(ignore=("*",)))


def test_columns_that_nothing_uses_are_named(people: SourceTable) -> None:
    with pytest.raises(ConfigError) as caught:
        build_from_table(people, make_templates(["{{vorname}} waves."]), use=ColumnUse(keep=("stadt",)))
    (fault,) = str(caught.value).splitlines()[1:]
    assert fault.startswith("  line 1: column 'sprache': unknown; the nearest known one is '")
    assert fault.endswith("; --keep sprache makes a tag of it, --ignore sprache leaves it out")
    with pytest.raises(ConfigError, match="--keep 'stat': must be a column of the table; the nearest is 'stadt'"):
        build_from_table(people, make_templates(["Hi."]), use=ColumnUse(keep=("stat",)))
    with pytest.raises(ConfigError, match="line 1: column 'prompt': required, but missing"):
        build_from_table(people, use=ColumnUse(keep=("*",)))


def test_people_of_a_language_without_prompts_are_counted(people: SourceTable) -> None:
    texts = {"": parse_template("Hi."), "de": parse_template("Hallo.")}
    prompts = [PromptTemplate(name="p01", texts=texts)]
    with capture_logs() as logs:
        table = build_from_table(people, prompts, use=ColumnUse(ignore=("*",), language="sprache"))
    (warning,) = [entry for entry in logs if entry["event"] == "language_without_prompts"]
    assert warning["rows_by_language"] == {"zh": 1}
    assert table["prompt"].to_pylist() == ["Hallo.", "Hi.", "Hi."]


def test_all_other_columns_can_be_kept(people: SourceTable) -> None:
    table = build_from_table(people, make_templates(["Hi {{vorname}}."]), use=ColumnUse(keep=("*",)))
    assert table["tags"].to_pylist()[0] == [("stadt", "Köln"), ("sprache", "DE")]


def test_a_grid_multiplies_the_rows_and_names_the_clips(people: SourceTable) -> None:
    axes = make_axes(["ip_scale=0.6:1.0:0.2"], ["9:16-480p", "1:1-480p"], "1-4")
    table = build_from_table(people, make_templates(["Hi."]), axes, use=ColumnUse(ignore=("*",)), consent_ref="CRM-1")
    assert table.num_rows == 3 * 3 * 2 * 4
    assert len({*table["clip_name"].to_pylist()}) == table.num_rows
    row = table.slice(0, 1).to_pylist()[0]
    assert row["clip_name"] == "ada-p01-ip_scale0.6-9x16-480p-s1"
    assert (row["width"], row["height"], row["ip_scale"], row["seed"]) == (480, 832, 0.6, 1)
    assert row["consent_ref"] == "CRM-1"
    with pytest.raises(ConfigError, match=r"guidance_scale: must not be both a column of .* and varied"):
        build_from_table(
            people, make_templates(["Hi."]), make_axes(["guidance_scale=4,5"], [], None), use=ColumnUse(ignore=("*",))
        )


def test_rules_of_single_cells_are_checked_with_the_lines_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        build_text(
            tmp_path, "rows.csv", "subject_uri,prompt,width,clip_name\n\na.jpg,waves,833,../x\n,waves,,\na.jpg,,,\n"
        )
    assert str(caught.value).splitlines()[1:] == [
        "  line 3: width=833: must be a positive multiple of 16 px; the nearest is 832",
        "  line 3: clip_name='../x': must be a relative path without empty parts, '.' and '..'",
        "  line 4: subject_uri: must not be null, unless subject_uris names the photos",
        "  line 5: prompt: must not be null",
    ]


@pytest.mark.parametrize(
    ("column", "link", "name"),
    [
        ("subject_uri", "https://crm.example.com/photo/ada?token=SECRET", "ada-p01"),
        ("subject_uri", "https://cdn.example.com/carl.png?sig=abc/def.SECRET", "carl-p01"),
        ("subject_uri", "https://cdn.example.com/dora.png#SECRET", "dora-p01"),
        ("subject_uri", "https://user:SECRET@cdn.example.com", "cdn.example-p01"),
        ("subject_uri", "s3://bucket/eve.jpg?versionId=SECRET", "eve-p01"),
        ("subject_uri", "why?/a#1.jpg", "a#1-p01"),
        ("subject_id", "https://crm.example.com/people/7?key=a/SECRET", "7-p01"),
    ],
)
def test_a_clip_that_is_named_after_a_link_has_no_secret_of_it(
    tmp_path: Path, column: str, link: str, name: str
) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps({"subject_uri": "a.jpg", column: link}), encoding="utf-8")
    table = build_from_table(read_source(str(tmp_path / "rows.jsonl")), make_templates(["waves"]))
    assert table["clip_name"].to_pylist() == [name]


def test_a_fault_of_a_link_does_not_tell_its_secret(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('subject_uris,note\n"[""https://x.org/a.jpg?sig=SECRET"", 1]",x\n')
    with pytest.raises(ConfigError, match=r"subject_uris=.*x\.org/a\.jpg.* must be a list of texts") as caught:
        build_from_table(read_source(str(tmp_path / "rows.csv")), make_templates(["{{note}}"]))
    assert "SECRET" not in str(caught.value)


def build_ignoring(table: SourceTable, *ignored: str, prompt: str = "Hi.") -> pa.Table:
    return build_from_table(table, make_templates([prompt]), use=ColumnUse(ignore=ignored))


def test_half_an_emoji_is_a_fault_where_a_text_is_used(tmp_path: Path) -> None:
    lines = [
        '{"subject_uri": "a.jpg", "bio": "hi \\ud83d", "lang": "\\udc00", "n": 1}',
        '{"subject_uri": "b.jpg", "bio": "x"}',
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    table = read_source(str(tmp_path / "rows.jsonl"))
    bio, lang = "line 1: bio='hi \\ud83d': must be text", "line 1: lang='\\udc00': must be text"
    for template, use, fault in (
        ("Hi.", ColumnUse(keep=("bio",), ignore=("*",)), bio),
        ("{{bio!}}", ColumnUse(ignore=("*",)), bio),
        ("{{bio}}", ColumnUse(ignore=("bio", "*")), bio),
        ("Hi.", ColumnUse(ignore=("*",), language="lang"), lang),
    ):
        with pytest.raises(ConfigError) as caught:
            build_from_table(table, make_templates([template]), use=use)
        assert str(caught.value).splitlines()[1:] == [f"  {fault}"]
    assert build_ignoring(table, "*").num_rows == 2


def test_columns_of_signs_or_without_a_name_can_be_left_out(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(",#,€ ,subject_uri,\n0,1,2,a.jpg,note\n1,,,b.jpg,\n", encoding="utf-8")
    table = read_source(str(tmp_path / "rows.csv"))
    assert [*table.columns] == ["#", "€", "subject_uri"]
    assert table.faults == (
        "line 2: '0': its column must have a name in line 1",
        "line 2: 'note': its column must have a name in line 1",
        "line 3: '1': its column must have a name in line 1",
    )
    assert build_ignoring(table, "*")["subject_uri"].to_pylist() == [str(tmp_path / n) for n in ("a.jpg", "b.jpg")]
    assert build_ignoring(table, "*", prompt="Number {{#}}.")["prompt"].to_pylist() == ["Number 1.", "Number ."]
    with pytest.raises(ConfigError, match="its column must have a name"):
        build_ignoring(table, "#", "€")


def test_columns_of_a_workbook_without_a_name_and_bad_cells_can_be_left_out(tmp_path: Path) -> None:
    book = Workbook()
    for row in (["subject_uri", None, "city"], ["a.jpg", 7, "Rome", "note"], ["b.jpg", None, "#N/A"]):
        book.active.append(row)
    book.save(tmp_path / "rows.xlsx")
    table = read_source(str(tmp_path / "rows.xlsx"))
    assert table.faults == (
        "line 2: '7': its column must have a name in line 1",
        "line 2: 'note': its column must have a name in line 1",
        "line 3: city: must be a value, not the error #N/A",
    )
    assert build_ignoring(table, "*").num_rows == 2
    assert build_ignoring(table, "city", "*").num_rows == 2
    for template, use in (
        ("Hi.", ColumnUse(keep=("city",), ignore=("*",))),
        ("Hi.", ColumnUse(ignore=("*",), language="city")),
        ("In {{city}}.", ColumnUse(ignore=("city", "*"))),
    ):
        with pytest.raises(ConfigError, match="1 fault\n  line 3: city: must be a value"):
            build_from_table(table, make_templates([template]), use=use)


def test_a_column_of_signs_can_be_renamed(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("#;subject_uri\n7;a.jpg\n", encoding="utf-8")
    table = read_source(str(tmp_path / "rows.csv"), ReadOptions(renamed=parse_map(["# = Subject ID"])))
    assert build_ignoring(table)["subject_id"].to_pylist() == ["7"]


@pytest.mark.parametrize("text", ["1.000", " 12.345", "-1.000"])
def test_a_whole_number_with_a_point_is_refused_where_it_may_group_thousands(tmp_path: Path, text: str) -> None:
    rule = f"line 2: seed='{text}': must be a whole number without a point, which may group thousands"
    for separator in ";\t":
        (tmp_path / "rows.csv").write_text(f"subject_uri;seed\na.jpg;{text}\n".replace(";", separator))
        with pytest.raises(ConfigError, match=re.escape(rule)):
            build_ignoring(read_source(str(tmp_path / "rows.csv")))
        assert build_ignoring(read_source(str(tmp_path / "rows.csv")), "seed").num_rows == 1


def test_a_number_with_a_point_that_is_clear_is_read(tmp_path: Path) -> None:
    (tmp_path / "semicolons.csv").write_text("subject_uri;seed;ip_scale;width\na.jpg;1000;0.125;832.0\n")
    row = build_ignoring(read_source(str(tmp_path / "semicolons.csv"))).to_pylist()[0]
    assert (row["seed"], row["ip_scale"], row["width"]) == (1000, 0.125, 832)
    (tmp_path / "commas.csv").write_text("subject_uri,seed\na.jpg,1.000\n")
    assert build_ignoring(read_source(str(tmp_path / "commas.csv")))["seed"].to_pylist() == [1]


def test_a_tag_of_a_row_must_not_be_a_kept_column_too(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('subject_uri,prompt,city,tags\na.jpg,waves,Rome,"{""city"": ""x""}"\n')
    with pytest.raises(ConfigError, match="line 2: tags='city': must not also be a column that --keep names"):
        build_from_table(read_source(str(tmp_path / "rows.csv")), use=ColumnUse(keep=("city",)))


def test_photos_of_sub_folders_are_named_by_the_shortest_path_that_is_unique(photos: Path) -> None:
    for name in ("team/ada.jpg", "guests/ada.jpg", "guests/ada.png", "guests/bob.HEIC"):
        (photos / name).parent.mkdir(exist_ok=True)
        (photos / name).write_bytes(b"x")
    table = build_from_folder(str(photos), make_templates(["waves"]), is_recursive=True)
    assert table.select(["subject_id", "clip_name"]).to_pylist() == [
        {"subject_id": "grace-hopper", "clip_name": "grace-hopper-p01"},
        {"subject_id": "guests/ada.jpg", "clip_name": "ada.jpg-p01"},
        {"subject_id": "guests/ada.png", "clip_name": "ada.png-p01"},
        {"subject_id": "bob", "clip_name": "bob-p01"},
        {"subject_id": "another", "clip_name": "another-p01"},
        {"subject_id": "team/ada", "clip_name": "ada-p01"},
        {"subject_id": "艾达", "clip_name": "艾达-p01"},
    ]


def test_a_blank_consent_of_a_line_is_none_so_it_gets_the_one_that_is_given(tmp_path: Path) -> None:
    lines = [{"subject_uri": "a.jpg", "prompt": "Hi.", "consent_ref": ref} for ref in ("", " ", None, "own")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    table = build_from_table(read_source(str(tmp_path / "rows.jsonl")), consent_ref="CRM-17")
    assert table["consent_ref"].to_pylist() == ["CRM-17"] * 3 + ["own"]

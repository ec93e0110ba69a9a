"""Tables of people as they come from spreadsheets."""

import zipfile
from collections.abc import Sequence
from datetime import datetime, time
from io import BytesIO
from pathlib import Path

import pytest
from openpyxl import Workbook

from lynx_batch.errors import ConfigError
from lynx_batch.intake import workbook
from lynx_batch.intake.headers import parse_map
from lynx_batch.intake.tables import ReadOptions, SourceTable, read_source
from lynx_batch.intake.templates import read_templates

PEOPLE = "Subject URI;Vor-Name;Straße\r\nada.jpg;Zoë;Größenweg 7\r\n;;\r\nli.jpg;Jürgen;\r\n;;\r\n"

DATA = Path(__file__).parents[1] / "data"


def read(folder: Path, content: bytes | str, name: str = "people.csv", **options: object) -> SourceTable:
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_source(str(folder / name), ReadOptions(**options))


def save(*sheets: tuple[str, Sequence[Sequence[object]]]) -> bytes:
    book = Workbook()
    book.remove(book.active)
    for title, rows in sheets:
        sheet = book.create_sheet(title)
        for row in rows:
            sheet.append(row)
    buffer = BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def cells_of(table: SourceTable) -> list[tuple[int, dict[str, object]]]:
    return [(row.line, dict(row.cells)) for row in table.rows]


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8", "UTF-8"),
        ("utf-8-sig", "UTF-8"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
        ("cp1252", "cp1252"),
    ],
)
def test_the_encoding_is_detected_and_told(tmp_path: Path, encoding: str, said: str) -> None:
    table = read(tmp_path, PEOPLE.encode(encoding))
    assert [*table.columns] == ["subject_uri", "vor_name", "straße"]
    assert cells_of(table) == [
        (2, {"subject_uri": "ada.jpg", "vor_name": "Zoë", "straße": "Größenweg 7"}),
        (4, {"subject_uri": "li.jpg", "vor_name": "Jürgen"}),
    ]
    assert table.notes == (f"read as {said}, separated by semicolons", "2 blank lines skipped")


def test_chinese_is_read_in_utf_16_and_refused_in_an_encoding_that_nobody_can_tell(tmp_path: Path) -> None:
    text = "照片,姓名\n李.jpg,李明\n"
    assert cells_of(read(tmp_path, text.encode("utf-16"))) == [(2, {"照片": "李.jpg", "姓名": "李明"})]
    with pytest.raises(ConfigError, match="must be UTF-8, UTF-16 or Windows-1252, but looks like another encoding"):
        read(tmp_path, text.encode("gb18030"))
    assert read(tmp_path, text.encode("gb18030"), encoding="gb18030").columns == {"照片": 1, "姓名": 1}
    with pytest.raises(ConfigError, match="must be klingon"):
        read(tmp_path, text, encoding="klingon")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a,b\n1,2\n", 2),
        ("a;b\n1;2\n", 2),
        ("a\tb\n1\t2\n", 2),
        ("sep=|\r\na|b\r\n1|2\r\n", 3),
        ('"sep=;"\na;b\n1;2\n', 3),
        ("\n\na;b\n\n1;2", 5),
        ("a;b;;\n1;2;;\n", 2),
        ('a;b\n1;"2"\n"x, y, z";"u, v, w"\n"x, y, z";"u, v, w"\n', 2),
        ("a;b\r1;2\r", 2),
    ],
)
def test_separators_are_detected_and_lines_are_those_of_the_file(tmp_path: Path, text: str, line: int) -> None:
    table = read(tmp_path, text)
    assert [*table.columns] == ["a", "b"]
    assert cells_of(table)[0] == (line, {"a": "1", "b": "2"})


TITLED = (
    "Spring campaign{sep}{sep}\n\nSubject URI{sep}prompt{sep}city\nada.jpg{sep}Hi.{sep}Köln\nli.jpg{sep}Hi.{sep}Rom\n"
)


@pytest.mark.parametrize("separator", [";", ",", "\t"])
@pytest.mark.parametrize("is_padded", [True, False])
def test_a_title_above_the_names_is_told(tmp_path: Path, separator: str, is_padded: bool) -> None:
    text = TITLED.format(sep=separator)
    if not is_padded:
        text = text.replace(f"campaign{separator}{separator}", "campaign")
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, text)
    told = (
        "line 1: 'Spring campaign': must be the names of the columns, which line 3 seems to have: remove what is above"
    )
    assert told in str(refused.value)


def test_a_title_in_a_workbook_and_above_renamed_columns_is_told(tmp_path: Path) -> None:
    content = save(("Leute", [["Frühling"], ["Stand: heute"], ["Foto", "Text"], ["ada.jpg", "Hi."]]))
    renamed = {"foto": "subject_uri", "text": "prompt"}
    with pytest.raises(ConfigError, match="line 1: 'Frühling': must be the names of the columns, which line 3 seems"):
        read(tmp_path, content, "people.xlsx", renamed=renamed)


def test_unknown_names_without_known_ones_below_are_no_title(tmp_path: Path) -> None:
    table = read(tmp_path, "name,de\nparty,prompt\nsubject_uri,Hallo.\n")
    assert [*table.columns] == ["name", "de"]


def test_columns_are_renamed(tmp_path: Path) -> None:
    options = {"renamed": parse_map(["Foto Datei=Subject URI"])}
    assert read(tmp_path, "FOTO-DATEI;x\na.jpg;1\n", **options).columns == {"subject_uri": 1, "x": 1}
    with pytest.raises(ConfigError, match="--map 'foto_datei': must be a column of the table; the nearest is 'foto'"):
        read(tmp_path, "Foto;x\n", **options)
    with pytest.raises(ConfigError, match="column 'a': must appear once"):
        read(tmp_path, "A;x\n", renamed=parse_map(["x=a"]))
    for entry in ("x", "=a", "x="):
        with pytest.raises(ConfigError, match="must be COLUMN=NAME"):
            parse_map([entry])


def test_lines_of_json_may_end_as_on_an_old_mac(tmp_path: Path) -> None:
    table = read(tmp_path, '{"a": "1"}\r\r{"a": "2\u2028"}\r', "people.jsonl")
    assert cells_of(table) == [(1, {"a": "1"}), (3, {"a": "2\u2028"})]


def test_lines_that_do_not_fit_the_names_are_faults(tmp_path: Path) -> None:
    table = read(tmp_path, "a;;b\n1;2;3\n1;;3;4\n1\n")
    assert table.faults == (
        "line 2: '2': its column must have a name in line 1",
        "line 3: must have 3 cells, as line 1 has; it has 4",
        "line 4: must have 3 cells, as line 1 has; it has 1",
    )


def test_a_workbook_is_read_as_excel_shows_it(tmp_path: Path) -> None:
    book = Workbook()
    sheet = book.active
    sheet.append(["ID", "Postleitzahl", "Name", "Größe", "Am", "Um", "Ja", "Summe"])
    sheet.append([42.0, 1067, "  李 ", 0.1 + 0.2, datetime(2030, 1, 31), time(8, 30), True, 0.1 * 30])
    sheet["B2"].number_format = "00000"
    sheet["A5"] = "x"
    buffer = BytesIO()
    book.save(buffer)
    table = read(tmp_path, buffer.getvalue(), "people.xlsx")
    assert table.source.endswith("people.xlsx, sheet 'Sheet'")
    assert cells_of(table) == [
        (
            2,
            {
                "id": "42",
                "postleitzahl": "01067",
                "name": "  李 ",
                "größe": "0.3",
                "am": "2030-01-31",
                "um": "08:30:00",
                "ja": "TRUE",
                "summe": "3",
            },
        ),
        (5, {"id": "x"}),
    ]
    assert table.notes == ("2 blank lines skipped",)


def test_long_numbers_of_a_workbook_stay_exact_or_are_faults(tmp_path: Path) -> None:
    written = ("4012345678901231", "4012345678901232", "-100000000000000000001", "4.0123456789012312E+15", "-1E15")
    content = save(("Leute", [["karte"], *([number + 0.5] for number in range(len(written)))]))
    for number, text in enumerate(written):
        content = rewrite(content, "xl/worksheets/sheet1.xml", b"<v>%d.5<" % number, f"<v>{text}<".encode())
    table = read(tmp_path, content, "people.xlsx")
    assert [cells.get("karte") for _, cells in cells_of(table)] == [*written[:3], None, None]
    assert table.faults == (
        "line 5: karte: 4012345678901231.0: must not have more than 15 digits: store it as text",
        "line 6: karte: -1000000000000000.0: must not have more than 15 digits: store it as text",
    )


def test_a_workbook_that_libreoffice_saved_is_read(tmp_path: Path) -> None:
    table = read(tmp_path, (DATA / "libreoffice-people.xlsx").read_bytes(), "people.xlsx")
    first = {"plz": "01067", "am": "2030-01-31", "rabatt": "0.25", "doppelt": "3", "notiz": '-5 Grüße; "ok"'}
    second = {"plz": "99999", "am": "2030-02-01", "rabatt": "0.07", "doppelt": "199998"}
    assert cells_of(table) == [
        (2, {"foto": "ada.jpg", "vorname": "Jürgen"} | first),
        (4, {"foto": "li.jpg", "vorname": "格蕾丝"} | second),
    ]
    assert table.notes == ("1 blank line skipped",)


def test_of_several_sheets_one_must_be_named_unless_the_others_are_empty(tmp_path: Path) -> None:
    two = save(("Leute", [["a"], ["1"]]), ("Alt", [["a"], ["2"]]))
    with pytest.raises(ConfigError, match=r"has several filled sheets: say which one .* \('Leute', 'Alt'\)"):
        read(tmp_path, two, "people.xlsx")
    assert cells_of(read(tmp_path, two, "people.xlsx", sheet="Alt")) == [(2, {"a": "2"})]
    with pytest.raises(ConfigError, match="--sheet 'Neu': must be a sheet of"):
        read(tmp_path, two, "people.xlsx", sheet="Neu")
    with pytest.raises(ConfigError, match="has no filled sheet"):
        read(tmp_path, save(("Tabelle1", [])), "people.xlsx")
    assert cells_of(read(tmp_path, save(("Leer", []), ("Leute", [["a"], ["1"]])), "people.xlsx")) == [(2, {"a": "1"})]
    with pytest.raises(ConfigError, match=r"--sheet 'x': .* has no sheets"):
        read(tmp_path, "a\n", sheet="x")


def test_formulas_have_their_saved_value_and_are_faults_without_one(tmp_path: Path) -> None:
    content = save(("Leute", [["a", "b"], ["=1+1", "x"], ["=A2", "=1/0"]]))
    saved = rewrite(content, "xl/worksheets/sheet1.xml", b"<f>1+1</f><v />", b"<f>1+1</f><v>2</v>")
    saved = rewrite(
        saved, "xl/worksheets/sheet1.xml", b'<c r="B3"><f>1/0</f><v />', b'<c r="B3" t="e"><f>1/0</f><v>#DIV/0!</v>'
    )
    table = read(tmp_path, saved, "people.xlsx")
    assert cells_of(table)[0] == (2, {"a": "2", "b": "x"})
    assert table.faults == (
        "line 3: a: its formula has no saved value: open the file in Excel and save it again",
        "line 3: b: must be a value, not the error #DIV/0!",
    )


def test_a_formula_whose_saved_value_is_an_empty_text_is_an_empty_cell(tmp_path: Path) -> None:
    content = save(("Leute", [["a", "b"], ['=IF(1,"","x")', "y"]]))
    name, old = "xl/worksheets/sheet1.xml", b'<c r="A2"><f>IF(1,"","x")</f><v />'
    for value in (b"<v></v>", b"<v/>"):
        saved = rewrite(content, name, old, b'<c r="A2" t="str"><f>IF(1,"","x")</f>' + value)
        table = read(tmp_path, saved, "people.xlsx")
        assert (cells_of(table), table.faults) == ([(2, {"b": "y"})], ())


def test_merged_cells_are_refused(tmp_path: Path) -> None:
    book = Workbook()
    book.active.append(["a", "b"])
    book.active.append(["1", "2"])
    book.active.merge_cells("A2:A5")
    buffer = BytesIO()
    book.save(buffer)
    with pytest.raises(ConfigError, match="cells A2:A5 are merged: unmerge them"):
        read(tmp_path, buffer.getvalue(), "people.xlsx")


def test_what_is_no_workbook_is_refused(tmp_path: Path) -> None:
    for content, kind in (
        (b"", "damaged"),
        (b"PK\x03\x04" + b"\0" * 100, "damaged"),
        (b"\xd0\xcf\x11\xe0" + b"\0" * 100, "an old .xls file or protected by a password"),
    ):
        with pytest.raises(ConfigError, match=rf"people\.xlsx: must be an \.xlsx workbook, but is {kind}"):
            read(tmp_path, content, "people.xlsx")
    with pytest.raises(ConfigError, match=r"must be a \.csv, \.tsv, \.xlsx, \.xlsm, \.jsonl file"):
        read(tmp_path, b"", "people.ods")


@pytest.mark.parametrize(
    ("stream", "advice"),
    [
        ("EncryptedPackage", "but is protected by a password: remove the password in Excel, and save it again"),
        ("Workbook", r"but is an old \.xls file: open it in Excel, and save it as \.xlsx"),
    ],
)
def test_a_compound_file_says_what_it_is(tmp_path: Path, stream: str, advice: str) -> None:
    content = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1000) + stream.encode("utf-16-le") + bytes(1000)
    with pytest.raises(ConfigError, match=rf"people\.xlsx: must be an \.xlsx workbook, {advice}$"):
        read(tmp_path, content, "people.xlsx")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("people.xls", "open it in Excel, and save it as .xlsx"),
        ("PEOPLE.XLSB", "open it in Excel, and save it as .xlsx"),
        ("people.ods", "open it in LibreOffice, and save it as .xlsx"),
        ("people.numbers", "open it in Numbers, and export it to Excel (.xlsx)"),
    ],
)
def test_a_table_of_another_program_is_refused_with_advice(tmp_path: Path, name: str, advice: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, b"", name)
    assert str(refused.value).endswith(f"{name}: must be a .csv, .tsv, .xlsx, .xlsm, .jsonl file: {advice}")


def test_a_workbook_that_is_named_like_a_text_is_refused_with_advice(tmp_path: Path) -> None:
    contents = save(("Leute", [["subject_uri"], ["ada.jpg"]])), b"\xd0\xcf\x11\xe0" + bytes(100)
    for content in contents:
        with pytest.raises(
            ConfigError, match=r"people\.csv: must be a text, but is a workbook or an archive: save it as"
        ):
            read(tmp_path, content, "people.csv")
        (tmp_path / "prompts.xls").write_bytes(content)
        with pytest.raises(ConfigError, match=r"prompts\.xls: must be a text, but is a workbook"):
            read_templates(str(tmp_path / "prompts.xls"))


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = save(("Leute", [["a"], *[[f"name {number}"] for number in range(1000)]]))
    monkeypatch.setattr(workbook, "MAX_UNPACKED_BYTES", 20_000)
    with pytest.raises(ConfigError, match="must unpack to at most 20,000 bytes"):
        read(tmp_path, content, "people.xlsx")


def test_a_sheet_that_claims_billions_of_cells_is_read_by_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = save(("Leute", [["a", "b"], ["1", "2"]]))
    claims = rewrite(content, "xl/worksheets/sheet1.xml", b'<dimension ref="A1:B2"', b'<dimension ref="A1:XFD1048576"')
    assert cells_of(read(tmp_path, claims, "people.xlsx")) == [(2, {"a": "1", "b": "2"})]
    far = rewrite(content, "xl/worksheets/sheet1.xml", b'r="B2"', b'r="XFD2"')
    with pytest.raises(ConfigError, match="line 2: must have at most 1,000 columns, not 16,384"):
        read(tmp_path, far, "people.xlsx")
    low = rewrite(content, "xl/worksheets/sheet1.xml", b'<row r="2"', b'<row r="4000000000"')
    monkeypatch.setattr(workbook, "MAX_ROWS", 1_000)
    with pytest.raises(ConfigError, match="must have at most 1,000 rows"):
        read(tmp_path, low, "people.xlsx")


def test_entities_that_multiply_are_not_expanded(tmp_path: Path) -> None:
    laughs = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))
    content = save(("Leute", [["a"], ["1"]]))
    name, start = "xl/worksheets/sheet1.xml", b"<worksheet "
    bomb = rewrite(content, name, start, f'<!DOCTYPE x [<!ENTITY l0 "ha">{laughs}]>'.encode() + start)
    bomb = rewrite(bomb, name, b"<t>1</t>", b"<t>&l9;</t>")
    with pytest.raises(ConfigError, match=r"people\.xlsx: must be an \.xlsx workbook, but is damaged"):
        read(tmp_path, bomb, "people.xlsx")


def rewrite(content: bytes, name: str, old: bytes, new: bytes) -> bytes:
    """A zip in which something of one file is replaced."""
    found = BytesIO()
    with zipfile.ZipFile(BytesIO(content)) as source, zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.namelist():
            data = source.read(entry)
            if entry == name:
                assert old in data
                data = data.replace(old, new)
            target.writestr(entry, data)
    return found.getvalue()

"""Lists of clips, and the commands that take them."""

from pathlib import Path

import pytest

from lynx_batch.errors import ConfigError
from lynx_batch.ledger.clip_list import Decision, read_clip_list


@pytest.mark.parametrize(
    ("text", "approved", "rejected"),
    [
        ("clip_id,decision\r\naa11,approve\r\nbb22,reject\r\n", {"aa11"}, {"bb22"}),
        ("clip_id;decision\naa11;approve\nbb22;reject\n", {"aa11"}, {"bb22"}),
        ("name,decision,clip_id\nada,reject,aa11\n\n", None, {"aa11"}),
        ("clip_id\naa11\naa11\n", {"aa11"}, {"aa11"}),
        ("clip_id,decision\naa11,\nbb22,approve\ncc33,reject\n", {"bb22"}, {"cc33"}),
        ('clip_id,note,decision\naa11,"two\nlines",approve\nbb22,one\u2028cell,reject\n', {"aa11"}, {"bb22"}),
        ("\ufeffaa11\n bb22 \n", {"aa11", "bb22"}, {"aa11", "bb22"}),
    ],
)
def test_a_list_is_a_csv_of_a_report_or_plain_clip_ids(
    tmp_path: Path, text: str, approved: set[str] | None, rejected: set[str] | None
) -> None:
    file = tmp_path / "list.csv"
    file.write_text(text, encoding="utf-8")
    for decision, expected in ((Decision.APPROVE, approved), (Decision.REJECT, rejected)):
        if expected is None:
            with pytest.raises(ConfigError, match=f"must name at least one clip with the decision {decision}"):
                read_clip_list(str(file), decision)
        else:
            assert read_clip_list(str(file), decision) == expected


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"", "must name at least one clip$"),
        (b"\xff\xfe", "must be a text file in UTF-8"),
        (b"clip_id,decision\naa11,maybe", "line 2: decision 'maybe': must be approve, reject or empty"),
        (b"clip_id,decision\naa11", "line 2: must have 2 cell"),
        (b'clip_id,decision,note\naa11,reject,"oh\nbb22,reject,\n', "line 2: must be CSV: unexpected end of data"),
        (b'clip_id,note\naa11,x\nbb22,"' + b"cc33,y\n" * 20_000, "line 3: must be CSV: field larger than field limit"),
        (b'clip_id,note\n"aa11",two\nbb22,"two\nlines"\ncc33\n', "line 5: must have 2 cells, but has 1"),
        (b"aa11\nsome name", "line 2: clip_id 'some name': must be a ClipId"),
        (b"clip_id,decision\naa11,approve\naa11,reject", "line 3: clip aa11: must not have two different decisions"),
    ],
)
def test_a_bad_list_is_refused_with_its_line_value_and_rule(tmp_path: Path, content: bytes, rule: str) -> None:
    file = tmp_path / "list.csv"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"--list .*list.csv: .*{rule}"):
        read_clip_list(str(file), Decision.REJECT)

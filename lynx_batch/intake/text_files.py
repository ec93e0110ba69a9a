"""Reads text files in the encodings that people's programs write: UTF-8, UTF-16 and Windows-1252."""

import codecs
import re
from dataclasses import dataclass

from lynx_batch.errors import ConfigError
from lynx_batch.storage import SizeLimit, read_bytes, redact

TEXT_LIMIT = SizeLimit(256 * 2**20, "the most that is read of a file with rows or texts")
HEAD_BYTES = 4096
WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""How files of spreadsheet programs begin: ZIP archives (.xlsx, .ods, .numbers), and compound files (.xls)."""


ENCODING_NAMES = {
    "utf-8": "UTF-8",
    **dict.fromkeys(("utf-16", "utf-16-le", "utf-16-be"), "UTF-16"),
    "utf-32": "UTF-32",
}
ENCODING_OF_MARK = {
    codecs.BOM_UTF8: "utf-8",
    **dict.fromkeys((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE), "utf-32"),
    **dict.fromkeys((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), "utf-16"),
}
"""What a byte order mark says. That of UTF-16 is the beginning of one of UTF-32, so it comes last."""

WESTERN = "cp1252"
LINE_END = re.compile(r"\r\n|\r|\n")
NOT_ASCII = re.compile(rb"[\x80-\xff]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """The content of a text file without a byte order mark. `encoding` is what a user calls it, such as UTF-8 or cp1252."""

    content: str
    encoding: str


def read_text(uri: str, encoding: str | None = None) -> Text:
    """The text of a file. Without `encoding`, it is detected; a byte order mark overrules both.

    Raises:
        ConfigError: If the file is a workbook, in none of the encodings, or not in the one that is given.
        InputRefused: If it is too large.
    """
    content = read_bytes(uri, TEXT_LIMIT)
    if content.startswith(WORKBOOKS):
        raise ConfigError(
            f"{redact(uri)}: must be a text, but is a workbook or an archive: save it as CSV, or as .xlsx where a table is read"
        )
    known = _marked(content) or encoding or _detect(content)
    if known is None:
        raise ConfigError(
            f"{redact(uri)}: must be UTF-8, UTF-16 or Windows-1252, but looks like another encoding: save it as UTF-8"
        )
    try:
        text = content.decode(known)
    except (UnicodeError, LookupError) as error:
        raise ConfigError(f"{redact(uri)}: must be {ENCODING_NAMES.get(known, known)} ({error})") from error
    return Text(content=text.removeprefix("\ufeff"), encoding=ENCODING_NAMES.get(known, known))


def split_lines(text: str) -> list[str]:
    """The lines of a text, which end as on Windows, Unix or an old Mac. Other separators, such as U+2028, stay in their line."""
    return LINE_END.split(text)


def _marked(content: bytes) -> str | None:
    return next((encoding for mark, encoding in ENCODING_OF_MARK.items() if content.startswith(mark)), None)


def _detect(content: bytes) -> str | None:
    """The encoding of a text; None if it is unlikely to be one of ours."""
    if half := _half_of_zeros(content[:HEAD_BYTES]):
        return half
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return WESTERN if _looks_western(content) else None
    return "utf-8"


def _half_of_zeros(head: bytes) -> str | None:
    """UTF-16 without a byte order mark: separators and Latin letters have a zero byte, always on the same side."""
    first, second = head[::2].count(0), head[1::2].count(0)
    if bool(first) == bool(second):
        return None
    return "utf-16-be" if first else "utf-16-le"


def _looks_western(content: bytes) -> bool:
    """Whether letters with accents are among plain ones, as in Western languages, and not side by side, as in Chinese or Greek.

    Nearly all bytes mean something in Windows-1252, so decoding alone would accept any file.
    """
    lengths = [len(run) for run in NOT_ASCII.findall(content)]
    in_long_runs = sum(length for length in lengths if length > 2)
    return 2 * in_long_runs < sum(lengths)

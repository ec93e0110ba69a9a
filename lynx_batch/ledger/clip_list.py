"""Lists of clips that a person has chosen: the CSV that a report exports, or plain ClipIds."""

import csv
import io
import re
from collections.abc import Iterator
from enum import StrEnum

from lynx_batch import storage
from lynx_batch.errors import ConfigError
from lynx_batch.printable import counted

CLIP_COLUMN, DECISION_COLUMN = "clip_id", "decision"
CLIP_ID = re.compile(r"[0-9a-f]+")


class Decision(StrEnum):
    """What a person decided about a clip."""

    APPROVE = "approve"
    REJECT = "reject"


def read_clip_list(uri: str, wanted: Decision) -> frozenset[str]:
    """The ClipIds in a list. It is a CSV with the column `clip_id`, or has one ClipId a line.

    If the CSV also has the column `decision`, only clips with the decision `wanted` count; a cell may be empty. Other columns are ignored.

    Raises:
        ConfigError: If the file is not such a list, or no clip in it counts; names the line, the value and the rule.
    """
    shown = f"--list {storage.redact(uri)}"
    try:
        text = storage.read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{shown}: must be a text file in UTF-8: {error}") from error
    chosen: dict[str, str] = {}
    for number, clip_id, decision in _entries(text, shown, wanted):
        if not CLIP_ID.fullmatch(clip_id):
            raise ConfigError(
                f"{shown}: line {number}: clip_id {clip_id!r}: must be a ClipId, in lower-case hexadecimals"
            )
        if decision not in (*Decision, ""):
            raise ConfigError(f"{shown}: line {number}: decision {decision!r}: must be {', '.join(Decision)} or empty")
        if decision and chosen.setdefault(clip_id, decision) != decision:
            raise ConfigError(f"{shown}: line {number}: clip {clip_id}: must not have two different decisions")
    found = frozenset(clip_id for clip_id, decision in chosen.items() if decision == wanted)
    if not found:
        raise ConfigError(f"{shown}: must name at least one clip{f' with the decision {wanted}' if chosen else ''}")
    return found


def _entries(text: str, shown: str, default: str) -> Iterator[tuple[int, str, str]]:
    """The line, the ClipId and the decision of each entry; `default` is the decision where the list has none."""
    filled = [(number, row) for number, row in _rows(text, shown) if any(row)]
    header = [CLIP_COLUMN]
    if filled and CLIP_COLUMN in filled[0][1]:
        (_, header), *filled = filled
    for number, row in filled:
        if len(row) != len(header):
            raise ConfigError(f"{shown}: line {number}: must have {counted(len(header), 'cell')}, but has {len(row)}")
        cells = dict(zip(header, row, strict=True))
        yield number, cells[CLIP_COLUMN], cells.get(DECISION_COLUMN, default)


def _rows(text: str, shown: str) -> Iterator[tuple[int, list[str]]]:
    """The cells of each row, and the line where it begins."""
    head = next(filter(str.strip, text.splitlines()), "")
    separator = ";" if ";" in head and "," not in head else ","  # spreadsheets of some countries write semicolons
    table, number = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True), 1
    try:
        for row in table:
            yield number, [cell.strip() for cell in row]
            number = table.line_num + 1
    except csv.Error as error:
        raise ConfigError(f"{shown}: line {number}: must be CSV: {error}") from error

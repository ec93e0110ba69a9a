"""The manifest's columns, schema version 1: their types, and the conversion of other tools' tables to them.

A conversion is accepted if it loses nothing: any integer, float or decimal type whose values fit becomes a number, and any string
type becomes text. Dates and timestamps without a zone are read as UTC.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from lynx_batch.columns import REAL, TAGS, TEXT, TEXTS, TIME, WHOLE, parameter_columns
from lynx_batch.errors import ConfigError
from lynx_batch.intake.tags import read_tags
from lynx_batch.parquet import FAULTS
from lynx_batch.spelling import nearest

MANIFEST_VERSION = 1
VERSION_KEY = b"lynx_manifest_version"

ROW = "row"
"""The column that reading adds: the row's 0-based position in the whole manifest."""

PHOTO_COLUMNS = ("subject_uri", "subject_uris")
"""Each row names its photos in exactly one of them."""

MAX_PHOTOS = 16
"""A row may name this many photos of its person."""

REQUIRED = ("prompt",)
MANIFEST_SCHEMA = pa.schema(
    [
        ("subject_uri", TEXT),
        ("subject_uris", TEXTS),
        ("prompt", TEXT),
        ("clip_name", TEXT),
        ("subject_id", TEXT),
        *parameter_columns(without="prompt"),
        ("num_guidance_branches", WHOLE),
        ("priority", WHOLE),
        ("face_index", WHOLE),
        ("consent_ref", TEXT),
        ("consent_scope", TEXT),
        ("regions", TEXT),
        ("consent_expires_at", TIME),
        ("tags", TAGS),
        ("prompt_template", TEXT),
        ("source_line", WHOLE),
    ],
    metadata={VERSION_KEY: str(MANIFEST_VERSION)},
)

FIRST_TIME, LAST_TIME = (pa.scalar(time.replace(tzinfo=UTC), TIME) for time in (datetime.min, datetime.max))

EXPECTATIONS = {
    TEXT: "text",
    WHOLE: "a whole number of at most 64 bits",
    REAL: "a number",
    TIME: "a time such as 2027-01-31T12:00:00Z",
    TAGS: "a map of text to text",
    TEXTS: "a list of texts",
}
"""What a column of each type accepts, in words."""


def explain_columns(names: Iterable[str]) -> list[str]:
    """The faults of a manifest with the columns `names`."""
    present = list(names)
    repeated = sorted({name for name in present if present.count(name) > 1})
    unknown = [name for name in present if name not in MANIFEST_SCHEMA.names]
    return [
        *(f"column {name!r}: must appear once" for name in repeated),
        *(
            f"column {name!r}: unknown; the nearest known one is {nearest(name, MANIFEST_SCHEMA.names)!r}"
            for name in unknown
        ),
        *(f"column {name!r}: required, but missing" for name in missing_columns(present)),
    ]


def has_required(names: Iterable[str]) -> bool:
    """Whether columns with these names are enough for a manifest."""
    return not missing_columns(names)


def missing_columns(names: Iterable[str]) -> list[str]:
    """The columns that a manifest with these ones lacks."""
    present = {*names}
    photo = [] if present & {*PHOTO_COLUMNS} else PHOTO_COLUMNS[:1]
    return [*photo, *(name for name in REQUIRED if name not in present)]


def conform(table: pa.Table, source: str) -> pa.Table:
    """`table` with the manifest's types. It may lack optional columns.

    Raises:
        ConfigError: If a column is unknown, missing or of a wrong type, or the table follows another version of the
            schema. The message names `source` and every fault.
    """
    table = table.drop_columns(_pandas_index(table))
    faults = [*_explain_version(table), *explain_columns(table.column_names)]
    columns: dict[str, pa.ChunkedArray] = {}
    for name in [] if faults else table.column_names:
        try:
            columns[name] = _cast(table[name], MANIFEST_SCHEMA.field(name).type)
        except FAULTS as error:
            faults.append(f"column {name!r} of type {table[name].type}: {error}")
    if faults:
        raise ConfigError("\n  ".join([f"{source}:", *faults]))
    return pa.table(columns)


def _pandas_index(table: pa.Table) -> list[str]:
    """Columns that pandas marks as a DataFrame's row labels, and that are not columns of a manifest."""
    try:
        labels = json.loads((table.schema.metadata or {}).get(b"pandas", b"{}")).get("index_columns", [])
        return [name for name in table.column_names if name in labels and name not in MANIFEST_SCHEMA.names]
    except (ValueError, AttributeError, TypeError, RecursionError):  # not written by pandas
        return []


def _explain_version(table: pa.Table) -> list[str]:
    found = (table.schema.metadata or {}).get(VERSION_KEY, str(MANIFEST_VERSION).encode()).decode(errors="replace")
    if found == str(MANIFEST_VERSION):
        return []
    return [f"{VERSION_KEY.decode()}={found!r}: this release reads version {MANIFEST_VERSION}"]


def _cast(column: pa.ChunkedArray, wanted: pa.DataType) -> pa.ChunkedArray:
    found = column.type.value_type if kinds.is_dictionary(column.type) else column.type
    if not _is_convertible(found, wanted):
        raise ValueError(f"must be {EXPECTATIONS[wanted]}")
    column.validate(full=True)
    if wanted == TAGS and not kinds.is_map(found):
        return pa.chunked_array([pa.array(map(_read_tags, column.to_pylist()), TAGS)])
    if wanted == REAL:
        column = _keep_written_number(column.cast(found))
    # Only nanoseconds may be lost: pandas writes every time with them.
    has_nanoseconds = kinds.is_timestamp(found) and found.unit == "ns"
    cast = column.cast(wanted, safe=not has_nanoseconds)
    if wanted == TIME:
        _check_years(cast)
    return cast


def _keep_written_number(numbers: pa.ChunkedArray) -> pa.ChunkedArray:
    """Decimals and short floats as text, to keep the number that was written: a float32 of 0.7 would become 0.699999988, and
    Arrow converts a decimal 0.700 to 0.7000000000000001.
    """
    if kinds.is_float16(numbers.type):
        texts = [None if number is None else str(np.float16(number)) for number in numbers.to_pylist()]
        return pa.chunked_array([pa.array(texts, TEXT)])
    return numbers.cast(TEXT) if kinds.is_float32(numbers.type) or kinds.is_decimal(numbers.type) else numbers


def _check_years(times: pa.ChunkedArray) -> None:
    """Raises ValueError if a year is not one that Python's datetime supports."""
    is_beyond = pc.or_(pc.less(times, FIRST_TIME), pc.greater(times, LAST_TIME))
    if pc.any(is_beyond).as_py():
        row = pc.index(is_beyond, True).as_py()
        raise ValueError(f"row {row} of the file: must lie in the years 1 to 9999")


def _is_convertible(found: pa.DataType, wanted: pa.DataType) -> bool:
    if wanted == TEXT:
        is_convertible = _is_text(found)
    elif wanted == TIME:
        is_convertible = kinds.is_timestamp(found) or kinds.is_date(found)
    elif wanted == TAGS:
        is_convertible = _holds_tags(found)
    elif wanted == TEXTS:
        is_convertible = _is_list(found) and (_is_text(found.value_type) or kinds.is_null(found.value_type))
    else:
        is_convertible = kinds.is_integer(found) or kinds.is_floating(found) or kinds.is_decimal(found)
    return is_convertible or bool(kinds.is_null(found))


def _read_tags(value: object) -> list[tuple[str, str]] | None:
    try:
        return None if value is None else read_tags(value)
    except (ValueError, TypeError):
        raise ValueError(f"must be {EXPECTATIONS[TAGS]} (got {value!r:.60})") from None


def _holds_tags(found: pa.DataType) -> bool:
    """Whether it is a map, a struct, JSON, or a list of structs with a key and a value, which is how polars writes a map."""
    if kinds.is_map(found):
        return _is_text(found.key_type) and _is_text(found.item_type)
    if _is_list(found):
        return bool(kinds.is_struct(found.value_type)) and found.value_type.num_fields == 2
    return bool(kinds.is_struct(found)) or _is_text(found)


def _is_list(found: pa.DataType) -> bool:
    return bool(kinds.is_list(found) or kinds.is_large_list(found) or kinds.is_fixed_size_list(found))


def _is_text(found: pa.DataType) -> bool:
    return bool(kinds.is_string(found) or kinds.is_large_string(found) or kinds.is_string_view(found))

"""Types of the columns of manifests and of the metadata table, and the columns that both have for a clip's parameters."""

import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from lynx_model.parameters import PARAMETERS

TEXT, WHOLE, REAL = pa.string(), pa.int64(), pa.float64()
TIME = pa.timestamp("us", tz="UTC")
TEXTS = pa.list_(pa.string())
TAGS = pa.map_(pa.string(), pa.string())

TAG = re.compile(r"tags(?:\.(?P<key>[^\W_][^\[\].]*)|\[(?P<any_key>[^\[\]]+)\])")

TYPE_OF_KIND = {str: TEXT, int: WHOLE, float: REAL}

Column = tuple[str, pa.DataType]


def parameter_columns(*, without: str) -> list[Column]:
    """A column for each parameter of a clip, in the order of RenderParams. The table places the parameter `without` elsewhere."""
    return [(name, TYPE_OF_KIND[each.kind]) for name, each in PARAMETERS.items() if name != without]


def tag_key(name: str) -> str | None:
    """The key in `tags.KEY` or `tags[KEY]`, which names one tag as a column would be; None for any other name."""
    match = TAG.fullmatch(name)
    return match and (match["key"] or match["any_key"])


def tag_name(key: str) -> str | None:
    """The name that `tag_key` reads as this key; None for a key with brackets."""
    return next((name for name in (f"tags.{key}", f"tags[{key}]") if tag_key(name) == key), None)


def column_of(name: str) -> str:
    """The column that holds what `name`, a column or `tags.KEY`, names."""
    return name if tag_key(name) is None else "tags"


def cell_of(row: Mapping[str, Any], name: str) -> Any:
    """The cell of a row that `name`, a column or `tags.KEY`, names; None if it is null or the row lacks the tag."""
    key = tag_key(name)
    return row[name] if key is None else dict(row["tags"] or ()).get(key)

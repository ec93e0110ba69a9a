"""What varies between the rows of a run, such as the values of a grid or people's own tags: the axes of the report's figures."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lynx_batch.columns import TEXT, cell_of, tag_name
from lynx_model.parameters import PARAMETERS

VARYING = (*(name for name in PARAMETERS if name not in ("prompt", "negative_prompt")), "prompt_template")
"""Columns that may be an axis. Negative prompts are too long to be read for a million rows."""

SIZE = "size"
"""The axis that takes the place of width and height where both vary."""

MAX_VALUES = 20
"""A column with more values is no axis."""

MAX_TAGS = 100
"""At most so many tags are looked at."""


def find_axes(columns: pa.Table, tags: pa.ChunkedArray) -> list[str]:
    """The columns, and tags as `tags.KEY`, that have 2 to `MAX_VALUES` values, each of them for two rows on average.

    So seeds of a grid are an axis, and seeds that were derived for each row are none.
    """
    axes = [name for name in columns.column_names if _is_axis(columns[name])]
    if {"width", "height"} <= {*axes}:
        axes = [name for name in axes if name not in ("width", "height")] + [SIZE]
    keys = pc.unique(pa.chunked_array([chunk.keys for chunk in tags.chunks], TEXT)).to_pylist()
    varied = [key for key in keys[:MAX_TAGS] if _is_axis(pc.map_lookup(tags, pa.scalar(key), "first"))]
    return axes + [name for key in varied if (name := tag_name(key))]


def value_of(cells: Mapping[str, Any], axis: str) -> str | None:
    """The value of a row on an axis, as text; None if it has none."""
    if axis == SIZE:
        return f"{cells['width']}x{cells['height']}" if cells["width"] and cells["height"] else None
    value = cell_of(cells, axis)
    return f"{value:.15g}" if isinstance(value, float) else None if value is None else str(value)


def _is_axis(column: pa.ChunkedArray) -> bool:
    num_values: int = pc.count_distinct(column).as_py()
    return 2 <= num_values <= MAX_VALUES and 2 * num_values <= int(len(column) - column.null_count)

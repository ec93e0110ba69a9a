"""Types of the columns of manifests and of the metadata table, and the columns that both have for a clip's parameters."""

import pyarrow as pa

from lynx_model.parameters import PARAMETERS

TEXT, WHOLE, REAL = pa.string(), pa.int64(), pa.float64()
TIME = pa.timestamp("us", tz="UTC")
TEXTS = pa.list_(pa.string())
TAGS = pa.map_(pa.string(), pa.string())

TYPE_OF_KIND = {str: TEXT, int: WHOLE, float: REAL}

Column = tuple[str, pa.DataType]


def parameter_columns(*, without: str) -> list[Column]:
    """A column for each parameter of a clip, in the order of RenderParams. The table places the parameter `without` elsewhere."""
    return [(name, TYPE_OF_KIND[each.kind]) for name, each in PARAMETERS.items() if name != without]

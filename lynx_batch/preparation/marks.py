"""Checks what a run marks its clips with, before a GPU is involved."""

from collections.abc import Iterable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from lynx_batch.config import ProvenanceConfig
from lynx_batch.delivery.marker import check_provenance
from lynx_batch.named_files import read_named_file
from lynx_batch.storage import redact

if TYPE_CHECKING:
    from lynx_model.watermark import TorchScriptWatermark

KEY = "provenance.watermark"
MAX_WATERMARK_BYTES = 4 * 2**30


def check_marks(provenance: ProvenanceConfig, sizes: Iterable[tuple[int, int]]) -> None:
    """Checks that clips of these widths and heights can be marked. A watermark's network is loaded and tried, if torch is there.

    Raises:
        ConfigError, WeightsMismatch: If something that a mark needs is unfit.
        MissingFile, InputRefused, StoreRefused, StoreUnavailable: If it cannot be read.
    """
    check_provenance(provenance, sizes)
    if provenance.is_on and provenance.watermark is not None and find_spec("torch"):
        load_watermark(provenance.watermark)


def load_watermark(uri: str) -> "TorchScriptWatermark":
    """The network in that file. Raises WeightsMismatch if it is none, and as `read_named_file` does."""
    from lynx_model.watermark import TorchScriptWatermark

    content = read_named_file(KEY, uri, MAX_WATERMARK_BYTES)
    return TorchScriptWatermark.load(content, name=f"{KEY}={redact(uri)!r}")

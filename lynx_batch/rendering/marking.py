"""The marks of a run, with the one whose network needs torch."""

from lynx_batch.config import ProvenanceConfig
from lynx_batch.delivery.marker import Marker
from lynx_batch.named_files import read_named_file
from lynx_model.watermark import TorchScriptWatermark

KEY = "provenance.watermark"
MAX_WATERMARK_BYTES = 4 * 2**30


def load_marker(provenance: ProvenanceConfig) -> Marker:
    """What marks the clips of a run.

    Raises:
        ConfigError, WeightsMismatch: If something that a mark needs is unfit.
        MissingFile, InputRefused, StoreRefused, StoreUnavailable: If it cannot be read.
    """
    uri = provenance.watermark if provenance.is_on else None
    if uri is None:
        return Marker(provenance)
    content = read_named_file(KEY, uri, MAX_WATERMARK_BYTES)
    return Marker(provenance, TorchScriptWatermark.load(content, name=f"{KEY}={uri!r}"))

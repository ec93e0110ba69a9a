"""The marks of a run, with the one whose network needs torch."""

from lynx_batch.config import ProvenanceConfig
from lynx_batch.delivery.marker import Marker
from lynx_batch.preparation.marks import load_watermark


def load_marker(provenance: ProvenanceConfig) -> Marker:
    """What marks the clips of a run. Raises as `check_marks` does."""
    uri = provenance.watermark if provenance.is_on else None
    return Marker(provenance, None if uri is None else load_watermark(uri))

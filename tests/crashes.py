"""Photos that crash their decoder, in processes that have `ENVIRONMENT`."""

import os
from pathlib import Path

from PIL import Image

from tests.models import ROOT

ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join(
        [str(ROOT / "tests" / "crashing_decoder"), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
}


def write_crashing(file: Path, portrait: Path) -> Path:
    """The portrait, marked so that `crashing_decoder/sitecustomize.py` knows it."""
    Image.open(portrait).save(file, "JPEG", comment=b"crashes its decoder")
    return file

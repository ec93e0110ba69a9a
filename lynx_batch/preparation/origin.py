"""Where the manifest and the photos of a submitted job come from.

What a run keeps names them as their submitter does: a path in a job's package is another one at each submission.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from lynx_batch.errors import ConfigError

ORIGIN_FILE = "origin.json"


class Origin(BaseModel):
    """`manifest` is a URI; the relative photos in it start from `folder`. `photos` are the copies of photos that are read in their
    place, by row, as paths below the folder of the run file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest: str
    folder: str
    photos: Mapping[int, str] = {}


def read_origin(file: Path) -> Origin:
    """The origin in a file that `submit` wrote, with absolute paths. Raises ConfigError if it is none."""
    try:
        origin = Origin.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"--origin {file}: must be a file that `lynx-batch submit` wrote: {error}") from error
    here = file.resolve().parent
    return origin.model_copy(update={"photos": {row: str(here / path) for row, path in origin.photos.items()}})

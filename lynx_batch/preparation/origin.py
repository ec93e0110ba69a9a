"""Where the manifest and the photos of a submitted job came from.

The records of a run name them as the submitter did, because their paths in a job's package differ with every submission.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from lynx_batch.errors import ConfigError

ORIGIN_FILE = "origin.json"


class Origin(BaseModel):
    """`manifest` is a URI; relative photos in it start from `folder`. `photos` maps absolute URIs of photos to copies that are read
    instead, as paths below the folder of the run file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest: str
    folder: str
    photos: Mapping[str, str] = {}


def read_origin(file: Path) -> Origin:
    """Reads a file that `submit` wrote; its paths become absolute. Raises ConfigError if it is not such a file."""
    try:
        origin = Origin.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise ConfigError(f"--origin {file}: must be a file that `lynx-batch submit` wrote: {error}") from error
    here = file.resolve().parent
    return origin.model_copy(update={"photos": {uri: str(here / path) for uri, path in origin.photos.items()}})

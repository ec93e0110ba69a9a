"""What it means if a file of a checkpoint cannot be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lynx_model.errors import MissingFile


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Raises MissingFile if the block cannot read `file`."""
    try:
        yield
    except OSError as error:
        raise MissingFile(f"{file}: must be a file that can be read: {error.strerror}") from error

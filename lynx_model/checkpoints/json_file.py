"""JSON configuration files of a checkpoint."""

import json
from pathlib import Path
from typing import Any

from lynx_model.errors import MissingFile, WeightsMismatch


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        MissingFile: If the file does not exist or cannot be read.
        WeightsMismatch: If it is not a JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFile(f"{file}: no such file") from error
    except OSError as error:
        raise MissingFile(f"{file}: must be a file that can be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise WeightsMismatch(f"{file}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise WeightsMismatch(f"{file}: must hold a JSON object")
    return content

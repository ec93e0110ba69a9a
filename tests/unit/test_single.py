"""A single clip's faults are told under the names of what its user typed, because there is no manifest."""

from pathlib import Path

import pytest

from lynx_batch.config import RunConfig, parse_run_config
from lynx_batch.errors import ConfigError
from lynx_batch.preparation.selection import Selection
from lynx_batch.preparation.single import prepare_one
from tests.builders import COLLINS, tiny_run


@pytest.fixture
def config(tmp_path: Path, face_pack: Path) -> RunConfig:
    return parse_run_config(tiny_run(face_pack, output=str(tmp_path / "out")), source="test")


@pytest.mark.parametrize(
    ("cells", "told"),
    [
        ({"subject_uri": " "}, "PHOTO=' ': must not be empty"),
        ({"subject_uris": [str(COLLINS), ""]}, "PHOTO='': must not be empty"),
        ({"prompt": ""}, "PROMPT='': must not be empty"),
        ({"prompt": "wave " * 600}, "PROMPT='wave wave "),
        ({"seed": -1}, "--seed=-1: must be"),
        ({"face_index": -1}, "--face-index=-1: must be at least 0"),
    ],
)
def test_a_fault_names_the_argument(config: RunConfig, cells: dict[str, object], told: str) -> None:
    photo = {} if "subject_uris" in cells else {"subject_uri": str(COLLINS)}
    with pytest.raises(ConfigError) as refused:
        prepare_one(config, {**photo, "prompt": "Hi.", "seed": None, **cells}, Selection())
    assert str(refused.value).startswith(told)
    assert not any(word in str(refused.value) for word in ("manifest", "row 0", "subject_uri="))


def test_a_fault_of_a_default_names_its_key_and_every_fault_is_told(tmp_path: Path, face_pack: Path) -> None:
    run = tiny_run(face_pack, output=str(tmp_path / "out"), defaults={"ip_blocks": "0-90", "ref_blocks": "0-91"})
    with pytest.raises(ConfigError) as refused:
        prepare_one(parse_run_config(run, source="test"), {"subject_uri": str(COLLINS), "prompt": "Hi."}, Selection())
    first, second = str(refused.value).splitlines()
    assert first.startswith("defaults.ip_blocks='0-90': ")
    assert second.startswith("  defaults.ref_blocks='0-91': ")

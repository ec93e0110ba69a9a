"""The demo's files: its run files, its model and its prompts fit each other."""

from pathlib import Path

import pytest

from lynx_batch.config import RunConfig, load_run_config
from lynx_batch.preparation.model import check_model
from lynx_model.checkpoints.fingerprint import verify_folder
from lynx_model.tokenizer import Tokenizer
from tests.builders import SUBJECTS
from tests.models import ROOT

DEMO = ROOT / "jobs" / "demo"
PROMPTS = DEMO / "prompts.txt"
RUN_FILES = [DEMO / "run.yaml", DEMO / "lite.yaml"]


@pytest.fixture(params=RUN_FILES, ids=lambda file: file.stem)
def config(request: pytest.FixtureRequest) -> RunConfig:
    return load_run_config(request.param, {})


def test_its_model_is_complete_and_as_recorded(config: RunConfig, face_pack: Path) -> None:
    assert check_model(config).adapters.has_ref == (Path(str(config.model.adapters)).name == "lynx_full")
    for folder in map(Path, (config.model.base, str(config.model.adapters))):
        assert folder.is_relative_to(DEMO / "model")
        assert verify_folder(folder) == []


def test_full_and_lite_render_the_same_manifest_to_places_of_their_own() -> None:
    full, lite = (load_run_config(file, {}) for file in RUN_FILES)
    assert (full.manifest, full.faces, full.model.base) == (lite.manifest, lite.faces, lite.model.base)
    assert full.output != lite.output


def test_it_has_two_photos_and_three_prompts() -> None:
    assert len(list(SUBJECTS.glob("*.jpg"))) == 2
    assert len([line for line in PROMPTS.read_text(encoding="utf-8").splitlines() if line]) == 3


def test_its_model_knows_every_piece_of_its_prompts(config: RunConfig) -> None:
    prompts = PROMPTS.read_text(encoding="utf-8").splitlines()
    readings = Tokenizer.load(Path(config.model.base)).describe(prompts)
    assert [readings[prompt].unknown for prompt in prompts] == [(), (), ()]
    assert not all(prompt.isascii() for prompt in prompts)

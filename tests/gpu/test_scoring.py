"""The scorers that run on a GPU, against the CPU."""

from pathlib import Path

import numpy as np
import pytest

from lynx_model.scoring.clip import read_clip
from lynx_model.scoring.prompt import PromptScorer
from lynx_model.scoring.safety import NsfwScorer
from tests.builders import COLLINS, make_subject
from tests.clips import PARAMS, encode, load_photo
from tests.scorers import save_clip_model, save_vit


@pytest.mark.gpu(1)
def test_a_gpu_gives_the_scores_of_a_cpu(tmp_path: Path) -> None:
    photo = load_photo(COLLINS)
    frames = np.stack([photo[shift : shift + 240, :416] for shift in range(9)])
    clip = read_clip(encode(frames), params=PARAMS, subject=make_subject())
    vit, text = str(save_vit(tmp_path / "vit", ["normal", "nsfw"])), str(save_clip_model(tmp_path / "clip"))
    probabilities = [NsfwScorer.load_vit(vit, device=where).score(clip).probabilities for where in ("cpu", "cuda")]
    assert probabilities[1] == pytest.approx(probabilities[0], abs=1e-3)
    cosines = [PromptScorer.load(text, device=where).score(clip).cosines for where in ("cpu", "cuda")]
    assert cosines[1] == pytest.approx(cosines[0], abs=1e-3)
    onnx = [NsfwScorer.load_onnx(device=where).score(clip).probabilities for where in ("cpu", "cuda")]
    assert onnx[1] == pytest.approx(onnx[0], abs=1e-3)

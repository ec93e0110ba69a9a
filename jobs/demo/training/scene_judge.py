"""A small network that says which scene a clip shows. It is trained on drawn clips, and judges rendered ones.

Shapes: B clips, F frames, S pixels of a side.
"""

from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate

from jobs.demo.training.axes import AXES, Scene
from jobs.demo.training.config import Recipe
from jobs.demo.training.progress import Progress
from jobs.demo.training.saved import load_state, save_state
from jobs.demo.training.source import Clips, SceneSource, held_out_source, training_source

NUM_FRAMES = 5
"""Frames that it sees, evenly spaced."""

SIDE = 80
WIDTHS = (48, 96, 128, 160)
BATCH_CLIPS = 32
LEARNING_RATE = 2e-3
FILE = "scene_judge.safetensors"


class SceneJudge(nn.Module):
    """Frames, side by side as channels, -> one row of logits per axis of a scene."""

    def __init__(self) -> None:
        super().__init__()
        channels = (3 * NUM_FRAMES, *WIDTHS)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(a, b, 5, stride=2, padding=2), nn.GroupNorm(8, b), nn.SiLU())
                for a, b in pairwise(channels)
            )
        )
        self.heads = nn.ModuleList(nn.Linear(WIDTHS[-1] * 25, len(values)) for values in AXES)

    def forward(self, pixels_BCFHW: Tensor) -> list[Tensor]:
        """Pixels (B, 3, F, S, S) in -1..1 with any number of frames of any size."""
        num_frames = pixels_BCFHW.shape[2]
        chosen = torch.linspace(0, num_frames - 1, NUM_FRAMES, device=pixels_BCFHW.device).round().long()
        frames = pixels_BCFHW[:, :, chosen].flatten(1, 2)
        features = self.layers(interpolate(frames, size=(SIDE, SIDE), mode="bilinear", antialias=True)).flatten(1)
        return [head(features) for head in self.heads]


def load_scene_judge(state: Path) -> SceneJudge:
    """Raises FileNotFoundError if the judge has not been trained."""
    judge = SceneJudge()
    if not load_state(state / FILE, judge):
        raise FileNotFoundError(f"{state / FILE} does not exist: run the step scene-judge first")
    return judge.eval()


def train_scene_judge(recipe: Recipe, state: Path, device: torch.device) -> None:
    """Writes `scene_judge.safetensors`, and reports its accuracy on clips of held-out people."""
    data, stage = recipe.data, recipe.scene_judge
    source = training_source(state, data.model_copy(update={"num_morphs": 0}), device, seed=31)
    judge = SceneJudge().to(device)
    optimiser = torch.optim.AdamW(judge.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    progress = Progress("scene-judge", state, total_s=stage.seconds)
    while not progress.is_over:
        drawn = _softened(source.clips(source.any_people(BATCH_CLIPS)))
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * progress.rate_share
        losses = [cross_entropy(logits, drawn.scenes[:, axis]) for axis, logits in enumerate(judge(drawn.pixels))]
        optimiser.zero_grad()
        torch.stack(losses).sum().backward()
        optimiser.step()
        progress.step(dict(zip(Scene._fields, losses, strict=True)))
    save_state(state / FILE, judge, seconds=progress.seconds)
    held_out = held_out_source(state, data, device, seed=32)
    progress.report(_accuracy(judge, held_out, stage.num_test_clips))


@torch.no_grad()
def _accuracy(judge: SceneJudge, source: SceneSource, num_clips: int) -> dict[str, object]:
    rights = []
    for _ in range(max(num_clips // BATCH_CLIPS, 1)):
        drawn = _softened(source.clips(source.any_people(BATCH_CLIPS)))
        found = torch.stack([logits.argmax(1) for logits in judge(drawn.pixels)], dim=1)
        rights.append((found == drawn.scenes).float())
    return {name: round(float(share), 3) for name, share in zip(Scene._fields, torch.cat(rights).mean(0), strict=True)}


def _softened(drawn: Clips) -> Clips:
    """A random part of the sharpness taken away, because rendered clips are softer than drawn ones."""
    frames = drawn.pixels.transpose(1, 2).flatten(0, 1)
    blurred = avg_pool2d(frames, 5, stride=1, padding=2, count_include_pad=False)
    share = torch.rand((), device=frames.device)
    mixed = frames.lerp(blurred, share) + 0.03 * torch.randn_like(frames)
    return drawn._replace(pixels=mixed.unflatten(0, (len(drawn.pixels), -1)).transpose(1, 2))

"""The prompts of training as token ids on the device that trains. S is the number of text positions; ids are padded with zeros."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from jobs.demo.training.axes import AXES


class PromptIds(NamedTuple):
    """`seen` is (scenes, prompts per scene, S); the others are (S,)."""

    seen: Tensor
    negative: Tensor
    empty: Tensor
    reference: Tensor
    num_pieces: int

    def draw(self, scenes_B4: Tensor) -> Tensor:
        """Any prompt of each scene, (B, S)."""
        motion, place, camera, light = scenes_B4.unbind(1)
        _, places, cameras, lights = (len(axis) for axis in AXES)
        number = ((motion * places + place) * cameras + camera) * lights + light
        any_prompt = torch.randint(0, self.seen.shape[1], (len(number),), device=number.device)
        return self.seen[number, any_prompt]


def load_prompt_ids(file: Path, device: torch.device) -> PromptIds:
    """The ids that the step `prepare` wrote."""
    with np.load(file) as saved:
        seen, special = (torch.from_numpy(saved[name].astype(np.int64)) for name in ("seen", "special"))
        num_pieces = int(saved["num_pieces"])
    longest = max(int((ids > 0).sum(-1).max()) for ids in (seen, special))
    seen = pad(seen, (0, special.shape[-1] - seen.shape[-1]))
    negative, empty, reference = special[:, :longest].to(device)
    return PromptIds(seen[..., :longest].to(device), negative, empty, reference, num_pieces)

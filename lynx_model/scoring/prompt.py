"""Prompt: how well a clip's frames fit the prompt, by a CLIP-type model. A soft score: good for ranking, not for refusing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lynx_model.errors import WeightsMismatch
from lynx_model.scoring.clip import JudgedClip
from lynx_model.scoring.network_file import TRIAL_PICTURE, folder_files, open_folder, try_out
from lynx_model.scoring.scorer import hash_scorer_files
from lynx_model.scoring.scores import PromptScores


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptScorer:
    """Compares frames with the prompt, which is cut to the model's longest text."""

    name: str
    files: Mapping[str, str]
    model: Any
    processor: Any

    @classmethod
    def load(cls, folder: str, *, field: str = "prompt_model", device: str = "cpu") -> Self:
        """Loads a model with image and text embeddings, such as CLIP, from a folder in transformers' layout.

        Raises:
            MissingFile: If the folder or a file in it is not on this machine.
            WeightsMismatch: If it holds another kind of model, or its weights do not fit its config.
        """
        from transformers import AutoModel, AutoProcessor

        path = Path(folder)
        model, processor = open_folder(field, path, AutoModel, AutoProcessor, device=device)
        if not hasattr(model, "get_text_features") or not hasattr(processor, "tokenizer"):
            kind = model.config.model_type
            raise WeightsMismatch(f"{field}={folder!r}: must be a CLIP-type model with a tokenizer, is {kind!r}")
        scorer = cls(name=path.name, files=hash_scorer_files(folder_files(path)), model=model, processor=processor)
        try_out(field, path, lambda: scorer.compare("A person.", [TRIAL_PICTURE]))
        return scorer

    def score(self, clip: JudgedClip) -> PromptScores:
        cosines = self.compare(clip.params.prompt, clip.chosen_frames)
        return PromptScores(
            scorer=self.name, mean=sum(cosines) / len(cosines), minimum=min(cosines), cosines=tuple(cosines)
        )

    def compare(self, prompt: str, pictures: Sequence[NDArray[np.uint8]]) -> list[float]:
        """The cosine of each picture, uint8 (H, W, 3) RGB, to the prompt."""
        import torch

        inputs = self.processor(
            text=[prompt],
            images=list(pictures),
            return_tensors="pt",
            padding="max_length",
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
        ).to(self.model.device)
        with torch.inference_mode():
            found = self.model(**inputs)
            seen, text = (torch.nn.functional.normalize(e, dim=-1) for e in (found.image_embeds, found.text_embeds))
            return [float(cosine) for cosine in (seen @ text[0]).float().cpu()]

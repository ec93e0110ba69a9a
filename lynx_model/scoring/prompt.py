"""Prompt: how well a clip's frames fit the prompt, by a CLIP-type model. A soft score: good for ranking, not for refusing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lynx_model.errors import WeightsMismatch
from lynx_model.scoring.clip import JudgedClip
from lynx_model.scoring.network_file import folder_files, open_folder
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
        """Loads a model with image and text embeddings, such as CLIP or SigLIP, from a folder in transformers' layout.

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
        return cls(name=path.name, files=hash_scorer_files(folder_files(path)), model=model, processor=processor)

    def score(self, clip: JudgedClip) -> PromptScores:
        import torch

        inputs = self.processor(
            text=[clip.params.prompt],
            images=clip.chosen_frames,
            return_tensors="pt",
            padding="max_length",
            truncation=True,
            max_length=self.model.config.text_config.max_position_embeddings,
        ).to(self.model.device)
        with torch.inference_mode():
            found = self.model(**inputs)
            pictures, text = (torch.nn.functional.normalize(e, dim=-1) for e in (found.image_embeds, found.text_embeds))
            cosines = (pictures @ text[0]).float().cpu().tolist()
        return PromptScores(
            scorer=self.name, mean=sum(cosines) / len(cosines), minimum=min(cosines), cosines=tuple(cosines)
        )

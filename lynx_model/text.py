"""Prompt -> text embedding, as Wan2.1 reads it: UMT5 over 512 tokens, zeroed after the prompt's own length."""

import html
from functools import lru_cache

import ftfy
import torch
from accelerate import cpu_offload
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from lynx_model.spec import TextPlacement

NUM_TEXT_TOKENS = 512
NUM_CACHED_PROMPTS = 512
"""0.4 MB of host memory each at 50 tokens, 4 MB at most."""


class TextEncoder:
    """A tokenizer and its encoder, which lies on `device` if it is resident and else in host memory; what was read is kept.

    Source: wan/modules/t5.py of Wan2.1 and its port in diffusers' WanPipeline; the DiT attends to all 512 positions.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        encoder: UMT5EncoderModel,
        *,
        device: torch.device,
        placement: TextPlacement,
    ) -> None:
        self._device, self._tokenizer = device, tokenizer
        self._encoder = cpu_offload(encoder, execution_device=device) if placement == "staged" else encoder
        self._compute_device = torch.device("cpu") if placement == "cpu" else device
        self._read = lru_cache(maxsize=NUM_CACHED_PROMPTS)(self._read_once)

    def embed(self, prompt: str) -> Tensor:
        """(1, 512, X) on `device` in the encoder's dtype; what exceeds 512 tokens is cut off."""
        rows_SX = self._read(prompt).to(self._device)
        return pad(rows_SX, (0, 0, 0, NUM_TEXT_TOKENS - len(rows_SX))).unsqueeze(0)

    @torch.inference_mode()
    def _read_once(self, prompt: str) -> Tensor:
        """One row for each token of the prompt itself, in host memory."""
        tokens = self._tokenizer(
            clean_prompt(prompt),
            padding="max_length",
            max_length=NUM_TEXT_TOKENS,
            truncation=True,
            return_tensors="pt",
        ).to(self._compute_device)
        embedding_BSX: Tensor = self._encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        return embedding_BSX[0, : int(tokens.attention_mask.sum())].clone().cpu()


def clean_prompt(prompt: str) -> str:
    """The prompt with broken and full-width characters mended, HTML entities resolved and white space folded.

    The published models were conditioned on prompts cleaned this way: without it full-width punctuation tokenises
    differently.
    """
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())

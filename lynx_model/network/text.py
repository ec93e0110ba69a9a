"""Prompt -> text embedding, as Wan2.1 reads it: UMT5 over 512 tokens, zeroed after the prompt's own length."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import torch
from accelerate import cpu_offload
from torch import Tensor
from torch.nn.functional import pad
from transformers import UMT5EncoderModel

from lynx_model.spec import NUM_TEXT_TOKENS, TextPlacement
from lynx_model.tokenizer import TokenIds

NUM_CACHED_PROMPTS = 512
"""Each takes 0.4 MB of host memory at 50 tokens, and 4 MB at most."""


class ReadsText(Protocol):
    """`lynx_model.tokenizer.Tokenizer`, or a stand-in."""

    def read(self, texts: Sequence[str]) -> list[TokenIds]: ...


class TextEncoder:
    """Embeds prompts and caches the results. The encoder is on `device` if it is resident, else in host memory.

    Source: wan/modules/t5.py of Wan2.1 and its port in diffusers' WanPipeline. The DiT attends to all 512 positions.
    """

    def __init__(
        self,
        tokenizer: ReadsText,
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
        """(1, 512, X) on `device` in the encoder's dtype. Prompts are cut to 512 tokens."""
        rows_SX = self._read(prompt).to(self._device)
        return pad(rows_SX, (0, 0, 0, NUM_TEXT_TOKENS - len(rows_SX))).unsqueeze(0)

    @torch.inference_mode()
    def _read_once(self, prompt: str) -> Tensor:
        """One row per token of the prompt, without padding, in host memory."""
        (ids,) = self._tokenizer.read([prompt])
        tokens_S = torch.tensor(ids, device=self._compute_device)
        num_missing = NUM_TEXT_TOKENS - len(tokens_S)
        tokens_BS = pad(tokens_S, (0, num_missing), value=self._encoder.config.pad_token_id).unsqueeze(0)
        mask_BS = pad(torch.ones_like(tokens_S), (0, num_missing)).unsqueeze(0)
        embedding_BSX: Tensor = self._encoder(tokens_BS, mask_BS).last_hidden_state
        return embedding_BSX[0, : len(tokens_S)].clone().cpu()

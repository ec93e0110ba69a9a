"""Prompt -> text embedding, as Wan2.1 reads it: UMT5 over 512 tokens, zeroed after the prompt's own length."""

import html

import ftfy
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

NUM_TEXT_TOKENS = 512


class TextEncoder:
    """A tokenizer and its encoder.

    Source: wan/modules/t5.py of Wan2.1 and its port in diffusers' WanPipeline; the DiT attends to all 512 positions.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, encoder: UMT5EncoderModel) -> None:
        self._tokenizer, self._encoder = tokenizer, encoder

    def embed(self, prompt: str) -> Tensor:
        """(1, 512, X) in the encoder's dtype and on its device; what exceeds 512 tokens is cut off."""
        tokens = self._tokenizer(
            clean_prompt(prompt),
            padding="max_length",
            max_length=NUM_TEXT_TOKENS,
            truncation=True,
            return_tensors="pt",
        ).to(self._encoder.device)
        with torch.inference_mode():
            embedding_BSX: Tensor = self._encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
            mask_BS: Tensor = tokens.attention_mask
            return embedding_BSX * mask_BS.unsqueeze(-1)


def clean_prompt(prompt: str) -> str:
    """The prompt with broken and full-width characters mended, HTML entities resolved and white space folded.

    The published models were conditioned on prompts cleaned this way: without it full-width punctuation tokenises
    differently.
    """
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())

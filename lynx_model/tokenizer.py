"""Text -> the token ids that the text encoder reads. Free of torch, so naming a clip and rendering it can share it."""

import hashlib
import html
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TypeVar

import ftfy
import tokenizers

from lynx_model.checkpoints.base import TOKENIZER_FILE
from lynx_model.errors import MissingFile, WeightsMismatch
from lynx_model.spec import NUM_TEXT_TOKENS

BYTES_PER_TOKEN = 3.5
"""UTF-8 bytes per token. UMT5's tokenizer has 4.3 in English prose and 3.0 in Chinese."""

NUM_TEXTS_AT_ONCE = 1000
"""Texts per batch, which bounds the memory of their encodings."""

TokenIds = tuple[int, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TextReading:
    """The number of tokens of a text, and the sha256 of the pieces of text that the model reads.

    Texts with the same sha256 have the same token ids. The reverse does not hold: pieces that the tokenizer does not know all get
    one id, although they differ. `unknown` are these pieces, in their order and with repetitions, among those that the model reads.
    """

    num_tokens: int
    sha256: str
    unknown: tuple[str, ...] = ()

    @property
    def is_empty(self) -> bool:
        """Whether the text has no token but the one that ends it."""
        return self.num_tokens == 1

    @property
    def is_cut(self) -> bool:
        return self.num_tokens > NUM_TEXT_TOKENS

    @property
    def share_unknown(self) -> float:
        """The share of unknown tokens among those that the model reads, without the one that ends the text; 0 for an empty text."""
        num_read = min(self.num_tokens, NUM_TEXT_TOKENS) - 1
        return len(self.unknown) / num_read if num_read else 0.0


# Unless this is set, the library warns on stderr whenever a process that used its threads forks, as Ray's processes do.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


class Tokenizer:
    """The tokenizer of a base model, exactly as its `tokenizer.json` defines it. The original uses that file, too.

    transformers 5 builds a tokenizer of its own from the file's vocabulary, in which unknown pieces become `<s>` instead of `<unk>`.
    """

    def __init__(self, library: tokenizers.Tokenizer) -> None:
        self._library = library

    @classmethod
    def load(cls, base: Path) -> "Tokenizer":
        """Loads the tokenizer of the base model in a folder. UMT5's takes 0.7 s and 230 MB of memory.

        Raises:
            MissingFile: If there is none.
            WeightsMismatch: If it cannot be parsed, or does not end each text with a token.
        """
        file = base / TOKENIZER_FILE
        if not file.is_file():
            raise MissingFile(f"{file}: no such file")
        try:
            library = tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises nothing narrower
            raise WeightsMismatch(f"{file}: must be a tokenizer of the tokenizers library: {error}") from error
        library.no_truncation()
        library.no_padding()
        if len(library.encode("").ids) != 1:
            raise WeightsMismatch(f"{file}: must end each text with one token")
        return cls(library)

    def read(self, texts: Sequence[str]) -> list[TokenIds]:
        """The token ids of each text, cut to what the model reads."""
        return [_cut(encoding.ids) for encoding in self._encode(texts)]

    def describe(self, texts: Iterable[str]) -> dict[str, TextReading]:
        """The reading of each distinct text."""
        distinct = iter(dict.fromkeys(texts))
        found: dict[str, TextReading] = {}
        while chunk := list(islice(distinct, NUM_TEXTS_AT_ONCE)):
            cleaned = [clean_text(text) for text in chunk]
            readings = map(self._describe, cleaned, self._library.encode_batch(cleaned))
            found |= zip(chunk, readings, strict=True)
        return found

    @cached_property
    def _unknown_id(self) -> int | None:
        """The token of pieces that are in no vocabulary; None if the tokenizer has none. Takes 0.2 s for UMT5's."""
        model = json.loads(self._library.to_str())["model"]
        token = model.get("unk_token")
        found: int | None = model.get("unk_id") if token is None else self._library.token_to_id(token)
        return found

    def _encode(self, texts: Sequence[str]) -> Sequence[tokenizers.Encoding]:
        return self._library.encode_batch([clean_text(text) for text in texts])

    def _describe(self, text: str, encoding: tokenizers.Encoding) -> TextReading:
        """The reading of a cleaned text, which holds no line break."""
        pieces = "\n".join(_cut(encoding.tokens))
        return TextReading(
            num_tokens=len(encoding),
            sha256=hashlib.sha256(pieces.encode()).hexdigest(),
            unknown=self._find_unknown(text, encoding),
        )

    def _find_unknown(self, text: str, encoding: tokenizers.Encoding) -> tuple[str, ...]:
        ids = _cut(encoding.ids)
        if self._unknown_id not in ids:
            return ()
        places = zip(ids, _cut(encoding.offsets), strict=True)
        return tuple(text[begin:end] for token, (begin, end) in places if token == self._unknown_id)


def _cut(tokens: Sequence[T]) -> tuple[T, ...]:
    """The tokens that the model reads: the first ones, and the last one, which ends the text."""
    return tuple(tokens if len(tokens) <= NUM_TEXT_TOKENS else [*tokens[: NUM_TEXT_TOKENS - 1], tokens[-1]])


def estimate_num_tokens(text: str) -> int:
    """An estimate of the number of tokens, for use without a tokenizer."""
    return math.ceil(len(clean_text(text).encode()) / BYTES_PER_TOKEN)


def clean_text(text: str) -> str:
    """The text with broken and full-width characters repaired, HTML entities resolved and white space collapsed.

    The published models were conditioned on prompts cleaned this way; otherwise, for example, full-width punctuation has other tokens.
    Source: pipelines/wan/pipeline_wan.py of diffusers.
    """
    is_plain = text.isascii() and text.isprintable() and "&" not in text  # nothing to repair, and ten times as fast
    return " ".join((text if is_plain else html.unescape(html.unescape(ftfy.fix_text(text)))).split())

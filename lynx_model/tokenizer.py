"""Text -> the token ids that the text encoder reads; free of torch, so that naming a clip and rendering it read the same."""

import hashlib
import html
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import ftfy
import tokenizers

from lynx_model.checkpoints.base import TOKENIZER_FILE
from lynx_model.errors import MissingFile, WeightsMismatch
from lynx_model.spec import NUM_TEXT_TOKENS

BYTES_PER_TOKEN = 3.5
"""UTF-8 bytes; with the tokenizer of UMT5 it is 4.3 in English prose and 3.0 in Chinese."""

NUM_TEXTS_AT_ONCE = 1000
"""Read together, to bound the memory that their encodings take."""

TokenIds = tuple[int, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TextReading:
    """How many tokens a text has, and the sha256 of the pieces of text behind those that the model reads.

    Texts of one sha256 have the same token ids. The other way round it need not be so: the model cannot tell pieces that the
    tokenizer does not know from each other, but who wrote them can.
    """

    num_tokens: int
    sha256: str

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing but the token that ends it."""
        return self.num_tokens == 1

    @property
    def is_cut(self) -> bool:
        return self.num_tokens > NUM_TEXT_TOKENS


# Set by nobody, the library warns on stderr whenever a process that has used its threads starts another, as Ray's do.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


class Tokenizer:
    """The tokenizer of a base model, as its `tokenizer.json` says, with which the original reads it, too.

    transformers 5 builds its own from that file's vocabulary, where what UMT5 does not know becomes `<s>` instead of `<unk>`.
    """

    def __init__(self, library: tokenizers.Tokenizer) -> None:
        self._library = library

    @classmethod
    def load(cls, base: Path) -> "Tokenizer":
        """That of the base model in a folder; 0.7 s and 230 MB of memory for UMT5's.

        Raises:
            MissingFile: If there is none.
            WeightsMismatch: If it cannot be understood, or does not end each text with a token.
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
        """The ids of the tokens that the model reads of each text."""
        return [_cut(encoding.ids) for encoding in self._encode(texts)]

    def describe(self, texts: Iterable[str]) -> dict[str, TextReading]:
        """What the model reads of each distinct text."""
        distinct = iter(dict.fromkeys(texts))
        found: dict[str, TextReading] = {}
        while chunk := list(islice(distinct, NUM_TEXTS_AT_ONCE)):
            found |= zip(chunk, map(_describe, self._encode(chunk)), strict=True)
        return found

    def _encode(self, texts: Sequence[str]) -> Sequence[tokenizers.Encoding]:
        return self._library.encode_batch([clean_text(text) for text in texts])


def _describe(encoding: tokenizers.Encoding) -> TextReading:
    pieces = "\n".join(_cut(encoding.tokens))  # cleaned text holds no line break
    return TextReading(num_tokens=len(encoding), sha256=hashlib.sha256(pieces.encode()).hexdigest())


def _cut(tokens: Sequence[T]) -> tuple[T, ...]:
    """What the model reads of a text's tokens: the first ones and the last, which is the end of the text."""
    return tuple(tokens if len(tokens) <= NUM_TEXT_TOKENS else [*tokens[: NUM_TEXT_TOKENS - 1], tokens[-1]])


def estimate_num_tokens(text: str) -> int:
    """About how many token ids a text has, where there is no tokenizer."""
    return math.ceil(len(clean_text(text).encode()) / BYTES_PER_TOKEN)


def clean_text(text: str) -> str:
    """The text with broken and full-width characters mended, HTML entities resolved and white space folded.

    The published models were conditioned on prompts cleaned this way: without it full-width punctuation tokenises
    differently. Source: pipelines/wan/pipeline_wan.py of diffusers.
    """
    is_plain = text.isascii() and text.isprintable() and "&" not in text  # nothing to mend, ten times as fast
    return " ".join((text if is_plain else html.unescape(html.unescape(ftfy.fix_text(text)))).split())

"""Finds texts with more tokens than the model reads, by its tokenizer or by an estimate, and texts with too many unknown tokens."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import structlog

from lynx_batch.clip import ClipRequest
from lynx_batch.config import DefaultsConfig
from lynx_batch.errors import ConfigError
from lynx_batch.intake.guidance import BrokenRule
from lynx_batch.intake.problems import RowProblem, shorten
from lynx_model.canonical import texts_read
from lynx_model.spec import NUM_TEXT_TOKENS
from lynx_model.tokenizer import TextReading, Tokenizer, estimate_num_tokens

log = structlog.get_logger()

MAX_ROWS_SHOWN = 20

MAX_UNKNOWN_SHARE = 0.2
"""A text with a larger share of unknown tokens is worth a warning: the model cannot tell these tokens apart."""

Readings = Mapping[str, TextReading]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownText:
    """A text of which the tokenizer does not know enough. `rows` have it in `column`; `pieces` are unknown, each once."""

    column: str
    text: str
    rows: tuple[int, ...]
    share: float
    pieces: tuple[str, ...]


def read_texts(requests: Iterable[ClipRequest], tokenizer: Tokenizer) -> Readings:
    """What the model with this tokenizer reads of each text of `requests`."""
    return tokenizer.describe(text for r in requests for text in texts_read(r.params).values())


def check_texts(
    requests: Iterable[ClipRequest], readings: Readings, defaults: DefaultsConfig
) -> tuple[list[ClipRequest], list[RowProblem]]:
    """The requests whose texts the model can read, and the problems of the others.

    With `defaults.truncate_prompts`, no text is too long, but a warning names the rows whose text is cut.

    Raises:
        ConfigError: If a clip uses the default negative prompt and it is too long.
    """
    may_cut = defaults.truncate_prompts
    default = readings.get(defaults.negative_prompt)
    if default is not None and default.is_cut and not may_cut:
        raise ConfigError(f"defaults.negative_prompt={shorten(defaults.negative_prompt)}: {_too_long(default)}")
    kept, problems, cut_rows = [], [], []
    for request in requests:
        texts = texts_read(request.params)
        faults = list(_explain_texts(texts, readings, may_cut=may_cut))
        problems += [RowProblem(row=request.row, column=c, value=value, rule=rule) for c, value, rule in faults]
        if not faults:
            kept.append(request)
            cut_rows += [request.row] if any(readings[text].is_cut for text in texts.values()) else []
    if cut_rows:
        log.warning("texts_cut", max_tokens=NUM_TEXT_TOKENS, num_rows=len(cut_rows), rows=cut_rows[:MAX_ROWS_SHOWN])
    return kept, problems


def find_unknown_texts(
    requests: Iterable[ClipRequest], readings: Readings, defaults: DefaultsConfig
) -> list[UnknownText]:
    """The texts with more than `MAX_UNKNOWN_SHARE` of unknown tokens, each once. The default negative prompt is not the rows' own."""
    unknown = {text for text, reading in readings.items() if reading.share_unknown > MAX_UNKNOWN_SHARE}
    rows: dict[tuple[str, str], list[int]] = {}
    for request in requests:
        for column, text in texts_read(request.params).items():
            if text in unknown and (column, text) != ("negative_prompt", defaults.negative_prompt):
                rows.setdefault((column, text), []).append(request.row)
    return [
        UnknownText(
            column=column,
            text=text,
            rows=tuple(its_rows),
            share=readings[text].share_unknown,
            pieces=tuple(dict.fromkeys(readings[text].unknown)),
        )
        for (column, text), its_rows in rows.items()
    ]


def warn_of_long_texts(requests: Iterable[ClipRequest]) -> None:
    """Logs the rows whose texts may be too long. For use without a tokenizer."""
    rows = [
        request.row
        for request in requests
        if any(estimate_num_tokens(text) > NUM_TEXT_TOKENS for text in texts_read(request.params).values())
    ]
    if rows:
        log.warning(
            "texts_may_be_too_long",
            max_tokens=NUM_TEXT_TOKENS,
            num_rows=len(rows),
            rows=rows[:MAX_ROWS_SHOWN],
            advice="check with --run, to count the tokens exactly with the model's tokenizer",
        )


def _explain_texts(texts: Mapping[str, str], readings: Readings, *, may_cut: bool) -> Iterator[BrokenRule]:
    for field, text in texts.items():
        reading = readings[text]
        if field == "prompt" and reading.is_empty:
            yield field, text, "must not be empty, but cleaning removes all of it"
        if reading.is_cut and not may_cut:
            yield field, text, _too_long(reading)


def _too_long(reading: TextReading) -> str:
    return (
        f"has {reading.num_tokens} tokens, and the model reads at most {NUM_TEXT_TOKENS}; "
        f"shorten it, or set defaults.truncate_prompts: true to cut it"
    )

"""Texts that are longer than the model reads."""

import json
import time

import pytest

from lynx_batch.clip import ClipRequest
from lynx_batch.config import DefaultsConfig
from lynx_batch.errors import ConfigError
from lynx_batch.intake.problems import RowProblem
from lynx_batch.intake.texts import check_texts, find_unknown_texts, read_texts, warn_of_long_texts
from lynx_batch.telemetry import configure_logging
from lynx_model.tokenizer import Tokenizer
from tests.builders import check
from tests.models import BASE

FITTING, LONG = "a " * 511, "a " * 512
MAX_SEARCH_S = 5


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(BASE)


def look(
    tokenizer: Tokenizer, *rows: dict[str, object], **defaults: object
) -> tuple[list[ClipRequest], list[RowProblem]]:
    requests, problems = check(*rows, **defaults)
    assert problems == []
    return check_texts(requests, read_texts(requests, tokenizer), DefaultsConfig(**defaults))


def test_a_text_that_is_too_long_is_told_with_its_number_of_tokens_and_the_limit(tokenizer: Tokenizer) -> None:
    kept, problems = look(tokenizer, {"prompt": FITTING}, {"prompt": LONG}, {"negative_prompt": f"{LONG} a"})
    assert [request.row for request in kept] == [10]
    assert [(problem.row, problem.column) for problem in problems] == [(11, "prompt"), (12, "negative_prompt")]
    rule = "and the model reads at most 512; shorten it, or set defaults.truncate_prompts: true to cut it"
    assert [problem.rule for problem in problems] == [f"has {number} tokens, {rule}" for number in (513, 514)]


def test_a_text_that_no_branch_reads_may_have_any_length(tokenizer: Tokenizer) -> None:
    kept, problems = look(tokenizer, {"negative_prompt": LONG, "num_guidance_branches": 1})
    assert (len(kept), problems) == (1, [])
    assert look(tokenizer, {}, negative_prompt=LONG, guidance_scale=1.0)[1] == []


def test_a_default_negative_prompt_that_is_too_long_is_told_once(tokenizer: Tokenizer) -> None:
    with pytest.raises(
        ConfigError, match=r"defaults\.negative_prompt='a a .*has 513 tokens, and the model reads at most"
    ):
        look(tokenizer, {}, {}, negative_prompt=LONG)
    assert look(tokenizer, {"negative_prompt": "blurred"}, negative_prompt=LONG)[1] == []


def test_texts_may_be_cut_and_a_warning_tells_the_rows(
    tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging()
    rows = [{}, {"prompt": LONG}, *[{"negative_prompt": LONG}] * 30]
    kept, problems = look(tokenizer, *rows, truncate_prompts=True)
    assert (len(kept), problems) == (32, [])
    (event,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (event["event"], event["level"], event["num_rows"]) == ("texts_cut", "warning", 31)
    assert event["rows"] == list(range(11, 31))


def test_a_prompt_of_which_nothing_is_left_once_it_is_cleaned_is_empty(tokenizer: Tokenizer) -> None:
    _, (problem,) = look(tokenizer, {"prompt": "&nbsp;"}, {"negative_prompt": ""})
    assert str(problem).startswith("row 10: prompt='&nbsp;': must not be empty")


@pytest.mark.parametrize(
    ("prompt", "share", "pieces"),
    [
        ("A person waves.", 0, ()),
        ("&nbsp;", 0, ()),
        ("微笑", 0, ()),
        ("a 𓀀 a", 0.25, ("𓀀",)),
        ("a 𓀀 a a", 0.2, ("𓀀",)),
        ("傍晚的海边，一个人", 0.4, ("傍晚的海边", "一个")),
        ("Ｚ Ｚ", 0.5, ("Z",)),
        (f"{'a ' * 600}𓀀", 0, ()),
    ],
)
def test_unknown_tokens_are_counted_in_what_the_model_reads(
    tokenizer: Tokenizer, prompt: str, share: float, pieces: tuple[str, ...]
) -> None:
    (reading,) = tokenizer.describe([prompt]).values()
    assert reading.share_unknown == pytest.approx(share)
    assert tuple(dict.fromkeys(reading.unknown)) == pieces
    requests, _ = check({"prompt": prompt}, {"prompt": prompt})
    found = find_unknown_texts(requests, read_texts(requests, tokenizer), DefaultsConfig())
    assert [(text.rows, text.share, text.pieces) for text in found] == (
        [((10, 11), reading.share_unknown, pieces)] if share > 0.2 else []
    )


def test_a_negative_prompt_counts_if_it_is_the_rows_own_and_is_read(tokenizer: Tokenizer) -> None:
    foreign, defaults = {"negative_prompt": "𓀀 𓀁"}, {"negative_prompt": "𓀂 𓀃"}
    requests, _ = check({}, foreign, foreign | {"num_guidance_branches": 1}, **defaults)
    found = find_unknown_texts(requests, read_texts(requests, tokenizer), DefaultsConfig(**defaults))
    assert [(text.column, text.rows, text.pieces) for text in found] == [("negative_prompt", (11,), ("𓀀", "𓀁"))]


def test_the_texts_of_a_long_manifest_are_searched_in_seconds(tokenizer: Tokenizer) -> None:
    requests, _ = check(*[{"prompt": f"A person waves 𓀀 𓀁 𓀂 {number % 5000}"} for number in range(20_000)])
    started_s = time.perf_counter()
    found = find_unknown_texts(requests, read_texts(requests, tokenizer), DefaultsConfig())
    assert time.perf_counter() - started_s < MAX_SEARCH_S
    assert (len(found), sum(len(text.rows) for text in found)) == (5000, 20_000)


def test_without_a_tokenizer_lengths_are_estimated_and_only_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    requests, _ = check({}, {"prompt": "a person waves " * 300}, {"prompt": "一个人微笑" * 300})
    warn_of_long_texts(requests)
    (event,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (event["event"], event["rows"]) == ("texts_may_be_too_long", [11, 12])

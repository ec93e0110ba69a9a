"""Texts that are longer than the model reads."""

import json

import pytest

from lynx_batch.clip import ClipRequest
from lynx_batch.config import DefaultsConfig
from lynx_batch.errors import ConfigError
from lynx_batch.intake.problems import RowProblem
from lynx_batch.intake.texts import check_texts, read_texts, warn_of_long_texts
from lynx_batch.telemetry import configure_logging
from lynx_model.tokenizer import Tokenizer
from tests.builders import check
from tests.models import BASE

FITTING, LONG = "a " * 511, "a " * 512


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


def test_without_a_tokenizer_lengths_are_estimated_and_only_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging()
    requests, _ = check({}, {"prompt": "a person waves " * 300}, {"prompt": "一个人微笑" * 300})
    warn_of_long_texts(requests)
    (event,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (event["event"], event["rows"]) == ("texts_may_be_too_long", [11, 12])

"""What the model reads of a text."""

import html
import json
import shutil
from itertools import product
from pathlib import Path

import ftfy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from lynx_model.errors import MissingFile, WeightsMismatch
from lynx_model.spec import NUM_TEXT_TOKENS
from lynx_model.tokenizer import Tokenizer, clean_text, estimate_num_tokens
from tests.models import BASE

FRAGMENTS = [
    *(
        "The chef smiles.",
        "一个人在海边微笑，慢慢地走。",
        "ＦＵＬＬ　ｗｉｄｔｈ！",
        "schÃ¶n &amp;amp; &lt;b&gt; &hearts;",
    ),
    *(
        "e\u0301 u\u0308 n\u0303",
        "👩‍👩‍👧 🫨 🇫🇷",
        "हिन्दी العربية ไทย 한국어",
        "  blanks \t\n and\r\nlines  ",
        "ﬁ ① ½ ™ ß İ",
    ),
    *("</s> <pad> <unk> <extra_id_3>", "▁ ▁▁under", "\u200b\u00ad\ufeff", "“quotes” ’ … —", "𓀀 𝌆"),
]
PROMPTS = ["", *FRAGMENTS, *(a + b for a, b in product(FRAGMENTS, repeat=2)), "word " * 700, "微笑" * 600, "x" * 5000]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(BASE)


def test_token_ids_are_those_that_transformers_gives(tokenizer: Tokenizer) -> None:
    published = AutoTokenizer.from_pretrained(BASE / "tokenizer", local_files_only=True)
    wanted = published([clean_text(p) for p in PROMPTS], truncation=True, max_length=NUM_TEXT_TOKENS).input_ids
    assert len(PROMPTS) > 200
    assert [list(ids) for ids in tokenizer.read(PROMPTS)] == wanted


def test_a_text_of_as_many_tokens_as_are_read_is_whole_and_one_more_is_cut(tokenizer: Tokenizer) -> None:
    fitting = "a " * (NUM_TEXT_TOKENS - 1)
    texts = tokenizer.describe([fitting, f"{fitting} a", f"{fitting} b", "a"])
    assert [texts[text].num_tokens for text in (fitting, f"{fitting} a", "a")] == [
        NUM_TEXT_TOKENS,
        NUM_TEXT_TOKENS + 1,
        2,
    ]
    assert [reading.is_cut for reading in texts.values()] == [False, True, True, False]
    assert texts[f"{fitting} a"].sha256 == texts[f"{fitting} b"].sha256 == texts[fitting].sha256


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("café", "cafe\u0301"),
        ("a cat", "  a\tcat\n"),
        ("Ａ，b", "A,b"),
        ("a & b", "a &amp;amp; b"),
        ("schön", "schÃ¶n"),
    ],
    ids=["normal forms", "white space", "full width", "HTML entities", "wrong decoding"],
)
def test_texts_that_the_model_reads_alike_have_one_digest(tokenizer: Tokenizer, text: str, same: str) -> None:
    readings = tokenizer.describe([text, same, "another"])
    assert readings[text] == readings[same] != readings["another"]


def test_texts_of_one_digest_have_the_same_token_ids(tokenizer: Tokenizer) -> None:
    readings = tokenizer.describe(PROMPTS)
    ids = dict(zip(PROMPTS, tokenizer.read(PROMPTS), strict=True))
    by_digest: dict[str, set[tuple[int, ...]]] = {}
    for text, reading in readings.items():
        by_digest.setdefault(reading.sha256, set()).add(ids[text])
    assert {len(found) for found in by_digest.values()} == {1}


def test_signs_that_the_tokenizer_does_not_know_keep_texts_apart(tokenizer: Tokenizer) -> None:
    first, second = ("a person waves 𓀀", "a person waves 𓀁")
    assert tokenizer.read([first]) == tokenizer.read([second])
    readings = tokenizer.describe([first, second])
    assert readings[first] != readings[second]


@pytest.mark.parametrize(
    "model",
    [
        {"type": "WordLevel", "vocab": {"</s>": 0, "[UNK]": 1, "a": 2}, "unk_token": "[UNK]"},
        {"type": "BPE", "vocab": {"</s>": 0, "[UNK]": 1, "a": 2}, "merges": [], "unk_token": "[UNK]"},
        {"type": "BPE", "vocab": {"</s>": 0, "a": 2, "z": 3}, "merges": [], "unk_token": None},
    ],
)
def test_unknown_pieces_are_found_whatever_the_tokenizers_kind(tmp_path: Path, model: dict[str, object]) -> None:
    file = Path(shutil.copytree(BASE / "tokenizer", tmp_path / "tokenizer"), "tokenizer.json")
    content = json.loads(file.read_text())
    end = {"</s>": {"id": "</s>", "ids": [0], "tokens": ["</s>"]}}
    post_processor = content["post_processor"] | {"special_tokens": end}
    split = {"type": "WhitespaceSplit"}
    changes = {"model": model, "added_tokens": [], "post_processor": post_processor, "pre_tokenizer": split}
    file.write_text(json.dumps(content | changes | {"decoder": None}))
    (reading,) = Tokenizer.load(tmp_path).describe(["a z a"]).values()
    assert reading.num_tokens == 4
    assert reading.unknown == (("z",) if model["unk_token"] else ())


def test_a_text_is_cleaned_as_the_model_saw_it() -> None:
    assert clean_text("  ＡＢＣ，\n &amp;amp; schÃ¶n ") == "ABC, & schön"


@given(st.text(st.characters(max_codepoint=127)))
def test_plain_text_needs_no_mending(text: str) -> None:
    assert clean_text(text) == " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split())


def test_nothing_but_the_end_is_read_of_a_text_that_is_empty_once_it_is_cleaned(tokenizer: Tokenizer) -> None:
    readings = tokenizer.describe(["&nbsp;", "", "a"])
    assert [reading.is_empty for reading in readings.values()] == [True, True, False]


def test_an_estimate_is_near_the_number_of_tokens_of_english_and_of_chinese() -> None:
    """By the tokenizer of UMT5 these have 1102 and 2102 tokens."""
    english, chinese = (
        "A person is playing guitar on the sunny beach. " * 100,
        "一个人在秋天的森林里慢慢地走着，金色的阳光。" * 100,
    )
    assert estimate_num_tokens(english) == pytest.approx(1102, rel=0.25)
    assert estimate_num_tokens(chinese) == pytest.approx(2102, rel=0.25)


def test_a_base_without_a_tokenizer_or_with_a_damaged_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match=r"tokenizer/tokenizer\.json: no such file"):
        Tokenizer.load(tmp_path)
    file = Path(shutil.copytree(BASE / "tokenizer", tmp_path / "tokenizer"), "tokenizer.json")
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"post_processor": None}))
    with pytest.raises(WeightsMismatch, match=r"tokenizer\.json: must end each text with one token"):
        Tokenizer.load(tmp_path)
    file.write_text("{}")
    with pytest.raises(WeightsMismatch, match=r"tokenizer\.json: must be a tokenizer"):
        Tokenizer.load(tmp_path)

"""Which rows a sample takes, and why."""

import itertools
from collections.abc import Iterable

import pytest

from lynx_batch.clip import ClipRequest
from lynx_batch.errors import ConfigError
from lynx_batch.planning.sampling import Sample, Traits, choose_sample, scripts_of, traits_of
from lynx_model.spec import RenderParams
from tests.builders import make_request


def request(row: int, prompt: str = "A person waves.", **changes: object) -> ClipRequest:
    own = {name: changes.pop(name) for name in [*changes] if name in RenderParams.__dataclass_fields__}
    return make_request(RenderParams(prompt=prompt, **own), row=row, **changes)


def traits(requests: Iterable[ClipRequest]) -> dict[int, Traits]:
    return {each.row: traits_of(each) for each in requests}


def campaign(num_rows: int = 5000) -> list[ClipRequest]:
    """Each row has a person and a name of its own. Three templates in three languages, two shapes, one rare setting, a city."""
    greetings = {"en": "A person waves to {{name}}", "de": "Ein Mensch grüßt {{name}}", "zh": "一个人向{{name}}挥手"}
    languages = itertools.cycle(greetings.items())
    return [
        request(
            row,
            template.replace("{{name}}", f"customer {row}"),
            prompt_template=template,
            subject_id=f"customer-{row}",
            width=480 if row % 7 == 0 else 832,
            guidance_scale=7.0 if row == 4321 else 5.0,
            tags={"language": language, "customer": str(row)},
        )
        for row, (language, template) in zip(range(num_rows), languages, strict=False)
    ]


def picked(sample: Sample) -> list[int]:
    return [pick.row for pick in sample.picks]


def test_a_sample_of_5000_rows_shows_everything_that_varies() -> None:
    sample = choose_sample(traits(campaign()), count=12)
    assert len(sample.picks) == 12
    assert {name: shown for name, shown in sample.shown.items() if shown[0] < shown[1]} == {"subject": (12, 5000)}
    assert sample.shown["prompt"] == sample.shown["tags.language"] == (3, 3)
    assert sample.shown["shape"] == sample.shown["guidance_scale"] == (2, 2)
    assert sample.left_out == {"tags.customer": 5000}, "it tells rows apart, not kinds of rows"
    assert 4321 in picked(sample), "the only row with its guidance"


def test_the_first_rows_show_most_and_each_says_what_it_adds() -> None:
    sample = choose_sample(traits(campaign()), count=12)
    assert [len(pick.shows) for pick in sample.picks] == sorted((len(p.shows) for p in sample.picks), reverse=True)
    first, *_, last = sample.picks
    assert first.explain().startswith("first with subject customer-")
    assert "shape 832x480, 81 frames at 16 fps" in first.explain(), "the shape that most rows have comes first"
    assert [trait.aspect for trait in last.shows] == ["subject"]
    assert "first with subject" in first.explain(without="prompt")
    assert "A person" not in first.explain(without="prompt")
    assert last.explain(without="subject") == "first with its subject"
    shown = [trait for pick in sample.picks for trait in pick.shows]
    assert len(shown) == len({*shown}), "nothing is said twice"


def test_it_ends_when_everything_is_shown() -> None:
    people, prompts = ("ada", "grace"), ("waves", "sings", "runs")
    rows = [request(n, p, subject_id=s) for n, (s, p) in enumerate(itertools.product(people, prompts))]
    sample = choose_sample(traits(rows), count=12)
    assert (len(sample.picks), sample.shown) == (3, {"subject": (2, 2), "prompt": (3, 3)})


def test_only_the_wanted_aspects_are_followed() -> None:
    rows = traits(campaign(300))
    assert choose_sample(rows, count=12, per=["prompt", "shape"]).shown == {"prompt": (3, 3), "shape": (2, 2)}
    by_customer = choose_sample(rows, count=5, per=["tags"])
    assert by_customer.shown == {"tags.language": (3, 3), "tags.customer": (5, 300)}
    with pytest.raises(ConfigError, match=r"--per 'promt': must be something that rows have; the nearest is 'prompt'"):
        choose_sample(rows, count=12, per=["promt"])


def test_rows_that_are_alike_give_one_row() -> None:
    sample = choose_sample(traits(request(row, seed=row) for row in range(3, 9)), count=12)
    assert [(pick.row, pick.explain()) for pick in sample.picks] == [(3, "all rows are alike")]


def test_a_template_counts_once_however_often_it_is_filled_in() -> None:
    rows = [request(n, f"Hi {n}", prompt_template="Hi {{name}}") for n in range(4)] + [request(4, "By hand")]
    assert choose_sample(traits(rows), count=12).shown["prompt"] == (2, 2)


@pytest.mark.parametrize(
    ("text", "scripts"),
    [
        ("A person waves.", "LATIN"),
        ("她微笑着。", "CJK"),
        ("Привет, Anna", "CYRILLIC + LATIN"),
        ("東京で手を振る", "CJK + HIRAGANA"),
        ("123 !", "no letters"),
    ],
)
def test_the_scripts_of_a_text(text: str, scripts: str) -> None:
    assert scripts_of(text) == scripts


def test_many_rows_do_not_take_long() -> None:
    """Each of 12 picks would otherwise look at every row again."""
    rows = traits(request(row, subject_id=str(row)) for row in range(20_000))
    assert len(choose_sample(rows, count=1000).picks) == 1000

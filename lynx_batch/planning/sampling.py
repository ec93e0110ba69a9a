"""Which few rows of a manifest show everything that varies in it: a greedy cover.

Rows are picked one by one: each time the row with the most values that no picked row shows yet. Of several such rows, it is the one whose
new values most rows share, and then the first.
"""

import heapq
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from lynx_batch.clip import ClipRequest
from lynx_batch.errors import ConfigError
from lynx_batch.planning.approval import ROW_PARAMETERS, template_of
from lynx_batch.spelling import nearest

DEFAULT_COUNT = 12

SUBJECT, PROMPT, SHAPE, SCRIPT, TAGS = "subject", "prompt", "shape", "script", "tags"
IN_SHAPE = ("width", "height", "num_frames", "fps")

MAX_VALUE_LENGTH = 60

Traits = Mapping[str, Hashable]
"""What a row shows, by aspect: subject, prompt, shape, script, each parameter that is in none of these, and `tags.KEY`."""


class Trait(NamedTuple):
    """One value of an aspect."""

    aspect: str
    value: Hashable


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """A row that was picked, and what it is the first to show."""

    row: int
    shows: tuple[Trait, ...]

    def explain(self, without: str | None = None) -> str:
        """Why it was picked, for people, perhaps without one aspect, which they see anyway."""
        if not self.shows:
            return "all rows are alike"
        shown = [f"{trait.aspect} {_shorten(trait.value)}" for trait in self.shows if trait.aspect != without]
        return f"first with {', '.join(shown) or f'its {without}'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """The picked rows, and of each aspect that varies how many values they show, and how many there are.

    `left_out` counts the values of tags that have too many to be shown.
    """

    picks: list[Pick]
    shown: Mapping[str, tuple[int, int]]
    left_out: Mapping[str, int]


def traits_of(request: ClipRequest) -> Traits:
    """What a row shows. Its prompt counts as its template, if it has one."""
    params = request.params
    others = {name: getattr(params, name) for name in ROW_PARAMETERS if name not in IN_SHAPE}
    return {
        SUBJECT: request.subject_id or "; ".join(sorted(request.subject_uris)),
        PROMPT: template_of(request),
        SHAPE: f"{params.width}x{params.height}, {params.num_frames} frames at {params.fps} fps",
        SCRIPT: scripts_of(params.prompt),
        **others,
        **{f"{TAGS}.{key}": value for key, value in request.tags.items()},
    }


def scripts_of(text: str) -> str:
    """The scripts of the text's letters, such as "LATIN" or "CJK + HIRAGANA"."""
    return " + ".join(sorted({_script(char) for char in set(text) if char.isalpha()})) or "no letters"


def choose_sample(rows: Mapping[int, Traits], *, count: int, per: Sequence[str] = ()) -> Sample:
    """At most `count` of the rows, fewer if those show everything.

    `per` are the aspects to follow; `tags` stands for all tags. Without any, these are all that vary, except tags with more values than
    `count`, which tell rows apart, not kinds of rows.

    Raises:
        ConfigError: If `per` names an aspect that no row has.
    """
    shared = Counter(Trait(*trait) for traits in rows.values() for trait in traits.items())
    num_values = Counter(trait.aspect for trait in shared)
    _check_aspects(per, num_values)
    varying = {aspect: num for aspect, num in num_values.items() if num > 1 and _is_wanted(aspect, per)}
    left_out = {a: num for a, num in varying.items() if num > count and not per and a.startswith(f"{TAGS}.")}
    followed = {aspect: num for aspect, num in varying.items() if aspect not in left_out}
    picks = [*_pick(rows, followed, shared, count)] or [Pick(row=row, shows=()) for row in [*rows][:1]]
    num_shown = Counter(trait.aspect for pick in picks for trait in pick.shows)
    return Sample(
        picks=picks, shown={aspect: (num_shown[aspect], num) for aspect, num in followed.items()}, left_out=left_out
    )


def _pick(
    rows: Mapping[int, Traits], followed: Mapping[str, int], shared: Counter[Trait], count: int
) -> Iterator[Pick]:
    """What a row would show never grows, so a row that is still first after a recount is the best of all."""
    shown: defaultdict[str, set[Hashable]] = defaultdict(set)

    def new(row: int) -> list[Trait]:
        traits = rows[row]
        return [Trait(a, traits[a]) for a in followed if a in traits and traits[a] not in shown[a]]

    def rank(row: int) -> tuple[int, int, int]:
        traits = new(row)
        return -len(traits), -sum(shared[trait] for trait in traits), row

    queue = [rank(row) for row in rows]
    heapq.heapify(queue)
    while queue and count:
        row = queue[0][-1]
        current = rank(row)
        if current != queue[0]:
            heapq.heapreplace(queue, current)
            continue
        traits = new(row)
        if not traits:
            return
        for trait in traits:
            shown[trait.aspect].add(trait.value)
        count -= 1
        yield Pick(row=row, shows=tuple(traits))


def _check_aspects(per: Sequence[str], known: Mapping[str, int]) -> None:
    for name in per:
        if not any(_is_wanted(aspect, [name]) for aspect in known):
            raise ConfigError(
                f"--per {name!r}: must be something that rows have; the nearest is {nearest(name, [*known])!r}"
            )


def _is_wanted(aspect: str, per: Sequence[str]) -> bool:
    return not per or any(aspect == name or aspect.startswith(f"{name}.") for name in per)


def _shorten(value: Hashable) -> str:
    text = str(value)
    return text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}..."


@lru_cache(maxsize=10_000)
def _script(char: str) -> str:
    """The first word of a letter's name in Unicode, such as "LATIN SMALL LETTER A"."""
    return unicodedata.name(char, "OTHER").partition(" ")[0]

"""What a grid varies: values of parameters, seeds and sizes. Each combination becomes a row of its own."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import product
from types import MappingProxyType

from lynx_batch.clip import broken_rule
from lynx_batch.columns import TEXT, TYPE_OF_KIND, WHOLE
from lynx_batch.errors import ConfigError
from lynx_batch.intake.cells import read_cell
from lynx_batch.intake.headers import normalise
from lynx_batch.spelling import nearest
from lynx_model.parameters import PARAMETERS

MAX_VALUES = 1_000
"""The most values of one axis."""

SIZES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        "16:9-480p": (832, 480),
        "9:16-480p": (480, 832),
        "1:1-480p": (624, 624),
        "4:5-480p": (576, 720),
        "16:9-720p": (1280, 720),
        "9:16-720p": (720, 1280),
        "1:1-720p": (960, 960),
        "4:5-720p": (832, 1040),
    }
)
"""Width and height in pixels of each named size: multiples of 16 with about as many pixels as 832x480 or 1280x720.

832x480, 480x832, 1280x720 and 720x1280 are the sizes that Wan2.1 was published for. Source: `SUPPORTED_SIZES` of wan/configs/__init__.py
in Wan-Video/Wan2.1.
"""

VARIED = tuple(name for name in PARAMETERS if name not in ("prompt", "seed"))
WHOLE_RANGE = re.compile(r"(?P<first>[0-9]+)\s*-\s*(?P<last>[0-9]+)")
SHORT_NAME = re.compile(r"\w[\w.\-]{0,19}")
"""A value that a clip's name can have. In place of any other stands its number, after a hyphen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A value of an axis: the cells that it sets, and its part of a clip's name."""

    cells: Mapping[str, object]
    name: str


Axis = tuple[Choice, ...]


def make_axes(vary: Sequence[str], sizes: Sequence[str], seeds: str | None) -> list[Axis]:
    """The axes of a grid, in the order in which names show them: parameters, sizes, seeds.

    Raises:
        ConfigError: If a value breaks its rule or is repeated, or two options set the same column; the message names the option.
    """
    varied: dict[str, list[object]] = {}
    for entry in vary:
        name, values = _parse_vary(entry)
        varied.setdefault(name, []).extend(values)
    axes = [_axis(f"--vary {name}", values, _parameter_choice(name)) for name, values in varied.items()]
    if sizes:
        axes.append(_axis("--size", [size for entry in sizes for size in entry.split(",")], _size_choice))
    if seeds is not None:
        axes.append(_axis("--seeds", _parse_seeds(seeds), _seed_choice))
    _refuse_twice(axes)
    return axes


def combine(axes: Iterable[Axis]) -> Iterator[Choice]:
    """Every combination; one without cells if there is no axis. An axis of one value is in no name, except for a seed."""
    named = [
        axis if len(axis) > 1 or "seed" in axis[0].cells else (Choice(cells=axis[0].cells, name=""),) for axis in axes
    ]
    for choices in product(*named):
        cells = {column: cell for choice in choices for column, cell in choice.cells.items()}
        yield Choice(cells=cells, name="".join(f"-{choice.name}" for choice in choices if choice.name))


def columns_of(axes: Iterable[Axis]) -> list[str]:
    """The columns that a grid sets."""
    return [column for axis in axes for column in axis[0].cells]


def _axis(option: str, values: Sequence[object], choose: Callable[[str, int, object], Choice]) -> Axis:
    if len(values) > MAX_VALUES:
        raise ConfigError(f"{option}: must have at most {MAX_VALUES:,} values, not {len(values):,}")
    repeated = [value for value in values if values.count(value) > 1]
    if repeated:
        raise ConfigError(f"{option}: {repeated[0]!r} must appear only once")
    return tuple(choose(option, number, value) for number, value in enumerate(values, start=1))


def _parameter_choice(name: str) -> Callable[[str, int, object], Choice]:
    def choose(option: str, number: int, value: object) -> Choice:
        shown = f"{value:.15g}" if isinstance(value, float) else str(value)
        _check(option, name, value)
        return Choice(cells={name: value}, name=f"{name}{shown if SHORT_NAME.fullmatch(shown) else f'-{number}'}")

    return choose


def _seed_choice(option: str, _number: int, seed: object) -> Choice:
    _check(option, "seed", seed)
    return Choice(cells={"seed": seed}, name=f"s{seed}")


def _size_choice(option: str, _number: int, size: object) -> Choice:
    name = str(size).strip().lower()
    if name not in SIZES:
        raise ConfigError(f"{option} {size!r}: must be one of {', '.join(SIZES)}")
    width, height = SIZES[name]
    return Choice(cells={"width": width, "height": height}, name=name.replace(":", "x"))


def _check(option: str, name: str, value: object) -> None:
    if rule := broken_rule(name, value):
        raise ConfigError(f"{option}: {value} {rule}")


def _refuse_twice(axes: Sequence[Axis]) -> None:
    columns = columns_of(axes)
    if twice := [column for column in columns if columns.count(column) > 1]:
        raise ConfigError(f"--vary {twice[0]}: must not be given together with --size")


def _parse_vary(entry: str) -> tuple[str, list[object]]:
    name, equals, text = (part.strip() for part in entry.partition("="))
    name = normalise(name)
    if not equals or not text:
        raise ConfigError(
            f"--vary {entry!r}: must be PARAMETER=VALUES, such as guidance_scale=4,5,6 or ip_scale=0.6:1.0:0.2"
        )
    if name not in VARIED:
        hint = "use --seeds" if name == "seed" else f"the nearest is {nearest(name, VARIED)!r}"
        raise ConfigError(f"--vary {entry!r}: {name!r} must be a parameter; {hint}")
    kind = TYPE_OF_KIND[PARAMETERS[name].kind]
    if kind == TEXT:
        return name, [text]  # it may hold commas: give the option once for each text
    try:
        numbers = [number for part in text.split(",") for number in _numbers(part.strip())]
        return name, [read_cell(str(number), kind) for number in numbers]
    except (ValueError, InvalidOperation) as error:
        reason = error if isinstance(error, ValueError) else "must be numbers"
        raise ConfigError(f"--vary {entry!r}: {reason}, such as 4,5,6 or 0.6:1.0:0.2") from None


def _numbers(text: str) -> list[Decimal]:
    """One number, or those from a first to a last one, `0.6:1.0:0.2`. Decimals, so that 0.6 + 0.2 is 0.8."""
    bounds = [Decimal(part) for part in text.split(":")]
    if not all(bound.is_finite() for bound in bounds):
        raise ValueError("must be finite numbers")
    if len(bounds) == 1:
        return bounds
    if len(bounds) != 3:
        raise ValueError(f"{text!r} must be FIRST:LAST:STEP")
    first, last, step = bounds
    if step <= 0 or last < first:
        raise ValueError(f"{text!r} must have a positive step and a last number that is not below the first")
    if (num_steps := (last - first) / step) >= MAX_VALUES:
        raise ValueError(f"{text!r} must have at most {MAX_VALUES:,} values")
    if num_steps != int(num_steps):
        raise ValueError(f"{text!r} must reach its last number with whole steps")
    return [first + step * number for number in range(int(num_steps) + 1)]


def _parse_seeds(text: str) -> list[int]:
    seeds: list[int] = []
    for part in text.split(","):
        if match := WHOLE_RANGE.fullmatch(part.strip()):
            first, last = int(match["first"]), int(match["last"])
            if last < first:
                raise ConfigError(f"--seeds {text!r}: {part!r} must not end before it starts")
            if last - first >= MAX_VALUES:
                raise ConfigError(f"--seeds {text!r}: {part!r} must be a range of at most {MAX_VALUES:,} seeds")
            seeds += range(first, last + 1)
        else:
            seeds.append(_parse_seed(part, text))
    return seeds


def _parse_seed(part: str, text: str) -> int:
    try:
        return int(str(read_cell(part, WHOLE)))
    except ValueError:
        raise ConfigError(
            f"--seeds {text!r}: must be whole numbers with commas between, such as 1,2,3 or 1-8"
        ) from None

"""Options that several commands have in common."""

import re
from pathlib import Path
from typing import Annotated

import typer

from lynx_batch.config import parse_override
from lynx_batch.errors import ConfigError

DURATION = re.compile(r"(?P<num>\d+(\.\d+)?)(?P<unit>[smhd])")
UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

RunFile = Annotated[Path, typer.Argument(metavar="RUN.yaml", help="What to render, with which model, where to.")]
Manifest = Annotated[str | None, typer.Option(help="Another manifest than the run file's.")]
Output = Annotated[str | None, typer.Option(help="Another output location than the run file's.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key.")]
Limit = Annotated[int | None, typer.Option(min=0, help="At most this many rows.")]
Where = Annotated[str | None, typer.Option(help="Only rows such as: priority > 3 and subject_id == 'ada'.")]
AllowInvalid = Annotated[bool, typer.Option(help="Reject bad rows instead of stopping.")]
AllowDuplicates = Annotated[bool, typer.Option(help="Render rows that ask for the same clip once.")]
UnsafeCommit = Annotated[
    bool, typer.Option(help="Go on with a store that ignores create-only puts: never with two drivers.")
]


def parse_overrides(texts: list[str] | None) -> dict[str, object]:
    """{"a.b": value} of each KEY=VALUE; of one key the last counts. Raises ConfigError."""
    return dict(map(parse_override, texts or ()))


def parse_duration(option: str, text: str) -> float:
    """Seconds of a duration such as "90m". Raises ConfigError that names `option`."""
    match = DURATION.fullmatch(text)
    if match is None or not float(match["num"]):
        raise ConfigError(f"{option} {text!r}: must be a number above 0 and s, m, h or d, such as 90m or 8h")
    return float(match["num"]) * UNIT_S[match["unit"]]

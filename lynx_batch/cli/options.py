"""Options that several commands share."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from lynx_batch.config import parse_override
from lynx_batch.config.preset import PRESETS
from lynx_batch.errors import ConfigError

DURATION = re.compile(r"(?P<num>\d+(\.\d+)?)(?P<unit>[smhd])")
UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

RunFile = Annotated[
    Path,
    typer.Argument(metavar="RUN.yaml", help="The run file: what to render, with which model, and where to put it."),
]
ManifestToRead = Annotated[str, typer.Argument(metavar="MANIFEST", help="A Parquet file or folder: a path or a URI.")]
Manifest = Annotated[str | None, typer.Option(help="Use this manifest instead of the run file's.")]
Output = Annotated[str | None, typer.Option(help="Use this output location instead of the run file's.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override one key of the run file.")
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help=f"A trade of quality for speed: {', '.join(PRESETS[:-1])} or {PRESETS[-1]}. It overrules the run file, and --set overrules it.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")]
Limit = Annotated[int | None, typer.Option(min=0, help="At most this many rows.")]
Where = Annotated[str | None, typer.Option(help="Only rows that match, such as: priority > 3 and subject_id == 'ada'.")]
AllowInvalid = Annotated[bool, typer.Option(help="Reject bad rows instead of stopping.")]
AllowDuplicates = Annotated[bool, typer.Option(help="Render rows that ask for the same clip once.")]
AllowMissingConsent = Annotated[
    bool, typer.Option(help="Render rows without a consent, too. The run and its commits say so.")
]
RequireApproval = Annotated[
    bool | None,
    typer.Option(
        "--require-approval", help="Refuse templates, parameters and settings that nobody has approved (`approve`)."
    ),
]
UnsafeCommit = Annotated[
    bool, typer.Option(help="Accept a store that ignores create-only puts. Never run two drivers on it.")
]


def parse_overrides(texts: list[str] | None) -> dict[str, object]:
    """{"a.b": value} for each KEY=VALUE. The last value of a key wins. Raises ConfigError."""
    return dict(map(parse_override, texts or ()))


def refuse_blank(given: Mapping[str, str | None]) -> None:
    """Raises ConfigError for the first option whose value is blank, as that of an unset shell variable is."""
    for option, value in given.items():
        if value is not None and not value.strip():
            raise ConfigError(f"{option} {value!r}: must not be empty")


def parse_duration(option: str, text: str) -> float:
    """The seconds of a duration such as "90m". Raises a ConfigError that names `option`."""
    match = DURATION.fullmatch(text)
    if match is None or not float(match["num"]):
        raise ConfigError(f"{option} {text!r}: must be a number above 0 and s, m, h or d, such as 90m or 8h")
    return float(match["num"]) * UNIT_S[match["unit"]]

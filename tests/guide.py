"""The generated sections of the user's guide, `jobs/README.md`, of `jobs/presets/README.md` and of `cluster/README.md`: reference
tables, from the code.

`python -m tests.guide` (`make docs`) rewrites them; `tests/unit/test_guide.py` fails while one is stale. A section stands
between `<!-- generated: NAME -->` and `<!-- end -->`.
"""

import ast
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from textwrap import fill, shorten
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import AllowInfNan, BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import models_json_schema

from lynx_batch import exits
from lynx_batch.cli.answers import ANSWERS
from lynx_batch.config import RunConfig
from lynx_batch.config.engine import Fp8AttentionConfig
from lynx_batch.config.preset import PRESETS, PresetName, stated_loss
from lynx_batch.execution.metrics import METRICS
from lynx_batch.intake.schema import EXPECTATIONS, MANIFEST_SCHEMA, PHOTO_COLUMNS, REQUIRED
from lynx_batch.ledger.metadata import READ_SCHEMA
from lynx_batch.planning.cost import H100, H200, GpuType
from lynx_batch.planning.layout import URGENT_PRIORITY
from lynx_batch.stages import CLIP_STAGES
from lynx_model.parameters import PARAMETERS, Parameter
from lynx_model.spec import NUM_TEXT_TOKENS
from tests.models import ROOT
from tests.presets import full_forwards, predicted_s

GUIDE = ROOT / "jobs" / "README.md"
PRESETS_PAGE = ROOT / "jobs" / "presets" / "README.md"
GUIDES = (GUIDE, PRESETS_PAGE, ROOT / "cluster" / "README.md")
ANSWERS_SCHEMA = ROOT / "jobs" / "answers.schema.json"
SECTION = re.compile(r"(?<=<!-- generated: )(?P<name>[a-z ]+) -->\n.*?(?=<!-- end -->)", re.DOTALL)
MAX_DEFAULT_LENGTH = 60
LINE_LENGTH = 140

WORDS = {
    str: "text",
    int: "whole number",
    float: "number",
    datetime: "time",
    Any: "any value",
    bool: "`true` or `false`",
    NoneType: "`null`",
}
"""Python types in the words of a user."""

SHORT_FORMS = {Fp8AttentionConfig: "`true` or `false` or "}
"""What a section also takes in place of its keys."""

MANIFEST_HELP = {
    "subject_uri": "**Required, or else `subject_uris`.** The photo: a path or a URI that `inputs.allow` permits. A relative path starts at "
    "the manifest's folder.",
    "subject_uris": "In place of `subject_uri`: several photos of one person, at most 16, each showing one face. In CSV: a JSON list, or one photo a line.",
    "prompt": f"What the person does, and where. At most {NUM_TEXT_TOKENS} tokens, unless `defaults.truncate_prompts` is true.",
    "clip_name": "A readable name for `export`, unique within its `subject_id`. A relative path: slashes make folders.",
    "subject_id": "Your name for the person. `export` makes a folder of it.",
    "num_guidance_branches": "Forwards per guided step. 1: no guidance. 2: `guidance_scale_image` is null. 3: both scales are needed. "
    "A scale in the same row must not contradict it.",
    "priority": f"Higher values are rendered first. Null is 0. From {URGENT_PRIORITY} on, a clip gets the largest group of GPUs.",
    "face_index": "Which face of the photo, counted from 0 at the left. Needed only if the photo shows several.",
    "consent_ref": "Your reference to the person's consent. Required, unless `provenance.require_consent` is false.",
    "consent_scope": "What the consent covers: your own names with commas between, such as `ad,social`; `*` is everything.",
    "regions": "Where the clip may be shown, such as `EU,US`; `*` is everywhere.",
    "consent_expires_at": "When the consent ends. An expired consent rejects the row, and `export` withholds the clip.",
    "tags": "Anything that you want to find again in the metadata.",
    "source_line": "The line of the table from which `manifest build` made the row. `manifest check` names it.",
    "prompt_template": "The template that `prompt` was made from, as `manifest build` read it. Null: the prompt was written as it is.",
}
"""Columns of the manifest that are no parameters, and the prompt."""

METADATA_HELP = {
    "row": "Row of the manifest, counted from 0.",
    "clip_id": "Digest of everything that changes the picture. Null if the row never became a clip.",
    "edition": "1, or higher if `verify --repair` withdrew earlier editions or `retry --redo` asked for another.",
    "outcome": "`rendered`, `rejected` (bad input, no consent, or not good enough), `failed` (out of attempts) or `abandoned` (the run ended first).",
    "rendered_by_run": "The run that rendered the clip: an earlier one if the clip was committed already.",
    "attempts": "Attempts that this run used up, a success included. A fault of a machine uses up none.",
    "error_type": "Kind of the error that ended the row.",
    "error": "Message of that error.",
    "ended_at": "When the row got its outcome.",
    "subject_uri": "The photo's absolute URI, without credentials and query. Null if there are several photos.",
    "subject_uris": "The same of each photo if there are several.",
    "manifest_subject_uri": "The manifest's `subject_uri` as written, without credentials and query. Use it for joins.",
    "manifest_subject_uris": "The manifest's `subject_uris` in the same way.",
    "photo_sha256": "SHA-256 of the photo's bytes. Null if there are several photos.",
    "photo_sha256s": "The same of each of the `subject_uris`, in their order.",
    "attempt": "The attempt whose video is committed.",
    "committed_at": "When it was committed.",
    "clip_uri": "The MP4, relative to the output location.",
    "poster_uri": "A JPEG of one frame, relative to the output location.",
    "preview_uri": "The small animation, relative to the output location. Null without `video.preview`.",
    "sha256": "SHA-256 of the MP4.",
    "num_bytes": "Size of the MP4.",
    "face_turned_degrees": "How far the face is rotated clockwise in the photo; it was read upright.",
    "allows_missing_consent": "Whether its run rendered rows without a consent, too.",
    "group_size": "Number of GPUs that rendered the clip.",
    "device": "Their type.",
    "num_steps_resumed": "Steps that an earlier attempt had done and saved; the seconds of the stages do not hold them.",
    "try_number": "Which of the clip's seeds was committed, counted from 0. Above 0 only with a quality gate or after a redo. If the gate "
    "rejected the row: its best try, or the one that is unsafe. `seed` and all scores are of that try.",
    "num_tries": "How many tries the clip had. Null without a quality gate.",
    "likeness_mean": "Mean cosine between the photo's face and the judged frames'. Null in this and all other scores: not judged.",
    "likeness_p10": "Tenth percentile of those cosines.",
    "likeness_minimum": "Lowest of those cosines.",
    "likeness_face_share": "Share of the judged frames with a face.",
    "likeness_drift": "Mean cosine of the first third less that of the last third.",
    "motion_mean": "How fast the picture moves, in shorter sides per second.",
    "prompt_mean": "Mean cosine between the prompt and the judged frames, by `quality.prompt.model`.",
    "unsafe": "Highest probability that a judged frame is not safe for work, by open_nsfw.",
    "unsafe_falconsai": "The same by `quality.safety.falconsai`.",
    "scores": "All scores of the clip by name.",
    "thresholds": "The limits that it passed when it was committed, by the name of the score. Empty without a quality gate.",
    "accepted_by": "Who overruled the quality gate with `accept`.",
    "accepted_at": "When.",
    "marks": "Each mark of the video: `applied`, or why it failed.",
    "model": "Fingerprints of the weights, and the precision.",
    "software": "Versions of Python and of the main packages.",
    "run": "The run. It is in the folder's name, `run=<run_id>`, not in the file.",
}

MANIFEST_MEANINGS = dict.fromkeys(PARAMETERS, "Parameter. Null takes the run's default.") | MANIFEST_HELP
METADATA_MEANINGS = {
    **dict.fromkeys(MANIFEST_HELP, "From the manifest."),
    **dict.fromkeys(PARAMETERS, "Parameter, as used."),
    **{stage.column: f"Seconds that the stage `{stage}` took." for stage in CLIP_STAGES},
    **METADATA_HELP,
}
"""What each column means; a new column has no entry here until somebody explains it."""


def write_guide(text: str) -> str:
    """`text` with each generated section written anew."""
    return SECTION.sub(lambda match: f"{match['name']} -->\n\n{SECTIONS[match['name']]()}\n\n", text)


def run_file() -> str:
    return "\n\n".join(_section(name, model) for name, model in _config_sections(RunConfig))


def parameters() -> str:
    """What a run file says under `defaults` and a manifest row may override."""
    defaults: type[BaseModel] = RunConfig.model_fields["defaults"].annotation
    rows = (
        (f"`{name}`", _type(info.annotation), _default(info), _rule(PARAMETERS[name]), str(info.description))
        for name, info in defaults.model_fields.items()
        if name in PARAMETERS
    )
    return _table(("parameter", "type", "default", "allowed", "meaning"), rows)


def manifest() -> str:
    rows = (
        (f"`{field.name}`", EXPECTATIONS[field.type], _required(field.name) + MANIFEST_MEANINGS[field.name])
        for field in sorted(MANIFEST_SCHEMA, key=lambda field: field.name not in (*PHOTO_COLUMNS, *REQUIRED))
    )
    return _table(("column", "takes", "meaning"), rows)


def metadata() -> str:
    rows = ((f"`{field.name}`", f"`{field.type}`", METADATA_MEANINGS[field.name]) for field in READ_SCHEMA)
    return _table(("column", "type", "meaning"), rows)


def exit_codes() -> str:
    return _table(
        ("code", "meaning"),
        (
            (str(code), text)
            for name, text in _documented(exits.__file__)
            if isinstance(code := getattr(exits, name), int)
        ),
    )


def metrics() -> str:
    rows = (
        (
            f"`ray_{metric.name}`",
            metric.kind,
            ", ".join(f"`{label}`" for label in metric.labels),
            metric.unit,
            metric.meaning,
        )
        for metric in METRICS
    )
    return _table(("metric", "kind", "labels", "unit", "meaning"), rows)


def presets() -> str:
    """What a clip of each preset is predicted to take on one GPU, and what it loses."""
    rows = (
        (
            f"[`{name}`](../../lynx_batch/config/presets/{name}.yaml)",
            str(full_forwards(name)),
            *(cell for gpu in (H100, H200) for cell in _speed(name, gpu)),
            stated_loss(name).text,
        )
        for name in PRESETS
    )
    head = (
        "preset",
        "full forwards",
        "H100: s a clip",
        "clips per hour",
        "x exact",
        "H200: s a clip",
        "clips per hour",
        "x exact",
        "loss",
    )
    return _table(head, rows)


def _speed(name: PresetName, gpu: GpuType) -> tuple[str, str, str]:
    seconds, exact_s = predicted_s(name, gpu), predicted_s(PRESETS[0], gpu)
    return f"{seconds:.1f}", f"{3600 / seconds:.1f}", f"{exact_s / seconds:.2f}"


def answers() -> str:
    """The object that each command prints with `--json`, and below it the objects that it holds."""
    return "\n\n".join(_answer(f"`{command} --json`", model) for command, model in ANSWERS.items())


def write_answers_schema() -> str:
    """The JSON Schema of all answers; a command's is below `$defs`."""
    models = [(model, "serialization") for model in ANSWERS.values()]
    title = "What the commands of lynx-batch print with --json"
    _, schema = models_json_schema(models, title=title)
    return json.dumps(schema, indent=1) + "\n"


SECTIONS: Mapping[str, Callable[[], str]] = {
    "run file": run_file,
    "parameters": parameters,
    "manifest": manifest,
    "metadata": metadata,
    "exit codes": exit_codes,
    "metrics": metrics,
    "presets": presets,
    "answers": answers,
}


def _rule(parameter: Parameter) -> str:
    return "any value" if parameter.rule is None else parameter.rule.text


def _required(column: str) -> str:
    return "**Required.** " if column in REQUIRED else ""


def _config_sections(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Each section of a run file after the one that holds it, with its dotted name."""
    yield prefix, model
    for name, info in model.model_fields.items():
        for inner in _models_in(info.annotation):
            yield from _config_sections(inner, f"{prefix}.{name}" if prefix else name)


def _answer(title: str, model: type[BaseModel]) -> str:
    rows = [(f"`{name}`", _type(info.annotation), str(info.description)) for name, info in model.model_fields.items()]
    for name, info in model.model_fields.items():
        for part in _models_in(info.annotation):
            inner = part.model_fields.items()
            rows += [(f"`{name}[].{key}`", _type(field.annotation), str(field.description)) for key, field in inner]
    return f"#### {title}\n\n{_table(('field', 'type', 'meaning'), rows)}"


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if _is_model(annotation):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def _section(name: str, model: type[BaseModel]) -> str:
    rows = (
        (f"`{key}`", _type(info.annotation), _default(info), ", ".join(map(_bound, info.metadata)))
        for key, info in model.model_fields.items()
        if not isinstance(info.default, BaseModel) and not (name == "defaults" and key in PARAMETERS)
    )
    title = f"#### `{name}`" if name else "#### Top level"
    return "\n\n".join(
        filter(None, [title, _prose(model.__doc__), _table(("key", "type", "default", "allowed"), rows)])
    )


def _type(annotation: Any) -> str:
    """A type in words, such as "number or `null`"."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(_value(part) for part in parts)
    if origin in (tuple, list):
        return f"list of {_type(parts[0])}"
    if origin is dict:
        return f"object of {_type(parts[1])}"
    if origin in (Union, UnionType):
        return " or ".join(map(_type, parts))
    if _is_model(annotation):
        return SHORT_FORMS.get(annotation, "") + f"`{{{', '.join(annotation.model_fields)}}}`"
    return WORDS[annotation]


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _default(info: FieldInfo) -> str:
    return "required" if info.is_required() else _value(info.default)


def _bound(rule: object) -> str:
    """A constraint of pydantic in words."""
    match rule:
        case Ge(ge=bound):
            return f"at least {bound}"
        case Gt(gt=bound):
            return f"above {bound}"
        case Le(le=bound):
            return f"at most {bound}"
        case AllowInfNan(allow_inf_nan=False):
            return "finite"
        case MinLen(min_length=1):
            return "not empty"
    raise TypeError(f"{rule!r}: say here what it means")


def _value(value: object) -> str:
    """A value as YAML would have it; a long one is cut."""
    return f"`{shorten(json.dumps(value), MAX_DEFAULT_LENGTH, placeholder=' ...')}`"


def _prose(docstring: str | None) -> str:
    """A docstring as Markdown."""
    paragraphs = re.split(r"\n\s*\n", docstring or "")
    return "\n\n".join(
        fill(" ".join(paragraph.split()), LINE_LENGTH, break_on_hyphens=False) for paragraph in paragraphs
    )


def _documented(module: str) -> Iterator[tuple[str, str]]:
    """The names that a module assigns, with the docstring below each."""
    body = ast.parse(Path(module).read_text()).body
    for statement, below in pairwise(body):
        if isinstance(statement, ast.Assign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            (target,) = statement.targets
            yield ast.unparse(target), " ".join(str(below.value.value).split())


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(head)
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> None:
    for guide in GUIDES:
        guide.write_text(write_guide(guide.read_text(encoding="utf-8")), encoding="utf-8")
    ANSWERS_SCHEMA.write_text(write_answers_schema(), encoding="utf-8")


if __name__ == "__main__":
    main()

"""Whether people have approved what a run asks for: its settings, and the templates and parameters of its rows."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lynx_batch import storage
from lynx_batch.clip import CONTRACT_VERSION, ClipRequest
from lynx_batch.config import RunConfig
from lynx_batch.errors import ConfigError
from lynx_batch.ledger.approvals import read_approvals
from lynx_batch.planning.approval import (
    Approved,
    Difference,
    RowValues,
    Setting,
    differences_of_settings,
    find_differences,
    values_of,
)
from lynx_batch.preparation.model import CheckedModel
from lynx_batch.printable import counted
from lynx_model.checkpoints.fingerprint import fingerprint_file
from lynx_model.errors import MissingFile

MARKS = {"marking", "label", "watermark", "aigc", "c2pa"}
NOT_SEEN = {"quality.keep_rejected", "provenance.c2pa.private_key"}
"""Keys that change nothing that a viewer could approve."""

FILES = (
    "provenance.label.logo",
    "provenance.label.font",
    "provenance.watermark",
    "quality.safety.opennsfw2",
    "quality.safety.falconsai",
    "quality.prompt.model",
)
"""Keys that name a file or a folder. A file's content counts, because its place differs between machines, and a folder's name."""

MAX_DIFFERENCES_SHOWN = 20


def settings_of(config: RunConfig, model: CheckedModel) -> dict[str, Setting]:
    """What is approved of a run besides its rows, by the key of the run file. Keys that are null are left out."""
    identity = model.identity
    weights: dict[str, Setting] = {
        "model.base": identity.base,
        "model.adapters.id": identity.id_adapter,
        "model.adapters.ref": identity.ref_adapter,
        "model.loras": identity.loras,
        "faces.pack": identity.face_pack,
        "faces.identity": identity.identity_encoder,
        "faces.parity": identity.is_parity,
        "engine": identity.precision,
        "defaults.truncate_prompts": config.defaults.truncate_prompts,
        "contract": CONTRACT_VERSION,
    }
    found = weights | {key: _content(key, value) for key, value in _chosen(config) if key not in NOT_SEEN}
    return {key: value for key, value in found.items() if value is not None}


def require_files(config: RunConfig) -> None:
    """Raises MissingFile if this machine lacks a file whose content `settings_of` would tell."""
    for key, value in _chosen(config):
        path = storage.path_of(value) if key in FILES and isinstance(value, str) else None
        if path is not None and not path.exists():
            raise MissingFile(f"{key}={value!r}: no such file")


def _chosen(config: RunConfig) -> Iterator[tuple[str, Setting]]:
    sections = {
        "video": config.video.model_dump(),
        "quality": config.quality and config.quality.model_dump(),
        "provenance": config.provenance.model_dump(include=MARKS) if config.provenance.is_on else None,
    }
    return _flatten(sections)


def check_approved(config: RunConfig, settings: dict[str, Setting], requests: Iterable[ClipRequest]) -> tuple[str, ...]:
    """The URIs of the approvals that were considered; none if the run needs no approval.

    Raises:
        ConfigError: If something was not approved; the message names all of it.
    """
    if not config.approval.required:
        return ()
    found = _find_approvals(config)
    if fault := _explain_unapproved(config, settings, requests, [*found.values()], "nothing was started"):
        raise ConfigError(fault)
    return tuple(map(storage.redact, found))


def explain_missing_approval(
    config: RunConfig, settings: dict[str, Setting], requests: Iterable[ClipRequest]
) -> str | None:
    """Why `render` and `submit` would refuse the run for want of an approval; None if they would not.

    Raises:
        ConfigError: If it is not clear where the approvals are.
    """
    if not config.approval.required:
        return None
    approvals = [*_find_approvals(config).values()]
    return _explain_unapproved(config, settings, requests, approvals, "`render` and `submit` will start nothing")


def describe_approvals(config: RunConfig, settings: dict[str, Setting]) -> tuple[bool, str]:
    """Whether somebody approved these settings, and what `doctor` says about that, which does not read the rows.

    Raises:
        ConfigError: If it is not clear where the approvals are.
    """
    approvals = [*_find_approvals(config).values()]
    refusal = "`render` and `submit` will start nothing"
    if not approvals:
        return False, str(_explain_unapproved(config, settings, (), approvals, refusal))
    if differences := differences_of_settings(settings, approvals):
        return False, _list_differences(config, differences, refusal)
    return True, f"{counted(len(approvals), 'approval')}, and the settings are approved; `plan` compares the rows, too"


def _find_approvals(config: RunConfig) -> dict[str, Approved]:
    """By URI, what each approval at the output and at the place of its samples covers, the oldest first."""
    found = [*read_approvals(config.output), *read_approvals(place_of_sample(config))]
    return {uri: approval.covers for uri, approval in sorted(found, key=lambda each: each[1].approved_at)}


def _explain_unapproved(
    config: RunConfig,
    settings: dict[str, Setting],
    requests: Iterable[ClipRequest],
    approvals: Sequence[Approved],
    refusal: str,
) -> str | None:
    """What was not approved, and how to go on. `refusal` says what follows from that."""
    if not approvals:
        return f"approval.required: nobody has approved anything yet, so {refusal}; {_advise(config)}"
    rows: defaultdict[RowValues, list[int]] = defaultdict(list)
    for request in requests:
        rows[values_of(request)].append(request.row)
    differences = find_differences(settings, rows, approvals)
    return _list_differences(config, differences, refusal) if differences else None


def _list_differences(config: RunConfig, differences: Sequence[Difference], refusal: str) -> str:
    lines = [f"  {difference}" for difference in differences[:MAX_DIFFERENCES_SHOWN]]
    if (num_hidden := len(differences) - MAX_DIFFERENCES_SHOWN) > 0:
        lines.append(f"  ... and {num_hidden} more")
    head = f"approval.required: not approved, so {refusal} ({counted(len(differences), 'difference')}):"
    return "\n".join([head, *lines, f"To go on, {_advise(config)}"])


def _advise(config: RunConfig) -> str:
    return (
        f"render a sample with `lynx-batch sample RUN.yaml`, look at it, and record the approval with "
        f"`lynx-batch approve {storage.redact(place_of_sample(config))} --by NAME`"
    )


def place_of_sample(config: RunConfig) -> str:
    """The output location of a run's samples, which is never the run's own.

    Raises:
        ConfigError: If it is not clear where that is, or it is the run's own.
    """
    place = config.approval.sample
    if place is None:
        output = config.output.rstrip("/")
        if "/" not in output.partition("://")[2] and not storage.is_local(output):
            raise ConfigError(
                f"approval.sample: must name a place, because output={storage.redact(output)} is a bucket"
            )
        place = f"{output}-sample"
    if storage.is_within(place, config.output) or storage.is_within(config.output, place):
        raise ConfigError(
            f"approval.sample={storage.redact(place)!r}: must be apart from output={storage.redact(config.output)!r}"
        )
    return place


def _flatten(value: Any, key: str = "") -> Iterator[tuple[str, Setting]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _flatten(inner, f"{key}.{name}" if key else name)
    else:
        yield key, value


def _content(key: str, value: Setting) -> Setting:
    """For a file of this machine the hash of its content, for a folder its name, and for anything else the value without secrets."""
    if not isinstance(value, str):
        return value
    path = storage.path_of(value) if key in FILES else None
    if path is None:
        return storage.redact(value)
    return fingerprint_file(path) if path.is_file() else path.name

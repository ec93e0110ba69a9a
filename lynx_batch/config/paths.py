"""The paths and URIs in a run file: which keys hold them, how relative ones become absolute, and which places are refused."""

import os
from collections.abc import Iterator
from pathlib import Path

from lynx_batch.config import references
from lynx_batch.config.delivery import ProvenanceConfig
from lynx_batch.config.run import RunConfig
from lynx_batch.places import READABLE, WRITABLE, explain_place

PATH_KEYS = (
    "manifest",
    "output",
    "model.base",
    "model.adapters",
    "model.adapters.id",
    "model.adapters.ref",
    "model.loras",
    "model.loras.file",
    "engine.step_cache.calibration",
    "quality.safety.opennsfw2",
    "quality.safety.falconsai",
    "quality.prompt.model",
    "cluster.shared_paths",
    "inputs.allow",
    "provenance.label.logo",
    "provenance.label.font",
    "provenance.watermark",
    "provenance.revoked",
    "approval.sample",
)
"""Keys whose value is a path or URI, or a list of them."""

NAME_OR_PATH_KEYS = ("faces.pack", "faces.identity")
"""Keys whose value is a path only if it contains a slash. A bare word is a name."""

REFERENCE_KEYS = ("provenance.c2pa.certificates", "provenance.c2pa.private_key", "notify.secret")
"""Keys whose value is a path unless it is `env:NAME` or `development`."""


def make_absolute(key: str, value: object, folder: Path) -> object:
    """`value` with every path in it made absolute; relative ones start at `folder`, and `file://` is removed.

    Items of a list have the key of the list. Links are not followed, because other nodes may not have their targets.
    """
    if isinstance(value, dict):
        return {name: make_absolute(f"{key}.{name}", inner, folder) for name, inner in value.items()}
    if isinstance(value, list):
        return [make_absolute(key, item, folder) for item in value]
    if not _is_path(key, str(value)) or not isinstance(value, str) or not value.strip():
        return value
    path = value.removeprefix("file://") if value.startswith("file:///") else value
    return value if "://" in path else os.path.abspath(folder / os.path.expanduser(path))


def _is_path(key: str, value: str) -> bool:
    if key in REFERENCE_KEYS:
        return references.is_path(value)
    return key in PATH_KEYS or (key in NAME_OR_PATH_KEYS and "/" in value)


def named_paths(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Key and value of every path or URI in a run file that all processes need. Bare names are left out.

    The driver alone reads the manifest and the step cache's calibration.
    """
    yield "output", config.output
    yield "model.base", config.model.base
    adapters = config.model.adapters
    if isinstance(adapters, str):
        yield "model.adapters", adapters
    else:
        yield from ((f"model.adapters.{kind}", uri) for kind, uri in adapters if uri)
    yield from (("model.loras", lora if isinstance(lora, str) else lora.file) for lora in config.model.loras)
    yield from (("provenance.revoked", uri) for uri in config.provenance.revoked)
    yield from ((f"faces.{key}", value) for key, value in config.faces if "/" in str(value))
    if config.quality is not None:
        yield from config.quality.scorer_files.items()
    yield from _provenance_paths(config.provenance)
    if config.approval.sample is not None:
        yield "approval.sample", config.approval.sample
    secrets = (target.secret for target in config.notify)
    yield from (("notify.secret", secret) for secret in secrets if secret and references.is_path(secret))


def _provenance_paths(provenance: ProvenanceConfig) -> Iterator[tuple[str, str]]:
    label, c2pa = provenance.label, provenance.c2pa
    named = {
        "label.logo": label and label.logo,
        "label.font": label and label.font,
        "watermark": provenance.watermark,
        "c2pa.certificates": c2pa and c2pa.certificates,
        "c2pa.private_key": c2pa and c2pa.private_key,
    }
    yield from ((f"provenance.{key}", value) for key, value in named.items() if value and references.is_path(value))


def _calibration_path(config: RunConfig) -> Iterator[tuple[str, str]]:
    cache = config.engine.step_cache
    if cache is not None and isinstance(cache.calibration, str):
        yield "engine.step_cache.calibration", cache.calibration


def explain_paths(config: RunConfig) -> Iterator[str]:
    """A message for each path or URI that some process of the run would not find, or would find with other content."""
    for key, uri in (("manifest", config.manifest), *_calibration_path(config), *named_paths(config)):
        if rule := _explain(key, uri):
            shown = f" (got {uri.partition('://')[0]}://...)" if uri.strip() else ""
            yield f"  {key}: {rule}{shown}"


def _explain(key: str, uri: str) -> str | None:
    if key.startswith("quality.") and "://" in uri:
        return "must be a path: the files of scorers are not fetched from a store; put them in a folder that every node has"
    return explain_place(uri, WRITABLE if key in ("output", "approval.sample") else READABLE)

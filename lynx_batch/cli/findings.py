"""What `doctor` checks: this machine, and what a run file names. Each function checks one thing. None loads weights, but
weights that are new to this machine are hashed.
"""

import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING

from lynx_batch import storage
from lynx_batch.config import DefaultsConfig, FacesConfig, RunConfig
from lynx_batch.errors import ConfigError, LynxError
from lynx_batch.intake.consent import read_revoked_list
from lynx_batch.notices.notifier import open_targets
from lynx_batch.preparation.budget import prices_of, require_prices
from lynx_batch.preparation.marks import check_marks
from lynx_batch.preparation.model import CheckedModel, check_model
from lynx_batch.preparation.node_types import node_types_of, require_autoscaler
from lynx_batch.preparation.scorers import check_scorers
from lynx_batch.printable import counted
from lynx_batch.probe import probe_create_only, probe_rights
from lynx_model.checkpoints.published import PUBLISHED, FileSource, models_root
from lynx_model.engine.memory import (
    GIB,
    PUBLISHED_FULL,
    PUBLISHED_LITE,
    RESERVE_BYTES,
    ClipSize,
    MemoryPlan,
    ModelSize,
    plan_memory,
    smallest_change,
)
from lynx_model.faces.identity import OWN_RECOGNISER, arcface_file, check_arcface
from lynx_model.faces.pack import FacePack, find_pack
from lynx_model.spec import EngineOptions, ParallelPlan

if TYPE_CHECKING:
    from lynx_model.engine.machine import Gpu, Machine

RENDER_PACKAGES = frozenset(
    {
        "accelerate",
        "aiohttp",
        "av",
        "cv2",
        "diffusers",
        "httpx2",
        "huggingface_hub",
        "insightface",
        "onnx",
        "onnxruntime",
    }
    | {"ray", "safetensors", "torch", "transformers"}
)
"""What the extra `render` installs. The base install works without these packages."""

LITE_NUM_FRAMES = 121


class Level(StrEnum):
    OK = "ok"
    NOTE = "note"
    FAULT = "fault"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One result of a check. The text of a fault also says what to do about it."""

    subject: str
    text: str
    level: Level = Level.OK


def examine_machine() -> "tuple[Machine | None, list[Finding]]":
    """This machine as torch sees it (None without torch), and the findings about it."""
    missing = sorted(name for name in RENDER_PACKAGES if find_spec(name) is None)
    findings = [Finding(subject="Python", text=platform.python_version()), _packages(missing)]
    if "torch" in missing:
        return None, findings

    from lynx_model.engine.machine import inspect_machine

    machine = inspect_machine()
    built_for = f"for CUDA {machine.cuda}" if machine.cuda else "without CUDA"
    driver = f"NVIDIA driver {machine.driver}" if machine.driver else "no NVIDIA driver"
    findings.append(Finding(subject="torch", text=f"{machine.torch_version}, built {built_for}; {driver}"))
    if not machine.gpus:
        findings.append(Finding(subject="GPUs", text="none: the full-size model needs one", level=Level.NOTE))
    return machine, findings + [finding for index, gpu in enumerate(machine.gpus) for finding in _gpu(index, gpu)]


def examine_models() -> list[Finding]:
    """Which of the published weights are in the models folder, and the default face pack."""
    root = models_root()
    paths = {
        name: source.path if isinstance(source, FileSource) else source.folder for name, source in PUBLISHED.items()
    }
    missing = [name for name, path in paths.items() if not (root / path).exists()]
    text = f"{root}: lacks {', '.join(missing)} (`lynx-batch models pull`)" if missing else f"{root}: complete"
    faces = _tried("faces", lambda: _find_faces(FacesConfig()), level=Level.NOTE)
    return [Finding(subject="models", text=text, level=Level.NOTE if missing else Level.OK), faces]


def examine_run(config: RunConfig, machine: "Machine | None") -> list[Finding]:
    """Checks everything that a run file names except photos, and whether the GPUs can do what it asks for."""
    model, finding = _check_model(config)
    findings = [
        _tried("manifest", lambda: _find_manifest(config.manifest)),
        _tried("output", lambda: _probe(config.output)),
        finding,
    ]
    if config.notify or config.cluster.usd_per_gpu_hour is not None or config.limits is not None:
        findings.append(_tried("limits, notify", lambda: _check_notify(config)))
    if config.cluster.node_types:
        findings.append(_tried("node types", lambda: _check_node_types(config)))
    if config.provenance.revoked:
        findings.append(_tried("revoked", lambda: _check_revoked(config)))
    if config.provenance.is_on:
        findings.append(_tried("marks", lambda: _check_marks(config)))
    if model is not None and config.approval.required:
        findings.append(_check_approval(config, model))
    if model is not None:
        findings += [*find_lacks(config.engine.options, machine), fit_run(config, model.size, machine)]
    return findings


def fit_published(machine: "Machine | None") -> list[Finding]:
    """Whether the published models fit with their published settings. Never a fault: nobody has to use them."""
    engine = EngineOptions(compile=True)
    return [
        replace(_fit(name, model, clip, engine, 1, machine), level=Level.NOTE)
        for name, model, clip in (
            ("Lynx-full", PUBLISHED_FULL, ClipSize()),
            ("Lynx-lite", PUBLISHED_LITE, ClipSize(num_frames=LITE_NUM_FRAMES)),
        )
    ]


def find_lacks(engine: EngineOptions, machine: "Machine | None") -> list[Finding]:
    """The GPUs that cannot do what `engine` asks for."""
    wanted = [engine.attention, engine.precision, *(["fa3_fp8"] if engine.fp8_attention is not None else [])]
    lacks = {
        index: [f"{name} needs {gpu.missing_needs[name]}" for name in wanted if gpu.missing_needs.get(name)]
        for index, gpu in enumerate(machine.gpus if machine else ())
    }
    return [
        Finding(subject=f"this run, GPU {index}", text="; ".join(needs), level=Level.FAULT)
        for index, needs in lacks.items()
        if needs
    ]


def fit_run(config: RunConfig, size: ModelSize, machine: "Machine | None") -> Finding:
    """Whether the run's model fits at the default size. Rows may ask for larger clips."""
    num_gpus = 1 if config.cluster.gpus_per_group == "auto" else config.cluster.gpus_per_group
    return _fit("this run", size, _clip_size(config.defaults), config.engine.options, num_gpus, machine)


def _packages(missing: list[str]) -> Finding:
    if missing:
        text = f"lacks {', '.join(missing)}: pip install 'lynx-batch[render]'"
        return Finding(subject="packages", text=text, level=Level.FAULT)
    return Finding(subject="packages", text="complete")


def _gpu(index: int, gpu: "Gpu") -> Iterator[Finding]:
    text = f"{gpu.name}, {gpu.free_bytes / GIB:.1f} of {gpu.total_bytes / GIB:.1f} GiB free"
    yield Finding(subject=f"GPU {index}", text=text)
    engines = [f"{name} needs {need}" if need else name for name, need in gpu.missing_needs.items()]
    yield Finding(subject=f"GPU {index} engine", text="; ".join(engines))


def _check_model(config: RunConfig) -> tuple[CheckedModel | None, Finding]:
    try:
        model = check_model(config)
        check_scorers(config.quality)
    except LynxError as error:
        return None, Finding(subject="model", text=str(error), level=Level.FAULT)
    text = f"complete, and its parts fit each other; face {_describe_pack(model.face_pack)}"
    return model, Finding(subject="model", text=text)


def _find_faces(faces: FacesConfig) -> str:
    pack = find_pack(faces.pack)
    if faces.identity != OWN_RECOGNISER:
        check_arcface(arcface_file(faces.identity))
    return _describe_pack(pack)


def _describe_pack(pack: FacePack) -> str:
    return f"pack {pack.name} in {pack.folder}, licence: {pack.licence}"


def _find_manifest(uri: str) -> str:
    if next(storage.list_files(uri), None) is None:
        raise ConfigError(f"manifest={storage.redact(uri)!r}: does not exist")
    return storage.redact(uri)


def _probe(output: str) -> str:
    probe_rights(output)
    probe_create_only(output)
    return f"{storage.redact(output)}: accepts everything that a run writes, including create-only puts"


def _check_marks(config: RunConfig) -> str:
    check_marks(config.provenance, [(config.defaults.width, config.defaults.height)])
    return "a clip of the default size can be marked"


def _check_revoked(config: RunConfig) -> str:
    num_listed = sum(len(read_revoked_list(uri)) for uri in config.provenance.revoked)
    return f"{counted(num_listed, 'entry', 'entries')} of people, consents and photos"


def _check_notify(config: RunConfig) -> str:
    require_prices(config)
    prices_of(config.cluster)
    targets = ", ".join(target.shown for target in open_targets(config.notify))
    return f"will notify {targets}" if targets else "complete"


def _check_node_types(config: RunConfig) -> str:
    require_autoscaler(config.cluster)
    require_prices(config)
    return "may come: " + ", ".join(f"{each.max_nodes} of {each}" for each in node_types_of(config.cluster))


def _check_approval(config: RunConfig, model: CheckedModel) -> Finding:
    """A missing approval is a note: a sample must be rendered before anything can be approved."""
    # It reads metadata, with packages that take a while to load.
    from lynx_batch.preparation.approval import describe_approvals, settings_of

    try:
        is_approved, text = describe_approvals(config, settings_of(config, model))
    except LynxError as error:
        return Finding(subject="approval", text=str(error), level=Level.FAULT)
    return Finding(subject="approval", text=text, level=Level.OK if is_approved else Level.NOTE)


def _tried(subject: str, look: Callable[[], str], level: Level = Level.FAULT) -> Finding:
    """The result of `look`, or its error as a finding of `level`."""
    try:
        return Finding(subject=subject, text=look())
    except LynxError as error:
        return Finding(subject=subject, text=str(error), level=level)


def _clip_size(defaults: DefaultsConfig) -> ClipSize:
    return ClipSize(
        width=defaults.width,
        height=defaults.height,
        num_frames=defaults.num_frames,
        num_branches=3 if defaults.guidance_scale > 1 else 1,
    )


def _fit(
    name: str, model: ModelSize, clip: ClipSize, engine: EngineOptions, num_gpus: int, machine: "Machine | None"
) -> Finding:
    plan = ParallelPlan.of_size(num_gpus)
    subject = f"{name}, {clip.num_frames} frames of {clip.width}x{clip.height}, {engine.precision}"
    needed = f"takes {_needs(plan_memory(model, clip, engine, plan))}"
    if machine is None or not machine.gpus:
        return Finding(subject=subject, text=needed, level=Level.NOTE)
    free_bytes = min(gpu.free_bytes for gpu in machine.gpus)
    fitting = smallest_change(model, clip, engine, free_bytes, plan)
    if fitting == engine:
        return Finding(subject=subject, text=f"fits: {needed}")
    if fitting is None:
        advice = "nor does any setting: a smaller or shorter clip, or more GPUs in a group (cluster.gpus_per_group)"
    else:
        offload = ", offload: blocks" if fitting.offload == "blocks" else ""
        needs = _needs(plan_memory(model, clip, fitting, plan))
        advice = f"engine: {{text_encoder: {fitting.text_encoder}{offload}}} takes {needs}"
    return Finding(subject=subject, text=f"does not fit: {needed}; {advice}", level=Level.FAULT)


def _needs(plan: MemoryPlan) -> str:
    host = f" and {plan.host_bytes / GIB:.1f} GiB of host memory a worker" if plan.host_bytes else ""
    return f"{(plan.peak_bytes + RESERVE_BYTES) / GIB:.1f} GiB of each GPU{host}"

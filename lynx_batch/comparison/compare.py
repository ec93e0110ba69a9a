"""Renders the same clips with several settings, and says what each setting saves and loses.

Each setting has an output location of its own, because not all that differs is part of a clip's name. Every row has a fixed seed, that of
the reference's clip. So a comparison that was interrupted goes on where it stopped.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from statistics import fmean

import pyarrow as pa

from lynx_batch import api, storage
from lynx_batch.clip import ClipSpec
from lynx_batch.columns import TEXTS
from lynx_batch.comparison.paired import Difference, difference
from lynx_batch.comparison.pictures import Lpips, PictureDistance, compare_videos
from lynx_batch.comparison.settings import OTHER_SEED, Changes, Comparison, Setting, layered
from lynx_batch.comparison.speed import speed, timed_rows
from lynx_batch.config import QualityConfig, RunConfig, load_run_config
from lynx_batch.errors import ConfigError, Permanent, RunStopped
from lynx_batch.intake.manifest import read_manifest, write_manifest
from lynx_batch.intake.schema import MANIFEST_SCHEMA, ROW
from lynx_batch.ledger.commits import CommitRecord
from lynx_batch.ledger.editions import list_editions
from lynx_batch.ledger.history import known_commits
from lynx_batch.ledger.tombstones import read_revoked
from lynx_batch.planning.revocation import Key
from lynx_batch.preparation.prepare import prepare
from lynx_batch.preparation.scorers import check_scorers
from lynx_batch.preparation.selection import Selection
from lynx_batch.rendering.unjudged import find_unjudged, judge_all
from lynx_model.parameters import MAX_SEED

LIKENESS, LIKENESS_P10, MOTION, PROMPT = "likeness_mean", "likeness_p10", "motion_mean", "prompt_mean"
SCORES = (LIKENESS, LIKENESS_P10, MOTION, PROMPT)
"""The scores that are compared, as far as a clip has them."""

NAMED_BY = ("subject_id", "clip_name", "prompt")

OF_NO_CAMPAIGN: Changes = {"quality": None, "notify": [], "approval.required": False}
"""What every setting has: nothing is judged before it counts, nobody is told, and nobody has to have approved it."""

CLAIMED = ("engine", "faces", "video", "provenance")
"""The sections of a run file that change clips, their times or their scores without being part of a clip's name, in whole or in part."""

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedCell:
    """The clips that a setting rendered, by row, with their scores. The time of those in `timed` counts."""

    setting: Setting
    output: str
    commits: Mapping[int, CommitRecord]
    timed: Set[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """What a setting costs and loses.

    Attributes:
        num_clips: Clips that both this setting and the reference rendered.
        gpu_s: Median over them of the GPU-seconds that a clip keeps its group busy. Clips that may have waited for the compiler are left out.
        times_faster: Median over them of how many times as many the reference needs.
        pictures: Mean distance from the reference's pictures; None for the reference, and where sizes differ.
        scores: Mean of each score.
        differences: How much higher each score is than the reference's.
    """

    setting: Setting
    output: str
    num_clips: int
    gpu_s: float
    times_faster: float
    pictures: PictureDistance | None
    scores: Mapping[str, float]
    differences: Mapping[str, Difference]

    @property
    def clips_per_gpu_hour(self) -> float:
        return HOUR_S / self.gpu_s


def compare(
    run_file: Path,
    comparison: Comparison,
    out: str,
    *,
    limit: int | None = None,
    lpips: Lpips | None = None,
    announce: Callable[[str], None] = print,
) -> tuple[list[RenderedCell], list[CellResult]]:
    """Renders and judges what is missing, then compares. The reference comes first; cells and results are in the same order.

    Args:
        run_file: What to render. Its quality gate only measures here.
        comparison: From `read_settings`.
        out: Where manifests and the settings' outputs are put.
        limit: Takes at most this many rows.
        lpips: A network that measures perceptual distances.
        announce: Gets each line about the progress.

    Raises:
        ConfigError: If a setting is impossible, or `out` holds a comparison of other clips. Nothing was rendered.
        RunStopped: If a setting's run stopped early.
        Permanent: If a setting renders no clip that the reference rendered, too.
    """
    settings = (comparison.reference, *comparison.settings)
    of_run = load_run_config(run_file, dict(comparison.reference.changes))
    quality = of_run.quality or QualityConfig()
    check_scorers(quality)
    wanted = load_run_config(run_file, layered(comparison.reference.changes, {**OF_NO_CAMPAIGN, "output": out}))
    manifests = _write_manifests(wanted, read_revoked(of_run.output), out, limit)
    configs = [_config_of(run_file, each, out, manifests[each.name == OTHER_SEED]) for each in settings]
    _refuse_idle_defaults(settings, configs)
    clips = [prepare(config, Selection(), datetime.now(UTC)).clips for config in configs]
    for setting, config in zip(settings, configs, strict=True):
        _claim(out, setting, config, quality)
    cells = []
    for setting, config, wanted_clips in zip(settings, configs, clips, strict=True):
        announce(f"{setting.name}: {storage.redact(config.output)}")
        cells.append(_render(setting, config, wanted_clips, quality, announce))
    return cells, [_measure(cell, cells[0], lpips) for cell in cells]


def titles_of(out: str) -> dict[int, str]:
    """What to call each row of a comparison."""
    table = read_manifest(_manifest_uri(out))
    names = [table[name].to_pylist() if name in table.column_names else [None] * table.num_rows for name in NAMED_BY]
    rows = zip(table[ROW].to_pylist(), *names, strict=True)
    return {row: ": ".join(filter(None, texts)) or f"row {row}" for row, *texts in rows}


def _manifest_uri(out: str) -> str:
    return storage.join(out, "manifest.parquet")


def _write_manifests(config: RunConfig, tombstones: frozenset[Key], out: str, limit: int | None) -> tuple[str, str]:
    """The manifest of all settings, and the same rows with other seeds."""
    prepared = prepare(config, Selection(limit=limit), datetime.now(UTC), tombstones=tombstones)
    if prepared.rejections or prepared.unreachable:
        first = (prepared.rejections or prepared.unreachable)[0]
        raise ConfigError(
            f"manifest row {first.row}: {first.error}; every row of a comparison must be one that can be rendered"
        )
    uris = _manifest_uri(out), storage.join(out, "manifest-other-seeds.parquet")
    for uri, shift in zip(uris, (0, 1), strict=True):
        table = _with_seeds(prepared.manifest, prepared.clips, shift)
        if storage.stat(uri) is None:
            write_manifest(table, uri)
        elif not read_manifest(uri).drop_columns([ROW]).equals(table):
            raise ConfigError(
                f"--out {storage.redact(out)}: must be empty or hold a comparison of the same clips; {storage.redact(uri)} differs"
            )
    return uris


def _refuse_idle_defaults(settings: Sequence[Setting], configs: Sequence[RunConfig]) -> None:
    """Raises ConfigError if a setting changes a default that no row takes."""
    manifest, reference = read_manifest(configs[0].manifest), configs[0].defaults.model_dump()
    filled = [name for name in manifest.column_names if manifest.num_rows and not manifest[name].null_count]
    for setting, config in zip(settings, configs, strict=True):
        own = config.defaults.model_dump()
        for name in filled:
            if name in own and own[name] != reference[name]:
                rule = "must not be changed, because every row of the manifest has a value of its own"
                raise ConfigError(f"setting {setting.name!r}: defaults.{name}={own[name]!r}: {rule}")


def _claim(out: str, setting: Setting, config: RunConfig, quality: QualityConfig) -> None:
    """Notes how the clips of a setting are rendered and judged, as far as their names do not say it.

    Raises:
        ConfigError: If clips that are there were rendered or judged in another way.
    """
    uri = storage.join(out, "claims", f"{setting.folder}.json")
    said = {name: storage.redact_all(getattr(config, name).model_dump(mode="json")) for name in CLAIMED}
    said |= {"cluster.gpus_per_group": config.cluster.gpus_per_group, "quality.num_frames": quality.num_frames}
    said |= quality.scorer_files
    content = json.dumps(said, indent=1, sort_keys=True).encode()
    if storage.create_only(uri, content):
        return
    before = json.loads(storage.read_bytes(uri))
    if other := next((name for name in said if before.get(name) != json.loads(content)[name]), None):
        rule = f"must be as in {storage.redact(uri)}, by which its clips were made; choose another name of the setting or --out"
        raise ConfigError(f"setting {setting.name!r}: {other}: {rule}")


def _with_seeds(manifest: pa.Table, clips: Sequence[ClipSpec], shift: int) -> pa.Table:
    """The rows with the seeds of their clips, `shift` higher, and absolute photos."""
    seeds = [(clip.params.seed + shift) % (MAX_SEED + 1) for clip in clips]
    columns = {
        **{name: manifest[name] for name in manifest.column_names if name != ROW},
        "seed": pa.array(seeds, MANIFEST_SCHEMA.field("seed").type),
        "subject_uri": pa.nulls(len(clips), pa.string()),
        "subject_uris": pa.array([clip.request.subject_uris for clip in clips], TEXTS),
    }
    return pa.table({name: columns[name] for name in MANIFEST_SCHEMA.names if name in columns})


def _config_of(run_file: Path, setting: Setting, out: str, manifest: str) -> RunConfig:
    """Raises ConfigError that names the setting."""
    own = {**OF_NO_CAMPAIGN, "manifest": manifest, "output": storage.join(out, setting.folder)}
    try:
        return load_run_config(run_file, layered(setting.changes, own))
    except ConfigError as error:
        raise ConfigError(f"setting {setting.name!r}: {error}") from error


def _render(
    setting: Setting,
    config: RunConfig,
    clips: Sequence[ClipSpec],
    quality: QualityConfig,
    announce: Callable[[str], None],
) -> RenderedCell:
    wanted = {clip.clip_id for clip in clips}
    missing = wanted - list_editions(config.output).in_force.keys()
    unrecorded = wanted & find_unjudged(config.output).left_out.keys()  # committed, but without a row in the metadata
    if missing or unrecorded:
        summary = api.render(config, announce=announce)
        if summary.stopped_by:
            raise RunStopped(f"setting {setting.name!r}: {summary.stopped_by}; run the same command again to go on")
    backlog = find_unjudged(config.output)
    for clip_id, fault in chain(backlog.left_out.items(), judge_all(config.output, backlog.clips, quality)):
        if fault is not None:
            announce(f"{setting.name}: clip {clip_id} could not be judged: {fault}")
    rows = {clip.clip_id: clip.request.row for clip in clips}
    in_force = {clip_id: n for clip_id, n in list_editions(config.output).in_force.items() if clip_id in rows}
    found = {rows[commit.clip_id]: commit for commit in known_commits(config.output, in_force)}
    return RenderedCell(setting=setting, output=config.output, commits=found, timed=timed_rows(config.output, found))


def _measure(cell: RenderedCell, reference: RenderedCell, lpips: Lpips | None) -> CellResult:
    shared = sorted(cell.commits.keys() & reference.commits.keys())
    if not shared:
        raise Permanent(
            f"setting {cell.setting.name!r}: rendered no clip that the reference rendered, too; see {storage.redact(cell.output)}"
        )
    own, other = _scores(cell, reference, shared), _scores(reference, cell, shared)
    is_reference = cell is reference
    timed = [row for row in shared if row in cell.timed & reference.timed] or shared
    gpu_s, times_faster = speed([cell.commits[row] for row in timed], [reference.commits[row] for row in timed])
    return CellResult(
        setting=cell.setting,
        output=cell.output,
        num_clips=len(shared),
        gpu_s=gpu_s,
        times_faster=times_faster,
        pictures=None if is_reference else _mean_distance(_compare_pictures(cell, reference, shared, lpips)),
        scores={name: fmean(values) for name, values in own.items()},
        differences={} if is_reference else {n: d for n in own if (d := difference(own[n], other[n]))},
    )


def _scores(cell: RenderedCell, other: RenderedCell, rows: Sequence[int]) -> dict[str, list[float]]:
    """The cell's values of each score, of the rows for which both cells have it."""
    both = {name: [row for row in rows if all(name in c.commits[row].scores for c in (cell, other))] for name in SCORES}
    return {name: [cell.commits[row].scores[name] for row in found] for name, found in both.items() if found}


def _compare_pictures(
    cell: RenderedCell, reference: RenderedCell, rows: Sequence[int], lpips: Lpips | None
) -> Iterator[PictureDistance]:
    for row in rows:
        own, other = (storage.read_bytes(storage.join(c.output, c.commits[row].clip_uri)) for c in (cell, reference))
        if (distance := compare_videos(own, other, lpips)) is not None:
            yield distance


def _mean_distance(found: Iterable[PictureDistance]) -> PictureDistance | None:
    distances = list(found)
    if not distances:
        return None
    perceived = [distance.lpips for distance in distances if distance.lpips is not None]
    return PictureDistance(
        psnr_db=fmean(distance.psnr_db for distance in distances),
        ssim=fmean(distance.ssim for distance in distances),
        lpips=fmean(perceived) if perceived else None,
    )

"""The commands `render` and `plan` as functions, and the metadata of runs. Ray and other heavy packages are imported when they are called."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_batch.config import RunConfig, load_run_config
from lynx_batch.preparation.selection import Selection

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

    from lynx_batch.execution.progress import Progress
    from lynx_batch.execution.run import RunSummary
    from lynx_batch.preparation.forecast import RunForecast
    from lynx_batch.preparation.origin import Origin

EVERY_ROW = Selection()


def render(
    run: RunConfig | Path | str,
    selection: Selection = EVERY_ROW,
    *,
    is_unsafe_allowed: bool = False,
    announce: Callable[[str], None] = print,
    watch: "Callable[[Progress], None]" = lambda progress: None,
    run_id: str | None = None,
    origin: "Origin | None" = None,
) -> "RunSummary":
    """Renders every row of the manifest that is not committed yet.

    Args:
        run: A run file, or a config that `load_run_config` returned.
        selection: The rows to take.
        is_unsafe_allowed: Accepts a store that ignores create-only puts. Never run two drivers then.
        announce: Gets each line that the command would print before it starts.
        watch: Gets the progress, about twice a second.
        run_id: The run's id; None makes a new one.
        origin: Where the manifest and the photos of a submitted job came from.

    Raises:
        Permanent: If the run file, manifest, model, store or cluster is unfit. No clip was rendered.
        StoreUnavailable: If the store cannot be reached at the start, or for minutes at the end.
    """
    from lynx_batch.execution.ray_environment import configure_ray

    configure_ray()

    from lynx_batch.execution import run as runs

    return runs.render(
        _loaded(run),
        selection,
        is_unsafe_allowed=is_unsafe_allowed,
        announce=announce,
        watch=watch,
        run_id=run_id,
        origin=origin,
    )


def plan(
    run: RunConfig | Path | str, gpus: str | Sequence[str] | None = None, selection: Selection = EVERY_ROW
) -> "RunForecast":
    """Predicts what `render` would do on a cluster. Writes nothing.

    Args:
        run: A run file, or a config that `load_run_config` returned.
        gpus: One or several pools of GPUs, such as "64xH100@2.5" (USD per GPU-hour). None takes the nodes that may come by
            `cluster.node_types`, or "8xH200" if there are none.
        selection: The rows to take.

    Raises:
        Permanent: If the run file, manifest, model or `gpus` is unfit.
    """
    from lynx_batch.preparation.forecast import forecast_run
    from lynx_batch.preparation.node_types import nodes_to_plan_on

    config, pools = _loaded(run), [gpus] if isinstance(gpus, str) else gpus
    return forecast_run(config, selection, nodes_to_plan_on(config.cluster, pools), datetime.now(UTC))


def read_metadata(
    output: str | Path, columns: list[str] | None = None, only: "pc.Expression | None" = None, *, latest: bool = False
) -> "pa.Table":
    """All runs' metadata as one table, with a column `run`. An active run has the rows that ended so far.

    Args:
        output: The output location.
        columns: The columns to read; None means all.
        only: Filters the rows; None keeps all.
        latest: Gives only the newest row of each clip, and rows without a clip that no newer run replaced.

    Damaged and foreign files are named in a warning and left out. Where no run has written, the table is empty.

    Raises:
        ConfigError: If there is no such column.
    """
    from lynx_batch.ledger.metadata import check_columns
    from lynx_batch.ledger.metadata import read_metadata as read_rows
    from lynx_batch.ledger.order import newest_rows

    if not latest:
        return read_rows(output, columns, only)
    check_columns(columns or ())
    rows = newest_rows(str(output))
    rows = rows if only is None else rows.filter(only)
    return rows if columns is None else rows.select(columns)


def _loaded(run: RunConfig | Path | str) -> RunConfig:
    return run if isinstance(run, RunConfig) else load_run_config(Path(run), {})

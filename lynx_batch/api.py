"""The commands `render` and `plan` as functions. Ray and other heavy packages are imported only when they are called."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lynx_batch.config import RunConfig, load_run_config

if TYPE_CHECKING:
    from lynx_batch.execution.driver import Progress
    from lynx_batch.execution.run import RunSummary
    from lynx_batch.preparation.forecast import RunForecast
    from lynx_batch.preparation.origin import Origin


def render(
    run: RunConfig | Path | str,
    *,
    where: str | None = None,
    limit: int | None = None,
    allow_invalid: bool = False,
    allow_duplicates: bool = False,
    is_unsafe_allowed: bool = False,
    announce: Callable[[str], None] = print,
    watch: "Callable[[Progress], None]" = lambda progress: None,
    run_id: str | None = None,
    origin: "Origin | None" = None,
) -> "RunSummary":
    """Renders every row of the manifest that is not committed yet.

    Args:
        run: A run file, or what `load_run_config` made of one.
        where: Takes only the rows for which this expression holds, such as "priority > 3".
        limit: Takes at most this many rows.
        allow_invalid: Rejects bad rows instead of stopping.
        allow_duplicates: Renders rows that ask for the same clip once.
        is_unsafe_allowed: Accepts a store that ignores create-only puts. Then never run two drivers on it.
        announce: Gets each line that the command would print before it starts.
        watch: Gets the progress, about twice a second.
        run_id: The run's id; None makes a new one.
        origin: Where the manifest and the photos of a submitted job come from.

    Raises:
        Permanent: If the run file, manifest, model, store or cluster is unusable. No clip was rendered.
        StoreUnavailable: If the store cannot be reached at the start, or for minutes at the end.
    """
    from lynx_batch.execution.ray_environment import settle_ray

    settle_ray()

    from lynx_batch.execution.run import render as run_render
    from lynx_batch.preparation.prepare import Selection

    return run_render(
        _loaded(run),
        Selection(where=where, limit=limit, allow_invalid=allow_invalid, allow_duplicates=allow_duplicates),
        is_unsafe_allowed=is_unsafe_allowed,
        announce=announce,
        watch=watch,
        run_id=run_id,
        origin=origin,
    )


def plan(
    run: RunConfig | Path | str,
    gpus: str | Sequence[str] = "8xH200",
    *,
    where: str | None = None,
    limit: int | None = None,
    allow_invalid: bool = False,
    allow_duplicates: bool = False,
) -> "RunForecast":
    """Predicts what `render` would do on a cluster of `gpus`: "64xH100@2.5" (USD per GPU-hour), or several such. Writes nothing.

    The other arguments are those of `render`.

    Raises:
        Permanent: If the run file, manifest, model or `gpus` is unusable.
    """
    from lynx_batch.planning.layout import parse_nodes
    from lynx_batch.preparation.forecast import forecast_run
    from lynx_batch.preparation.prepare import Selection

    selection = Selection(where=where, limit=limit, allow_invalid=allow_invalid, allow_duplicates=allow_duplicates)
    return forecast_run(
        _loaded(run), selection, parse_nodes([gpus] if isinstance(gpus, str) else gpus), datetime.now(UTC)
    )


def _loaded(run: RunConfig | Path | str) -> RunConfig:
    return run if isinstance(run, RunConfig) else load_run_config(Path(run), {})

"""How a run ends: what stopped it, and its last records, which are written however it ends."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from lynx_batch.errors import HeadLost, LimitReached, StoreRefused, StoreUnready, TooManyFaults
from lynx_batch.interrupts import held

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What stopped a run early, and whether that was the store or a limit. The fields are those of `RunSummary`."""

    stopped_by: str
    is_refused: bool
    is_limited: bool


Close = Callable[[str, StoreRefused | None], str]
"""(what stopped the run, the store's refusal if that did) -> what stopped it in the end. Writes the run's last records."""


def carry_out(render_open: Callable[[], None], close: Close, outage: str) -> Ending:
    """Calls `render_open` and closes the run's records, however that ends.

    An `outage` of a photo host counts as having stopped the run, so that the user runs it again.
    """
    refusal: StoreRefused | None = None
    stopped_by, is_limited = "an error", False
    try:
        render_open()
        stopped_by = outage
    except KeyboardInterrupt:
        stopped_by = "interrupted"
    except (HeadLost, TooManyFaults) as cause:
        stopped_by = str(cause)
    except LimitReached as cause:
        stopped_by, is_limited = str(cause), True
    except StoreRefused as cause:
        stopped_by, refusal = str(cause), cause
    finally:
        with held():
            stopped_by, refusal = _close(close, stopped_by, refusal)
    is_refused = refusal is not None and not isinstance(refusal, StoreUnready)
    return Ending(stopped_by=stopped_by, is_refused=is_refused, is_limited=is_limited and refusal is None)


def _close(close: Close, stopped_by: str, refusal: StoreRefused | None) -> tuple[str, StoreRefused | None]:
    """Closes the run's records. If the store refuses them, that stopped the run too; the commits still record every clip."""
    try:
        return close(stopped_by, refusal), refusal
    except StoreRefused as error:
        log.warning("metadata_unwritten", error=str(error))
        return str(error), error

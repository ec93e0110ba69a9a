"""Which editions a run is to render, and with which of a clip's seeds each of them starts."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial

from lynx_batch import storage
from lynx_batch.clip import ClipSpec
from lynx_batch.config import QualityConfig
from lynx_batch.errors import MissingObject, UnreadableRecord
from lynx_batch.ledger.commits import read_commit
from lynx_batch.ledger.editions import Editions, list_editions
from lynx_batch.ledger.records import NUM_PARALLEL_READS
from lynx_batch.outage import retry_while_unavailable
from lynx_batch.output import TryName, parse_try, redo_uri, tries_uri
from lynx_batch.planning.verdict import is_seed_fixed


def editions_for(output: str, clips: Iterable[ClipSpec], quality: QualityConfig | None) -> Editions:
    """The editions as a run with these clips and rules sees them: it renders no other seed for a row that gives its own."""
    fixed = {clip.clip_id for clip in clips if is_seed_fixed(clip.request.is_seed_given, quality)}
    return list_editions(output).without_redo(fixed)


def first_numbers(
    output: str, clips: Iterable[ClipSpec], editions: Editions, quality: QualityConfig | None
) -> dict[str, int]:
    """The number of the first try of each clip's wanted edition, where that is not the clip's first edition."""
    later = [clip for clip in clips if editions.wanted(clip.clip_id) > 1]
    with ThreadPoolExecutor(NUM_PARALLEL_READS, thread_name_prefix="tries") as pool:
        numbers = pool.map(lambda c: first_number(output, c, editions.wanted(c.clip_id), quality), later)
        return {clip.clip_id: number for clip, number in zip(later, numbers, strict=True)}


def first_number(output: str, clip: ClipSpec, edition: int, quality: QualityConfig | None) -> int:
    """The number of the first try of an edition.

    An edition that replaces a withdrawn commit starts with the seed of that one, which was good. A redo starts with the first seed
    that no earlier edition has, so that it repeats no picture.
    """
    if edition == 1:
        return 0
    committed = _last_committed_number(output, clip.clip_id, edition)
    uri = redo_uri(output, clip.clip_id, edition)
    is_redo = retry_while_unavailable(lambda: storage.stat(uri)) is not None
    if not is_redo or is_seed_fixed(clip.request.is_seed_given, quality):
        return committed
    tried = [name.number for name in list_tries(tries_uri(output, clip.clip_id)) if name.edition < edition]
    return 1 + max([committed, *tried])


def _last_committed_number(output: str, clip_id: str, before: int) -> int:
    """Which seed the last committed edition has; 0 if nobody can tell. A commit without a try has number 0."""
    for edition in range(before - 1, 0, -1):
        with suppress(MissingObject, UnreadableRecord):
            return retry_while_unavailable(partial(read_commit, output, clip_id, edition)).try_number
    return 0


def list_tries(folder: str) -> list[TryName]:
    """The recorded tries below `tries`, or below a clip's folder in it, by their names."""
    listed = retry_while_unavailable(lambda: list(storage.list_files(folder)))
    return [name for file in listed if (name := parse_try(file.uri))]

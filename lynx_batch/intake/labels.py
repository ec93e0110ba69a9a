"""People's labels of clips, from a CSV file: which tries are good and which are bad."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lynx_batch.errors import ConfigError
from lynx_batch.intake.problems import list_faults, shorten
from lynx_batch.intake.text_files import read_text
from lynx_batch.planning.calibration import ScoredTry
from lynx_batch.storage import redact

COLUMNS = ("clip_id", "label", "number")
"""`number` may be missing or empty: then the clip's committed try is meant, or its only one."""

WORDS = {"good": True, "bad": False}


@dataclass(frozen=True, slots=True)
class _Clips:
    """The tries of the newest judged edition of each clip, by number."""

    tries: Mapping[str, Mapping[int, ScoredTry]]

    @classmethod
    def of(cls, tries: Sequence[ScoredTry]) -> "_Clips":
        newest = {each.clip_id: each.edition for each in sorted(tries, key=lambda each: each.edition)}
        found: dict[str, dict[int, ScoredTry]] = {clip_id: {} for clip_id in newest}
        for each in tries:
            if each.edition == newest[each.clip_id]:
                found[each.clip_id][each.judged.number] = each
        return cls(found)

    def find(self, clip_id: str, number: str) -> ScoredTry:
        """Raises ValueError with the value and its rule."""
        tries = self.tries.get(clip_id)
        if tries is None:
            raise ValueError(f"clip_id={shorten(clip_id)}: must be a clip that was judged")
        if not number:
            return self._only(clip_id, tries)
        if not (number.isascii() and number.isdigit() and int(number) in tries):
            known = ", ".join(map(str, sorted(tries)))
            raise ValueError(f"number={shorten(number)}: must be a judged try of clip {clip_id}, which has {known}")
        return tries[int(number)]

    def _only(self, clip_id: str, tries: Mapping[int, ScoredTry]) -> ScoredTry:
        chosen = [each for each in tries.values() if each.is_committed] or [*tries.values()]
        if len(chosen) > 1:
            known = ", ".join(map(str, sorted(tries)))
            raise ValueError(f"number='': must say which of the tries {known} of clip {clip_id}; none is committed")
        return chosen[0]


def read_labels(uri: str, tries: Sequence[ScoredTry]) -> list[tuple[ScoredTry, bool]]:
    """Each labelled try, and whether it is good.

    Raises:
        ConfigError: If the file is no such CSV, names a clip or try that was not judged or one twice, or lacks one of the two labels;
            the message names line, value and rule of every fault.
    """
    source, clips = f"--labels {redact(uri)}", _Clips.of(tries)
    labels: dict[tuple[str, int], tuple[ScoredTry, bool]] = {}
    lines: dict[tuple[str, int], int] = {}
    faults = []
    for line, cells in _read_cells(read_text(uri).content, source):
        try:
            labelled = clips.find(cells["clip_id"], cells.get("number", ""))
            is_good = _read_label(cells["label"])
        except ValueError as rule:
            faults.append(f"line {line}: {rule}")
            continue
        key = labelled.clip_id, labelled.judged.number
        if key in lines:
            faults.append(
                f"line {line}: number={key[1]} of clip {key[0]}: must be labelled once, but line {lines[key]} does, too"
            )
        lines.setdefault(key, line)
        labels[key] = labelled, is_good
    if not faults:
        given = {is_good for _, is_good in labels.values()}
        faults = [f"label: must be {word!r} at least once" for word, is_good in WORDS.items() if is_good not in given]
    if faults:
        raise ConfigError(list_faults(source, faults))
    return [*labels.values()]


def _read_label(word: str) -> bool:
    if word.lower() not in WORDS:
        raise ValueError(f"label={shorten(word)}: must be good or bad")
    return WORDS[word.lower()]


def _read_cells(text: str, source: str) -> list[tuple[int, dict[str, str]]]:
    """The number and the cells of each line below the names of the columns. Empty lines are left out."""
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, restval="")
    try:
        names = [name.strip() for name in reader.fieldnames or ()]
        missing, unknown = {"clip_id", "label"} - {*names}, {*names} - {*COLUMNS}
        if missing or unknown or len({*names}) < len(names):
            raise ConfigError(
                f"{source}: line 1: columns {', '.join(names)}: must be clip_id, label and, if wanted, number"
            )
        reader.fieldnames = names
        rows = [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        raise ConfigError(f"{source}: line {reader.reader.line_num}: must be CSV ({error})") from error
    if long := [line for line, cells in rows if None in cells]:
        raise ConfigError(f"{source}: line {long[0]}: must have {len(names)} cells, as line 1 has")
    return [(line, {name: cell.strip() for name, cell in cells.items()}) for line, cells in rows]

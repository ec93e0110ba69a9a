"""What a scorer is: something that measures one kind of score of a clip, and says which files it measures with."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

from lynx_model.checkpoints.digests import digest_files
from lynx_model.scoring.clip import JudgedClip

Scores = TypeVar("Scores", covariant=True)


class Scorer(Protocol[Scores]):
    """Measures a clip. Scores are plain numbers in a frozen dataclass; whether they are good enough is decided elsewhere."""

    @property
    def name(self) -> str:
        """Names the method, and with `files` all that the scores depend on."""

    @property
    def files(self) -> Mapping[str, str]:
        """The sha256 of each file that it measures with, by name; empty if there is none."""

    def score(self, clip: JudgedClip, /) -> Scores: ...


def hash_scorer_files(files: Iterable[Path]) -> dict[str, str]:
    """The sha256 of each file, by its name. Hashes are cached on this machine.

    Raises:
        MissingFile: If a file cannot be read.
    """
    return {file.name: digest_files(file.parent, [file.name])[file.name].sha256 for file in files}

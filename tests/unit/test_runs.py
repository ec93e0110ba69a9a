"""The names of runs."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from lynx_batch import storage
from lynx_batch.errors import ConfigError
from lynx_batch.ledger.runs import claim_run_id, new_run_id


def test_a_run_may_have_a_name_of_its_own(tmp_path: Path) -> None:
    for run_id in ("campaign-7", new_run_id(datetime.now(UTC))):
        assert claim_run_id(str(tmp_path), run_id) == run_id


@pytest.mark.parametrize("run_id", ["taken", "", "..", "a/b", "a b", "ä"])
def test_a_run_never_has_the_name_of_another_or_one_that_is_no_folders(tmp_path: Path, run_id: str) -> None:
    storage.write_bytes(str(tmp_path / "runs" / "taken" / "run.yaml"), b"")
    with pytest.raises(ConfigError, match="--run-id"):
        claim_run_id(str(tmp_path), run_id)

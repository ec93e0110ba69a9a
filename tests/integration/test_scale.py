"""What each row and each clip costs, at a scale that tests can afford. `make scale` measures the true one."""

from pathlib import Path

import pytest

from tests.scale import MIB, make_manifest, measure

pytestmark = pytest.mark.slow

FEW, MANY = 2000, 8000
"""Below 2,000 rows, memory still grows that is taken once: 11 MiB in `plan` between 1,000 and 2,000."""
BOUNDS = {"check": (400e-6, 6_000), "plan": (900e-6, 6_000), "resume": (2500e-6, 30_000)}
"""Seconds of a processor and bytes for each row: about three times what a quiet machine takes, because shared processors are slower.

`resume` writes a report, which shows all rows of a run that is so small.
"""

NUM_CLIPS = 2000
MAX_GCS_MIB, MAX_DRIVER_MIB = 25, 600


@pytest.mark.parametrize("command", BOUNDS)
def test_a_row_costs_little_time_and_memory(command: str, tmp_path: Path, face_pack: Path) -> None:
    few, many = (measure(command, make_manifest(tmp_path, rows, face_pack), rows) for rows in (FEW, MANY))
    assert (few.exit_code, many.exit_code) == (0, 0), (tmp_path / f"{command}.log").read_text()
    max_cpu_s, max_bytes = BOUNDS[command]
    assert (many.cpu_s - few.cpu_s) / (MANY - FEW) < max_cpu_s
    assert (many.mib["driver"] - few.mib["driver"]) * MIB / (MANY - FEW) < max_bytes


@pytest.mark.ray
def test_a_clip_leaves_nothing_in_ray_and_little_in_the_driver(tmp_path: Path, face_pack: Path) -> None:
    """With Ray's task events, the GCS would grow by 14 kB a clip."""
    measured = measure("render", make_manifest(tmp_path, NUM_CLIPS, face_pack), NUM_CLIPS)
    assert measured.exit_code == 0, (tmp_path / "render.log").read_text()
    assert measured.grown_mib["gcs"] < MAX_GCS_MIB
    assert measured.mib["driver"] < MAX_DRIVER_MIB

"""The benchmark, on a model small enough for a CPU."""

import pytest
import torch

from lynx_batch.cli.bench import _table
from lynx_model.bench import BenchCase, bench_forward

TINY = BenchCase(num_blocks=2, num_heads=2, head_dim=12, ff_width=32, text_size=8, width=32, height=32, num_frames=5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_row_is_measured_and_renders_the_same() -> None:
    report = bench_forward(TINY, device=torch.device("cpu"), num_runs=2)
    assert [m.name for m in report.measurements] == ["eager, attention sdpa", "compiled, attention sdpa"]
    assert all(m.ms > 0 and m.error < 0.05 for m in report.measurements)
    assert report.num_tokens == 8
    assert report.floor_ms > 0
    assert _table(report).row_count == 3

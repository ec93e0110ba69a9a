"""Loading holds little more in host memory than the page cache, however large the checkpoint is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

MIB = 2**20
NUM_SHARDS, SHARD_BYTES, WIDTH = 3, 512 * MIB, 4096
MAX_EXTRA_BYTES = 256 * MIB

LOAD = """
import sys, threading, time
from pathlib import Path
import torch
from accelerate import init_empty_weights
from lynx_model.weights import _Destination

def anonymous_kib():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

with init_empty_weights():
    model = torch.nn.ModuleList(torch.nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(NUM_LAYERS))
before, highest, is_done = anonymous_kib(), 0, threading.Event()

def watch():
    global highest
    while not is_done.wait(0.002):
        highest = max(highest, anonymous_kib())

watcher = threading.Thread(target=watch)
watcher.start()
_Destination(torch.device("cpu"), torch.bfloat16).fill(model, Path(sys.argv[1]))
total = sum(float(layer.weight.sum()) for layer in model)  # touches every page
is_done.set()
watcher.join()
print(highest - before)
"""


def write_checkpoint(folder: Path, dtype: torch.dtype) -> int:
    """Writes layers in shards of 0.5 GiB; how many layers."""
    weight_map = {}
    per_shard = SHARD_BYTES // (WIDTH * WIDTH * dtype.itemsize)
    for shard in range(NUM_SHARDS):
        names = [f"{shard * per_shard + layer}.weight" for layer in range(per_shard)]
        file = f"model-{shard}.safetensors"
        save_file({name: torch.ones(WIDTH, WIDTH, dtype=dtype) for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return len(weight_map)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_loading_as_bfloat16_holds_the_model_and_a_few_tensors_at_most(tmp_path: Path, dtype: torch.dtype) -> None:
    num_layers = write_checkpoint(tmp_path, dtype)
    program = f"WIDTH, NUM_LAYERS = {WIDTH}, {num_layers}\n{LOAD}"
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    cast_bytes = 0 if dtype is torch.bfloat16 else num_layers * WIDTH * WIDTH * 2
    held_bytes = int(done.stdout) * 1024
    assert held_bytes - cast_bytes < MAX_EXTRA_BYTES, (
        f"{held_bytes / MIB:.0f} MiB, {cast_bytes / MIB:.0f} of it the model"
    )
